"""Operations of many callers: which runs when, and how each comes to its end.

* **Bounded**: at most `max_running` run, each in a thread of its own that takes the next one when it is done and ends
  when there is none; at most `max_waiting` wait, `max_waiting_per_caller` of them in one caller's line. More are
  refused (`Busy`) and cost nothing.
* **Fair**: callers take turns, see `envmgr.operations.queue`.
* **Single flight**: who asks for a key that is queued or running joins it. One that ended, or was told to stop, is
  never joined: the key then begins anew, so a joined flight always comes to an end that is its own.
* **Every flight ends**, whatever its work raises; what is no `EnvmgrError` goes to the log with its traceback, and to
  callers without.

Ended ones are kept for `KEPT_S`, the newest `MAX_KEPT` of them. Time is the `Clock`'s; one thread, there while
something is due, calls `tend` in real time, and a test that moves a clock calls it itself.

Not promised: that work which ignores its wish to stop ends; `drain` goes without it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from envmgr.errors import Busy, Cancelled, DaemonUnavailable, EnvmgrError
from envmgr.events import Event
from envmgr.operations.flight import Flight, Leased, Then, Work, identity
from envmgr.operations.queue import FairQueue
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.model import Caller
    from envmgr.names import EnvName
    from envmgr.ports import Clock

MAX_KEPT = 1000
MAX_KEPT_CHARS = 32 << 20
"""Of the texts of lockfiles in the results of ended operations, which are as large as somebody's spec makes them."""
_STOP_S = 15.0
_FIRST_GUESS_S = 5.0

_log = logging.getLogger(__name__)


