"""Signals that ask a process to end become an exception, so that what is being made is taken down on the way out.

For the length of a block, SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread, once: from then on they
are ignored until the process ends, for it is on its way out, and the interpreter takes itself apart after the block. A
block that none of them ended leaves the dispositions as they were before. What was ignored (nohup) stays ignored all
the time. In another thread than the main one nothing changes, since only the main one gets signals.

For `envmgr.cli` and `envmgr.launcher` alone: a library does not touch its caller's signals.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let signals raise `Interrupted` for the length of the block; after the first, they are ignored for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        before.clear()
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
