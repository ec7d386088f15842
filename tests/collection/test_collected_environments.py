"""Which environments collection removes, in which order, and which it never does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fakes.backend import Orders
from fakes.clock import FakeClock
from fakes.worlds import World, observed
from stores import DAY_S, NO_LIMITS, create, is_whole, names_in, published, specs

from envmgr import ready
from envmgr.errors import Cancelled
from envmgr.fsio import Step
from envmgr.manager.collection import Limits
from envmgr.names import Alias
from envmgr.store import leases, publication, records, sweep

ONE, TWO, THREE, FOUR = specs(4)
MONTH = Limits(max_age_s=30 * DAY_S)
KB = 1000


def test_a_personal_store_keeps_everything(world: World, clock: FakeClock) -> None:
    """By the defaults of a personal store no environment goes, however old."""
    create(world, ONE)
    clock.now += 1000 * DAY_S
    assert world.manager().collect() == ()
    assert published(world) == {ONE.name}


def test_what_was_not_used_for_long_goes(world: World, clock: FakeClock) -> None:
    """An environment goes when its last use is longer ago than allowed; being created again is a use."""
    for spec in (ONE, TWO):
        create(world, spec)
    clock.now += 29 * DAY_S
    create(world, TWO)
    clock.now += 2 * DAY_S
    (thing,) = world.manager().collect(limits=MONTH)
    assert (thing.name, thing.path) == (ONE.name, world.layout.publication(ONE.name))
    assert thing.reason == "not used for 31 days, and 30 days are allowed"
    assert thing.size_bytes > 0
    assert published(world) == {TWO.name}
    assert os.listdir(world.layout.trash) == []


def test_sizes_are_told_in_the_unit_that_fits(world: World) -> None:
    """A limit of a few bytes is told as such, and not as 0.0 MiB."""
    create(world, ONE)
    (thing,) = world.manager().collect(limits=Limits(max_total_bytes=10, min_age_s=0.0))
    assert " and 10 B are allowed; " in thing.reason


def test_what_was_collected_comes_back_the_same(world: World, clock: FakeClock) -> None:
    """Alias, spec and lockfile of a collected environment stay; created again, it has the same packages."""
    create(world, ONE, alias="training")
    text = world.manager().lock(ONE)
    clock.now += 31 * DAY_S
    (thing,) = world.manager().collect(limits=MONTH)
    assert "training will stand for it again" in thing.reason
    assert ready.resolve(str(world.root), "training") is None
    Orders(world.orders).say("version", "2.0")
    create(world, ONE)
    assert world.manager().lock(ONE) == text
    found = ready.resolve(str(world.root), "training")
    assert found is not None
    assert found[0] == ONE.name


def test_use_is_seen_from_outside(world: World, clock: FakeClock) -> None:
    """A lease that is held while use is sampled counts as a use at that time, and shows; one that ended before not."""
    for spec in (ONE, TWO):
        create(world, spec)
    made_at = clock.now
    ready.acquire(str(world.root), TWO.name).close()  # type: ignore[union-attr]
    clock.now += 20 * DAY_S
    lease = ready.acquire(str(world.root), ONE.name)
    assert lease is not None
    assert world.manager().sample_use() == 1
    lease.close()
    clock.now += 20 * DAY_S
    assert world.manager().sample_use() == 0
    assert world.manager().show(ONE.name).last_used_at == made_at + 20 * DAY_S
    assert world.manager().show(TWO.name).last_used_at == made_at
    assert names_in(world.manager().collect(limits=MONTH)) == [TWO.name]


@pytest.mark.parametrize("how", ["leased", "leased by a child", "inside", "pinned", "protected", "young", "busy"])
def test_what_is_never_collected(world: World, clock: FakeClock, how: str) -> None:
    """In use (with a lease or without), pinned, wanted by the cluster, young: it stays, whatever the limits."""
    create(world, ONE, size_bytes=100)
    build = publication.published(world.layout)[ONE.name]
    clock.now += 100 * DAY_S
    limits = Limits(max_age_s=1.0, max_total_bytes=1, min_age_s=0.0)
    kept: subprocess.Popen[bytes] | None = None
    lease = ready.acquire(str(world.root), ONE.name) if how.startswith("leased") else None
    if how == "leased by a child":
        assert lease is not None
        kept = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lease.fileno()])
        lease.close()
    elif how == "inside":
        kept = subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=world.layout.build(build).prefix(ONE.name))
    elif how == "pinned":
        world.manager().pin(ONE.name, is_pinned=True)
    elif how == "young":
        records.stamp_use(world.layout, ONE.name, clock.now - 10)
        limits = Limits(max_age_s=1.0, max_total_bytes=1, min_age_s=11.0)
    protected = [ONE.name] if how == "protected" else []
    try:
        for dry_run in (True, False):
            if how == "busy":
                with leases.exclusive(world.layout.build(build)) as is_granted:
                    assert is_granted
                    found = world.manager().collect(limits=limits, dry_run=dry_run)
            else:
                found = world.manager().collect(limits=limits, dry_run=dry_run, protected=protected)
            assert names_in(found) == []
            assert is_whole(world, ONE.name)
    finally:
        if lease is not None:
            lease.close()
        if kept is not None:
            kept.communicate()
    if how == "pinned":
        world.manager().pin(ONE.name, is_pinned=False)
    clock.now += 100
    assert names_in(world.manager().collect(limits=limits)) == [ONE.name]


def test_the_least_recently_used_goes_first(world: World, clock: FakeClock) -> None:
    """For the total size, environments go by last use, those with an alias after all others, until it is kept."""
    for spec in (ONE, TWO, THREE, FOUR):
        create(world, spec, size_bytes=100 * KB, alias="old" if spec is ONE else None)
        clock.now += 60
    records.stamp_use(world.layout, TWO.name, clock.now)
    clock.now += 60
    limits = Limits(max_total_bytes=150 * KB, min_age_s=0.0)
    found = world.manager().collect(limits=limits, dry_run=True)
    assert names_in(found) == [THREE.name, FOUR.name, TWO.name]
    assert all("all together are" in thing.reason for thing in found)
    assert world.manager().collect(limits=limits) == found
    assert published(world) == {ONE.name}
    assert world.manager().collect(limits=limits) == ()


def test_shared_files_count_once(world: World, clock: FakeClock) -> None:
    """Environments that share their files are together as large as one, so none goes for the total size."""
    for spec in (ONE, TWO, THREE):
        create(world, spec, size_bytes=100 * KB)
    builds = publication.published(world.layout)
    first, *others = (world.layout.build(builds[spec.name]).prefix(spec.name) / "filling" for spec in (ONE, TWO, THREE))
    for other in others:
        other.unlink()
        other.hardlink_to(first)
    clock.now += DAY_S
    limits = Limits(max_total_bytes=150 * KB, min_age_s=0.0)
    assert names_in(world.manager().collect(limits=limits)) == []
    # When all must go, what they share is given back with the last of them.
    found = world.manager().collect(limits=Limits(max_age_s=1.0, min_age_s=0.0), dry_run=True)
    assert [thing.size_bytes >= 100 * KB for thing in found] == [False, False, True]
    assert world.manager().collect(limits=Limits(max_age_s=1.0, min_age_s=0.0)) == found


def test_a_use_in_the_last_moment(world: World, clock: FakeClock) -> None:
    """Whoever leases an environment while others are being collected keeps it, and it keeps its name."""
    for spec in (ONE, TWO):
        create(world, spec)
        clock.now += 60
    clock.now += 100 * DAY_S
    taken: list[ready.Lease] = []

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.DELETE, "before") and not taken:
            lease = ready.acquire(str(world.root), TWO.name)
            assert lease is not None
            taken.append(lease)

    with observed(observer):
        assert names_in(world.manager().collect(limits=MONTH)) == [ONE.name]
    assert is_whole(world, TWO.name)
    taken[0].close()


@pytest.mark.parametrize("change", ["pinned", "used", "replaced"])
def test_what_changes_before_its_turn_stays(world: World, clock: FakeClock, change: str) -> None:
    """What is pinned, seen in use or replaced after collection has looked, and before it locks, stays."""
    for spec in (ONE, TWO):
        create(world, spec)
        clock.now += 60
    clock.now += 100 * DAY_S

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.UNPUBLISH, "after") and ready.resolve(str(world.root), TWO.name) is not None:
            if change == "pinned":
                world.manager().pin(TWO.name, is_pinned=True)
            elif change == "used":
                records.stamp_use(world.layout, TWO.name, clock.now)
            else:
                world.manager().repair(TWO.name)

    with observed(observer):
        assert names_in(world.manager().collect(limits=MONTH)) == [ONE.name]
    assert published(world) == {TWO.name}


def test_a_wrong_clock_removes_nothing(world: World, clock: FakeClock) -> None:
    """A last use in the future counts as now, and is old when it is old by the right clock."""
    create(world, ONE)
    clock.now -= 400 * DAY_S
    assert names_in(world.manager().collect(limits=MONTH)) == []
    clock.now += 31 * DAY_S
    assert names_in(world.manager().collect(limits=MONTH)) == [ONE.name]


def test_a_damaged_environment_is_collected(world: World, clock: FakeClock) -> None:
    """One whose record or files were deleted by hand goes like any other."""
    for spec in (ONE, TWO):
        create(world, spec)
    builds = publication.published(world.layout)
    world.layout.build(builds[ONE.name]).record.unlink()
    subprocess.run(["rm", "-rf", world.layout.build(builds[TWO.name]).directory], check=True)
    clock.now += 100 * DAY_S
    found = world.manager().collect(limits=Limits(max_age_s=DAY_S, max_total_bytes=1), dry_run=True)
    assert sorted(names_in(found)) == [ONE.name, TWO.name]
    assert world.manager().collect(limits=Limits(max_age_s=DAY_S, max_total_bytes=1)) == found
    assert published(world) == set()


def test_a_collection_can_be_cancelled(world: World, clock: FakeClock) -> None:
    """Between two environments a caller may give up; what is left is whole."""
    for spec in (ONE, TWO):
        create(world, spec)
    clock.now += 100 * DAY_S
    with pytest.raises(Cancelled):
        world.manager().collect(limits=MONTH, is_cancelled=lambda: len(published(world)) < 2)
    assert published(world) == {TWO.name}
    assert is_whole(world, TWO.name)


def test_water_marks(small: World, clock: FakeClock) -> None:
    """Above the high mark of bytes or inodes, environments go until the low mark; below it none does."""
    manager = small.manager({"ENVMGR_GC_HIGH_PERCENT": "65", "ENVMGR_GC_LOW_PERCENT": "45"})
    for spec in (ONE, TWO, THREE, FOUR):
        clock.now += 60
        create(small, spec, size_bytes=3_500_000)
        prefix = small.layout.build(publication.published(small.layout)[spec.name]).prefix(spec.name)
        for number in range(50):
            (prefix / f"file{number}").touch()
        if spec is TWO:
            assert manager.collect(limits=NO_LIMITS) == ()
    clock.now += 60
    planned = manager.collect(limits=NO_LIMITS, dry_run=True)
    assert len(published(small)) == 4
    assert manager.collect(limits=NO_LIMITS) == planned
    assert names_in(planned) == [ONE.name, TWO.name]
    assert all("short of" in thing.reason for thing in planned)
    assert manager.collect(limits=NO_LIMITS) == ()


def test_garbage_goes_before_environments(small: World, clock: FakeClock) -> None:
    """When trash and packages of no environment are what fills the disk, no environment goes."""
    manager = small.manager({"ENVMGR_GC_HIGH_PERCENT": "60", "ENVMGR_GC_LOW_PERCENT": "50"})
    create(small, ONE, size_bytes=1_000_000)
    package = small.layout.packages / "unpacked" / ("0" * 48)
    for directory in (package, small.layout.trash / "old"):
        directory.mkdir(parents=True)
        (directory / "content").write_bytes(b"x" * 7_000_000)
        for number in range(150):
            (directory / str(number)).touch()
    clock.now += 100 * DAY_S
    planned = manager.collect(limits=NO_LIMITS, dry_run=True)
    assert [thing.path for thing in planned] == [small.layout.trash / "old", package]
    assert manager.collect(limits=NO_LIMITS) == planned
    assert published(small) == {ONE.name}


def test_less_free_than_a_build_wants(world: World, clock: FakeClock) -> None:
    """With water marks on, a file system with less free than a build wants is too full, whatever its percentage."""
    create(world, ONE)
    clock.now += DAY_S
    environ = {"ENVMGR_GC_HIGH_PERCENT": "100", "ENVMGR_MIN_FREE_BYTES": "1000TiB"}
    assert names_in(world.manager(environ).collect(limits=NO_LIMITS)) == [ONE.name]


class TestReclaim:
    USER = "import sys; from envmgr import ready; ready.acquire(*sys.argv[1:]); print(flush=True); input()"

    def test_the_files_go_with_the_last_lease(self, world: World) -> None:
        """After remove --when-free the files stay while a process uses them, and reclaim takes them when it ended."""
        create(world, ONE)
        build = publication.published(world.layout)[ONE.name]
        assert world.manager().reclaim().gone == ()
        with subprocess.Popen(
            [sys.executable, "-c", self.USER, str(world.root), ONE.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            world.manager().remove(ONE.name, when_free=True)
            found = world.manager().reclaim()
            assert (found.gone, found.leased, found.busy) == ((), (build,), ())
            process.communicate(b"\n")
        assert world.manager().reclaim().gone == (build,)
        assert sweep.all_builds(world.layout) == ()

    @pytest.mark.parametrize("by", ["create", "remove", "relock", "repair", "gc"])
    def test_whoever_changes_the_store_frees_it(self, world: World, by: str) -> None:
        """Without a daemon, the files go with the next create, remove, relock, repair or gc of any other name."""
        create(world, ONE)
        create(world, TWO)
        lease = ready.acquire(str(world.root), ONE.name)
        assert lease is not None
        world.manager().remove(ONE.name, when_free=True)
        lease.close()
        manager = world.manager()
        assert lease.build_id in sweep.all_builds(world.layout)
        if by == "create":
            create(world, THREE)
        elif by == "remove":
            manager.remove(TWO.name)
        elif by == "relock":
            manager.relock(TWO.name)
        elif by == "repair":
            manager.repair(TWO.name)
        else:
            manager.collect()
        assert lease.build_id not in sweep.all_builds(world.layout)

    def test_recover_clears_what_a_killed_daemon_left(self, world: World) -> None:
        """Unfinished builds, trash and temporary files go; what is published, and the caches, stay."""
        create(world, ONE, alias="training")
        sweep.begin_build(world.layout, TWO.name, TWO.digest).close()
        (world.layout.trash / "old").mkdir()
        (world.layout.envs / ".tmp-left").touch()
        (world.layout.packages / "unpacked" / ("0" * 48)).mkdir(parents=True)
        world.manager().recover()
        assert sweep.all_builds(world.layout) == tuple(publication.published(world.layout).values())
        assert os.listdir(world.layout.trash) == []
        assert sorted(os.listdir(world.layout.envs)) == sorted([ONE.name, Alias("training")])
        assert (world.layout.packages / "unpacked" / ("0" * 48)).is_dir()
        assert is_whole(world, ONE.name)
