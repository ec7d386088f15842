"""What the daemon does for its store without being asked, in one thread.

=========  =============================================================================================================
recover    once, as it starts: what a killed daemon left
sample     each minute: who uses which environment, since readers cannot write that down themselves
reclaim    when woken (something was removed or replaced under its users), and each minute; again every `LEASED_S` while
           a lease keeps builds that no name leads to, every `BUSY_S` while something else does; at rest not at all
collect    each ``gc_interval_s``, first a few minutes after the start; and soon when a build found no space
=========  =============================================================================================================

At rest that is a few directory listings and one look at /proc/locks a minute. A job that fails is told to the observer
and tried again at its next time; the thread goes on. Settings are read anew from the manager each time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from envmgr.errors import Cancelled

if TYPE_CHECKING:
    from envmgr.manager.collection import Collected, Reclaimed
    from envmgr.manager.manager import Manager
    from envmgr.names import BuildId, EnvName
    from envmgr.ports import Clock

MINUTE_S = 60.0
LEASED_S = 2.0
BUSY_S = 30.0
FIRST_COLLECTION_S = 300.0
LEAST_BETWEEN_COLLECTIONS_S = 60.0


class Observer(Protocol):
    """Who wants to know what was done; called in the housekeeping's thread."""

    def collected(self, found: tuple[Collected, ...], duration_s: float) -> None:
        """Hear of the end of a collection, whether it found something or not."""

    def reclaimed(self, builds: tuple[BuildId, ...]) -> None:
        """Hear of builds whose files went after their last user; never empty."""

    def failed(self, job: str, error: Exception) -> None:
        """Hear of a job that could not be done now."""


class Housekeeping:
    """See the module. `protected` names the environments that the cluster wants here."""

    def __init__(
        self,
        manager_of: Callable[[], Manager],
        clock: Clock,
        observer: Observer,
        *,
        protected: Callable[[], Collection[EnvName]] = tuple,
    ) -> None:
        self._manager_of = manager_of
        self._clock = clock
        self._observer = observer
        self._protected = protected
        self._woken = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._began_at = clock.monotonic()
        self._collected_at = -math.inf
        self._minute_at = self._reclaim_at = self._began_at
        self._collect_at = math.inf

    # ------------------------------------------------------------------------------------------------ from any thread

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Let the thread end, a collection between two things; tell whether it has within the time."""
        with self._woken:
            self._stopping.set()
            self._woken.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def wake(self) -> None:
        """Look for builds to reclaim: something was removed or replaced that may have users."""
        with self._woken:
            self._reclaim_at = self._clock.monotonic()
            self._woken.notify_all()

    def collect_soon(self) -> None:
        """Collect as soon as the last collection is a minute ago: a build found no space."""
        with self._woken:
            soon = max(self._clock.monotonic(), self._collected_at + LEAST_BETWEEN_COLLECTIONS_S)
            self._collect_at = min(self._collect_at, soon)
            self._woken.notify_all()

    # ------------------------------------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        self._do("recover", lambda manager: self._plan_reclaim(manager.recover()))
        while not self._stopping.is_set():
            self.turn()
            with self._woken:
                pause_s = self._next_at() - self._clock.monotonic()
                if pause_s > 0 and not self._stopping.is_set():
                    self._woken.wait(pause_s)

    def _next_at(self) -> float:
        return min(self._minute_at, self._reclaim_at, self._collect_at)

    def turn(self) -> float:
        """Do all that is due now; return when the next is, by the clock's `monotonic`."""
        now = self._clock.monotonic()
        if now >= self._minute_at:
            self._minute_at = now + MINUTE_S
            self._do("sample", lambda manager: manager.sample_use())
            self._do("collect", self._plan_collection)
        if now >= self._reclaim_at:
            self._reclaim_at = now + MINUTE_S  # before the look: whoever wakes us during it wants another one
            self._do("reclaim", lambda manager: self._plan_reclaim(manager.reclaim()))
        if now >= self._collect_at:
            self._collect_at = math.inf
            self._collected_at = now
            self._do("collect", self._collect)
        with self._woken:
            return self._next_at()

    def _do(self, job: str, work: Callable[[Manager], object]) -> None:
        try:
            work(self._manager_of())
        except Cancelled:
            return  # by `stop`
        except Exception as error:  # noqa: BLE001 - whatever it was, the daemon and the other jobs go on
            self._observer.failed(job, error)

    def _plan_reclaim(self, reclaimed: Reclaimed) -> None:
        pause_s = LEASED_S if reclaimed.leased else BUSY_S if reclaimed.busy else MINUTE_S
        with self._woken:
            self._reclaim_at = min(self._reclaim_at, self._clock.monotonic() + pause_s)
        if reclaimed.gone:
            self._observer.reclaimed(reclaimed.gone)

    def _plan_collection(self, manager: Manager) -> None:
        interval_s = manager.context.settings.gc_interval_s
        if interval_s > 0:
            due_at = max(self._began_at + FIRST_COLLECTION_S, self._collected_at + interval_s)
            with self._woken:
                self._collect_at = min(self._collect_at, max(due_at, self._clock.monotonic()))

    def _collect(self, manager: Manager) -> None:
        began = self._clock.monotonic()
        found = manager.collect(protected=self._protected(), is_cancelled=self._stopping.is_set)
        self._observer.collected(found, self._clock.monotonic() - began)
