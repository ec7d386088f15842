"""An archive of an environment works where there is no envmgr; it is made once, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from fakes.processes import Forked

import envmgr
from envmgr import ready, wiring
from envmgr.errors import Cancelled, NoSpace, PermissionRefused, TimedOut, UsageError
from envmgr.runners import packing
from envmgr.runners.packing.contents import portable_script
from envmgr.store.layout import Layout
from envmgr.store.packs import Packs, files_of

SPEC = """\
name: packed
variables: {GREETING: "hello, world's end"}
dependencies:
  - python
  - pip
  - pip: [humanize, tabulate]
"""
LIMIT_S = 120.0
BARE = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """A directory that other users may search: every session of pytest closes pytest's own to them."""
    with tempfile.TemporaryDirectory(prefix="packing-") as directory:
        path = Path(directory)
        for each in (path, *path.parents):
            if not each.stat().st_mode & 0o001:
                each.chmod(each.stat().st_mode | 0o011)
        yield path
        subprocess.run(["chmod", "-R", "u+w", path], check=True)


@pytest.fixture(scope="module")
def root(make_store: Callable[[Path], Path], public: Path) -> Path:
    """A store with one environment, which has an interpreter, packages of pip and a variable."""
    found = make_store(public / "store")
    envmgr.ensure(SPEC, root=found, alias="packed").close()
    return found


@pytest.fixture
def lease(root: Path) -> Iterator[ready.Lease]:
    found = ready.acquire(str(root), "packed")
    assert found is not None
    yield found
    found.close()


