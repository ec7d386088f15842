"""Progress on standard error: Rich bars on a terminal, else one plain line when a phase begins.

Rich is imported only where there is a terminal.
"""

# ruff: noqa: PLC0415 - Rich, where there is a terminal

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.cli import output

if TYPE_CHECKING:
    from envmgr.events import Event, Reporter

_WORDS = {
    "wait": "waiting",
    "sweep": "clearing leftovers",
    "solve": "solving",
    "fetch": "downloading packages",
    "unpack": "unpacking",
    "link": "linking packages",
    "pip-lock": "solving the pip section",
    "pip": "installing the pip section",
    "activation": "capturing activation",
    "compile": "compiling byte-code",
    "check": "checking",
    "sync": "writing to disk",
    "publish": "publishing",
}


@contextlib.contextmanager
def reporter(*, is_quiet: bool, is_debug: bool = False) -> Iterator[Reporter]:
    """Give a reporter that shows what happens for the length of the block; with `is_debug` the build's log, too."""
    if is_quiet:
        yield lambda _event: None
    elif sys.stderr.isatty():
        with _bars(is_debug=is_debug) as report:
            yield report
    else:
        yield lambda event: _plain(event, is_debug=is_debug)


def _plain(event: Event, *, is_debug: bool) -> None:
    if event.kind == "begin":
        output.say(f"envmgr: {_words(event)}")
    elif event.kind == "warning":
        output.say(f"envmgr: warning: {event.message}")
    elif event.kind == "log" and is_debug:
        output.say(event.message)


def _words(event: Event) -> str:
    words = _WORDS.get(event.phase, event.phase)
    if event.message.startswith(words):
        return event.message
    return f"{words}: {event.message}" if event.message else words


@contextlib.contextmanager
def _bars(*, is_debug: bool) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.text import Text

    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]}", markup=False), TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False), transient=True,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}

    def task_of(event: Event) -> TaskID:
        if event.phase not in tasks:
            tasks[event.phase] = progress.add_task(output.one_line(_words(event)), total=None, amount="")
        return tasks[event.phase]

    def report(event: Event) -> None:
        if event.kind == "begin":
            task_of(event)
        elif event.kind == "progress":
            progress.update(task_of(event), total=event.total or None, completed=event.done, amount=amount_of(event))
        elif event.kind == "end":
            task = tasks.pop(event.phase, None)
            if task is not None:
                progress.remove_task(task)
        elif event.kind == "warning":
            progress.console.print(Text(output.printable(f"warning: {event.message}")))
        elif is_debug:
            progress.console.print(Text(output.printable(event.message)))

    with progress:
        yield report


def amount_of(event: Event) -> str:
    """Return how far a phase is, in its unit."""
    if event.unit == "bytes":
        return f"{output.size(event.done)}/{output.size(event.total)}" if event.total else output.size(event.done)
    return f"{event.done}/{event.total} {event.unit}".rstrip() if event.total else f"{event.done} {event.unit}".rstrip()
