"""The process between a caller and a limited program: starts it, keeps its limits, and leaves nothing of it running.

::

    caller ─── supervisor ─── program ─── whatever it starts

* It is a subreaper: who loses its parent below it becomes its child, daemons included. When the program has ended, was
  over a limit, or the caller is gone (told by the kernel through a pidfd, whatever thread started us), it kills all
  that is left, and ends when nobody is.
* When it is killed itself, the program dies at once (PDEATHSIG), and the caller ends the rest (`supervising`). Only if
  both are killed in the same moment can what the program had started go on.
* The caller's orders come through a pipe, a byte each: the number of a signal for the program. All signals are blocked
  here, so that what a terminal sends to everybody reaches the program once, and this process not at all.
* Its own standard streams are closed once the program has them: whoever reads a pipe of the program sees its end.
* After time is up, the program gets SIGTERM, and `GRACE_S` seconds to save what it has.

Started by its path in a bare interpreter (``-I -S``): it imports nothing third-party.

Not promised: that a program whose executable is setuid dies with this process, nor that a tree which forks without end
is caught (after `PATIENCE_S`, who is left is told to the caller).

Source: prctl(2), pidfd_open(2), getrlimit(2), sched_setaffinity(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from envmgr.runners.program import tree

GRACE_S = 5.0
PATIENCE_S = 10.0
_LOOK_S = 0.05
_SHARE = 20
"""A look at the tree's memory is followed by at least so many times the time of CPU that it took."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_HIGH_FD = 100
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: after a fork it is too late for the dynamic linker


def main(arguments: Sequence[str]) -> NoReturn:
    """Be the supervisor of one program."""
    parent, request, orders, answer = map(int, arguments)
    status = 1
    try:
        signal.signal(signal.SIGCHLD, lambda *_: None)  # what `set_wakeup_fd` wants; the others keep what they have
        signal.pthread_sigmask(signal.SIG_SETMASK, set(signal.valid_signals()) - {signal.SIGCHLD})
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        caller = os.pidfd_open(parent)
        if os.getppid() != parent:
            os._exit(status)
        with open(request, "rb") as file:
            document = json.load(file)
        for fd in (orders, answer, *document["own_fds"]):
            os.set_inheritable(fd, False)
        found = _Supervisor(document, caller, orders).run()
        status = 0
    except OSError as error:
        found = {"error": [error.errno, error.strerror, error.filename]}
    os.write(answer, json.dumps(found).encode())
    os._exit(status)


class _Supervisor:
    """One program, from its start to the end of the last of its tree."""

    def __init__(self, request: Mapping[str, Any], caller: int, orders: int) -> None:
        self._request = request
        self._caller = caller
        self._orders = orders
        self._status: int | None = None
        self._peak_bytes = 0
        self._over: dict[str, object] | None = None
        self._program = 0

    def run(self) -> dict[str, object]:
        """Do it all; return what the caller is told. `OSError` when the program cannot be started."""
        woken, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        began = time.monotonic()
        try:
            self._program = _start(self._request)
            _let_go_of_streams()
            self._watch(woken, began)
        finally:
            left = tree.end_all(self._note, patience_s=PATIENCE_S)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        is_watched = self._request["memory_bytes"] is not None
        return {
            "status": self._status,
            "wall_s": time.monotonic() - began,
            "cpu_s": used.ru_utime + used.ru_stime,
            "peak_memory_bytes": self._peak_bytes if is_watched else used.ru_maxrss << 10,
            "over": self._over,
            "left": left,
        }

    def _watch(self, woken: int, began: float) -> None:
        """Return when the program has ended or has to, or when nobody waits for it any more."""
        poll = select.poll()
        for fd in (woken, self._caller, self._orders):
            poll.register(fd, select.POLLIN)
        memory_bytes, wall_s = self._request["memory_bytes"], self._request["wall_s"]
        look_at = None if memory_bytes is None else began
        until = None if wall_s is None else began + wall_s
        while tree.reap(self._note) and self._status is None:
            now = time.monotonic()
            if look_at is not None and now >= look_at:
                began_s = time.process_time()  # of the CPU: on a busy host it is looked no less often
                if self._is_over_memory(memory_bytes):
                    return
                now = time.monotonic()
                look_at = now + max(_LOOK_S, _SHARE * (time.process_time() - began_s))
            if until is not None and now >= until:
                if self._over is not None:
                    return
                self._over = {"limit": "wall_s", "value": wall_s, "used": now - began}
                self._send(signal.SIGTERM)
                until = now + GRACE_S
            next_at = min((at for at in (look_at, until) if at is not None), default=None)
            ready = {fd for fd, _ in poll.poll(None if next_at is None else max(0.0, next_at - now) * 1000)}
            if self._caller in ready or (self._orders in ready and not self._obey()):
                return
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 1 << 12)

    def _note(self, pid: int, status: int) -> None:
        if pid == self._program:
            self._status = os.waitstatus_to_exitcode(status)

    def _obey(self) -> bool:
        """Pass signals on to the program, which is not reaped yet; tell whether there may be more orders."""
        numbers = os.read(self._orders, 64)
        for number in numbers:
            self._send(number)
        return bool(numbers)

    def _send(self, number: int) -> None:
        with contextlib.suppress(PermissionError):  # a setuid program; that it is left is told in the end
            os.kill(self._program, number)

    def _is_over_memory(self, memory_bytes: int) -> bool:
        family = tree.below(os.getpid())
        used_bytes = tree.used_bytes(family, memory_bytes)
        self._peak_bytes = max(self._peak_bytes, used_bytes)
        if used_bytes <= memory_bytes:
            return False
        self._over = self._over or {"limit": "memory_bytes", "value": memory_bytes, "used": used_bytes}
        return True


def _start(request: Mapping[str, Any]) -> int:
    """Start the program and return its pid; `OSError` of the step that failed, with the file that it was about."""
    supervisor = os.getpid()
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become(request, supervisor)
        except OSError as error:
            os.write(write, json.dumps([error.errno, error.strerror, error.filename]).encode())
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as file:
        failed = file.read()
    if failed:
        os.waitpid(pid, 0)
        raise OSError(*json.loads(failed))
    return pid


def _become(request: Mapping[str, Any], supervisor: int) -> None:
    """Set the limits that a process sets for itself, and execute the program."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)  # it died between fork and prctl
    if request["group"] is not None:
        with open(request["group"], "w", encoding="ascii") as members:
            members.write("0")
    if request["cpus"]:
        os.sched_setaffinity(0, request["cpus"])
    if request["backstop_bytes"] is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = request["backstop_bytes"] if hard == resource.RLIM_INFINITY else min(hard, request["backstop_bytes"])
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    for fd in request["program_fds"]:
        # On a high descriptor: scripts use the low ones for themselves.
        fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH_FD)
        os.set_inheritable(fd, False)
    if request["cwd"] is not None:
        os.chdir(request["cwd"])
    # Python ignores these two, and what is ignored stays ignored in the program that follows.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    command = request["command"]
    try:
        os.execvpe(command[0], command, request["environ"])  # noqa: S606 - no shell is the point
    except OSError as error:
        error.filename = command[0]
        raise


def _let_go_of_streams() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)
    os.close(nowhere)
