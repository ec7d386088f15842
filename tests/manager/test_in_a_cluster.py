"""Hosts of one cluster: one solve, the same packages, whatever dies, is lost or does not answer in between."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.coordinator import FakeCluster, FakeCoordinator
from fakes.processes import Died, Forked, die_now, no_process_left, reap_orphans
from fakes.worlds import SUBDIR, World, make_world, observed, spec_of

from envmgr import lockfile, ready
from envmgr.errors import (
    BuildFailed,
    ClaimLost,
    CoordinatorUnavailable,
    DeclaredInCluster,
    EnvironmentNotFound,
    EnvmgrError,
    LockfileMismatch,
    LockfileTooLarge,
    NetworkError,
    Unsatisfiable,
    UnsuitableFilesystem,
)
from envmgr.events import Event
from envmgr.fsio import Step
from envmgr.manager import requests
from envmgr.manager.collection import Limits
from envmgr.model import Record
from envmgr.store import publication, records, sweep
from envmgr.store.layout import Layout

SPEC = spec_of("numpy")
NAME = SPEC.name


@dataclasses.dataclass
class Host:
    """A store, its backend's orders, and what it sees of the cluster."""

    world: World
    orders: Orders
    coordinator: FakeCoordinator

    def create(self, **options: object) -> Record:
        """Make the environment, and return its record."""
        environ = options.pop("environ", None)
        ensured = self.world.manager(environ).ensure(SPEC, **options)  # type: ignore[arg-type]
        ensured.lease.close()
        return self.record()

    def record(self) -> Record:
        build_id = publication.published(self.world.layout)[NAME]
        return records.read_record(self.world.layout, NAME, build_id)

    @property
    def drifts(self) -> bool | None:
        """Whether it was made from another lockfile than the cluster's, as the agent asks; ``None``: there is none."""
        theirs = self.coordinator.lock_in_force(NAME, SUBDIR)
        return None if theirs is None else theirs.digest != self.record().lock_digest

    def solves(self, version: str) -> None:
        """Let a solve on this host find packages of this version from now on."""
        self.orders.say("version", version)

    @property
    def begun(self) -> int:
        return len(self.world.builds_begun())

    @property
    def own(self) -> str | None:
        return records.read_lockfile(self.world.layout, NAME, SUBDIR)

    def is_clean(self) -> bool:
        published = set(publication.published(self.world.layout).values())
        return {path.name for path in self.world.layout.builds.iterdir()} == published


