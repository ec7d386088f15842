"""Asks a daemon over its socket: as little of HTTP as measuring it needs, so that what is measured is the daemon.

As a program, it loads one: ``asking.py SOCKET CONNECTIONS SECONDS METHOD TARGET [BODY]`` keeps a request under way on
each connection, and prints how many were answered. Started by its path; it imports nothing of envmgr.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from collections.abc import Sequence

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def request(method: str, target: str, body: str = "") -> bytes:
    """Return one request as it goes over the socket."""
    head = f"{method} {target} HTTP/1.1\r\nHost: bench\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n"
    return f"{head}\r\n{body}".encode()


class Line:
    """One connection that is kept."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self._buffer = b""

    def close(self) -> None:
        self.socket.close()

    def ask(self, data: bytes) -> bytes:
        """Send a request and return the body of its answer; blocks."""
        self.socket.sendall(data)
        while (body := self.received()) is None:
            pass
        return body

    def received(self) -> bytes | None:
        """Read once; return the body if the answer is whole, which has to be a good one."""
        block = self.socket.recv(1 << 16)
        self._buffer += block
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not block or (found and not head.startswith(b"HTTP/1.1 2")):
            raise RuntimeError(f"no good answer: {self._buffer[:500]!r}")
        length = _LENGTH.search(head) if found else None
        if length is None or len(body) < int(length.group(1)):
            return None
        self._buffer = b""
        return body


def answered(path: str, connections: int, seconds: float, data: bytes) -> tuple[int, float]:
    """Keep a request under way on each connection; return how many were answered, and in how many seconds."""
    lines = {line.socket.fileno(): line for line in (Line(path) for _ in range(connections))}
    poll = select.epoll()
    for fd, line in lines.items():
        poll.register(fd, select.EPOLLIN)
        line.socket.sendall(data)
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for fd, _ in poll.poll(1):
            if lines[fd].received() is not None:
                count += 1
                lines[fd].socket.sendall(data)
    return count, took


def main(arguments: Sequence[str]) -> None:
    """Print the number of answers and the seconds."""
    path, connections, seconds, *words = arguments
    print(*answered(path, int(connections), float(seconds), request(*words)))


if __name__ == "__main__":
    main(sys.argv[1:])
