"""Ray on Spark: the example, and who holds the lease while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from example_site import Site

pytestmark = [pytest.mark.runners, pytest.mark.slow]


def test_example(run_example: Callable[..., str], site: Site, user: dict[str, str], tmp_path: Path) -> None:
    """examples/ray-on-spark: while it computes, the head and both Ray nodes on the executors use the environment."""
    raylets: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        example = pool.submit(run_example, "ray-on-spark", timeout_s=270)
        while len(raylets) < 3 and not wait([example], timeout=1).done:
            raylets |= _raylets(site, user, tmp_path / "work")
        example.result()
    assert len(raylets) >= 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in raylets)


def _raylets(site: Site, user: dict[str, str], work: Path) -> set[int]:
    """Return the raylets of the example in `work` among those who use the site's environment."""
    shown = subprocess.run(
        ["envmgr", "--root", site.environment.prefix.parents[3], "show", "site", "--json"],
        env=user, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: set[int] = set()
    for one in json.loads(shown.stdout)["used_by"]:
        if Path(one["command"].split(" ")[0]).name == "raylet":
            with contextlib.suppress(FileNotFoundError):
                variables = Path(f"/proc/{one['pid']}/environ").read_bytes().split(b"\0")
                if os.fsencode(f"WORK={work}") in variables:
                    found.add(one["pid"])
    return found
