"""Which environments collection removes, and in which order.

Never one that is pinned, protected (the cluster wants it here), leased, or used or made less than ``gc_min_age_s`` ago.
Of the others, those without an alias go before those with one, and the least recently used first:

* each that was not used for longer than ``gc_max_age_s``;
* until all environments together are not larger than ``gc_max_total_bytes``: the sum of the sizes of their files, each
  counted once however many environments share it, and whether the package cache has it, too;
* when more than ``gc_high_percent`` of the file system's bytes or inodes is used, or less is free than a build wants:
  until no more than ``gc_low_percent`` would be. What goes with an environment is what no other environment shares;
  where only the package cache shares it, it goes from there in the same run, or in the next if a build holds the cache.
  What the caches have for no environment is counted before any environment goes.

Only the exclusive lease decides that an environment is unused. Last use is sampled (`sample_use`): a use that began and
ended between two samples is not seen, and may cost an environment its place in the order, never its files under a job.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envmgr.errors import Corrupt, StoreTooNew
from envmgr.events import sized
from envmgr.manager import collection_caches, removal
from envmgr.store import publication, records, usage
from envmgr.store.sizes import Amount, Census

if TYPE_CHECKING:
    from envmgr.manager.collection_run import Run
    from envmgr.manager.context import Context
    from envmgr.names import Alias, BuildId, EnvName


@dataclass(frozen=True, slots=True)
class Candidate:
    name: EnvName
    build_id: BuildId
    used_at: float
    aliases: tuple[Alias, ...]


def sample_use(context: Context) -> int:
    """Stamp every published name whose lease is held now; return how many are."""
    layout = context.layout
    leases = {layout.build(build).lease: name for name, build in publication.published(layout).items()}
    held = usage.held(leases, layout.owner)
    now = context.clock.time()
    for lease in held:
        records.stamp_use(layout, leases[lease], now)
    return len(held)


def last_use(context: Context, name: EnvName, build_id: BuildId) -> float:
    """Return when an environment was last seen in use, or else made.

    Times in the future are a wrong clock's; where there is no other, it counts, and is noted, as used now.
    """
    layout, now = context.layout, context.clock.time()
    times = [at for at in (records.read_last_use(layout, name), _made_at(context, name, build_id)) if at is not None]
    past = [at for at in times if at <= now]
    if not past:
        records.stamp_use(layout, name, now)
        return now
    return max(past)


def _made_at(context: Context, name: EnvName, build_id: BuildId) -> float | None:
    try:
        record = records.read_record(context.layout, name, build_id)
    except (Corrupt, StoreTooNew):
        try:
            return context.layout.build(build_id).directory.stat().st_mtime
        except OSError:
            return None
    return record.created_at + record.duration_s


def collect(run: Run) -> None:
    """Remove environments until the limits are kept; what turns out to be in use stays."""
    candidates = _candidates(run)
    if not candidates:
        return  # what the limits demand costs a walk through everything
    demand = _Demand(run)
    for candidate in candidates:
        run.check()
        reason = demand.reason(candidate)
        if reason is not None and _remove(run, candidate, reason):
            demand.removed(candidate)


def _candidates(run: Run) -> list[Candidate]:
    layout, now = run.context.layout, run.context.clock.time()
    aliases: dict[EnvName, list[Alias]] = {}
    for alias, name in publication.all_aliases(layout).items():
        aliases.setdefault(name, []).append(alias)
    found = []
    for name, build_id in publication.published(layout).items():
        if name in run.protected or records.is_pinned(layout, name) or run.context.coordinator.is_declared(name):
            continue
        used_at = last_use(run.context, name, build_id)
        if now - used_at >= run.limits.min_age_s:
            found.append(Candidate(name, build_id, used_at, tuple(aliases.get(name, ()))))
    return sorted(found, key=lambda candidate: (bool(candidate.aliases), candidate.used_at, candidate.name))


def _remove(run: Run, candidate: Candidate, reason: str) -> bool:
    context, name, build_id = run.context, candidate.name, candidate.build_id

    def is_still_wanted() -> bool:
        if records.is_pinned(context.layout, name) or context.coordinator.is_declared(name):
            return False
        return last_use(context, name, build_id) == candidate.used_at

    directory = context.layout.build(build_id).directory
    tree = run.measure(directory)
    if not removal.remove_unused(context, name, build_id, is_still_wanted, is_dry=run.is_dry):
        return False
    run.gone.add(name)
    if not run.is_dry and directory.exists():
        reason += "; its files go when the process that has begun to use it ends"
        tree = replace(tree, disk_bytes=0, inodes=0)
    elif candidate.aliases:
        reason += f"; {', '.join(candidate.aliases)} will stand for it again when it is created again"
    run.note(context.layout.publication(name), reason, tree, name=name)
    return True


class _Demand:
    """What the limits still want to go."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._now = run.context.clock.time()
        self._census: Census | None = None
        self._excess = _excess(run)
        max_total = run.limits.max_total_bytes
        if self._excess is not None or (max_total and _size_at_most(run) > max_total):
            self._census = Census()
            for name, build_id in publication.published(run.context.layout).items():
                self._census.add(name, run.context.layout.build(build_id).directory)

    def reason(self, candidate: Candidate) -> str | None:
        """Return why a candidate must go, or ``None`` if nothing demands it."""
        limits = self._run.limits
        unused_s = self._now - candidate.used_at
        if 0 < limits.max_age_s < unused_s:
            return f"not used for {_days(unused_s)}, and {_days(limits.max_age_s)} are allowed"
        if self._census is None:
            return None
        total = self._census.total.size_bytes
        if 0 < limits.max_total_bytes < total:
            allowed = sized(limits.max_total_bytes)
            return f"all together are {sized(total)}, and {allowed} are allowed; {_idle(unused_s)}"
        if self._excess is None or (self._excess.disk_bytes <= 0 and self._excess.inodes <= 0):
            return None
        what = "bytes" if self._excess.disk_bytes > 0 else "inodes"
        return f"the file system is short of {what}; " + _idle(unused_s)

    def removed(self, candidate: Candidate) -> None:
        if self._census is None:
            return
        gone = self._census.drop(candidate.name)
        if self._excess is not None:
            self._excess -= gone


