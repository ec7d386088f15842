"""What collection asks the store: who holds a lease, what shared files give back; and what doctor moves away."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from fakes.processes import Forked
from fakes.worlds import World
from stores import create, specs

from envmgr import fsio, ready
from envmgr.store import opening, publication, sweep, usage
from envmgr.store.layout import Layout
from envmgr.store.sizes import Census, Links

ONE, TWO = specs(2)
NOBODY = 65534


def test_held_leases_are_found(world: World) -> None:
    """A lease counts as held by its taker, and by a child whose parent took it and has died."""
    for spec in (ONE, TWO):
        create(world, spec)
    builds = publication.published(world.layout)
    one, two = (world.layout.build(builds[spec.name]).lease for spec in (ONE, TWO))
    assert usage.held([one, two], world.layout.owner) == set()
    lease = ready.acquire(str(world.root), ONE.name)
    assert lease is not None
    assert usage.held([one, two, world.root / "nothing"], world.layout.owner) == {one}
    read, write = os.pipe()

    def bequeath() -> int:
        os.close(write)
        taken = ready.acquire(str(world.root), TWO.name)
        assert taken is not None
        return subprocess.Popen(["cat"], stdin=read, pass_fds=[taken.fileno()]).pid

    Forked(bequeath).result()
    os.close(read)
    assert usage.held([one, two], world.layout.owner) == {one, two}
    lease.close()
    os.close(write)  # ends the child


def test_links_that_are_taken_for_gone(tmp_path: Path) -> None:
    """A shared file gives its bytes back with its last link: within one tree, or after others are taken for gone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "1").write_bytes(b"x" * 8192)
    (tmp_path / "a" / "2").hardlink_to(tmp_path / "a" / "1")
    (tmp_path / "b" / "3").hardlink_to(tmp_path / "a" / "1")
    links = Links()
    a, b = links.measure([tmp_path / "a"]), links.measure([tmp_path / "b"])
    both = links.measure([tmp_path / "a", tmp_path / "b"])
    assert (a.inodes, b.inodes, both.inodes) == (1, 1, 3)
    assert both.disk_bytes == a.disk_bytes + b.disk_bytes + 8192
    links.take(a)
    assert links.measure([tmp_path / "b"]).disk_bytes == b.disk_bytes + 8192
    census = Census()
    for name in ("a", "b"):
        census.add(name, tmp_path / name)
    assert census.total.size_bytes == 8192
    assert [census.drop(name).size_bytes for name in ("a", "b")] == [0, 8192]
    assert census.total.size_bytes == census.total.inodes == 0


def test_a_read_only_directory_is_moved_away(tmp_path: Path) -> None:
    """An owner that is not root quarantines a directory that nobody may write."""
    del tmp_path  # only its owner may enter it
    with tempfile.TemporaryDirectory(prefix="envmgr-nobody-") as directory:
        Path(directory).chmod(0o777)

        def quarantine() -> list[str]:
            if os.geteuid() == 0:
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            layout = opening.open_for_writing(Path(directory) / "store")
            (layout.envs / "mine" / "bin").mkdir(parents=True)
            (layout.envs / "mine").chmod(0o555)
            moved = sweep.quarantine(layout, "mine")
            return [*os.listdir(layout.envs), *os.listdir(moved)]

        assert Forked(quarantine).result() == ["bin"]


class Passing(type(Path())):  # type: ignore[misc]  # the class of paths of this system
    """A directory; when it is listed, something else happens."""

    happens: Callable[[], object]

    def __fspath__(self) -> str:
        self.happens()
        return str(self)


def test_what_is_forgotten_while_strays_are_looked_for(world: World) -> None:
    """A name that is forgotten between two directories of one look does not end the look, nor hides a stray."""

    class Watched(Layout):
        @property
        def locks(self) -> Path:
            place = Passing(super().locks)
            place.happens = lambda: shutil.rmtree(world.layout.name(ONE.name), ignore_errors=True)
            return place

    for spec in (ONE, TWO):
        create(world, spec)
    stray = world.layout.name(TWO.name) / f"{fsio.TEMPORARY}x"
    stray.touch()
    assert sweep.stray_temporaries(Watched(world.root)) == (stray,)
    assert not world.layout.name(ONE.name).exists()
