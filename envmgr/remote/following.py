"""An operation of the daemon, from the request to its end, over connections that break.

States of the one who follows: *asking* (the request is not accepted yet: the daemon is absent, drains, or has too much
to do) → *listening* (events come) → the end. A connection that breaks leads back to listening, behind the last event
that came; an operation that the daemon does not know any more (it was restarted) leads back to asking. Nothing is lost
by asking again: what was finished is there, what was not is begun anew.

What is not promised: that an operation was not done when `DaemonUnavailable` is raised. It may go on in a daemon that
cannot be heard, and asking again finds its result.
"""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envmgr import codec, errors
from envmgr.errors import Busy, DaemonUnavailable, EnvironmentNotFound, EnvmgrError
from envmgr.events import Event, Reporter
from envmgr.remote import connection as connections
from envmgr.remote import events
from envmgr.remote.connection import Connection, Patience, load, unavailable, with_records
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.ports import Deadline
    from envmgr.remote.events import Entry

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_MOMENT_S = 0.5
_RESTARTS = 3
"""So often a request is made again after a daemon forgot it: one that kills its daemon must not do so for ever."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a request came to, and the connection over which the daemon holds the lease of it until it is closed.

    One of the last three is there: what was ready already, an operation's result, or its error. `request_id` is that of
    the request for which the operation was begun.
    """

    connection: Connection
    request_id: str | None = None
    ready: wire.Ready | None = None
    result: wire.Result | None = None
    error: errors.EnvmgrError | None = None