@dataclass(frozen=True, slots=True)
class _Level:
    """How much of one resource is used and free, and how much must be free for a build."""

    used: int
    free: int
    least_free: int

    def without(self, garbage: int) -> _Level:
        return replace(self, used=self.used - garbage, free=self.free + garbage)

    def is_high(self, percent: int) -> bool:
        return self.used * 100 > percent * (self.used + self.free) or self.free < self.least_free

    def above(self, percent: int) -> int:
        return max(self.used - percent * (self.used + self.free) // 100, self.least_free - self.free)


def _excess(run: Run) -> Amount | None:
    """Return what must go from the file system beside what is garbage anyway, or ``None`` if it is not too full."""
    settings = run.context.settings
    high, low = settings.gc_high_percent, settings.gc_low_percent
    if high == 0:
        return None
    status = os.statvfs(run.context.layout.root)
    in_bytes = _Level(
        (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_bavail * status.f_frsize, settings.min_free_bytes
    )
    in_inodes = _Level(status.f_files - status.f_ffree, status.f_favail, settings.min_free_inodes)
    if not status.f_files:
        in_inodes = _Level(0, 1, 0)  # a file system that does not count them
    if run.is_dry:  # what was found until now would have gone
        in_bytes, in_inodes = in_bytes.without(run.disk_bytes), in_inodes.without(run.inodes)
    if not in_bytes.is_high(high) and not in_inodes.is_high(high):
        return None
    garbage = collection_caches.expected(run)
    in_bytes, in_inodes = in_bytes.without(garbage.disk_bytes), in_inodes.without(garbage.inodes)
    if not in_bytes.is_high(high) and not in_inodes.is_high(high):
        return None
    return Amount(disk_bytes=in_bytes.above(low), inodes=in_inodes.above(low))


def _size_at_most(run: Run) -> float:
    """Return a bound of what all environments take, from their records: what they share is counted for each."""
    total = 0
    for name, build_id in publication.published(run.context.layout).items():
        try:
            total += records.read_record(run.context.layout, name, build_id).size_bytes
            with os.scandir(run.context.layout.build(build_id).directory) as beside:
                total += sum(entry.stat().st_size for entry in beside if entry.is_file(follow_symlinks=False))
        except (Corrupt, StoreTooNew, OSError):
            return float("inf")
    return total


def _idle(unused_s: float) -> str:
    return f"this one was not used for {_days(unused_s)}"


def _days(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
