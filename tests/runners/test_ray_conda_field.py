"""Ray's own field ``conda``, with the drop-in conda home as its conda."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from envmgr.runners.condahome.installation import install

WORKER = "/site/lib/python3.11/site-packages/ray/_private/workers/default_worker.py"


@pytest.mark.runners
@pytest.mark.slow
def test_what_a_job_describes_or_names(run_example: Callable[..., str], user: dict[str, str]) -> None:
    """Unmodified Ray builds what a job describes and finds what it names; both go when Ray's workers are gone."""
    run_example("ray-conda", timeout_s=250)
    listed = subprocess.run(["envmgr", "list", "--json"], env=user, check=True, capture_output=True)
    names = [item["name"] for item in json.loads(listed.stdout)["environments"] if item["state"] == "ready"]
    assert len(names) == 2
    deadline = time.monotonic() + 30  # Ray's workers end on their own, soon after their driver
    for name in names:
        while (done := subprocess.run(["envmgr", "remove", name], env=user, check=False)).returncode != 0:
            assert time.monotonic() < deadline, done
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "overlay"),
    [
        (f": python {WORKER} --node-ip-address=127.0.0.1", "3.11:/site/lib/python3.11/site-packages"),
        (f": python '{WORKER}'", "3.11:/site/lib/python3.11/site-packages"),
        (": python /site/lib/python3.11/site-packages/ray/scripts.py", ""),
    ],
)
def test_only_a_worker_of_ray_gets_ray(
    ready_store: Path, tmp_path: Path, clean_environ: dict[str, str], command: str, overlay: str
) -> None:
    """An environment without Ray has the Ray whose worker is started in it behind its packages, and else nothing."""
    home = install(tmp_path / "condahome", ready_store, lambda _words: None).home
    show = 'printf "%s %s" "$ENVMGR_RAY_OVERLAY" "${PYTHONPATH##*/ray/}"'
    text = f". {home}/bin/../etc/profile.d/conda.sh && conda activate quickstart 1>&2 && {show} && {command}"
    done = subprocess.run(["bash", "-c", text], env=clean_environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{overlay} {'overlay' if overlay else ''}", "")
