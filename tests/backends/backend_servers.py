"""Real HTTP servers on 127.0.0.1 that serve a directory, and misbehave on request."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Behaviour:
    """How one server answers; a test changes it while the server runs."""

    user: tuple[str, str] | None = None
    """Basic authentication that is asked for, or ``None``."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Part of a path -> the statuses of the next answers; the last one stays; 0 is a normal answer."""
    stall: str | None = None
    """Part of a path whose answer stops after half of its bytes, until `release` is set."""
    release: threading.Event = field(default_factory=threading.Event)
    truncate: dict[str, int] = field(default_factory=dict)
    """Part of a path -> how many answers break off after half of their bytes."""
    chunk_pause_s: float = 0.0
    """Pause after every KiB of a package."""
    change: Callable[[str, bytes], bytes] | None = None


@dataclass
class Server:
    """A running server: its URL, what it was asked for, and how it behaves."""

    url: str
    behaviour: Behaviour
    requests: list[str]
    authorizations: list[str]

    def asked_for(self, suffix: str) -> list[str]:
        return [path for path in self.requests if path.endswith(suffix)]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that break off are what the tests are about."""


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class _Files(_Quiet):
    """Answers from a directory; `serve` makes a subclass with these for each server."""

    directory: Path
    server_of: Server

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _plain(self, status: int) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _status(self, path: str) -> int:
        """Return the status that is to be answered, 0 for a normal answer."""
        behaviour = self.server_of.behaviour
        if behaviour.user is not None:
            wanted = base64.b64encode(":".join(behaviour.user).encode()).decode()
            if self.headers.get("Authorization") != f"Basic {wanted}":
                return 401
        for part, statuses in behaviour.statuses.items():
            if part in path and statuses:
                return statuses.pop(0) if len(statuses) > 1 else statuses[0]
        return 0 if (self.directory / path.lstrip("/")).is_file() else 404

    def _answer(self, *, has_body: bool) -> None:
        behaviour = self.server_of.behaviour
        path = unquote(urlsplit(self.path).path)
        if has_body:
            self.server_of.requests.append(path)
        self.server_of.authorizations.append(self.headers.get("Authorization", ""))
        if status := self._status(path):
            self._plain(status)
            return
        data = (self.directory / path.lstrip("/")).read_bytes()
        if behaviour.change is not None:
            data = behaviour.change(path, data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if has_body:
            self._send(path, data)

    def _send(self, path: str, data: bytes) -> None:
        behaviour = self.server_of.behaviour
        half = len(data) // 2
        if behaviour.stall is not None and behaviour.stall in path:
            self.wfile.write(data[:half])
            behaviour.release.wait(60)
            self.wfile.write(data[half:])
        elif part := next((one for one, times in behaviour.truncate.items() if one in path and times > 0), None):
            behaviour.truncate[part] -= 1
            self.wfile.write(data[:half])
            self.close_connection = True
        elif behaviour.chunk_pause_s and path.endswith((".conda", ".tar.bz2")):
            for start in range(0, len(data), 1024):
                self.wfile.write(data[start : start + 1024])
                time.sleep(behaviour.chunk_pause_s)
        else:
            self.wfile.write(data)


@contextlib.contextmanager
def serve(directory: Path, *, tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Serve `directory`; with `tls` = (certificate, key) over https."""
    server = Server("", Behaviour(), [], [])
    handler = type("Handler", (_Files,), {"directory": directory, "server_of": server})
    with _running(handler, tls) as server.url:
        try:
            yield server
        finally:
            server.behaviour.release.set()


@contextlib.contextmanager
def proxy() -> Iterator[Server]:
    """Run a forward proxy: absolute-form GET and CONNECT; `requests` are the targets that it was asked for."""
    requests: list[str] = []
    authorizations: list[str] = []

    class Handler(_Quiet):
        def do_GET(self) -> None:
            requests.append(self.path)
            authorizations.append(self.headers.get("Proxy-Authorization", ""))
            self.close_connection = True
            parts = urlsplit(self.path)
            with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10) as upstream:
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                lines = [f"{self.command} {path} HTTP/1.1", "Connection: close"]
                lines += [f"{k}: {v}" for k, v in self.headers.items() if not k.lower().endswith("connection")]
                upstream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
                while block := upstream.recv(1 << 16):
                    self.wfile.write(block)

        do_HEAD = do_GET  # noqa: N815 - the base class calls it so

        def do_CONNECT(self) -> None:
            requests.append(self.path)
            self.close_connection = True
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as upstream:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True)
                back.start()
                _copy(self.connection, upstream)
                back.join(10)

    with _running(Handler, None) as url:
        yield Server(url, Behaviour(), requests, authorizations)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _running(handler: type, tls: tuple[Path, Path] | None) -> Iterator[str]:
    server = _Http(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificates(directory: Path) -> tuple[Path, tuple[Path, Path]]:
    """Make a private authority and a certificate for 127.0.0.1; return the authority's file, and (certificate, key)."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    certificate, key, request = directory / "server.pem", directory / "server.key", directory / "server.csr"
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", str(ca_key), "-out", str(ca), "-days", "2", "-subj", "/CN=test CA")
    openssl("req", *new_key, "-keyout", str(key), "-out", str(request), "-subj", "/CN=127.0.0.1")
    signing = ("-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2", "-extfile", str(extensions))
    openssl("x509", "-req", "-in", str(request), *signing, "-out", str(certificate))
    return ca, (certificate, key)
