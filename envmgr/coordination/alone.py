"""The coordinator of a host that is in no cluster: nothing is claimed or published, and what it solves is its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from envmgr import lockfile
from envmgr.model import LockInForce, PublishedLockfile
from envmgr.ports import Siblings

if TYPE_CHECKING:
    from envmgr.errors import EnvmgrError
    from envmgr.events import Reporter
    from envmgr.names import EnvName
    from envmgr.ports import Claim, Deadline, Solving


# The port's parameters, which a host alone has no use for.
# ruff: noqa: ARG002
class Alone:
    """See the module."""

    is_clustered = False
    is_shared = False

    @contextlib.contextmanager
    def building(self, name: EnvName, *, deadline: Deadline, report: Reporter) -> Iterator[Claim | None]:
        yield None

    def lockfile(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        return None

    def lock_in_force(self, name: EnvName, machine_class: str) -> LockInForce | None:
        return None

    def least_generation(self, name: EnvName) -> int:
        return 1

    @contextlib.contextmanager
    def solving(
        self,
        name: EnvName,
        machine_class: str,
        generation: int,
        *,
        deadline: Deadline,
        report: Reporter,
        is_retry: bool = False,
    ) -> Iterator[Solving]:
        yield _OwnSolve(name, machine_class, generation)

    def virtual_packages(self, machine_class: str) -> Mapping[str, str] | None:
        return None

    def is_declared(self, name: EnvName) -> bool:
        return False

    def check_deletion(self) -> None:
        pass

    def siblings(self, name: EnvName) -> Siblings:
        return Siblings()


class _OwnSolve:
    """A solve that nobody else hears of."""

    found = None

    def __init__(self, name: EnvName, machine_class: str, generation: int) -> None:
        self._name = name
        self._machine_class = machine_class
        self._generation = generation

    def progress(self) -> None:
        pass

    def check(self) -> None:
        pass

    def publish(self, text: str) -> PublishedLockfile:
        subdir = self._machine_class.partition("+")[0]
        digest = lockfile.parse(text, subdir).digest
        return PublishedLockfile(self._name, self._machine_class, self._generation, digest, text)

    def fail(self, error: EnvmgrError) -> None:
        pass
