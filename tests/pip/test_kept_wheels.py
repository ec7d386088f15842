"""Wheels that lie in the package cache are installed from there, and leave no trace of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from package_index import Index, Prefix, make_prefix
from test_installing import locked
from test_locking import QUICK

from envmgr.backends import pip
from envmgr.errors import Corrupt
from envmgr.events import Event
from envmgr.model import LockedPackage
from envmgr.wire.pipe import PipSettings


@pytest.fixture
def uv_cache(tmp_path: Path) -> Path:
    return tmp_path / "uv-cache"


@pytest.fixture
def kept(tmp_path: Path, index: Index) -> tuple[LockedPackage, Path]:
    """A locked wheel, and its archive under its hash; requests to the index are counted from here on."""
    index.wheel("al_pha", "1.0")
    package = locked(index, "al_pha-1.0-py3-none-any.whl", "al-pha", "1.0")
    archive = tmp_path / "pkgs" / "archives" / str(package.sha256)
    archive.parent.mkdir(parents=True)
    shutil.copy(index.files / "al_pha-1.0-py3-none-any.whl", archive)
    return package, archive


def install(prefix: Prefix, uv_cache: Path, package: LockedPackage, archives: Mapping[str, Path]) -> list[Event]:
    events: list[Event] = []
    pip.install(
        [package], prefix=prefix.path, settings=PipSettings(), network=QUICK, uv_cache=uv_cache, archives=archives,
        report=events.append,
    )  # fmt: skip
    return events


def files_of(prefix: Prefix) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prefix.site_packages.glob("al_pha*/*")}


def test_the_result_is_the_same_as_from_the_index(
    tmp_path: Path, index: Index, prefix: Prefix, kept: tuple[LockedPackage, Path]
) -> None:
    """Metadata and installer's records are, byte by byte, those of an installation from the index."""
    package, archive = kept
    install(prefix, tmp_path / "one", package, {"al-pha": archive})
    assert index.requests == []
    other = make_prefix(tmp_path / "other" / prefix.path.name)
    install(other, tmp_path / "two", package, {})
    assert len(index.requests) == 1
    assert files_of(prefix) == files_of(other)
    assert {"INSTALLER", "METADATA", "RECORD", "REQUESTED", "WHEEL"} == set(files_of(prefix))
    assert not list(prefix.site_packages.glob("**/.tmp-*"))


def test_a_second_installation_reads_nothing(
    tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path, kept: tuple[LockedPackage, Path]
) -> None:
    """What uv has unpacked is linked: the file's bytes could be gone, and the prefixes share theirs."""
    package, archive = kept
    install(prefix, uv_cache, package, {"al-pha": archive})
    status = archive.stat()
    archive.write_bytes(b"\0" * status.st_size)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = make_prefix(tmp_path / "second")
    install(second, uv_cache, package, {"al-pha": archive})
    assert (second.site_packages / "al_pha.py").stat().st_nlink >= 2


def test_a_damaged_archive_is_deleted_and_fetched_anew(
    index: Index, prefix: Prefix, uv_cache: Path, kept: tuple[LockedPackage, Path]
) -> None:
    """Other bytes of a whole wheel, or a file cut off: uv does not take them, and the index's are installed."""
    package, archive = kept
    archive.write_bytes(archive.read_bytes()[:100])
    events = install(prefix, uv_cache, package, {"al-pha": archive})
    assert prefix.run("import al_pha; print(al_pha.version)") == "1.0"
    assert not archive.exists()
    assert any("was damaged" in event.message for event in events if event.kind == "warning")
    assert len(index.requests) == 1


def test_a_wrong_lock_is_corrupt_whatever_is_kept(
    prefix: Prefix, uv_cache: Path, kept: tuple[LockedPackage, Path]
) -> None:
    """The hash of the lockfile decides, not the archive's name."""
    package, archive = kept
    with pytest.raises(Corrupt):
        install(prefix, uv_cache, replace(package, sha256="0" * 64), {"al-pha": archive})
    assert not list(prefix.site_packages.glob("al_pha*"))


def test_only_wheels_by_hash_are_taken_as_files(index: Index) -> None:
    """No sources, no commits, no files of this host, nothing whose name is another package's."""
    wheel = LockedPackage("pip", "a-b", "1", "https://x.invalid/A_B-1-py3-none-any.whl", "0" * 64, None, None, None, ())
    others = [
        replace(wheel, url="https://x.invalid/a-b-1.tar.gz"),
        replace(wheel, url="git+https://x.invalid/a@0123456789012345678901234567890123456789", sha256=None),
        replace(wheel, url="file:///x/A_B-1-py3-none-any.whl"),
        replace(wheel, url="https://x.invalid/other-1-py3-none-any.whl"),
        replace(wheel, manager="conda"),
    ]
    assert pip.wheels([wheel, *others]) == (wheel,)
