"""A build from one end to the other: requirements in, a checked and read-only prefix out."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from envmgr import lockfile
from tests.backends.conftest import SUBDIR, Host
from tests.backends.servers import serve


def test_a_build_solves_fetches_and_links(host: Host, channel: Path) -> None:
    """From a channel on disk: the newest packages, linked; result, lockfile, log and events tell of it."""
    built = host.build(channel.as_uri(), conda=("app", "tool"))
    assert built.result is not None
    names = {path.name for path in (built.prefix / "conda-meta").glob("*.json")}
    assert names == {"app-1.0-0.json", "lib-2.0-0.json", "tool-1.0-0.json"}
    assert (built.prefix / "share/lib/version.txt").read_text() == "lib 2.0 0\n"
    assert built.result.packages == 3
    assert built.result.python_version is None
    assert [name for name, _ in built.result.phases_s] == [
        "solve", "fetch", "unpack", "link", "activation", "check", "sync",
    ]  # fmt: skip
    (text,) = built.locked
    assert (built.build_dir / "conda-lock.yml").read_text() == text
    assert lockfile.parse(text, SUBDIR).digest == built.result.lock_digest
    assert "solve: begin" in built.log
