"""What collection frees of the caches, what it keeps, and what it calls it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.worlds import World
from stores import DAY_S, create, published, specs

from envmgr.manager.collection import Limits
from envmgr.manager.manager import Manager
from envmgr.model import Failure
from envmgr.store import cache, publication, records
from envmgr.store.layout import Layout

ONE, TWO, THREE = specs(3)
ALL = Limits(max_age_s=1.0, min_age_s=0.0)


def lockfile(world: World) -> Path:
    return world.layout.build(publication.published(world.layout)[ONE.name]).lockfile


def cached(world: World, key: str, name: str = "numpy") -> tuple[Path, Path]:
    """Put a package into the cache; return its archive and its directory."""
    archive = world.layout.packages / "archives" / key
    unpacked = world.layout.packages / "unpacked" / cache.unpacked_key(key)
    (unpacked / "info").mkdir(parents=True)
    (unpacked / "info" / "index.json").write_text(json.dumps({"name": name, "version": "1.0", "build": "h1_0"}))
    (unpacked / "content").write_bytes(b"x" * 50_000)
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(b"y" * 20_000)
    unpacked.with_name(f"{unpacked.name}.ok").write_text("synced")
    locks = world.layout.packages / "locks"
    locks.mkdir(exist_ok=True)
    (locks / key).touch()
    return archive, unpacked


@pytest.mark.parametrize("key", ["sha256", "md5"])
def test_what_a_lockfile_names_is_kept(world: World, key: str) -> None:
    """A package whose sha256, or md5 where there is none, stands in a build's lockfile stays, and its lock."""
    create(world, ONE)
    content = b"package"
    digest = hashlib.sha256(content).hexdigest() if key == "sha256" else hashlib.md5(content).hexdigest()
    with lockfile(world).open("a") as file:
        file.write(f"# {digest}\n")
    archive, unpacked = cached(world, digest if key == "sha256" else f"md5-{digest}")
    assert world.manager().collect() == ()
    world.manager().remove(ONE.name)
    found = world.manager().collect()
    assert not archive.exists()
    assert not unpacked.exists()
    assert os.listdir(unpacked.parent) == os.listdir(world.layout.packages / "locks") == []
    assert [thing.reason for thing in found] == [
        "package numpy 1.0 h1_0, which no environment needs", "1 lock file of packages that no environment needs",
    ]  # fmt: skip
    assert found[0].size_bytes >= 70_000


def test_links_that_lead_nowhere(world: World) -> None:
    """A link goes with its package, or when it leads nowhere, and rattler's lock with it; a needed one's stay."""
    create(world, ONE)
    kept, unneeded = "ab" * 32, "cd" * 32
    with lockfile(world).open("a") as file:
        file.write(f"# {kept}\n")
    for key in (kept, unneeded):
        cached(world, key)
    named = world.layout.packages / "named"
    named.mkdir()
    (named / "e").symlink_to(world.layout.packages / "unpacked")
    for name, key in {"kept-1.0-0": kept, "unneeded-1.0-0": unneeded, "gone-1.0-0": "ef" * 32}.items():
        (named / name).symlink_to(f"e/{cache.unpacked_key(key)}")
        (named / f"{name}.lock").touch()
    (named / "never-1.0-0.lock").touch()
    planned = world.manager().collect(dry_run=True)
    assert len(list(named.iterdir())) == 8
    found = world.manager().collect()
    assert found == planned
    assert "2 links to packages that no environment needs" in [thing.reason for thing in found]
    assert {path.name for path in named.iterdir()} == {"e", "kept-1.0-0", "kept-1.0-0.lock"}
    assert world.manager().collect() == ()


def test_a_dry_run_tells_what_the_collection_of_environments_frees(world: World, clock: FakeClock) -> None:
    """Packages and byte-code that only collected environments share are told, and counted once, as a run frees them."""
    create(world, ONE)
    digest = "ab" * 32
    with lockfile(world).open("a") as file:
        file.write(f"# {digest}\n")
    _, unpacked = cached(world, digest)
    bytecode = cache.bytecode(world.layout) / "cpython-311-3495" / ("c" * 64)
    bytecode.parent.mkdir(parents=True)
    bytecode.write_bytes(b"z" * 10_000)
    prefix = world.layout.build(publication.published(world.layout)[ONE.name]).prefix(ONE.name)
    (prefix / "content").hardlink_to(unpacked / "content")
    (prefix / "module.pyc").hardlink_to(bytecode)
    clock.now += DAY_S
    planned = world.manager().collect(limits=ALL, dry_run=True)
    assert bytecode.exists()
    assert world.manager().collect(limits=ALL) == planned
    assert [thing.name for thing in planned] == [ONE.name, None, None, None]
    environment, package, _, compiled = planned
    assert environment.size_bytes < 50_000 < package.size_bytes
    assert "byte-code of 1 file," in compiled.reason
    assert compiled.size_bytes >= 10_000


