"""A daemon that does what a test wrote down: one scene for each connection, in their order."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envmgr.errors import EnvmgrError

LIMIT_S = 20.0


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    headers: dict[str, str]
    document: Any


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(LIMIT_S)
        self._file = connection.makefile("rb")

    def request(self) -> Request:
        """Read one request."""
        method, target, _ = self._file.readline().decode().split(" ")
        headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            key, _, value = line.decode().partition(":")
            headers[key.lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", "0")))
        return Request(method, target, headers, json.loads(body) if body else None)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a client that has what it wanted may be gone
            self.connection.sendall(data)

    def answer(self, document: dict[str, Any], status: int = 200) -> Request:
        """Read a request and answer it."""
        request = self.request()
        self.say(document, status)
        return request

    def say(self, document: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def refuse(self, error: EnvmgrError) -> Request:
        return self.answer({"error": error.to_json()}, error.http_status)

    def stream(self) -> Request:
        """Read a request for events and begin the answer."""
        request = self.request()
        self.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        return request

    def event(self, number: int, kind: str, data: dict[str, Any]) -> None:
        text = f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
        self.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")

    def close(self) -> None:
        self._file.close()
        self.connection.close()

    def wait_for_the_end(self) -> None:
        """Wait until the client has closed its end."""
        while self._file.read(1):
            pass


Scene = Callable[[Peer], None]


@contextlib.contextmanager
def playing(path: Path, *scenes: Scene, backlog: int = 16) -> Iterator[None]:
    """Play the scenes at `path`, each to its end; what goes wrong in one fails the test."""
    wrong: list[BaseException] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        listener.settimeout(LIMIT_S)

        def play() -> None:
            try:
                for scene in scenes:
                    peer = Peer(listener.accept()[0])
                    with contextlib.closing(peer):
                        scene(peer)
            except BaseException as error:  # noqa: BLE001 - the test's thread raises it
                wrong.append(error)
            finally:
                listener.close()  # from now on nobody is there

        thread = threading.Thread(target=play)
        thread.start()
        try:
            yield
        finally:
            thread.join(LIMIT_S)
            path.unlink()
    if wrong:
        raise wrong[0]
    assert not thread.is_alive()


def operation(state: str, *, id: str = "op1", position: int = 0, **changes: Any) -> dict[str, Any]:  # noqa: A002
    """Return an operation as it crosses the wire."""
    return {
        "id": id, "kind": "lock", "name": None, "state": state, "by": "somebody", "request_id": None, "created_at": 1.0,
        "started_at": None, "finished_at": None, "position": position, "phase": None, "waiters": 1, "result": None,
        "error": None, **changes,
    }  # fmt: skip
