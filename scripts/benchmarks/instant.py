"""A daemon whose builds take no time: ``instant.py LOCKFILE ROOT``; what many of them leave is the daemon's own.

Each build is a file in a prefix, and `LOCKFILE` (any) for its lockfile. Everything around it is the daemon's usual
work: the queue, the build's directory and lease, record, publication, events.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from envmgr import activation
from envmgr.cli import main
from envmgr.events import Event, Phase, Reporter
from envmgr.ports import Deadline
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network

_PHASES: tuple[Phase, ...] = ("solve", "fetch", "link", "check", "sync")
_LINES = 20
"""Lines of the log that are told for each build: with the phases, a little more than for the quickstart environment."""


class Instant:
    """A backend that does nothing."""

    def __init__(self, lock_text: str) -> None:
        self._lock_text = lock_text

    def build(
        self,
        request: BuildRequest,
        *,
        lease_fd: int,
        deadline: Deadline,
        report: Reporter,
        on_locked: Callable[[str], None],
    ) -> BuildResult:
        os.fstat(lease_fd)
        for phase in _PHASES:
            deadline.check()
            report(Event("begin", phase))
            for number in range(_LINES // len(_PHASES)):
                report(Event("log", phase, f"{phase} {number} of {request.name}"))
            report(Event("end", phase))
        on_locked(self._lock_text)
        build_dir, prefix = Path(request.build_dir), Path(request.prefix)
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "tool").write_bytes(b"x")
        (build_dir / "build.log").write_text("built\n")
        (build_dir / "conda-lock.yml").write_text(self._lock_text)
        (build_dir / activation.FILE_NAME).write_bytes(activation.dump([("prepend", "PATH", f"{prefix}/bin")]))
        return BuildResult("0" * 64, 1, 1, None, tuple((phase, 0.001) for phase in _PHASES))

    def probe(self, channel: Channel, network: Network, subdir: str) -> str | None:  # noqa: ARG002 - the port's
        return None


if __name__ == "__main__":
    sys.exit(main(["--root", sys.argv[2], "daemon"], backend=Instant(Path(sys.argv[1]).read_text())))
