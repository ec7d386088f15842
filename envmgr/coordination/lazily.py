"""The coordinator of a host in a cluster, for a process that may not need it: it connects when it is first asked.

A command that finds its environment ready, or only lists, never comes so far; nor does it import kazoo. What the host
remembers of its cluster (`declared`, `classes`) answers without a connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from envmgr.ports import Siblings

if TYPE_CHECKING:
    from envmgr.events import Reporter
    from envmgr.model import LockInForce, PublishedLockfile
    from envmgr.names import EnvName
    from envmgr.ports import Claim, Coordinator, Deadline, Solving


class Lazily:
    """See the module. `connect` returns the coordinator itself; it is called once, by the thread that comes first."""

    is_clustered = True

    def __init__(
        self,
        connect: Callable[[], Coordinator],
        *,
        is_shared: bool,
        declared: Mapping[EnvName, int],
        classes: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.is_shared = is_shared
        self._connect = connect
        self._declared = declared
        self._classes = classes
        self._lock = threading.Lock()
        self._found: Coordinator | None = None

    def _coordinator(self) -> Coordinator:
        with self._lock:
            if self._found is None:
                self._found = self._connect()
            return self._found

    def building(self, name: EnvName, *, deadline: Deadline, report: Reporter) -> AbstractContextManager[Claim | None]:
        return self._coordinator().building(name, deadline=deadline, report=report)

    def lockfile(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        return self._coordinator().lockfile(name, machine_class)

    def lock_in_force(self, name: EnvName, machine_class: str) -> LockInForce | None:
        return self._coordinator().lock_in_force(name, machine_class)

    def least_generation(self, name: EnvName) -> int:
        return self._declared.get(name, 1)

    def solving(
        self,
        name: EnvName,
        machine_class: str,
        generation: int,
        *,
        deadline: Deadline,
        report: Reporter,
        is_retry: bool = False,
    ) -> AbstractContextManager[Solving]:
        return self._coordinator().solving(
            name, machine_class, generation, deadline=deadline, report=report, is_retry=is_retry
        )

    def virtual_packages(self, machine_class: str) -> Mapping[str, str] | None:
        return self._classes.get(machine_class)

    def is_declared(self, name: EnvName) -> bool:
        return name in self._declared

    def check_deletion(self) -> None:
        if self.is_shared:
            self._coordinator().check_deletion()

    def siblings(self, name: EnvName) -> Siblings:  # noqa: ARG002 - the port's
        return Siblings()
