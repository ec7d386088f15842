"""collect, reclaim, recover: free what is of no use any more.

In this order: leftover builds, the trash, temporary files of killed writers; environments, where the limits want it
(`envmgr.manager.collection_environments`); what is known of names that only ever failed, and is older than the limits'
minimum age; then what no environment needs of the caches (`envmgr.manager.collection_caches`), archives of
environments, and remembered texts. Every deletion is of something that nothing leads to; a crash at any point leaves
each environment whole or absent, and the rest for the next run.

Never waited for is anybody: what somebody is busy with is left for the next time. Aliases, specs and lockfiles of
collected environments stay: who creates one again gets the same packages under the same names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.events import Event, Reporter, ignore
from envmgr.manager import claims, collection_caches, collection_environments
from envmgr.manager.collection_run import Collected, Limits, Run
from envmgr.manager.waiting import TimeLimit
from envmgr.names import EnvName, is_name
from envmgr.store import leases, locks, orphans, publication, records, sweep, usage

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.names import BuildId

__all__ = ["Collected", "Limits", "Reclaimed", "collect", "reclaim", "recover"]

_STRAY_AGE_S = 3600.0
"""How old a temporary file must be before it is a killed writer's; a live one needs it for milliseconds."""
_STRAY_AGE_AT_START_S = 10.0
"""The same where hardly anybody can be writing: when a daemon begins to serve its store."""


def collect(
    context: Context,
    *,
    dry_run: bool,
    limits: Limits | None = None,
    protected: Collection[EnvName] = (),
    limit: TimeLimit | None = None,
    report: Reporter = ignore,
) -> tuple[Collected, ...]:
    """Free what the module says and return what was freed; with `dry_run` only say what would be.

    Environments named in `protected` stay, and those that the cluster declares. Raises what `limit` raises, between
    two things, and what `Coordinator.check_deletion` raises.
    """
    context.coordinator.check_deletion()
    run = Run(
        context,
        dry_run,
        (limits or Limits()).over(context.settings),
        protected,
        report,
        check=limit.check if limit is not None else lambda: None,
    )
    report(Event("begin", "sweep"))
    collection_environments.sample_use(context)
    _leftover_builds(run)
    _trash(run)
    _strays(run, _STRAY_AGE_S)
    collection_environments.collect(run)
    _failures(run)
    collection_caches.collect(run)
    collection_caches.packed(run)
    collection_caches.texts(run)
    report(Event("end", "sweep"))
    return tuple(run.found)


def recover(context: Context) -> Reclaimed:
    """Clear away what a killed daemon left, orphaned processes included; looks at no cache."""
    reclaimed = reclaim(context)
    run = Run(context, False, Limits().over(context.settings), (), ignore, check=lambda: None)
    _trash(run)
    _strays(run, _STRAY_AGE_S if context.coordinator.is_shared else _STRAY_AGE_AT_START_S)
    return reclaimed


