"""The journal of one operation: numbered entries that any number of readers follow, each at its own pace.

Numbers begin with 1 and have no gaps; an entry's number never changes. The journal is bounded, and a reader who asks
for entries that are no longer kept is told where they were and how many (``lost``), exactly. What is kept:

* every change of state, and the end;
* of what is reported: begins and ends of phases, warnings and log lines, and of the progress inside one phase one entry
  in `PROGRESS_PAUSE_S` (the rest gets no number at all, so that nobody misses it);
* of each message, the first `MAX_MESSAGE_CHARS`: the lines of a log are as long as some package's script makes them,
  and every reader gets a copy;
* at most `MAX_ENTRIES`. When there are more, the oldest progress goes first, then the oldest log lines, then whatever
  is oldest, so that a reader who comes late to a big build still hears of all its phases;
* of an operation that ended a while ago (`trim`): changes of state, warnings and the end.

Not for use by several threads at once: whoever owns it holds a lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Literal, NamedTuple

from envmgr.events import Event, Phase

MAX_ENTRIES = 2000
MAX_MESSAGE_CHARS = 4000
PROGRESS_PAUSE_S = 0.2
_FREED_AT_ONCE = MAX_ENTRIES // 10

EntryKind = Literal["progress", "state", "end", "lost"]


class JournalEntry(NamedTuple):
    """One entry: `data` is what `envmgr.wire.socket` says of its `event`; of a ``lost`` it is ``{"count": …}``.

    The number of a ``lost`` entry is that of the last one that it stands for, so that a reader resumes behind it.
    """

    id: int
    event: EntryKind
    data: dict[str, object]


class Journal:
    """See the module."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._entries: list[JournalEntry] = []
        self._last = 0
        self._progress_at: dict[Phase, float] = {}

    def add(self, event: EntryKind, data: dict[str, object]) -> None:
        """Append an entry."""
        self._last += 1
        self._entries.append(JournalEntry(self._last, event, data))
        if len(self._entries) > MAX_ENTRIES:
            self._free()

    def report(self, event: Event) -> bool:
        """Append what an operation reports, and tell whether it was: not every progress is, see the module."""
        if event.kind == "progress":
            now = self._monotonic()
            before = self._progress_at.get(event.phase)
            if before is not None and now - before < PROGRESS_PAUSE_S:
                return False
            self._progress_at[event.phase] = now
        data = event.to_json()
        if len(event.message) > MAX_MESSAGE_CHARS:
            data["message"] = f"{event.message[:MAX_MESSAGE_CHARS]}…"
        self.add("progress", data)
        return True

    def since(self, event_id: int) -> tuple[JournalEntry, ...]:
        """Return what came behind this number (0: everything), with a ``lost`` for each gap."""
        before = max(event_id, 0)
        found = []
        for entry in self._entries[bisect.bisect_right(self._entries, before, key=_number) :]:
            if entry.id > before + 1:
                found.append(JournalEntry(entry.id - 1, "lost", {"count": entry.id - 1 - before}))
            found.append(entry)
            before = entry.id
        return tuple(found)

    def trim(self) -> None:
        """Keep what is worth knowing of an operation that ended a while ago."""
        self._entries = [
            entry for entry in self._entries if entry.event != "progress" or entry.data["kind"] == "warning"
        ]

    def _free(self) -> None:
        # Some at once: otherwise each entry of a long log would cost a walk through all of them.
        for is_spare in (_is_progress, _is_log, _is_any):
            spare = [entry for entry in self._entries[:-1] if is_spare(entry)][:_FREED_AT_ONCE]
            if spare:
                gone = {entry.id for entry in spare}
                self._entries = [entry for entry in self._entries if entry.id not in gone]
                return


def _number(entry: JournalEntry) -> int:
    return entry.id


def _is_progress(entry: JournalEntry) -> bool:
    return entry.event == "progress" and entry.data["kind"] == "progress"


def _is_log(entry: JournalEntry) -> bool:
    return entry.event == "progress" and entry.data["kind"] == "log"


def _is_any(entry: JournalEntry) -> bool:
    return entry.event != "state"