@pytest.fixture(scope="module")
def unpacked(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an archive has inside, unpacked where its path ends as a store's would."""
    directory = tmp_path_factory.mktemp("elsewhere")
    found = ready.acquire(str(root), "packed")
    assert found is not None
    packing.pack(found, directory / "env.tar.gz")
    found.close()
    target = directory / "envs" / "packed"
    target.mkdir(parents=True)
    with tarfile.open(directory / "env.tar.gz") as archive:
        if sys.version_info >= (3, 12):
            archive.extractall(target, filter="tar")
        else:
            archive.extractall(target)
    return target


@pytest.fixture
def without_archives(root: Path) -> Packs:
    """The store's archives, of which there are none."""
    packs = Packs(Layout(root).packs)
    for path in packs.directory.glob("*") if packs.directory.is_dir() else ():
        path.unlink()
    return packs


def output(command: list[str | Path], environ: Mapping[str, str] = BARE) -> str:
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
class TestElsewhere:
    def test_the_interpreter_is_where_it_was_unpacked(self, unpacked: Path) -> None:
        """Python and what pip installed come from the new place; no lease is taken, and nothing is said."""
        program = (
            "import humanize, json, sys; "
            "print(json.dumps([sys.prefix, humanize.__file__, '_envmgr_lease' in str(sys.modules)]))"
        )
        prefix, module, is_hooked = json.loads(output([unpacked / "bin" / "python", "-c", program]))
        assert (prefix, module.startswith(str(unpacked)), is_hooked) == (str(unpacked), True, False)

    def test_scripts_find_their_interpreter(self, unpacked: Path, tmp_path: Path) -> None:
        """A script of pip's runs without activation, also through a link from elsewhere."""
        (tmp_path / "rows").write_text("one 1\n")
        (tmp_path / "table").symlink_to(unpacked / "bin" / "tabulate")
        for script in (unpacked / "bin" / "tabulate", tmp_path / "table"):
            assert "one" in output([script, tmp_path / "rows"])

    def test_nothing_of_the_store_is_left(self, root: Path, unpacked: Path) -> None:
        """After conda-unpack no text but conda-unpack's own has the store's path; the hook and the mark are gone."""
        output([unpacked / "bin" / "python", unpacked / "bin" / "conda-unpack"])
        for path in unpacked.rglob("*"):
            # conda-unpack leaves alone what could be the interpreter that runs it: bin/python*.
            if path.is_file() and path.suffix != ".pyc" and not path.match("bin/python*"):
                is_left = str(root).encode() in path.read_bytes()
                assert not is_left or path.name == "conda-unpack", path
        assert list(unpacked.rglob("*envmgr_lease*")) == []
        assert not (unpacked / "conda-meta" / "frozen").exists()
        config = output(
            [unpacked / "bin" / "python", "-c", "import sysconfig as s; print(s.get_config_var('INCLUDEPY'))"]
        )
        assert config.startswith(str(unpacked))

    def test_activation_sets_the_variables(self, unpacked: Path) -> None:
        """The spec's variables, which only conda and envmgr know where to find, are set by bin/activate."""
        said = output(["bash", "-c", f'PS1=; . {unpacked}/bin/activate; echo "$GREETING, $CONDA_PREFIX"; which python'])
        assert said.splitlines() == [f"hello, world's end, {unpacked}", f"{unpacked}/bin/python"]

    def test_bytecode_travels(self, unpacked: Path) -> None:
        """Modules are not compiled again by each executor; what conda-unpack changes has no byte-code."""
        with tarfile.open(unpacked.parent.parent / "env.tar.gz") as archive:
            names = [name for name in archive.getnames() if "/__pycache__/" in name]
        assert any("/humanize/" in name for name in names)
        assert [name for name in names if "_sysconfigdata_" in name] == []

    def test_nobody_owns_what_travels(self, unpacked: Path) -> None:
        """Whoever packed is not named, nor is there a program with its owner's rights, or a file that all may write."""
        with tarfile.open(unpacked.parent.parent / "env.tar.gz") as archive:
            found = {(it.uid, it.gid, it.uname, it.gname, it.mode & ~0o311) for it in archive}
        assert found == {(0, 0, "root", "root", 0o444)}

    def test_zip(self, lease: ready.Lease, tmp_path: Path) -> None:
        """The same as a zip, without conda-unpack."""
        packing.pack(lease, tmp_path / "env.zip")
        with zipfile.ZipFile(tmp_path / "env.zip") as archive:
            names = archive.namelist()
            assert archive.testzip() is None
        assert len(names) == len(set(names))
        assert {"bin/python", "bin/activate", "bin/conda-unpack", "conda-meta/history"} <= set(names)


@pytest.mark.slow
class TestOnce:
    def test_twenty_callers_pack_once(self, root: Path, without_archives: Packs, tmp_path: Path) -> None:
        """Of twenty processes that ask at once one packs; all get the same file, and nothing else is left."""
        environ = {**os.environ, "ENVMGR_ROOT": str(root), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "envmgr", "pack", "packed", "--json", "-o"]
        callers = [
            subprocess.Popen(
                [*command, str(tmp_path / f"{number}.tar.gz")],
                env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number in range(20)
        ]  # fmt: skip
        answers = [json.loads(caller.communicate(timeout=LIMIT_S)[0]) for caller in callers]
        assert sorted(answer["was_there"] for answer in answers) == [False, *[True] * 19]
        assert len({answer["sha256"] for answer in answers}) == 1
        assert {path.stat().st_ino for path in tmp_path.glob("*.tar.gz")} == {
            path.stat().st_ino for _, _, path in without_archives.archives()
        }
        assert len(list(without_archives.directory.iterdir())) == 3  # the archive, its note, the lock

    def test_a_killed_packer(self, root: Path, without_archives: Packs, lease: ready.Lease, tmp_path: Path) -> None:
        """A packer that is killed keeps nobody waiting, and the next one clears away what it left."""
        with packer(root, tmp_path / "a.tar.gz") as process:
            process.kill()
        assert without_archives.leftovers(lease.name)
        assert not packing.pack(lease, tmp_path / "b.tar.gz").was_there
        assert without_archives.leftovers(lease.name) == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.gz"]

    def test_an_interrupted_packer(self, root: Path, without_archives: Packs, tmp_path: Path) -> None:
        """Ctrl-C leaves neither a file nor a part of one, and says that it ended by that."""
        with packer(root, tmp_path / "a.tar.gz") as process:
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 130
        assert [path.name for path in without_archives.directory.iterdir() if ".lock-" not in path.name] == []
        assert list(tmp_path.iterdir()) == []

    def test_limits_of_the_caller(self, without_archives: Packs, lease: ready.Lease, tmp_path: Path) -> None:
        """Who waits for another packer says so once, and gives up when its own limit has passed; so does who packs."""
        without_archives.directory.mkdir(exist_ok=True)
        said: list[str] = []
        with without_archives.try_lock(lease.name) as is_held:
            assert is_held
            with pytest.raises(TimedOut, match=lease.name):
                packing.pack(lease, tmp_path / "a.tar.gz", timeout_s=0.2, say=said.append)
        assert said == [f"another process packs {lease.name}; waiting for it"]
        with pytest.raises(Cancelled):
            packing.pack(lease, tmp_path / "a.tar.gz", is_cancelled=lambda: True)
        assert list(tmp_path.iterdir()) == without_archives.leftovers(lease.name) == []

    def test_a_changed_archive_is_made_anew(self, lease: ready.Lease, tmp_path: Path) -> None:
        """Whoever writes into the link that he was given harms nobody who asks later."""
        first = packing.pack(lease, tmp_path / "a.tar.gz")
        (tmp_path / "a.tar.gz").chmod(0o644)
        with (tmp_path / "a.tar.gz").open("ab") as file:
            file.write(b"more")
        second = packing.pack(lease, tmp_path / "b.tar.gz")
        assert (second.was_there, second.size_bytes) == (False, (tmp_path / "b.tar.gz").stat().st_size)
        assert first.lock_digest == second.lock_digest
        assert packing.pack(lease, tmp_path / "c.tar.gz").was_there

    def test_a_full_disk(self, lease: ready.Lease, without_archives: Packs, tmp_path: Path) -> None:
        """Where the archive does not fit it is said, at once, although other threads write it; nothing is left."""
        if os.geteuid() != 0:
            pytest.skip("needs root (CAP_SYS_ADMIN), to mount a tmpfs")
        without_archives.directory.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "none", without_archives.directory],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"needs CAP_SYS_ADMIN, to mount a tmpfs: {done.stderr.strip()}")
        try:
            with pytest.raises(NoSpace):
                packing.pack(lease, tmp_path / "a.tar.gz")
            assert without_archives.leftovers(lease.name) == []
        finally:
            subprocess.run(["umount", "--lazy", without_archives.directory], check=True)


