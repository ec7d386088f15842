"""Time limits, and waiting for a name's build lock."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from envmgr.errors import Cancelled, TimedOut
from envmgr.events import Event, Reporter
from envmgr.manager.context import Context
from envmgr.store import locks, usage

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.ports import Clock


def never() -> bool:
    """Be the wish to stop of a caller that has none."""
    return False


class TimeLimit:
    """A caller's deadline, and its wish to stop."""

    def __init__(self, clock: Clock, timeout_s: float | None, is_cancelled: Callable[[], bool] = never) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._until = None if timeout_s is None else clock.monotonic() + timeout_s
        self._is_cancelled = is_cancelled

    def remaining_s(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - self._clock.monotonic())

    def check(self) -> None:
        if self._is_cancelled():
            raise Cancelled("the caller gave up")
        if self._until is not None and self._clock.monotonic() >= self._until:
            raise TimedOut(
                f"not ready within {self._timeout_s:g} s",
                hint="--timeout (timeout_s) allows more",
                timeout_s=self._timeout_s,
            )


class Pauses:
    """Ever longer pauses between two looks, with jitter so that many waiters do not look at one moment.

    The longest is short enough that 500 waiting processes see a publication within half a second, and long enough that
    their looks cost a small part of one core.
    """

    _FIRST_S = 0.01
    _LONGEST_S = 0.2

    def __init__(self, clock: Clock, limit: TimeLimit) -> None:
        self._clock = clock
        self._limit = limit
        self._next_s = self._FIRST_S

    def pause(self) -> None:
        """Wait a little; raise what `TimeLimit.check` raises."""
        self._limit.check()
        remaining = self._limit.remaining_s()
        wish = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
        self._clock.sleep(wish if remaining is None else min(wish, remaining))
        self._next_s = min(self._next_s * 1.5, self._LONGEST_S)


@contextlib.contextmanager
def told_to_wait(context: Context, name: EnvName, report: Reporter) -> Iterator[None]:
    """Say once whom we wait for, and that it is over."""
    whom = usage.lock_taker(context.layout.lock(name)) or "another process"
    report(Event("begin", "wait", f"waiting for {whom}, who is busy with {name}"))
    try:
        yield
    finally:
        report(Event("end", "wait"))


@contextlib.contextmanager
def locked(context: Context, name: EnvName, limit: TimeLimit, report: Reporter) -> Iterator[None]:
    """Wait for the name's build lock and hold it for the length of the block."""
    pauses: Pauses | None = None
    with contextlib.ExitStack() as waiting:
        while True:
            with locks.try_lock(context.layout, name) as is_held:
                if is_held:
                    waiting.close()
                    yield
                    return
            if pauses is None:
                pauses = Pauses(context.clock, limit)
                waiting.enter_context(told_to_wait(context, name, report))
            pauses.pause()
