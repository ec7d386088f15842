"""The agent's hands: what the cluster wants of this host, done by the daemon's own operations.

So a build that the cluster wants and one that somebody here asked for are one, and both are seen in the list of
operations, in the log (user ``cluster``) and in the metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from envmgr import ready
from envmgr.agent.hands import Installed
from envmgr.coordination.zookeeper import tree
from envmgr.errors import Cancelled, CoordinatorUnavailable, Corrupt, EnvmgrError, StoreTooNew
from envmgr.events import Event
from envmgr.model import Caller
from envmgr.operations import Flight
from envmgr.settings.overlay import overlay
from envmgr.store import publication, records

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from envmgr.coordination.zookeeper.coordinator import ZookeeperCoordinator
    from envmgr.daemon.service import Service
    from envmgr.events import Reporter
    from envmgr.model import LockInForce, Spec
    from envmgr.names import Alias, BuildId, EnvName
    from envmgr.store.layout import Layout

CLUSTER = Caller(user="cluster", role="admin")
_LOOK_S = 1.0
_UNREACHABLE_S = 60.0


class Declared:
    """Satisfies `envmgr.agent.hands.Hands` and `Turns`."""

    def __init__(self, service: Service, coordinator: ZookeeperCoordinator, layout: Layout) -> None:
        self._service = service
        self._coordinator = coordinator
        self._layout = layout
        self._known: dict[EnvName, Installed] = {}

    def published(self) -> Mapping[EnvName, Installed]:
        known, self._known = self._known, {}
        found: dict[EnvName, Installed] = {}
        for name, build_id in publication.published(self._layout).items():
            kept = known.get(name)
            read = kept if kept is not None and kept.build_id == build_id else self._read(name, build_id)
            if read is not None:
                self._known[name] = read
            # What cannot be read now may be read with the next pass; if it is damaged, `verify` and `doctor` say so.
            found[name] = read or Installed(build_id, None)
        return found

    def _read(self, name: EnvName, build_id: BuildId) -> Installed | None:
        try:
            record = records.read_record(self._layout, name, build_id)
            spec = records.read_spec(self._layout, name)
        except (Corrupt, StoreTooNew, OSError):
            return None
        is_solved = spec is not None and not spec.is_lockfile
        return Installed(build_id, record.lock_digest if is_solved else None, record.machine_class)

    def cluster_lock(self, name: EnvName, machine_class: str) -> LockInForce | None:
        if not self._coordinator.session.is_connected:
            raise CoordinatorUnavailable("ZooKeeper does not answer")
        return self._coordinator.lock_in_force(name, machine_class)

    def target(self, alias: Alias) -> EnvName | None:
        return ready.resolve_alias(str(self._layout.root), alias)

    def set_alias(self, alias: Alias, name: EnvName) -> None:
        self._service.manager.set_alias(alias, name, move=True)

    def remove_alias(self, alias: Alias, name: EnvName) -> None:
        if self._service.manager.aliases().get(alias) == name:
            self._service.manager.remove_alias(alias)

    def share(self, settings: Mapping[str, object]) -> tuple[str, ...]:
        unread: tuple[str, ...] = ()
        try:
            self._service.reload()  # it reads them from where the agent remembers them
        except EnvmgrError as error:
            unread = (f"the settings could not be read again: {error.message}",)
        # Those in force have them already; what is wrong with them is found again all the same.
        _, problems = overlay(self._service.settings, settings)
        return (*problems, *unread)

    # ------------------------------------------------------------------------------------------------------ long work

    def make(self, spec: Spec, *, is_retry: bool, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
        found = self._service.have(CLUSTER, spec, is_retry=is_retry)
        if isinstance(found, Flight):
            _follow(found, report, is_cancelled)
        else:
            found.close()

    def align(self, name: EnvName, *, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
        _follow(self._service.align(CLUSTER, name), report, is_cancelled)

    def remove(self, name: EnvName) -> None:
        self._service.remove(CLUSTER, name, "when-free", forget=False, by_cluster=True)

    # ---------------------------------------------------------------------------------------------------------- turns

    def turn(self, name: EnvName, places: int, *, is_cancelled: Callable[[], bool]) -> AbstractContextManager[object]:
        return self._coordinator.claims.acquire(
            tree.rollout_claim(name), places=places, deadline=_Until(is_cancelled), unreachable_s=_UNREACHABLE_S,
            what=f"rollout of {name}",
        )  # fmt: skip


class _Until:
    """A deadline that only the wish to stop sets; satisfies `envmgr.ports.Deadline`."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def check(self) -> None:
        if self._is_cancelled():
            raise Cancelled("the cluster does not want it any more")

    def remaining_s(self) -> float | None:
        return None


def _follow(flight: Flight, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
    """Wait for the end of an operation, pass on its progress, and raise its error.

    When it is not wanted any more, it is cancelled unless somebody else on this host asked for it, too.
    """
    woken = threading.Event()
    stop = flight.listen(woken.set)
    last = 0
    try:
        while True:
            woken.clear()
            for entry in flight.since(last):
                last = entry.id
                if entry.event == "progress":
                    report(Event(**entry.data))  # type: ignore[arg-type]  # an event's own JSON
            if flight.is_finished:
                break
            if is_cancelled():
                if not flight.is_only_of(CLUSTER):
                    raise Cancelled("the cluster does not want it any more")
                flight.cancel(CLUSTER)
            woken.wait(_LOOK_S)
    finally:
        stop()
    if flight.error is not None:
        raise flight.error
