"""conda's version expressions, normalised as text.

An expression is clauses joined by ``,`` (and) and ``|`` (or, binding weaker), with parentheses. The normal form has
no spaces; every clause has an operator or ends in ``.*``; the parts of each ``,`` and each ``|`` are sorted, and each
stands once; ``*`` (any version) is left out of ``,``; parentheses stand only around a ``|`` within a ``,``. Versions
are in lower case, as conda compares them.

How far it goes: spellings of one clause become one (``=3.10``, ``=3.10.*``, ``3.10.*``, ``3.10*`` and, alone,
``==3.10.*`` are ``3.10.*``; a bare ``3.10`` is ``==3.10``; ``>=3.10.*`` is ``>=3.10``). Versions that merely compare
equal stay apart (``1.0`` and ``1.0.0``, ``1.0-1`` and ``1.0_1``), and so do expressions that merely accept the same
versions (``>=1,>=2`` and ``>=2``).

Refused, where conda and rattler disagree or neither reads it: ``>1.0.*``, ``~=1.0.*``, an inner ``*``, regular
expressions, ``=>``, ``===``, clauses without a comma between them.

Sources: conda's documentation of MatchSpec and of version ordering; the behaviour of conda's and rattler's parsers.
"""

from __future__ import annotations

import re

from envmgr.spec.problems import Refusal, shown

ANY = "*"
MAX_NESTING = 8
_LITERAL = re.compile(r"[0-9A-Za-z_.!+*-]+")
_VERSION = re.compile(r"(?:[0-9]{1,9}!)?[0-9a-z]+(?:[._-][0-9a-z]+)*_?(?:\+[0-9a-z]+(?:[._-][0-9a-z]+)*)?")
_OPERATOR = re.compile(r"[=!<>~]+")
_OPERATORS = ("==", "=", "!=", ">=", "<=", ">", "<", "~=")
_MEANT = {
    "=>": ">=",
    "=<": "<=",
    "===": "==",
    "=>=": ">=",
    "=<=": "<=",
    "===>": ">=",
    "=!": "!=",
    "<>": "!=",
    "~": "~=",
}
_MEANT |= {
    "==>": ">=",
    "=!=": "!=",
    "=~=": "~=",
    "=~": "~=",
    "=>>": ">",
    "!": "!=",
    "!==": "!=",
    ">==": ">=",
    "<==": "<=",
}
_MEANT |= {"==>=": ">=", "==<=": "<=", "==<": "<=", "===<": "<=", "~==": "~=", "=<>": "!="}
_LONG_NUMBER = re.compile(r"[0-9]{19}")


class VersionReader:
    """Reads one expression from the start of a text; afterwards `end` is where it ended."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.end = 0
        self.clauses = 0
        self.has_double_equals_star = False

    def read(self, depth: int = 0) -> str:
        """Return the normal form; raise `Refusal`."""
        alternatives = set(self._conjunction(depth))
        while self._skip("|"):
            alternatives.update(self._conjunction(depth))
        return ANY if ANY in alternatives else "|".join(sorted(alternatives))

    def _conjunction(self, depth: int) -> list[str]:
        """Return the alternatives that a conjunction amounts to: one, except for a parenthesis standing alone."""
        parts = set(self._parts(depth))
        while self._skip(","):
            parts.update(self._parts(depth))
        parts.discard(ANY)
        if not parts:
            return [ANY]
        if len(parts) == 1:
            return _alternatives(parts.pop())
        return [",".join(sorted(f"({part})" if len(_alternatives(part)) > 1 else part for part in parts))]

    def _parts(self, depth: int) -> list[str]:
        """Return the members of a conjunction that a clause or a parenthesis amounts to."""
        if not self._skip("("):
            return [self._clause()]
        if depth >= MAX_NESTING:
            raise Refusal(f"more than {MAX_NESTING} parentheses within each other in a version")
        inner = self.read(depth + 1)
        if not self._skip(")"):
            raise Refusal("a parenthesis in the version is not closed")
        return [inner] if len(_alternatives(inner)) > 1 else _split(inner, ",")

    def _skip(self, char: str) -> bool:
        rest = self._text[self.end :]
        bare = rest.lstrip(" ")
        if not bare.startswith(char):
            return False
        self.end += len(rest) - len(bare) + 1
        return True

    def _clause(self) -> str:
        self.clauses += 1
        self._skip_spaces()
        operator = ""
        if match := _OPERATOR.match(self._text, self.end):
            operator = match.group()
            self.end = match.end()
            self._skip_spaces()
        if operator and operator not in _OPERATORS:
            meant = _MEANT.get(operator)
            hint = f"write '{meant}'" if meant else f"one of {' '.join(_OPERATORS)}"
            raise Refusal(f"'{operator}' is not an operator", hint)
        literal = _LITERAL.match(self._text, self.end)
        if literal is None:
            raise self._no_version(operator)
        self.end = literal.end()
        if operator == "==" and literal.group().endswith("*"):
            self.has_double_equals_star = True
        return clause(operator, literal.group().lower())

    def _skip_spaces(self) -> None:
        while self._text[self.end : self.end + 1] == " ":
            self.end += 1

    def _no_version(self, operator: str) -> Refusal:
        rest = self._text[self.end :]
        if rest.startswith("^"):
            return Refusal("a regular expression is not read as a version", "write bounds such as '>=1.0,<2'")
        if rest.startswith(("$", "{")):
            return Refusal(f"{shown(rest)} is not a version: it looks like a template", "fill it in first")
        after = f" after {operator!r}" if operator else ""
        return Refusal(f"a version is missing{after}" + (f" before {shown(rest)}" if rest else ""))


def clause(operator: str, literal: str) -> str:
    """Return the normal form of one clause, its version in lower case already."""
    if literal == ANY:
        if operator in ("", "=", "==", ">="):
            return ANY
        raise Refusal(f"'{operator}*' excludes every version")
    version, is_prefix = literal, False
    if literal.endswith("*"):
        version, is_prefix = literal[:-1].removesuffix("."), True
    if "*" in version:
        raise Refusal(f"'*' is read only at the end of a version, not in {shown(literal)}", "write bounds instead")
    _check(version, literal)
    if not is_prefix:
        return f"{version}.*" if operator == "=" else f"{operator or '=='}{version}"
    if operator in ("", "=", "=="):
        return f"{version}.*"
    if operator == "!=":
        return f"!={version}.*"
    if operator in (">=", "<", "<="):
        return f"{operator}{version}"
    raise Refusal(f"'{operator}' does not go with '*' in {shown(operator + literal)}", f"write {operator}{version}")


def _check(version: str, literal: str) -> None:
    if not _VERSION.fullmatch(version) or _LONG_NUMBER.search(version):
        raise Refusal(f"{shown(literal)} is not a version of conda's")
    release = version.partition("+")[0].rstrip("_")
    if "-" in release and "_" in release:
        raise Refusal(f"the version {shown(literal)} mixes '-' and '_'")


def _alternatives(expression: str) -> list[str]:
    return _split(expression, "|")


def _split(expression: str, mark: str) -> list[str]:
    """Split a normal form at `mark` outside parentheses."""
    parts, depth, last = [], 0, 0
    for index, char in enumerate(expression):
        depth += (char == "(") - (char == ")")
        if char == mark and depth == 0:
            parts.append(expression[last:index])
            last = index + 1
    return [*parts, expression[last:]]
