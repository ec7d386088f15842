"""The `envmgr.ports.Coordinator` of a host whose cluster is kept in ZooKeeper.

**Solving.** One host at a time holds the claim on the solve of (name, machine class). The others do not stand in its
queue, where each would read the names of all: they wait until its holder goes, and then find what he published. The
claim is never taken from anybody: one that can be stolen guards nothing. It ends with its holder's session, so a host
that dies or stands still is replaced when its session is over; and a holder whose solver makes no progress for
``solve_stall_s`` gives it back by a clock and a thread of its own, whatever the solver hangs in. Its solve is void from
then on (`Solving.check`).

**What it costs when ZooKeeper does not answer.** `building` and `lockfile` wait `SHORT_S`, or what is left of that
since the connection was lost, and the work goes on without it; `solving`, and `building` on a shared store, wait for
the setting ``coordinator_wait_s``. A host that ZooKeeper does not let in is one that cannot reach it.

**A tree that is not this host's cluster** (emptied, another's, a newer format) is as one that cannot be reached:
nothing is claimed, read or published there (`uuid_of`: the cluster that the host belongs to, ``None``: to none yet).

**What is told by the agent** (`declared`, `living`, `classes`) is answered from memory and never waits.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from envmgr import errors
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.claims import Claims
from envmgr.coordination.zookeeper.flock_probe import FlockProbe
from envmgr.coordination.zookeeper.lockfiles import Lockfiles
from envmgr.coordination.zookeeper.session import CALL_S
from envmgr.coordination.zookeeper.solving import Found, Solve, reached, watched
from envmgr.errors import CoordinatorUnavailable, TimedOut, UnsuitableFilesystem
from envmgr.events import Event, Reporter, ignore
from envmgr.model import LockInForce
from envmgr.ports import Siblings
from envmgr.store import opening

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.claims import Claim
    from envmgr.coordination.zookeeper.session import Session
    from envmgr.model import PublishedLockfile
    from envmgr.names import EnvName
    from envmgr.ports import Deadline
    from envmgr.settings import Settings
    from envmgr.store.layout import Layout

T = TypeVar("T")

SHORT_S = 2.0
_PAUSE_S = 0.1
_TRIES_ALONE = 3
_SPREAD_S = 1.0
"""Over how long those who waited for a solve that came to nothing try for themselves."""


def of_store(
    session: Session,
    layout: Layout,
    *,
    host: str,
    settings_of: Callable[[], Settings],
    uuid_of: Callable[[], str | None] = lambda: None,
) -> ZookeeperCoordinator:
    """Return the coordinator of a store, which is a shared one if it lies where other hosts may write it."""
    store_id = opening.store_id(layout)
    is_shared = opening.is_on_shared_filesystem(layout)
    probe = FlockProbe(session, host=host, store_id=store_id, locks=layout.locks) if is_shared else None
    return ZookeeperCoordinator(
        session,
        host=host,
        store_id=store_id,
        is_shared=is_shared,
        settings_of=settings_of,
        probe=probe,
        uuid_of=uuid_of,
    )


class ZookeeperCoordinator:
    """See the module; any thread. `probe` is wanted where the store is shared, else nothing there may be deleted."""

    is_clustered = True

    def __init__(
        self,
        session: Session,
        *,
        host: str,
        store_id: str,
        is_shared: bool,
        settings_of: Callable[[], Settings],
        probe: FlockProbe | None = None,
        uuid_of: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.session = session
        self.claims = Claims(session, host)
        self.lockfiles = Lockfiles(session, host)
        self.is_shared = is_shared
        self._store_id = store_id
        self._settings_of = settings_of
        self._probe = probe
        self._uuid_of = uuid_of
        self._seen: tuple[str, bytes] | None = None
        self._generations: Mapping[EnvName, int] = {}
        self._siblings = Siblings()
        self._classes: Mapping[str, Mapping[str, str]] = {}
        self._solvers: dict[EnvName, str | None] = {}

    # ---------------------------------------------------------------------------------------------- told by the agent

    def named(self, host: str) -> None:
        """Take the name under which this host has joined."""
        self.claims.host = host
        self.lockfiles = Lockfiles(self.session, host)

    def declared(self, generations: Mapping[EnvName, int]) -> None:
        """Take what the cluster wants on this host: name → the least generation of its lockfile (`Intent`)."""
        self._generations = dict(generations)

    def living(self, siblings: Siblings) -> None:
        """Take the URLs of the hosts that give archives."""
        self._siblings = siblings

    def classes(self, classes: Mapping[str, Mapping[str, str]]) -> None:
        """Take the declared machine classes (`envmgr.wire.tree.Cluster.classes`)."""
        self._classes = {name: dict(packages) for name, packages in classes.items()}

    def virtual_packages(self, machine_class: str) -> Mapping[str, str] | None:
        return self._classes.get(machine_class)

    def is_declared(self, name: EnvName) -> bool:
        return name in self._generations

    def least_generation(self, name: EnvName) -> int:
        return self._generations.get(name, 1)

    def siblings(self, name: EnvName) -> Siblings:
        return replace(self._siblings, solver=self._solvers.get(name))

    # --------------------------------------------------------------------------------------------------------- claims

    @contextlib.contextmanager
    def building(self, name: EnvName, *, deadline: Deadline, report: Reporter) -> Iterator[Claim | None]:
        path = tree.build_claim(self._store_id, name)
        what = f"build of {name}"
        with contextlib.ExitStack() as held:
            if self.is_shared:
                wait_s = self._settings_of().coordinator_wait_s
                with reached(), _told_to_wait(report, f"busy with {name}") as on_wait:
                    self._check_tree(deadline, report)
                    claim: Claim | None = held.enter_context(
                        self.claims.acquire(path, deadline=deadline, unreachable_s=wait_s, on_wait=on_wait, what=what)
                    )
            else:
                claim = None
                # Nobody else builds in this store, whose lock we hold: who has the claim is a ghost of our own.
                with contextlib.suppress(CoordinatorUnavailable, TimedOut), reached():
                    self._check_tree()
                    claim = held.enter_context(self.claims.try_acquire(path, timeout_s=self._short_s(), what=what))
            yield claim

    def check_deletion(self) -> None:
        if not self.is_shared:
            return
        if self._probe is None:
            raise UnsuitableFilesystem(
                "this process cannot tell whether locks hold between the hosts of this store",
                hint="let the daemon do it",
            )
        with reached():
            self._probe.check()

    # ------------------------------------------------------------------------------------------------------ lockfiles

    def lockfile(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        with reached():
            self._check_tree()
            manifest = self.lockfiles.manifest(name, machine_class, timeout_s=self._short_s())
            if manifest is None:
                return None
            self._solvers[name] = manifest.archives
            return self.lockfiles.read(manifest, timeout_s=self._short_s())

    def lock_in_force(self, name: EnvName, machine_class: str) -> LockInForce | None:
        with reached():
            manifest = self.lockfiles.manifest(name, machine_class, timeout_s=self._short_s())
            return None if manifest is None else LockInForce(manifest.generation, manifest.digest)

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
    ) -> Iterator[Solve | Found]:
        settings = self._settings_of()
        wait_s = settings.coordinator_wait_s
        path, what = tree.solve_claim(name, machine_class), f"solve of {name}"
        with contextlib.ExitStack() as held:
            with reached():
                self._check_tree(deadline, report)
                with _told_to_wait(report, f"solving {name}") as on_wait, contextlib.ExitStack() as entering:
                    found = self._outwait(
                        name, machine_class, generation, deadline, on_wait, entering, is_retry=is_retry
                    )
                    claim = None
                    if found is None:
                        claim = held.enter_context(
                            self.claims.acquire(
                                path, deadline=deadline, unreachable_s=wait_s, on_wait=on_wait, what=what
                            )
                        )
                if claim is not None:
                    found = self._published(name, machine_class, generation, deadline)
                if found is None:
                    self._check_failure(name, machine_class, generation, is_retry=is_retry)
            if claim is not None:
                archives = self._siblings.own
                solve = Solve(self.lockfiles, claim, name, machine_class, generation, found, wait_s, archives)
                with watched(solve, self.session, settings.solve_stall_s):
                    yield solve
            elif found is not None:
                yield Found(found)

    def _outwait(
        self,
        name: EnvName,
        machine_class: str,
        generation: int,
        deadline: Deadline,
        on_wait: Callable[[str], None],
        entering: contextlib.ExitStack,
        *,
        is_retry: bool,
    ) -> PublishedLockfile | None:
        """Wait for what the holder of the claim makes, if somebody holds it, without standing in its queue.

        ``None``: nobody holds it, there is nothing, and until `entering` ends nobody else enters the queue, or hardly
        anybody. Raises as `solving`.
        """
        tries = 0
        path, wait_s = tree.solve_claim(name, machine_class), self._settings_of().coordinator_wait_s
        while True:
            if not self.claims.outwait(path, deadline=deadline, unreachable_s=wait_s, on_wait=on_wait):
                tries += 1
                is_alone = entering.enter_context(self.claims.alone(path, deadline=deadline, unreachable_s=wait_s))
                if is_alone or tries > _TRIES_ALONE:
                    return None
                continue
            found = self._published(name, machine_class, generation, deadline)
            if found is not None:
                return found
            if not is_retry:
                self._check_failure(name, machine_class, generation, is_retry=False)
            # Its holder went without a result: one of those who waited is next, and not all ask at once.
            time.sleep(random.uniform(0, _SPREAD_S))  # noqa: S311 - no secret

    def _published(
        self, name: EnvName, machine_class: str, generation: int, deadline: Deadline
    ) -> PublishedLockfile | None:
        found = self._answered(
            lambda timeout_s: self.lockfiles.newest(name, machine_class, timeout_s=timeout_s), deadline
        )
        if found is None or found.generation < generation:
            return None
        self._solvers[name] = found.archives
        return found

    def _answered(
        self, ask: Callable[[float], T], deadline: Deadline, on_silence: Callable[[str], None] | None = None
    ) -> T:
        """Ask again and again for ``coordinator_wait_s``, and hear in between that it is not wanted any more.

        `on_silence` is told once who does not answer.
        """
        wait_s = self._settings_of().coordinator_wait_s
        until = time.monotonic() + wait_s
        while True:
            deadline.check()
            left_s = deadline.remaining_s()
            try:
                return ask(min(CALL_S, wait_s, CALL_S if left_s is None else left_s))
            except CoordinatorUnavailable:
                if on_silence is not None:
                    on_silence("ZooKeeper")
                    on_silence = None
                if time.monotonic() >= until or self.session.is_closed:
                    raise
                time.sleep(_PAUSE_S)

    def _check_tree(self, deadline: Deadline | None = None, report: Reporter = ignore) -> None:
        """Raise `ClusterTreeRefused` where the tree is not this host's cluster; with a deadline, wait for an answer."""
        uuid = self._uuid_of()
        if uuid is None:
            return

        def check(timeout_s: float) -> None:
            node = self.session.get(tree.CLUSTER, timeout_s=timeout_s)
            seen = None if node is None else (uuid, node.data)
            if seen is None or seen != self._seen:
                tree.check(self.session, uuid)
                self._seen = seen

        if deadline is None:
            check(self._short_s())
        else:
            with _told_to_wait(report, "which does not answer") as on_silence:
                self._answered(check, deadline, on_silence)

    def _short_s(self) -> float:
        """Return how long to ask what the work can do without: one build asks several times, and waits once."""
        return max(0.0, SHORT_S - self.session.away_s)

    def _check_failure(self, name: EnvName, machine_class: str, generation: int, *, is_retry: bool) -> None:
        failure = self.lockfiles.failure(name, machine_class, generation)
        if failure is None:
            return
        if is_retry:
            self.lockfiles.clear_failure(name, machine_class)
            return
        error = errors.from_json(failure.error)
        error.fields.update(is_repeated=True, host=failure.host, at=failure.at)
        raise error

    def hold(self) -> None:
        """Let the other hosts of a shared store see that locks hold; for the daemon, once it has begun."""
        if self._probe is not None:
            self._probe.hold()

    def close(self) -> None:
        """Stop what runs in the background; the session is its owner's to close, afterwards."""
        if self._probe is not None:
            self._probe.close()
        self.claims.close()


@contextlib.contextmanager
def _told_to_wait(report: Reporter, doing: str) -> Iterator[Callable[[str], None]]:
    """Give what says once whom we wait for; say at the end of the block that it is over."""
    is_told = False

    def tell(whom: str) -> None:
        nonlocal is_told
        is_told = True
        report(Event("begin", "wait", f"waiting for {whom}, {doing}"))

    try:
        yield tell
    finally:
        if is_told:
            report(Event("end", "wait"))
