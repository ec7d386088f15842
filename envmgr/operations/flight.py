"""One operation: its state, who asked for it, who listens, its journal, and the lease of what it came to.

States: queued → running → succeeded, failed or cancelled; queued → cancelled. A state is left once and for all, and the
journal's last entry is the end. All fields change under one lock, which belongs to `envmgr.operations.Operations`;
listeners are woken without it.

**Unwanted.** An operation whose every asker said ``cancel_when_unwanted`` is cancelled when nobody listens any more:
not at once, but `RESUME_GRACE_S` after the last listener left (a broken stream can be resumed), and not before
`LISTEN_GRACE_S` have passed since the last one asked, if he has not listened yet.

**Handover.** The lease of a build that became ready is held until all who asked have listened and gone, at most for
`HANDOVER_S` after the end, so that whoever waited can take his own before a removal can. After that, `Flight.lease` may
come too late, and says so with ``None``.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from envmgr import ready
from envmgr.errors import Cancelled, EnvmgrError
from envmgr.events import Event, Phase, Reporter
from envmgr.operations.journal import Journal, JournalEntry
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from threading import RLock

    from envmgr.model import Caller
    from envmgr.names import EnvName
    from envmgr.ports import Clock

HANDOVER_S = 10.0
RESUME_GRACE_S = 2.0
LISTEN_GRACE_S = 10.0
KEPT_S = 600.0
_TRIM_S = 30.0
"""After the end; until then a reader whose stream broke gets all that was kept."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leased:
    """What an operation came to that made an environment ready; the operation closes the lease."""

    result: wire.EnsureResult
    lease: ready.Lease


Work = Callable[[Reporter, Callable[[], bool]], "wire.Result | Leased"]
"""What an operation does, in a thread: it reports progress, and raises `Cancelled` soon after it is asked to stop."""

Then = Callable[[], None]
"""What one asker wants done once it succeeded, before anybody hears of the end."""


def _nothing(_report: Reporter, _is_cancelled: Callable[[], bool]) -> Leased:
    raise Cancelled("it has ended")


def identity(caller: Caller) -> Hashable:
    """Return what makes two callers the same: the user of this host, or the token's name."""
    return caller.user if caller.uid is None else caller.uid


class Desk(Protocol):
    """What a flight asks of the one who runs it."""

    def cancel(self, flight: Flight, reason: Cancelled) -> None:
        """End it, with this error."""

    def place(self, flight: Flight) -> int:
        """Return its place in the queue, 1 for the next one, or 0."""

    def attend(self, flight: Flight) -> None:
        """Look again when something of it is due."""


