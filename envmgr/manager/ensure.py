"""ensure: from a spec to a leased, whole environment, built once however many ask.

The look comes before the lock, so that a ready environment costs no lock; the look after the lock is the one that
decides. Between two tries to get the lock, a waiter looks at the name itself, so most waiters never take the lock. A
failure that happened while a caller waited is that caller's result, too; otherwise every waiter would repeat it, one
after the other.

Order of durable writes of a build: directory, lease, spec, (the builder's files, the lockfile in force), everything
synced, record, publication. A crash before the publication leaves an unpublished build whose lease is free, which the
next arrival sweeps; or whose lease is not free yet, since a killed caller's builder dies a moment after the build lock
is free. So there is a sweep after the publication, too: nobody would come by for that build again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr import fsio, lockfile, policy, ready
from envmgr.errors import ClaimLost, EnvmgrError, LockfileMismatch, NameCollision, NoSpace
from envmgr.events import Reporter
from envmgr.fsio import Step
from envmgr.manager import agreement, claims, failures, requests
from envmgr.manager.context import Context, free_space
from envmgr.manager.waiting import Pauses, TimeLimit, told_to_wait
from envmgr.model import Failure, Record, Spec
from envmgr.store import locks, opening, publication, records, sweep
from envmgr.version import __version__

if TYPE_CHECKING:
    from envmgr.ports import Claim, Deadline
    from envmgr.ready import Lease
    from envmgr.wire.pipe import BuildResult


@dataclass(frozen=True, slots=True)
class Ensured:
    """A leased environment, and whether this very call built it."""

    lease: Lease
    was_built: bool
    duration_s: float


def ensure(
    context: Context,
    spec: Spec,
    *,
    limit: TimeLimit,
    report: Reporter,
    lock_text: str | None = None,
    retry: bool = False,
) -> Ensured:
    """Return the environment of `spec`, leased; build it if it is not there.

    With `lock_text`, exactly that conda-lock.yml is built, or `LockfileMismatch` raised when the environment that is
    there differs. With `retry`, a remembered failure is cleared first. Blocks for as long as `limit` allows.
    """
    started = context.clock.monotonic()
    policy.check(spec, context.settings)
    if retry:
        records.clear_failure(context.layout, spec.name)
    before = records.read_failure(context.layout, spec.name)
    with contextlib.ExitStack() as waiting:
        pauses: Pauses | None = None
        while True:
            lease = ready.acquire(context.root, spec.name)
            if lease is not None:
                check_found(context, spec, lease, lock_text)
                return Ensured(lease, was_built=False, duration_s=context.clock.monotonic() - started)
            with locks.try_lock(context.layout, spec.name) as is_held:
                if is_held:
                    waiting.close()
                    ensured = _under_lock(context, spec, lock_text, limit, report, before, is_retry=retry)
                    return Ensured(*ensured, duration_s=context.clock.monotonic() - started)
            if pauses is None:
                pauses = Pauses(context.clock, limit)
                waiting.enter_context(told_to_wait(context, spec.name, report))
            pauses.pause()


def check_found(context: Context, spec: Spec, lease: Lease, lock_text: str | None) -> None:
    """Make sure that what is published under the name is what was asked for; closes the lease if it is not."""
    try:
        digest, lock_digest = records.read_digests(context.layout, lease.name, lease.build_id)
        if digest != spec.digest:
            raise NameCollision(
                f"{spec.name} is the environment of another spec: its digest is {digest}, not {spec.digest}",
                hint="change the spec in any way that changes its digest",
            )
        if lock_text is not None:
            given = lockfile.parse(lock_text, context.settings.subdir)
            if given.digest != lock_digest:
                raise LockfileMismatch(
                    f"{spec.name} was built from lockfile {lock_digest[:16]}, not from {given.digest[:16]}",
                    hint="envmgr lock prints the one in force; after remove --forget another can be built",
                )
    except BaseException:
        lease.close()
        raise


def _under_lock(
    context: Context,
    spec: Spec,
    lock_text: str | None,
    limit: Deadline,
    report: Reporter,
    before: Failure | None,
    *,
    is_retry: bool,
) -> tuple[Lease, bool]:
    lease = ready.acquire(context.root, spec.name)
    if lease is None:
        with claims.building(context, spec.name, limit, report) as claim:
            if claim is not None:  # on a shared store, another host may have been faster
                lease = ready.acquire(context.root, spec.name)
            if lease is None:
                failures.raise_known(context, spec.name, before)
                claims.sweep(context, spec.digest)
                make = _made if lock_text is None else functools.partial(_made_from, lock_text)
                return make(context, spec, claim, limit, report, is_retry=is_retry)
    check_found(context, spec, lease, lock_text)
    return lease, False


def _made(
    context: Context, spec: Spec, claim: Claim | None, limit: Deadline, report: Reporter, *, is_retry: bool
) -> tuple[Lease, bool]:
    """Build and publish from the lockfile in force, or from one that is solved now.

    A lockfile that was solved is in force at once, so that a second try installs the same.
    """

    def do(text: str | None, limit: Deadline, report: Reporter, on_locked: requests.OnLocked) -> Lease:
        return build(context, spec, text, limit=limit, report=report, on_locked=on_locked)

    lease = agreement.settle(context, spec, do, limit=limit, report=report, is_retry=is_retry)
    return _published(context, spec, lease, claim, None)


def _made_from(
    lock_text: str,
    context: Context,
    spec: Spec,
    claim: Claim | None,
    limit: Deadline,
    report: Reporter,
    *,
    is_retry: bool,  # noqa: ARG001 - what was not solved cannot have failed to be
) -> tuple[Lease, bool]:
    """Build and publish from a lockfile that a caller brought.

    It has to prove first that it can be built, before it is in force: its failure is that caller's alone.
    """

    def check(in_force: str | None) -> None:
        check_given(context, spec, lock_text, in_force)

    with agreement.proposing(context, spec, check, limit, report) as proposal:
        lease = build(
            context, spec, lock_text, limit=proposal.limit, report=proposal.report, is_shared=False,
            on_locked=lambda _text: None,
        )  # fmt: skip
        return _published(context, spec, lease, claim, lock_text, lambda: proposal.put_in_force(lock_text))


def _published(
    context: Context,
    spec: Spec,
    lease: Lease,
    claim: Claim | None,
    lock_text: str | None,
    before: Callable[[], None] = lambda: None,
) -> tuple[Lease, bool]:
    """Publish a finished build, after `before`; tell whether it was this one that got the name."""
    try:
        before()
        claims.check(context, claim)
        if publication.publish(context.layout, spec.name, lease.build_id):
            records.clear_failure(context.layout, spec.name)
            with contextlib.suppress(OSError):  # the environment is there; gc takes what is left
                claims.sweep(context, spec.digest)
            return lease, True
    except BaseException as error:
        # A foreign thing stands there, the disk is full, the claim is lost. Discarding takes no build that was
        # published after all.
        lease.close()
        with contextlib.suppress(OSError):
            sweep.discard(context.layout, lease.build_id)
        if isinstance(error, ClaimLost):
            failures.remember(context, spec.name, error)
        raise
    # Only a writer that ignores the build lock can have been faster. Its environment is as whole as ours: adopt it.
    lease.close()
    sweep.discard(context.layout, lease.build_id)
    winner = ready.acquire(context.root, spec.name)
    if winner is None:
        raise EnvmgrError(f"{spec.name} was published and taken away while it was built", hint="try again")
    check_found(context, spec, winner, lock_text)
    return winner, False


def lockfile_in_force(context: Context, spec: Spec) -> str | None:
    """Return the lockfile that every build of this name on this machine class installs, or ``None`` to solve."""
    if spec.is_lockfile:
        return spec.source_text
    return records.read_lockfile(context.layout, spec.name, context.settings.machine_class)


def check_given(context: Context, spec: Spec, lock_text: str, in_force: str | None) -> None:
    """Raise `LockfileMismatch` unless a lockfile that a caller brings equals the one in force and fits the spec.

    Whether versions and builds meet the spec's MatchSpecs is checked in the builder, where the solver's parser lives.
    """
    given = lockfile.parse(lock_text, context.settings.subdir)
    if in_force is not None:
        digest = lockfile.parse(in_force, context.settings.subdir).digest
        if digest != given.digest:
            raise LockfileMismatch(
                f"the given lockfile ({given.digest[:16]}) is not the one in force for {spec.name} ({digest[:16]})",
                hint="envmgr lock prints the one in force; after remove --forget another can be built",
            )
    policy.check_packages(given.packages, context.settings)
    unmet = lockfile.compare(context.settings.conda(spec), context.settings.pip(spec), given).unmet
    if unmet:
        raise lockfile.mismatch(unmet)


def build(
    context: Context,
    spec: Spec,
    lock_text: str | None,
    *,
    limit: Deadline,
    report: Reporter,
    on_locked: requests.OnLocked,
    changes: requests.Changes = requests.ORDINARY,
    is_shared: bool = True,
) -> Lease:
    """Make one finished, recorded, unpublished build under the name's build lock, and return it leased.

    On any failure nothing of it is left, and one that is everybody's (`is_shared`) is remembered with the log's end.
    """
    check_space(context)
    begun_at, begun = context.clock.time(), context.clock.monotonic()
    records.write_spec(context.layout, spec)
    lease = sweep.begin_build(context.layout, spec.name, spec.digest)
    paths = context.layout.build(lease.build_id)
    try:
        fsio.write_file(Step.SPEC, paths.spec, spec.source_text.encode())
        request = requests.build_request(context, spec, lease, lock_text, changes)
        result = context.backend.build(
            request, lease_fd=lease.fileno(), deadline=limit, report=report, on_locked=on_locked
        )
        record = _record(context, spec, lease, result, begun_at, context.clock.monotonic() - begun)
        records.write_record(context.layout, record)
    except BaseException as error:
        log = failures.tail(paths.log)
        lease.close()
        with contextlib.suppress(OSError):  # a full file system: the next sweep takes it, and the first error counts
            sweep.discard(context.layout, lease.build_id)
        translated = opening.translate(error, context.layout.root) if isinstance(error, OSError) else error
        if is_shared:
            failures.remember(context, spec.name, translated, log)
        if translated is error:
            raise
        raise translated from error
    return lease


def check_space(context: Context) -> None:
    """Raise `NoSpace` when less is free than the settings ask for before a build."""
    free_bytes, free_inodes = free_space(context.layout.root)
    settings = context.settings
    if free_bytes < settings.min_free_bytes:
        raise NoSpace(
            f"{free_bytes / 2**20:.0f} MiB are free for {context.layout.root}, a build wants "
            f"{settings.min_free_bytes / 2**20:.0f} MiB",
            hint="envmgr gc frees what no environment needs; setting min_free_bytes",
        )
    if free_inodes is not None and free_inodes < settings.min_free_inodes:
        raise NoSpace(
            f"{free_inodes} inodes are free for {context.layout.root}, a build wants {settings.min_free_inodes}",
            hint="envmgr gc frees what no environment needs; setting min_free_inodes",
        )


def _record(
    context: Context, spec: Spec, lease: Lease, result: BuildResult, begun_at: float, duration_s: float
) -> Record:
    return Record(
        format=records.RECORD_FORMAT,
        name=spec.name,
        build_id=lease.build_id,
        digest=spec.digest,
        lock_digest=result.lock_digest,
        machine_class=context.settings.machine_class,
        label=spec.label,
        created_at=begun_at,
        duration_s=duration_s,
        phases_s=dict(result.phases_s),
        envmgr_version=__version__,
        host=context.host,
        packages=result.packages,
        size_bytes=result.size_bytes,
        python_version=result.python_version,
        skipped_link_scripts=result.skipped_link_scripts,
        warnings=result.warnings,
        downloaded_bytes=result.downloaded_bytes,
        sibling_bytes=result.sibling_bytes,
    )
