"""One solve under its claim, as whoever solves sees it; see `envmgr.coordination.zookeeper.coordinator`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper.nodes import NoNode
from envmgr.errors import ClaimLost, CoordinatorUnavailable, EnvmgrError, PermissionRefused, UnsuitableFilesystem

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.claims import Claim
    from envmgr.coordination.zookeeper.lockfiles import Lockfiles
    from envmgr.coordination.zookeeper.session import Session
    from envmgr.model import PublishedLockfile
    from envmgr.names import EnvName

_AGAIN_S = 1.0


class Found:
    """What another host published while this one waited for it; satisfies `envmgr.ports.Solving`, without a claim."""

    def __init__(self, found: PublishedLockfile) -> None:
        self.found = found

    def progress(self) -> None:
        """There is nothing to do."""

    def check(self) -> None:
        """There is nothing to be lost."""

    def publish(self, text: str) -> PublishedLockfile:  # noqa: ARG002 - it came second
        return self.found

    def fail(self, error: EnvmgrError) -> None:
        """It did not."""


class Solve:
    """The claim on one solve, and what it is for; satisfies `envmgr.ports.Solving`."""

    def __init__(
        self,
        lockfiles: Lockfiles,
        claim: Claim,
        name: EnvName,
        machine_class: str,
        generation: int,
        found: PublishedLockfile | None,
        wait_s: float,
        archives: str | None,
    ) -> None:
        self.claim = claim
        self.found = found
        self.progressed_at = time.monotonic()
        self._lockfiles = lockfiles
        self._name = name
        self._machine_class = machine_class
        self._generation = generation
        self._wait_s = wait_s
        self._archives = archives
        self._stalled_for_s: float | None = None

    def progress(self) -> None:
        self.progressed_at = time.monotonic()

    def stall(self, for_s: float) -> None:
        """Give the claim up."""
        self._stalled_for_s = for_s
        self.claim.end()

    def check(self) -> None:
        if self._stalled_for_s is not None:
            raise ClaimLost(
                f"the solve of {self._name} made no progress for {self._stalled_for_s:g} s; another host may try now",
                hint="setting solve_stall_s",
            )

    def publish(self, text: str) -> PublishedLockfile:
        self.check()
        with reached():
            self.claim.check()
            return self._lockfiles.publish(
                self._name,
                self._machine_class,
                self._generation,
                text,
                self.claim,
                archives=self._archives,
                wait_s=self._wait_s,
            )

    def fail(self, error: EnvmgrError) -> None:
        with reached():
            self.claim.check()
            self._lockfiles.fail(self._name, self._machine_class, self._generation, error, self.claim)


@contextlib.contextmanager
def watched(solve: Solve, session: Session, stall_s: float) -> Iterator[None]:
    """Give the claim of a solve back, for the length of a block, when it makes no progress; 0: never."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(max(0.0, solve.progressed_at + stall_s - time.monotonic())):
            if time.monotonic() >= solve.progressed_at + stall_s:
                solve.stall(stall_s)
                break
        while not is_over.is_set():
            with contextlib.suppress(CoordinatorUnavailable):
                with contextlib.suppress(NoNode):
                    session.delete(solve.claim.node)
                return
            is_over.wait(_AGAIN_S)

    watcher = threading.Thread(target=watch, name="envmgr-solve-watch", daemon=True)
    if stall_s > 0:
        watcher.start()
    try:
        yield
    finally:
        is_over.set()
        if stall_s > 0:
            watcher.join()


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Let a ZooKeeper that does not let us in be one that cannot be reached: the host's work is to go on."""
    try:
        yield
    except PermissionRefused as error:
        if isinstance(error, UnsuitableFilesystem):
            raise
        raise CoordinatorUnavailable(error.message, hint=error.hint) from error
