"""What every use case works with."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envmgr.ports import Backend, Clock, Coordinator
    from envmgr.settings import Settings
    from envmgr.store.layout import Layout


@dataclass(frozen=True, slots=True)
class Context:
    """A store that may be written, and what turns requests into prefixes."""

    layout: Layout
    settings: Settings
    backend: Backend
    clock: Clock
    host: str
    coordinator: Coordinator

    @property
    def root(self) -> str:
        return str(self.layout.root)


class SystemClock:
    """The real time."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def free_space(path: Path) -> tuple[int, int | None]:
    """Return the bytes and inodes that are free to us; ``None`` where the file system does not count inodes."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None
