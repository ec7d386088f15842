"""Ray's plugin by itself: who gives a build up, and how a worker is started; no cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_site import Site

import envmgr

pytestmark = [pytest.mark.slow, pytest.mark.runners]

AGENT = Path(__file__).with_name("ray_agent.py")
SPEC: dict[str, object] = {"dependencies": ["python"]}


def _agent(variables: dict[str, str], verb: str, spec: dict[str, object]) -> dict[str, Any]:
    done = subprocess.run(
        ["python", AGENT, verb, json.dumps(spec)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_who_gives_up_ends_no_build_that_others_wait_for(user: dict[str, str], store: Path) -> None:
    """Of three setups of one environment one is cancelled; the other two get it, from the one build."""
    found = _agent(user, "one-gives-up", SPEC)
    assert found["outcomes"] == ["CancelledError", "float", "float"]
    assert len(list((store / "builds").iterdir())) == 1


def test_who_has_little_time_takes_none_from_others(user: dict[str, str], store: Path) -> None:
    """The first of three setups may wait for a moment only: it is told so, and the build goes on for the others."""
    found = _agent(user, "one-has-little-time", SPEC)
    assert found["outcomes"] == ["TimedOut", "float", "float"]
    assert len(list((store / "builds").iterdir())) == 1


def test_the_last_who_gives_up_leaves_nothing_running(user: dict[str, str], store: Path) -> None:
    """When all are cancelled the builder is ended before they return, and the environment can be had right after."""
    found = _agent(user, "all-give-up", SPEC)
    assert found["outcomes"] == ["CancelledError"] * 3
    assert found["children"] == 0
    with envmgr.ensure(SPEC, root=store, timeout_s=60) as environment:
        assert environment.built


def test_a_worker_starts_as_activation_says_wherever_the_store_lies(
    site: Site, make_store: Callable[[Path], Path], tmp_path: Path, home: Path
) -> None:
    """A path with spaces, a value with a dollar, a variable that activation removes: Ray alone would get all wrong.

    What the worker starts finds Ray, too, in the environment's own interpreter.
    """
    root = make_store(tmp_path / "a $store with spaces")
    spec = {**SPEC, "variables": {"DOLLAR": "$HOME costs $5"}}
    variables = site.variables(root=root, home=home) | {"VIRTUAL_ENV": "/nowhere"}
    found = _agent(variables, "worker", spec)
    prefix = found["prefix"]
    assert prefix.startswith(f"{root}/builds/")
    assert found["child"] == prefix
    assert found["VIRTUAL_ENV"] is None
    assert found["GIVEN"] == "1"
    assert found["DOLLAR"] == "$HOME costs $5"
    assert found["PYTHONPATH"].endswith(f"/overlay:{variables['PYTHONPATH']}")
