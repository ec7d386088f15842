"""Unmodified MLflow, with the drop-in conda home as its conda."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.runners, pytest.mark.slow]


def test_projects_share_an_environment(run_example: Callable[..., str]) -> None:
    """Two projects that say the same in other words have one environment, built once; a second run finds it."""
    run_example("mlflow")


def test_a_broken_environment_is_said_to_be_broken(user: dict[str, str], tmp_path: Path) -> None:
    """``mlflow run`` fails with the solver's own words, and leaves no name behind that a next run would take."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text(
        "name: broken\nconda_env: conda.yaml\nentry_points: {main: {command: python -V}}\n"
    )
    (project / "conda.yaml").write_text("dependencies: [python, no-such-package]\n")
    home = tmp_path / "condahome"
    subprocess.run(["envmgr", "condahome", "install", home], env=user, check=True, capture_output=True)
    variables = {
        **user,
        "MLFLOW_CONDA_HOME": str(home),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
    }
    done = subprocess.run(
        ["mlflow", "run", project], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "No candidates were found for no-such-package" in done.stderr
    assert not list((tmp_path / "store" / "envs").glob("*"))