class Following:
    """One request that takes a while; `end` does all of it.

    It is the `envmgr.ports.Deadline` of its connections itself: while they wait, it is asked every now and then, and
    says that we wait for a place in the queue when that takes longer than a moment.
    """

    def __init__(
        self, path: str, target: str, request: object, *, limit: Deadline, report: Reporter, patience: Patience
    ) -> None:
        self._path = path
        self._target = target
        self._request = request
        self._limit = limit
        self._report = report
        self._patience = patience
        self._operation: str | None = None
        self._last_id = 0
        self._restarts = 0
        self._broken_until: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._is_waiting = False
        self._queued_since: float | None = None

    def check(self) -> None:
        self._limit.check()
        if self._queued_since is not None and time.monotonic() - self._queued_since > _MOMENT_S:
            self._tell_waiting("waiting for what the daemon was asked for before")

    def remaining_s(self) -> float | None:
        return self._limit.remaining_s()

    def end(self) -> Ended:
        """Ask, and follow what was begun to its end; the caller closes the connection of what is returned.

        Raises the operation's error, what the limit raises, and `DaemonUnavailable` when the daemon cannot be heard
        for longer than it is waited for.
        """
        try:
            while True:
                try:
                    ended = self._try()
                except Busy as error:
                    self._wait_for_a_place(error)
                except DaemonUnavailable as error:
                    self._mend(error)
                else:
                    if ended is not None and ended.error is not None:
                        ended.connection.close()
                        raise ended.error
                    if ended is not None:
                        return ended
        finally:
            self._tell_waiting(None)

    def _try(self) -> Ended | None:
        """Go on from where we are over one connection; ``None`` when the operation is to be asked for again."""
        connection = Connection(self._path, limit=self, patience=self._patience_now())
        try:
            ended = self._ask(connection) if self._operation is None else None
            ended = ended or self._listen(connection)
            if ended is None:
                connection.close()
            return ended
        except BaseException:
            connection.close()
            raise

    # --------------------------------------------------------------------------------------------------------- asking

    def _ask(self, connection: Connection) -> Ended | None:
        """Make the request; return what is ready already."""
        data = connection.ask("POST", self._target, self._request)
        self._is_well()
        if data.get("ready") is not None:
            return Ended(connection, ready=load(self._path, wire.Ready, data["ready"]))
        self._take_state(self._operation_of(data.get("operation")))
        return None

    def _wait_for_a_place(self, error: Busy) -> None:
        """Wait as long as the daemon asks for, unless the caller's time is over before that."""
        wish = error.fields.get("retry_after_s")
        pause_s = min(max(float(wish), 0.1), 60.0) if isinstance(wish, (int, float)) else 1.0
        left_s = self._limit.remaining_s()
        if left_s is not None and left_s <= pause_s:
            raise error
        self._is_well()
        self._tell_waiting("waiting for the daemon, which has as much to do as it may")
        # With jitter, or all that were told the same would come at the same moment.
        self._pause(pause_s * random.uniform(1.0, 1.25))  # noqa: S311 - no secret

    # ------------------------------------------------------------------------------------------------------ listening

    def _listen(self, connection: Connection) -> Ended | None:
        """Take the events up to the end; ``None`` when the operation is to be asked for again."""
        target = f"{wire.PREFIX}/operations/{self._operation}/events"
        try:
            for entry in events.read(connection, target, self._last_id):
                self._is_well()
                self._last_id = entry.id
                if entry.kind == "end":
                    return self._ended(connection, entry)
                self._take(entry)
        except EnvironmentNotFound:
            self._ask_again()
            return None
        raise unavailable(self._path, "broke the connection off")

    def _take(self, entry: Entry) -> None:
        if entry.kind == "state":
            self._take_state(self._operation_of(entry.data))
        elif entry.kind == "progress":
            self._tell_waiting(None)
            with contextlib.suppress(ValueError):  # a newer daemon's phase: it is for eyes only
                self._report(codec.load(Event, entry.data))

    def _take_state(self, operation: wire.Operation) -> None:
        self._operation = operation.id
        if operation.state == "queued":
            self._queued_since = self._queued_since or time.monotonic()
        else:
            self._queued_since = None
            self._tell_waiting(None)

    def _ended(self, connection: Connection, entry: Entry) -> Ended | None:
        operation = self._operation_of(entry.data)
        # It is nobody's wish: we were not heard for too long, or the daemon stops, and the next one will do it.
        if operation.state == "cancelled" and (_is_by_daemon(operation) or self._is_stopping()):
            self._ask_again()
            return None
        if operation.error is not None:
            return Ended(connection, error=with_records(errors.from_json(entry.data["error"])))
        result = load(self._path, wire.RESULTS[operation.kind], entry.data.get("result"))
        return Ended(connection, operation.request_id, result=result)

    def _is_stopping(self) -> bool:
        try:
            with Connection(self._path, limit=self, patience=self._patience, is_patient=False) as connection:
                return connection.ask("GET", f"{wire.PREFIX}/health/ready").get("status") != "ok"
        except DaemonUnavailable:
            return True

    def _ask_again(self) -> None:
        """Begin anew, since nobody knows the operation any more."""
        self._operation, self._last_id, self._queued_since = None, 0, None
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise EnvmgrError(
                f"the daemon at {self._path} lost this request {self._restarts} times",
                hint="its log says why it was restarted; the request itself may be what ends it",
            )

    def _operation_of(self, document: Any) -> wire.Operation:
        if not isinstance(document, dict):
            raise unavailable(self._path, "answered without an operation")
        return load(self._path, wire.Operation, {**document, "result": None})

    # -------------------------------------------------------------------------------------------------------- waiting

    def _tell_waiting(self, message: str | None) -> None:
        """Say once that we wait, and once that it is over (``None``)."""
        if message is not None and not self._is_waiting:
            self._is_waiting = True
            self._report(Event("begin", "wait", message))
        elif message is None and self._is_waiting:
            self._is_waiting = False
            self._report(Event("end", "wait"))

    def _mend(self, error: DaemonUnavailable) -> None:
        """Wait a little before the next try; raise `error` when there were tries enough."""
        now = time.monotonic()
        if self._broken_until is None:
            self._broken_until = now + self._patience.reconnect_s
        if now >= self._broken_until:
            raise error
        self._pause(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
        self._pause_s = min(self._pause_s * 1.5, _LONGEST_PAUSE_S)

    def _is_well(self) -> None:
        self._broken_until = None
        self._pause_s = _FIRST_PAUSE_S

    def _patience_now(self) -> Patience:
        """Return what a try may take: after a break, no longer than is left for coming back."""
        if self._broken_until is None:
            return self._patience
        left_s = max(self._broken_until - time.monotonic(), 2 * connections.POLL_S)
        asked = self._patience
        return Patience(min(asked.connect_s, left_s), min(asked.answer_s, left_s), asked.silence_s, left_s)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._limit.check()
            remaining_s = self._limit.remaining_s()
            time.sleep(min(left_s, connections.POLL_S, left_s if remaining_s is None else remaining_s + 0.001))


def _is_by_daemon(operation: wire.Operation) -> bool:
    return operation.error is not None and operation.error.fields.get("is_by_daemon") is True
