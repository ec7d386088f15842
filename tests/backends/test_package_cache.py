"""The verified package cache: what is not what it must be never gets in, and what was damaged is made anew."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from backend_hosts import Built, Host
from backend_servers import serve
from demo.packages import fabricate, index

from envmgr.backends.unpacked import SYNCED, Entries
from envmgr.errors import Corrupt, PolicyRefused

pytestmark = pytest.mark.slow  # each test is a few builds; test_builds.py has those that scripts/check runs


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A channel of this test's own, to be damaged: big 1.0."""
    directory = tmp_path / "own"
    fabricate(
        directory, "big", "1.0", files={"share/big.bin": os.urandom(50_000), "share/words.txt": "four words in it"}
    )
    fabricate(directory, "other", "1.0", files={"share/other.txt": "another"})
    index(directory)
    return directory


def archive_of(directory: Path, name: str = "big") -> Path:
    return directory / "noarch" / f"{name}-1.0-0.conda"


def flip(path: Path) -> None:
    """Change one byte in the middle, and leave the size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def entry_of(host: Host) -> Path:
    (entry,) = (path for path in (host.packages / "unpacked").iterdir() if path.is_dir())
    return entry


def assert_whole(built: Built) -> None:
    assert built.result is not None
    assert (built.prefix / "share/big.bin").stat().st_size == 50_000
    assert (built.prefix / "share/words.txt").read_text() == "four words in it"


@pytest.mark.parametrize("way", ["file", "http"])
@pytest.mark.parametrize("damage", ["flipped", "swapped", "truncated"])
def test_a_wrong_archive_gets_nowhere(host: Host, own: Path, way: str, damage: str) -> None:
    """Flipped, swapped or cut off; from disk or HTTP; at first and again: refused, and nothing kept."""
    good = archive_of(own).read_bytes()
    if damage == "flipped":
        flip(archive_of(own))
    elif damage == "swapped":
        shutil.copy(archive_of(own, "other"), archive_of(own))
    else:
        archive_of(own).write_bytes(good[: len(good) // 2])
    with serve(own) as server:
        url = own.as_uri() if way == "file" else server.url
        for _ in range(2):
            with pytest.raises(Corrupt) as caught:
                host.build(url, conda=("big",))
            assert caught.value.fields["package"] == "big"
            assert str(caught.value.fields["expected"]) in caught.value.message
            assert str(caught.value.fields["found"]) in caught.value.message
            assert f"{url}/noarch/big-1.0-0.conda" in caught.value.message
            assert caught.value.hint is not None
            assert list((host.packages / "archives").iterdir()) == []
            assert list((host.packages / "unpacked").iterdir()) == []
        archive_of(own).write_bytes(good)
        assert_whole(host.build(url, conda=("big",)))


def test_a_warm_cache_is_not_asked_about_a_damaged_channel(host: Host, own: Path) -> None:
    """What was verified once is used by its hash, whatever the channel has in its place now."""
    first = host.build(own.as_uri(), conda=("big",))
    flip(archive_of(own))
    assert_whole(host.build(own.as_uri(), conda=("big",), lockfile=first.locked[0]))


def test_a_damaged_archive_in_the_cache_is_fetched_again(host: Host, own: Path) -> None:
    """Before something is unpacked, bytes that were here before are hashed again."""
    first = host.build(own.as_uri(), conda=("big",))
    (archive,) = (host.packages / "archives").iterdir()
    flip(archive)
    shutil.rmtree(entry_of(host))
    again = host.build(conda=("big",), lockfile=first.locked[0])
    assert_whole(again)
    assert any("was damaged; fetching it again" in text for text in again.messages("warning"))


@pytest.mark.parametrize("damage", ["shortened", "deleted", "overwritten"])
def test_a_damaged_entry_is_healed_and_its_users_keep_theirs(host: Host, own: Path, damage: str) -> None:
    """Damage by hand in a package that prefixes share: the next build gets a whole one, and asks no channel for it."""
    first = host.build(own.as_uri(), conda=("big",))
    file = entry_of(host) / "share/words.txt"
    file.parent.chmod(0o755)
    file.chmod(0o644)
    if damage == "shortened":
        file.write_text("four")
        os.utime(file, (1, 1))
    elif damage == "deleted":
        file.unlink()
    else:
        file.write_text("four swords in i")
    archive_of(own).unlink()
    again = host.build(conda=("big",), lockfile=first.locked[0])
    assert_whole(again)
    assert any("was damaged; it was made anew" in text for text in again.messages("warning"))
    shared = (first.prefix / "share/words.txt").stat().st_ino
    assert shared != (again.prefix / "share/words.txt").stat().st_ino
    assert not [path for path in (host.packages / "unpacked").iterdir() if path.name.startswith(".tmp-")]


def test_full_validation_sees_what_keeps_size_and_time(host: Host, own: Path) -> None:
    """A change that the cheap look cannot see is found when every file is hashed."""
    first = host.build(own.as_uri(), conda=("big",))
    file = entry_of(host) / "share/words.txt"
    times = file.stat()
    file.chmod(0o644)
    file.write_text("FOUR WORDS IN IT")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    blind = host.build(conda=("big",), lockfile=first.locked[0])
    assert (blind.prefix / "share/words.txt").read_text() == "FOUR WORDS IN IT"
    assert_whole(host.build(conda=("big",), lockfile=first.locked[0], validate_packages=True))


def test_an_entry_of_an_earlier_boot_that_was_never_synced_is_made_anew(host: Host, own: Path) -> None:
    """After a crash of the machine, only entries that are known to be on disk are believed."""
    first = host.build(own.as_uri(), conda=("big",))
    seal = Path(f"{entry_of(host)}.ok")
    state, *rest = seal.read_text().split()
    assert state == "synced"
    before = entry_of(host).stat().st_ino
    host.build(conda=("big",), lockfile=first.locked[0])
    assert entry_of(host).stat().st_ino == before
    seal.write_text(" ".join(["00000000-0000-0000-0000-000000000000", *rest]))
    host.build(conda=("big",), lockfile=first.locked[0])
    assert entry_of(host).stat().st_ino != before
    assert seal.read_text().split()[0] == "synced"
    seal.unlink()
    host.build(conda=("big",), lockfile=first.locked[0])
    assert seal.read_text().split()[0] == "synced"


def test_what_is_exchanged_is_not_said_to_be_on_disk(tmp_path: Path) -> None:
    """Who is killed after he exchanged a damaged entry leaves one without a seal, not one with the old one's."""
    entries, key = Entries(tmp_path), "0" * 64
    for name in ("first", "second"):
        fresh = tmp_path / name
        (fresh / "info").mkdir(parents=True)
        (fresh / "info/paths.json").write_text("{}")
        os.utime(fresh / "info/paths.json", (1, 1))
        seal = entries.settle(fresh)
        is_damaged = entries.put(key, fresh, validate=True)
        if not is_damaged:
            entries.write_seal(key, replace(seal, state=SYNCED))
            assert entries.look(key) is not None
    assert is_damaged
    assert entries.look(key) is None


