"""Hosts that give archives to each other, a channel that counts, and hosts that do not do as they should."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envmgr.backends.archives import Archives
from envmgr.backends.cache_use import in_use
from envmgr.backends.siblings import Siblings
from envmgr.backends.transfers import Sink
from envmgr.daemon.archives import ArchiveServer
from envmgr.events import Event
from envmgr.model import LockedPackage
from envmgr.store.layout import Layout
from envmgr.wire.pipe import Sharing

NAME = "env-0123456789abcdef"
CLASS = "linux-64"
LIMIT_S = 20.0


@dataclass
class Settings:
    """The settings that the server of archives reads."""

    archives_listen: str = "127.0.0.1:0"
    archives_connections: int = 16
    archives_bytes_per_s: int = 0
    machine_class: str = CLASS


def archive(number: int, size_bytes: int = 3000) -> bytes:
    """Return bytes that look like an archive, another one for each number."""
    return b"PK" + hashlib.sha256(b"%d" % number).digest() * (size_bytes // 32)


def package(data: bytes, *, number: int = 0, has_sha256: bool = True) -> LockedPackage:
    return LockedPackage(
        "conda",
        f"package-{number}",
        "1.0",
        f"https://channel.invalid/{number}-1.0-0.conda",
        hashlib.sha256(data).hexdigest() if has_sha256 else None,
        hashlib.md5(data).hexdigest(),
        "0",
        "noarch",
        (),
    )


@dataclass
class Channel:
    """Archives by URL; counts what is fetched. A fetch takes a moment, so that hosts overlap."""

    archives: dict[str, bytes] = field(default_factory=dict)
    fetched: Counter[str] = field(default_factory=Counter)
    pause_s: float = 0.0

    def packages(self, count: int) -> list[LockedPackage]:
        found = []
        for number in range(count):
            data = archive(number)
            found.append(package(data, number=number))
            self.archives[found[-1].url] = data
        return found

    async def fetch(self, url: str, sink: Sink, *, is_again: bool = False) -> None:  # noqa: ARG002 - the port's
        self.fetched[url] += 1
        await asyncio.sleep(self.pause_s)
        sink.restart()
        sink.write(self.archives[url])
        sink.stop()

    async def unpack(self, archive: Path, directory: Path) -> None:
        def make() -> None:
            directory.mkdir()
            (directory / "file").write_bytes(archive.read_bytes()[:10])

        await asyncio.to_thread(make)


@dataclass
class Fetched:
    """What one build had to do for its packages."""

    downloaded_bytes: int
    sibling_bytes: int
    events: list[Event]

    def messages(self, kind: str) -> str:
        return "\n".join(event.message for event in self.events if event.kind == kind)


class SharingHost:
    """A store whose archives are given to others, and builds in it."""

    def __init__(self, root: Path, channel: Channel) -> None:
        self.layout = Layout(root)
        self.channel = channel
        self.settings = Settings()
        self.wanted: set[str] = set()
        self.server = ArchiveServer(self.layout, lambda: self.settings, lambda: self.wanted)  # type: ignore[arg-type, return-value]  # as far as it reads them
        self.server.start()
        self.url = self.server.url("127.0.0.1")
        self.archives = self.layout.packages / "archives"

    def keep(self, data: bytes) -> str:
        """Put an archive into the store, as a builder would have."""
        self.archives.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256(data).hexdigest()
        (self.archives / sha256).write_bytes(data)
        return sha256

    def build(
        self,
        packages: Sequence[LockedPackage],
        others: Sequence[str],
        *,
        solver: str | None = None,
        is_solving: bool = False,
        wait_s: float = LIMIT_S,
        allow_md5: bool = False,
    ) -> Fetched:
        events: list[Event] = []

        async def provide() -> Archives:
            sharing = Sharing(self.url, tuple(others), solver, wait_s)
            siblings = Siblings(sharing, NAME, CLASS, is_solving=is_solving, parallel=8, report=events.append)
            archives = Archives(
                self.layout.packages, self.channel, allow_md5=allow_md5, siblings=siblings, report=events.append
            )
            with in_use(self.layout.packages):
                await archives.provide(packages)
            return archives

        self.wanted.add(NAME)
        try:
            done = asyncio.run(provide())
        finally:
            self.wanted.discard(NAME)
        return Fetched(done.downloaded_bytes, done.sibling_bytes, events)


@contextlib.contextmanager
def sharing_hosts(root: Path, channel: Channel, count: int) -> Iterator[list[SharingHost]]:
    hosts = [SharingHost(root / f"host-{number}", channel) for number in range(count)]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.server.stop()


def build_on_all(
    hosts: Sequence[SharingHost], packages: Sequence[LockedPackage], *, solver: str | None = None
) -> list[Fetched]:
    """Build on all hosts at once; each is known to be wanted everywhere before the first begins."""
    urls = [host.url for host in hosts]
    results: dict[str, Fetched] = {}
    for host in hosts:
        host.wanted.add(NAME)

    def build(host: SharingHost) -> None:
        results[host.url] = host.build(packages, urls, solver=solver)

    threads = [threading.Thread(target=build, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    return [results[host.url] for host in hosts]


Script = Callable[[str, socket.socket], None]


@dataclass
class Scripted:
    """A host that answers as a test says."""

    url: str
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    """Run a host that hands the target of each request, and its connection, to `script`."""
    listening = socket.create_server(("127.0.0.1", 0))
    found = Scripted(f"http://127.0.0.1:{listening.getsockname()[1]}")

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            target = head.split(b" ")[1].decode()
            found.asked.append(target)
            script(target, connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(LIMIT_S)


def say(connection: socket.socket, status: int, body: bytes = b"", *headers: str, length: int | None = None) -> None:
    """Answer a request."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
