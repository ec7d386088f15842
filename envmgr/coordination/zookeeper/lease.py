"""Until when the servers certainly keep our session, by this host's own clock.

What the servers do. The leader expires a session when it has not heard of it for the session's timeout T, counted from
when it heard of it. It hears at once of what a client says to it, and of what a client says to a follower when the
follower answers the leader's ping, which comes every half tick, on the same connection as the requests that the
follower passes on. So an answer by a follower proves nothing of the leader: a follower that was cut off from it goes on
answering for a while.

What is counted, therefore. A *touch* is the time **before** a request (or a ping) was sent that a server answered. A
*proof* is an answer that only the leader gives (``sync``). When a proof comes in, every touch that was made at least
T/6 before it had reached the leader first, as long as T is three ticks or more. The newest of those, plus T, less a
margin of T/12 for clocks that do not run alike, is until when the session certainly lives. A connection that was made
(again) is both: the server asks the leader before it answers.

The clock is CLOCK_BOOTTIME: it goes on while the process is stopped and while the machine is suspended.
"""

from __future__ import annotations

import threading
from collections import deque

NEVER = float("-inf")


class Lease:
    """What is known of one ZooKeeper session after another; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = 0
        self._session_id = 0
        self._timeout_s = 0.0
        self._until = NEVER
        self._touches: deque[float] = deque(maxlen=64)  # at T/60 apart: older ones are of no use

    @property
    def epoch(self) -> int:
        """How many sessions there were."""
        return self._epoch

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def timeout_s(self) -> float:
        """T, as the servers want it (not as we asked for it); 0 before the first session."""
        return self._timeout_s

    @property
    def beat_s(self) -> float:
        """How often a session on which somebody relies wants a proof."""
        return self._timeout_s / 6

    def connected(self, session_id: int, timeout_s: float, before: float) -> bool:
        """Note that a server took us (back) into a session, asked at `before`; tell whether it is a new one."""
        with self._lock:
            is_new = session_id != self._session_id
            if is_new:
                self._session_id = session_id
                self._epoch += 1
            self._timeout_s = timeout_s
            self._touches.clear()
            self._touches.append(before)
            self._until = self._end(before)  # no touch is newer, and T may be shorter than it was
            return is_new

    def expired(self) -> None:
        """Note that the session is gone."""
        with self._lock:
            self._session_id = 0
            self._until = NEVER
            self._touches.clear()

    def touched(self, epoch: int, before: float) -> None:
        """Note an answer to what was sent at `before`."""
        with self._lock:
            if epoch == self._epoch and self._touches and before >= self._touches[-1] + self._timeout_s / 60:
                self._touches.append(before)

    def proved(self, epoch: int, before: float) -> None:
        """Note an answer of the leader to what was sent at `before`."""
        with self._lock:
            if epoch != self._epoch or self._session_id == 0:
                return
            latest = before - self._timeout_s / 6
            while len(self._touches) > 1 and self._touches[1] <= latest:
                self._touches.popleft()
            if self._touches and self._touches[0] <= latest:
                self._until = max(self._until, self._end(self._touches[0]))

    def until(self, epoch: int | None = None) -> float:
        """Return the time before which the session (of that epoch) certainly lives."""
        with self._lock:
            return self._until if epoch is None or epoch == self._epoch else NEVER

    def _end(self, touch: float) -> float:
        return touch + self._timeout_s * 11 / 12
