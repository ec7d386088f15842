"""The directory of one run, its store, and its daemon, which is started again as often as it ends."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from envmgr.manager.manager import Manager
from envmgr.wiring import manager
from soaking import making

LIMIT_S = 60.0
"""No answer, no start and no end may take longer."""
_PAUSE_S = 0.02
_SPECS = 8
_KEPT_VARIABLES = ("PATH", "LANG", "TMPDIR")


class Violation(Exception):
    """Something that must hold does not."""


class Gone(Exception):
    """The daemon ended before it had answered."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, and its ``data`` or ``error``."""

    status: int
    document: Mapping[str, Any]


class Place:
    """One run's channel, store and daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.log = directory / "daemon.log"
        self.home = directory / "home"
        self.home.mkdir()
        self.root.mkdir()
        self._runtime = directory / "run"
        self._runtime.mkdir(mode=0o700)
        channel = directory / "channel"
        environ = {**self.environ(), "PYTHONPATH": str(Path(making.__file__).parent.parent)}
        subprocess.run([sys.executable, "-m", "soaking.making", channel], env=environ, check=True)
        self.token = secrets.token_hex()
        tokens = directory / "tokens"
        tokens.write_text(f"soak admin {hashlib.sha256(self.token.encode()).hexdigest()}\n")
        tokens.chmod(0o600)
        values = {
            "listen": "127.0.0.1:0",
            "tokens_file": str(tokens),
            "default_channels": [channel.as_uri()],
            "use_condarc": False,
            "use_pip_conf": False,
            "min_free_bytes": 0,
            "min_free_inodes": 0,
            "gc_interval_s": 0,
        }
        (self.root / "settings.toml").write_text("".join(f"{key} = {json.dumps(it)}\n" for key, it in values.items()))
        self.texts = [*(_text(number) for number in range(_SPECS)), "name: none\ndependencies:\n  - soak-nowhere\n"]
        self.ends = 0
        """Counts each time the daemon is ended and started again, before and after it."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        return {**kept, "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self._runtime)}

    def asking(self, number: int) -> dict[str, object]:
        """Return the request for the environment of one of `texts`."""
        return {"spec": {"text": self.texts[number], "includes": {}}}

    def manager(self) -> Manager:
        """Return a manager that only looks."""
        return manager(str(self.root), writable=False)

    # ------------------------------------------------------------------------------------------------------ the daemon

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    @property
    def address(self) -> str:
        """Where the daemon listens over TCP, as it said last."""
        return str(re.findall(r"http://([\d.:]+)", self.log.read_text())[-1])

    def ensure_daemon(self) -> None:
        """Start the daemon unless it runs; return when it answers."""
        with self._lock:
            if self.pid is None:
                with self.log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "envmgr", "--root", self.root, "daemon"],
                        env=self.environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    )  # fmt: skip
            until = time.monotonic() + LIMIT_S
            while not self._is_live():
                if self.pid is None or time.monotonic() > until:
                    raise Violation(f"the daemon does not come up; see {self.log}")
                time.sleep(_PAUSE_S)

    def _is_live(self) -> bool:
        try:
            return self.ask("GET", "/v1/health/live").status == 200
        except (Gone, OSError):
            return False

    def end_daemon(self, number: signal.Signals) -> None:
        """Send the daemon a signal that ends it, and wait for that; SIGTERM must end it well."""
        with self._lock:
            if self._process is None or self.pid is None:
                return
            self._process.send_signal(number)
            try:
                status = self._process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                raise Violation(f"the daemon did not end within {LIMIT_S:g} s of {number.name}") from None
            if number == signal.SIGTERM and status not in (0, -signal.SIGKILL):
                raise Violation(f"the daemon ended with {status}; see {self.log}")

    def restart_daemon(self, number: signal.Signals) -> None:
        """End the daemon and start it again."""
        with self._lock:
            self.ends += 1
            self.end_daemon(number)
            self.ensure_daemon()
            self.ends += 1

    def was_ended(self, since: int) -> bool:
        """Tell whether the daemon was ended after `ends` was `since`; waits for one that ends or begins now."""
        with self._lock:
            return self.ends != since

    def signal_daemon(self, number: signal.Signals) -> None:
        if self._process is not None and self.pid is not None:
            self._process.send_signal(number)

    def builders(self) -> list[psutil.Process]:
        """Return the daemon's own children."""
        pid = self.pid
        if pid is None:
            return []
        try:
            return psutil.Process(pid).children()
        except psutil.Error:
            return []

    def close(self) -> None:
        """End what is left, whatever it is."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # ------------------------------------------------------------------------------------------------------- requests

    def connect(self) -> Connection:
        """Return a connection to the daemon; `Gone` when nobody listens."""
        try:
            return Connection(os.path.join(self.root, os.readlink(self.root / "socket")))
        except (FileNotFoundError, ConnectionError) as error:
            raise Gone from error

    def ask(self, method: str, target: str, body: object = None) -> Reply:
        """Make one request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return connection.ask(method, target, body)


class Connection:
    """HTTP to the daemon; raises `Gone` when it breaks off, `Violation` for an answer that must never come."""

    def __init__(self, path: str) -> None:
        self._http = http.client.HTTPConnection("daemon", timeout=LIMIT_S)
        self._http.sock = socket.socket(socket.AF_UNIX)
        self._http.sock.settimeout(LIMIT_S)
        try:
            self._http.sock.connect(path)
        except BaseException:
            self._http.sock.close()
            raise

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, target: str, body: object = None) -> Reply:
        """Make a request; the answer has one of the two shapes, and is no defect."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        status, text = self._exchange(method, target, data)
        try:
            found = json.loads(text)
            kind: Literal["data", "error"] = "data" if status < 400 else "error"
            reply = Reply(status, found[kind])
        except (ValueError, TypeError, KeyError):
            raise Violation(f"{method} {target}: {status} with {text[:200]!r}") from None
        if status >= 500 and status not in (503, 504, 507):
            raise Violation(f"{method} {target}: {status} {dict(reply.document)}")
        return reply

    def text(self, target: str) -> bytes:
        """Return the body of what is no JSON."""
        return self._exchange("GET", target, None)[1]

    def events(self, operation: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the events of an operation, as (event, data), as they come; nothing if it is not there any more."""
        with self._translated(f"events of {operation}"):
            self._http.request("GET", f"/v1/operations/{operation}/events")
            stream = self._http.getresponse()
            event = ""
            while stream.status == 200 and (line := stream.readline()):
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    event = value
                elif key == "data":
                    yield event, json.loads(value)
                    if event == "end":
                        return
        raise Gone

    def _exchange(self, method: str, target: str, data: bytes | None) -> tuple[int, bytes]:
        with self._translated(f"{method} {target}"):
            headers = {} if data is None else {"Content-Type": "application/json"}
            self._http.request(method, target, data, headers)
            answer = self._http.getresponse()
            return answer.status, answer.read()

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise Violation(f"{what}: nothing for {LIMIT_S:g} s") from None
        except (ConnectionError, http.client.HTTPException) as error:
            raise Gone from error


def _text(number: int) -> str:
    """Return one spec of few: the variable gives each a name of its own."""
    return f"name: soak-{number}\ndependencies:\n  - soak-{number % making.PACKAGES}\nvariables:\n  N: '{number}'\n"
