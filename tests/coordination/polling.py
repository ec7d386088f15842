"""Waiting for what comes by itself, with a limit; and forking where that is what is tested."""

from __future__ import annotations

import os
import time
import warnings
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


def fork() -> int:
    """Fork a process that has threads, of which newer Pythons rightly warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
