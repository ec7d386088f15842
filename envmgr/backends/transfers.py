"""The bytes of archives on their way into the package cache: who brings, takes, hashes and counts them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from envmgr.events import Event, Reporter, counted
from envmgr.model import LockedPackage

_REPORT_EVERY_S = 0.1


class Transport(Protocol):
    """Where bytes come from, and who can unpack them; rattler's is `envmgr.backends.rattler.network.Http`."""

    async def fetch(self, url: str, sink: Sink, *, is_again: bool = False) -> None:
        """Write the bytes at `url` into `sink`, from `Sink.restart` on at each try.

        `is_again` says that those of the last time were not what they must be: another place is asked first.
        """

    async def unpack(self, archive: Path, directory: Path) -> None:
        """Unpack `archive`, whose name ends in ``.conda`` or ``.tar.bz2``, into the new `directory`."""


class Sink:
    """Takes the bytes of one archive, on any thread: writes and hashes them, and says when the last ones came."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._file = path.open("w+b", buffering=0)
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._is_open = False
        self.failure: Exception | None = None
        self.size_bytes = 0
        self.last_at = 0.0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def restart(self) -> None:
        """Forget what has come: a new try begins."""
        with self._lock:
            self._on_bytes(-self.size_bytes)
            self._file.seek(0)
            self._file.truncate()
            self._sha256 = hashlib.sha256()
            self._md5 = hashlib.md5(usedforsecurity=False)
            self.size_bytes = 0
            self.failure = None
            self.last_at = time.monotonic()
            self._is_open = True

    def write(self, block: bytes) -> int:
        """Take the next bytes."""
        with self._lock:
            if not self._is_open:
                raise ValueError("this try is over")
            try:
                view = memoryview(block)
                while view:
                    view = view[self._file.write(view) :]
            except OSError as error:
                self.failure = error
                raise
            self._sha256.update(block)
            self._md5.update(block)
            self.size_bytes += len(block)
            self.last_at = time.monotonic()
        self._on_bytes(len(block))
        return len(block)

    def stop(self) -> None:
        """Take nothing more in this try."""
        with self._lock:
            self._is_open = False

    def close(self) -> None:
        self.stop()
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


class Progress:
    """What is told of the making of all entries: bytes as they come, then, with `is_unpacking`, packages."""

    def __init__(
        self,
        report: Reporter,
        cold: Sequence[LockedPackage],
        sizes: Mapping[str, int] = MappingProxyType({}),
        *,
        is_unpacking: bool = True,
    ) -> None:
        self._report = report
        self._is_unpacking = is_unpacking
        self._lock = threading.Lock()
        self._count = len(cold)
        self._total = sum(sizes[package.url] for package in cold) if all(one.url in sizes for one in cold) else 0
        self._last_at = 0.0
        self._fetched = 0
        self._unpacked = 0
        self.fetched_bytes = 0
        report(Event("begin", "fetch", counted(self._count, "package")))

    def add_bytes(self, size_bytes: int) -> None:
        with self._lock:
            self.fetched_bytes += size_bytes
            now = time.monotonic()
            if now - self._last_at < _REPORT_EVERY_S:
                return
            self._last_at = now
            event = Event("progress", "fetch", "", self.fetched_bytes, max(self._total, self.fetched_bytes), "bytes")
        self._report(event)

    def fetched(self, package: LockedPackage) -> None:
        self._fetched += 1
        self._report(Event("log", "fetch", f"{package.name} {package.version} is here"))
        if self._fetched == self._count:
            done = self.fetched_bytes
            self._report(Event("progress", "fetch", "", done, done, "bytes"))
            if self._is_unpacking:
                self._report(Event("end", "fetch"))
                self._report(Event("begin", "unpack"))

    def unpacked(self) -> None:
        self._unpacked += 1
        if self._fetched == self._count:
            self._report(Event("progress", "unpack", "", self._unpacked, self._count, "packages"))

    def end(self) -> None:
        self._report(Event("end", "unpack" if self._is_unpacking else "fetch"))
