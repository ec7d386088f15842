"""Who waits for the hosts of the cluster through this daemon: what was read of the hosts is kept from look to look.

So each look reads the hosts that have said something new and no others, as one does that is made straight on ZooKeeper
(`envmgr.cluster.reading.Watcher`); without that, thousands of hosts would be read again with each look. A waiter is
told apart by a word of its own, so nobody gets what another one began to read earlier.

Kept: the `MOST` that looked last, each until all its hosts are decided, or for `KEPT_S` (until somebody looks again). A
waiter that is not kept any more is read for anew: nothing is lost but the time.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envmgr.errors import CoordinatorUnavailable

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.ports import Administration, Clock, Watching
    from envmgr.wire.cluster import DeclaredEnvironment

MOST = 16
KEPT_S = 60.0


@dataclass(slots=True)
class _Kept:
    """What one waiter looks at; `lock` is held for the length of a look."""

    looked_at: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    watching: Watching | None = None


class Waiters:
    """See the module; any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, EnvName], _Kept] = {}

    def look(self, waiter: str, name: EnvName, administration: Administration) -> DeclaredEnvironment:
        """Return an environment as it is now; raises as `Administration.show`."""
        key, now = (waiter, name), self._clock.monotonic()
        with self._lock:
            kept = self._kept.pop(key, None) or _Kept(now)
            kept.looked_at = now
            self._kept[key] = kept  # at the end: the first is the one that looked longest ago
            gone = [it for it, other in self._kept.items() if other.looked_at < now - KEPT_S]
            for it in [*gone, *[*self._kept][: max(0, len(self._kept) - MOST)]]:
                self._kept.pop(it, None)
        with kept.lock:
            try:
                if kept.watching is None:
                    kept.watching = kept.held.enter_context(administration.watching(name, has_progress=True))
                found = kept.watching.show()
            except CoordinatorUnavailable:
                raise  # what was answered is kept for the next look, which may need only the rest
            except BaseException:
                self._drop(key, kept)
                raise
            if all(row.success is not None for row in found.rows):
                self._drop(key, kept)
        return found

    def _drop(self, key: tuple[str, EnvName], kept: _Kept) -> None:
        with self._lock:
            if self._kept.get(key) is kept:
                del self._kept[key]
        kept.held.close()
        kept.watching = None
