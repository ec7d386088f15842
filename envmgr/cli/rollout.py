"""Waiting for the hosts of a cluster, and how that is shown: a live table on a terminal, else a line for each change.

Whom it waits for, and when it is done or has failed, `envmgr.cluster.rollout` says.
"""

# ruff: noqa: PLC0415 - Rich, where there is a terminal; a clock, where somebody waits

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from envmgr.cli import output
from envmgr.cluster import rollout
from envmgr.errors import CoordinatorUnavailable, DaemonUnavailable, RolloutFailed, TimedOut
from envmgr.events import counted

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from envmgr.cluster.rollout import Bound, Summary
    from envmgr.ports import Watching
    from envmgr.wire.cluster import DeclaredEnvironment, Row
    from envmgr.wire.tree import Selector

PATIENCE_S = 60.0
_PAUSE_S = 0.5
_SHOWN_ROWS = 40
_FIRST = {"failed": 0, "building": 1, "removing": 2, "waiting": 3, "pending": 4}
HEADER = ("HOST", "STATE", "PROGRESS", "TIME", "MESSAGE")


# ---------------------------------------------------------------------------------------------------------- the answer


def record(found: DeclaredEnvironment) -> Mapping[str, object]:
    """Return a declared environment for ``--json``: its own keys, and how many of its hosts there are of each kind."""
    return {**dataclasses.asdict(found), "summary": dataclasses.asdict(rollout.summary(found))}


def words(now: Summary) -> str:
    """Return one line on how far it is."""
    parts = [f"{now.ready} of {counted(now.hosts, 'host')} done"]
    for number, what in (
        (now.failed, "failed"),
        (now.building, "building"),
        (now.waiting, "waiting"),
        (now.cordoned, "cordoned"),
        (now.away, "away"),
    ):
        parts += [f"{number} {what}"] if number else []
    return ", ".join(parts)


def meant(selector: Selector) -> str:
    """Return in words which hosts are meant."""
    words = [f"{key}={value}" for key, value in sorted(selector.labels.items())]
    if selector.hosts:
        words.insert(0, f"the hosts {', '.join(selector.hosts)}")
    return " with ".join(words) or "every host"


