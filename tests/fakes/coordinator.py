"""A cluster in a directory: what its hosts agree on is files, and a claim is a lock that ends with its process.

So the hosts of one cluster may be threads, or processes that are killed. Faults are ordered from a host's coordinator:

* `is_down`: the coordinator does not answer this host;
* `lose_claims`: everything that this host holds is somebody else's to take from now on;
* `at[step]`: what to do, once, when the host comes to a step: ``building``, ``lockfile``, ``solving``, ``claimed`` (the
  solve), ``publish``, ``published`` (before the answer), ``fail``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from envmgr import errors, lockfile
from envmgr.errors import ClaimLost, CoordinatorUnavailable, EnvmgrError, LockfileTooLarge, UnsuitableFilesystem
from envmgr.events import Event, Reporter
from envmgr.model import LockInForce, PublishedLockfile
from envmgr.names import EnvName
from envmgr.ports import Deadline, Siblings

_LOOK_S = 0.01


class FakeCluster:
    """See the module."""

    def __init__(self, directory: Path, *, largest_bytes: int = 1 << 20) -> None:
        self.directory = directory
        self.largest_bytes = largest_bytes
        for name in ("claims", "lockfiles", "failures"):
            (directory / name).mkdir(parents=True, exist_ok=True)

    def host(
        self,
        name: str,
        *,
        store_id: str | None = None,
        is_shared: bool = False,
        wait_s: float = 0.1,
        stall_s: float = 900,
    ) -> FakeCoordinator:
        return FakeCoordinator(self, name, store_id or f"store of {name}", is_shared, wait_s, stall_s)

    def generations(self, name: EnvName, machine_class: str) -> list[int]:
        stem = f"{name} {machine_class} "
        found = (path.name for path in (self.directory / "lockfiles").iterdir())
        return sorted(int(entry.removeprefix(stem)) for entry in found if entry.startswith(stem))

    def read(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        numbers = self.generations(name, machine_class)
        if not numbers:
            return None
        text = (self.directory / "lockfiles" / f"{name} {machine_class} {numbers[-1]}").read_text(encoding="utf-8")
        return published(name, machine_class, numbers[-1], text)

    def put(self, name: EnvName, machine_class: str, generation: int, text: str) -> bool:
        """Publish unless somebody did; tell whether this was it. Whole or not at all."""
        path = self.directory / "lockfiles" / f"{name} {machine_class} {generation}"
        temporary = self.directory / f"{os.getpid()}-{threading.get_ident()}"
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def token(self) -> int:
        """Return a number higher than all before."""
        with (self.directory / "token").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            number = int(file.read() or b"0") + 1
            file.truncate(0)
            file.write(str(number).encode())
        return number


def published(name: EnvName, machine_class: str, generation: int, text: str) -> PublishedLockfile:
    digest = lockfile.parse(text, machine_class.partition("+")[0]).digest
    return PublishedLockfile(name, machine_class, generation, digest, text)


class FakeClaim:
    """Held as long as its lock is; lost when somebody says so."""

    def __init__(self, fd: int, token: int) -> None:
        self._fd: int | None = fd
        self.token = token

    @property
    def is_lost(self) -> bool:
        return self._fd is None

    def check(self) -> None:
        if self.is_lost:
            raise ClaimLost("the claim was lost, as ordered")

    def lose(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class FakeCoordinator:
    """One host's view; satisfies `envmgr.ports.Coordinator`."""

    is_clustered = True

    def __init__(
        self, cluster: FakeCluster, host: str, store_id: str, is_shared: bool, wait_s: float, stall_s: float
    ) -> None:
        self.cluster = cluster
        self.name = host
        self.store_id = store_id
        self.is_shared = is_shared
        self.wait_s = wait_s
        self.stall_s = stall_s
        self.is_down = False
        self.sees_leases = True
        self.at: dict[str, Callable[[], object]] = {}
        self.reached: list[str] = []
        self.held: list[FakeClaim] = []
        self._generations: Mapping[EnvName, int] = {}
        self._classes: Mapping[str, Mapping[str, str]] = {}
        self._siblings = Siblings()

    # ------------------------------------------------------------------------------------------------- what is ordered

    def lose_claims(self) -> None:
        for claim in self.held:
            claim.lose()

    def go_down(self) -> None:
        """Answer no more; what was held is lost."""
        self.is_down = True
        self.lose_claims()

    def reach(self, step: str) -> None:
        self.reached.append(step)
        action = self.at.pop(step, None)
        if action is not None:
            action()

    def _ask(self, step: str) -> None:
        self.reach(step)
        if self.is_down:
            raise CoordinatorUnavailable("the coordinator does not answer, as ordered")

    # ------------------------------------------------------------------------------------------------------- the port

    def declared(self, generations: Mapping[EnvName, int]) -> None:
        self._generations = dict(generations)

    def classes(self, classes: Mapping[str, Mapping[str, str]]) -> None:
        self._classes = dict(classes)

    def living(self, siblings: Siblings) -> None:
        self._siblings = siblings

    def virtual_packages(self, machine_class: str) -> Mapping[str, str] | None:
        return self._classes.get(machine_class)

    def is_declared(self, name: EnvName) -> bool:
        return name in self._generations

    def least_generation(self, name: EnvName) -> int:
        return self._generations.get(name, 1)

    def siblings(self, name: EnvName) -> Siblings:  # noqa: ARG002 - the port's
        return self._siblings

    def check_deletion(self) -> None:
        if self.is_shared and not self.sees_leases:
            raise UnsuitableFilesystem("leases of other hosts are not seen, as ordered")

    def lockfile(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        self._ask("lockfile")
        return self.cluster.read(name, machine_class)

    def lock_in_force(self, name: EnvName, machine_class: str) -> LockInForce | None:
        self._ask("lock_in_force")
        found = self.cluster.read(name, machine_class)
        return None if found is None else LockInForce(found.generation, found.digest)

    @contextlib.contextmanager
    def building(self, name: EnvName, *, deadline: Deadline, report: Reporter) -> Iterator[FakeClaim | None]:
        try:
            self._ask("building")
        except CoordinatorUnavailable:
            if self.is_shared:
                raise
            yield None
            return
        with self._claimed(f"build {self.store_id} {name}", deadline, report) as claim:
            yield claim

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
    ) -> Iterator[FakeSolve]:
        self._ask("solving")
        with self._claimed(f"solve {name} {machine_class}", deadline, report) as claim:
            self._ask("claimed")
            found = self.cluster.read(name, machine_class)
            if found is not None and found.generation < generation:
                found = None
            failure = self.cluster.directory / "failures" / f"{name} {machine_class} {generation}"
            if found is None and failure.exists():
                if not is_retry:
                    error = errors.from_json(json.loads(failure.read_text(encoding="utf-8")))
                    error.fields["is_repeated"] = True
                    raise error
                failure.unlink()
            yield FakeSolve(self, claim, name, machine_class, generation, found)

    @contextlib.contextmanager
    def _claimed(self, path: str, deadline: Deadline, report: Reporter) -> Iterator[FakeClaim]:
        fd = os.open(self.cluster.directory / "claims" / path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        is_told = False
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if not is_told:
                    report(Event("begin", "wait", f"waiting for another host: {path}"))
                    is_told = True
                deadline.check()
                time.sleep(_LOOK_S)
        except BaseException:
            os.close(fd)
            raise
        finally:
            if is_told:
                report(Event("end", "wait"))
        claim = FakeClaim(fd, self.cluster.token())
        self.held.append(claim)
        try:
            yield claim
        finally:
            self.held.remove(claim)
            claim.lose()


class FakeSolve:
    """Satisfies `envmgr.ports.Solving`."""

    def __init__(
        self,
        host: FakeCoordinator,
        claim: FakeClaim,
        name: EnvName,
        machine_class: str,
        generation: int,
        found: PublishedLockfile | None,
    ) -> None:
        self.found = found
        self.claim = claim
        self._host = host
        self._name = name
        self._machine_class = machine_class
        self._generation = generation
        self._progressed_at = time.monotonic()

    def progress(self) -> None:
        self._progressed_at = time.monotonic()

    def check(self) -> None:
        if time.monotonic() - self._progressed_at > self._host.stall_s:
            self.claim.lose()
            raise ClaimLost("the solve made no progress, as ordered")

    def publish(self, text: str) -> PublishedLockfile:
        host, cluster = self._host, self._host.cluster
        host._ask("publish")
        self.check()
        self.claim.check()
        if len(text) > cluster.largest_bytes:
            raise LockfileTooLarge(f"{len(text)} bytes are too many")
        cluster.put(self._name, self._machine_class, self._generation, text)
        host._ask("published")
        found = cluster.read(self._name, self._machine_class)
        if found is None:
            raise RuntimeError("what was published is not there")
        return found

    def fail(self, error: EnvmgrError) -> None:
        self._host._ask("fail")
        self.claim.check()
        path = self._host.cluster.directory / "failures" / f"{self._name} {self._machine_class} {self._generation}"
        path.write_text(json.dumps(error.to_json()), encoding="utf-8")
