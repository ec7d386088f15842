"""On a full file system every command says so, and leaves nothing that was not there before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.worlds import World, make_world, observed, spec_of

from envmgr.errors import NoSpace
from envmgr.fsio import TEMPORARY, Step
from envmgr.names import Alias
from envmgr.store import locks, opening, publication, sweep
from envmgr.store.layout import Layout

SPEC = spec_of("numpy")
OTHER = spec_of("zlib")


@pytest.fixture(params=["bytes", "inodes"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A store on a file system of its own, small in bytes or in inodes."""
    if os.geteuid() != 0:
        pytest.skip("needs root (CAP_SYS_ADMIN), to mount a tmpfs")
    mount = tmp_path / "small"
    mount.mkdir()
    size = "size=2m" if request.param == "bytes" else "size=64m,nr_inodes=90"
    command = ["mount", "-t", "tmpfs", "-o", size, "none", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs CAP_SYS_ADMIN, to mount a tmpfs: {done.stderr.strip()}")
    try:
        # What the backend is told and tells stands elsewhere: only the store is on the small file system.
        world = make_world(tmp_path)
        opening.open_for_writing(mount / "store")
        yield World(Layout(mount / "store"), world.orders, world.clock)
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


class Filled:
    """Use up everything that is free, for the length of a block."""

    def __init__(self, world: World, *, leave_inodes: int = 0) -> None:
        self.directory = world.root.parent / "filling"
        self.leave_inodes = leave_inodes

    def __enter__(self) -> None:
        self.directory.mkdir()
        fd = os.open(self.directory / "bytes", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(fd, b"\0" * 4096)
        except OSError:
            pass
        finally:
            os.close(fd)
        count = 0
        try:
            while os.statvfs(self.directory).f_favail > self.leave_inodes and count < 200:
                (self.directory / str(count)).touch()
                count += 1
        except OSError:
            pass

    def __exit__(self, *_: object) -> None:
        for entry in self.directory.iterdir():
            entry.unlink()
        self.directory.rmdir()


def snapshot(world: World) -> set[str]:
    """Return the path of everything in the store; a lock file stays for ever and does not count."""
    found = {str(path.relative_to(world.root)) for path in world.root.rglob("*")}
    return {path for path in found if not path.startswith("locks/") or TEMPORARY in path}


def test_a_build_that_fills_the_disk(small: World) -> None:
    """A build that runs out of space fails with `NoSpace` and is thrown away; the next one with less to do succeeds."""
    before = snapshot(small)
    Orders(small.orders).say("fill", str(10 * 2**20))
    with Filled(small, leave_inodes=25):
        with pytest.raises(NoSpace) as refused:
            small.manager().ensure(SPEC)
        assert "gc" in str(refused.value.hint)
        assert publication.published(small.layout) == {}
    Orders(small.orders).withdraw("fill")
    assert {path for path in snapshot(small) - before if not path.startswith("names/")} == set()
    with locks.try_lock(small.layout, SPEC.name) as is_held:
        assert is_held
    ensured = small.manager().ensure(SPEC, retry=True)
    ensured.lease.close()
    assert small.manager().verify(SPEC.name) == ()


@pytest.mark.parametrize("left", range(8))
def test_a_disk_that_is_full_at_any_step(small: World, left: int) -> None:
    """With room for ever fewer new files, create says `NoSpace` or succeeds whole; nothing half made remains."""
    with Filled(small, leave_inodes=left):
        try:
            small.manager().ensure(SPEC).lease.close()
        except NoSpace:
            assert publication.published(small.layout) == {}
        else:
            assert small.manager().verify(SPEC.name) == ()
        builds = set(sweep.all_builds(small.layout))
        assert builds == set(publication.published(small.layout).values())
        assert [path for path in snapshot(small) if TEMPORARY in path] == []
    small.manager().ensure(SPEC, retry=True).lease.close()
    assert small.manager().verify(SPEC.name) == ()


def test_every_command_on_a_full_disk(small: World) -> None:
    """What must write says `NoSpace`; what only reads or takes away works, so that a full disk can be cleared."""
    small.manager().ensure(SPEC, alias=Alias("training")).lease.close()
    small.manager().ensure(OTHER).lease.close()
    manager = small.manager()
    before = snapshot(small)
    with Filled(small):
        for command in (
            lambda: manager.set_alias(Alias("serving"), SPEC.name),
            lambda: manager.pin(SPEC.name, is_pinned=True),
            lambda: manager.relock(SPEC.name),
            lambda: manager.repair(SPEC.name),
            lambda: manager.lock(spec_of("new")),
            lambda: manager.ensure(spec_of("new")),
            lambda: opening.open_for_writing(small.root.parent / "another"),
        ):
            try:
                command()
            except NoSpace:
                continue
            # A tmpfs has room for empty files and short links while it has inodes; then the command has worked.
        manager.list()
        manager.examine()
        assert manager.verify(SPEC.name) == ()
        manager.ensure(OTHER).lease.close()
        assert manager.remove(OTHER.name).is_deleted
        manager.collect()
    added = {path for path in snapshot(small) - before if not path.startswith(("names/", "builds/"))}
    assert added <= {"envs/serving", "pkgs/.use"}
    assert set(sweep.all_builds(small.layout)) == set(publication.published(small.layout).values())


def test_a_disk_that_fills_up_during_the_build(small: World) -> None:
    """When the room is gone at the very moment of the publication, the build is given back, and nobody sees it."""
    filled = Filled(small)

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.RECORD, "after"):
            filled.__enter__()

    try:
        with observed(observer):
            try:
                small.manager().ensure(SPEC).lease.close()
            except NoSpace:
                assert publication.published(small.layout) == {}
                assert sweep.all_builds(small.layout) == ()
            else:
                assert small.manager().verify(SPEC.name) == ()
    finally:
        filled.__exit__()
    small.manager().ensure(SPEC, retry=True).lease.close()
    assert small.manager().verify(SPEC.name) == ()
