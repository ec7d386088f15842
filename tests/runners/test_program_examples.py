"""The example of standalone programs: what a user would write, on real input."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.slow
@pytest.mark.runners
def test_the_example(run_example: Callable[..., str]) -> None:
    """From the shell and from Python: live output, exit status, limits, and two programs at once."""
    run_example("python")
