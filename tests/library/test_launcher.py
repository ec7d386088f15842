"""`envmgr-python` in the place of a ``python``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import QUICKSTART

import envmgr

pytestmark = [pytest.mark.slow, pytest.mark.main_job]
LAUNCHER = Path(sys.executable).with_name("envmgr-python")


def launch(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LAUNCHER, *arguments], env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def environ(clean_environ: dict[str, str], ready_store: Path) -> dict[str, str]:
    return {**clean_environ, "ENVMGR_ROOT": str(ready_store)}


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"ENVMGR_ENV": "quickstart"}, []),
        ({"ENVMGR_SPEC": str(QUICKSTART)}, []),
        ({}, ["--envmgr-env=quickstart"]),
        ({"ENVMGR_ENV": "other"}, ["--envmgr-env", "quickstart"]),
    ],
)
def test_becomes_the_environments_interpreter(
    environ: dict[str, str], quickstart: envmgr.Environment, variables: dict[str, str], arguments: list[str]
) -> None:
    """However it is told the environment, its interpreter runs with the caller's arguments, activated and leased."""
    program = (
        "import fcntl, json, os, sys, numpy\n"
        "print(json.dumps([sys.prefix, sys.argv, os.environ['CONDA_PREFIX'], os.environ['PYTHONNOUSERSITE'],"
        " os.environ['PATH'].split(':')[0]]))"
    )
    done = launch({**environ, **variables}, *arguments, "-c", program, "--envmgr-env=of-the-program", "x y")
    assert done.returncode == 0, done.stderr
    prefix = str(quickstart.prefix)
    assert json.loads(done.stdout) == [
        prefix, ["-c", "--envmgr-env=of-the-program", "x y"], prefix, "1", f"{prefix}/bin",
    ]  # fmt: skip
    assert done.stderr == ""


def test_passes_the_exit_status_and_standard_input_on(environ: dict[str, str]) -> None:
    """The program's standard input, output and exit status are those of any ``python``."""
    done = subprocess.run(
        [LAUNCHER, "-"], input="print('from stdin'); raise SystemExit(7)", env={**environ, "ENVMGR_ENV": "quickstart"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, "from stdin\n", "")


@pytest.mark.parametrize(
    ("variables", "arguments", "status", "message"),
    [
        ({}, [], 2, "no environment is given"),
        ({"ENVMGR_ENV": "nope"}, [], 6, "'nope'"),
        ({"ENVMGR_ENV": "a/b"}, [], 2, "'a/b'"),
        ({"ENVMGR_SPEC": "/nonexistent.yml"}, [], 3, "/nonexistent.yml"),
        ({}, ["--envmgr-colour=red"], 2, "--envmgr-colour"),
    ],
)
def test_failures_are_told_on_stderr_alone(
    environ: dict[str, str], variables: dict[str, str], arguments: list[str], status: int, message: str
) -> None:
    """A failure has its documented exit code, one message with a name on stderr, and nothing on stdout."""
    done = launch({**environ, **variables}, *arguments, "-c", "print('never')")
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("envmgr-python: ")
    assert message in done.stderr


def test_creates_from_a_spec_that_is_not_there(store: Path, clean_environ: dict[str, str], tmp_path: Path) -> None:
    """``ENVMGR_SPEC`` of an environment that is not there builds it first; only the program writes to stdout."""
    spec = tmp_path / "spec.yml"
    spec.write_text("dependencies: [rich, python]\n")
    environ = {**clean_environ, "ENVMGR_ROOT": str(store), "ENVMGR_SPEC": str(spec)}
    done = launch(environ, "-c", "import rich; print(rich.__name__)")
    assert (done.returncode, done.stdout) == (0, "rich\n"), done.stderr