class Cluster:
    """Hosts by letter; each solves other versions, so that it shows who solved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fake = FakeCluster(directory / "cluster")
        self.hosts: dict[str, Host] = {}

    def __getitem__(self, letter: str) -> Host:
        if letter not in self.hosts:
            self.hosts[letter] = self.join(letter)
        return self.hosts[letter]

    def join(self, letter: str, **options: object) -> Host:
        place = self.directory / letter
        place.mkdir(exist_ok=True)
        coordinator = self.fake.host(letter, **options)  # type: ignore[arg-type]
        world = dataclasses.replace(make_world(place), coordinator=coordinator)
        host = Host(world, Orders(world.orders), coordinator)
        host.solves(f"{ord(letter)}.0")
        return host

    @property
    def digest(self) -> str | None:
        found = self.fake.read(NAME, SUBDIR)
        return None if found is None else found.digest

    @property
    def generations(self) -> list[int]:
        return self.fake.generations(NAME, SUBDIR)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with no_process_left():
        yield Cluster(tmp_path)


def lock_text(cluster: Cluster, version: str) -> str:
    """Return the lockfile that another solve would have come to."""
    place = cluster.directory / f"apart {version}"
    place.mkdir()
    apart = Cluster(place)["x"]
    apart.solves(version)
    return apart.world.manager().lock(SPEC)


# -------------------------------------------------------------------------------------------------------- solved once


def test_one_solve_for_all(cluster: Cluster) -> None:
    """Three hosts that need a new environment at one moment: the packages of one solve, published once, on each."""
    hosts = [cluster[letter] for letter in "abc"]
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(Host.create, hosts))
    assert {record.lock_digest for record in made} == {cluster.digest}
    assert cluster.generations == [1]
    assert all(host.own == hosts[0].own for host in hosts)
    assert cluster["d"].create().lock_digest == cluster.digest
    assert cluster["d"].begun == 1


def test_the_claim_is_given_back_as_soon_as_the_lockfile_is_published(cluster: Cluster) -> None:
    """A host whose build hangs after the solve keeps nobody from building."""
    a = cluster["a"]
    a.orders.hang()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(a.create)
        a.orders.wait_started()
        assert cluster["b"].create().lock_digest == cluster.digest
        a.orders.release()
        assert first.result().lock_digest == cluster.digest


def test_a_lockfile_that_is_known_needs_no_coordinator(cluster: Cluster) -> None:
    """What the cluster agreed on is kept in the store; later builds work without ZooKeeper, and install the same."""
    a = cluster["a"]
    digest = a.create().lock_digest
    b = cluster["b"]
    b.create()
    b.world.manager().remove(NAME)
    b.coordinator.go_down()
    assert b.create().lock_digest == digest
    assert "solving" not in b.coordinator.reached


def test_a_ready_environment_asks_nobody(cluster: Cluster) -> None:
    """Found is found: the coordinator is not asked, and need not be there."""
    a = cluster["a"]
    a.create()
    a.coordinator.reached.clear()
    a.create()
    assert a.coordinator.reached == []


def test_a_solver_that_dies_is_replaced(cluster: Cluster) -> None:
    """Killed in the middle of its solve, a host leaves nothing; the next one solves."""
    a = cluster["a"]

    def die() -> None:
        a.coordinator.at["publish"] = die_now
        a.create()

    with pytest.raises(Died):
        Forked(die).result()
    assert cluster.generations == []
    assert cluster["b"].create().lock_digest == cluster.digest
    assert a.create().lock_digest == cluster.digest


def test_a_solver_that_hangs_is_replaced(cluster: Cluster) -> None:
    """Without progress the claim is given up and the build ends; who waits for it solves, and all come to that."""
    a, b = cluster["a"], cluster["b"]
    a.coordinator.stall_s = 0.3
    os.mkfifo(a.orders.directory / "hang-solve")
    with ThreadPoolExecutor() as pool:
        b.coordinator.at["building"] = (claimed := threading.Event()).wait
        a.coordinator.at["claimed"] = claimed.set
        second = pool.submit(b.create)
        with pytest.raises(ClaimLost, match="progress"):
            a.create()
        assert second.result().lock_digest == cluster.digest
    assert a.is_clean()
    assert a.create().lock_digest == cluster.digest
    assert cluster.generations == [1]


def test_another_host_was_faster(cluster: Cluster) -> None:
    """Who lost the claim while it solved, and was overtaken, throws its work away and builds what is published."""
    a, b = cluster["a"], cluster["b"]

    def overtaken() -> None:
        a.coordinator.lose_claims()
        b.create()

    a.coordinator.at["publish"] = overtaken
    made = a.create()
    assert made.lock_digest == b.record().lock_digest == cluster.digest
    assert (a.begun, cluster.generations) == (2, [1])
    assert a.own == b.own
    assert a.is_clean()


def test_a_claim_lost_to_nobody_is_taken_again(cluster: Cluster) -> None:
    """A solve whose claim was lost is not done again: it is published under another claim."""
    a = cluster["a"]
    a.coordinator.at["publish"] = a.coordinator.lose_claims
    assert a.create().lock_digest == cluster.digest
    assert a.begun == 1


def test_an_answer_that_is_lost(cluster: Cluster) -> None:
    """Published, but nobody said so: it is read again, and is ours."""
    a = cluster["a"]

    def lose_the_answer() -> None:
        a.coordinator.go_down()
        a.coordinator.at["solving"] = lambda: setattr(a.coordinator, "is_down", False)

    a.coordinator.at["published"] = lose_the_answer
    assert a.create().lock_digest == cluster.digest
    assert (a.begun, cluster.generations) == (1, [1])


# ----------------------------------------------------------------------------------------------------------- failures


def test_a_permanent_failure_is_everybodys(cluster: Cluster) -> None:
    """What no host could solve is solved by one only; the others say what it said, and that it is not their own."""
    a, b = cluster["a"], cluster["b"]
    for host in (a, b):
        host.orders.fail(Unsatisfiable("nothing provides numpy"), "fail-solve")
    with pytest.raises(Unsatisfiable):
        a.create()
    with pytest.raises(Unsatisfiable, match="nothing provides numpy") as caught:
        b.create()
    assert caught.value.fields["is_repeated"] is True
    assert b.begun == 0
    b.orders.withdraw("fail-solve")
    with pytest.raises(Unsatisfiable):
        b.create()
    assert b.create(retry=True).lock_digest == cluster.digest


def test_a_retry_of_what_is_declared_asks_the_cluster(cluster: Cluster) -> None:
    """A failure of a declared environment is the administrator's to clear: hosts that retry do not all solve again."""
    a, b = cluster["a"], cluster["b"]
    a.orders.fail(Unsatisfiable("no"), "fail-solve")
    with pytest.raises(Unsatisfiable):
        a.create()
    b.coordinator.declared({NAME: 1})
    with pytest.raises(Unsatisfiable):
        b.create(retry=True)
    assert b.begun == 0


