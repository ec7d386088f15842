"""PEP 508 markers, normalised as text.

The normal form has single spaces, variables by their present names (``sys.platform`` is ``sys_platform``), values in
double quotes (single ones where the value has a double quote), and only the parentheses that are needed. The order of
what ``and`` and ``or`` join is kept.

Source: PEP 508 and its successor, "Dependency specifiers" of the Python packaging specifications.
"""

from __future__ import annotations

import re

from envmgr.spec.problems import Refusal, shown

MAX_NESTING = 8
_VARIABLES = (
    "python_version",
    "python_full_version",
    "os_name",
    "sys_platform",
    "platform_release",
    "platform_system",
    "platform_version",
    "platform_machine",
    "platform_python_implementation",
    "implementation_name",
    "implementation_version",
    "extra",
)
_OLD_NAMES = {
    "os.name": "os_name",
    "sys.platform": "sys_platform",
    "platform.version": "platform_version",
    "platform.machine": "platform_machine",
    "platform.python_implementation": "platform_python_implementation",
    "python_implementation": "platform_python_implementation",
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[()])|(?P<value>'[^']*'|"[^"]*")|(?P<operator>===|==|~=|!=|<=|>=|<|>)|(?P<word>[A-Za-z_.]+))"""
)


def marker(text: str) -> str:
    """Return the normal form of a marker; raise `Refusal`."""
    reader = _Reader(text)
    found = reader.any_of(0)
    if reader.token is not None:
        raise Refusal(f"the marker {shown(text)} has {shown(reader.token[1])} too much")
    return found


class _Reader:
    """A recursive reader of one marker; `token` is the next kind and text, None at the end."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._index = 0
        self.token: tuple[str, str] | None = None
        self._has_variable = False
        self._advance()

    def any_of(self, depth: int) -> str:
        parts = self._all_of(depth)
        found = [parts]
        while self._take_word("or"):
            found.append(self._all_of(depth))
        return " or ".join(found)

    def _all_of(self, depth: int) -> str:
        found = [self._one(depth)]
        while self._take_word("and"):
            found.append(self._one(depth))
        if len(found) == 1:
            return found[0]
        return " and ".join(f"({part})" if _has_or(part) else part for part in found)

    def _one(self, depth: int) -> str:
        if self.token != ("mark", "("):
            return self._comparison()
        if depth >= MAX_NESTING:
            raise Refusal(f"a marker with more than {MAX_NESTING} parentheses within each other")
        self._advance()
        inner = self.any_of(depth + 1)
        if self.token != ("mark", ")"):
            raise Refusal(f"a parenthesis in the marker {shown(self._text)} is not closed")
        self._advance()
        return inner

    def _comparison(self) -> str:
        self._has_variable = False
        left = self._operand()
        operator = self._operator()
        right = self._operand()
        if not self._has_variable:
            raise Refusal(f"the marker {shown(self._text)} compares two constants")
        return f"{left} {operator} {right}"

    def _operand(self) -> str:
        kind, text = self.token or ("end", "")
        self._advance()
        if kind == "value":
            inner = text[1:-1]
            return f"'{inner}'" if '"' in inner else f'"{inner}"'
        name = _OLD_NAMES.get(text, text)
        if kind == "word" and name in _VARIABLES:
            self._has_variable = True
            return name
        hint = "values stand in quotes" if kind == "word" else None
        raise Refusal(f"the marker {shown(self._text)} has {shown(text)} where a variable or a value belongs", hint)

    def _operator(self) -> str:
        kind, text = self.token or ("end", "")
        self._advance()
        if kind == "operator" or (kind, text) == ("word", "in"):
            return text
        if (kind, text) == ("word", "not") and self._take_word("in"):
            return "not in"
        raise Refusal(f"the marker {shown(self._text)} has {shown(text)} where an operator belongs")

    def _take_word(self, word: str) -> bool:
        if self.token != ("word", word):
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        rest = self._text[self._index :].strip()
        match = _TOKEN.match(self._text, self._index)
        if match is None and rest:
            raise Refusal(
                f"the marker {shown(self._text)} is not readable from {shown(rest)} on", "values stand in quotes"
            )
        self.token = None
        if match is not None:
            self._index = match.end()
            self.token = (str(match.lastgroup), str(match.group(str(match.lastgroup))))


def _has_or(text: str) -> bool:
    """Tell whether a normal form is a disjunction: an ``or`` outside quotes and parentheses."""
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += (match.group("mark") == "(") - (match.group("mark") == ")")
        if depth == 0 and match.group("word") == "or":
            return True
    return False
