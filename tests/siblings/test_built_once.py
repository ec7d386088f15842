"""A wheel that is built from sources is built by the host that solves, and the others install its bytes."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks import fetching
from sibling_hosts import say, scripted

from envmgr import lockfile
from envmgr.model import BuiltWheel, Lockfile
from envmgr.settings import machine
from envmgr.wire.pipe import PipSettings, Sharing

pytestmark = pytest.mark.slow

# Each build makes other bytes, and is counted.
_BACKEND = """\
import os, uuid, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open({marker!r}, "a") as marker:
        marker.write("built\\n")
    info, path = "sonly-1.0.dist-info", os.path.join(directory, "sonly-1.0-{tag}.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sonly.py", f"build = '{{uuid.uuid4()}}'\\n")
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.2\\nName: sonly\\nVersion: 1.0\\n")
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        archive.writestr(info + "/RECORD", "")
    return os.path.basename(path)
"""


@dataclass
class Site:
    """An index with one package, which has sources only, and hosts."""

    channel: str
    marker: Path
    section: dict[str, Any]
    hosts: list[fetching.Host]

    @property
    def builds(self) -> int:
        return len(self.marker.read_text().splitlines())

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(host.url for host in self.hosts)

    def solve(self, host: fetching.Host, sharing: Sharing | None = None) -> Lockfile:
        sharing = Sharing(host.url, self.urls) if sharing is None else sharing
        host.build(host.request(self.channel, "python", sharing=sharing, **self.section))
        assert host.lockfile is not None
        return lockfile.parse(host.lockfile, machine.subdir())

    def install(self, host: fetching.Host, text: str | None, sharing: Sharing) -> tuple[str, ...]:
        """Build from the lockfile; return the warnings that the record keeps."""
        return host.build(host.request(self.channel, "python", sharing=sharing, lockfile=text, **self.section)).warnings


def installed(host: fetching.Host) -> dict[str, bytes]:
    """Return the files of the package in the host's newest environment."""
    newest = max(host.root.glob("builds/*"), key=lambda path: int(path.name))
    return {path.name: path.read_bytes() for path in newest.glob("envs/*/lib/python*/site-packages/sonly*/*")} | {
        path.name: path.read_bytes() for path in newest.glob("envs/*/lib/python*/site-packages/sonly.py")
    }


@contextmanager
def made(root: Path, channel: str, hosts: int, tag: str = "py3-none-any") -> Iterator[Site]:
    marker = root / "marker"
    files, page = root / "index/files", root / "index/simple/sonly"
    for place in (files, page):
        place.mkdir(parents=True)
    source = files / "sonly-1.0.tar.gz"
    members = {
        "PKG-INFO": "Metadata-Version: 2.2\nName: sonly\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": _BACKEND.format(marker=str(marker), tag=tag),
    }
    with tarfile.open(source, "w:gz") as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(f"sonly-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    (page / "index.html").write_text(f'<a href="../../files/{source.name}#sha256={digest}">{source.name}</a>')
    with fetching.served(root / "index") as served, fetching.hosts(root / "hosts", hosts) as found:
        section = {"pip": ("sonly",), "pip_settings": PipSettings(index_url=f"{served.url}/simple/")}
        yield Site(channel, marker, section, list(found))


def test_it_is_built_once_for_all_hosts(tmp_path: Path, demo_channel: str) -> None:
    """The lockfile names the sources and the wheel; the second host builds nothing and has the same bytes.

    So it is when the first builds again; and where nobody gives the wheel, or other bytes for it, a host builds its
    own, and says so.
    """
    with made(tmp_path, demo_channel, 3) as site:
        one, other, third = site.hosts
        lock = site.solve(one)
        (wheel,) = lock.built_wheels
        assert (wheel.name, wheel.file_name) == ("sonly", "sonly-1.0-py3-none-any.whl")
        assert lock.not_reproducible == ()
        assert next(it.url for it in lock.packages if it.manager == "pip").endswith("/files/sonly-1.0.tar.gz")
        assert site.builds == 1
        kept = one.root / "pkgs/archives" / wheel.sha256
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == wheel.sha256
        assert site.install(other, one.lockfile, Sharing(other.url, site.urls, one.url)) == ()
        assert site.install(one, one.lockfile, Sharing(one.url, site.urls, one.url)) == ()
        assert site.builds == 1
        assert installed(one) == installed(other)
        assert {"sonly.py", "METADATA"} <= installed(one).keys()
        with scripted(lambda _target, connection: say(connection, 200, b"PK lies")) as liar:
            (warning,) = site.install(third, one.lockfile, Sharing(None, (liar.url,)))
        assert "sonly was built here from its sources" in warning
        assert any(f"{liar.url} gave wrong bytes" in event.message for event in third.events)
        assert site.builds == 2
        assert installed(third)["sonly.py"] != installed(one)["sonly.py"]
        assert not (third.root / "pkgs/archives" / wheel.sha256).exists()
        # A damaged one is not installed, nor kept.
        kept.write_bytes(kept.read_bytes()[:100])
        shutil.rmtree(one.root / "uv", ignore_errors=True)
        shutil.rmtree(other.root / "pkgs/archives")
        (warning,) = site.install(other, one.lockfile, Sharing(other.url, (one.url,), one.url))
        assert "sonly was built here" in warning


def test_a_wheel_for_one_platform_is_each_hosts_own(tmp_path: Path, demo_channel: str) -> None:
    """It is not locked, but listed as not reproducible; the host that solves builds it once all the same."""
    with made(tmp_path, demo_channel, 1, tag="py3-none-linux_x86_64") as site:
        lock = site.solve(site.hosts[0])
        assert (lock.built_wheels, lock.not_reproducible) == ((), ("sonly",))
        assert site.builds == 1
        assert installed(site.hosts[0])


def test_a_host_that_shares_with_nobody_locks_none(tmp_path: Path, demo_channel: str) -> None:
    """There all is as it was: uv builds as it installs; a lockfile that names a wheel is met with the sources."""
    with made(tmp_path, demo_channel, 1) as site:
        (host,) = site.hosts
        lock = site.solve(host, Sharing())
        assert (lock.built_wheels, lock.not_reproducible) == ((), ("sonly",))
        assert site.builds == 1
        absent = BuiltWheel("sonly", "sonly-1.0-py3-none-any.whl", "0" * 64)
        text = lockfile.write(
            lock.packages, subdir=lock.subdir, channels=lock.channels, built_wheels=[absent], metadata={}
        )
        (warning,) = site.install(host, text, Sharing())
        assert "sonly was built here from its sources" in warning