@pytest.mark.parametrize("error", [NetworkError("away"), BuildFailed("no compiler here")])
def test_other_failures_are_the_hosts_own(cluster: Cluster, error: EnvmgrError) -> None:
    """What may go away, or lies in the host, keeps no other host from trying."""
    cluster["a"].orders.fail(error, "fail-solve")
    with pytest.raises(type(error)):
        cluster["a"].create()
    assert cluster["b"].create().lock_digest == cluster.digest


def test_a_build_that_fails_after_the_solve(cluster: Cluster) -> None:
    """The lockfile is there for all, and the failure is that host's."""
    a = cluster["a"]
    a.orders.fail(BuildFailed("full"))
    with pytest.raises(BuildFailed):
        a.create()
    assert cluster["b"].create().lock_digest == cluster.digest
    a.orders.withdraw("fail")
    assert a.create(retry=True).lock_digest == cluster.digest


def test_a_lockfile_that_is_too_large(cluster: Cluster) -> None:
    """It is refused with a clear error, once for all hosts."""
    cluster.fake.largest_bytes = 10
    with pytest.raises(LockfileTooLarge):
        cluster["a"].create()
    with pytest.raises(LockfileTooLarge) as caught:
        cluster["b"].create()
    assert caught.value.fields["is_repeated"] is True
    assert cluster["b"].begun == 0
    assert cluster["a"].is_clean()


# ---------------------------------------------------------------------------------------------- without the coordinator


@pytest.mark.parametrize("step", ["lockfile", "solving", "claimed", "publish"])
def test_a_new_solve_without_the_coordinator(cluster: Cluster, step: str) -> None:
    """Away at any step before the publication, a new solve fails with its own code, and leaves nothing."""
    a = cluster["a"]
    a.coordinator.at[step] = a.coordinator.go_down
    with pytest.raises(CoordinatorUnavailable):
        a.create()
    assert (a.is_clean(), a.own, cluster.generations) == (True, None, [])
    a.coordinator.is_down = False
    assert a.create().lock_digest == cluster.digest


@pytest.mark.parametrize("step", ["building", "lockfile", "solving", "claimed", "publish"])
def test_a_solve_alone_by_setting(cluster: Cluster, step: str) -> None:
    """Where the setting allows it, the host solves by itself; what it found becomes the cluster's when that is back."""
    a = cluster["a"]
    told: list[Event] = []
    a.coordinator.at[step] = a.coordinator.go_down
    environ = {"ENVMGR_SOLVE_WITHOUT_COORDINATOR": "true"}
    digest = a.create(environ=environ, report=told.append).lock_digest
    assert any(event.kind == "warning" and "by itself" in event.message for event in told)
    a.coordinator.is_down = False
    manager = a.world.manager()
    assert a.drifts is None
    assert not manager.align(NAME).is_new
    assert (a.drifts, cluster.digest) == (False, digest)
    assert cluster["b"].create().lock_digest == digest


def test_drift(cluster: Cluster) -> None:
    """A host that solved alone what the cluster has otherwise shows it, and is brought in line; running jobs stay."""
    a, b = cluster["a"], cluster["b"]
    a.coordinator.go_down()
    a.create(environ={"ENVMGR_SOLVE_WITHOUT_COORDINATOR": "true"})
    lease = ready.acquire(str(a.world.root), NAME)
    assert lease is not None
    b.create()
    with pytest.raises(CoordinatorUnavailable):
        _ = a.drifts
    with pytest.raises(CoordinatorUnavailable):
        a.world.manager().align(NAME)
    a.coordinator.is_down = False
    manager = a.world.manager()
    assert (a.drifts, b.drifts) == (True, False)
    assert manager.align(NAME).is_new
    assert (a.drifts, a.record().lock_digest) == (False, b.record().lock_digest)
    assert Path(lease.prefix).exists()
    lease.close()
    manager.reclaim()
    assert a.is_clean()


