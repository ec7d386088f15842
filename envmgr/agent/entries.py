"""One environment as the agent keeps it from pass to pass, and what of that is shown.

The status changes only when something happened: a time that was told once stays, since what changes all the time is
written to ZooKeeper all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envmgr.errors import EnvmgrError, NoSpace, UnsuitableFilesystem
from envmgr.settings.redact import redact
from envmgr.wire.tree import EnvironmentStatus, EnvState

if TYPE_CHECKING:
    from envmgr.agent.jobs import Job, Kind
    from envmgr.model import LockInForce
    from envmgr.names import EnvName
    from envmgr.ports import Clock

_LONGEST_MESSAGE = 1000
_PASSING = (NoSpace, UnsuitableFilesystem)
"""Permanent for who asks, but not for a host: its disk is collected; of the hosts of a shared store one has just gone
down, whose lock looks as if it did not exclude, or one comes that shows that locks hold."""


@dataclass(slots=True)
class Failed:
    """How the last try ended; it counts for this request for tries and this generation of lockfiles.

    `retry_at` is by the monotonic clock, `shown_retry_at` the same moment in UTC seconds; ``None``: not without being
    asked.
    """

    error: EnvmgrError
    is_of: Kind
    attempts: int
    retries: int
    lock_generation: int
    retry_at: float | None
    shown_retry_at: float | None

    def is_of_other(self, retries: int, lock_generation: int | None = None) -> bool:
        """Tell whether an administrator asked for another try since; after an import the numbers may be lower."""
        return retries != self.retries or lock_generation not in (None, self.lock_generation)

    def may_try(self, clock: Clock, *, retries: int, lock_generation: int | None = None) -> bool:
        """Tell whether it is time, or an administrator asked, for another try."""
        if self.is_of_other(retries, lock_generation):
            return True
        return self.retry_at is not None and clock.monotonic() >= self.retry_at


@dataclass(slots=True)
class Entry:
    """What is going on with one environment.

    `theirs` is the cluster's lockfile, asked for `compared`: the build, and all that can have changed it.
    `aligned_for` is the same when it was brought in line, or that was tried.
    """

    status: EnvironmentStatus
    job: Job | None = None
    failed: Failed | None = None
    compared: tuple[object, ...] | None = None
    theirs: LockInForce | None = None
    aligned_for: tuple[object, ...] | None = None

    def begin(self, job: Job, clock: Clock) -> None:
        """Note that something was begun."""
        attempts = self.failed.attempts if self.failed else 0
        self.status = replace(
            self.status, started_at=clock.time(), finished_at=None, attempts=attempts + 1, retry_at=None
        )
        self.job = job

    def fail(self, job: Job, error: EnvmgrError, clock: Clock, back_off_s: Callable[[int], float]) -> None:
        """Note how a try failed, and when there may be another one."""
        attempts = self.status.attempts
        # What this host remembered of an earlier try was no try; what the cluster remembers names the host.
        is_untried = error.fields.get("is_repeated") is True and "host" not in error.fields
        is_passing = error.is_transient or isinstance(error, _PASSING) or is_untried
        pause_s = back_off_s(attempts) if is_passing else None
        self.failed = Failed(
            error,
            job.kind,
            attempts,
            job.retries,
            job.lock_generation,
            None if pause_s is None else clock.monotonic() + pause_s,
            None if pause_s is None else clock.time() + pause_s,
        )

    def differs(self, lock_digest: str) -> bool:
        """Tell whether the cluster has a lockfile, and it is not this one."""
        return self.theirs is not None and self.theirs.digest != lock_digest

    def show_ready(self, generation: int, lock_digest: str | None, lock_generation: int, clock: Clock) -> None:
        """Show that it is there, and whether it is the cluster's lockfile that it was made from."""
        is_drift = lock_digest is not None and self.differs(lock_digest)
        if self.status.finished_at is None:
            self.status = replace(self.status, finished_at=clock.time())
        self.status = replace(
            self.status, state="ready", generation=generation, lock_digest=lock_digest, is_drift=is_drift,
            lock_generation=0 if is_drift else lock_generation, error=None, retry_at=None,
        )  # fmt: skip

    def show(self, generation: int, state: EnvState, lock_digest: str | None) -> None:
        """Show what is done about it, or that it failed."""
        self.status = replace(self.status, state=state, generation=generation, lock_digest=lock_digest)
        if state == "failed" and self.failed is not None:
            failed = self.failed
            self.status = replace(
                self.status, error=_shown(failed.error), attempts=failed.attempts, retry_at=failed.shown_retry_at
            )
        else:
            self.status = replace(self.status, error=None, retry_at=None)


def pending(name: EnvName, job: Job | None = None) -> Entry:
    """Return the entry of an environment that was just heard of."""
    return Entry(EnvironmentStatus(name=name, state="pending"), job)


def _shown(error: EnvmgrError) -> Mapping[str, object]:
    """Return an error as the status has it: without what makes it long."""
    document = error.to_json()
    for key in ("message", "hint"):  # whoever reads the tree reads them
        words = document[key]
        if isinstance(words, str):
            shown = redact(words[: 2 * _LONGEST_MESSAGE])
            document[key] = shown if len(shown) <= _LONGEST_MESSAGE else shown[:_LONGEST_MESSAGE] + "…"
    document["fields"] = {}
    return document
