"""The examples for Ray."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.runners]


def test_jobs_tasks_actors_and_clients_on_two_raylets(run_example: Callable[..., str]) -> None:
    """A job, tasks on two raylets, an actor and a ray:// client run in their environments, each built once."""
    assert run_example("ray").count(" ready ") == 2


def test_programs_that_know_nothing_of_envmgr(run_example: Callable[..., str]) -> None:
    """With the hook, Ray's own pip and conda become managed environments of the user's store."""
    assert run_example("ray-unmodified").count(" ready ") == 2
