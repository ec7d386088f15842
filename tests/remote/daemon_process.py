"""A store with a real daemon over a backend under orders, as a process that a test starts, stops and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fakes.backend import FakeBackend, Orders

from envmgr import wiring
from envmgr.manager.manager import Manager
from envmgr.remote.connection import Connection, Patience
from envmgr.remote.manager import RemoteManager
from envmgr.wire import address

PROGRAM = Path(__file__).resolve().parent.parent / "cli" / "program.py"
SETTINGS = "use_condarc = false\nuse_pip_conf = false\nmin_free_bytes = 0\nmin_free_inodes = 0\nmax_builds = 30\n"
LIMIT_S = 30.0
QUICK = Patience(connect_s=1.0, answer_s=1.0, silence_s=1.0, reconnect_s=1.0)


class Place:
    """A store in a directory of its own, and the daemon that serves it, if it was started."""

    def __init__(self, directory: Path, *, settings: str = SETTINGS) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.orders = Orders(directory / "orders")
        self.orders.directory.mkdir()
        self.root.mkdir()
        (self.root / "settings.toml").write_text(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def backend(self) -> FakeBackend:
        return FakeBackend(self.orders.directory)

    def front(self) -> Manager | RemoteManager:
        """Return what the command line would use."""
        return wiring.front(str(self.root), backend=self.backend())

    def remote(self, patience: Patience = QUICK) -> RemoteManager:
        """Return a client of the daemon, wherever that is."""
        path = address.socket_of(str(self.root))
        assert path is not None
        return RemoteManager(self.root, path, patience=patience)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and return when it listens."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ENVMGR_", "CONDA_", "PIP_"))}
        environ = {
            **kept, "ENVMGR_ROOT": str(self.root), "FAKE_ORDERS": str(self.orders.directory),
            "HOME": str(self.directory),
        }  # fmt: skip
        self._process = subprocess.Popen([sys.executable, PROGRAM, "daemon"], env=environ, stderr=subprocess.PIPE)
        listens = threading.Event()
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr, listens))
        self._reader.start()
        assert listens.wait(LIMIT_S), "the daemon does not listen"

    def _read(self, stream: IO[bytes], listens: threading.Event) -> None:
        with (self.directory / "daemon.log").open("ab") as log, stream:
            for line in stream:
                log.write(line)
                log.flush()
                if b"listening on" in line:
                    listens.set()

    def wait_until_idle(self) -> None:
        """Wait until the daemon, if there is one, does nothing any more."""
        path = address.socket_of(str(self.root))
        until = time.monotonic() + LIMIT_S
        while path is not None:
            with Connection(path) as connection:
                operations = connection.ask("GET", "/v1/operations")["operations"]
            if all(operation["finished_at"] is not None for operation in operations):
                return
            assert time.monotonic() < until, operations
            time.sleep(0.05)

    def stand_still(self) -> None:
        """Stop the daemon as a debugger would: it keeps its socket, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def hurry(self) -> None:
        """Ask the daemon to stop, twice, so that it cancels what it does, and wait for its end."""
        os.kill(self.pid, signal.SIGTERM)
        self.wait_for("stopping")
        assert self.end(signal.SIGTERM) == 0

    def wait_for(self, words: str) -> None:
        """Wait until the daemon's log has said this."""
        until = time.monotonic() + LIMIT_S
        while words not in (self.directory / "daemon.log").read_text():
            assert time.monotonic() < until, words
            time.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int | None:
        """End the daemon, if it runs, and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        status = process.wait(LIMIT_S)
        assert self._reader is not None
        self._reader.join(LIMIT_S)
        return status


@contextmanager
def place(directory: Path, *, is_served: bool = True, settings: str = SETTINGS) -> Iterator[Place]:
    """Make a store, with its daemon if it is to have one, for the length of a block."""
    made = Place(directory, settings=settings)
    try:
        if is_served:
            made.start()
        yield made
    finally:
        made.end()
        left = address.socket_of(str(made.root))
        if left is not None:  # the daemon was killed
            Path(left).unlink(missing_ok=True)
            Path(left).parent.rmdir()