class Operations:
    """See the module. Every method may be called from any thread; none waits for work but `drain`."""

    def __init__(
        self, *, max_running: int, max_waiting: int, max_waiting_per_caller: int, clock: Clock,
        on_end: Callable[[Flight], None] | None = None,
    ) -> None:  # fmt: skip
        """`on_end`: see `hear_of_ends`."""
        self._limits = max_running, max_waiting, max_waiting_per_caller
        self._clock = clock
        self._hearers = [] if on_end is None else [on_end]
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._flights: dict[str, Flight] = {}
        self._by_key: dict[Hashable, Flight] = {}
        self._queue: FairQueue[Flight] = FairQueue()
        self._running: set[Flight] = set()
        self._ended: deque[Flight] = deque()
        self._news: deque[tuple[Flight, bool]] = deque()
        self._untold = 0
        self._keeper: threading.Thread | None = None
        self._due_earlier = threading.Condition(self._lock)
        self._attended_at = math.inf
        self._mean_s = _FIRST_GUESS_S
        self._is_draining = False

    def hear_of_ends(self, hear: Callable[[Flight], None]) -> None:
        """Have `hear` called once for each flight that ends from now on, after its listeners were woken."""
        self._hearers.append(hear)

    # ----------------------------------------------------------------------------------------------------- for callers

    def submit(
        self, kind: wire.Kind, key: Hashable, name: EnvName | None, caller: Caller, work: Work,
        *, cancel_when_unwanted: bool, then: Then | None = None, request_id: str | None = None,
    ) -> Flight:  # fmt: skip
        """Have `work` done, or join the flight of the same key that is not done yet; a new one gets the `request_id`.

        `then` is done once it succeeded, in the same thread and before anybody hears of it, for a caller who joined,
        too. What it raises fails the flight when nobody else asked for it, and else becomes a warning for all.
        Raises `Busy`, and `DaemonUnavailable` while draining.
        """
        with self._lock:
            if self._is_draining:
                raise DaemonUnavailable("the daemon is stopping", hint="ask again when it is back")
            flight = self._by_key.get(key)
            is_new = flight is None
            if flight is None:
                self._check_room(caller)
                flight = Flight(
                    kind, key, name, caller, work,
                    request_id=request_id, desk=self, clock=self._clock, lock=self._lock,
                )  # fmt: skip
                self._flights[flight.id] = self._by_key[key] = flight
            flight.ask(caller, cancel_when_unwanted=cancel_when_unwanted, then=then)
            if flight.state == "queued":
                self._queue.add(identity(caller), flight)
            if is_new:
                flight.enter("queued")
                self._launch()
        self._announce()
        self.attend(flight)
        return flight

    def find(self, id: str) -> Flight | None:  # noqa: A002 - the operation's id
        with self._lock:
            return self._flights.get(id)

    def all(self) -> tuple[Flight, ...]:
        """Return every flight that is kept, the newest last."""
        with self._lock:
            return tuple(self._flights.values())

    def release(self, name: EnvName) -> None:
        """Give back what is held of an environment for those who waited for it and listen no more."""
        for flight in self.all():
            if flight.name == name:
                flight.release()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def set_limits(self, *, max_running: int, max_waiting: int, max_waiting_per_caller: int) -> None:
        """Change the limits for what comes; nothing that runs or waits is given up for it."""
        with self._lock:
            self._limits = max_running, max_waiting, max_waiting_per_caller
            self._launch()
        self._announce()

    def drain(self, timeout_s: float) -> None:
        """Take nothing new; wait for what is there, then cancel what is left and wait for that, too.

        Blocks for `timeout_s`, and some seconds more where work is slow to stop. Leases that were held are given back.
        """
        with self._lock:
            self._is_draining = True
            self._changed.wait_for(self._is_idle, timeout_s)
        for flight in self.all():
            self.cancel(flight, Cancelled("the daemon stops", is_by_daemon=True))
        with self._lock:
            if not self._changed.wait_for(self._is_idle, _STOP_S):
                _log.error("%d operations did not stop within %g s", len(self._running), _STOP_S)
            for flight in self._ended:
                flight.drop()
            keeper = self._keeper
            self._due_earlier.notify()
        if keeper is not None:
            keeper.join(_STOP_S)

    def _is_idle(self) -> bool:
        return not self._running and not self._queue and not self._untold

    # ----------------------------------------------------------------------------------------------- for flights (Desk)

    def cancel(self, flight: Flight, reason: Cancelled) -> None:
        with self._lock:
            self._cancel(flight, reason)
        self._announce()
        self.attend(flight)

    def _cancel(self, flight: Flight, reason: Cancelled) -> None:
        if flight.is_finished:
            return
        self._close_to_others(flight)
        if flight.cancel_reason is None:
            flight.cancel_reason = reason
        if flight.state == "queued":
            self._queue.discard(flight)
            self._settle(flight, reason)

    def _close_to_others(self, flight: Flight) -> None:
        """Let nobody join it from now on."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]

    def place(self, flight: Flight) -> int:
        with self._lock:
            if flight not in self._queue:
                return 0
            return next(place for place, other in enumerate(self._queue.in_order(), 1) if other is flight)

    def attend(self, flight: Flight) -> None:
        with self._lock:
            due = flight.due()
            if due is None or due >= self._attended_at:
                return
            if self._keeper is not None:
                self._due_earlier.notify()
            elif not self._is_draining:
                self._keeper = threading.Thread(target=self._keep, name="envmgr-operations", daemon=True)
                try:
                    self._keeper.start()
                except RuntimeError:  # no more threads now; the next call tries again
                    self._keeper = None

    # ------------------------------------------------------------------------------------------------ what happens when

    def tend(self) -> None:
        """Do what is due by the clock: cancel what nobody wants, give leases back, forget what ended long ago."""
        with self._lock:
            now = self._clock.monotonic()
            for flight in [flight for flight in self._flights.values() if flight.tend(now)]:
                if flight.id not in self._flights:
                    continue  # it had to make room for one of those before it
                if flight.is_finished:
                    self._ended.remove(flight)
                    self._forget(flight)
                else:
                    self._cancel(flight, Cancelled("nobody waited for it any more", is_by_daemon=True))
        self._announce()

    def _keep(self) -> None:
        while True:
            self.tend()
            with self._lock:
                self._attended_at = min(
                    (due for flight in self._flights.values() if (due := flight.due()) is not None), default=math.inf
                )
                if self._attended_at == math.inf or self._is_draining:
                    self._attended_at, self._keeper = math.inf, None
                    return
                self._due_earlier.wait(max(0.0, self._attended_at - self._clock.monotonic()))

    def _check_room(self, caller: Caller) -> None:
        max_running, max_waiting, max_waiting_per_caller = self._limits
        if len(self._running) < max_running:
            return
        waiting, own = len(self._queue), self._queue.waiting(identity(caller))
        retry_after_s = min(60.0, max(1.0, round(self._mean_s * (waiting + 1) / max_running)))
        if own >= max_waiting_per_caller:
            raise Busy(
                f"{own} operations of {caller.user} wait for their turn already",
                hint=f"ask again in {retry_after_s:g} s; setting max_waiting_per_user",
                retry_after_s=retry_after_s,
                setting="max_waiting_per_user",
            )
        if waiting >= max_waiting:
            raise Busy(
                f"{waiting} operations wait for their turn already",
                hint=f"ask again in {retry_after_s:g} s; setting max_waiting",
                retry_after_s=retry_after_s,
                setting="max_waiting",
            )

    def _launch(self) -> None:
        """Begin what may begin now; with the lock."""
        while len(self._running) < self._limits[0] and (flight := self._begin_next()) is not None:
            thread = threading.Thread(target=self._run, args=(flight,), name=f"envmgr-{flight.id}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._running.remove(flight)
                self._settle(flight, Busy("the daemon cannot start a thread now", hint="ask again", retry_after_s=5.0))

    def _begin_next(self) -> Flight | None:
        flight = self._queue.pop()
        if flight is not None:
            self._running.add(flight)
            flight.enter("running")
            self._news.append((flight, False))
        return flight

    def _run(self, flight: Flight | None) -> None:
        while flight is not None:
            begun = self._clock.monotonic()
            outcome = self._work(flight)
            while (then := self._settle_unless_more(flight, outcome)) is not None:
                outcome = self._then(flight, outcome, then)
            with self._lock:
                self._mean_s += (self._clock.monotonic() - begun - self._mean_s) / 8
                self._running.remove(flight)
                following = self._begin_next() if len(self._running) < self._limits[0] else None
                self._changed.notify_all()
            self._announce()
            self.attend(flight)
            flight = following

    def _work(self, flight: Flight) -> wire.Result | Leased | EnvmgrError:
        try:
            if flight.cancel_reason is not None:
                return flight.cancel_reason
            return flight.work(flight.report, lambda: flight.cancel_reason is not None)
        except EnvmgrError as error:
            return error
        except BaseException as error:  # noqa: BLE001 - whatever it is, the flight ends, and callers get an answer
            _log.exception("operation %s (%s %s) failed unexpectedly", flight.id, flight.kind, flight.name)
            return EnvmgrError(
                f"unexpected {type(error).__name__} during {flight.kind}", hint="the daemon's log has the details"
            )

    def _settle_unless_more(self, flight: Flight, outcome: wire.Result | Leased | EnvmgrError) -> Then | None:
        """End the flight, unless an asker who joined until now wants something done first."""
        with self._lock:
            then = None if isinstance(outcome, EnvmgrError) else flight.next_then()
            if then is None:
                self._settle(flight, outcome)
            return then

    def _then(self, flight: Flight, outcome: wire.Result | Leased | EnvmgrError, then: Then) -> (
        wire.Result | Leased | EnvmgrError
    ):  # fmt: skip
        try:
            then()
        except Exception as error:  # noqa: BLE001 - as for the work
            if not isinstance(error, EnvmgrError):
                _log.exception("operation %s (%s %s): what was to follow failed", flight.id, flight.kind, flight.name)
                error = EnvmgrError(f"unexpected {type(error).__name__} after {flight.kind}")
            with self._lock:
                is_alone = flight.has_one_asker
                if is_alone:  # nobody joins what will fail for somebody else's wish
                    self._close_to_others(flight)
            if is_alone:
                if isinstance(outcome, Leased):
                    outcome.lease.close()
                return error
            flight.report(Event("warning", "publish", error.message))
        return outcome

    def _settle(self, flight: Flight, outcome: wire.Result | Leased | EnvmgrError) -> None:
        """End a flight, with the lock."""
        self._close_to_others(flight)
        flight.settle(outcome)
        self._ended.append(flight)
        self._news.append((flight, True))
        self._untold += 1
        while len(self._ended) > MAX_KEPT or (
            len(self._ended) > 1 and sum(map(_kept_chars, self._ended)) > MAX_KEPT_CHARS
        ):
            self._forget(self._ended.popleft())

    def _forget(self, flight: Flight) -> None:
        flight.drop()
        del self._flights[flight.id]

    def _announce(self) -> None:
        """Wake the listeners of every flight that has news, and tell of those that ended; without the lock."""
        while True:
            with self._lock:
                if not self._news:
                    return
                flight, is_end = self._news.popleft()
            flight.wake()
            if is_end:
                self._tell_end(flight)

    def _tell_end(self, flight: Flight) -> None:
        for hear in self._hearers:
            try:
                hear(flight)
            except Exception:  # noqa: BLE001 - the operation has ended all the same
                _log.exception("telling the end of operation %s failed", flight.id)
        with self._lock:
            self._untold -= 1
            self._changed.notify_all()


def _kept_chars(flight: Flight) -> int:
    return len(flight.result.text) if isinstance(flight.result, wire.LockResult) else 0