@pytest.mark.parametrize("step", ["lockfile", "solving", "publish"])
def test_an_alignment_that_loses_the_coordinator(cluster: Cluster, step: str) -> None:
    """Away in the middle of it, at whatever step: it has brought nothing in line, and says so instead of succeeding."""
    a, b = cluster["a"], cluster["b"]
    a.coordinator.go_down()
    alone = a.create(environ={"ENVMGR_SOLVE_WITHOUT_COORDINATOR": "true"}).lock_digest
    a.coordinator.is_down = False
    if step == "lockfile":  # to be brought to another host's lockfile; else its own is to be published
        b.create()
    a.coordinator.at[step] = a.coordinator.go_down
    manager = a.world.manager()
    with pytest.raises(CoordinatorUnavailable):
        manager.align(NAME)
    assert a.record().lock_digest == alone
    a.coordinator.is_down = False
    manager.align(NAME)
    assert a.drifts is False


def test_a_lockfile_that_the_store_lost(cluster: Cluster) -> None:
    """Aligning an environment of which the cluster knows nothing publishes what it was made from; it solves nothing."""
    a = cluster["a"]
    a.coordinator.go_down()
    digest = a.create(environ={"ENVMGR_SOLVE_WITHOUT_COORDINATOR": "true"}).lock_digest
    a.coordinator.is_down = False
    (a.world.layout.name(NAME) / f"lockfile-{SUBDIR}.yml").unlink()
    a.solves("2.0")
    assert not a.world.manager().align(NAME).is_new
    assert (cluster.digest, a.begun) == (digest, 1)


def test_a_solve_refutes_a_failure(cluster: Cluster) -> None:
    """Who lost the claim and meanwhile another failed has a lockfile all the same: it is published."""
    a, b = cluster["a"], cluster["b"]
    b.orders.fail(Unsatisfiable("no"), "fail-solve")

    def overtaken() -> None:
        a.coordinator.lose_claims()
        with pytest.raises(Unsatisfiable):
            b.create()

    a.coordinator.at["publish"] = overtaken
    assert a.create().lock_digest == cluster.digest
    assert b.create(retry=True).lock_digest == cluster.digest


def test_a_known_lockfile_is_shared_at_the_next_build(cluster: Cluster) -> None:
    """What a host solved before the cluster knew it is the cluster's from its next build on."""
    a = cluster["a"]
    a.coordinator.go_down()
    digest = a.create(environ={"ENVMGR_SOLVE_WITHOUT_COORDINATOR": "true"}).lock_digest
    a.world.manager().remove(NAME)
    a.coordinator.is_down = False
    assert a.create().lock_digest == cluster.digest == digest
    assert a.begun == 2


def test_nothing_is_asked_by_a_host_alone(world: World) -> None:
    """On a host in no cluster, aligning does nothing."""
    world.manager().ensure(SPEC).lease.close()
    manager = world.manager()
    assert not manager.align(NAME).is_new


# ----------------------------------------------------------------------------------------------------- given lockfiles


def test_a_lockfile_that_a_caller_brings(cluster: Cluster) -> None:
    """It is published once it was built; another one is refused everywhere, and the same is welcome."""
    a, b = cluster["a"], cluster["b"]
    given, other = lock_text(cluster, "7.0"), lock_text(cluster, "8.0")
    a.orders.fail(BuildFailed("no"))
    with pytest.raises(BuildFailed):
        a.create(lock_text=given)
    assert cluster.generations == []
    a.orders.withdraw("fail")
    assert a.create(lock_text=given).lock_digest == cluster.digest == lockfile.parse(given, SUBDIR).digest
    with pytest.raises(LockfileMismatch):
        b.create(lock_text=other)
    assert (b.begun, b.is_clean()) == (0, True)
    assert b.create(lock_text=given).lock_digest == cluster.digest


def test_a_given_lockfile_that_comes_second(cluster: Cluster) -> None:
    """A host that was overtaken after it had built discards it, and says so."""
    a = cluster["a"]
    given = lock_text(cluster, "7.0")

    def overtaken() -> None:
        a.coordinator.lose_claims()
        cluster["b"].create()

    a.coordinator.at["publish"] = overtaken
    with pytest.raises(LockfileMismatch, match="another host published"):
        a.create(lock_text=given)
    assert a.is_clean()
    assert a.create().lock_digest == cluster.digest