# ------------------------------------------------------------------------------------------------------------- builds


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What became of builds that no name leads to.

    `gone` are deleted. Of those that stay, `leased` wait for the end of a lease, which is cheap to ask for, and `busy`
    for a process without a lease or for another's work on the same name.
    """

    gone: tuple[BuildId, ...] = ()
    leased: tuple[BuildId, ...] = ()
    busy: tuple[BuildId, ...] = ()


def reclaim(context: Context) -> Reclaimed:
    """Delete every build that no name leads to and nobody uses: of killed builders, of ``remove --when-free``.

    Costs two directory listings when there is none. Builds in progress are not counted. On a store that other hosts
    use, nothing happens unless their leases are seen here.
    """
    layout = context.layout
    gone, leased, busy = [], [], []
    builds = _unpublished(context)
    for build in builds if builds and claims.may_delete(context) else ():
        is_finished = layout.build(build).record.exists()
        with _held(context, build) as is_held:
            if not is_held:
                busy += [build] if is_finished else []
            elif is_finished and _is_leased(context, build):
                leased.append(build)  # by users: whoever made it was done
            elif sweep.reclaim(layout, build):
                gone.append(build)
            else:
                busy.append(build)
    return Reclaimed(tuple(gone), tuple(leased), tuple(busy))


def _leftover_builds(run: Run) -> None:
    context, layout = run.context, run.context.layout
    for build in _unpublished(context):
        run.check()
        directory = layout.build(build).directory
        tree = run.measure(directory)
        with _held(context, build) as is_held:
            if is_held and (_is_reclaimable(context, build) if run.is_dry else sweep.reclaim(layout, build)):
                run.note(directory, "build that no name leads to", tree)


def _unpublished(context: Context) -> list[BuildId]:
    builds = sweep.all_builds(context.layout)  # before the names: whatever is published meanwhile is not among them
    kept = set(publication.published(context.layout).values())
    return [build for build in builds if build not in kept]


@contextlib.contextmanager
def _held(context: Context, build: BuildId) -> Iterator[bool]:
    """Try to hold the build lock of each name that a build may be of, for the length of the block."""
    with contextlib.ExitStack() as held:
        yield all(held.enter_context(locks.try_lock(context.layout, name)) for name in _names_of(context, build))


def _names_of(context: Context, build: BuildId) -> tuple[EnvName, ...]:
    """Return every name, sorted, that a build may have been begun for: those whose digest begins with its digits.

    Whoever begins a build has made the name's lock before, and a lock is never unlinked. So a build that was seen
    before the locks are listed has its lock among them.
    """
    stem = f"env-{build.partition('-')[0]}"
    entries = (entry.removesuffix(".lock") for entry in os.listdir(context.layout.locks))
    return tuple(sorted(EnvName(entry) for entry in entries if is_name(entry) and entry.startswith(stem)))


def _is_leased(context: Context, build: BuildId) -> bool:
    with leases.exclusive(context.layout.build(build)) as is_granted:
        return not is_granted


def _is_reclaimable(context: Context, build: BuildId) -> bool:
    """Tell whether nobody uses a build but, it may be, what a killed builder left running."""
    directory = context.layout.build(build).directory
    if build in publication.published(context.layout).values() or not directory.is_dir():
        return False
    with leases.exclusive(context.layout.build(build)) as is_granted:
        return bool(orphans.marked(directory)) or (is_granted and not usage.processes_inside(directory))


# -------------------------------------------------------------------------------------------------- trash and strays


def _trash(run: Run) -> None:
    for entry in sorted(os.listdir(run.context.layout.trash)):
        # Somebody's own files, moved here by doctor, are the administrator's to delete.
        if not entry.startswith(sweep.FOREIGN):
            run.free([run.context.layout.trash / entry], "trash")


def _strays(run: Run, age_s: float) -> None:
    for path in sweep.stray_temporaries(run.context.layout):
        with contextlib.suppress(FileNotFoundError):
            if run.context.clock.time() - path.lstat().st_mtime > age_s:
                run.free([path], "temporary file of a writer that was killed")


# ------------------------------------------------------------------------------------------------------------ failures


def _failures(run: Run) -> None:
    """Forget specs of which nothing ever came: no build, no lockfile, no pin, no alias."""
    context, layout = run.context, run.context.layout
    wanted = {*run.protected, *publication.published(layout), *publication.all_aliases(layout).values()}
    oldest = context.clock.time() - run.limits.min_age_s
    for name in records.known_names(layout):
        if name in wanted or not _failed_before(run, name, oldest):
            continue
        run.check()
        with locks.try_lock(layout, name) as is_held:  # else somebody is about to try it again
            if is_held and publication.current(layout, name) is None and _failed_before(run, name, oldest):
                tree = run.measure(layout.name(name))
                if not run.is_dry:
                    records.forget(layout, name)
                run.note(layout.name(name), "spec that only ever failed", tree)


def _failed_before(run: Run, name: EnvName, oldest: float) -> bool:
    since = records.failed_since(run.context.layout, name)
    return since is not None and since <= oldest
