"""A daemon whose builds take no time, or a set one: ``instant.py LOCKFILE ROOT [SOLVE_S INSTALL_S]``.

Each build is a file in a prefix, and `LOCKFILE` (any) for its lockfile; it sleeps `SOLVE_S` unless the lockfile is
given, and then `INSTALL_S`. Everything around it is the daemon's usual work: the queue, the build's directory and
lease, record, publication, events, and what it says to a cluster.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from envmgr import activation, lockfile
from envmgr.cli import main
from envmgr.events import Event, Phase, Reporter
from envmgr.ports import Deadline
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network

_PHASES: tuple[Phase, ...] = ("solve", "fetch", "link", "check", "sync")
_LINES = 20
"""Lines of the log that are told for each build: with the phases, a little more than for the quickstart environment."""
_LOOK_S = 0.1
"""How soon a build that sleeps hears that it is cancelled."""


class Instant:
    """A backend that does nothing, and takes its time for it."""

    def __init__(self, lock_text: str, solve_s: float = 0.0, install_s: float = 0.0) -> None:
        self._lock_text = lock_text
        self._solve_s = solve_s
        self._install_s = install_s

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
            if phase == "solve":
                _sleep(self._solve_s if request.lockfile is None else 0.0, deadline)
                on_locked(self._lock_text)
            if phase == "link":
                _sleep(self._install_s, deadline)
            report(Event("end", phase))
        build_dir, prefix = Path(request.build_dir), Path(request.prefix)
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "tool").write_bytes(b"x")
        (build_dir / "build.log").write_text("built\n")
        (build_dir / "conda-lock.yml").write_text(self._lock_text)
        (build_dir / activation.FILE_NAME).write_bytes(activation.dump([("prepend", "PATH", f"{prefix}/bin")]))
        digest = _digest(self._lock_text, request.subdir)
        return BuildResult(digest, 1, 1, None, tuple((phase, 0.001) for phase in _PHASES))

    def probe(self, channel: Channel, network: Network, subdir: str) -> str | None:  # noqa: ARG002 - the port's
        return None

    def site_conda(self, executable: str | None) -> str:
        return f"conda 0.0 ({executable})"


@functools.cache
def _digest(lock_text: str, subdir: str) -> str:
    return lockfile.parse(lock_text, subdir).digest


def _sleep(seconds: float, deadline: Deadline) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        deadline.check()
        time.sleep(min(left, _LOOK_S))


def _run(lock: str, root: str, *seconds: str) -> int:
    return main(["--root", root, "daemon"], backend=Instant(Path(lock).read_text(), *map(float, seconds)))


if __name__ == "__main__":
    sys.exit(_run(*sys.argv[1:]))
