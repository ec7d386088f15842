"""What is to be done so that this host is as its cluster wants it: compared anew with each pass, from what is there.

For each declared environment, `Reconciler.reconcile` looks at three things: the intent, what is published here, and
what is being done about it or failed. It starts what is missing and says how each stands (`statuses`).

=========================================  ============================================================================
wanted here, nothing published             make it; in its turn, where the intent bounds how many hosts do
published, its lockfile is the cluster's   ready
… the cluster has none of it               publish this host's, and go on
… the cluster was told to relock           bring it to the new generation
… another lockfile than the cluster's      ready, shown as drift; ``cluster heal`` brings it in line
``absent``, and it was the cluster's here  take it away; the files go with their last user
``absent``, and it never was               nothing: it is the host's own
no intent, or not for this host (any more) nothing: it is the host's own from now on
=========================================  ============================================================================

An environment becomes the cluster's on this host when the host first acts on its intent; that is remembered durably
before anything is begun, and forgotten when it is gone. So what was here before is adopted, and goes with ``absent``;
what the host has made for itself while an ``absent`` is still in the tree stays.

**Failures** stay and are shown. A transient one is tried again after 10 s, then twice as long, up to 300 s; so is a
full disk, which the daemon's own collection may have helped, and what was only told of an earlier try on this host. A
permanent one waits until an administrator asks for a new try, has it solved anew, or the daemon starts again. While
the host's own disk takes not even the memory, only removals begin: they make room.

It is one table of cases, and stays in one module although that makes it a little long. Only the agent's thread calls
this. Nothing here blocks but what `envmgr.agent.hands` calls quick.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from envmgr.agent.aliases import set_aliases
from envmgr.agent.entries import Entry, pending
from envmgr.agent.jobs import Job
from envmgr.agent.memory import Memory, held_now
from envmgr.cluster.declaring import checked_spec
from envmgr.errors import Cancelled, CoordinatorUnavailable, EnvironmentNotFound
from envmgr.names import EnvName
from envmgr.wire.tree import EnvironmentStatus

if TYPE_CHECKING:
    from envmgr.agent.hands import Hands, Installed, Turns
    from envmgr.agent.jobs import Jobs, Kind
    from envmgr.cluster.intent import Wanted
    from envmgr.ports import Clock
    from envmgr.wire.tree import Cluster, Intent

FIRST_BACK_OFF_S = 10.0
LONGEST_BACK_OFF_S = 300.0
MOST_WAITING = 4
"""So many environments of a host wait for their turn in a rollout at a time, besides those that are built."""
MOST_REMOVALS = 4
_log = logging.getLogger(__name__)


class _NotKept(OSError):
    """What is to be remembered cannot be written down: the disk is full."""


class Reconciler:
    """See the module. `keep` writes the memory down, durably."""

    def __init__(
        self,
        hands: Hands,
        turns: Turns,
        jobs: Jobs,
        clock: Clock,
        *,
        memory: Memory,
        keep: Callable[[Memory], None],
        max_builds: Callable[[], int],
    ) -> None:
        self._hands = hands
        self._turns = turns
        self._jobs = jobs
        self._clock = clock
        self._keep = keep
        self._max_builds = max_builds
        self.memory = memory
        self._entries: dict[EnvName, Entry] = {}
        self._own: dict[EnvName, Entry] = {}
        self._wanted: Wanted | None = None
        self._epoch = 0
        self._heal = memory.heal
        self._is_leaving = False
        self._passed_at = clock.monotonic()
        self._is_unanswered = False
        self._alias_problems: tuple[str, ...] = ()

    # --------------------------------------------------------------------------------------------- what others may ask

    def statuses(self) -> tuple[EnvironmentStatus, ...]:
        """Return how each declared environment stands, sorted by name."""
        return tuple(entry.status for _, entry in sorted(self._entries.items()))

    def drift(self) -> tuple[str, ...]:
        """Return this host's own environments that were built from another lockfile than the cluster's."""
        return tuple(sorted(name for name, entry in self._own.items() if entry.status.is_drift))

    def jobs(self) -> tuple[Job, ...]:
        """Return what is being done."""
        return tuple(entry.job for entry in self._all() if entry.job is not None)

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong with the host as a whole."""
        return self._alias_problems

    def leave(self) -> None:
        """Begin nothing from now on."""
        self._is_leaving = True

    def next_at(self) -> float | None:
        """Return when something is to be tried again, by the monotonic clock.

        What was due in the last pass and was not begun waits for something else, whose end wakes the agent.
        """
        moments = [
            entry.failed.retry_at
            for entry in self._all()
            if entry.job is None and entry.failed is not None and entry.failed.retry_at is not None
        ]
        return min((moment for moment in moments if moment > self._passed_at), default=None)

    def _all(self) -> tuple[Entry, ...]:
        return (*self._entries.values(), *self._own.values())

    # ------------------------------------------------------------------------------------------------------- one pass

    def reconcile(self, wanted: Wanted, *, epoch: int) -> None:
        """Compare, and start what is to be done.

        `epoch` counts ZooKeeper sessions: with a new one, lockfiles are compared again, since others may have been
        published meanwhile.
        """
        if wanted.cluster is None:
            return
        self._wanted, self._epoch, self._heal = wanted, epoch, wanted.cluster.heal
        self._passed_at = self._clock.monotonic()
        self._is_unanswered = False
        try:
            self._pass(wanted)
        except _NotKept:
            self._take_away(wanted)  # which makes room; that it is gone is remembered when there is some
            raise

    def _pass(self, wanted: Wanted) -> None:
        self._end_removals()
        for entry in self._all():
            self._note_end(entry)
        published = self._hands.published()
        present = wanted.present()
        self._remember(wanted, present)
        for name, intent in sorted(present.items(), key=lambda item: item[1].generation):
            self._present(intent, published.get(name))
        for name in [name for name in self._entries if name not in present]:
            self._not_present(name, wanted)
        self._take_away(wanted)
        self._look_at_own({name: found for name, found in published.items() if name not in self._entries})
        if wanted.may_remove:  # in a restored tree what the aliases stand for may be out of date, too
            ours, self._alias_problems = set_aliases(
                self._hands, self.memory.aliases, wanted.aliases, [name for name in published if name in self._entries]
            )
            self._change_memory(aliases=ours)
        # After an import it may be lower than what was answered: the next one counts all the same.
        is_lower = self._heal < self.memory.heal and wanted.may_remove
        if is_lower or (self._heal > self.memory.heal and not self._is_unanswered and not self._has_to_heal()):
            self._change_memory(heal=self._heal)

    def _remember(self, wanted: Wanted, present: Mapping[EnvName, Intent]) -> None:
        """Note durably what is the cluster's on this host, before anything of it is begun."""
        seen = wanted.seen
        if seen is not None:
            self._change_memory(
                uuid=seen.uuid,
                revision=seen.revision,
                token=seen.token,
                is_restored=seen.is_restored,
                environments=held_now(self.memory, wanted, present),
            )

    def meet(self, cluster: Cluster) -> None:
        """Note whose host this is, and what all of its hosts share."""
        classes = {name: dict(found) for name, found in cluster.classes.items()}
        self._change_memory(uuid=cluster.uuid, settings=dict(cluster.settings), classes=classes)

    def _change_memory(self, **changes: object) -> None:
        changed = replace(self.memory, **changes)  # type: ignore[arg-type]  # fields of it, by their names
        if changed != self.memory:
            try:
                self._keep(changed)
            except OSError as error:
                raise _NotKept(*error.args) from error
            self.memory = changed

    # -------------------------------------------------------------------------------------------------- one environment

    def _present(self, intent: Intent, installed: Installed | None) -> None:
        name = EnvName(intent.name)
        entry = self._entries.get(name)
        if entry is None:
            own = self._own.pop(name, None)
            entry = self._entries[name] = pending(name, None if own is None else own.job)
        if entry.job is not None and entry.job.kind == "remove":
            entry.job.is_unwanted = True  # it may be too late for that; then the next pass makes it again
        digest = None if installed is None else installed.lock_digest
        if entry.job is not None:
            if self._is_cordoned() or entry.job.places != intent.max_parallel:
                entry.job.is_recalled = True  # if it still waits for its turn, it does not begin with that
            entry.show(intent.generation, "waiting" if entry.job.is_waiting else "building", digest)
            return
        kind: Kind | None = "make" if installed is None else self._need(entry, intent, installed)
        held = self.memory.environments.get(name)
        is_behind = digest is not None and held is not None and held.lock_generation < intent.lock_generation
        if kind is None and not is_behind:
            entry.failed = None
            entry.show_ready(intent.generation, digest, held.lock_generation if held else 0, self._clock)
        elif not self._may_try(entry, intent):
            entry.show(intent.generation, "failed", digest)
        elif kind is None:  # ZooKeeper does not say yet what it is to be brought to
            entry.show(intent.generation, "pending", digest)
        elif self._may_begin(kind, is_bounded=intent.max_parallel > 0):
            self._begin(entry, intent, kind)
            entry.show(intent.generation, "waiting" if intent.max_parallel > 0 else "building", digest)
        else:
            entry.show(intent.generation, "pending", digest)

    def _need(self, entry: Entry, intent: Intent, installed: Installed) -> Kind | None:
        """Return what an environment that is there needs to be in line."""
        if installed.lock_digest is None:
            return None
        key = (installed.build_id, intent.lock_generation, self._epoch, self._heal)
        if not self._compare(entry, installed, key):
            return None
        theirs, is_drift = entry.theirs, entry.differs(installed.lock_digest)
        if theirs is not None and not is_drift:
            # What a build came to is seen here alone: it may have been begun by others before the relock, or gone on
            # with what this host knew while ZooKeeper was away.
            self._brought_to(intent.name, min(theirs.generation, intent.lock_generation))
        if entry.aligned_for == key:
            return None
        held = self.memory.environments.get(intent.name)
        if theirs is None or (held is not None and held.lock_generation < intent.lock_generation):
            return "align"
        return "align" if is_drift and self._heal > self.memory.heal else None

    def _compare(self, entry: Entry, installed: Installed, key: tuple[object, ...]) -> bool:
        """Know the cluster's lockfile in force; asked once for each build, and after what can have changed it."""
        if entry.compared != key:
            if self._is_unanswered:  # a pass waits for one answer that does not come, not for hundreds
                return False
            try:
                entry.theirs = self._hands.cluster_lock(EnvName(entry.status.name), installed.machine_class)
            except CoordinatorUnavailable:
                self._is_unanswered = True
                return False
            entry.compared = key
        return True

    def _may_try(self, entry: Entry, intent: Intent) -> bool:
        return entry.failed is None or entry.failed.may_try(
            self._clock, retries=self._retries(intent), lock_generation=intent.lock_generation
        )

    def _may_begin(self, kind: Kind, *, is_bounded: bool = False) -> bool:
        running = self.jobs()
        if self._is_leaving:
            return False
        if kind == "remove":
            return sum(job.kind == "remove" for job in running) < MOST_REMOVALS
        if self._is_cordoned():
            return False
        building = [job for job in running if job.kind != "remove"]
        waiting = sum(job.is_waiting for job in building)
        if is_bounded and waiting >= MOST_WAITING:
            return False
        return len(building) - waiting < self._max_builds()

    def _is_cordoned(self) -> bool:
        return self._wanted is None or self._wanted.is_cordoned

    def _retries(self, intent: Intent) -> int:
        host = self._wanted.host if self._wanted is not None else ""
        return intent.retries.get(host, 0) + intent.retries.get("*", 0)

    def _begin(self, entry: Entry, intent: Intent, kind: Kind) -> None:
        name, retries = EnvName(intent.name), self._retries(intent)
        # What is remembered here of the last try says nothing of a new generation.
        is_retry = entry.failed is not None and entry.failed.is_of_other(retries, intent.lock_generation)
        places = intent.max_parallel
        job = Job(name, kind, intent.generation, intent.lock_generation, retries, places=places, is_waiting=places > 0)

        def work() -> None:
            with self._turn(job):
                job.is_waiting = False
                if kind == "make":
                    self._hands.make(
                        checked_spec(intent.spec), is_retry=is_retry, report=job.hear, is_cancelled=job.is_cancelled
                    )
                else:
                    self._hands.align(name, report=job.hear, is_cancelled=job.is_cancelled)

        self._start(entry, job, work)

    @contextlib.contextmanager
    def _turn(self, job: Job) -> Iterator[None]:
        if job.places <= 0:
            yield
            return
        with self._turns.turn(job.name, job.places, is_cancelled=job.is_called_back):
            if job.is_called_back():
                raise Cancelled("its turn came when it was not to begin any more")
            yield

    def _start(self, entry: Entry, job: Job, work: Callable[[], None]) -> None:
        entry.begin(job, self._clock)
        self._jobs.start(job, work)

    def _note_end(self, entry: Entry) -> None:
        """Take in how a job ended."""
        job = entry.job
        if job is None or not job.is_done:
            return
        entry.job = None
        entry.status = replace(entry.status, finished_at=self._clock.time())
        if job.error is None:
            entry.failed = None
            if job.kind == "align":
                entry.aligned_for = entry.compared
                self._brought_to(job.name, job.lock_generation)
        elif isinstance(job.error, Cancelled) and not job.error.fields.get("is_repeated"):
            entry.aligned_for = None  # by ourselves, or by an administrator of the host: looked at anew
        else:
            entry.fail(job, job.error, self._clock, back_off_s)
            if EnvName(entry.status.name) not in self._entries:
                _log.warning("the lockfile of %s is not in line with the cluster's: %s", job.name, job.error.message)

    def _brought_to(self, name: str, lock_generation: int) -> None:
        held = self.memory.environments.get(name)
        if held is not None and held.lock_generation < lock_generation:
            changed = replace(held, lock_generation=lock_generation)
            self._change_memory(environments={**self.memory.environments, name: changed})

    # ------------------------------------------------------------------------------------------------ what is to go

    def _not_present(self, name: EnvName, wanted: Wanted) -> None:
        """Let go of what is not wanted here any more; what is to be taken away, `_absent` does."""
        entry = self._entries[name]
        intent = wanted.intents.get(name)
        if entry.job is not None and entry.job.kind != "remove":
            entry.job.is_unwanted = True
        is_going = entry.job is not None and entry.job.kind == "remove"
        if wanted.may_remove if intent is None else (intent.state == "present" and not is_going):
            del self._entries[name]

    def _take_away(self, wanted: Wanted) -> None:
        for name, intent in wanted.absent().items():
            self._absent(intent, is_ours=name in self.memory.environments, may_remove=wanted.may_remove)

    def _absent(self, intent: Intent, *, is_ours: bool, may_remove: bool) -> None:
        name = EnvName(intent.name)
        entry = self._entries.get(name)
        if not is_ours:
            if entry is not None and entry.job is None:
                entry.status = replace(entry.status, state="absent", generation=intent.generation)
            return
        if entry is None:
            entry = self._entries[name] = pending(name)
        digest = entry.status.lock_digest
        if entry.job is not None:
            entry.show(intent.generation, "removing", digest)
        elif not may_remove:
            entry.show(entry.status.generation, "pending", digest)
        elif not self._may_try_removal(entry, intent):
            entry.show(intent.generation, "failed", digest)
        else:
            if self._may_begin("remove"):
                self._remove(entry, intent)
            entry.show(intent.generation, "removing", digest)

    def _may_try_removal(self, entry: Entry, intent: Intent) -> bool:
        """Tell whether it may be taken away; that it could not be made says nothing of that."""
        failed = entry.failed
        if failed is None or failed.is_of != "remove":
            return True
        return failed.may_try(self._clock, retries=self._retries(intent))

    def _remove(self, entry: Entry, intent: Intent) -> None:
        name = EnvName(intent.name)
        job = Job(name, "remove", intent.generation, intent.lock_generation, self._retries(intent))

        def work() -> None:
            with contextlib.suppress(EnvironmentNotFound):
                self._hands.remove(name)

        self._start(entry, job, work)

    def _end_removals(self) -> None:
        """Forget what was taken away, before anything takes it for still there."""
        for name, entry in self._entries.items():
            job = entry.job
            if job is not None and job.kind == "remove" and job.is_done and job.error is None:
                left = {key: held for key, held in self.memory.environments.items() if key != name}
                self._change_memory(environments=left)
                entry.status = EnvironmentStatus(
                    name=name, state="absent", generation=job.generation, started_at=entry.status.started_at,
                    finished_at=self._clock.time(),
                )  # fmt: skip
                entry.job = entry.failed = entry.compared = None

    # ------------------------------------------------------------------------------------------------ the host's own

    def _look_at_own(self, published: Mapping[EnvName, Installed]) -> None:
        """Compare what this host made for itself with the cluster's lockfiles; heal it where that was asked for.

        A lockfile that only this host knows is published, so that the next host to make the same gets the same.
        """
        for name in [name for name, entry in self._own.items() if name not in published and entry.job is None]:
            del self._own[name]
        for name, installed in published.items():
            if installed.lock_digest is None:
                continue
            entry = self._own.setdefault(name, pending(name))
            if entry.job is not None:
                continue
            key = (installed.build_id, 0, self._epoch, self._heal)
            if not self._compare(entry, installed, key):
                return
            is_drift = entry.differs(installed.lock_digest)
            entry.status = replace(entry.status, is_drift=is_drift)
            is_wanted = entry.theirs is None or (is_drift and self._heal > self.memory.heal)
            if entry.aligned_for != key:
                entry.failed = None
            # One try for each key, since it is nobody's order, and others after what passes.
            is_due = entry.aligned_for != key if entry.failed is None else entry.failed.may_try(self._clock, retries=0)
            if is_wanted and is_due and self._may_begin("align"):
                entry.aligned_for = key
                self._align_own(entry, name)

    def _align_own(self, entry: Entry, name: EnvName) -> None:
        job = Job(name, "align")
        self._start(entry, job, lambda: self._hands.align(name, report=job.hear, is_cancelled=job.is_cancelled))

    def _has_to_heal(self) -> bool:
        """Tell whether anything that drifted waits to be brought in line, or for another try, or is on its way."""
        for entry in self._all():
            if entry.job is not None and entry.job.kind == "align":
                return True
            failed = entry.failed
            is_tried = entry.aligned_for == entry.compared if failed is None else failed.retry_at is None
            if entry.status.is_drift and not is_tried:
                return True
        return False


def back_off_s(attempts: int) -> float:
    """Return how long a passing failure is left alone after so many in a row; with jitter, never under the first."""
    longest = float(min(FIRST_BACK_OFF_S * 2 ** min(attempts - 1, 10), LONGEST_BACK_OFF_S))
    return max(FIRST_BACK_OFF_S, longest * random.uniform(0.8, 1.0))  # noqa: S311 - jitter, no secret