# ----------------------------------------------------------------------------------------------- relock, declarations


def test_relock_makes_the_next_generation(cluster: Cluster) -> None:
    """For an environment that the cluster did not declare; the other hosts drift, and align."""
    a, b = cluster["a"], cluster["b"]
    for host in (a, b):
        host.create()
    assert not a.world.manager().relock(NAME).is_new
    assert cluster.generations == [1]
    a.solves("2.0")
    assert a.world.manager().relock(NAME).is_new
    assert (cluster.generations, cluster.digest) == ([1, 2], a.record().lock_digest)
    assert b.drifts
    assert b.world.manager().align(NAME).record.lock_digest == cluster.digest


def test_two_hosts_relock(cluster: Cluster) -> None:
    """Who loses the claim to another relock installs what that one published."""
    a, b = cluster["a"], cluster["b"]
    for host in (a, b):
        host.create()
    a.solves("2.0")
    b.solves("3.0")

    def overtaken() -> None:
        a.coordinator.lose_claims()
        b.world.manager().relock(NAME)

    a.coordinator.at["publish"] = overtaken
    assert a.world.manager().relock(NAME).record.lock_digest == b.record().lock_digest == cluster.digest
    assert (cluster.generations, a.own) == ([1, 2], b.own)


def test_a_relock_without_the_coordinator(cluster: Cluster) -> None:
    """It is a new solve: refused, and nothing has changed."""
    a = cluster["a"]
    before = a.create()
    a.solves("2.0")
    a.coordinator.go_down()
    with pytest.raises(CoordinatorUnavailable):
        a.world.manager().relock(NAME)
    assert (a.record(), a.is_clean()) == (before, True)


def test_what_the_cluster_declares(cluster: Cluster) -> None:
    """It is relocked and removed by the cluster's commands only, and never collected."""
    a = cluster["a"]
    a.create()
    a.coordinator.declared({NAME: 1})
    manager = a.world.manager()
    with pytest.raises(DeclaredInCluster) as caught:
        manager.remove(NAME)
    assert "cluster remove" in str(caught.value.hint)
    with pytest.raises(DeclaredInCluster) as caught:
        manager.relock(NAME)
    assert "cluster relock" in str(caught.value.hint)
    manager.collect(limits=Limits(max_age_s=0.001, min_age_s=0.0))
    assert a.record().name == NAME
    assert manager.remove(NAME, by_cluster=True).is_deleted


def test_the_cluster_relocks(cluster: Cluster) -> None:
    """A higher generation that nobody has solved is solved by the first host that aligns; the others install it."""
    hosts = [cluster[letter] for letter in "abc"]
    for host in hosts:
        host.create()
    before = cluster.digest
    for host in hosts:
        host.solves(f"5{host.coordinator.name}")
        host.coordinator.declared({NAME: 2})
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda host: host.world.manager().align(NAME), hosts))
    assert cluster.generations == [1, 2]
    assert cluster.digest != before
    assert {replaced.record.lock_digest for replaced in done} == {cluster.digest}
    late = cluster["d"]
    late.coordinator.declared({NAME: 2})
    assert late.create().lock_digest == cluster.digest


def test_a_new_host_solves_what_is_relocked(cluster: Cluster) -> None:
    """An old generation is not installed where the cluster wants a newer one; nor is it proposed as that one."""
    a = cluster["a"]
    a.create()
    a.world.manager().remove(NAME)
    a.solves("6.0")
    a.coordinator.declared({NAME: 3})
    assert a.create().lock_digest == cluster.digest
    assert cluster.generations == [1, 3]


def test_declared_classes_reach_the_builder(cluster: Cluster) -> None:
    """What the cluster declares of a machine class is what the builder is told to solve for; else nothing."""
    a = cluster["a"]
    context = a.world.manager().context
    with contextlib.closing(sweep.begin_build(a.world.layout, NAME, SPEC.digest)) as lease:
        undeclared = requests.build_request(context, SPEC, lease, None, requests.ORDINARY)
        a.coordinator.classes({SUBDIR: {"__glibc": "2.28", "__cuda": ""}})
        declared = requests.build_request(context, SPEC, lease, None, requests.ORDINARY)
    assert undeclared.solve_virtual_packages is None
    assert declared.solve_virtual_packages == (("__cuda", ""), ("__glibc", "2.28"))


