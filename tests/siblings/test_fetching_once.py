"""Archives come from the channel about once for all hosts, and from no host that does not keep to the rules."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sibling_hosts import (
    LIMIT_S,
    NAME,
    Channel,
    SharingHost,
    archive,
    build_on_all,
    package,
    say,
    scripted,
    sharing_hosts,
)

from envmgr.backends.siblings import rank
from envmgr.backends.transfers import Sink
from envmgr.model import LockedPackage
from envmgr.wire.archives import is_url

MOST_S = 8.0
"""What a build with a few bad siblings may take; each waits at most `WAIT_S` or the time of a connection."""
WAIT_S = 0.4


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def host(tmp_path: Path, channel: Channel) -> Iterator[SharingHost]:
    with sharing_hosts(tmp_path, channel, 1) as (found,):
        yield found


def size_of(channel: Channel) -> int:
    return sum(map(len, channel.archives.values()))


# ------------------------------------------------------------------------------------------------------------- ranks


def test_ranks_do_not_depend_on_who_is_seen() -> None:
    """Without one host, the order of the others stays; the order in which they are named does not matter."""
    urls = [f"http://node-{number}:7461" for number in range(8)]
    for number in range(50):
        sha256 = hashlib.sha256(b"%d" % number).hexdigest()
        ranked = rank(sha256, urls)
        assert rank(sha256, reversed(urls)) == ranked
        gone = urls[number % 8]
        assert rank(sha256, [url for url in urls if url != gone]) == [url for url in ranked if url != gone]


def test_every_host_is_first_about_as_often() -> None:
    """No host fetches for all."""
    urls = [f"http://node-{number}:7461" for number in range(5)]
    first = Counter(rank(hashlib.sha256(b"%d" % number).hexdigest(), urls)[0] for number in range(2000))
    assert len(first) == 5
    assert all(320 < count < 480 for count in first.values())


# -------------------------------------------------------------------------------------------------------- good hosts


def test_five_hosts_fetch_each_archive_once(tmp_path: Path, channel: Channel) -> None:
    """Five hosts build the same at once: the channel gives each archive once, and all have all."""
    packages = channel.packages(40)
    channel.pause_s = 0.01
    with sharing_hosts(tmp_path, channel, 5) as hosts:
        results = build_on_all(hosts, packages)
        assert set(channel.fetched.values()) == {1}
        assert sum(result.downloaded_bytes for result in results) == size_of(channel)
        for host, result in zip(hosts, results, strict=True):
            assert result.downloaded_bytes + result.sibling_bytes == size_of(channel)
            assert len(list(host.archives.iterdir())) == 40


def test_what_one_host_solved_is_fetched_by_no_other(tmp_path: Path, channel: Channel) -> None:
    """The host that solves waits for nobody and has all; the others, told who it was, leave the channel alone."""
    packages = channel.packages(40)
    with sharing_hosts(tmp_path, channel, 5) as hosts:
        urls = [host.url for host in hosts]
        for host in hosts:
            host.wanted.add(NAME)  # they wait for the lockfile
        began = time.monotonic()
        hosts[0].build(packages, urls, is_solving=True)
        assert time.monotonic() - began < MOST_S
        build_on_all(hosts[1:], packages, solver=urls[0])
        assert sum(channel.fetched.values()) == 40


def test_a_host_that_joins_later_asks_the_others_first(tmp_path: Path, channel: Channel) -> None:
    """Also for what it would be the first to fetch: it is there already."""
    packages = channel.packages(30)
    with sharing_hosts(tmp_path, channel, 3) as hosts:
        build_on_all(hosts[:2], packages)
        joined = hosts[2].build(packages, [host.url for host in hosts])
        assert joined.downloaded_bytes == 0
        assert joined.sibling_bytes == size_of(channel)
        assert sum(channel.fetched.values()) == 30


def test_a_host_that_gives_nothing_may_take(tmp_path: Path, channel: Channel) -> None:
    """Without an address of its own it has no rank and fetches from those that have one."""
    packages = channel.packages(10)
    with sharing_hosts(tmp_path, channel, 2) as hosts:
        hosts[0].build(packages, ())
        hosts[1].url = None  # type: ignore[assignment]  # it gives none
        assert hosts[1].build(packages, [hosts[0].url]).downloaded_bytes == 0


def test_by_md5_nothing_is_asked_for(host: SharingHost, channel: Channel) -> None:
    """An archive without sha256 comes from its channel, also where another host would give it."""
    data = archive(1)
    wanted = package(data, has_sha256=False)
    channel.archives[wanted.url] = data
    with scripted(lambda _target, connection: say(connection, 200, data)) as other:
        assert host.build([wanted], [other.url], allow_md5=True).sibling_bytes == 0
        assert other.asked == []
    assert channel.fetched[wanted.url] == 1


def test_only_files_of_a_network_are_asked_for(host: SharingHost, channel: Channel) -> None:
    """A channel that is a directory is nearer than any other host."""
    data = archive(1)
    wanted = package(data)
    local = replace(wanted, url="file:///chan/x.conda")
    channel.archives[local.url] = data
    with scripted(lambda _target, connection: say(connection, 200, data)) as other:
        host.build([local], [other.url])
        assert other.asked == []


def ranked_before(host: SharingHost, channel: Channel, *others: str) -> list[LockedPackage]:
    """Return packages for which `host` ranks last."""
    urls = [host.url, *others]
    return [wanted for wanted in channel.packages(200) if rank(str(wanted.sha256), urls)[-1] == host.url][:6]


# --------------------------------------------------------------------------------------------------------- bad hosts


def test_a_liar_is_asked_no_more_and_named(host: SharingHost, channel: Channel) -> None:
    """Wrong bytes are never used; after them that host is not asked again, and the build warns of it."""
    with scripted(lambda _target, connection: say(connection, 200, b"PK lies")) as liar:
        wanted = ranked_before(host, channel, liar.url)
        result = host.build(wanted, [liar.url])
    assert result.sibling_bytes == 0
    assert result.downloaded_bytes == sum(len(channel.archives[one.url]) for one in wanted)
    assert f"{liar.url} gave wrong bytes for package-" in result.messages("warning")
    assert len(liar.asked) <= len(wanted)  # those that were on their way when the first came
    for one in wanted:
        assert hashlib.sha256((host.archives / str(one.sha256)).read_bytes()).hexdigest() == one.sha256


def test_dead_hosts_cost_a_moment(host: SharingHost, channel: Channel) -> None:
    """Hosts that refuse connections, and one whose packets vanish: each costs about a second once, all in parallel."""
    with contextlib.ExitStack() as stack:
        closed = []
        for _ in range(3):
            with socket.create_server(("127.0.0.1", 0)) as listening:
                closed.append(listening.getsockname()[1])
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # its queue is full: further connections are not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        urls = [f"http://127.0.0.1:{port}" for port in (*closed, full.getsockname()[1])]
        wanted = channel.packages(60)
        began = time.monotonic()
        result = host.build(wanted, urls)
        assert time.monotonic() - began < MOST_S
    assert result.downloaded_bytes == size_of(channel)
    assert result.messages("log").count("gives no archives") <= 4


@pytest.mark.slow
def test_a_frozen_host_costs_two_waits(host: SharingHost, channel: Channel) -> None:
    """Connections to a host that is stopped are made by its kernel; no answer comes, and it is asked no more."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as frozen:
        wanted = channel.packages(30)
        began = time.monotonic()
        result = host.build(wanted, [f"http://127.0.0.1:{frozen.getsockname()[1]}"])
        assert time.monotonic() - began < 2 * MOST_S
    assert result.downloaded_bytes == size_of(channel)


