"""A store over the fake backend whose clock the test moves, environments of known sizes in it, and a small disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.worlds import World, make_world

from envmgr.store import opening
from envmgr.store.layout import Layout


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def world(tmp_path: Path, clock: FakeClock) -> World:
    return make_world(tmp_path, clock=clock)


@pytest.fixture(params=["bytes", "inodes"])
def small(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[World]:
    """A store on a file system of its own: 20 MB, or 400 inodes."""
    if os.geteuid() != 0:
        pytest.skip("needs root (CAP_SYS_ADMIN), to mount a tmpfs")
    mount = tmp_path / "small"
    mount.mkdir()
    size = "size=20m" if request.param == "bytes" else "size=200m,nr_inodes=400"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", mount], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs CAP_SYS_ADMIN, to mount a tmpfs: {done.stderr.strip()}")
    try:
        world = make_world(tmp_path, clock=clock)
        opening.open_for_writing(mount / "store")
        yield World(Layout(mount / "store"), world.orders, clock)
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)
