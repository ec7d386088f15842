"""What the tests start in simulated hosts: orders to `hosts.host_program`, and the processes that come of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from answers import Answer
from fakes.processes import LIMIT_S

from hosts.namespaces import Host

_PROGRAM = Path(__file__).with_name("host_program.py")


class Process:
    """One process in a host; `pid` is that of the root namespace."""

    def __init__(self, told: int) -> None:
        self._told = told
        self._text = b""
        self._status: int | None = None
        self.pid = int(self._line())

    @property
    def is_running(self) -> bool:
        if self._status is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self._status is None

    def wait(self) -> int:
        """Wait for its end and return the exit status, negative for a signal (-9, too, when its host went down)."""
        if self._status is None:
            try:
                self._status = int(self._line())
            except EOFError:
                self._status = -signal.SIGKILL
            os.close(self._told)
        return self._status

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _line(self) -> bytes:
        end = time.monotonic() + LIMIT_S
        while b"\n" not in self._text:
            if not select.select([self._told], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("a process of a host does not begin or end")
            block = os.read(self._told, 100)
            if not block:
                raise EOFError
            self._text += block
        line, _, self._text = self._text.partition(b"\n")
        return line


class Programs(contextlib.AbstractContextManager["Programs"]):
    """The one process that has imported everything, and takes orders."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, _PROGRAM], stdin=theirs, start_new_session=True)

    def start(
        self,
        host: Host,
        words: Sequence[str],
        environ: Mapping[str, str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> Process:
        """Start what the words say in a host; it has the variables of `environ` and no others."""
        told, tell = os.pipe()
        order = {"host": host.pid, "words": list(words), "environ": dict(environ)}
        with open(os.devnull, "r+b", buffering=0) as nothing:
            streams = [nothing.fileno() if it == subprocess.DEVNULL else _number(it) for it in (stdin, stdout, stderr)]
            socket.send_fds(self._orders, [json.dumps(order).encode()], [*streams, tell])
        os.close(tell)
        return Process(told)

    def run(
        self, host: Host, words: Sequence[str], environ: Mapping[str, str], directory: Path, given: bytes = b""
    ) -> Answer:
        """Run what the words say to its end; what it says goes through files of `directory`."""
        (directory / "in").write_bytes(given)
        with (
            (directory / "in").open("rb") as stdin,
            (directory / "out").open("wb") as stdout,
            (directory / "err").open("wb") as stderr,
        ):
            code = self.start(host, words, environ, stdin=stdin, stdout=stdout, stderr=stderr).wait()
        return Answer(code, (directory / "out").read_text(), (directory / "err").read_text())

    def close(self) -> None:
        """End it, and all that it started."""
        self._orders.close()
        self._process.kill()  # what it started dies with it
        self._process.wait(LIMIT_S)

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _number(stream: int | IO[bytes]) -> int:
    return stream if isinstance(stream, int) else stream.fileno()
