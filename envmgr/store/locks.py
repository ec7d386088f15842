"""The build lock: one at a time builds, removes or republishes a name in this store. And trying a flock as such.

A kernel flock on ``locks/<name>.lock``, which is never unlinked; it ends with its process, however that ends. It
excludes processes of this host that see the same file system, and threads of one process; it says nothing about other
hosts, and it does not protect a build's files: each build has a directory of its own, so a lost lock costs work and
nothing else. A process that is forked off the holder's has no part in it: it neither keeps the lock nor gives it back.

`try_lock` never waits: who finds the lock taken looks whether the name has been published meanwhile, and so most
waiters never take the lock at all.

Source: flock(2).
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


_held: set[int] = set()
"""The descriptors of the build locks that this process holds."""


@contextlib.contextmanager
def try_lock(layout: Layout, name: EnvName) -> Iterator[bool]:
    """Hold the name's build lock for the length of the block, if it is free; tell whether it was."""
    holder = os.getpid()
    fd = os.open(layout.lock(name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        is_held = _is_granted(layout, fd)
        if is_held:
            _held.add(fd)
        yield is_held
    finally:
        if os.getpid() == holder:  # else `_disown` has closed it, and its number may be another file's
            _held.discard(fd)
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was being forked just now may have the descriptor, too
            os.close(fd)


def _is_granted(layout: Layout, fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UnsuitableFilesystem(
            f"flock does not work on the file system of {layout.locks}: {error.strerror}",
            hint="put the store on a local file system",
        ) from error
    return True


def _disown() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_disown)


@contextlib.contextmanager
def exclusive(fd: int) -> Iterator[bool]:
    """Try to flock a fresh descriptor exclusively for the length of the block; tell whether it was granted. Closes it.

    For leases and the package cache, whose users hold their files shared; a waiting lock would starve behind them.
    """
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
