"""Kill the process at every point of every durable step, and see that nothing but leftovers remains.

The points are not listed here: each scenario is first run with an observer that writes down every point that it
reaches, and then run again, in a fresh process over a fresh copy of the store, once for each of them, to be killed
there. A new step of `fsio` that no scenario reaches fails `test_every_step_is_reached`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fakes.backend import Orders
from fakes.clock import FakeClock
from fakes.processes import Died, Forked, die_now, no_process_left, reap_orphans
from fakes.worlds import World, make_world, observed, spec_of

from envmgr import errors, ready
from envmgr.fsio import TEMPORARY, Step
from envmgr.manager.collection import Limits
from envmgr.manager.manager import Manager
from envmgr.names import Alias, is_alias, is_name
from envmgr.store import locks, opening, publication, records, sweep
from envmgr.store.layout import Layout

SPEC = spec_of("numpy")
OTHER = spec_of("zlib")
ALIAS = Alias("training")

IN_THE_BUILDER = {Step.ARCHIVE, Step.UNPACKED, Step.SYNC}
"""Steps that only the builder's process does; its own tests kill it there."""


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes the store; `act` is what is killed; with `is_child` while a builder process works for it."""

    prepare: Callable[[World], object]
    act: Callable[[World], object]
    is_child: bool = False


def _nothing(world: World) -> None:
    """Leave the store empty."""


def _create(world: World) -> None:
    world.manager().ensure(SPEC).lease.close()


def _create_both(world: World) -> None:
    world.manager().ensure(SPEC, alias=ALIAS).lease.close()
    world.manager().ensure(OTHER).lease.close()


def _create_with_alias(world: World) -> None:
    world.manager().ensure(SPEC, alias=ALIAS).lease.close()


def _fail(world: World) -> None:
    Orders(world.orders).fail(errors.BuildFailed("as ordered"))
    with contextlib.suppress(errors.BuildFailed):
        _create(world)
    Orders(world.orders).withdraw("fail")


def _retry(world: World) -> None:
    world.manager().ensure(SPEC, retry=True).lease.close()


def _leave_a_build(world: World) -> None:
    """Let a builder die in the middle."""
    Orders(world.orders).say("crash")
    with contextlib.suppress(Died):
        Forked(lambda: _create(world)).result()
    Orders(world.orders).withdraw("crash")


def _litter(world: World) -> None:
    """Leave everything behind that gc takes: a build, trash, temporary files, packages that nobody needs."""
    _create_both(world)
    world.manager().remove(OTHER.name)
    sweep.begin_build(world.layout, OTHER.name, OTHER.digest).close()
    (world.layout.trash / "deadbeef0000-1-00" / "envs").mkdir(parents=True)
    for place in (world.root, world.layout.envs, world.layout.locks, world.layout.name(SPEC.name)):
        (place / f"{TEMPORARY}stray").write_bytes(b"")
    archives = world.layout.packages / "archives"
    archives.mkdir(exist_ok=True)
    (archives / ("0" * 64)).write_bytes(b"old")
    (world.layout.packages / "locks").mkdir()
    (world.layout.packages / "locks" / ("1" * 64)).touch()
    (world.layout.uv_cache / "archive").write_bytes(b"x" * (1 << 20))
    records.remember_text(world.layout, "2" * 64, spec_of("nobody").name)


def _collect(world: World) -> None:
    _later(world).collect()


def _collect_environments(world: World) -> None:
    _later(world).collect(limits=Limits(max_age_s=60.0, min_age_s=0.0))


def _later(world: World) -> Manager:
    """Return a manager of the day after, for whom every stray file is old."""
    return World(world.layout, world.orders, FakeClock(time.time() + 86_400)).manager()


def _relock(world: World) -> None:
    Orders(world.orders).say("version", "2.0")
    world.manager().relock(SPEC.name)


def _in_use(act: Callable[[World], object]) -> Callable[[World], object]:
    def acted(world: World) -> None:
        lease = ready.acquire(str(world.root), SPEC.name)
        act(world)
        if lease is not None:
            lease.close()

    return acted


def _remove_in_use(world: World) -> None:
    """Leave the files of a removed environment, whose user has ended since."""
    _create_both(world)
    _in_use(lambda w: w.manager().remove(SPEC.name, when_free=True))(world)


def _foreign(world: World) -> None:
    _create_both(world)
    (world.layout.envs / "mine" / "conda-meta").mkdir(parents=True)


def _pin(world: World) -> None:
    _create_both(world)
    world.manager().pin(SPEC.name, is_pinned=True)


SCENARIOS = {
    "store": Scenario(lambda w: shutil.rmtree(w.root), lambda w: opening.open_for_writing(w.root)),
    "create": Scenario(_nothing, _create),
    "create by a builder process": Scenario(_nothing, _create, is_child=True),
    "relock by a builder process": Scenario(_create_both, _relock, is_child=True),
    "create with alias": Scenario(_nothing, _create_with_alias),
    "create after a leftover": Scenario(_leave_a_build, _create),
    "create after a failure": Scenario(_fail, _retry),
    "create that fails": Scenario(_nothing, _fail),
    "lock": Scenario(_nothing, lambda w: w.manager().lock(SPEC)),
    "remove": Scenario(_create_both, lambda w: w.manager().remove(SPEC.name)),
    "remove in use": Scenario(_create_both, _in_use(lambda w: w.manager().remove(SPEC.name, when_free=True))),
    "remove and forget": Scenario(_create_both, lambda w: w.manager().remove(SPEC.name, forget=True)),
    "relock": Scenario(_create_both, _relock),
    "relock in use": Scenario(_create_both, _in_use(_relock)),
    "repair": Scenario(_create_both, lambda w: w.manager().repair(SPEC.name)),
    "alias set": Scenario(_create_both, lambda w: w.manager().set_alias(Alias("new"), SPEC.name)),
    "alias moved": Scenario(_create_both, lambda w: w.manager().set_alias(ALIAS, OTHER.name, move=True)),
    "alias removed": Scenario(_create_both, lambda w: w.manager().remove_alias(ALIAS)),
    "pin": Scenario(_create_both, lambda w: w.manager().pin(SPEC.name, is_pinned=True)),
    "unpin": Scenario(_pin, lambda w: w.manager().pin(SPEC.name, is_pinned=False)),
    "text remembered": Scenario(_create, lambda w: records.remember_text(w.layout, "0" * 64, SPEC.name)),
    "creator": Scenario(_create, lambda w: records.write_creator(w.layout, SPEC.name, 1000, 1.0)),
    "gc": Scenario(_litter, _collect),
    "gc of environments": Scenario(_create_both, _collect_environments),
    "reclaim": Scenario(_remove_in_use, lambda w: w.manager().reclaim()),
    "recover": Scenario(_litter, lambda w: w.manager().recover()),
    "quarantine": Scenario(_foreign, lambda w: w.manager().examine(quarantine=True)),
}
RANDOM_SCENARIOS = (
    "create by a builder process",
    "create with alias",
    "create after a leftover",
    "remove and forget",
    "relock",
    "repair",
    "gc",
    "gc of environments",
)
RANDOM_MOMENTS = 20


def _prepared(scenario: Scenario, directory: Path) -> World:
    directory.mkdir()
    world = make_world(directory, is_child=scenario.is_child)
    scenario.prepare(world)
    return world


def _copy(template: World, directory: Path) -> World:
    shutil.copytree(template.root.parent, directory, symlinks=True)
    return World(Layout(directory / "store"), directory / "orders", template.clock, template.is_child)


def _points(world: World, scenario: Scenario) -> list[tuple[Step, str]]:
    """Run the scenario to its end in a process of its own and return every point that it reached."""

    def run() -> list[tuple[Step, str]]:
        reached: list[tuple[Step, str]] = []
        with observed(lambda step, point: reached.append((step, point))):
            scenario.act(world)
        return reached

    return Forked(run).result()


def _run_and_die(world: World, scenario: Scenario, at: int) -> None:
    """Run the scenario and be killed at the point with this number."""
    left = at

    def count(_step: Step, _point: str) -> None:
        nonlocal left
        if left == 0:
            die_now()
        left -= 1

    with observed(count):
        scenario.act(world)


def _run_and_die_at_line(world: World, scenario: Scenario, at: int | None) -> int:
    """Run the scenario and be killed before the Python line with this number; without one, return how many run."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        path = frame.f_code.co_filename
        if event == "call":
            return trace if f"{os.sep}envmgr{os.sep}" in path or path.endswith(("backend.py", "shutil.py")) else None
        if event == "line":
            if count == at:
                die_now()
            count += 1
        return trace

    sys.settrace(trace)
    try:
        scenario.act(world)
    finally:
        sys.settrace(None)
    return count


