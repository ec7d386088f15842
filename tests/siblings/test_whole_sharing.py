"""Real builders on hosts with caches of their own, the daemon's server of archives, and one channel over HTTP."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import fetching, workspace
from demo.packages import fabricate, index
from sibling_hosts import say, scripted

from envmgr.errors import Offline
from envmgr.wire.pipe import Network, PipSettings, Sharing

pytestmark = pytest.mark.slow
NAMES = tuple(f"part-{number}" for number in range(6))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("channel") / "chan"
    for name in NAMES:
        fabricate(found, name, "1.0", files={f"share/{name}.bin": os.urandom(100_000)})
    index(found)
    return found


def test_three_hosts_make_one_environment(tmp_path: Path, directory: Path) -> None:
    """One solves; the others, which know it, get every archive from a host, and their prefixes are the same."""
    with fetching.served(directory) as channel, fetching.hosts(tmp_path / "hosts", 3) as hosts:
        urls = tuple(host.url for host in hosts)
        first, *rest = hosts
        alone = first.build(first.request(channel.url, *NAMES, sharing=Sharing(first.url, urls)))
        assert alone.sibling_bytes == 0
        assert alone.downloaded_bytes > 600_000
        requests = [
            host.request(channel.url, *NAMES, sharing=Sharing(host.url, urls, first.url), lockfile=first.lockfile)
            for host in rest
        ]
        results = fetching.build_at_once(rest, requests)
        assert [result.downloaded_bytes for result in results] == [0, 0]
        assert [result.sibling_bytes for result in results] == [alone.downloaded_bytes] * 2
        assert [result.lock_digest for result in results] == [alone.lock_digest] * 2
        packages = Counter(path for path in channel.paths if path.endswith(".conda"))
        assert packages.total() == len(packages) == len(NAMES)
        for name in NAMES:
            contents = {path.read_bytes() for path in (tmp_path / "hosts").glob(f"*/builds/*/envs/*/share/{name}.bin")}
            assert len(contents) == 1


def test_a_liar_among_them_changes_nothing(tmp_path: Path, directory: Path) -> None:
    """A builder that is given wrong bytes by another host warns of it, and builds from the channel."""
    with (
        fetching.served(directory) as channel,
        fetching.hosts(tmp_path / "hosts", 1) as (host,),
        scripted(lambda _target, connection: say(connection, 200, b"PK lies")) as liar,
    ):
        sharing = Sharing(None, (liar.url,))
        result = host.build(host.request(channel.url, *NAMES, sharing=sharing))
        assert (result.sibling_bytes, result.downloaded_bytes > 600_000) == (0, True)
        warnings = [event.message for event in host.events if event.kind == "warning"]
        assert any(f"{liar.url} gave wrong bytes" in message for message in warnings)
        assert len(liar.asked) <= len(NAMES)


def test_offline_nobody_is_asked(tmp_path: Path, directory: Path) -> None:
    """With the setting offline the other hosts are network like all else: a build that lacks something says so."""
    with (
        fetching.served(directory) as channel,
        fetching.hosts(tmp_path / "hosts", 2) as (one, other),
    ):
        one.build(one.request(channel.url, *NAMES, sharing=Sharing(one.url)))
        request = other.request(channel.url, *NAMES, sharing=Sharing(other.url, (one.url,)), lockfile=one.lockfile)
        with pytest.raises(Offline):
            other.build(replace(request, network=Network(is_offline=True)))


def test_wheels_are_fetched_once_by_whole_builds(tmp_path: Path, demo_channel: str) -> None:
    """A pip section: the index gives the wheel to the host that solves, which gives it to the other; both are alike."""
    site = tmp_path / "index"
    files, page = site / "files", site / "simple" / "bench-wheel-0"
    for place in (files, page):
        place.mkdir(parents=True)
    workspace._make_wheel(files, "bench_wheel_0")
    (wheel,) = files.iterdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (page / "index.html").write_text(f'<a href="../../files/{wheel.name}#sha256={digest}">{wheel.name}</a>')
    with fetching.served(site) as served, fetching.hosts(tmp_path / "hosts", 2) as hosts:
        urls = tuple(host.url for host in hosts)
        section = {"pip": ("bench-wheel-0",), "pip_settings": PipSettings(index_url=f"{served.url}/simple/")}
        one, other = hosts
        one.build(one.request(demo_channel, "python", sharing=Sharing(one.url, urls), **section))
        fetched = served.paths.count(f"/files/{wheel.name}")
        sharing = Sharing(other.url, urls, one.url)
        result = other.build(other.request(demo_channel, "python", sharing=sharing, lockfile=one.lockfile, **section))
        assert served.paths.count(f"/files/{wheel.name}") == fetched > 0
        assert result.sibling_bytes == wheel.stat().st_size
        info = "builds/*/envs/*/lib/python*/site-packages/bench_wheel_0-1.0.dist-info"
        places = [place for host in hosts for place in host.root.glob(info)]
        assert len(places) == 2
        first, second = ({path.name: path.read_bytes() for path in place.iterdir()} for place in places)
        assert first == second
        assert not {"uv_cache.json", "direct_url.json"} & first.keys()
