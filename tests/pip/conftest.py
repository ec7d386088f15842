"""An index that is served, and a prefix, for each test."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_index import Index, Prefix, make_prefix, serving


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An empty index that is served until the test ends."""
    with serving(Index(tmp_path / "index")) as found:
        yield found


@pytest.fixture
def tls_index(tmp_path: Path) -> Iterator[Index]:
    """The same over TLS, with a certificate that only ``ca.pem`` in its root vouches for."""
    root = tmp_path / "tls-index"
    root.mkdir()
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
        "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", root / "key.pem", "-out", root / "ca.pem",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "ca.pem", root / "key.pem")
    with serving(Index(root), context) as found:
        yield found


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    return make_prefix(tmp_path / "envs" / "env-0123456789abcdef")
