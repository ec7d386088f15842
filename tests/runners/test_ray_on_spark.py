"""Ray on Spark: the example, and who holds the lease while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from example_site import Site

pytestmark = [pytest.mark.runners, pytest.mark.slow]


def test_example(run_example: Callable[..., str], site: Site, user: dict[str, str], tmp_path: Path) -> None:
    """examples/ray-on-spark: while it computes, the head and both Ray nodes on the executors hold the lease."""
    nodes: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        example = pool.submit(run_example, "ray-on-spark", timeout_s=270)
        while len(nodes) < 3 and not wait([example], timeout=1).done:
            nodes |= _ray_nodes(site, user, tmp_path / "work")
        example.result()
    assert len(nodes) >= 3
    deadline = time.monotonic() + 60  # Ray's own exit handlers take some seconds
    while _ray_nodes(site, user, tmp_path / "work"):
        assert time.monotonic() < deadline, "Ray nodes are left"


def _ray_nodes(site: Site, user: dict[str, str], work: Path) -> set[int]:
    """Return what keeps the Ray nodes of the example in `work`, among those who hold a lease of the site."""
    shown = subprocess.run(
        ["envmgr", "--root", site.environment.prefix.parents[3], "show", "site", "--json"],
        env=user, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: set[int] = set()
    for pid in [one["pid"] for one in json.loads(shown.stdout)["used_by"]]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            variables, command = (Path(f"/proc/{pid}/{what}").read_bytes() for what in ("environ", "cmdline"))
            if os.fsencode(f"WORK={work}") in variables.split(b"\0") and b"ray.util.spark.start_ray_node" in command:
                found.add(pid)
    return found
