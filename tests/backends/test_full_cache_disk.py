"""A cache and a build on a file system that is too small."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_hosts import Host
from backend_servers import serve
from demo.packages import fabricate, index

from envmgr.errors import NoSpace


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs CAP_SYS_ADMIN, to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size_bytes", [4_000_000, 8_000_000])
@pytest.mark.parametrize("way", ["file", "http"])
def test_a_full_disk_is_said_to_be_one(small: Path, tmp_path: Path, way: str, size_bytes: int) -> None:
    """Too little room to unpack, or to download: `NoSpace`, and no part of an archive stays."""
    directory = tmp_path / "chan"
    fabricate(directory, "big", "1.0", files={"share/big.bin": os.urandom(size_bytes)})
    index(directory)
    host = Host(small)
    with serve(directory) as server, pytest.raises(NoSpace) as caught:
        host.build(directory.as_uri() if way == "file" else server.url, conda=("big",))
    assert caught.value.code == "no_space"
    kept = [path for path in (host.packages / "archives").iterdir() if path.name.startswith(".tmp-")]
    assert kept == []
