"""One conda at a time for each package cache of a host.

conda may not run twice at once on one package cache, not even for different environments: it unpacks in place, and
locks next to nothing (conda issues 13037, 8870, 7222). So whoever starts one takes a flock on a file in that cache: the
one place that all its users share, whichever store, user or program they come with. A conda that is started without
envmgr does not know this lock.

The file is never unlinked here. Somebody else may (``conda clean --force-pkgs-dirs``): who got the lock looks whether
it is still the file in the cache, and otherwise begins again. A cache that this user may not write to needs no lock: he
cannot change it. Nor can he hold its lock against those who may: the file is open to them alone.

Whom one waits for is said once. The lock lives as long as a descriptor of it is open anywhere: hand those that are
yielded to the conda that is started (``pass_fds``), and it holds the lock even when its parent is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from envmgr.errors import PermissionRefused, UnsuitableFilesystem
from envmgr.events import Event, Reporter
from envmgr.ports import Deadline
from envmgr.store import usage

LOCK_NAME = ".envmgr-exclusive"
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextlib.contextmanager
def held(caches: Iterable[Path], *, deadline: Deadline, report: Reporter) -> Iterator[tuple[int, ...]]:
    """Hold the locks of `caches`, which are made if they are missing, for the length of the block; yield them.

    Waits until `deadline` says stop, by raising what it raises. `UnsuitableFilesystem` or
    `PermissionRefused` where a cache cannot be locked.
    """
    with contextlib.ExitStack() as stack:
        locks = []
        for cache in sorted({Path(os.path.realpath(path)) for path in caches}):
            fd = _take(cache, deadline, report)
            if fd is not None:
                stack.callback(os.close, fd)
                locks.append(fd)
        yield tuple(locks)


def _take(cache: Path, deadline: Deadline, report: Reporter) -> int | None:
    """Return a descriptor that holds the lock of `cache`, or ``None`` if this user cannot change that cache."""
    pause_s, is_told = _FIRST_PAUSE_S, False
    path = cache / LOCK_NAME
    try:
        while True:
            fd = _open(path)
            if fd is None:
                return None
            try:
                if _try(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            if not is_told:
                is_told = True
                whom = usage.lock_taker(path) or "another process"
                report(Event("begin", "wait", f"waiting for {whom}, which uses the package cache {cache}"))
            deadline.check()
            left_s = deadline.remaining_s()
            wish_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
            time.sleep(wish_s if left_s is None else min(wish_s, max(left_s, 0.0)))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    finally:
        if is_told:
            report(Event("end", "wait"))


def _open(path: Path) -> int | None:
    """Open the lock's file, to be written if that may be: NFS grants an exclusive lock to no other descriptor.

    ``None`` where this user cannot write to the cache. `PermissionRefused` where he can, but may not read the file.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK, effective_ids=True):
            return None
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDWR | flags)
            with contextlib.suppress(FileExistsError):
                return _made(path, os.O_RDWR | flags)
    except OSError as error:
        if error.errno not in _NOT_PERMITTED:
            raise
    try:
        return os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError:
        return None  # nor could it be made
    except OSError as error:
        raise PermissionRefused(
            f"cannot lock the package cache {path.parent}: {path.name} in it is not ours to read",
            hint="whoever may write to a shared cache must be able to read it (chmod a+r)",
        ) from error


def _made(path: Path, flags: int) -> int:
    """Make the lock's file, for those to open who may write to the cache: who can open it can hold it for ever."""
    cache = path.parent.stat()
    mode = 0o600 | (cache.st_mode & 0o022) * 3
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    with contextlib.suppress(OSError):  # not a member of that group; or a file system without modes
        if mode & 0o060:
            os.fchown(fd, -1, cache.st_gid)
        os.fchmod(fd, mode)  # whatever the umask
    return fd


def _try(fd: int, path: Path) -> bool:
    """Lock `fd` if nobody else has; tell whether it is locked and still what stands at `path`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise UnsuitableFilesystem(
            f"the package cache {path.parent} cannot be locked: {error.strerror}",
            hint="keep conda's package cache (pkgs_dirs) on a local file system",
        ) from error
