"""Processes that carry a build's mark, and the end of those that outlived their build.

Every process of a build has the variable `MARK` in its environment, from the builder down; jobs that use an environment
do not (it is never part of an activation). When the process that asked for the build is killed, the kernel ends the
builder and the tools that it started, but not what those had started: a compiler under uv, a script's children. They
may hang for ever with the build's lease, and so keep it from every sweep.

A build in progress holds the build lock of its name until the last of its processes is gone. So whoever holds that lock
and meets a marked process of an unpublished build has found an orphan. Orphans are killed, never adopted.

Not found is a process that has cleared its environment, and one of another user; nor is it promised that a process that
forks faster than /proc can be read is caught: the next sweep looks again.

Source: proc(5), pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "ENVMGR_BUILD"
"""The variable that marks every process of a build; its value is the build's directory."""

_PATIENCE_S = 10.0
_LOOK_S = 0.01
_DEAD = frozenset({b"Z", b"X", b"x"})


@dataclass(frozen=True, slots=True)
class Process:
    """A process at the moment of a look at /proc; number and start together are nobody else's."""

    pid: int
    parent: int
    session: int
    started: int
    is_dead: bool


def end_marked(build_dir: Path) -> int:
    """Kill our user's processes of the build in `build_dir` and wait until they are gone; return how many went.

    Only under the build lock of its name, and never for the caller's own build in progress. What does not die within
    a few seconds (in a system call that does not end) is left, with the lease that it may have.
    """
    ended: set[tuple[int, int]] = set()
    until = time.monotonic() + _PATIENCE_S
    is_confirmed = False
    while time.monotonic() < until:
        found = marked(build_dir)
        if not found and is_confirmed:
            break
        is_confirmed = not found
        for process in found:
            kill(process)
        ended.update((process.pid, process.started) for process in found if _is_gone(process, until))
    return len(ended)


def marked(build_dir: Path) -> tuple[Process, ...]:
    """Return the living processes of our user, but this one, that belong to the build in `build_dir`."""
    us = os.getpid()
    return tuple(
        process
        for process in processes()
        if process.pid != us and not process.is_dead and _is_ours(process.pid) and has_mark(process.pid, str(build_dir))
    )


def processes() -> list[Process]:
    """Return all processes, each as it was when it was its turn to be read."""
    return [process for name in os.listdir("/proc") if name.isdigit() and (process := _read(int(name))) is not None]


def has_mark(pid: int, build_dir: str, variable: str = MARK) -> bool:
    """Tell whether a process says that it belongs to the build in `build_dir`, whatever way led to that directory.

    Another `variable` marks the processes of something else than a build, with what `build_dir` then is.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False
    start = f"{variable}=".encode()
    for value in (os.fsdecode(one.removeprefix(start)) for one in variables if one.startswith(start)):
        if value == build_dir:
            return True
        if os.path.basename(value) == os.path.basename(build_dir):
            with contextlib.suppress(OSError):
                return os.path.samefile(value, build_dir)
    return False


def kill(process: Process) -> None:
    """Kill exactly this process, not another that has got its number since."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel before 5.3
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        return
    try:
        if _is_still(process):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def _is_gone(process: Process, until: float) -> bool:
    """Wait until a killed process has given back its descriptors, which it does after its environment is gone."""
    while _is_still(process):
        left_s = until - time.monotonic()
        if left_s <= 0:
            return False
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return True
        except OSError:
            time.sleep(min(left_s, _LOOK_S))
            continue
        try:
            select.select([fd], [], [], left_s)
        finally:
            os.close(fd)
    return True


def _is_still(process: Process) -> bool:
    now = _read(process.pid)
    return now is not None and now.started == process.started and not now.is_dead


def _is_ours(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), is_dead=fields[0] in _DEAD)
