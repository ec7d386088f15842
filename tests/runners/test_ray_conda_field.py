"""Ray's own field ``conda``, with the drop-in conda home as its conda."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.runners, pytest.mark.slow]


def test_what_a_job_describes_or_names(run_example: Callable[..., str], user: dict[str, str]) -> None:
    """Unmodified Ray builds what a job describes and finds what it names, once; it goes when Ray's workers are gone."""
    run_example("ray-conda", timeout_s=250)
    listed = subprocess.run(["envmgr", "list", "--json"], env=user, check=True, capture_output=True)
    [name] = [item["name"] for item in json.loads(listed.stdout)["environments"] if item["state"] == "ready"]
    deadline = time.monotonic() + 30  # Ray's workers end on their own, soon after their driver
    while (done := subprocess.run(["envmgr", "remove", name], env=user, check=False)).returncode != 0:
        assert time.monotonic() < deadline, done
        time.sleep(0.2)
