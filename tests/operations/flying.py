"""Work that a test holds at exact points, and what it asks of operations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from fakes.processes import LIMIT_S

from envmgr.errors import Cancelled
from envmgr.events import Reporter
from envmgr.model import Caller
from envmgr.names import EnvName
from envmgr.operations import Flight, Operations, Work
from envmgr.wire import socket as wire

ANN = Caller("ann", "use", uid=1001, pid=1)
BEN = Caller("ben", "use", uid=1002, pid=2)
ROOT = Caller("root", "admin", uid=0, pid=3)
NAME = EnvName("env-0123456789abcdef")
DONE = wire.LockResult(name=NAME, lock_digest="0" * 64, text="x")


def done(_report: Reporter, _is_cancelled: Callable[[], bool]) -> wire.Result:
    return DONE


@dataclass
class Held:
    """Work that says that it has begun, stands still, and stops when it is told to, unless it is deaf."""

    is_deaf: bool = False
    result: wire.Result = DONE
    error: BaseException | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    report: Reporter | None = None

    def __call__(self, report: Reporter, is_cancelled: Callable[[], bool]) -> wire.Result:
        self.report = report
        self.begun.set()
        while not self.go.wait(0.005):
            if is_cancelled() and not self.is_deaf:
                raise Cancelled("told to stop")
        if self.error is not None:
            raise self.error
        return self.result

    def wait_begun(self) -> None:
        assert self.begun.wait(LIMIT_S)


def submit(
    operations: Operations, work: Work = done, *, key: object = "key", caller: Caller = ANN, unwanted: bool = False,
    then: Callable[[], None] | None = None,
) -> Flight:  # fmt: skip
    return operations.submit("lock", key, NAME, caller, work, cancel_when_unwanted=unwanted, then=then)


def ended(flight: Flight) -> wire.Operation:
    """Wait for a flight's end and return it."""
    bell = threading.Event()
    stop = flight.listen(bell.set)
    while not flight.is_finished:
        assert bell.wait(LIMIT_S)
        bell.clear()
    stop()
    return flight.snapshot()
