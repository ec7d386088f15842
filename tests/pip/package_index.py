"""A small real package index, and prefixes that look like conda's to whoever reads metadata."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import re
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envmgr.backends.pip.interpreter import Interpreter, inspect

_BACKEND = """\
import os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    info = "{name}-{version}.dist-info"
    path = os.path.join(directory, "{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("{name}.py", "is_built = True\\n")
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr(info + "/WHEEL", wheel)
        archive.writestr(info + "/RECORD", "")
    return os.path.basename(path)
"""


@dataclass
class Index:
    """Files on disk, served as a PEP 503 and (with upload times) PEP 700 index by a real server."""

    root: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    credentials: str | None = None
    status: int | None = None

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def simple(self) -> str:
        return f"{self.url}/simple/"

    def sha256(self, file_name: str) -> str:
        return hashlib.sha256((self.files / file_name).read_bytes()).hexdigest()

    def wheel(
        self, name: str, version: str, requires: Sequence[str] = (), tag: str = "py3-none-any", metadata: str = ""
    ) -> Path:
        path = self.files / f"{name}-{version}-{tag}.whl"
        info = f"{name}-{version}.dist-info"
        lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        members = {
            f"{name}.py": f"version = {version!r}\ntag = {tag!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}{metadata}",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        record = "".join(f"{member},sha256={_urlsafe(text)},{len(text.encode())}\n" for member, text in members.items())
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                archive.writestr(zipfile.ZipInfo(member), text)
        return path

    def sdist(self, name: str, version: str) -> Path:
        path = self.files / f"{name}-{version}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for member, text in source_tree(name, version).items():
                data = text.encode()
                entry = tarfile.TarInfo(f"{name}-{version}/{member}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return path

    def matching(self, name: str) -> list[Path]:
        return [path for path in sorted(self.files.iterdir()) if normalised(path.name.split("-")[0]) == name]


def source_tree(name: str, version: str) -> dict[str, str]:
    """The sources of a package that builds without anything from an index."""
    return {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": _BACKEND.format(name=name, version=version),
    }


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _urlsafe(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _handler(index: Index) -> type[http.server.SimpleHTTPRequestHandler]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(index.root))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.path = re.sub(r"^https?://[^/]*", "", self.path)  # as a proxy is asked
            index.requests.append(self.path)
            wanted = "Basic " + base64.b64encode((index.credentials or "").encode()).decode()
            if index.status is not None:
                self._answer(index.status, b"")
            elif index.credentials and self.headers.get("Authorization") != wanted:
                self._answer(401, b"", ("WWW-Authenticate", "Basic"))
            elif self.path.startswith("/simple/"):
                self._page(self.path.strip("/").split("/")[1])
            else:
                super().do_GET()

        def _page(self, name: str) -> None:
            paths = index.matching(name)
            if not paths:
                self._answer(404, b"")
                return
            files = [
                {
                    "filename": path.name,
                    "url": f"../../files/{path.name}",
                    "hashes": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
                    "upload-time": "2020-01-01T00:00:00Z" if "-1." in path.name else "2025-01-01T00:00:00Z",
                }
                for path in paths
            ]
            document = {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": files}
            body = json.dumps(document).encode()
            self._answer(200, body, ("Content-Type", "application/vnd.pypi.simple.v1+json"))

        def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for key, value in (*headers, ("Content-Length", str(len(body)))):
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextlib.contextmanager
def serving(found: Index, tls: ssl.SSLContext | None = None) -> Iterator[Index]:
    """Serve an index for the length of the block."""
    found.files.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    found.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Prefix:
    """A prefix with a real interpreter; distributions can be put into it as conda would."""

    path: Path
    interpreter: Interpreter

    @property
    def site_packages(self) -> Path:
        return self.interpreter.site_packages[0]

    def conda_installs(self, name: str, version: str, metadata: str = "") -> None:
        info = self.site_packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        (info / "INSTALLER").write_text("conda")
        (info / "RECORD").write_text(
            f"{name}.py,,\n{info.name}/METADATA,,\n{info.name}/INSTALLER,,\n{info.name}/RECORD,,\n"
        )
        (self.site_packages / f"{name}.py").write_text(f"version = {version!r}\nby = 'conda'\n")

    def run(self, code: str) -> str:
        command = [self.path / "bin/python", "-I", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make_prefix(path: Path, python: str = sys.executable) -> Prefix:
    subprocess.run([python, "-m", "venv", "--without-pip", path], check=True)
    (path / "conda-meta").mkdir()
    found = Prefix(path, inspect(path))
    assert found.site_packages.is_relative_to(path)  # a test writes there
    return found