def _check_whole(world: World, manager: Manager) -> None:
    for name in (SPEC.name, OTHER.name):
        found = ready.resolve(str(world.root), name)
        if found is None:
            continue
        record = records.read_record(world.layout, *found)
        assert record.name == name
        assert manager.verify(name) == ()
    for entry in os.listdir(world.layout.envs):
        if is_alias(entry) and entry != "mine":
            assert is_name(os.readlink(world.layout.envs / entry))


def _check_survivors(world: World) -> None:
    """State the promise: whole or absent, no lock, no process; then everything works and leftovers go."""
    opening.open_for_writing(world.root)
    (world.orders / "fail").unlink(missing_ok=True)
    manager = world.manager()
    _check_whole(world, manager)
    for spec in (SPEC, OTHER):
        with locks.try_lock(world.layout, spec.name) as is_held:
            assert is_held
    for spec in (SPEC, OTHER):
        ensured = manager.ensure(spec, retry=True)
        ensured.lease.close()
    _check_whole(world, manager)
    assert set(publication.published(world.layout)) == {SPEC.name, OTHER.name}
    manager.examine(quarantine=True)
    _later(world).collect()
    assert set(sweep.all_builds(world.layout)) == set(publication.published(world.layout).values())
    assert len(os.listdir(world.layout.builds)) == 2
    assert [entry for entry in os.listdir(world.layout.trash) if not entry.startswith(sweep.FOREIGN)] == []
    strays = [path for path in world.root.rglob(f"{TEMPORARY}*") if sweep.FOREIGN not in str(path)]
    assert strays == []
    _check_whole(world, manager)


