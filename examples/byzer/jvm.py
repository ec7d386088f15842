"""An emulation of the JVM side of pyjava 0.6.21, which Byzer and MLSQL embed. It is neither of them.

Written after PythonWorkerFactory.scala and ArrowPythonRunner.scala, so that pyjava's real worker can be started without
a JVM, exactly as the engine starts it:

    bash -c "<PYTHON_ENV> &&  <pythonExec> -m pyjava.daemon"

bash reads no start-up files; the daemon writes its port to standard output, 4 bytes big-endian, so nothing else may
stand there; standard error is not read before that (at most 64 KiB of it fit into the pipe). There is a process of the
worker per connection, forked by the daemon: configuration and code in, Arrow in, Arrow out. The daemon ends when its
standard input is closed. The JVM waits for the port without a limit; this waits `PATIENCE_S`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from typing import BinaryIO

PATIENCE_S = 120.0
TIMEZONE = "Asia/Harbin"
_ARROW, _END_OF_DATA, _EXCEPTION, _END_OF_STREAM, _CRASH = -6, -1, -2, -4, 0
Row = dict[str, object]


class PythonWorkerException(Exception):
    """What the engine shows to its user."""


class PythonWorkerFactory:
    """A daemon of pyjava's, started with the text of ``!python env "PYTHON_ENV=…"``, until `close`."""

    def __init__(self, python_env: str, variables: Mapping[str, str], python_exec: str = "python") -> None:
        self._daemon = subprocess.Popen(
            ["bash", "-c", f"{python_env} &&  {python_exec} -m pyjava.daemon"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**variables, "PYTHONUNBUFFERED": "YES"},
        )
        self.said = ""
        try:
            self.port = self._port()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process that the engine started: bash, which waits for the daemon."""
        return self._daemon.pid

    def _port(self) -> int:
        if not select.select([self._daemon.stdout], [], [], PATIENCE_S)[0]:
            raise PythonWorkerException(f"no port from pyjava.daemon in {PATIENCE_S:g} s")
        found = self._daemon.stdout.read(4)
        if len(found) < 4:
            self.close()
            said = self.said.replace("\n", "\n  ")
            raise PythonWorkerException(
                f"EOFException: No port number in pyjava.daemon's stdout\nError from python worker:\n  {said}"
            )
        port = int.from_bytes(found, "big", signed=True)
        if not 1 <= port <= 65535:
            raise PythonWorkerException(f"Bad data in pyjava.daemon's standard output. Invalid port number: {port}")
        return port

    def worker(self) -> Worker:
        """Connect to the daemon, which forks a process for it."""
        return Worker(self.port)

    def close(self) -> None:
        """End the daemon, as the engine does when it ends; `said` is then what came on standard error."""
        if self._daemon.stdin.closed:
            return
        self._daemon.stdin.close()
        try:
            self._daemon.wait(10)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        os.set_blocking(self._daemon.stderr.fileno(), False)  # Ray's processes may still have the other end
        self.said = (self._daemon.stderr.read() or b"").decode()
        self._daemon.stdout.close()
        self._daemon.stderr.close()


class Worker:
    """A connection to the daemon, and the process that it forked for it, until `close`."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._stream: BinaryIO = self._socket.makefile("rwb")
        self.pid = _read_int(self._stream)

    def run(self, cell: str, rows: list[Row], conf: Mapping[str, str] | None = None) -> list[Row]:
        """Send a cell and the rows of one partition; return the rows that it makes of them.

        Raises `PythonWorkerException` with the cell's traceback.
        """
        out = self._stream
        out.write(struct.pack("!i?i", 0, False, 0))  # partition, no barrier, no port of its context
        settings = {"PY_EXECUTE_USER": "user", "groupId": "group", "timezone": TIMEZONE, **(conf or {})}
        out.write(struct.pack("!i", len(settings)))
        for text in (*(part for item in settings.items() for part in item), cell):
            out.write(struct.pack("!i", len(text.encode())) + text.encode())
        _write_arrow(out, rows)
        out.write(struct.pack("!i", _END_OF_STREAM))
        out.flush()
        return _read_rows(out)

    def close(self) -> None:
        """End the connection, which ends the process."""
        self._stream.close()
        self._socket.close()


def serve(rows: list[Row]) -> Row:
    """Serve the rows of one partition once; return the row that leads there, which is what ``dataMode=data`` sends."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(PATIENCE_S)

    def answer() -> None:
        with server:
            connection, _ = server.accept()
        with connection, connection.makefile("wb") as stream:
            _write_arrow(stream, rows)

    threading.Thread(target=answer, daemon=True).start()
    host, port = server.getsockname()
    return {"host": host, "port": port, "timezone": TIMEZONE, "server_id": ""}


def fetch(server: Row) -> list[Row]:
    """Return the rows that a server in Ray has, of which `run` told where it is (host, port, server_id)."""
    address = str(server["_0"]), int(str(server["_1"]))
    with socket.create_connection(address, timeout=PATIENCE_S) as connection, connection.makefile("rwb") as stream:
        return _read_rows(stream)


def _write_arrow(stream: BinaryIO, rows: list[Row]) -> None:
    import pyarrow as pa  # only where rows are: a worker can be started without

    batch = pa.RecordBatch.from_pylist(rows)
    with pa.ipc.new_stream(stream, batch.schema) as writer:
        writer.write_batch(batch)


def _read_rows(stream: BinaryIO) -> list[Row]:
    import pyarrow as pa

    found: list[Row] = []
    while (control := _read_int(stream)) != _END_OF_DATA:
        if control == _ARROW:
            with contextlib.suppress(pa.ArrowInvalid):  # no schema: that was _CRASH
                found += pa.ipc.open_stream(stream).read_all().to_pylist()
        elif control == _EXCEPTION:
            raise PythonWorkerException(stream.read(_read_int(stream)).decode())
        elif control != _CRASH:  # which says that an exception follows
            raise PythonWorkerException(f"unexpected answer of the worker: {control}")
    stream.write(struct.pack("!i", _END_OF_STREAM))
    stream.flush()
    return found


def _read_int(stream: BinaryIO) -> int:
    found = stream.read(4)
    if len(found) < 4:
        raise PythonWorkerException("the worker closed the connection")
    return int.from_bytes(found, "big", signed=True)
