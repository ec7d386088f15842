"""One build however many ask, one result for all who waited, and nothing left of what failed."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.clock import FakeClock
from fakes.processes import LIMIT_S, Died, Forked, all_results, gates, no_process_left
from fakes.worlds import World, make_world, observed, open_descriptors, spec_of

from envmgr import ready
from envmgr.errors import (
    BuilderDied,
    BuildFailed,
    Cancelled,
    Corrupt,
    LockfileMismatch,
    NetworkError,
    NoSpace,
    TimedOut,
    Unsatisfiable,
)
from envmgr.events import Event
from envmgr.fsio import Step
from envmgr.manager.ensure import Ensured
from envmgr.manager.failures import back_off_s
from envmgr.model import Failure
from envmgr.names import BuildId
from envmgr.store import locks, publication, records, sweep

SPEC = spec_of("numpy")
OTHER = spec_of("zlib")


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    """After each test no process is left and no descriptor is open that was not before."""
    before = open_descriptors()
    with no_process_left():
        yield
    assert open_descriptors() == before


def create(world: World, **options: object) -> Ensured:
    ensured = world.manager().ensure(SPEC, **options)  # type: ignore[arg-type]
    ensured.lease.close()
    return ensured


def is_clean(world: World) -> bool:
    """Tell whether nothing but published builds is there, and every lock is free."""
    published = set(publication.published(world.layout).values())
    with locks.try_lock(world.layout, SPEC.name) as is_held:
        return is_held and set(os.listdir(world.layout.builds)) == published and not os.listdir(world.layout.trash)


def test_fifty_processes_one_build(world: World) -> None:
    """Fifty processes that ask for one new environment at one moment: one build, one prefix, told to one as built."""
    with gates(2) as (waiting, start):

        def run() -> tuple[str, bool, str]:
            waiting.open()
            start.wait()
            ensured = world.manager().ensure(SPEC)
            tool = Path(ensured.lease.prefix, "share", "numpy").read_text(encoding="utf-8")
            return ensured.lease.prefix, ensured.was_built, tool

        processes = [Forked(run) for _ in range(50)]
        waiting.wait(50)
        start.open(50)
        results = all_results(processes)
    assert len(world.builds_begun()) == 1
    assert {prefix for prefix, _, _ in results} == {
        str(world.layout.build(publication.published(world.layout)[SPEC.name]).prefix(SPEC.name))
    }
    assert [was_built for _, was_built, _ in results].count(True) == 1
    assert {tool for _, _, tool in results} == {"numpy 1.0\n"}
    assert is_clean(world)


def test_eight_environments_at_once(world: World) -> None:
    """Eight new environments made at one moment in one store are all whole."""
    specs = [spec_of("numpy", f"tool{number}") for number in range(8)]
    processes = [Forked(lambda spec=spec: world.manager().ensure(spec).was_built) for spec in specs]  # type: ignore[misc]
    assert [process.result() for process in processes] == [True] * 8
    for spec in specs:
        assert world.manager().verify(spec.name) == ()


def test_the_lease_is_held_on_return(world: World) -> None:
    """What is returned is leased without a gap since the build began, whether it was built or found."""
    for was_built in (True, False):
        ensured = world.manager().ensure(SPEC)
        assert ensured.was_built == was_built
        assert not sweep.discard(world.layout, ensured.lease.build_id)
        ensured.lease.close()


def test_a_failure_is_shared_by_those_who_waited(world: World, orders: Orders) -> None:
    """Every process that waited for a build that fails gets its error, without building again."""
    orders.hang()
    orders.fail(NetworkError("the channel is gone", hint="look for it"))
    with gates(1) as (waiting,):

        def run() -> str:
            def report(event: Event) -> None:
                if event.phase == "wait" and event.kind == "begin":
                    assert str(first.pid) in event.message or "busy with" in event.message
                    waiting.open()

            try:
                world.manager().ensure(SPEC, report=report)
            except NetworkError as error:
                return str(error)
            return "built"

        first = Forked(run)
        orders.wait_started()
        others = [Forked(run) for _ in range(10)]
        waiting.wait(10)
        orders.release()
        results = all_results([first, *others])
    assert set(results) == {"the channel is gone\nhint: look for it"}
    assert len(world.builds_begun()) == 1
    assert is_clean(world)


def test_the_next_caller_tries_again(world: World, orders: Orders) -> None:
    """A transient failure belongs to those who waited; who comes later builds, and success forgets the failure."""
    orders.fail(NetworkError("gone"))
    with pytest.raises(NetworkError):
        create(world)
    failure = records.read_failure(world.layout, SPEC.name)
    assert failure is not None
    assert (failure.code, failure.attempts, failure.retry_at) == ("network", 1, None)
    assert "locked" in failure.log
    orders.withdraw("fail")
    assert create(world).was_built
    assert records.read_failure(world.layout, SPEC.name) is None


def test_a_permanent_failure_is_remembered_for_a_while(tmp_path: Path) -> None:
    """Within the back-off the remembered failure is the answer, with a way around; after it, or asked to, one tries."""
    clock = FakeClock()
    world = make_world(tmp_path, clock=clock)
    orders = Orders(world.orders)
    orders.fail(Unsatisfiable("nothing fits", hint="ask for less"))
    for attempts in (1, 2, 3):
        with pytest.raises(Unsatisfiable, match="nothing fits"):
            create(world)
        assert len(world.builds_begun()) == attempts
        remembered = records.read_failure(world.layout, SPEC.name)
        assert remembered is not None
        assert remembered.retry_at == clock.now + 10 * 2 ** (attempts - 1)
        clock.now += 10 * 2 ** (attempts - 1) - 1
        with pytest.raises(Unsatisfiable, match="nothing fits") as refused:
            create(world)
        assert str(refused.value.hint).startswith("ask for less; ")
        assert "--retry" in str(refused.value.hint)
        assert len(world.builds_begun()) == attempts
        clock.now += 2
    with pytest.raises(Unsatisfiable):
        create(world)
    assert len(world.builds_begun()) == 4
    orders.withdraw("fail")
    assert create(world, retry=True).was_built


def test_a_failure_from_the_future_stops_nobody(tmp_path: Path) -> None:
    """After the host's clock was set back, a failure that lies in the future is not taken for anybody's result."""
    world = make_world(tmp_path, clock=FakeClock())
    _remember_failure(world, at=world.clock.time() + 1e6, attempts=1)
    assert create(world).was_built


def test_any_number_of_failures_is_remembered(tmp_path: Path) -> None:
    """The thousandth failure is answered like the third: with itself, for five minutes at most."""
    clock = FakeClock()
    world = make_world(tmp_path, clock=clock)
    _remember_failure(world, at=clock.now - 299, attempts=5000)
    with pytest.raises(BuildFailed):
        create(world)
    clock.now += 2
    assert create(world).was_built


def _remember_failure(world: World, *, at: float, attempts: int) -> None:
    retry_at = at + back_off_s(attempts)
    records.write_failure(world.layout, Failure(SPEC.name, at, "build_failed", "old", None, "", attempts, retry_at))


def test_a_published_environment_beats_a_failure(world: World) -> None:
    """A failure note that a killed publisher left does not hide an environment that is there."""
    with gates(2) as (looked, published):

        def overtake() -> None:
            looked.wait()
            create(world)
            _remember_failure(world, at=world.clock.time(), attempts=1)
            published.open()

        left = [None]

        def observer(event: str, arguments: tuple[object, ...]) -> None:
            # The look found nothing; before the lock is taken, another process builds, publishes and dies.
            if event == "open" and str(arguments[0]).endswith(f"{SPEC.name}.lock") and left:
                left.pop()
                looked.open()
                published.wait()

        def run() -> bool:
            sys.addaudithook(observer)
            return create(world).was_built

        other = Forked(overtake)
        assert not Forked(run).result()
        other.result()


def test_a_waiter_times_out_alone(world: World, orders: Orders) -> None:
    """A waiter whose own time is up leaves; the build goes on, and its result is whole."""
    orders.hang()
    builder = Forked(lambda: create(world).was_built)
    orders.wait_started()
    with pytest.raises(TimedOut, match=r"0\.05 s") as refused:
        create(world, timeout_s=0.05)
    assert refused.value.is_transient
    orders.release()
    assert builder.result()
    assert not create(world).was_built


@pytest.mark.parametrize("is_child", [False, True], ids=["in this process", "in a child"])
@pytest.mark.parametrize("how", ["time", "wish"])
def test_a_builder_stops_when_its_caller_does(tmp_path: Path, how: str, *, is_child: bool) -> None:
    """When the time is up or the caller gives up, the build ends, leaves nothing, and is nobody else's failure."""
    world = make_world(tmp_path, is_child=is_child)
    os.mkfifo(world.orders / "hang")
    options: dict[str, object] = {"timeout_s": 0.05} if how == "time" else {"is_cancelled": lambda: True}
    with pytest.raises(TimedOut if how == "time" else Cancelled):
        create(world, **options)
    assert is_clean(world)
    assert records.read_failure(world.layout, SPEC.name) is None
    (world.orders / "hang").unlink()
    assert create(world).was_built


