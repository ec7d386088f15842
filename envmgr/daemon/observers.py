"""Who hears of what happens in the daemon: its log, its metrics, and the housekeeping, which it may give work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from envmgr.errors import EnvmgrError, NoSpace

if TYPE_CHECKING:
    from envmgr.daemon.housekeeping import Housekeeping
    from envmgr.daemon.logs import Log
    from envmgr.daemon.metrics import Metrics
    from envmgr.manager.collection import Collected
    from envmgr.model import Caller
    from envmgr.names import BuildId

_LEAVES_BUILDS = frozenset({"remove", "relock", "repair"})
"""Changes after which a build may have users but no name."""
_log = logging.getLogger(__name__)


class Observers:
    """Hears of everything once, from any thread; `housekeeping` is set when there is one."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self.housekeeping: Housekeeping | None = None
        self._told = log
        self._metrics = metrics

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        """Hear of a change that ended or was refused."""
        self._told.changed(caller, what, name, outcome, duration_s, **facts)
        self._metrics.changed(caller, what, name, outcome, duration_s, **facts)
        if self.housekeeping is None:
            return
        if what in _LEAVES_BUILDS and outcome == "succeeded":
            self.housekeeping.wake()
        if facts.get("code") == NoSpace.code:
            self.housekeeping.collect_soon()

    def collected(self, found: tuple[Collected, ...], duration_s: float) -> None:
        """Hear of the end of a collection of the daemon's own."""
        for thing in found:
            self._told.event("collected", path=thing.path, reason=thing.reason, size_bytes=thing.size_bytes)
        if found:
            size_bytes = sum(thing.size_bytes for thing in found)
            self._told.event("collection", count=len(found), size_bytes=size_bytes, duration_s=duration_s)

    def reclaimed(self, builds: tuple[BuildId, ...]) -> None:
        """Hear of builds whose files went after their last user."""
        self._told.event("reclaimed", builds=builds)

    def failed(self, job: str, error: Exception) -> None:
        """Hear of a job of the housekeeping that could not be done."""
        if isinstance(error, EnvmgrError):
            self._told.event("housekeeping", "warning", job=job, code=error.code, message=error.message)
        else:
            _log.error("housekeeping: %s failed", job, exc_info=error)
