"""Many processes that wait in the library for one build: ``waiters.py ROOT FILE COUNT FD LEAVE_FD``.

Each is a real process of its own, forked from this one, which has loaded what waiting needs (five hundred interpreters
starting on two processors would be the measurement), but has never built and has no threads. Each calls
``envmgr.ensure`` on its own account. To `FD` go records of `RECORD`: once when a process has begun to wait, once when
it has its environment, leased; with the time of CLOCK_MONOTONIC, which all processes share. Then it goes on, as a job:
it ends when the other end of `LEAVE_FD` is closed, because taking five hundred processes down would be measured, too.

Exit status 0 when every one of them got the environment.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import envmgr
import envmgr.spec
import envmgr.wiring

if TYPE_CHECKING:
    from envmgr.events import Event

RECORD = struct.Struct("=cd")
WAITING, DONE, FAILED = b"w", b"d", b"f"
TIMEOUT_S = 180.0


def main(root: str, file: Path, count: int, fd: int, leave_fd: int) -> int:
    """Start the processes; return when the last has ended."""
    import filelock  # noqa: F401, PLC0415 - for its effect: the library loads it when it first waits

    envmgr.name(file)
    gc.freeze()  # the collector of a child would copy what it shares with this process
    pids = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            _wait(root, file, fd, leave_fd)
        pids.append(pid)
    return max(os.waitpid(pid, 0)[1] for pid in pids) != 0


def _wait(root: str, file: Path, fd: int, leave_fd: int) -> NoReturn:
    def tell(event: Event) -> None:
        if event.kind == "begin" and event.phase == "wait":
            os.write(fd, RECORD.pack(WAITING, time.monotonic()))

    status = 1
    try:
        environment = envmgr.ensure(file, root=root, timeout_s=TIMEOUT_S, on_progress=tell)
        os.write(fd, RECORD.pack(DONE, time.monotonic()))
        status = 1 if environment.built else 0
        os.read(leave_fd, 1)
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
        os.write(2, f"{error!r}\n".encode())
        os.write(fd, RECORD.pack(FAILED, time.monotonic()))
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