@pytest.mark.slow
class TestOthers:
    def test_of_another_users_store(
        self, root: Path, lease: ready.Lease, public: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who does not own the store takes a copy of its archive, or packs once into a directory of his own."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to be another user")
        theirs = public / "theirs"
        theirs.mkdir()
        os.chown(theirs, 65534, 65534)
        monkeypatch.setenv("XDG_CACHE_HOME", str(theirs / "cache"))
        packing.pack(lease, public / "mine.tar.gz")  # here is imported what the other user cannot read, perhaps
        assert as_nobody(root, theirs / "copy.tar.gz")
        assert (theirs / "copy.tar.gz").stat().st_uid == 65534
        for path in Layout(root).packs.iterdir():
            path.unlink()
        assert [as_nobody(root, theirs / f"{number}.tar.gz") for number in range(2)] == [False, True]
        assert len(list(theirs.glob("cache/envmgr/packs/env-*.tar.gz"))) == 1
        assert list(Layout(root).packs.iterdir()) == []

    @pytest.mark.usefixtures("without_archives")
    def test_a_users_own_archives_are_bounded(self, root: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once the new archive is there all are within the bound, by what was not used for longest; it stays itself."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to be another user")
        theirs = public / "bounded"
        theirs.mkdir()
        os.chown(theirs, 65534, 65534)
        monkeypatch.setenv("XDG_CACHE_HOME", str(theirs / "cache"))
        kept = Packs(theirs / "cache" / "envmgr" / "packs")
        as_nobody(root, theirs / "first.tar")
        size_bytes = (theirs / "first.tar").stat().st_size
        as_nobody(root, theirs / "second.tar.gz", own_bytes=size_bytes)  # alone, the first would be
        assert [path.name.partition(".")[2] for _, _, path in kept.archives()] == ["tar.gz"]
        as_nobody(root, theirs / "third.zip", own_bytes=1)
        assert [path.name.partition(".")[2] for _, _, path in kept.archives()] == ["zip"]
        assert {path.name for path in theirs.iterdir()} == {"first.tar", "second.tar.gz", "third.zip", "cache"}

    def test_collection(self, root: Path, lease: ready.Lease, tmp_path: Path) -> None:
        """An archive stays while its environment has that lockfile, and goes with an older one's."""
        packing.pack(lease, tmp_path / "a.tar.gz")
        packs = Packs(Layout(root).packs)
        ((name, _, kept),) = packs.archives()
        stale = packs.path(name, "0" * 64, "tar.gz")
        absent = packs.path(type(name)("env-" + "0" * 16), "0" * 64, "zip")
        for path in (stale, absent):
            path.write_bytes(b"x" * 10_000)
        manager = wiring.manager(str(root))
        would = {thing.path for thing in manager.collect(dry_run=True)}
        done = {thing.path for thing in manager.collect()}
        assert would & {stale, absent, kept} == done & {stale, absent, kept} == {stale, absent}
        assert [path for _, _, path in packs.archives()] == [kept]
        assert (tmp_path / "a.tar.gz").exists()


def as_nobody(root: Path, target: Path, **options: int) -> bool:
    """Pack as another user; tell whether the archive was there."""
    deadline = time.monotonic() + 5.0
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)  # what compressed is ending still, and a process with threads does not fork

    def work() -> bool:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        lease = ready.acquire(str(root), "packed")
        assert lease is not None
        return packing.pack(lease, target, **options).was_there

    return Forked(work).result()