class Flight:
    """See the module. Any thread may call the methods of the first part."""

    def __init__(
        self, kind: wire.Kind, key: Hashable, name: EnvName | None, caller: Caller, work: Work,
        *, request_id: str | None = None, desk: Desk, clock: Clock, lock: RLock,
    ) -> None:  # fmt: skip
        self.id = secrets.token_hex(8)
        self.kind: wire.Kind = kind
        self.key = key
        self.name = name
        self.by = caller
        self.request_id = request_id
        self.work = work
        self.phases_s: dict[Phase, float] = {}
        """How long each phase took so far, in seconds."""
        self.state: wire.OperationState = "queued"
        self.cancel_reason: Cancelled | None = None
        self.result: wire.Result | None = None
        self.error: EnvmgrError | None = None
        self._desk, self._clock, self._lock = desk, clock, lock
        self._journal = Journal(clock.monotonic)
        self._created_at = clock.time()
        self._started_at: float | None = None
        self._finished_at: float | None = None
        self._askers: dict[Hashable, Caller] = {}
        self._thens: list[Then] = []
        self._is_disposable = True
        self._unheard = 0
        self._heard_until = self._left_at = clock.monotonic()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._phases: dict[Phase, float] = {}
        self._ended = 0.0
        self._is_trimmed = False
        self._lease: ready.Lease | None = None
        self._leads_to: tuple[str, str] | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    def snapshot(self) -> wire.Operation:
        """Return the operation as it is now."""
        with self._lock:
            error = None if self.error is None else wire.Error(**self.error.to_json())  # type: ignore[arg-type]  # the same keys
            return wire.Operation(
                id=self.id,
                kind=self.kind,
                name=self.name,
                state=self.state,
                by=self.by.user,
                request_id=self.request_id,
                created_at=self._created_at,
                started_at=self._started_at,
                finished_at=self._finished_at,
                position=self._desk.place(self),
                phase=next(reversed(self._phases), None),
                waiters=len(self._listeners),
                result=self.result,
                error=error,
            )

    def since(self, event_id: int) -> tuple[JournalEntry, ...]:
        """Return the journal's entries behind this number; see `envmgr.operations.journal`."""
        with self._lock:
            return self._journal.since(event_id)

    def listen(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Count as a waiter until the returned function is called (again does nothing).

        `wake` is called after every new entry, from any thread, and must not block; it may still be called once by a
        thread that was about to when the listening ended. Listen first, then ask `since`: nothing is missed.
        """
        token = object()
        with self._lock:
            self._listeners[token] = wake
            self._unheard = max(0, self._unheard - 1)

        def stop() -> None:
            with self._lock:
                was_there = self._listeners.pop(token, None) is not None
                if was_there:
                    self._left_at = self._clock.monotonic()
                    if self.is_finished and not self._unheard:
                        self.release()
            if was_there:
                self._desk.attend(self)

        return stop

    def cancel(self, by: Caller) -> None:
        """Tell it to stop: at once while queued, soon while running; nothing happens when it has ended."""
        self._desk.cancel(self, Cancelled(f"{by.user} cancelled it"))

    def lease(self) -> ready.Lease | None:
        """Return a fresh lease, the caller's own, on the environment that an ``ensure`` made ready.

        ``None`` for every other operation, and where the environment was removed since. Never waits long within
        `HANDOVER_S` of the end; raises what `ready.acquire` raises.
        """
        return None if self._leads_to is None else ready.acquire(*self._leads_to)

    def is_only_of(self, caller: Caller) -> bool:
        """Tell whether nobody but this caller asked for it."""
        with self._lock:
            return set(self._askers) == {identity(caller)}

    def release(self) -> None:
        """Give the lease that is held for those who waited back before its time, unless somebody listens."""
        with self._lock:
            if not self._listeners:
                self._close_lease()

    # ------------------------------------------------------------------------ for `Operations`, which holds the lock

    def ask(self, caller: Caller, *, cancel_when_unwanted: bool, then: Then | None) -> None:
        """Count one more who wants it."""
        self._askers[identity(caller)] = caller
        self._is_disposable = self._is_disposable and cancel_when_unwanted
        self._unheard += 1
        self._heard_until = self._clock.monotonic() + LISTEN_GRACE_S
        if then is not None:
            self._thens.append(then)

    def enter(self, state: wire.OperationState) -> None:
        """Change the state to one that is not the end."""
        self.state = state
        if state == "running":
            self._started_at = self._clock.time()
        self._journal.add("state", dataclasses.asdict(self.snapshot()))

    def settle(self, outcome: wire.Result | Leased | EnvmgrError) -> None:
        """End it; what it holds of `outcome` goes when its time has come."""
        if isinstance(outcome, EnvmgrError):
            self.state = "cancelled" if isinstance(outcome, Cancelled) else "failed"
            if self.state == "cancelled" and self.cancel_reason is not None:
                outcome = self.cancel_reason
            # The frames of a traceback would be kept for as long as the operation is.
            self.error = outcome.with_traceback(None)
            self.error.__context__ = self.error.__cause__ = None
        else:
            self.state = "succeeded"
            if isinstance(outcome, Leased):
                self._lease = outcome.lease
                self._leads_to = outcome.lease.root, outcome.lease.name
                outcome = outcome.result
            self.result = outcome
        self._finished_at, self._ended = self._clock.time(), self._clock.monotonic()
        self._phases.clear()
        # What the work was to be done with may be large, and the operation is kept.
        self.work = _nothing
        self._thens.clear()
        self._journal.add("end", dataclasses.asdict(self.snapshot()))

    def next_then(self) -> Then | None:
        """Take what the next asker wants done."""
        return self._thens.pop(0) if self._thens else None

    @property
    def has_one_asker(self) -> bool:
        return len(self._askers) == 1

    def due(self) -> float | None:
        """Return when (monotonic) `tend` is to be called next, or ``None``."""
        if self.is_finished:
            moments = [self._ended + KEPT_S]
            if not self._is_trimmed:
                moments.append(self._ended + _TRIM_S)
            if self._lease is not None:
                moments.append(self._ended + HANDOVER_S)
            return min(moments)
        if self._listeners or not self._is_disposable or self.cancel_reason is not None:
            return None
        return max(self._left_at + RESUME_GRACE_S, self._heard_until if self._unheard else 0.0)

    def tend(self, now: float) -> bool:
        """Do what is due; tell whether its time is over: nobody wants it, or it ended long ago."""
        due = self.due()
        if due is None or now < due:
            return False
        if not self.is_finished:
            return True
        if now >= self._ended + HANDOVER_S:
            self._close_lease()
        if now >= self._ended + _TRIM_S:
            self._journal.trim()
            self._is_trimmed = True
        return now >= self._ended + KEPT_S

    def _close_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()

    def drop(self) -> None:
        """Be forgotten."""
        self._close_lease()

    # --------------------------------------------------------------------------------- for `Operations`, without it

    def report(self, event: Event) -> None:
        """Be the reporter of the work."""
        with self._lock:
            if self.state != "running":
                return
            now = self._clock.monotonic()
            if event.kind == "begin":
                self._phases.setdefault(event.phase, now)
            elif event.kind == "end" and event.phase in self._phases:
                took_s = now - self._phases.pop(event.phase)
                self.phases_s[event.phase] = self.phases_s.get(event.phase, 0.0) + took_s
            is_new = self._journal.report(event)
        if is_new:
            self.wake()

    def wake(self) -> None:
        """Wake everybody who listens."""
        with self._lock:
            wakes = tuple(self._listeners.values())
        for wake in wakes:
            try:
                wake()
            except Exception:  # noqa: BLE001 - a listener's fault must not end what others wait for
                _log.exception("a listener of operation %s failed", self.id)