def test_when_nobody_answers_nobody_is_asked(host: SharingHost, channel: Channel) -> None:
    """Of a hundred dead hosts only a few are tried."""
    wanted = channel.packages(60)
    result = host.build(wanted, [f"http://127.0.0.{number}:9" for number in range(2, 102)])
    assert result.downloaded_bytes == size_of(channel)
    assert "too many hosts do not answer" in result.messages("log")
    assert result.messages("log").count("gives no archives") < 20


def test_a_trickle_is_left(host: SharingHost, channel: Channel) -> None:
    """A host that sends a byte now and then holds nobody up for longer than the time to wait."""
    over = threading.Event()

    def trickle(_target: str, connection: socket.socket) -> None:
        say(connection, 200, b"PK", length=3000)
        while not over.wait(0.02):
            connection.sendall(b"x")

    with scripted(trickle) as slow:
        wanted = ranked_before(host, channel, slow.url)
        began = time.monotonic()
        result = host.build(wanted, [slow.url], wait_s=WAIT_S)
        assert time.monotonic() - began < MOST_S
        over.set()
    assert result.sibling_bytes == 0
    assert "bytes/s come" in result.messages("log")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nPK",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\nPK and no more",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2_000_000,
        b"HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=[
        "nothing",
        "nonsense",
        "no-number",
        "no-length",
        "negative",
        "endless",
        "broken-off",
        "large",
        "moved",
        "error",
    ],
)
def test_what_is_no_answer_is_survived(host: SharingHost, channel: Channel, answer: bytes) -> None:
    """Whatever another host sends, the archives come from the channel then."""
    with scripted(lambda _target, connection: connection.sendall(answer)) as strange:
        wanted = ranked_before(host, channel, strange.url)
        began = time.monotonic()
        assert host.build(wanted, [strange.url]).sibling_bytes == 0
        assert time.monotonic() - began < MOST_S
        assert len(strange.asked) <= 2 * len(wanted)
    assert {channel.fetched[one.url] for one in wanted} == {1}


