"""What was found while a document was read: problems, which refuse it, and warnings, which do not.

A normaliser that meets text it cannot read raises `Refusal`; whoever knows the place of the text in the document turns
that into a problem and reads on, so that one report names everything that is wrong.
"""

from __future__ import annotations

import re

from envmgr.errors import InvalidSpec
from envmgr.model import Problem

SHOWN_CHARS = 120
_CREDENTIALS = re.compile(r"(?<=://)[^\s/]*@|(?<=/t/)[^\s/]+")


class Refusal(Exception):
    """A piece of text is not acceptable; says why, and what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Findings:
    """The problems and warnings of one document, in any order until they are asked for."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.has_credentials = False
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def problem(self, line: int, column: int, message: str, hint: str | None = None) -> None:
        """Note something that refuses the document."""
        self._problems.append(Problem(line, column, message, hint))

    def refusal(self, line: int, column: int, refusal: Refusal) -> None:
        """Note a `Refusal` that was raised for the text at this place."""
        self.problem(line, column, refusal.message, refusal.hint)

    def warn(self, line: int, column: int, message: str, hint: str | None = None) -> None:
        """Note something that the author should know, but that refuses nothing."""
        self._warnings.append(Problem(line, column, message, hint))

    def warnings(self) -> tuple[Problem, ...]:
        """Return the warnings by position."""
        return _by_position(self._warnings)

    def raise_if_any(self) -> None:
        """Raise `InvalidSpec` with every problem by position, if there is one."""
        if not self._problems:
            return
        problems = _by_position(self._problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        first = problems[0]
        where = f"line {first.line}, column {first.column}: " if first.line else ""
        raise InvalidSpec(f"{self.source}: {where}{first.message}{more}", problems, hint=first.hint)


def _by_position(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda it: (it.line, it.column)))


def shown(text: str) -> str:
    """Return `text` quoted for a message: printable, on one line, of bounded length, without credentials of URLs."""
    text = _CREDENTIALS.sub("", text)
    clipped = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
    return "'" + "".join(char if char.isprintable() else ascii(char)[1:-1] for char in clipped) + "'"


def closest(text: str, known: tuple[str, ...]) -> str | None:
    """Return the one of `known` that `text` probably means, if any: one edit, or two in words of eight letters or more.

    An edit adds, drops or changes one character or swaps two neighbours. Kept here, and not taken from a library,
    because it decides between an error and a warning.
    """
    text = text.lower().replace("_", "-")
    near = [(_edits(text, word), word) for word in known if abs(len(text) - len(word)) <= 2]
    allowed = [(edits, word) for edits, word in near if edits <= (2 if len(word) >= 8 else 1)]
    return min(allowed, key=lambda it: it[0])[1] if allowed else None


def _edits(text: str, known: str) -> int:
    before: list[int] = []
    row = list(range(len(known) + 1))
    for i, char in enumerate(text, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(known, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == known[j - 2] and text[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
