"""Real hosts of a cluster on this machine: daemons with a store each, whose builds sleep instead of installing."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring import BenchError
from benchmarks.serving import Daemon, daemon_of
from benchmarks.workspace import Workspace
from envmgr import lockfile
from envmgr.model import LockedPackage

SUBDIR = "linux-64"
PACKAGES = 150
"""Of the lockfile that all builds have: as many as a usual environment for data work."""


def write_lockfile(work: Workspace) -> Path:
    """Write a lockfile of fabricated packages, once for each run, and return its path."""
    path = work.run / "cluster-lock.yml"
    if not path.exists():
        packages = [_package(number) for number in range(PACKAGES)]
        path.write_text(lockfile.write(packages, subdir=SUBDIR, channels=["https://channel.invalid/demo"]))
    return path


def digest_of(lock_text: str) -> str:
    """Return the digest of a lockfile's text, as the cluster knows it."""
    return lockfile.parse(lock_text, SUBDIR).digest


def _package(number: int) -> LockedPackage:
    name, version = f"package-{number}", f"{number % 7}.{number % 13}.0"
    content = f"{name} {version}".encode()
    return LockedPackage(
        manager="conda",
        name=name,
        version=version,
        url=f"https://channel.invalid/demo/{SUBDIR}/{name}-{version}-h{number:07x}_0.conda",
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        build=f"h{number:07x}_0",
        subdir=SUBDIR,
        dependencies=tuple((f"package-{other}", ">=1") for other in range(max(0, number - 3), number)),
    )


@contextlib.contextmanager
def host(
    work: Workspace, name: str, zookeeper: Sequence[str], *, solve_s: float, install_s: float, **settings: object
) -> Iterator[Daemon]:
    """Run a daemon that is the host `name`; its builds sleep so long. Blocks while it starts and ends."""
    root = work.new_store(
        f"host-{name}", "https://channel.invalid/demo", zookeeper=list(zookeeper), host_id=name, **settings
    )
    command = work.program("instant", write_lockfile(work), root, str(solve_s), str(install_s))
    try:
        with daemon_of(work, command, root) as daemon:
            yield daemon
    except BenchError as error:
        raise BenchError(f"host {name}: {error}") from error


def said(work: Workspace, name: str) -> str:
    """Return the end of a host's log."""
    return (work.run / f"host-{name}.log").read_text("utf-8", "replace")[-2000:]
