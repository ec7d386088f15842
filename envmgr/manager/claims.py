"""The claim of this host on a name in a store, and what may be done without one.

Taken under the name's build lock, always in this order. It shows the cluster who builds what; on a store that other
hosts write it is what excludes them, so there each durable step asks first whether it is still held. A store of this
host alone goes on without it: its build lock is enough.

What may be in use on another host is deleted only where its leases are seen here (`Coordinator.check_deletion`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.errors import CoordinatorUnavailable, UnsuitableFilesystem
from envmgr.events import Reporter
from envmgr.manager import failures
from envmgr.manager.context import Context
from envmgr.manager.waiting import TimeLimit, locked
from envmgr.store import sweep as sweeping

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.ports import Claim, Deadline


@contextlib.contextmanager
def building(context: Context, name: EnvName, limit: Deadline, report: Reporter) -> Iterator[Claim | None]:
    """Hold the claim for the length of a block, under the build lock; ``None`` where it is not to be had or needed.

    That it cannot be had although it is needed is remembered for those who wait for the build lock.
    """
    with contextlib.ExitStack() as held:
        try:
            claim = held.enter_context(context.coordinator.building(name, deadline=limit, report=report))
        except CoordinatorUnavailable as error:
            failures.remember(context, name, error)
            raise
        yield claim


@contextlib.contextmanager
def claimed(context: Context, name: EnvName, limit: TimeLimit, report: Reporter) -> Iterator[Claim | None]:
    """Wait for the build lock, then for the claim, and hold both for the length of a block."""
    with (
        locked(context, name, limit, report),
        context.coordinator.building(name, deadline=limit, report=report) as claim,
    ):
        yield claim


def check(context: Context, claim: Claim | None) -> None:
    """Raise `ClaimLost` if the claim is lost and the store needs it."""
    if claim is not None and context.coordinator.is_shared:
        claim.check()


def may_delete(context: Context) -> bool:
    """Tell whether what is in use on any host of the store is seen to be."""
    try:
        context.coordinator.check_deletion()
    except (UnsuitableFilesystem, CoordinatorUnavailable):
        return False
    return True


def sweep(context: Context, digest: str) -> None:
    """Reclaim the leftover builds of a spec, where that is safe; under the build lock of its name, and the claim."""
    if may_delete(context):
        sweeping.sweep_name(context.layout, digest)
