"""The build lock: one at a time builds, removes or republishes a name in this store. And trying a flock as such.

A kernel flock (through filelock) on ``locks/<name>.lock``, which is never unlinked; it ends with its process, however
that ends. It excludes processes of this host that see the same file system; it says nothing about other hosts, and it
does not protect a build's files: each build has a directory of its own, so a lost lock costs work and nothing else.

`try_lock` never waits: who finds the lock taken looks whether the name has been published meanwhile, and so most
waiters never take the lock at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.errors import UnsuitableFilesystem
from envmgr.store.layout import Layout

if TYPE_CHECKING:
    from envmgr.names import EnvName


def load() -> None:
    """Import now what the first lock needs: for a process that lives long and does not want to wait for it later."""
    import filelock  # noqa: F401, PLC0415 - for its effect


@contextlib.contextmanager
def try_lock(layout: Layout, name: EnvName) -> Iterator[bool]:
    """Hold the name's build lock for the length of the block, if it is free; tell whether it was."""
    # filelock costs 0.1 s to import (asyncio, sqlite3), which `list`, `show` and a ready `create` do not owe.
    import filelock  # noqa: PLC0415

    lock = filelock.FileLock(layout.lock(name), fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    except NotImplementedError as error:
        raise UnsuitableFilesystem(
            f"{layout.locks} is on a file system without flock", hint="put the store on a local file system"
        ) from error
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive(fd: int) -> Iterator[bool]:
    """Try to flock a fresh descriptor exclusively for the length of the block; tell whether it was granted. Closes it.

    For leases and the package cache, whose users hold their files shared; a waiting lock would starve behind them.
    """
    try:
        yield try_exclusive(fd)
    finally:
        os.close(fd)


def try_exclusive(fd: int) -> bool:
    """Flock an open file exclusively if nobody else holds it; a shared flock through the same descriptor is lost."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
