"""Certificates of an authority of the test's own, made with openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """PEM files."""

    cert: Path
    key: Path

    @property
    def both(self) -> Path:
        """One file with the key and the certificate, as ZooKeeper's server wants it."""
        file = self.cert.with_suffix(".both")
        file.write_text(self.key.read_text() + self.cert.read_text())
        return file


class Authority:
    """Signs certificates; `ca` is its own."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory / name
        self._directory.mkdir()
        self.ca, self._key = self._directory / "ca.pem", self._directory / "ca.key"
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.ca, "-days", "2", "-subj", f"/CN={name}"
        )

    def sign(self, name: str, address: str = "IP:127.0.0.1") -> Certificate:
        """Make a certificate of the subject ``CN=name,O=envmgr`` that is good for an address."""
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extensions = self._directory / "request", self._directory / "extensions"
        extensions.write_text(f"subjectAltName={address}\n")
        self._openssl("req", *_NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/O=envmgr/CN={name}")
        signing = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, *signing, "-out", made.cert)
        return made

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