@contextlib.contextmanager
def packer(root: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    """Give a process that has begun to write an archive; it is dead at the end of the block."""
    packs = Packs(Layout(root).packs)
    process = subprocess.Popen(
        [sys.executable, "-m", "envmgr", "--root", str(root), "pack", "packed", "-o", str(target)],
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        while not [path for path in packs.directory.glob(".tmp-*") if path.is_file() and path.stat().st_size]:
            assert process.poll() is None, "it was done before anybody saw it begin"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.wait()


class TestWords:
    @pytest.mark.parametrize(
        ("name", "given", "found"),
        [
            ("a.tar.gz", None, "tar.gz"), ("a.tgz", None, "tar.gz"), ("a.b.zip", None, "zip"),
            ("a.txz", None, "tar.xz"),
            ("a.tar", None, "tar"), ("archive", "tgz", "tar.gz"), ("a.zip", "tar", "tar"),
        ],
    )  # fmt: skip
    def test_formats(self, name: str, given: str | None, found: str) -> None:
        """The file's name tells the format unless it is given."""
        assert packing.format_of(Path(name), given) == found

    @pytest.mark.parametrize(("name", "given"), [("a.rar", None), ("tar.gz", None), ("a.tar.gz", "parcel")])
    def test_no_formats(self, name: str, given: str | None) -> None:
        """What is no format is refused before anything is built, with those that are."""
        with pytest.raises(UsageError) as caught:
            packing.format_of(Path(name), given)
        assert "tar.gz, zip" in (caught.value.hint or "")

    @pytest.mark.parametrize("place", ["/proc", "nowhere", "file"])
    def test_where_nothing_can_be_written(self, tmp_path: Path, place: str) -> None:
        """A place that takes no file is refused before anything is built or packed, and named."""
        (tmp_path / "file").touch()
        output = tmp_path / place / "a.zip"
        with pytest.raises((UsageError, PermissionRefused), match=re.escape(str(output))):
            packing.checked_format(output)

    @pytest.mark.parametrize(
        ("first", "portable"),
        [
            ("#!/s/p/bin/python3.11\n", "python3.11"),
            ("#!/s/p/bin/python -E\n", "python -E"),
            ("#!/bin/sh\n'''exec' /s/p/bin/python \"$0\" \"$@\"\n' '''\n", "python"),
            ("#!/bin/sh\n'''exec' '/s/p/bin/python3' -I \"$0\" \"$@\"\n' '''\n", "python3 -I"),
        ],
    )  # fmt: skip
    def test_scripts_of_python(self, first: str, portable: str) -> None:
        """However a script names the prefix's Python, it then names the one beside itself, and is Python still."""
        data = portable_script(f"{first}import sys\n".encode(), "/s/p")
        assert b"/s/p" not in data
        name, _, options = portable.partition(" ")
        assert data.endswith(f'/{name}"{" " * bool(options)}{options} "$0" "$@"\n\' \'\'\'\nimport sys\n'.encode())
        compile(data, "script", "exec")

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b"#!/s/p/bin/perl\n1;\n", b"#!/usr/bin/env perl\n1;\n"),
            (b"#!/s/p/bin/perl -w\n1;\n", b"#!/usr/bin/env -S perl -w\n1;\n"),
            (b"#!/usr/bin/python3\npass\n", b"#!/usr/bin/python3\npass\n"),
            (b"no script\n", b"no script\n"),
        ],
    )  # fmt: skip
    def test_other_scripts(self, before: bytes, after: bytes) -> None:
        """Other interpreters of the prefix are found on PATH; the host's stay what they are."""
        assert portable_script(before, "/s/p") == after

    def test_a_lock_that_was_collected_is_none(self, tmp_path: Path) -> None:
        """Whoever locked a file that collection took away meanwhile does not think that he is alone."""
        packs = Packs(tmp_path)
        name = ready.EnvName("env-" + "1" * 16)
        with packs.lock_file(name).open("w") as mine:
            fcntl.flock(mine, fcntl.LOCK_SH)
            with packs.try_lock(name) as is_held:
                assert not is_held
            packs.lock_file(name).unlink()
            with packs.try_lock(name) as is_held:
                assert is_held

    def test_bounding_leaves_alone_what_somebody_packs(self, tmp_path: Path) -> None:
        """An archive whose packer has not noted its use yet counts, and stays; others go, the oldest first."""
        packs = Packs(tmp_path)
        names = [ready.EnvName(f"env-{digit}" + "1" * 15) for digit in "0123"]
        paths = [packs.path(name, "0" * 64, "tar") for name in names]
        for age, (name, path) in enumerate(zip(names, paths, strict=True)):
            temporary = packs.temporary(name)
            temporary.write_bytes(b"x" * 10)
            packs.keep(temporary, path, "0" * 64)
            os.utime(files_of(path)[0], (1000 - age, 1000 - age))
        files_of(paths[3])[0].unlink()
        with packs.try_lock(names[3]) as is_held:
            assert is_held
            packing.bound(packs, 20, paths[2])
        assert [path for _, _, path in packs.archives()] == [paths[0], paths[2], paths[3]]
        packing.bound(packs, 20, paths[2])
        assert [path for _, _, path in packs.archives()] == [paths[0], paths[2]]
