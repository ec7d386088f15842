"""Wheels, which are kept as they came, are fetched about once for all hosts, too; elsewhere nothing changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sibling_hosts import CLASS, NAME, Channel, SharingHost, archive, package, sharing_hosts

from envmgr.backends.archives import Archives
from envmgr.backends.cache_use import in_use
from envmgr.backends.siblings import Siblings, rank
from envmgr.backends.transfers import Sink
from envmgr.errors import ChannelError
from envmgr.events import Event, ignore
from envmgr.model import LockedPackage
from envmgr.wire.pipe import Sharing


class Index(Channel):
    """An index of wheels; of those in `refused` it says that nobody may have them."""

    refused: frozenset[str] = frozenset()

    def wheels(self, count: int) -> list[LockedPackage]:
        found = []
        for number in range(count):
            data = archive(number)
            wheel = replace(package(data, number=number), manager="pip", md5=None, build=None, subdir=None)
            found.append(replace(wheel, url=f"https://index.invalid/package_{number}-1.0-py3-none-any.whl"))
            self.archives[found[-1].url] = data
        return found

    async def fetch(self, url: str, sink: Sink, *, is_again: bool = False) -> None:
        if url in self.refused:
            raise ChannelError("401")
        await super().fetch(url, sink, is_again=is_again)


def hold(
    host: SharingHost,
    wheels: Sequence[LockedPackage],
    sharing: Sharing | None,
    events: list[Event] | None = None,
    *,
    are_built: bool = False,
) -> tuple[dict[str, Path], Archives]:
    report = ignore if events is None else events.append

    async def run() -> tuple[dict[str, Path], Archives]:
        siblings = None
        if sharing is not None:
            siblings = Siblings(sharing, NAME, CLASS, is_solving=False, parallel=4, report=report)
        archives = Archives(host.layout.packages, host.channel, siblings=siblings, report=report)
        with in_use(host.layout.packages):
            return await archives.hold(wheels, are_built=are_built), archives

    return asyncio.run(run())


@pytest.fixture
def index() -> Index:
    return Index()


def test_the_second_host_gets_them_from_the_first(tmp_path: Path, index: Index) -> None:
    """Each is fetched from the index once, kept under its hash, and found there the next time without a question."""
    wheels = index.wheels(12)
    with sharing_hosts(tmp_path, index, 2) as (one, other):
        urls = (one.url, other.url)
        paths, archives = hold(one, wheels, Sharing(one.url, urls))
        assert {name: path.read_bytes() for name, path in paths.items()} == {
            wheel.name: index.archives[wheel.url] for wheel in wheels
        }
        assert (archives.sibling_bytes, archives.downloaded_bytes) == (0, sum(map(len, index.archives.values())))
        paths, archives = hold(other, wheels, Sharing(other.url, urls))
        assert len(paths) == 12
        assert (archives.sibling_bytes, archives.downloaded_bytes) == (sum(map(len, index.archives.values())), 0)
        given = one.server.given_bytes
        assert hold(other, wheels, Sharing(other.url, urls))[0] == paths
        assert one.server.given_bytes == given
    assert set(index.fetched.values()) == {1}


def test_what_was_built_is_had_from_any_host_and_no_channel(tmp_path: Path, index: Index) -> None:
    """The solver is gone, the last that is asked has one of two, which comes; nobody is waited for, no index asked."""
    wheels = index.wheels(2)
    with sharing_hosts(tmp_path, index, 6) as hosts, sharing_hosts(tmp_path / "gone", index, 1) as (gone,):
        asker, *others = hosts
        first = rank(str(wheels[0].sha256), [host.url for host in others])[-1]
        next(host for host in others if host.url == first).keep(index.archives[wheels[0].url])
        for host in others:
            host.wanted.add(NAME)  # they make it, too, and would say that it is coming
        gone.server.stop()
        sharing = Sharing(asker.url, tuple(host.url for host in hosts), gone.url)
        begun = time.monotonic()
        assert list(hold(asker, wheels, sharing, are_built=True)[0]) == [wheels[0].name]
        assert time.monotonic() - begun < sharing.wait_s / 2
    assert not index.fetched


def test_a_host_that_shares_with_nobody_fetches_none(tmp_path: Path, index: Index) -> None:
    """There uv gets them as ever; but one that is here already, such as a bundle's, is used."""
    wheels = index.wheels(2)
    with sharing_hosts(tmp_path, index, 1) as (host,):
        assert hold(host, wheels, None)[0] == {}
        host.keep(index.archives[wheels[0].url])
        assert list(hold(host, wheels, None)[0]) == [wheels[0].name]
    assert not index.fetched


def test_what_cannot_be_had_is_left_to_uv(tmp_path: Path, index: Index) -> None:
    """Refused, or other bytes than were locked: no error here, the others are there, and nothing unfinished is left."""
    wheels = index.wheels(4)
    index.refused = frozenset({wheels[0].url})
    index.archives[wheels[1].url] = b"PK others"
    events: list[Event] = []
    with sharing_hosts(tmp_path, index, 1) as (host,):
        paths = hold(host, wheels, Sharing(host.url), events)[0]
        assert sorted(paths) == [wheels[2].name, wheels[3].name]
        assert sorted(path.name for path in host.archives.iterdir()) == sorted(str(it.sha256) for it in wheels[2:])
    told = [event.message for event in events if "is left to uv" in event.message]
    assert len(told) == 2
    phases = [(event.kind, event.phase) for event in events if event.kind in ("begin", "end")]
    assert phases == [("begin", "fetch"), ("end", "fetch")]
