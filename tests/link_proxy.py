"""A TCP proxy in front of a server, with which a test breaks the link between the two.

What is held back is delivered after `mend`, as TCP would after packets were lost.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal, final

Way = Literal["up", "down"]


@final
class LinkProxy:
    """Forward connections to `target` (``host:port``); `address` is where clients connect."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._open = {"up": threading.Event(), "down": threading.Event()}
        self._is_refusing = self._is_closed = False
        self._drop_next: bytes | None = None
        self._drop_way: Way = "down"
        self.delay_s = 0.0
        self.passed = {"up": 0, "down": 0}
        self.mend()
        self._spawn(self._accept)

    def __enter__(self) -> LinkProxy:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        return "{}:{}".format(*self._listener.getsockname()[:2])

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._is_refusing = True
        self.break_all()

    def break_all(self) -> None:
        """Break every connection; new ones are taken."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _break(*pair)

    def silence(self, *ways: Way) -> None:
        """Let nothing through any more, both ways or one: ``up`` to the server, ``down`` to the client."""
        for way in ways or ("up", "down"):
            self._open[way].clear()

    def silence_after(self, mark: bytes, way: Way = "down") -> None:
        """Let the next block to the server that contains `mark` through, and from then on nothing in `way`."""
        self._drop_next, self._drop_way = mark, way

    def mend(self) -> None:
        """Let everything through again, what was held back first."""
        self._is_refusing = False
        self._drop_next = None
        for event in self._open.values():
            event.set()

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        self.break_all()
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, 2)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise each small answer takes 40 ms
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            self._spawn(self._pump, client, server, "up", pair)
            self._spawn(self._pump, server, client, "down", pair)

    def _pump(
        self, source: socket.socket, sink: socket.socket, way: Way, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if self.delay_s:
                    threading.Event().wait(self.delay_s)
                if way == "up" and self._drop_next is not None and self._drop_next in block:
                    self._drop_next = None
                    self._open[self._drop_way].clear()
                    if self._drop_way == "down":
                        sink.sendall(block)
                        continue
                self._open[way].wait()
                sink.sendall(block)
                self.passed[way] += len(block)
        _break(*pair)
        with self._lock:
            first = pair in self._pairs
            self._pairs.discard(pair)
        if not first:  # the other direction is through, too
            for one in pair:
                one.close()


def _break(*pair: socket.socket) -> None:
    for one in pair:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
