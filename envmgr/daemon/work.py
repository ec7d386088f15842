"""What operations do, in their threads: the manager's slow verbs, with results as they cross the socket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from envmgr import lockfile
from envmgr.daemon import answers
from envmgr.errors import TimedOut
from envmgr.events import Reporter
from envmgr.manager.collection import Limits
from envmgr.operations import Leased, Work
from envmgr.store import records
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from collections.abc import Collection

    from envmgr.manager.manager import Manager
    from envmgr.model import Spec
    from envmgr.names import EnvName

IsCancelled = Callable[[], bool]


@contextlib.contextmanager
def _limited(manager: Manager) -> Iterator[float | None]:
    """Yield how long (seconds) the settings let a build take, ``None`` without a limit; say so when it took longer."""
    limit_s = manager.context.settings.max_build_s or None
    try:
        yield limit_s
    except TimedOut as error:
        if error.fields.get("timeout_s") != limit_s:
            raise  # somebody else's patience
        raise TimedOut(
            f"not done within {limit_s} s, the longest that a build may take in this daemon",
            hint="setting max_build_s",
            setting="max_build_s",
        ) from error


def ensuring(manager: Manager, spec: Spec, lock_text: str | None, text: bytes | None, creator: int) -> Work:
    """Have `spec` ready; note whom it was built for, and the name of the document `text`."""

    def work(report: Reporter, is_cancelled: IsCancelled) -> Leased:
        with _limited(manager) as limit_s:
            ensured = manager.ensure(
                spec, lock_text=lock_text, timeout_s=limit_s, is_cancelled=is_cancelled, report=report
            )
        # The environment is there, whatever the disk has left for notes about it.
        with contextlib.suppress(OSError):
            if ensured.was_built:
                records.write_creator(manager.context.layout, spec.name, creator, manager.context.clock.time())
            if text is not None and not spec.has_includes:
                manager.remember_text(text, spec.name)
        is_ready = answers.ready(ensured.lease)
        result = wire.EnsureResult(ready=is_ready, was_built=ensured.was_built, duration_s=ensured.duration_s)
        return Leased(result, ensured.lease)

    return work


def locking(manager: Manager, spec: Spec) -> Work:
    """Find the lockfile of `spec`."""

    def work(report: Reporter, is_cancelled: IsCancelled) -> wire.LockResult:
        with _limited(manager) as limit_s:
            text = manager.lock(spec, timeout_s=limit_s, is_cancelled=is_cancelled, report=report)
        digest = lockfile.parse(text, manager.context.settings.subdir).digest
        return wire.LockResult(name=spec.name, lock_digest=digest, text=text)

    return work


def relocking(manager: Manager, name: EnvName, exclude_newer: str | None) -> Work:
    """Solve again and republish."""

    def work(report: Reporter, is_cancelled: IsCancelled) -> wire.ReplaceResult:
        with _limited(manager) as limit_s:
            found = manager.relock(
                name, exclude_newer=exclude_newer, timeout_s=limit_s, is_cancelled=is_cancelled, report=report
            )
        return answers.replaced(found)

    return work


def aligning(manager: Manager, name: EnvName) -> Work:
    """Bring what is published to the cluster's lockfile in force."""

    def work(report: Reporter, is_cancelled: IsCancelled) -> wire.ReplaceResult:
        with _limited(manager) as limit_s:
            return answers.replaced(manager.align(name, timeout_s=limit_s, is_cancelled=is_cancelled, report=report))

    return work


def repairing(manager: Manager, name: EnvName) -> Work:
    """Build the same packages again and republish."""

    def work(report: Reporter, is_cancelled: IsCancelled) -> wire.ReplaceResult:
        with _limited(manager) as limit_s:
            return answers.replaced(manager.repair(name, timeout_s=limit_s, is_cancelled=is_cancelled, report=report))

    return work


def collecting(manager: Manager, request: wire.CollectRequest, protected: Callable[[], Collection[EnvName]]) -> Work:
    """Free what no environment needs and what the limits say, but not the environments that `protected` tells of."""
    limits = Limits(request.max_age_s, request.max_total_bytes, request.min_age_s)

    def work(report: Reporter, is_cancelled: IsCancelled) -> wire.CollectResult:
        found = manager.collect(
            dry_run=request.dry_run, limits=limits, protected=protected(), is_cancelled=is_cancelled, report=report
        )
        return wire.CollectResult(dry_run=request.dry_run, collected=tuple(map(answers.collected, found)))

    return work
