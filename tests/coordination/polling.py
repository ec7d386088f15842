"""Waiting for what comes by itself: a condition is looked at again and again, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], limit_s: float = 20.0) -> T:
    """Return the first true answer; raises `TimeoutError`."""
    end = time.monotonic() + limit_s
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {limit_s:g} s")
        time.sleep(0.01)
    return found
