"""How long one acquire may take: one deadline for all of it, whoever is waited for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.errors import ClaimLost, CoordinatorUnavailable, TimedOut

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.link import BootClock
    from envmgr.coordination.zookeeper.session import Session
    from envmgr.ports import Deadline

_CALL_S = 5.0
_LOOK_S = 0.25
"""How often a waiter asks its deadline; what it waits for wakes it at once."""
_SHORTEST_S = 0.05
_LOOK_AGAIN_S = 20.0
"""How often it looks itself, whatever it was told."""


class Taken(Exception):
    """Somebody else holds it, and this contender does not wait."""


class Limit:
    """See the module. `holder` is whom the contender waits for, for the message."""

    def __init__(
        self,
        clock: BootClock,
        path: str,
        deadline: Deadline | None,
        timeout_s: float | None,
        unreachable_s: float | None,
        *,
        is_trying: bool = False,
    ) -> None:
        self._clock = clock
        self._path = path
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._until = None if timeout_s is None else clock.monotonic() + timeout_s
        self._unreachable_s = unreachable_s
        self._answered_at = clock.monotonic()
        self._error: CoordinatorUnavailable | None = None
        self._is_trying = is_trying
        self.holder: str | None = None

    def check(self) -> None:
        """Raise what ends the acquire, if something does."""
        now = self._clock.monotonic()
        silent_s = now - self._answered_at
        if self._error is not None and self._unreachable_s is not None and silent_s >= self._unreachable_s:
            raise self._error
        if self._until is not None and now >= self._until:
            if self._error is not None:
                raise self._error
            raise TimedOut(
                f"waited {self._timeout_s:g} s for {self.holder or 'another host'}, who holds {self._path}",
                timeout_s=self._timeout_s,
            )
        if self._deadline is not None:
            self._deadline.check()

    def call_s(self) -> float:
        """Return how long the next call may take; raises as `check`."""
        self.check()
        now = self._clock.monotonic()
        least = _CALL_S
        if self._until is not None:
            least = min(least, self._until - now)
        if self._unreachable_s is not None:
            least = min(
                least,
                max(self._unreachable_s - (now - self._answered_at), 0.05) if self._error else self._unreachable_s,
            )
        left = None if self._deadline is None else self._deadline.remaining_s()
        return max(0.0, least if left is None else min(least, left))

    @contextlib.contextmanager
    def answering(self, session: Session) -> Iterator[None]:
        """Let a round of calls fail for want of an answer, unless there is no time left for another."""
        self.check()
        try:
            yield
        except ClaimLost:
            raise
        except CoordinatorUnavailable as error:
            if session.is_closed:
                raise
            self._error = error
            self.check()
            session.wait_connected(min(_LOOK_S, self.call_s()))
        else:
            self._error = None
            self._answered_at = self._clock.monotonic()

    def refuse_waiting(self) -> None:
        """Raise `Taken` if this contender waits for nobody."""
        if self._is_trying:
            raise Taken

    def wait(self, event: threading.Event, longest_s: float = _LOOK_AGAIN_S) -> None:
        """Wait for `event`, not longer than that; raises as `check`."""
        self._error = None
        until = self._clock.monotonic() + longest_s
        while not event.is_set() and (left := until - self._clock.monotonic()) > 0:
            self.check()
            event.wait(min(_LOOK_S, left, self.call_s()))
        self._answered_at = self._clock.monotonic()
