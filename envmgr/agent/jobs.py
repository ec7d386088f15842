"""What the agent has going: one thread for each environment that is worked on, and how far it is.

A job's thread writes its own fields and wakes the agent at its end; the agent's thread reads them, and takes jobs that
ended. How many there are at a time is decided by who starts them (`envmgr.agent.reconcile`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from envmgr.errors import Busy, EnvmgrError

if TYPE_CHECKING:
    from envmgr.events import Event, Phase
    from envmgr.names import EnvName

Kind = Literal["make", "align", "remove"]

_WEIGHTS: Mapping[Phase, int] = {
    "solve": 10, "fetch": 30, "unpack": 10, "link": 15, "pip-lock": 5, "pip": 15, "compile": 5, "check": 5, "sync": 3,
    "publish": 2,
}  # fmt: skip
"""About how much of a build each phase is; 100 in all."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """One try at what is to be done with an environment; `generation`, … are those of the intent that it is for.

    `is_waiting`: for its turn in a rollout, or for another process or host that is busy with the same. `places` are so
    many as that rollout has, 0: it needs no turn; `is_recalled`: what still waits for its turn is not to begin.
    """

    name: EnvName
    kind: Kind
    generation: int = 0
    lock_generation: int = 0
    retries: int = 0
    places: int = 0
    is_waiting: bool = False
    is_recalled: bool = False
    is_unwanted: bool = False
    is_done: bool = False
    error: EnvmgrError | None = None
    phase: str = ""
    percent: int = 0
    _ended: set[Phase] = field(default_factory=set)

    def is_cancelled(self) -> bool:
        """Tell whether it is to stop."""
        return self.is_unwanted

    def is_called_back(self) -> bool:
        """Tell whether it is to wait for its turn no longer."""
        return self.is_unwanted or self.is_recalled

    def hear(self, event: Event) -> None:
        """Be the reporter of the work."""
        if event.phase == "wait":
            self.is_waiting = event.kind != "end"
            return
        if event.kind == "end":
            self._ended.add(event.phase)
        elif event.kind in ("begin", "progress"):
            self.phase = event.phase
        part = event.done / event.total if event.kind == "progress" and event.total > 0 else 0.0
        done = sum(_WEIGHTS.get(phase, 0) for phase in self._ended) + _WEIGHTS.get(event.phase, 0) * min(1.0, part)
        self.percent = max(self.percent, min(99, int(done)))


class Jobs(Protocol):
    """Runs jobs; the fake in the tests runs them when it is told to."""

    def start(self, job: Job, work: Callable[[], None]) -> None:
        """Do the work; `Job.is_done` and `Job.error` say when and how it ended."""


class Threads:
    """A thread for each job."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def start(self, job: Job, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._run, args=(job, work), name=f"agent-{job.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads now
            job.error = Busy("the daemon cannot start a thread now", retry_after_s=10.0)
            job.is_done = True

    def _run(self, job: Job, work: Callable[[], None]) -> None:
        job.error = attempt(job, work)
        job.is_done = True
        self._wake()


def attempt(job: Job, work: Callable[[], None]) -> EnvmgrError | None:
    """Do the work of a job and return how it failed."""
    try:
        work()
    except EnvmgrError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever it was, the host says that it failed, and tries again
        _log.exception("agent: %s of %s failed unexpectedly", job.kind, job.name)
        return EnvmgrError(
            f"unexpected {type(error).__name__} during {job.kind}", hint="the log of the host's daemon has the details"
        )
    return None
