"""Which processes use a build: who holds its lease, and who runs, maps or sits in its files without one.

/proc/locks names the process that *took* a flock, which may be dead while a child keeps it; so the holders are found by
their open descriptors: each process that has the lease file open with a lock in its fdinfo. Nothing here takes a lock.

Only processes that this user may inspect are seen: without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH those of other users
show their command line at best. That is why removal also needs the exclusive flock, which no reader can evade.

psutil is imported by those who need it: a create that finds nobody in its way does not.

Source: proc(5), `proc_pid_fdinfo(5)`.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from envmgr.model import Usage

How = Literal["lease", "exe", "cwd", "maps"]
Mode = Literal["READ", "WRITE"]
_FLOCK = re.compile(r"^lock:\s+\d+:\s+FLOCK\s+ADVISORY\s+(READ|WRITE)", re.MULTILINE)
_COMMAND_CHARS = 160
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO


def lock_holders(paths: Iterable[Path]) -> Mapping[Path, tuple[Usage, ...]]:
    """Return for each lock or lease file the processes that hold a flock on it now; one look at /proc for all."""
    return _holders(paths, ("READ", "WRITE"))


def lock_taker(path: Path) -> Usage | None:
    """Return the process that took a flock on `path`, as /proc/locks has it, or ``None``.

    Cheap, since it looks at no process: for locks that are never inherited, such as the build lock, and for many
    waiters that all want to know. For leases see `lock_holders`.
    """
    try:
        inode = _inode_text(path.stat())
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.readlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if fields[1] == "FLOCK" and fields[5] == inode and int(fields[4]) > 0:
            return _usage(int(fields[4]), "lease")
    return None


def held(paths: Iterable[Path], witness: Path) -> frozenset[Path]:
    """Return those lease files that somebody holds now; one look at /proc/locks, and at the processes only if need be.

    /proc/locks does not tell all where the process that took a lock is dead and this is a container's PID namespace, or
    where the file system gives other device numbers to stat(2). So a lock of our own on `witness`, any file on the same
    file system that we may read, has to be found there; where it is not, or in such a namespace, each process is asked.
    """
    wanted = list(paths)
    if not wanted:
        return frozenset()
    if _is_first_namespace():
        fd = os.open(witness, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            locked = _locked_inodes()
            if _inode_text(os.fstat(fd)) in locked:
                return frozenset(path for path in wanted if _text_of(path) in locked)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    return frozenset(path for path, holders in lock_holders(wanted).items() if holders)


def _is_first_namespace() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _locked_inodes() -> frozenset[str]:
    with open("/proc/locks", encoding="ascii") as file:
        return frozenset(fields[5] for fields in map(str.split, file) if fields[1] == "FLOCK")


def _inode_text(status: os.stat_result) -> str:
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def _text_of(path: Path) -> str | None:
    try:
        return _inode_text(path.stat())
    except OSError:
        return None


def exclusive_holders(paths: Iterable[Path]) -> Mapping[Path, tuple[Usage, ...]]:
    """Return the same for exclusive locks only, and only the files that have any."""
    return {path: holders for path, holders in _holders(paths, ("WRITE",)).items() if holders}


def _holders(paths: Iterable[Path], modes: tuple[Mode, ...]) -> Mapping[Path, tuple[Usage, ...]]:
    by_inode: dict[tuple[int, int], Path] = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue  # not there, or (the build locks) not for other users' eyes
        by_inode[status.st_dev, status.st_ino] = path
    found: dict[Path, list[Usage]] = {path: [] for path in by_inode.values()}
    if not by_inode:
        return {}
    for pid in _pids():
        held = {by_inode[inode] for inode, mode in _flocks(pid) if inode in by_inode and mode in modes}
        for path in held:
            found[path].append(_usage(pid, "lease"))
    return {path: tuple(usages) for path, usages in found.items()}


def _flocks(pid: int) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield (device, inode) and mode of every flock that a process holds through one of its descriptors."""
    directory = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            status = os.stat(f"{directory}/{descriptor}")
            with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
                lock = _FLOCK.search(file.read())
        except OSError:
            continue
        if lock is not None:
            yield (status.st_dev, status.st_ino), lock.group(1)


def processes_inside(directory: Path) -> tuple[Usage, ...]:
    """Return the processes whose executable, working directory or mapped files lie below `directory`."""
    # The kernel tells real paths, and the store's root may be reached through a link.
    inside = os.path.realpath(directory) + os.sep
    found = []
    for pid in _pids():
        how = _how_inside(pid, inside)
        if how is not None:
            found.append(_usage(pid, how))
    return tuple(found)


def _how_inside(pid: int, inside: str) -> How | None:
    links: tuple[tuple[How, str], ...] = (("exe", "exe"), ("cwd", "cwd"))
    for how, link in links:
        try:
            if (os.readlink(f"/proc/{pid}/{link}") + os.sep).startswith(inside):
                return how
        except OSError:
            continue
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            if inside in file.read():
                return "maps"
    except OSError:
        return None
    return None


def _pids() -> list[int]:
    import psutil

    return psutil.pids()


def _usage(pid: int, how: How) -> Usage:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            # A program that gives itself a title (Ray's workers) fills the rest of its arguments with spaces.
            command = " ".join(process.cmdline()).strip() or process.name()
            uid = process.uids().real
    except psutil.Error:
        return Usage(pid=pid, uid=-1, command="(gone)", how=how)
    return Usage(pid=pid, uid=uid, command=command[:_COMMAND_CHARS], how=how)
