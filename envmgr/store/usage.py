"""Which processes use a build: who holds its lease, and who runs, maps or sits in its files without one.

/proc/locks names the process that *took* a flock, which may be dead while a child keeps it; so the holders are found by
their open descriptors: each process that has the lease file open with a lock in its fdinfo. Nothing here takes a lock.

Only processes that this user may inspect are seen: without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH those of other users
show their command line at best. That is why removal also needs the exclusive flock, which no reader can evade.

Source: proc(5), `proc_pid_fdinfo(5)`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import psutil

from envmgr.model import Usage

How = Literal["lease", "exe", "cwd", "maps"]
_SHARED = re.compile(r"^lock:\s+\d+:\s+FLOCK\s+ADVISORY\s+(READ|WRITE)", re.MULTILINE)
_COMMAND_CHARS = 160


def lock_holders(paths: Iterable[Path]) -> Mapping[Path, tuple[Usage, ...]]:
    """Return for each lock or lease file the processes that hold a flock on it now; one look at /proc for all."""
    by_inode: dict[tuple[int, int], Path] = {}
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        by_inode[status.st_dev, status.st_ino] = path
    found: dict[Path, list[Usage]] = {path: [] for path in by_inode.values()}
    if not by_inode:
        return {}
    for pid in psutil.pids():
        for path in {by_inode[inode] for inode in _locked_inodes(pid) if inode in by_inode}:
            found[path].append(_usage(pid, "lease"))
    return {path: tuple(usages) for path, usages in found.items()}


def _locked_inodes(pid: int) -> Iterator[tuple[int, int]]:
    directory = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            status = os.stat(f"{directory}/{descriptor}")
            with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
                if _SHARED.search(file.read()):
                    yield status.st_dev, status.st_ino
        except OSError:
            continue


def processes_inside(directory: Path) -> tuple[Usage, ...]:
    """Return the processes whose executable, working directory or mapped files lie below `directory`."""
    inside = str(directory) + os.sep
    found = []
    for pid in psutil.pids():
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


def _usage(pid: int, how: How) -> Usage:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            command = " ".join(process.cmdline()) or process.name()
            uid = process.uids().real
    except psutil.Error:
        return Usage(pid=pid, uid=-1, command="(gone)", how=how)
    return Usage(pid=pid, uid=uid, command=command[:_COMMAND_CHARS], how=how)