def test_a_killed_builder_is_told_and_swept(world: World, orders: Orders) -> None:
    """When the process that builds is killed, its parent says so, and nothing of the build is left."""
    orders.hang()
    caller = Forked(lambda: create(world))
    os.kill(orders.wait_started(), signal.SIGKILL)
    with pytest.raises(BuilderDied) as died:
        caller.result()
    assert died.value.is_transient
    assert is_clean(world)
    orders.release_nobody()
    assert create(world).was_built


@pytest.mark.parametrize("is_slow", [False, True], ids=["at once", "slowly"])
def test_a_killed_caller_takes_its_builder_along(world: World, orders: Orders, *, is_slow: bool) -> None:
    """When the caller is killed, its builder ends too; a waiter goes on and builds.

    The leftover is swept, even if the builder dies so slowly that it still has its lease when the waiter sweeps first.
    """
    orders.hang()
    caller = Forked(lambda: create(world))
    builder = orders.wait_started()
    (leftover,) = world.builds_begun()
    with gates(1) as (waiting,), contextlib.ExitStack() as slowly:
        waiter = Forked(lambda: create(world, report=lambda event: waiting.open() if event.phase == "wait" else None))
        waiting.wait()
        if is_slow:
            lease = slowly.enter_context(open(world.layout.build(BuildId(leftover)).lease, "rb"))
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
        caller.abandon()
        orders.wait_started()
        assert not is_slow or leftover in os.listdir(world.layout.builds)
        wait_for_orphan(builder)
        slowly.close()
        orders.release()
        assert waiter.result().was_built
    assert len(world.builds_begun()) == 2
    assert is_clean(world)


