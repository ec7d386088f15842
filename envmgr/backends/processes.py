"""Runs a tool (uv, git, an interpreter, a shell) from inside the builder.

What holds for every tool that is started here:

* its environment is exactly the one that is passed: no variable of the caller's or of the builder's gets in;
* its standard input is empty, its umask 022, and its output and errors arrive line by line at a callback;
* it holds the descriptors in ``pass_fds`` (the build's lease), so the build is in use for as long as it lives;
* the kernel kills it when the thread that started it ends (PDEATHSIG). The builder's own protection is not inherited
  by its children, hence it is armed again here. So `run` must be called from a thread that lives as long as the
  builder does: its main thread.

There is normally no time limit: the parent of the builder kills the whole process group. A limit kills the tool only,
not what it has started; that is left to the same parent.

What the tool left running in the background does not keep `run` waiting: it returns when the tool itself has ended.

Source: prctl(2), pidfd_open(2).
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL_LINES = 200
LINE_MAX_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: after a fork it is too late for the dynamic linker


@dataclass(frozen=True, slots=True)
class Finished:
    """How a tool ended: its exit status (negative: the signal), and the last lines that it wrote."""

    status: int
    tail: tuple[str, ...]
    is_timed_out: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.tail)


def ignore(_line: str) -> None:
    """Be the callback of a caller that does not want the lines."""


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    environ: Mapping[str, str],
    on_line: Callable[[str], None] = ignore,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    timeout_s: float | None = None,
) -> Finished:
    """Run `command` to its end and return how it ended; a status other than 0 is the caller's to judge.

    `OSError` when it cannot be started. `is_timed_out` says that it was killed after `timeout_s`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    lines = _Lines(on_line)
    process = _start(command, environ, cwd, pass_fds)
    try:
        is_timed_out = _pump(process, lines, deadline)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
    lines.end()
    return Finished(process.wait(), tuple(lines.tail), is_timed_out)


def _start(
    command: Sequence[str | os.PathLike[str]], environ: Mapping[str, str], cwd: Path | None, pass_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def die_with_parent() -> None:
        if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
            os._exit(127)  # the parent died between fork and prctl: nobody would ever kill us

    with warnings.catch_warnings():
        # From 3.12 on, Python warns of a fork in a process with threads (rattler's). The child only calls prctl and
        # getppid before it execs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(
            [os.fspath(part) for part in command],
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            umask=0o022,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the one way to arm the signal between fork and exec
        )


def _pump(process: subprocess.Popen[bytes], lines: _Lines, deadline: float | None) -> bool:
    """Pass output on until the process has ended; tell whether it was killed at the deadline."""
    if process.stdout is None:
        raise ValueError("the process was started without a pipe")
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    pidfd = os.pidfd_open(process.pid)
    is_timed_out = False
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(pidfd, selectors.EVENT_READ)
            while True:
                left = None if deadline is None or is_timed_out else deadline - time.monotonic()
                if left is not None and left <= 0:
                    process.kill()
                    is_timed_out = True
                    continue
                ready = {key.fd for key, _ in selector.select(left)}
                # The order matters: ended first, then read, so that no line written before the end is lost.
                if pipe in ready and not _drain(pipe, lines):
                    selector.unregister(pipe)
                    pipe = -1
                if pidfd in ready:
                    if pipe >= 0:
                        _drain(pipe, lines)
                    return is_timed_out
    finally:
        os.close(pidfd)


def _drain(pipe: int, lines: _Lines) -> bool:
    """Read what is there now; tell whether more may come."""
    while True:
        try:
            block = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return True
        if not block:
            return False
        lines.feed(block)


class _Lines:
    """Cuts a stream of bytes into lines, keeps the last ones, and bounds what one line may take."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._on_line = on_line
        self._rest = b""

    def feed(self, block: bytes) -> None:
        *whole, self._rest = (self._rest + block).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            self._emit(line)
        while len(self._rest) > LINE_MAX_BYTES:
            self._emit(self._rest[:LINE_MAX_BYTES])
            self._rest = self._rest[LINE_MAX_BYTES:]

    def end(self) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        self.tail.append(text)
        self._on_line(text)