@pytest.mark.parametrize(
    "label", ["create", *(pytest.param(label, marks=pytest.mark.slow) for label in SCENARIOS if label != "create")]
)
def test_killed_at_every_point(label: str, tmp_path: Path) -> None:
    """Wherever SIGKILL hits, each name is absent or whole, the next create succeeds, and gc leaves nothing over."""
    scenario = SCENARIOS[label]
    template = _prepared(scenario, tmp_path / "template")
    points = _points(_copy(template, tmp_path / "recorded"), scenario)
    assert points
    with no_process_left():
        for number, point in enumerate(points):
            world = _copy(template, tmp_path / str(number))
            process = Forked(lambda world=world, number=number: _run_and_die(world, scenario, number))  # type: ignore[misc]
            with pytest.raises(Died) as died:
                process.result()
            assert died.value.status == -signal.SIGKILL, point
            reap_orphans()
            try:
                _check_survivors(world)
            except BaseException as error:
                raise AssertionError(f"killed at point {number}: {point}") from error
            shutil.rmtree(world.root.parent)


def test_every_step_is_reached(tmp_path: Path) -> None:
    """The scenarios reach every step that the parent does, so that a new one cannot go untested."""
    reached: set[Step] = set()
    for number, scenario in enumerate(SCENARIOS.values()):
        reached |= {step for step, _ in _points(_prepared(scenario, tmp_path / str(number)), scenario)}
    assert set(Step) - reached == IN_THE_BUILDER


@pytest.mark.slow
@pytest.mark.parametrize("label", RANDOM_SCENARIOS)
def test_killed_at_random_moments(label: str, tmp_path: Path) -> None:
    """The same promise holds between the named points: at lines of code drawn with a fixed seed."""
    scenario = SCENARIOS[label]
    template = _prepared(scenario, tmp_path / "template")
    recorded = _copy(template, tmp_path / "recorded")
    lines = Forked(lambda: _run_and_die_at_line(recorded, scenario, None)).result()
    draw = random.Random(label)
    with no_process_left():
        for at in sorted(draw.sample(range(lines), RANDOM_MOMENTS)):
            world = _copy(template, tmp_path / str(at))
            process = Forked(lambda world=world, at=at: _run_and_die_at_line(world, scenario, at))  # type: ignore[misc]
            # Where the process ends a little earlier than in the recorded run, it was not killed: just as well.
            with contextlib.suppress(Died):
                process.result()
            reap_orphans()
            _check_survivors(world)
            shutil.rmtree(world.root.parent)
