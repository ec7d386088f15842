"""How many instances of a program run on this host, and on which CPUs: places that the kernel gives back.

A place is an exclusive flock on a file of a fixed name, in one directory that every user of the host can write::

    envmgr-<store and environment>-<number>    one of the instances that may run in an environment
    envmgr-cpu-<cpu>-<level>                   one program that was promised this CPU; the lowest free level is taken

The program inherits the lock of its instance: it ends with the last of its processes, however they end. So does no
file say who holds what; nothing is ever written into one, and none is deleted.

The directory is the first of `PLACES` that belongs to root, is sticky, and lets everybody write; all processes that see
the same file system find the same one. A store is not such a place: nobody but its owner writes there, and one on the
network is many hosts'. A user's own runtime directory is not either: a host's instances are of all its users.

Others write there, too, so a file counts only as what it is: a regular one (never followed through a symbolic link),
with one name, that can be opened for reading. It is made with mode 0444 and opened without O_CREAT where it is there,
since the kernel refuses that for other users' files (``fs.protected_regular``).

Promised: never more instances than the limit that each of them was started with, whoever starts them, among those
that see the same directory (a container has its own), as long as nobody removes a file that is locked: its maker may,
root may, and so does systemd's logind in /dev/shm when its maker logs out (``RemoveIPC=yes``). Not promised: that one
user cannot take places away from others by locking the files; he could as well start programs. A file that is no such
file is a place that nobody has, so that one fewer may run; where no place is left, it is an error that names it.

Source: flock(2), open(2), proc_sys_fs(5).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from envmgr.errors import Busy, PermissionRefused, UnsuitableFilesystem
from envmgr.events import counted

PLACES = (Path("/run/lock"), Path("/dev/shm"))  # noqa: S108 - checked, and what stands there is, too
_STICKY_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH | stat.S_IXOTH
_LOOK_S = 0.1
_LEVELS = 64
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT})  # an old overlay, say: then it is two steps


def directory(places: Sequence[Path] = PLACES) -> Path:
    """Return where the locks of this host are; `UnsuitableFilesystem` where no place will do."""
    for place in places:
        with contextlib.suppress(OSError):
            found = place.stat()
            if found.st_uid == 0 and found.st_mode & _STICKY_FOR_ALL == _STICKY_FOR_ALL:
                return place
    raise UnsuitableFilesystem(
        f"instances cannot be counted: neither {' nor '.join(map(str, places))} is root's, sticky, and open to all",
        hint="mount a tmpfs there with mode 1777, or do without the limit",
    )


def key(store_id: str, name: str) -> str:
    """Return what the instances of an environment in a store are called."""
    return hashlib.sha256(f"{store_id}\0{name}".encode()).hexdigest()[:16]


def instance_paths(place: Path, of: str, count: int) -> list[Path]:
    """Return the files of the first `count` instances."""
    return [place / f"envmgr-{of}-{number}" for number in range(count)]


def instance(paths: Sequence[Path], *, wait_s: float, on_wait: Callable[[], None]) -> int:
    """Take one of the places and return its descriptor; `Busy` when none is free within `wait_s`.

    `on_wait` is called once, before it waits. `PermissionRefused` when none of the files is a lock.
    """
    until = time.monotonic() + wait_s
    has_said = False
    while True:
        foreign: list[PermissionRefused] = []
        for path in paths:
            try:
                fd = _take(path)
            except PermissionRefused as error:
                foreign.append(error)
                continue
            if fd is not None:
                return fd
        if len(foreign) == len(paths):
            raise foreign[0]
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise _busy(len(paths), foreign, f" after {wait_s:g} s" if wait_s else "")
        if not has_said:
            has_said = True
            on_wait()
        time.sleep(min(left_s, _LOOK_S))


def _busy(count: int, foreign: Sequence[PermissionRefused], after: str) -> Busy:
    running = f"{count - len(foreign)}" if foreign else "as many"
    lacking = f"; {foreign[0].message}" if foreign else ""
    return Busy(
        f"{counted(count, 'instance')} may run on this host at a time, and {running} still run{after}{lacking}",
        hint="wait longer for a place, or allow more instances",
        limit="instances",
        value=count,
        retry_after_s=1.0,
    )


def cpus(place: Path | None, count: int) -> tuple[list[int], list[int]]:
    """Take the `count` CPUs that were promised to the fewest; return them, and the descriptors of the promises.

    Without a `place`, any of them.
    """
    allowed = sorted(os.sched_getaffinity(0))
    found: list[int] = []
    held: list[int] = []
    if count >= len(allowed) or place is None:
        return allowed[:count], held
    for cpu, fd in _promises(place, allowed):
        found.append(cpu)
        held.append(fd)
        if len(found) == count:
            break
    # So many programs on each of them that it does not matter any more.
    found += [cpu for cpu in allowed if cpu not in found][: count - len(found)]
    return sorted(found), held


def _promises(place: Path, allowed: Sequence[int]) -> Iterator[tuple[int, int]]:
    promised: set[int] = set()
    for level in range(_LEVELS):
        for cpu in allowed:
            if cpu in promised:
                continue
            with contextlib.suppress(PermissionRefused):  # what others put there keeps nobody from running
                fd = _take(place / f"envmgr-cpu-{cpu}-{level}")
                if fd is not None:
                    promised.add(cpu)
                    yield cpu, fd


def _take(path: Path) -> int | None:
    """Return a descriptor that holds the place of a file, or ``None`` where somebody has it."""
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass  # removed before it was ours: whoever comes next makes another
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                _make(path)
            continue
        except OSError as error:
            raise _foreign(path, error.strerror or str(error)) from error
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return fd
        os.close(fd)
        raise _foreign(path, "it is no file of its own")


def _make(path: Path) -> None:
    """Make a lock's file in one step: nobody, also after a crash, finds one that the umask has closed to others."""
    is_unnamed = True
    try:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        is_unnamed = False
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        os.fchmod(fd, 0o444)
        if is_unnamed:
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)  # any descriptor: without one Python follows no link
    finally:
        os.close(fd)


def _foreign(path: Path, why: str) -> PermissionRefused:
    return PermissionRefused(
        f"{path} is not a lock of envmgr's: {why}", hint="somebody put it there; root or its owner may remove it"
    )
