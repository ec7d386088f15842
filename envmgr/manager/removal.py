"""remove: take a name away and delete its build, unless somebody uses it.

Order: the exclusive lease (nobody can begin to use the build) → the name is unlinked (durably) → a look at /proc for
processes that hold no lease → the build moves to the trash → the lease ends → deletion. A crash at any point leaves the
environment whole, or absent with a leftover that the next sweep takes.

On a store that other hosts use, their leases are seen, but a process there that runs without one is not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr import fsio
from envmgr.errors import (
    CoordinatorUnavailable,
    DeclaredInCluster,
    EnvironmentInUse,
    EnvironmentNotFound,
    TimedOut,
)
from envmgr.events import Reporter, ignore
from envmgr.fsio import Step
from envmgr.manager import claims
from envmgr.manager.claims import claimed
from envmgr.manager.context import Context
from envmgr.manager.waiting import TimeLimit
from envmgr.model import Usage
from envmgr.store import leases, locks, publication, records, sweep, usage

if TYPE_CHECKING:
    from envmgr.names import BuildId, EnvName
    from envmgr.ports import Claim

_SOON_S = 1.0


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of it: `is_deleted` is false when the files wait for the last lease (`users`) to end."""

    name: EnvName
    build_id: BuildId | None
    is_deleted: bool
    users: tuple[Usage, ...] = ()


def remove(
    context: Context,
    name: EnvName,
    *,
    when_free: bool,
    forget: bool,
    by_cluster: bool = False,
    limit: TimeLimit,
    report: Reporter,
) -> Removed:
    """Remove the environment `name` from this host, whatever its aliases (they stay, and lead nowhere).

    Of one whose build failed, the failure is what there is to remove.

    In use: `EnvironmentInUse` naming who, or with `when_free` the name goes now, and the files are reclaimed after the
    last user is gone: by the daemon, or by whoever builds, removes or collects anything. The lockfile in force stays,
    so that a later create makes the same environment, unless `forget`.
    Raises `EnvironmentNotFound`, and `DeclaredInCluster` for what the cluster wants here, unless it is the cluster that
    removes it (`by_cluster`).
    """
    if not by_cluster and context.coordinator.is_declared(name):
        raise DeclaredInCluster(
            f"{name} is declared for this host by the cluster, which would make it again",
            hint="envmgr cluster remove takes it away from every host",
        )
    with claimed(context, name, limit, report) as claim:
        removed = _under_lock(context, name, claim, when_free=when_free)
        if removed is None and (forget or records.read_failure(context.layout, name) is not None):
            is_known = context.layout.name(name).exists()
            removed = Removed(name, None, is_deleted=True) if is_known else None
        records.clear_failure(context.layout, name)
        if forget:
            records.forget(context.layout, name)
    if removed is None:
        raise EnvironmentNotFound(f"{name} is not in {context.root}", hint="envmgr list shows what is")
    return removed


def _under_lock(context: Context, name: EnvName, claim: Claim | None, *, when_free: bool) -> Removed | None:
    layout = context.layout
    build_id = publication.current(layout, name)
    if build_id is None:
        return None
    context.coordinator.check_deletion()
    paths = layout.build(build_id)
    with leases.exclusive(paths) as is_granted:
        users = users_of(context, build_id, except_pid=os.getpid() if is_granted else None)
        if (users or not is_granted) and not when_free:
            raise in_use(name, users)
        claims.check(context, claim)
        publication.unpublish(layout, name, build_id)
        # Whoever started from the build in the last moment, without a lease, keeps it until it ends.
        target = sweep.to_trash(layout, build_id) if is_granted else None
    if target is None:
        is_deleted = not paths.directory.exists()  # by hand, before
        return Removed(name, build_id, is_deleted, users=users_of(context, build_id))
    fsio.delete_tree(Step.DELETE, target)
    return Removed(name, build_id, is_deleted=True)


def remove_unused(
    context: Context, name: EnvName, build_id: BuildId, is_wanted: Callable[[], bool], *, is_dry: bool
) -> bool:
    """Remove a published build that nobody uses, and tell whether its name is gone; with `is_dry`, would be.

    Never waits: one that is busy, was replaced meanwhile, or that `is_wanted` (asked under the build lock) does not
    want to go any more, stays.
    """
    layout = context.layout
    paths = layout.build(build_id)
    with locks.try_lock(layout, name) as is_held:
        if not is_held or publication.published(layout).get(name) != build_id or not is_wanted():
            return False
        with _claimed_at_once(context, name) as (is_free, claim), leases.exclusive(paths) as is_granted:
            if not is_free or not is_granted or usage.processes_inside(paths.directory):
                return False
            if is_dry:
                return True
            claims.check(context, claim)
            publication.unpublish(layout, name, build_id)
            target = sweep.to_trash(layout, build_id)
        if target is not None:
            fsio.delete_tree(Step.DELETE, target)
    return True


@contextlib.contextmanager
def _claimed_at_once(context: Context, name: EnvName) -> Iterator[tuple[bool, Claim | None]]:
    """Hold the claim for the length of a block, if it is to be had about at once; tell whether the way is free."""
    limit = TimeLimit(context.clock, _SOON_S)
    with contextlib.ExitStack() as held:
        try:
            claim = held.enter_context(context.coordinator.building(name, deadline=limit, report=ignore))
        except (TimedOut, CoordinatorUnavailable):
            yield False, None
            return
        yield True, claim


def users_of(context: Context, build_id: BuildId, except_pid: int | None = None) -> tuple[Usage, ...]:
    """Return who uses a build, each process once: the holders of its lease, then those found in its files.

    A remover who was granted the exclusive lease holds it itself and is no user: `except_pid`.
    """
    paths = context.layout.build(build_id)
    holders = usage.lock_holders([paths.lease]).get(paths.lease, ())
    found = {user.pid: user for user in (*usage.processes_inside(paths.directory), *holders)}
    return tuple(user for pid, user in sorted(found.items()) if pid != except_pid)


def in_use(name: EnvName, users: tuple[Usage, ...]) -> EnvironmentInUse:
    """Return the error that names the users of an environment."""
    whom = ", ".join(str(user) for user in users) or "a process that this user may not see"
    return EnvironmentInUse(
        f"{name} is in use by {whom}",
        users,
        hint="--when-free takes the name away now and deletes the files when the last of them is gone",
    )