def test_a_build_in_progress_keeps_the_caches(world: World) -> None:
    """While a build uses the caches, nothing in them goes."""
    create(world, ONE)
    archive, _ = cached(world, "0" * 64)
    fd = os.open(world.layout.packages / ".use", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert world.manager().collect() == ()
    assert archive.exists()
    os.close(fd)
    assert len(world.manager().collect()) == 2


class Slow(FakeClock):
    """Time that passes by being looked at; whoever sleeps lets `visit` happen."""

    def __init__(self, visit: Callable[[], object]) -> None:
        super().__init__()
        self.visit = visit

    def monotonic(self) -> float:
        self.now += 0.7
        return self.now

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.visit()


def test_a_large_collection_lets_builds_in(world: World) -> None:
    """It gives the cache back now and then; a build that comes gets it at once, and the rest waits for the next run."""
    archives = [cached(world, digit * 64)[0] for digit in "01234"]
    fd = os.open(world.layout.packages / ".use", os.O_RDONLY | os.O_CREAT)

    def manager(visit: Callable[[], object]) -> Manager:
        return World(world.layout, world.orders, Slow(visit)).manager()

    planned = manager(lambda: None).collect(dry_run=True)
    assert [thing.path for thing in planned[:-1]] == archives
    begun = manager(lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)).collect()
    assert 0 < len(begun) < 5
    os.close(fd)
    assert (*begun, *manager(lambda: None).collect()) == planned


def test_a_slow_look_up_is_not_made_for_each_package(world: World, clock: FakeClock) -> None:
    """However long it takes to find out what is needed, all that can be freed in time is freed after it."""

    class Large(Layout):
        @property
        def envs(self) -> Path:
            clock.now += 10.0  # so long it takes to read the lockfiles of all environments
            return super().envs

    archives = [cached(world, digit * 64)[0] for digit in "01234"]
    found = World(Large(world.root), world.orders, clock).manager().collect()
    assert [thing.path for thing in found if thing.path.parent.name == "archives"] == archives
    assert clock.slept_s == [0.0]


def test_unfinished_packages(world: World) -> None:
    """What killed builds left unfinished in the cache goes as one thing."""
    (world.layout.packages / "archives").mkdir()
    for word in ("a", "b"):
        (world.layout.packages / "archives" / f".tmp-{word}").touch()
    (thing,) = world.manager().collect()
    assert thing.reason == "unfinished packages of builds that were killed"
    assert os.listdir(world.layout.packages / "archives") == []


def test_the_cache_of_pip_packages(world: World) -> None:
    """uv's cache stays while environments share most of it, and goes as a whole when most of it is of none."""
    create(world, ONE)
    shared = world.layout.uv_cache / "archive-v0" / "wheel"
    shared.parent.mkdir()
    shared.write_bytes(b"x" * 3_000_000)
    (world.layout.uv_cache / "simple").write_bytes(b"x" * 2_000_000)
    prefix = world.layout.build(publication.published(world.layout)[ONE.name]).prefix(ONE.name)
    (prefix / "wheel").hardlink_to(shared)
    assert world.manager().collect() == ()
    world.manager().remove(ONE.name)
    planned = world.manager().collect(dry_run=True)
    assert [thing.path for thing in planned] == [world.layout.uv_cache]
    assert planned[0].size_bytes >= 5_000_000
    assert shared.exists()
    assert world.manager().collect() == planned
    assert world.layout.uv_cache.stat().st_mode & 0o777 == 0o755
    assert os.listdir(world.layout.uv_cache) == os.listdir(world.layout.trash) == []


def test_remembered_texts(world: World, clock: FakeClock) -> None:
    """What is remembered of a text goes when its environment has not been there for a day."""
    create(world, ONE)
    for key, spec in (("1" * 64, ONE), ("2" * 64, TWO)):
        records.remember_text(world.layout, key, spec.name)
        os.utime(world.layout.by_text / key, (clock.now, clock.now), follow_symlinks=False)
    assert world.manager().collect() == ()
    clock.now += 2 * DAY_S
    assert [thing.path for thing in world.manager().collect(dry_run=True)] == [world.layout.by_text]
    assert len(world.manager().collect()) == 1
    assert os.listdir(world.layout.by_text) == ["1" * 64]


def test_specs_that_only_ever_failed_are_forgotten(world: World, clock: FakeClock) -> None:
    """A failure goes when it is older than the minimum age, unless there is more to keep: a pin, a build."""
    manager = world.manager()
    create(world, ONE)
    for spec in (ONE, TWO, THREE):
        records.write_spec(world.layout, spec)
        failure = Failure(spec.name, clock.time(), "unsatisfiable", "no such package", None, "", attempts=1)
        records.write_failure(world.layout, failure)
    manager.pin(THREE.name, is_pinned=True)
    assert manager.collect() == ()
    clock.now += DAY_S + 1
    (told,) = manager.collect(dry_run=True)
    assert (told.path, told.reason) == (world.layout.name(TWO.name), "spec that only ever failed")
    assert manager.collect() == (told,)
    assert set(records.known_names(world.layout)) == {ONE.name, THREE.name}
    assert published(world) == {ONE.name}
