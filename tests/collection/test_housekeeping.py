"""What the daemon does for its store without being asked, and when."""

from __future__ import annotations

import os
import queue
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fakes.clock import FakeClock
from fakes.processes import LIMIT_S
from fakes.worlds import World, make_world
from stores import DAY_S, create, published, specs

from envmgr import ready
from envmgr.daemon import housekeeping
from envmgr.daemon.housekeeping import Housekeeping
from envmgr.errors import NoSpace
from envmgr.manager.collection import Collected
from envmgr.manager.context import SystemClock
from envmgr.manager.manager import Manager
from envmgr.names import BuildId
from envmgr.store import publication, sweep

ONE, TWO = specs(2)


class Heard:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.collections: list[tuple[Collected, ...]] = []
        self.builds: queue.Queue[BuildId] = queue.Queue()
        self.failures: list[tuple[str, Exception]] = []

    def collected(self, found: tuple[Collected, ...], duration_s: float) -> None:
        assert duration_s >= 0
        self.collections.append(found)

    def reclaimed(self, builds: tuple[BuildId, ...]) -> None:
        for build in builds:
            self.builds.put(build)

    def failed(self, job: str, error: Exception) -> None:
        self.failures.append((job, error))


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What the housekeeping tells; nothing of it fails unless the test has taken the failures away."""
    found = Heard()
    yield found
    assert found.failures == []


@contextmanager
def running(keeping: Housekeeping) -> Iterator[None]:
    keeping.start()
    try:
        yield
    finally:
        assert keeping.stop(LIMIT_S)


def test_use_is_sampled_each_minute(world: World, clock: FakeClock, heard: Heard) -> None:
    """Once a minute, whoever holds a lease is seen; in between there is nothing to do."""
    create(world, ONE)
    keeping = Housekeeping(world.manager, clock, heard)
    lease = ready.acquire(str(world.root), ONE.name)
    for _ in range(3):
        assert keeping.turn() == clock.now + housekeeping.MINUTE_S
        assert world.manager().show(ONE.name).last_used_at == clock.now
        clock.now += housekeeping.MINUTE_S
    lease.close()  # type: ignore[union-attr]


def test_what_was_removed_in_use_is_looked_at_until_it_is_gone(world: World, clock: FakeClock, heard: Heard) -> None:
    """Woken by the removal, it looks every few seconds while the lease is held, and then no more than each minute."""
    create(world, ONE)
    keeping = Housekeeping(world.manager, clock, heard)
    keeping.turn()
    lease = ready.acquire(str(world.root), ONE.name)
    assert lease is not None
    world.manager().remove(ONE.name, when_free=True)
    clock.now += 10
    keeping.wake()
    for _ in range(3):
        assert keeping.turn() == clock.now + housekeeping.LEASED_S
        clock.now += housekeeping.LEASED_S
    lease.close()
    assert keeping.turn() > clock.now + housekeeping.LEASED_S
    assert heard.builds.get_nowait() == lease.build_id
    assert sweep.all_builds(world.layout) == ()


def test_a_process_without_a_lease_is_asked_for_less_often(world: World, clock: FakeClock, heard: Heard) -> None:
    """What only a look at all processes can tell is looked at twice a minute."""
    create(world, ONE)
    build = publication.published(world.layout)[ONE.name]
    keeping = Housekeeping(world.manager, clock, heard)
    inside = subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=world.layout.build(build).prefix(ONE.name))
    world.manager().remove(ONE.name, when_free=True)
    assert keeping.turn() == clock.now + housekeeping.BUSY_S
    inside.communicate()
    clock.now += housekeeping.BUSY_S
    keeping.turn()
    assert heard.builds.get_nowait() == build


def test_collection_at_its_interval(world: World, clock: FakeClock, heard: Heard) -> None:
    """The first one comes some minutes after the start, then each interval; protected environments stay."""
    for spec in (ONE, TWO):
        create(world, spec)
    clock.now += 100 * DAY_S
    keeping = Housekeeping(
        lambda: world.manager({"ENVMGR_GC_MAX_AGE_S": "30d", "ENVMGR_GC_INTERVAL_S": "2h"}),
        clock, heard, protected=lambda: {TWO.name},
    )  # fmt: skip
    began, times = clock.now, []
    while len(times) < 3:
        next_at = keeping.turn()
        if len(heard.collections) > len(times):
            times.append(clock.now - began)
        clock.now = next_at
    assert times == [300.0, 300.0 + 7200.0, 300.0 + 14400.0]
    assert [[thing.name for thing in found] for found in heard.collections] == [[ONE.name], [], []]
    assert published(world) == {TWO.name}


def test_no_interval_no_collection(world: World, clock: FakeClock, heard: Heard) -> None:
    """With the interval 0 nothing is collected, except when a build finds no space."""
    keeping = Housekeeping(lambda: world.manager({"ENVMGR_GC_INTERVAL_S": "0"}), clock, heard)
    for _ in range(200):
        clock.now = keeping.turn()
    assert heard.collections == []
    keeping.collect_soon()
    keeping.turn()
    assert len(heard.collections) == 1
    keeping.collect_soon()
    assert keeping.turn() <= clock.now + housekeeping.LEAST_BETWEEN_COLLECTIONS_S
    assert len(heard.collections) == 1
    clock.now += housekeeping.LEAST_BETWEEN_COLLECTIONS_S
    keeping.turn()
    assert len(heard.collections) == 2


def test_a_failing_job_stops_nothing(world: World, clock: FakeClock) -> None:
    """A job that fails is told, and the next minute everything is tried again."""
    heard = Heard()
    create(world, ONE)
    is_broken = [True]

    def manager_of() -> Manager:
        if is_broken[0]:
            raise NoSpace("the disk is full")
        return world.manager()

    keeping = Housekeeping(manager_of, clock, heard)
    clock.now = keeping.turn()
    assert {job for job, _ in heard.failures} == {"sample", "collect", "reclaim"}
    is_broken[0] = False
    heard.failures.clear()
    keeping.turn()
    assert heard.failures == []


def test_the_thread(tmp_path_factory: pytest.TempPathFactory, heard: Heard) -> None:
    """It recovers as it starts, reclaims what it is woken for when the last user ends, and stops when told to."""
    world = make_world(tmp_path_factory.mktemp("store"))
    create(world, ONE)
    left = sweep.begin_build(world.layout, TWO.name, TWO.digest)
    left.close()
    with running(Housekeeping(world.manager, SystemClock(), heard)):
        assert heard.builds.get(timeout=LIMIT_S) == left.build_id
    lease = ready.acquire(str(world.root), ONE.name)
    assert lease is not None
    keeping = Housekeeping(world.manager, SystemClock(), heard)
    with running(keeping):
        world.manager().remove(ONE.name, when_free=True)
        keeping.wake()
        lease.close()
        assert heard.builds.get(timeout=LIMIT_S) == lease.build_id
    assert os.listdir(world.layout.builds) == []


def test_a_minute_at_rest_costs_next_to_nothing(world: World, clock: FakeClock, heard: Heard) -> None:
    """What a minute costs with 300 idle processes on the host and a lease in use: far below 0.2 s of processor time."""
    create(world, ONE)
    lease = ready.acquire(str(world.root), ONE.name)
    idle = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(300)]
    try:
        keeping = Housekeeping(world.manager, clock, heard)
        keeping.turn()
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(10):
            clock.now += housekeeping.MINUTE_S
            keeping._minute_at = keeping._reclaim_at = clock.now
            keeping._collect_at = clock.now + 1  # not this job's minute
            keeping.turn()
        after = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        for process in idle:
            process.kill()
        for process in idle:
            process.communicate()
    lease.close()  # type: ignore[union-attr]
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s / 10 < 0.05
