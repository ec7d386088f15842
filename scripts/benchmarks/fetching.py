"""How often the archives of one new environment come from the channel when five hosts make it: about once.

The hosts are stores of this machine, each with its own caches, the daemon's server of archives, and the real builder;
the channel is a directory over HTTP, whose every byte is counted, indexes too. What the cluster would tell the builder
(who lives, who solved) is told here.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import fabricating
from benchmarks.measuring import BenchError, Figure, Rounds, Spread
from benchmarks.workspace import Workspace, remove, say
from envmgr.backends.spawner import Spawner
from envmgr.daemon.archives import ArchiveServer
from envmgr.errors import TimedOut
from envmgr.events import Event
from envmgr.settings import machine
from envmgr.store.layout import Layout
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network, Sharing

_HOSTS = 5
_NAME = "env-0123456789abcdef"
_BUILD_S = 120.0


@dataclass
class Counted:
    """A channel that is served; the requests for its files, and the bytes that went out."""

    url: str = ""
    sent_bytes: int = 0
    paths: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += size_bytes


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, counted: Counted, **options: Any) -> None:
        self._counted = counted
        super().__init__(*args, **options)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        self._counted.paths.append(self.path)
        with contextlib.suppress(ConnectionError):
            while block := source.read(1 << 16):
                outputfile.write(block)
                self._counted.add(len(block))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@contextlib.contextmanager
def served(channel: Path) -> Iterator[Counted]:
    """Serve a directory for the length of the block."""
    counted = Counted()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Handler, counted=counted, directory=str(channel))
    )
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    counted.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield counted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class _Settings:
    """Those that the server of archives reads."""

    machine_class: str
    archives_listen: str = "127.0.0.1:0"
    archives_connections: int = 16
    archives_bytes_per_s: int = 0


class _Limit:
    """A deadline."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _BUILD_S

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise TimedOut("the build took too long")

    def remaining_s(self) -> float | None:
        return self._until - time.monotonic()


class Host:
    """A store with archives that others may have."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wanted: set[str] = set()
        self.events: list[Event] = []
        self.lockfile: str | None = None
        self._count = 0
        settings = _Settings(machine.subdir())
        self._server = ArchiveServer(Layout(root), lambda: settings, lambda: self.wanted)  # type: ignore[arg-type, return-value]  # as far as it reads them
        self._server.start()
        self.url = self._server.url("127.0.0.1")

    def stop(self) -> None:
        self._server.stop()

    def request(
        self, channel: str, *conda: str, sharing: Sharing, lockfile: str | None = None, **changes: Any
    ) -> BuildRequest:
        """Return the request for a new build; `changes` are further fields of it."""
        self._count += 1
        build_dir = self.root / "builds" / str(self._count)
        build_dir.mkdir(parents=True)
        (build_dir / "lease").touch(0o444)
        request = BuildRequest(
            action="build", name=_NAME, digest="0" * 64, subdir=machine.subdir(), conda=conda, pip=(),
            channels=(Channel(channel, (channel,)),), channel_priority="strict", variables=(), lockfile=lockfile,
            build_dir=str(build_dir), prefix=str(build_dir / "envs" / _NAME), package_cache=str(self.root / "pkgs"),
            uv_cache=str(self.root / "uv"), machine_class=machine.subdir(), network=Network(), sharing=sharing,
        )  # fmt: skip
        return replace(request, **changes)

    def build(self, request: BuildRequest) -> BuildResult:
        """Build by a real builder process; keeps the lockfile."""
        lease_fd = os.open(Path(request.build_dir) / "lease", os.O_RDONLY)
        self.wanted.add(request.name)
        try:
            return Spawner().build(
                request, lease_fd=lease_fd, deadline=_Limit(), report=self.events.append, on_locked=self._keep
            )
        finally:
            self.wanted.discard(request.name)
            os.close(lease_fd)

    def _keep(self, text: str) -> None:
        self.lockfile = text


@contextlib.contextmanager
def hosts(root: Path, count: int) -> Iterator[list[Host]]:
    """Have hosts with empty caches for the length of the block."""
    found = [Host(root / f"host-{number}") for number in range(count)]
    try:
        yield found
    finally:
        for host in found:
            host.stop()
        remove(root)


def build_at_once(found: Sequence[Host], requests: Sequence[BuildRequest]) -> list[BuildResult]:
    """Build on several hosts at a time, each of which is known to be about to."""
    results: dict[int, BuildResult] = {}

    def build(number: int) -> None:
        results[number] = found[number].build(requests[number])

    for host, request in zip(found, requests, strict=True):
        host.wanted.add(request.name)
    threads = [threading.Thread(target=build, args=(number,)) for number in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_BUILD_S)
    if len(results) < len(found):
        raise BenchError(f"only {len(results)} of {len(found)} hosts have built it")
    return [results[number] for number in range(len(found))]


def fetch_once(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare the bytes that the channel gives to five hosts with those that it gives to one."""
    alone, solved, known = [], [], []
    say(f"one host, then {_HOSTS} hosts, make an environment of {fabricating.MANY + fabricating.BULKY + 1} packages")
    with served(work.fabricated) as channel:
        for turn in Rounds(1 if is_quick else 3, 1, 90):
            given, lockfile = _cost(channel, work.run / f"alone-{turn}", 1, None)
            alone.append(given)
            solved.append(_cost(channel, work.run / f"solved-{turn}", _HOSTS, None)[0])
            known.append(_cost(channel, work.run / f"known-{turn}", _HOSTS, lockfile)[0])
    baseline = Spread(tuple(alone))
    return [
        Figure("fetch", f"bytes from the channel: {_HOSTS} hosts, {how}", Spread(tuple(given)), "ratio", baseline,
               "one host", goal=1.2, unit="bytes")
        for how, given in (("of which one solves", solved), ("lockfile known to all", known))
    ]  # fmt: skip


def _cost(channel: Counted, root: Path, count: int, lockfile: str | None) -> tuple[float, str | None]:
    """Return the bytes that the channel gave to so many new hosts; without a lockfile the first of them solves."""
    conda = ("many", *(f"bulky-{number}" for number in range(fabricating.BULKY)))
    channel.sent_bytes = 0
    with hosts(root, count) as found:
        urls = tuple(host.url for host in found)
        rest, solver = found, None
        for host in found:
            host.wanted.add(_NAME)  # they wait for the lockfile
        if lockfile is None:
            first, *rest = found
            first.build(first.request(channel.url, *conda, sharing=Sharing(first.url, urls)))
            lockfile, solver = first.lockfile, first.url
        sharing = [Sharing(host.url, urls, solver) for host in rest]
        requests = [
            host.request(channel.url, *conda, sharing=its, lockfile=lockfile)
            for host, its in zip(rest, sharing, strict=True)
        ]
        build_at_once(rest, requests)
    return float(channel.sent_bytes), lockfile