# --------------------------------------------------------------------------------------------------- the build's claim


def test_a_local_store_goes_on_without_the_claim(cluster: Cluster) -> None:
    """Lost in the middle, the build's claim costs a store of one host nothing."""
    a = cluster["a"]
    a.orders.hang()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(a.create)
        a.orders.wait_started()
        a.coordinator.lose_claims()
        a.orders.release()
        assert first.result().lock_digest == cluster.digest


def test_a_shared_store_does_not(cluster: Cluster) -> None:
    """There a lost claim means that another host may build: nothing is published, the build goes."""
    a = cluster.join("a", store_id="one", is_shared=True)
    a.orders.hang()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(a.create)
        a.orders.wait_started()
        a.coordinator.lose_claims()
        a.orders.release()
        with pytest.raises(ClaimLost):
            first.result()
    assert publication.published(a.world.layout) == {}
    assert a.is_clean()
    a.create()
    a.coordinator.is_down = True
    for forbidden in (lambda: a.world.manager().remove(NAME), lambda: a.world.manager().repair(NAME)):
        with pytest.raises(CoordinatorUnavailable):
            forbidden()
    assert a.record()


def test_a_claim_lost_by_who_removes_and_replaces(cluster: Cluster) -> None:
    """On a shared store neither happens without it."""
    a = cluster.join("a", store_id="one", is_shared=True)
    before = a.create()
    manager = a.world.manager()
    a.orders.hang()
    with ThreadPoolExecutor() as pool:
        repair = pool.submit(manager.repair, NAME)
        a.orders.wait_started()
        a.coordinator.lose_claims()
        a.orders.release()
        with pytest.raises(ClaimLost):
            repair.result()
    assert (a.record(), a.is_clean()) == (before, True)


def test_two_hosts_of_one_store(cluster: Cluster, tmp_path: Path) -> None:
    """Of two hosts that share a store one builds; the other waits for its claim and finds the environment."""
    a = cluster.join("a", store_id="one", is_shared=True)
    b = cluster.join("b", store_id="one", is_shared=True)
    (tmp_path / "elsewhere").mkdir()
    b.world = dataclasses.replace(b.world, layout=_with_other_locks(a, tmp_path / "elsewhere"))
    a.orders.hang()
    waits = threading.Event()

    def report(event: Event) -> None:
        if event.phase == "wait":
            waits.set()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(a.create)
        a.orders.wait_started()
        second = pool.submit(b.world.manager().ensure, SPEC, report=report)
        assert waits.wait(30)
        a.orders.release()
        first.result()
        ensured = second.result()
    assert not ensured.was_built
    ensured.lease.close()
    assert (a.begun, b.begun) == (1, 0)


def _with_other_locks(host: Host, root: Path) -> Layout:
    """Return the same store with locks of its own, as on a file system whose locks end at the host."""
    for path in host.world.root.iterdir():
        if path != host.world.layout.locks:
            (root / path.name).symlink_to(path)
    layout = Layout(root)
    layout.locks.mkdir()
    return layout


def test_leases_that_are_not_seen(cluster: Cluster) -> None:
    """On a shared store whose locks do not hold between hosts nothing that may be in use is deleted."""
    a = cluster.join("a", store_id="one", is_shared=True)
    a.create()
    a.coordinator.sees_leases = False
    manager = a.world.manager()
    for forbidden in (
        lambda: manager.remove(NAME),
        lambda: manager.remove(NAME, when_free=True),
        lambda: manager.collect(limits=Limits(max_age_s=0.001, min_age_s=0.0)),
    ):
        with pytest.raises(UnsuitableFilesystem):
            forbidden()
    assert manager.reclaim().gone == ()
    assert a.record()
    with pytest.raises(EnvironmentNotFound):
        manager.remove(spec_of("other").name)


