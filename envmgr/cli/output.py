"""Where things go: the one answer to standard output, words to standard error, tables in either dress.

An answer is written once, whole. Control characters in what others named (labels, commands of processes, files) never
reach a terminal: they are shown as Python writes them.

Rich is imported only where a terminal shows a table (0.08 s that a pipe does not owe).
"""

# ruff: noqa: PLC0415 - Rich, where a terminal shows a table

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from envmgr.errors import EnvmgrError
from envmgr.events import counted, sized

if TYPE_CHECKING:
    from envmgr.model import Problem

Row = Sequence[str]


def printable(text: str) -> str:
    """Return `text` with every control character but the line feed escaped."""
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def one_line(text: str) -> str:
    """Return `text` printable and on one line."""
    return printable(text).replace("\n", "\\n")


def write_record(document: Mapping[str, object]) -> None:
    """Write one JSON record and a line feed to standard output; ASCII only, so that no locale can break it."""
    write_text(json.dumps(document))


def write_text(text: str) -> None:
    """Write data to standard output, ended by a line feed unless it is empty.

    Raises `BrokenPipeError` where nobody reads any more, `EnvmgrError` where it cannot be written for another reason:
    an answer that did not arrive is no success.
    """
    try:
        sys.stdout.write(text if not text or text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvmgrError(f"cannot write to standard output: {error.strerror}") from error


def say(text: str) -> None:
    """Write words for people to standard error; that nobody reads them any more is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def write_table(header: Row, rows: Sequence[Row]) -> None:
    """Write a table to standard output: drawn on a terminal, else aligned columns with two spaces between."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(header, rows)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))
    write_text("\n".join(lines))


def _draw(header: Row, rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(header):
        table.add_column(title, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


def write_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Write aligned lines ``key: value`` to standard output; of several values each has its line."""
    width = max(len(key) for key, _ in facts) + 1
    write_text("\n".join(f"{key + ':':<{width}} {one_line(text)}".rstrip() for key, text in facts))


# ------------------------------------------------------------------------------------------------- people's notation


def size(size_bytes: int | None) -> str:
    """Return a size as people read it, ``-`` for one that is not known."""
    return "-" if size_bytes is None else sized(size_bytes)


def moment(at: float | None) -> str:
    """Return a time as RFC 3339 in UTC."""
    try:
        return "-" if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    except (OverflowError, ValueError, OSError):  # another host may say anything
        return "-"


def not_before(at: float | None, now: float) -> str:
    """Return what to add to a failure that is not tried again before a time to come, or nothing."""
    return "" if at is None or at <= now else f" (not tried again before {moment(at)})"


def age(at: float | None, now: float) -> str:
    """Return how long ago a time was, such as ``3 days ago``."""
    if at is None:
        return "-"
    seconds = max(0.0, now - at)
    for unit, length in (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def value(found: object) -> str:
    """Return a JSON value on one line; text without quotes."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------------- errors


def place(source: str, problem: Problem) -> str:
    """Return ``FILE:line:column`` of a problem, as far as it has a place."""
    return f"{source}:{problem.line}:{problem.column}" if problem.line else source


def problem_line(source: str, problem: Problem, kind: str = "") -> str:
    """Return one line for one problem of a document."""
    return f"{place(source, problem)}: {kind}{problem.message}" + (f" ({problem.hint})" if problem.hint else "")


def error_text(error: EnvmgrError) -> str:
    """Return an error for people: every problem of a document on a line of its own, else the message; then the hint."""
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if problems and "source" not in error.fields:
        lines = [f"envmgr: {error.message}", *(f"  {problem}" for problem in problems)]
    elif problems:
        source = str(error.fields["source"])
        lines = [problem_line(source, problem) for problem in problems]
        lines.append(f"envmgr: {source} is no valid document: {counted(len(problems), 'problem')}")
    else:
        lines = [f"envmgr: {error.message}"]
    if error.hint and error.hint not in [problem.hint for problem in problems]:
        lines.append(f"hint: {error.hint}")
    return "\n".join(lines)