def test_a_host_is_asked_for_archives_only(host: SharingHost, channel: Channel) -> None:
    """No URL that another host gives chooses what is asked: with a path, a user or another scheme it is no host's."""
    with scripted(lambda _target, connection: connection.sendall(b"HTTP/1.1 404 no\r\n\r\n")) as strange:
        place = strange.url.removeprefix("http://")
        wanted = ranked_before(host, channel, strange.url)
        for other in (f"{strange.url}/admin", f"http://u:p@{place}", f"https://{place}", f"{strange.url}?x="):
            host.build(wanted, [other])
        assert not strange.asked
        for url in (strange.url, "http://[::1]:80", "http://[fe80::1%eth0]:7000", "http://node-1.x:1"):
            assert is_url(url)


def test_urls_that_are_none_are_dead_hosts(host: SharingHost, channel: Channel) -> None:
    """Nonsense in the place of a host's URL costs nothing."""
    wanted = channel.packages(5)
    others = ["http://", "nonsense", "http://[::1", "http://127.0.0.1:99999999", "http://no-such-host.invalid:1"]
    assert host.build(wanted, others).downloaded_bytes == size_of(channel)


# ----------------------------------------------------------------------------------------------------------- waiting


def test_a_host_that_gets_on_is_waited_for(host: SharingHost, channel: Channel) -> None:
    """202 with another progress each time, for longer than the time to wait without; then the bytes."""
    began = time.monotonic()

    def coming(target: str, connection: socket.socket) -> None:
        if time.monotonic() - began < 4 * WAIT_S:
            say(connection, 202, b"", f"Envmgr-Progress: {time.monotonic()}")
        else:
            say(connection, 200, by_hash[target.partition("?")[0].rpartition("/")[2]])

    with scripted(coming) as other:
        wanted = ranked_before(host, channel, other.url)
        by_hash = {str(one.sha256): channel.archives[one.url] for one in wanted}
        result = host.build(wanted, [other.url], wait_s=WAIT_S)
    assert result.downloaded_bytes == 0
    assert f"waiting for {other.url}" in result.messages("log")


@pytest.mark.parametrize("status", [202, 503])
def test_a_host_that_does_not_get_on_is_waited_for_no_longer(host: SharingHost, channel: Channel, status: int) -> None:
    """Always the same progress, or always busy: the channel, after the time to wait and once for all archives."""
    with scripted(lambda _target, connection: say(connection, status, b"", "Envmgr-Progress: 1")) as other:
        wanted = ranked_before(host, channel, other.url)
        began = time.monotonic()
        result = host.build(wanted, [other.url], wait_s=WAIT_S)
        assert WAIT_S < time.monotonic() - began < MOST_S
    assert result.sibling_bytes == 0


def test_progress_alone_does_not_hold_for_ever(host: SharingHost, channel: Channel) -> None:
    """A host that says for ever that it gets on is waited for a bounded time."""
    with scripted(lambda _t, connection: say(connection, 202, b"", f"Envmgr-Progress: {time.monotonic()}")) as other:
        wanted = ranked_before(host, channel, other.url)
        began = time.monotonic()
        assert host.build(wanted, [other.url], wait_s=0.1).sibling_bytes == 0
        assert 1.9 < time.monotonic() - began < MOST_S


def test_two_hosts_that_wait_for_each_other_come_to_an_end(tmp_path: Path, channel: Channel) -> None:
    """Each says of everything that it is coming, and never makes it: after the time to wait both ask the channel."""
    with sharing_hosts(tmp_path, channel, 2) as hosts:
        urls = [host.url for host in hosts]
        packages = channel.packages(20)
        halves = [packages[:10], packages[10:]]
        for host in hosts:
            host.wanted = _Everything()
        done: list[int] = []

        def build(number: int) -> None:
            done.append(hosts[number].build(halves[number], urls, wait_s=WAIT_S).downloaded_bytes)

        threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert time.monotonic() - began < MOST_S
    assert sum(done) == size_of(channel)
    assert set(channel.fetched.values()) == {1}


class _Everything(set):
    def __contains__(self, _name: object) -> bool:
        return True


def test_first_is_fetched_what_others_wait_for(tmp_path: Path, channel: Channel) -> None:
    """What this host is the first for is asked of the channel before what falls back to it."""
    order: list[str] = []
    fetch = channel.fetch

    class Ordered(Channel):
        async def fetch(self, url: str, sink: Sink, *, is_again: bool = False) -> None:
            order.append(url)
            await fetch(url, sink, is_again=is_again)

    ordered = Ordered()
    with sharing_hosts(tmp_path, ordered, 1) as (host,), scripted(lambda _t, it: say(it, 404)) as other:
        wanted = channel.packages(60)
        host.build(wanted, [other.url])
        own = [one.url for one in wanted if rank(str(one.sha256), [host.url, other.url])[0] == host.url]
    assert 10 < len(own) < 50
    assert set(order[: len(own) // 2]) <= set(own)