def test_without_a_sha256_only_by_setting(host: Host, own: Path) -> None:
    """A package with md5 only is refused, or checked by it where the site says so; it never stands for a sha256."""
    locked = host.build(own.as_uri(), conda=("big",), action="lock").locked[0]
    md5_only = "\n".join(line for line in locked.splitlines() if "sha256:" not in line)
    with pytest.raises(PolicyRefused, match="allow_md5"):
        host.build(conda=("big",), lockfile=md5_only)
    assert_whole(host.build(conda=("big",), lockfile=md5_only, allow_md5=True))
    assert entry_of(host).name.startswith("md5-")
    flip(archive_of(own))
    with pytest.raises(Corrupt):
        host.build(conda=("big",), lockfile=locked)
    with pytest.raises(Corrupt, match="its md5 is"):
        Host(host.root / "other").build(conda=("big",), lockfile=md5_only, allow_md5=True)


def test_builds_that_want_the_same_archive_fetch_it_once(host: Host, own: Path) -> None:
    """Four builders with one cold cache ask the server for each archive once, and all are whole."""
    with serve(own) as server:
        text = host.build(server.url, conda=("big", "other"), action="lock").locked[0]
        server.behaviour.chunk_pause_s = 0.01
        requests = [host.request(conda=("big", "other"), lockfile=text) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            for built in pool.map(host.run, requests):
                assert_whole(built)
        assert len(server.asked_for("big-1.0-0.conda")) == 1
        assert len(server.asked_for("other-1.0-0.conda")) == 1


def test_a_warm_build_does_not_wait_for_a_slow_download(host: Host, own: Path) -> None:
    """While one build's download hangs, another whose packages are here goes through."""
    text = host.build(own.as_uri(), conda=("big",)).locked[0]
    with serve(own) as server:
        server.behaviour.stall = "other-1.0"
        slow = threading.Thread(target=host.build, args=(server.url,), kwargs={"conda": ("other",)})
        slow.start()
        while not server.asked_for("other-1.0-0.conda"):
            pass
        assert_whole(host.build(conda=("big",), lockfile=text))
        assert slow.is_alive()
        server.behaviour.release.set()
        slow.join(30)
        assert not slow.is_alive()


def test_a_build_keeps_collection_out(host: Host, own: Path) -> None:
    """While a builder uses the cache, nobody gets `.use` exclusively; afterwards anybody does."""
    with serve(own) as server:
        server.behaviour.stall = "big-1.0"
        build = threading.Thread(target=host.build, args=(server.url,), kwargs={"conda": ("big",)})
        build.start()
        while not server.asked_for("big-1.0-0.conda"):
            pass
        with (host.packages / ".use").open() as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            server.behaviour.release.set()
            build.join(30)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_old_format_of_packages_works(host: Host, tmp_path: Path) -> None:
    """A ``.tar.bz2`` is verified, unpacked and linked as a ``.conda`` is."""
    made = fabricate(tmp_path / "new", "aged", "1.0", files={"share/aged.txt": "old"})
    chan = tmp_path / "old"
    (chan / "noarch").mkdir(parents=True)
    with zipfile.ZipFile(made) as archive:
        parts = [name for name in archive.namelist() if name.endswith(".tar.zst")]
        archive.extractall(tmp_path / "parts")
    tree = tmp_path / "tree"
    tree.mkdir()
    zstandard = pytest.importorskip("zstandard")
    for name in parts:
        with (
            (tmp_path / "parts" / name).open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
        ):
            tar.extractall(tree, filter="data")
    with tarfile.open(chan / "noarch" / "aged-1.0-0.tar.bz2", "w:bz2") as tar:
        for path in tree.iterdir():
            tar.add(path, path.name)
    index(chan)
    built = host.build(chan.as_uri(), conda=("aged",))
    assert (built.prefix / "share/aged.txt").read_text() == "old"
    assert json.loads((built.prefix / "conda-meta/aged-1.0-0.json").read_text())["fn"] == "aged-1.0-0.tar.bz2"


def test_unpacked_files_cannot_be_written(host: Host, own: Path) -> None:
    """Every file of an entry is 0444 or 0555 from the moment it can be linked."""
    host.build(own.as_uri(), conda=("big",))
    files = [path for path in entry_of(host).rglob("*") if path.is_file()]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} <= {0o444, 0o555}
