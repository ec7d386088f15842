"""Requests, and builds by a real builder process, as the backends' tests make them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.packages import native_subdir

from envmgr.backends.spawner import Spawner
from envmgr.errors import TimedOut
from envmgr.events import Event
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network

SUBDIR = native_subdir()


class Limit:
    """A deadline of so many seconds, or one that a test ends."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.until = time.monotonic() + seconds
        self.error: BaseException | None = None
        self.checks: list[float] = []

    def check(self) -> None:
        self.checks.append(time.monotonic())
        if self.error is not None:
            raise self.error
        if time.monotonic() > self.until:
            raise TimedOut("the test's time is up")

    def remaining_s(self) -> float | None:
        return self.until - time.monotonic()


@dataclass
class Built:
    """What came of one build: its result, and all that was told meanwhile."""

    result: BuildResult | None
    build_dir: Path
    prefix: Path
    events: list[Event] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.build_dir / "build.log").read_text()

    def messages(self, kind: str) -> list[str]:
        return [event.message for event in self.events if event.kind == kind]


class Host:
    """One host's store as the backend sees it: caches that stay, and a new directory for each build."""

    def __init__(self, root: Path, **defaults: Any) -> None:
        """`defaults` go to every request that does not say otherwise."""
        self.root = root
        self.defaults = defaults
        self.packages = root / "pkgs"
        self.last: Built | None = None
        self._count = 0

    def request(self, *channels: str | Channel, conda: tuple[str, ...] = (), **changes: Any) -> BuildRequest:
        """Return a request for a new build directory; `changes` go to the request, those of `Network` too."""
        self._count += 1
        build_dir = self.root / "builds" / f"b-{self._count}"
        build_dir.mkdir(parents=True)
        (build_dir / "lease").touch(0o444)
        fields = {one.name for one in dataclasses.fields(Network)}
        network = Network(**{key: changes.pop(key) for key in list(changes) if key in fields})
        values: dict[str, Any] = {
            "action": "build",
            "name": "env-0123456789abcdef",
            "digest": "0" * 64,
            "subdir": SUBDIR,
            "conda": conda,
            "pip": (),
            "channels": tuple(one if isinstance(one, Channel) else Channel(one, (one,)) for one in channels),
            "channel_priority": "strict",
            "variables": (),
            "lockfile": None,
            "build_dir": str(build_dir),
            "prefix": str(build_dir / "envs" / "env-0123456789abcdef"),
            "package_cache": str(self.packages),
            "uv_cache": str(self.root / "uv"),
            "machine_class": SUBDIR,
            "network": network,
        }
        return BuildRequest(**{**values, **self.defaults, **changes})

    def run(
        self,
        request: BuildRequest,
        *,
        spawner: Spawner | None = None,
        limit: Limit | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Built:
        """Build by a real builder process; on an error, `last` has what was told."""
        built = self.last = Built(None, Path(request.build_dir), Path(request.prefix))

        def report(event: Event) -> None:
            built.events.append(event)
            if on_event is not None:
                on_event(event)

        lease_fd = os.open(built.build_dir / "lease", os.O_RDONLY)
        try:
            built.result = (spawner or Spawner()).build(
                request, lease_fd=lease_fd, deadline=limit or Limit(), report=report, on_locked=built.locked.append
            )
        finally:
            os.close(lease_fd)
        return built

    def build(self, *channels: str | Channel, conda: tuple[str, ...] = (), **changes: Any) -> Built:
        return self.run(self.request(*channels, conda=conda, **changes))
