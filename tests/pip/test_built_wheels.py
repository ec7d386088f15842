"""Wheels are built from sources as an installation would, and installed instead of the sources by their hash."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from package_index import Index, Prefix, make_prefix, source_tree
from test_installing import locked
from test_locking import QUICK

from envmgr import lockfile
from envmgr.backends import pip
from envmgr.backends.processes import run
from envmgr.errors import PolicyRefused
from envmgr.events import Event
from envmgr.model import BuiltWheel, LockedPackage
from envmgr.wire.pipe import PipSettings

WHEEL = "sonly-1.0-py3-none-any.whl"


@pytest.fixture
def uv_cache(tmp_path: Path) -> Path:
    return tmp_path / "uv-cache"


@pytest.fixture
def sources(index: Index) -> LockedPackage:
    index.sdist("sonly", "1.0")
    return locked(index, "sonly-1.0.tar.gz", "sonly", "1.0")


def keep(index: Index, directory: Path, version: str) -> Path:
    """Return a file under its hash as an archive of the cache is; another one for each `version`."""
    directory.mkdir(exist_ok=True)
    made = index.wheel("sonly", "1.0")
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("sonly_build.py", f"build = {version!r}\n")
    path = directory / hashlib.sha256(made.read_bytes()).hexdigest()
    shutil.move(made, path)
    return path


def install(
    prefix: Prefix, uv_cache: Path, package: LockedPackage, archive: Path, settings: PipSettings | None = None
) -> list[Event]:
    events: list[Event] = []
    wheel = BuiltWheel(package.name, WHEEL, archive.name)
    pip.install(
        [package], prefix=prefix.path, settings=settings or PipSettings(), network=QUICK, uv_cache=uv_cache,
        archives={package.name: archive}, built_wheels=lockfile.stand_ins([package], [wheel]), report=events.append,
    )  # fmt: skip
    return events


def build(prefix: Prefix, uv_cache: Path, directory: Path, package: LockedPackage, file: Path) -> tuple[pip.Wheel, ...]:
    return pip.build(
        [package], {package.name: file}, directory, prefix=prefix.path, settings=PipSettings(), network=QUICK,
        uv_cache=uv_cache, environ={}, run=run, report=lambda _: None,
    )  # fmt: skip


def test_only_sources_by_hash_are_built(sources: LockedPackage) -> None:
    """No wheels, no commits, no files of this host, and nothing whose name is not that of a source distribution."""
    others = [
        replace(sources, url="https://x.invalid/sonly-1.0-py3-none-any.whl"),
        replace(sources, url="git+https://x.invalid/a@0123456789012345678901234567890123456789", sha256=None),
        replace(sources, url="file:///x/sonly-1.0.tar.gz"),
        replace(sources, url="https://x.invalid/archive/main.zip"),
        replace(sources, manager="conda"),
    ]
    assert pip.sources([sources, *others]) == (sources,)


def test_a_wheel_is_built_without_the_index(
    tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path, sources: LockedPackage
) -> None:
    """uv builds the file that it is given; from other bytes than were locked nothing is built, and they are deleted."""
    archive = tmp_path / str(sources.sha256)
    shutil.copy(index.files / "sonly-1.0.tar.gz", archive)
    (wheel,) = build(prefix, uv_cache, tmp_path / "out", sources, archive)
    assert (wheel.name, wheel.path.name, wheel.is_portable) == ("sonly", WHEEL, True)
    assert zipfile.ZipFile(wheel.path).read("sonly.py") == b"is_built = True\n"
    assert not index.requests
    no_sources = replace(sources, sha256=hashlib.sha256(b"no sources").hexdigest())
    archive.write_bytes(b"no sources")
    assert build(prefix, uv_cache, tmp_path / "none", no_sources, archive) == ()
    assert build(prefix, uv_cache, tmp_path / "damaged", sources, archive) == ()
    assert not archive.exists()


def test_a_wheel_that_names_the_prefix_is_not_for_others(
    tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path
) -> None:
    """Its path would lead nowhere on another host, though the wheel says that it fits all."""
    tree = tmp_path / "tree" / "sonly-1.0"
    tree.mkdir(parents=True)
    for member, text in source_tree("sonly", "1.0").items():
        (tree / member).write_text(text.replace("is_built = True", f"where = '{prefix.path}'"))
    made = Path(shutil.make_archive(str(index.files / "sonly-1.0"), "gztar", tree.parent))
    (wheel,) = build(prefix, uv_cache, tmp_path / "out", locked(index, made.name, "sonly", "1.0"), made)
    assert not wheel.is_portable


def test_a_second_build_has_the_same_date(tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path) -> None:
    """A relock that finds the same sources gets the same wheel from a backend that heeds SOURCE_DATE_EPOCH."""
    tree = tmp_path / "tree" / "sonly-1.0"
    tree.mkdir(parents=True)
    for member, text in source_tree("sonly", "1.0").items():
        dated = text.replace(r'"is_built = True\n"', "os.environ['SOURCE_DATE_EPOCH']")
        (tree / member).write_text(dated)
    made = Path(shutil.make_archive(str(index.files / "sonly-1.0"), "gztar", tree.parent))
    (wheel,) = build(prefix, uv_cache, tmp_path / "out", locked(index, made.name, "sonly", "1.0"), made)
    assert zipfile.ZipFile(wheel.path).read("sonly.py") == b"946684800"


def test_the_locked_build_is_installed_whatever_is_in_the_cache(
    tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path, sources: LockedPackage
) -> None:
    """Two builds of one wheel have one file name: the hash decides, for one prefix after the other."""
    one, other = (keep(index, tmp_path / "archives", version) for version in ("one", "other"))
    install(prefix, uv_cache, sources, one)
    assert prefix.run("import sonly_build; print(sonly_build.build)") == "one"
    second = make_prefix(tmp_path / "second")
    install(second, uv_cache, sources, other)
    assert second.run("import sonly_build; print(sonly_build.build)") == "other"
    third = make_prefix(tmp_path / "third")
    install(third, uv_cache, sources, one)
    assert third.run("import sonly_build; print(sonly_build.build)") == "one"
    assert not index.requests
    assert not list(prefix.site_packages.glob("*/uv_cache.json"))


def test_a_damaged_build_is_deleted_and_made_from_sources(
    tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path, sources: LockedPackage
) -> None:
    """Other bytes than the lockfile's are not installed; uv builds its own."""
    archive = keep(index, tmp_path / "archives", "one")
    wrong = archive.with_name("0" * 64)
    archive.rename(wrong)
    events = install(prefix, uv_cache, sources, wrong)
    assert prefix.run("import sonly; print(sonly.is_built)") == "True"
    assert not wrong.exists()
    assert any("was damaged" in event.message for event in events if event.kind == "warning")


def test_a_build_allows_no_sources(
    tmp_path: Path, index: Index, prefix: Prefix, uv_cache: Path, sources: LockedPackage
) -> None:
    """What may not be built here is not installed either, because somebody else says that he has built it."""
    archive = keep(index, tmp_path / "archives", "one")
    with pytest.raises(PolicyRefused, match="allow_sdists"):
        install(prefix, uv_cache, sources, archive, PipSettings(allow_sdists=()))
