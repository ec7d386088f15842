"""Real processes for tests, cheap (forked) and held at exact points by pipes; nothing here sleeps.

Every forked process dies with the process that forked it, so a failing test leaves none behind. Every wait has a limit
that no working test comes near.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NoReturn, TypeVar, cast

import psutil

T = TypeVar("T")

LIMIT_S = 60.0
_MOMENT_S = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Gate:
    """Lets processes through one point: each `open` lets as many waiters pass as it says."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def open(self, times: int = 1) -> None:
        os.write(self._write, b"." * times)

    def wait(self, times: int = 1) -> None:
        for _ in range(times):
            ready, _, _ = select.select([self._read], [], [], LIMIT_S)
            if not ready:
                raise TimeoutError("nobody opened the gate")
            os.read(self._read, 1)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def gates(count: int) -> Iterator[list[Gate]]:
    """Make gates for the length of a block."""
    made = [Gate() for _ in range(count)]
    try:
        yield made
    finally:
        for gate in made:
            gate.close()


class Died(Exception):
    """A forked process ended without handing over a result; `status` is negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"ended with {status} and no result")
        self.status = status


def die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


_strangers: set[int] = set()
"""What ran before the test began, such as servers that many tests share."""


@contextlib.contextmanager
def subreaper() -> Iterator[None]:
    """Become the parent of every orphan among our descendants, so that a test can count them."""
    before = {process.pid for process in psutil.Process().children(recursive=True)} - _strangers
    _strangers.update(before)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        _strangers.difference_update(before)


@contextlib.contextmanager
def no_process_left() -> Iterator[None]:
    """Fail if the block leaves a child or an orphan behind; end those, so that no later test meets them."""
    with subreaper():
        try:
            yield
        finally:
            left = [process for process in psutil.Process().children(recursive=True) if process.pid not in _strangers]
            # A process that ends at this very moment, since its parent did, is none that was left.
            _, alive = psutil.wait_procs([process for process in left if process.is_running()], timeout=_MOMENT_S)
            for process in alive:
                process.kill()
            psutil.wait_procs(alive, timeout=LIMIT_S)
        assert not alive, f"left behind: {alive}"


def reap_orphans() -> int:
    """Wait for the end of every child and orphan of ours; return how many there were. Under `subreaper`."""
    # Not by psutil, which looks at every process of the machine; this runs hundreds of times.
    count = 0
    while pids := _children() - _strangers:
        for pid in pids:
            fd = os.pidfd_open(pid)
            try:
                if not select.select([fd], [], [], LIMIT_S)[0]:
                    raise TimeoutError(f"process {pid} stays: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
            finally:
                os.close(fd)
            os.waitpid(pid, 0)
            count += 1
    return count


def _children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text(encoding="ascii").split()))
    return found


def die_now() -> NoReturn:
    """End this process as SIGKILL from outside would: no cleanup of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")


class Forked(Generic[T]):
    """A forked process that does one piece of work and hands back its result or its exception."""

    def __init__(self, work: Callable[[], T]) -> None:
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _run(work, write)
        os.close(write)
        self._read = read
        self._pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None

    def result(self) -> T:
        """Wait for the end; return the work's result, raise its exception or `Died`."""
        data = self._receive()
        self.wait()
        os.close(self._read)
        if data is None:
            raise Died(self.wait())
        is_ok, outcome = pickle.loads(data)
        if not is_ok:
            raise cast("BaseException", outcome)
        return cast("T", outcome)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; SIGKILL is waited for."""
        signal.pidfd_send_signal(self._pidfd, number)
        if number == signal.SIGKILL:
            self.wait()

    def abandon(self) -> None:
        """Kill it, and do without its result."""
        with contextlib.suppress(OSError):
            self.kill()
        os.close(self._read)

    def wait(self) -> int:
        """Wait for the end and return the exit status, negative for a signal."""
        if self._status is None:
            if not select.select([self._pidfd], [], [], LIMIT_S)[0]:
                raise TimeoutError(f"process {self.pid} does not end")
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._pidfd)
        return self._status

    def _receive(self) -> bytes | None:
        # Not until end of file: a grandchild may hold the pipe for longer.
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack("!I", data[:4])[0]:
            sources = [self._read] if self._status is not None else [self._read, self._pidfd]
            ready, _, _ = select.select(sources, [], [], LIMIT_S)
            if not ready:
                raise TimeoutError(f"process {self.pid} does not end")
            if self._read not in ready:
                return None
            block = os.read(self._read, 1 << 16)
            if not block:
                return None
            data += block
        return data[4:]


def _run(work: Callable[[], object], write: int) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        gc.disable()
        try:
            outcome: object = (True, work())
        except BaseException as error:  # noqa: BLE001 - whatever it was, the parent raises it
            error.__traceback__ = None
            error.__cause__ = error.__context__ = None
            outcome = (False, error)
        data = pickle.dumps(outcome)
        os.write(write, struct.pack("!I", len(data)) + data)
        status = 0
    finally:
        os._exit(status)


def all_results(processes: Sequence[Forked[T]]) -> list[T]:
    """Return the results of all; end the rest if one fails."""
    try:
        return [process.result() for process in processes]
    except BaseException:
        for process in processes:
            with contextlib.suppress(OSError):
                process.kill()
        raise
