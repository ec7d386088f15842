"""Progress on standard error: Rich bars on a terminal, else one plain line when a phase begins.

Rich is imported only where there is a terminal and something to show.
"""

# ruff: noqa: PLC0415 - Rich, where there is a terminal

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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
        bars = _Bars(is_debug=is_debug)
        try:
            yield bars.report
        finally:
            bars.stop()
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


class _Bars:
    """Bars on a terminal, from the first event on: an environment that is there draws nothing and loads no Rich."""

    def __init__(self, *, is_debug: bool) -> None:
        self._is_debug = is_debug
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def report(self, event: Event) -> None:
        progress = self._started()
        if event.kind == "begin":
            self._task(progress, event)
        elif event.kind == "progress":
            task = self._task(progress, event)
            progress.update(task, total=event.total or None, completed=event.done, amount=amount_of(event))
        elif event.kind == "end":
            if event.phase in self._tasks:
                progress.remove_task(self._tasks.pop(event.phase))
        elif event.kind == "warning":
            self._print(progress, f"envmgr: warning: {event.message}")
        elif self._is_debug:
            self._print(progress, event.message)

    def stop(self) -> None:
        """Clear what was drawn."""
        if self._progress is not None:
            self._progress.stop()

    def _started(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeElapsedColumn(),
                console=Console(stderr=True, highlight=False),
                transient=True,
            )
            self._progress.start()
        return self._progress

    def _task(self, progress: Progress, event: Event) -> TaskID:
        if event.phase not in self._tasks:
            self._tasks[event.phase] = progress.add_task(output.one_line(_words(event)), total=None, amount="")
        return self._tasks[event.phase]

    def _print(self, progress: Progress, text: str) -> None:
        progress.console.print(output.printable(text), markup=False, highlight=False)


def amount_of(event: Event) -> str:
    """Return how far a phase is, in its unit."""
    if event.unit == "bytes":
        return f"{output.size(event.done)}/{output.size(event.total)}" if event.total else output.size(event.done)
    return f"{event.done}/{event.total} {event.unit}".rstrip() if event.total else f"{event.done} {event.unit}".rstrip()