def wait_for_orphan(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    assert select.select([pidfd], [], [], LIMIT_S)[0]
    os.close(pidfd)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(world: World, orders: Orders, number: signal.Signals) -> None:
    """A caller that turns SIGINT or SIGTERM into an exception, as the command line does, leaves nothing behind."""
    orders.hang()

    with gates(1) as (heard,):

        def run() -> None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            create(world, report=lambda _event: heard.open())

        caller = Forked(run)
        orders.wait_started()
        # Until the caller has heard of the build it may still be inside fork's hooks, which swallow exceptions.
        heard.wait()
        caller.kill(number)
        with pytest.raises(KeyboardInterrupt):
            caller.result()
    assert is_clean(world)
    assert records.read_failure(world.layout, SPEC.name) is None


def test_a_loser_adopts_and_deletes_only_its_own(world: World) -> None:
    """Who finds the name published by a faster writer without a lock takes that environment and drops its own build."""
    winner: list[str] = []

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.PUBLISH, "before") and not winner:
            lease = sweep.begin_build(world.layout, SPEC.name, SPEC.digest)
            ours = next(build for build in sweep.all_builds(world.layout) if build != lease.build_id)
            source, target = world.layout.build(ours), world.layout.build(lease.build_id)
            record = records.read_record(world.layout, SPEC.name, ours)
            shutil.copytree(source.prefix(SPEC.name), target.prefix(SPEC.name))
            records.write_record(world.layout, dataclasses.replace(record, build_id=lease.build_id))
            winner.append(lease.build_id)
            assert publication.publish(world.layout, SPEC.name, lease.build_id)
            lease.close()

    with observed(observer):
        ensured = create(world)
    assert not ensured.was_built
    assert [ensured.lease.build_id] == winner
    assert is_clean(world)


def test_a_foreign_thing_that_appears_while_building(world: World) -> None:
    """When somebody puts a directory in the name's place meanwhile, that is `Corrupt`, and the build is thrown away."""

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.PUBLISH, "before"):
            world.layout.publication(SPEC.name).mkdir()

    with observed(observer), pytest.raises(Corrupt, match=SPEC.name):
        create(world)
    assert os.listdir(world.layout.builds) == []
    assert world.layout.publication(SPEC.name).is_dir()


def test_gc_leaves_a_build_alone_that_was_just_begun(world: World) -> None:
    """A collection at the moment between a build's directory and its lease does not take it."""
    left = [lambda: world.manager().collect()]
    collected = []

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.BUILD_DIRECTORY, "after") and left:
            collected.append(Forked(left.pop()).result())

    with observed(observer):
        assert create(world).was_built
    assert collected == [()]


def test_a_foreign_directory_is_corrupt_and_quarantined(world: World) -> None:
    """What real conda makes in a name's place stops create with a hint; doctor moves it away, and create works."""
    foreign = world.layout.publication(SPEC.name) / "conda-meta"
    foreign.mkdir(parents=True)
    with pytest.raises(Corrupt) as refused:
        create(world)
    assert "doctor" in str(refused.value.hint)
    assert any(f.check == "envs" and f.status == "error" for f in world.manager().examine())
    assert foreign.is_dir()
    moved = [f for f in world.manager().examine(quarantine=True) if f.check == "envs"]
    assert "moved" in moved[0].message
    assert create(world).was_built
    world.manager().collect()
    kept = [entry for entry in os.listdir(world.layout.trash) if entry.startswith(sweep.FOREIGN)]
    assert len(kept) == 1
    assert (world.layout.trash / kept[0] / "conda-meta").is_dir()


