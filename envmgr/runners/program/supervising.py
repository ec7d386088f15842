"""The caller's half of a supervised run: starts the supervisor, hears its answer, and ends what it could not.

Everything is handed over in the open descriptors of the one process that is started: the request in a file in memory,
orders and the answer through pipes. The caller's own process is left as it is (no signals, no subreaper), so a program
may call this from any thread. Where the supervisor ended without an answer, the run's other processes are found by the
mark that they carry in their environment (`envmgr.backends.families`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envmgr.backends import families
from envmgr.errors import EnvmgrError

MARK = "ENVMGR_RUN"
_PROGRAM = Path(__file__).with_name("__main__.py")
_READ_BYTES = 1 << 16


class Supervised:
    """A limited program that runs, until `answer` or `end`."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        request: Mapping[str, object],
        program_fds: Sequence[int],
        own_fds: Sequence[int] = (),
        inherits_all: bool = False,
        **streams: Any,
    ) -> None:
        """Start it; `OSError` where the supervisor cannot be. The program inherits `program_fds`, and not `own_fds`.

        With `inherits_all`, for processes without other threads, the program gets every inheritable descriptor.
        """
        self._mark = uuid.uuid4().hex
        self._is_over = False
        self.was_lost = False
        """Whether the supervisor ended without an answer."""
        whole = {
            **request,
            "command": list(command),
            "environ": {**environ, MARK: self._mark},
            "program_fds": list(program_fds),
            "own_fds": list(own_fds),
        }
        request_fd = _in_memory(json.dumps(whole).encode())
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self._answer, answer = os.pipe2(os.O_CLOEXEC)
        passed = (request_fd, orders, answer, *program_fds, *own_fds)
        try:
            if inherits_all:
                for fd in passed:
                    os.set_inheritable(fd, True)
            self._process = subprocess.Popen(
                [*_interpreter(), str(_PROGRAM), *map(str, (os.getpid(), request_fd, orders, answer))],
                env=_environ(),
                close_fds=not inherits_all,
                pass_fds=() if inherits_all else passed,
                **streams,
            )
        except BaseException:
            os.close(self._orders)
            os.close(self._answer)
            raise
        finally:
            for fd in (request_fd, orders, answer):
                os.close(fd)

    def send(self, number: int) -> None:
        """Send the program a signal."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            os.write(self._orders, bytes([number]))

    @property
    def has_ended(self) -> bool:
        """Whether the supervisor has ended, and with it the program and all that it had started."""
        return families.has_exited(self._process.pid)

    def wait(self) -> None:
        """Return when the program and all that it had started have ended."""
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except ProcessLookupError:
            return  # it has, and this program has its children reaped by somebody else
        try:
            poll = select.poll()  # a large program has more descriptors than select takes
            poll.register(pidfd, select.POLLIN)
            poll.poll()
        finally:
            os.close(pidfd)

    def answer(self) -> dict[str, Any]:
        """Return what the supervisor told at its end, after `has_ended`; `OSError` when the program did not start."""
        os.set_blocking(self._answer, False)  # a process that was forked off this one may hold the other end open
        text = b""
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self._answer, _READ_BYTES):
                text += block
        if not text:
            self.was_lost = True
            self.end()
            raise EnvmgrError(
                "the program was ended, since its supervisor was (by SIGKILL, or it crashed)",
                hint="out of memory? The kernel's log says so (dmesg)",
            )
        self._close()
        document: dict[str, Any] = json.loads(text)
        if "error" in document:
            raise OSError(*document["error"])
        return document

    def end(self) -> None:
        """Kill whatever is left of the run; blocks until it is gone."""
        if not self._is_over:
            families.end(self._process.pid, self._mark, lambda _line: None, variable=MARK)
            self._close()

    def _close(self) -> None:
        self._is_over = True
        self._process.wait()
        os.close(self._orders)
        os.close(self._answer)


def _interpreter() -> list[str]:
    if not sys.executable:
        raise OSError(errno.ENOENT, "this program does not know its own interpreter (sys.executable is empty)")
    return [sys.executable, "-I", "-S"]


def _environ() -> dict[str, str]:
    # Some interpreters do not start without it; the program's own variables are in the request.
    return {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}


def blocked() -> list[int]:
    """Return the signals that this thread blocks: what a program that it starts would block, too."""
    return sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def _in_memory(data: bytes) -> int:
    """Return a descriptor of a file with `data`, to be read from its beginning; it has no name on any disk."""
    fd = os.memfd_create("envmgr-request", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
