"""A real daemon as a process, with a backend under orders, and as plain a client as there is."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fakes.backend import FakeBackend, Orders
from fakes.processes import LIMIT_S, Died, Forked

import envmgr.daemon.server  # noqa: F401 - so that no forked daemon imports it
from envmgr import fsio
from envmgr.cli import main

PROGRAM = Path(__file__).parent.parent / "cli" / "program.py"
SETTINGS = "use_condarc = false\nuse_pip_conf = false\nmin_free_bytes = 0\nmin_free_inodes = 0\n"
JSON = {"Content-Type": "application/json"}
OTHER_UID = 65534


@dataclass(frozen=True)
class Reply:
    """What came back; `document` is the whole of it where it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        assert self.headers["content-type"] == "application/json", self.body
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """The record of a good answer."""
        assert self.status < 300, self.body
        assert set(self.document) == {"data"}
        return self.document["data"]

    def error(self, status: int) -> Any:
        """The record of a refusal, which must be of the one shape."""
        assert self.status == status, self.body
        assert set(self.document) == {"error"}
        error = self.document["error"]
        assert set(error) == {"code", "message", "hint", "is_transient", "fields"}
        assert isinstance(error["message"], str)
        assert error["message"]
        return error


class Client(http.client.HTTPConnection, contextlib.AbstractContextManager["Client"]):
    """A persistent connection to a unix socket (or to an address)."""

    def __init__(
        self, path: str | tuple[str, int], headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__("daemon", timeout=LIMIT_S)
        self.path = path
        self.own_headers = dict(headers or {})
        self.tls = tls

    def connect(self) -> None:
        sock = connect(self.path)
        self.sock = sock if self.tls is None else self.tls.wrap_socket(sock, server_hostname=self.host)

    def ask(self, method: str, path: str, document: object = None, **headers: str) -> Reply:
        body = document if isinstance(document, bytes) else None if document is None else json.dumps(document).encode()
        sent = {**({} if body is None else JSON), **self.own_headers, **headers}
        with contextlib.suppress(BrokenPipeError):  # it answers some without hearing them to the end
            self.request(method, path, body, sent)
        with self.getresponse() as answer:
            return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())

    def events(self, operation: str, after: int | None = None) -> Iterator[tuple[int, str, Any]]:
        """Follow an operation to its end: (number, event, data) each."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        self.request("GET", f"/v1/operations/{operation}/events", headers={**self.own_headers, **headers})
        answer = self.getresponse()
        assert answer.status == 200, answer.read()
        event: dict[str, str] = {}
        for raw in answer:
            line = raw.decode().rstrip("\n")
            key, _, value = line.partition(": ")
            if line:
                event[key] = value
            elif "data" in event:
                yield int(event["id"]), event["event"], json.loads(event["data"])
                event = {}

    def __exit__(self, *_exception: object) -> None:
        self.close()


def connect(path: str | tuple[str, int]) -> socket.socket:
    """Return a connected socket."""
    if isinstance(path, tuple):
        return socket.create_connection(path, timeout=LIMIT_S)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(LIMIT_S)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def spec(*requirements: str) -> dict[str, object]:
    """Return the document of these packages as a request has it."""
    lines = "".join(f"  - {requirement}\n" for requirement in requirements or ("numpy",))
    return {"text": f"dependencies:\n{lines}", "includes": {}}


class Daemon:
    """One store with one daemon, that can be ended and started again."""

    def __init__(self, directory: Path, settings: str = "", environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.orders = Orders(directory / "orders")
        self.root.mkdir(exist_ok=True)
        self.orders.directory.mkdir(exist_ok=True)
        (self.root / "settings.toml").write_text(SETTINGS + settings)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.settimeout(LIMIT_S)
        self._notices.bind(str(directory / "notify"))
        others = ("ENVMGR_", "CONDA_", "PIP_", "XDG_", "LISTEN_")
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith(others)},
            "ENVMGR_ROOT": str(self.root),
            "FAKE_ORDERS": str(self.orders.directory),
            "HOME": str(directory),
            "NOTIFY_SOCKET": str(directory / "notify"),
            "XDG_RUNTIME_DIR": str(directory),
            **(environ or {}),
        }
        self.observer: Callable[[fsio.Step, fsio.Point], None] | None = None
        """Told of every point of every durable step, in a daemon that is a fork."""
        self._process: subprocess.Popen[bytes] | Forked[NoReturn] | None = None

    def program(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start the command as its users do, and wait for nothing."""
        with (self.directory / "err").open("ab") as err:
            command = [sys.executable, str(PROGRAM), "daemon"]
            return subprocess.Popen(
                **{"args": command, "stdin": subprocess.DEVNULL, "stderr": err, "env": self.environ, **options}
            )

    def fork(self) -> Forked[NoReturn]:
        """Start the command in a fork of this process, which has imported all of it already: two seconds less."""

        def work() -> NoReturn:
            fd = os.open(self.directory / "err", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(fd, 2)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for the life of the process
            os.environ.clear()
            os.environ.update(self.environ)
            fsio.observer = self.observer
            os._exit(main(["daemon"], backend=FakeBackend(self.orders.directory)))

        return Forked(work)

    def start(self, **options: Any) -> Daemon:
        """Start it and wait until it says that it is ready; with options as a program, else as a fork."""
        self._process = self.program(**options) if options else self.fork()
        self.wait_told("READY=1")
        return self

    def wait_told(self, line: str) -> list[str]:
        """Wait for a notice to the service manager that has this line, and return it; its process must live."""
        pidfd = os.pidfd_open(self.pid)
        try:
            while True:
                ready, _, _ = select.select([self._notices, pidfd], [], [], LIMIT_S)
                if self._notices not in ready:
                    raise AssertionError(f"the daemon said nothing of {line}: {self.words}")
                found = self._notices.recv(4096).decode().split("\n")
                if line in found:
                    return found
        finally:
            os.close(pidfd)

    def hear_nothing(self, seconds: float) -> None:
        """Listen for notices for so long; there must be none."""
        assert not select.select([self._notices], [], [], seconds)[0]

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end and return the exit code, negative for a signal."""
        process, self._process = self._process, None
        assert process is not None
        return process.wait(LIMIT_S) if isinstance(process, subprocess.Popen) else code_of(process)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        self.send(number)
        return self.wait()

    def close(self) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)
        self._notices.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def words(self) -> str:
        """What it said on standard error."""
        return (self.directory / "err").read_text()

    @property
    def address(self) -> str:
        """Where it listens over TCP, as it said last."""
        return re.findall(r"https?://([^\s\"]+)", self.words)[-1]

    @property
    def socket(self) -> str:
        return os.readlink(self.root / "socket")

    def client(self) -> Client:
        return Client(self.socket)

    def made(self, *requirements: str) -> str:
        """Have an environment made and return its name."""
        with self.client() as client:
            answer = client.ask("POST", "/v1/environments", {"spec": spec(*requirements)}).data
            if answer["ready"] is None:
                *_, (_, event, end) = client.events(answer["operation"]["id"])
                assert event == "end"
                assert end["state"] == "succeeded", end
                return str(end["name"])
            return str(answer["ready"]["name"])

    def begun(self) -> list[str]:
        """The builds that were begun."""
        path = self.orders.directory / "begun"
        return path.read_text().split() if path.exists() else []


def code_of(process: Forked[NoReturn]) -> int:
    """Wait for the end of a forked daemon and return its exit code."""
    try:
        process.result()
    except Died as error:
        return error.status


@contextlib.contextmanager
def running(directory: Path, settings: str = "", environ: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """Have a daemon run for the length of the block."""
    daemon = Daemon(directory, settings, environ)
    try:
        yield daemon.start()
    finally:
        daemon.close()