def cells(row: Row, now: float) -> tuple[str, str, str, str, str]:
    """Return the cells of a row under `HEADER`."""
    state = row.state + ("" if row.is_live else ", away") + (", cordoned" if row.is_cordoned else "")
    progress = row.phase or "" if row.success is None else ""
    if progress and row.percent is not None:
        progress = f"{progress} {row.percent} %"
    end = row.end if row.end is not None else now
    took = "" if row.start is None else f"{max(0.0, end - row.start):.0f} s"
    message = row.message or ""
    if row.success is False and row.code is not None:
        message = f"{row.code}: {message}{output.not_before(row.retry_at, now)}"
    return row.host, state + (", drifted" if row.is_drift else ""), progress, took, message


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return what is worth a look first: failures, then what is done now, then the rest, by host."""
    return sorted(rows, key=lambda row: (_FIRST.get(row.state, 5), row.host))


# ------------------------------------------------------------------------------------------------------------- to wait


def wait(
    watching: Watching,
    show: Show,
    *,
    state: str | None = None,
    min_ready: Bound | None = None,
    timeout_s: float | None = None,
) -> DeclaredEnvironment:
    """Wait as `envmgr.cluster.rollout.wait` does, and show it; the field ``rows`` of its errors has every row.

    ZooKeeper, or the daemon, may be away for `PATIENCE_S`.
    """
    from envmgr.manager.context import SystemClock

    seen: list[Row] = []

    def look(found: DeclaredEnvironment, now: Summary) -> None:
        seen[:] = found.rows
        show.rows(found.rows, now)

    patient = _Patient(watching, PATIENCE_S if timeout_s is None else min(PATIENCE_S, timeout_s), show.unanswered)
    try:
        return rollout.wait(
            patient, clock=SystemClock(), state=state, min_ready=min_ready, timeout_s=timeout_s, on_look=look
        )
    except (RolloutFailed, TimedOut) as error:
        error.fields["rows"] = [dataclasses.asdict(row) for row in seen]
        raise


class _Patient:
    """Looks at an environment; where nobody answers, it tells the last look for a while, or waits for the first.

    `on_silence` is told what is wrong, once until there is an answer again: a minute without a word looks like a hang.
    """

    def __init__(self, watching: Watching, patience_s: float, on_silence: Callable[[str], None]) -> None:
        self._watching = watching
        self._patience_s = patience_s
        self._on_silence = on_silence
        self._is_silent = False
        self._last: DeclaredEnvironment | None = None
        self._at = time.monotonic()

    def show(self) -> DeclaredEnvironment:
        while True:
            try:
                self._last = self._watching.show()
                self._at = time.monotonic()
                self._is_silent = False
            except (CoordinatorUnavailable, DaemonUnavailable) as error:
                if time.monotonic() - self._at > self._patience_s:
                    raise
                if not self._is_silent:
                    self._is_silent = True
                    self._on_silence(f"{error.message}; asked again for up to {self._patience_s:g} s")
            if self._last is not None:
                return self._last
            time.sleep(_PAUSE_S)

    def wait(self, timeout_s: float) -> None:
        try:
            self._watching.wait(timeout_s)
        except (CoordinatorUnavailable, DaemonUnavailable):
            time.sleep(min(timeout_s, _PAUSE_S))


# ------------------------------------------------------------------------------------------------------------- to show


class Show:
    """Shows rows as they change; this one shows nothing. `has_progress`: also how far each build is."""

    has_progress = False

    def rows(self, rows: Sequence[Row], summary: Summary) -> None:
        """Hear how it is now."""

    def unanswered(self, words: str) -> None:
        """Hear that nobody tells how it is at present."""


class _Lines(Show):
    """A line when a host begins and when it ends, and when something keeps one that lives from either."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, bool]] = {}
        self._problems: dict[str, str] = {}

    def rows(self, rows: Sequence[Row], summary: Summary) -> None:  # noqa: ARG002 - a line says one thing
        now = time.time()
        for row in rows:
            state = (row.state, row.success is None)
            is_kept = row.success is None and row.is_live and not row.is_cordoned and row.message is not None
            is_told = not is_kept or self._problems.get(row.host) == row.message
            if self._states.get(row.host, ("pending", True)) != state or not is_told:
                self._states[row.host] = state
                if is_kept:
                    self._problems[row.host] = row.message or ""
                _, words_of, progress, took, message = cells(row, now)
                facts = [progress, took, message]
                output.say(f"envmgr: {row.host}: {words_of}" + "".join(f", {fact}" for fact in facts if fact))

    def unanswered(self, words: str) -> None:
        output.say(f"envmgr: {words}")


class _Drawn(Show):
    """A table that is drawn again and again; of many hosts, those that are worth a look."""

    has_progress = True

    def __init__(self) -> None:
        self._live: Live | None = None

    def rows(self, rows: Sequence[Row], summary: Summary) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False)
            self._live.start()
        height = self._live.console.size.height
        self._live.update(_table(rows, summary, min(_SHOWN_ROWS, max(5, height - 6))), refresh=True)

    def unanswered(self, words: str) -> None:
        if self._live is None:
            output.say(f"envmgr: {words}")
        else:  # above the table
            self._live.console.print(f"envmgr: {output.one_line(words)}", markup=False)

    def stop(self) -> None:
        """Leave what was drawn last."""
        if self._live is not None:
            self._live.stop()


def _table(rows: Sequence[Row], summary: Summary, most: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    now = time.time()
    shown = ordered(rows)
    more = f" (and {len(shown) - most} hosts that are not shown)" if len(shown) > most else ""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"{words(summary)}{more}", caption_justify="left")
    for title in HEADER:
        table.add_column(title, overflow="fold", no_wrap=title in ("STATE", "PROGRESS", "TIME"))
    for row in shown[:most]:
        table.add_row(*(Text(output.one_line(cell)) for cell in cells(row, now)))
    return table


@contextlib.contextmanager
def showing(*, is_quiet: bool) -> Iterator[Show]:
    """Give what shows rows on standard error for the length of the block, and leave the last state there."""
    if is_quiet:
        yield Show()
    elif sys.stderr.isatty():
        drawn = _Drawn()
        try:
            yield drawn
        finally:
            drawn.stop()
    else:
        yield _Lines()
