"""The writer's side of leases: making one with a new build, and taking it exclusively to remove one.

The reader's side is `envmgr.ready`. States of a build's lease file: absent (the build was begun this very moment, or
its builder died there), held shared (being built or used), free (a leftover, or ready and unused), held exclusively
(being removed). There is no conversion between shared and exclusive: a failed upgrade loses the shared lock (flock(2)).

An exclusive lock is only ever *tried*: a waiting one starves under overlapping readers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from envmgr import fsio
from envmgr.fsio import Step
from envmgr.names import BuildId, EnvName
from envmgr.ready import Lease
from envmgr.store import locks
from envmgr.store.layout import BuildPaths, Layout

_MODE = 0o444


def create(layout: Layout, name: EnvName, build_id: BuildId) -> Lease:
    """Make the lease file of a new build and hold it shared from before anybody else can see it."""
    path = layout.build(build_id).lease
    temporary = path.with_name(f"{fsio.TEMPORARY}lease")
    # The file is opened and locked under a name that no sweep looks at, and then moved into place.
    fd = os.open(temporary, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(fd, _MODE)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fsio.move(Step.LEASE, temporary, path)
    except BaseException:
        os.close(fd)
        raise
    return Lease(str(layout.root), name, build_id, fd)


@contextlib.contextmanager
def exclusive(build: BuildPaths) -> Iterator[bool]:
    """Try to take a build's lease for ourselves alone, for the length of the block; tell whether it was granted.

    A build without a lease file counts as granted: its builder died before it could make one, and only the holder of
    the name's build lock may look.
    """
    try:
        fd = os.open(build.lease, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    with locks.exclusive(fd) as is_granted:
        yield is_granted
