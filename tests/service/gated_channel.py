"""Serves a directory over HTTP in the network of a box: ``python gated_channel.py DIRECTORY``.

Prints its URL, then ``asked PATH`` for each archive whose name begins with ``slow``, which it keeps back until a line
``open`` comes; ``close`` keeps back again. Below ``/private`` it wants the login ``user`` and ``word``. Ends with its
standard input.
"""

# ruff: noqa: T201 - standard output is how it speaks to the test

from __future__ import annotations

import base64
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

LOGIN = "Basic " + base64.b64encode(b"user:word").decode()
gate = threading.Event()


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/private/"):
            if self.headers.get("Authorization") != LOGIN:
                self.send_error(401)
                return
            self.path = self.path.removeprefix("/private")
        if os.path.basename(self.path).startswith("slow"):
            print("asked", self.path, flush=True)
            gate.wait()
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing: standard output is the test's."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: builders that are killed while they wait are what the tests are about."""


def main() -> None:
    server = _Server(("127.0.0.1", 0), partial(_Handler, directory=sys.argv[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    for line in sys.stdin:
        (gate.set if line.strip() == "open" else gate.clear)()
        print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
