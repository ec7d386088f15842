"""What lies in uv's cache is believed after it was brought to disk, or within the same boot, and else not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from package_index import Index, Prefix, make_prefix
from test_installing import QUICK, locked

from envmgr import lockfile
from envmgr.backends.pip.cache import Cache
from envmgr.backends.processes import run
from envmgr.builder.interpreted import Interpreted
from envmgr.builder.recording import Recorder
from envmgr.errors import Offline
from envmgr.events import ignore
from envmgr.model import LockedPackage
from envmgr.wire.pipe import BuildRequest, Network

EARLIER = "0f0e0d0c-0000-4000-8000-000000000000"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "uv-cache"


def state(cache: Path) -> Path:
    return cache / ".envmgr-state"


def begin(cache: Path) -> Cache:
    found = Cache(cache, ignore)
    found.open()
    return found


def end(used: Cache) -> None:
    used.leave()
    used.mark_synced()


def build(prefix: Prefix, cache: Path, package: LockedPackage, network: Network = QUICK) -> Interpreted:
    """Do the pip stage of a build; it is left in the middle."""
    request = BuildRequest(
        action="build", name="env-0123456789abcdef", digest="", subdir="linux-64", conda=(), pip=(), channels=(),
        channel_priority="strict", variables=(), lockfile=None, build_dir=str(prefix.path.parent),
        prefix=str(prefix.path), package_cache=str(cache.parent / "pkgs"), uv_cache=str(cache),
        machine_class="linux-64", network=network,
    )  # fmt: skip
    found = Interpreted(request, run, Recorder(ignore))
    found.install_pip(lockfile.parse(lockfile.write([package], subdir="linux-64", channels=[]), "linux-64"))
    return found


@pytest.mark.parametrize("is_synced", [False, True])
def test_after_a_power_loss(prefix: Prefix, index: Index, cache: Path, tmp_path: Path, *, is_synced: bool) -> None:
    """A wheel that has lost its content is fetched again, unless all was on disk; within a boot nothing is."""
    index.wheel("alpha", "1.0")
    package = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    first = build(prefix, cache, package)
    offline = replace(QUICK, is_offline=True)
    second = build(make_prefix(tmp_path / "second"), cache, package, offline)
    if is_synced:
        for one in (first, second):
            one.check()
        second.share()
        assert state(cache).read_text() == "synced"
        build(make_prefix(tmp_path / "third"), cache, package, offline)
        return
    for one in (first, second):
        one.share()  # without a check before the sync: as good as killed
    assert state(cache).read_text() not in {"synced", EARLIER}
    [kept] = cache.glob("archive-*/*/alpha.py")
    kept.chmod(0o644)
    kept.write_bytes(b"")
    state(cache).write_text(EARLIER)
    with pytest.raises(Offline):
        build(make_prefix(tmp_path / "third"), cache, package, offline)
    last = make_prefix(tmp_path / "last")
    build(last, cache, package)
    assert last.run("import alpha; print(alpha.version)") == "1.0"


def test_only_who_is_alone_says_that_it_is_on_disk(cache: Path) -> None:
    """What another build is writing is not covered by this one's sync; the last one speaks for all."""
    one = begin(cache)
    boot = state(cache).read_text()
    two = begin(cache)
    end(one)
    assert state(cache).read_text() == boot
    end(two)
    assert state(cache).read_text() == "synced"
    three = begin(cache)
    assert state(cache).read_text() == boot
    end(three)


@pytest.mark.parametrize("found", ["", EARLIER, None])
def test_without_a_state_that_is_known_nothing_is_believed(cache: Path, found: str | None) -> None:
    """An empty state, an earlier boot's, or none beside something: all goes, also what nobody may write."""
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / "content").touch()
    (cache / "wheels").chmod(0o555)
    if found is not None:
        state(cache).write_text(found)
    end(begin(cache))
    assert sorted(path.name for path in cache.iterdir()) == [".envmgr-state", ".envmgr-use"]
