"""A store is made whole or not at all, and what must not be touched is refused with a reason."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import Died, Forked, all_results, die_now, gates
from fakes.worlds import observed

from envmgr.errors import Corrupt, EnvmgrError, PermissionRefused, StoreTooNew, UsageError
from envmgr.fsio import Step
from envmgr.store import opening, publication
from envmgr.store.layout import Layout

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


@contextlib.contextmanager
def mounted(*command: str | Path, at: Path) -> Iterator[Path]:
    """Mount for the length of a block; skip, naming what is missing, where that is not possible."""
    if not IS_ROOT:
        pytest.skip("needs root, to mount a file system")
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    at.mkdir()
    done = subprocess.run([*command, at], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{command[0]} cannot mount here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def as_nobody(directory: Path) -> None:
    """Become another user, who may search the test's directories."""
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def test_a_new_store_has_its_directories_and_an_owner(tmp_path: Path) -> None:
    """Opening makes the store, once, for this user; the build locks are nobody else's business."""
    root = tmp_path / "deep" / "store"
    assert opening.open_for_reading(root) is None
    before = os.umask(0o077)
    try:
        layout = opening.open_for_writing(root, "service")
    finally:
        os.umask(before)
    assert opening.owner(layout) == (os.geteuid(), "service")
    modes = {path.name: path.stat().st_mode & 0o777 for path in layout.directories()}
    assert modes.pop("locks") == 0o700
    assert set(modes.values()) == {0o755}
    assert sorted(os.listdir(layout.locks)) == []
    first = opening.store_id(layout)
    assert opening.store_id(opening.open_for_writing(root)) == first
    assert opening.owner(opening.open_for_writing(root)) == (os.geteuid(), "service")
    assert opening.open_for_reading(root) == layout


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_a_maker_that_died_before_it_set_a_mode(tmp_path: Path, umask: int) -> None:
    """Killed between making any directory below the root and setting its mode, a maker leaves the next one no harm."""
    count = len(Layout(tmp_path).directories())
    for dies_at in range(1, count):
        root = tmp_path / str(dies_at)

        def make(root: Path = root, dies_at: int = dies_at) -> None:
            seen = []

            def hook(event: str, _: tuple[object, ...]) -> None:
                if event == "os.chmod":
                    seen.append(event)
                    if len(seen) > dies_at:
                        die_now()

            os.umask(umask)
            sys.addaudithook(hook)
            opening.open_for_writing(root)

        with pytest.raises(Died):
            Forked(make).result()
        assert not Layout(root).owner.exists()
        layout = opening.open_for_writing(root)
        modes = {path.name: path.stat().st_mode & 0o777 for path in layout.directories()}
        assert modes.pop("locks") == 0o700
        assert set(modes.values()) == {0o755}


def test_modes_that_the_owner_chose_stay(tmp_path: Path) -> None:
    """The mode of a root that was there before the store, and any mode that was set since, is not ours to change."""
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    layout = opening.open_for_writing(root)
    layout.builds.chmod(0o750)
    opening.open_for_writing(root)
    assert [path.stat().st_mode & 0o777 for path in (root, layout.builds)] == [0o700, 0o750]


def test_a_store_made_by_many_at_once_has_one_identity(tmp_path: Path) -> None:
    """Whoever opens a new store first or last, all see the same store id from the first moment on."""
    with gates(2) as (waiting, start):

        def run() -> str:
            waiting.open()
            start.wait()
            return opening.store_id(opening.open_for_writing(tmp_path / "store"))

        processes = [Forked(run) for _ in range(8)]
        waiting.wait(8)
        start.open(8)
        assert len(set(all_results(processes))) == 1


def test_a_slow_maker_does_not_change_the_identity(tmp_path: Path) -> None:
    """A process that was stopped while it made the store leaves the identity that another one gave it meanwhile."""
    root = tmp_path / "store"
    left = [lambda: opening.store_id(opening.open_for_writing(root))]
    seen = []

    def observer(step: Step, point: str) -> None:
        if step is Step.STORE and point == "temporary" and left:
            seen.append(Forked(left.pop()).result())

    with observed(observer):
        layout = opening.open_for_writing(root)
    assert seen == [opening.store_id(layout)]


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to become another user")
def test_only_the_owner_writes(tmp_path: Path) -> None:
    """Another user is refused with both uids and a way out, and may read."""
    layout = opening.open_for_writing(tmp_path / "store")

    def run() -> None:
        as_nobody(tmp_path)
        assert opening.open_for_reading(layout.root) == layout
        opening.open_for_writing(layout.root)

    with pytest.raises(PermissionRefused, match=f"uid {os.geteuid()}.*uid {NOBODY}") as refused:
        Forked(run).result()
    assert "ENVMGR_ROOT" in str(refused.value.hint)


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to become another user")
def test_where_nothing_may_be_made(tmp_path: Path) -> None:
    """A root below a directory that may not be written, or not even entered, is `PermissionRefused`."""

    def write() -> None:
        as_nobody(tmp_path)
        opening.open_for_writing(tmp_path / "store")

    def read() -> None:
        as_nobody(tmp_path)
        opening.open_for_reading(tmp_path / "closed" / "store")

    opening.open_for_writing(tmp_path / "closed" / "store")
    (tmp_path / "closed").chmod(0o700)
    for run in (write, read):
        with pytest.raises(PermissionRefused):
            Forked(run).result()


