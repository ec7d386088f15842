"""A channel over HTTP on 127.0.0.1 that sends chosen packages in drips until it is told to go on.

A drip is small but steady, so that no client gives up. A request that drips is over after `LONGEST_S` in any case.
"""

from __future__ import annotations

import contextlib
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

LONGEST_S = 60.0
_DRIP_BYTES = 2048
_DRIP_EVERY_S = 0.05


class Throttle:
    """What the bench and the server's threads say to each other."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.is_dripping = threading.Event()
        self.is_released = threading.Event()

    def close(self) -> None:
        """Send slowly from now on."""
        self.is_dripping.clear()
        self.is_released.clear()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, throttle: Throttle, **options: Any) -> None:
        self._throttle = throttle
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed
            if self._throttle.marker in self.path:
                self._drip(source, outputfile)
            shutil.copyfileobj(source, outputfile)

    def _drip(self, source: Any, outputfile: Any) -> None:
        until = time.monotonic() + LONGEST_S
        while not self._throttle.is_released.is_set() and time.monotonic() < until:
            block = source.read(_DRIP_BYTES)
            if not block:
                return
            outputfile.write(block)
            outputfile.flush()
            self._throttle.is_dripping.set()
            self._throttle.is_released.wait(_DRIP_EVERY_S)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@contextlib.contextmanager
def served(channel: Path, throttle: Throttle) -> Iterator[str]:
    """Serve `channel` for the length of the block; yield its URL."""
    handler = partial(_Handler, throttle=throttle, directory=str(channel))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        throttle.is_released.set()
        server.shutdown()
        server.server_close()
        thread.join()