# -------------------------------------------------------------------------------------------------------------- chance


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_faults(cluster: Cluster, seed: int) -> None:
    """Whatever befalls three busy hosts: a generation never changes, and once all is well, all agree.

    Faults come at steps drawn with a fixed seed; how the threads interleave is the machine's.
    """
    seen: dict[int, str] = {}
    draw = random.Random(seed)
    plans = {letter: [draw.random() for _ in range(24)] for letter in "abc"}

    def look() -> None:
        for number in cluster.generations:
            text = (cluster.fake.directory / "lockfiles" / f"{NAME} {SUBDIR} {number}").read_text(encoding="utf-8")
            assert seen.setdefault(number, text) == text

    def live(letter: str) -> None:
        host, plan = cluster[letter], iter(plans[letter])
        coordinator, manager = host.coordinator, host.world.manager()
        for turn in range(6):
            fault, at, what = next(plan), next(plan), next(plan)
            step = ("lockfile", "solving", "claimed", "publish", "published")[int(at * 5)]
            if fault < 0.7:
                coordinator.at[step] = coordinator.lose_claims if fault < 0.35 else coordinator.go_down
            host.solves(f"{letter}{turn}")
            with contextlib.suppress(CoordinatorUnavailable, EnvironmentNotFound):
                if what < 0.3:
                    manager.relock(NAME)
                elif what < 0.5:
                    manager.align(NAME)
                elif what < 0.7:
                    manager.remove(NAME)
                else:
                    manager.ensure(SPEC, retry=True).lease.close()
            coordinator.is_down = False
            look()

    for letter in plans:
        cluster[letter].create()
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(live, letter) for letter in plans]:
            done.result()
    for letter in plans:
        host = cluster[letter]
        host.coordinator.at.clear()
        host.create(retry=True)
        host.world.manager().align(NAME)
        assert host.record().lock_digest == cluster.digest
        host.world.manager().reclaim()
        assert host.is_clean()
    look()


# --------------------------------------------------------------------------------------------------------------- kills


def _alone(cluster: Cluster) -> None:
    host = cluster["a"]
    host.coordinator.is_down = True
    host.create(environ={"ENVMGR_SOLVE_WITHOUT_COORDINATOR": "true"})
    host.coordinator.is_down = False
    cluster["b"].create()


def _relocked(cluster: Cluster) -> None:
    cluster["a"].create()
    cluster["a"].solves("2.0")


AGREED = (Step.LOCKFILE, Step.PUBLISH, Step.REPUBLISH)
POINTS = ("before", "changed")
SCENARIOS: dict[str, tuple[Callable[[Cluster], object], Callable[[Host], object]]] = {
    "solve": (lambda cluster: cluster["a"], lambda host: host.create()),
    "adopt": (lambda cluster: (cluster["a"], cluster["b"].create()), lambda host: host.create()),
    "align": (_alone, lambda host: host.world.manager().align(NAME)),
    "relock": (_relocked, lambda host: host.world.manager().relock(NAME)),
}


@pytest.mark.slow
@pytest.mark.parametrize("label", SCENARIOS)
def test_killed_at_every_point(label: str, tmp_path: Path) -> None:
    """Killed wherever it asks the cluster or keeps what was agreed: one lockfile each generation, and all agree later.

    The steps between are those of a host alone, and killed there.
    """
    prepare, act = SCENARIOS[label]

    def prepared(number: str) -> Cluster:
        (tmp_path / number).mkdir()
        cluster = Cluster(tmp_path / number)
        prepare(cluster)
        return cluster

    def run(cluster: Cluster, at: int | None) -> int:
        count = 0

        def step() -> None:
            nonlocal count
            if count == at:
                die_now()
            count += 1

        host = cluster["a"]
        reach = host.coordinator.reach

        def reached(name: str) -> None:
            reach(name)
            step()

        host.coordinator.reach = reached  # type: ignore[method-assign]
        with observed(lambda at, point: step() if at in AGREED and point in POINTS else None):
            act(host)
        return count

    recorded = prepared("recorded")
    points = Forked(lambda: run(recorded, None)).result()
    with no_process_left():
        for number in range(points):
            cluster = prepared(str(number))
            with pytest.raises(Died):
                Forked(lambda cluster=cluster, number=number: run(cluster, number)).result()  # type: ignore[misc]
            reap_orphans()
            for letter in ("a", "c"):
                host = cluster[letter]
                host.create()
                host.world.manager().align(NAME)
                assert host.record().lock_digest == cluster.digest, (label, number)
                assert host.drifts is False
                assert host.world.manager().verify(NAME) == ()
                host.world.manager().reclaim()
                assert host.is_clean()
            shutil.rmtree(tmp_path / str(number))