@pytest.mark.parametrize("reader", [opening.open_for_reading, opening.open_for_writing])
def test_a_newer_store_is_not_touched(tmp_path: Path, reader: object) -> None:
    """A store of a later format is refused by readers and writers, with the two formats and what to do."""
    layout = opening.open_for_writing(tmp_path / "store")
    document = json.loads(layout.owner.read_bytes())
    layout.owner.write_text(json.dumps({**document, "format": 99}), encoding="utf-8")
    assert callable(reader)
    with pytest.raises(StoreTooNew, match="format 99") as refused:
        reader(layout.root)
    assert "upgrade" in str(refused.value.hint)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "1"}', '{"format": 1}', '{"format":1,"uid":"x"}'])
def test_a_damaged_identity_is_corrupt(tmp_path: Path, text: str) -> None:
    """An owner file that is not what was written is `Corrupt`, never a traceback and never somebody's store."""
    layout = opening.open_for_writing(tmp_path / "store")
    layout.owner.write_text(text, encoding="utf-8")
    with pytest.raises(Corrupt, match="owner"):
        opening.open_for_writing(layout.root)


@pytest.mark.parametrize("place", ["file", "file/below", "store/envs"])
def test_a_root_that_cannot_be_one(tmp_path: Path, place: str) -> None:
    """A file in the place of the root or of one of its directories is a `UsageError` that names it."""
    (tmp_path / "file").write_text("mine", encoding="ascii")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "envs").write_text("mine", encoding="ascii")
    root = tmp_path / (place if place.startswith("file") else "store")
    with pytest.raises(UsageError, match=str(root)):
        opening.open_for_writing(root)
    with pytest.raises(UsageError, match=str(root)):
        publication.published(opening.open_for_reading(root) or Layout(root))
    assert (tmp_path / "file").read_text(encoding="ascii") == "mine"


def test_a_read_only_store(tmp_path: Path) -> None:
    """On a file system that is mounted read-only, reading works and writing is refused."""
    opening.open_for_writing(tmp_path / "source" / "store")
    with mounted("mount", "-o", "bind,ro", tmp_path / "source", at=tmp_path / "mount") as mount:
        assert opening.open_for_reading(mount / "store") is not None
        for root in (mount / "store", mount / "new"):
            with pytest.raises(PermissionRefused):
                opening.open_for_writing(root)


def test_what_the_check_of_locks_cannot_see(tmp_path: Path) -> None:
    """A shared file system whose locks hold on one mount only looks sound from there: a host alone cannot tell.

    That is why a store on a shared file system needs the coordinator's probe, and this check does not claim to be one.
    """
    (tmp_path / "source").mkdir()
    command = ("bindfs", "--multithreaded", tmp_path / "source")
    with mounted(*command, at=tmp_path / "here") as here, mounted(*command, at=tmp_path / "there") as there:
        layout = opening.open_for_writing(here / "store")
        opening.check_filesystem(layout)
        (layout.locks / "probe").touch()
        first = os.open(layout.locks / "probe", os.O_RDWR)
        second = os.open(there / "store" / "locks" / "probe", os.O_RDWR)
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(first)
        os.close(second)


def test_a_file_system_with_forwarded_locks_is_accepted(tmp_path: Path) -> None:
    """Where the file system forwards locks, the store works."""
    (tmp_path / "source").mkdir()
    command = ("bindfs", "--multithreaded", "--enable-lock-forwarding", tmp_path / "source")
    with mounted(*command, at=tmp_path / "mount") as mount:
        assert opening.open_for_writing(mount / "store").owner.exists()


@pytest.mark.parametrize("number", [28, 122, 1, 13, 30, 5])
def test_system_errors_become_ours(tmp_path: Path, number: int) -> None:
    """Full, over quota, not allowed, read-only: each becomes the error that says so; others stay what they are."""
    error = opening.translate(OSError(number, os.strerror(number), str(tmp_path)), tmp_path)
    codes = {28: "no_space", 122: "no_space", 1: "permission", 13: "permission", 30: "permission"}
    assert getattr(error, "code", None) == codes.get(number)
    assert isinstance(error, EnvmgrError) == (number in codes)


def test_layout_is_pure(tmp_path: Path) -> None:
    """Asking where things stand makes nothing."""
    layout = Layout(tmp_path / "store")
    assert layout.directories()[0] == layout.root
    assert not layout.root.exists()