def test_a_given_lockfile_must_be_the_one_in_force(world: World, orders: Orders) -> None:
    """A lockfile that differs from what is built, or from what is in force after a remove, is refused."""
    text = world.manager().lock(SPEC)
    assert create(world, lock_text=text).was_built
    assert not create(world, lock_text=text).was_built
    other = text.replace("1.0", "9.0")
    for _ in range(2):
        with pytest.raises(LockfileMismatch):
            create(world, lock_text=other)
        with contextlib.suppress(Exception):
            world.manager().remove(SPEC.name)
    orders.say("version", "2.0")
    create(world)
    assert "numpy-1.0" in world.layout.build(publication.published(world.layout)[SPEC.name]).lockfile.read_text("utf-8")


def test_lock_builds_nothing_and_leaves_nothing(world: World, orders: Orders) -> None:
    """`lock` finds the lockfile once; a failure leaves nothing; create then installs exactly that lockfile."""
    orders.fail(NetworkError("gone"))
    with pytest.raises(NetworkError):
        world.manager().lock(SPEC)
    assert is_clean(world)
    orders.withdraw("fail")
    text = world.manager().lock(SPEC)
    orders.say("version", "2.0")
    assert world.manager().lock(SPEC) == text
    assert ready.resolve(str(world.root), SPEC.name) is None
    create(world)
    assert world.manager().lock(SPEC) == text


def test_too_little_space_is_refused_before_anything_is_made(world: World) -> None:
    """With less free than the settings want, nothing is begun, and the hint says what to do."""
    for key, value in (("ENVMGR_MIN_FREE_BYTES", "900TiB"), ("ENVMGR_MIN_FREE_INODES", "1000000000000")):
        with pytest.raises(NoSpace) as refused:
            world.manager({key: value}).ensure(SPEC)
        assert "gc" in str(refused.value.hint)
    assert is_clean(world)
    assert world.builds_begun() == []


def test_a_killed_process_in_every_phase_of_waiting(world: World, orders: Orders) -> None:
    """A waiter that is killed disturbs neither the builder nor the other waiters."""
    orders.hang()
    builder = Forked(lambda: create(world).was_built)
    orders.wait_started()
    with gates(1) as (waiting,):
        waiters = [
            Forked(lambda: create(world, report=lambda event: waiting.open() if event.phase == "wait" else None))
            for _ in range(4)
        ]
        waiting.wait(4)
        for waiter in waiters[:2]:
            waiter.kill()
            with pytest.raises(Died):
                waiter.result()
        orders.release()
        assert not any(waiter.result().was_built for waiter in waiters[2:])
    assert builder.result()


def test_a_brought_lockfile_that_fails_leaves_nothing_in_force(world: World, orders: Orders, tmp_path: Path) -> None:
    """A build of a caller's own lockfile that fails is that caller's failure: others solve, and are told nothing."""
    (tmp_path / "elsewhere").mkdir()
    elsewhere = make_world(tmp_path / "elsewhere")
    (elsewhere.orders / "version").write_text("2.0", encoding="utf-8")
    brought = elsewhere.manager().lock(SPEC)
    orders.fail(Corrupt("a package of the lockfile does not match its hash"))
    with pytest.raises(Corrupt):
        create(world, lock_text=brought)
    assert records.read_failure(world.layout, SPEC.name) is None
    assert records.read_lockfile(world.layout, SPEC.name, "linux-64") is None
    orders.withdraw("fail")
    create(world)
    assert Path(world.layout.publication(SPEC.name), "share", "numpy").read_text("utf-8") == "numpy 1.0\n"


def test_doctor_takes_no_name_for_foreign_that_is_made_meanwhile(world: World) -> None:
    """What is published while doctor looks is judged as it is at that moment, and never quarantined."""
    create(world)

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.PUBLISH, "changed"):
            world.manager().examine(only="envs", quarantine=True)

    with observed(observer):
        world.manager().ensure(OTHER).lease.close()
    assert set(publication.published(world.layout)) == {SPEC.name, OTHER.name}
    (world.layout.envs / "foreign").mkdir()
    assert [finding.status for finding in world.manager().examine(only="envs", quarantine=True)] == ["warning"]
    assert publication.foreign(world.layout) == ()
