"""The loop of one host: reads what the cluster wants, has it done, says how it stands.

One thread. It turns when something happened (a job ended, the revision changed, the connection came back, somebody
called `wake`), when something is due, and each ``agent_interval_s``, give or take a fifth: that pass is what counts,
the rest only makes it come sooner. Where nothing changed, a pass costs one look at ``/v1/revision`` and a listing of
the store's names. A change of the revision is followed within a moment that grows with the number of hosts, up to
`LONGEST_JITTER_S`, so that they do not all read at once.

Order of a turn: read; see that this is the host's own cluster; be there, and known; do; tell. So nothing is written
into another cluster's tree, nothing is told of what was not looked at, and nothing begun that may be removed unheard.

* Without ZooKeeper it goes on with what it knows: tries are repeated, builds end, and what is to be told waits.
* A tree that is not this host's cluster (emptied, another uuid, newer) stops it: nothing is begun and nothing told but
  to the log and to ``envmgr status``, until the tree is right again.
* It never raises: what goes wrong is a problem of the host, shown, and looked at again with the next pass.

The turn and all that it leads to stand together, which makes the module a little long.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from envmgr.agent.jobs import Threads
from envmgr.agent.membership import Membership
from envmgr.agent.neighbours import Neighbours
from envmgr.agent.reconcile import Reconciler
from envmgr.agent.status import PROGRESS_S, StatusWriter
from envmgr.cluster.intent import Seen, Wanted
from envmgr.errors import ClusterTreeRefused, CoordinatorUnavailable, EnvmgrError
from envmgr.names import EnvName
from envmgr.version import __version__
from envmgr.wire import socket as wire
from envmgr.wire.tree import Host, HostStatus, Progress

if TYPE_CHECKING:
    from envmgr.agent.hands import Hands, Session, Told, Turns
    from envmgr.agent.identity import Identity
    from envmgr.agent.jobs import Jobs
    from envmgr.agent.memory import Memory
    from envmgr.ports import Clock
    from envmgr.settings import Settings

LONGEST_JITTER_S = 3.0
JITTER_PER_HOST_S = 0.001
RETRY_S = 5.0
PROGRESS_PER_S = 200.0
"""So often all hosts together tell at most how far their builds are: thousands would be the servers' main work."""
_END_S = 10.0
_LAST_S = 2.0
_log = logging.getLogger(__name__)


class Agent:
    """See the module. `memory` is what was kept last, `keep` and `keep_identity` write down what is new.

    `archives` is the URL at which this host gives archives, ``None`` where it gives none; `memory_path` is where the
    memory stands, for people.
    """

    def __init__(
        self,
        session: Session,
        coordinator: Told,
        hands: Hands,
        turns: Turns,
        identity: Identity,
        *,
        settings_of: Callable[[], Settings],
        clock: Clock,
        memory: Memory,
        keep: Callable[[Memory], None],
        keep_identity: Callable[[Identity], None] = lambda _identity: None,
        archives: Callable[[], str | None] = lambda: None,
        memory_path: str = "",
        jobs: Jobs | None = None,
    ) -> None:
        self._session = session
        self._coordinator = coordinator
        self._hands = hands
        self._settings_of = settings_of
        self._clock = clock
        self._archives = archives
        self._memory_path = memory_path
        self._woken = threading.Condition()
        self._is_woken = False
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._since = clock.time()
        self._membership = Membership(
            session, session, identity, clock,
            describe=self._describe, keep=keep_identity, on_change=self.look_soon,
            session_s=lambda: settings_of().zookeeper_session_s,
        )  # fmt: skip
        self._status = StatusWriter(session, clock, identity.host)
        self._reconciler = Reconciler(
            hands, turns, jobs or Threads(self.wake), clock,
            memory=memory, keep=keep, max_builds=lambda: settings_of().max_builds,
        )  # fmt: skip
        self._wanted = self._nothing_read()
        self._shared: Mapping[str, object] | None = None
        self._share_problems: tuple[str, ...] = ()
        self._refused: str | None = None
        self._trouble: str | None = None
        self._neighbours = Neighbours(session, clock, coordinator.living, settings_of=settings_of, archives=archives)
        self._epoch = -1
        self._acted_on = 0
        self._look_at = clock.monotonic()
        self._coming: Collection[EnvName] = frozenset()
        self._said: str | None = None
        self._stop_hearing: Callable[[], None] = lambda: None
        self._coordinator.declared(
            {EnvName(name): held.lock_generation or 1 for name, held in memory.environments.items()}
        )
        self._coordinator.classes(memory.classes)

    # ------------------------------------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Begin; waits for nothing."""
        self._stop_hearing = self._session.hear(lambda _state: self._hint())
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Turn soon."""
        with self._woken:
            self._is_woken = True
            self._woken.notify_all()

    def stop_beginning(self) -> None:
        """Begin nothing from now on; what runs goes on."""
        self._reconciler.leave()

    def leave(self) -> None:
        """End: tell how all stands, and be gone from the cluster at once. Bounded; what cannot be told is not."""
        self.stop_beginning()
        self._stop_hearing()
        with self._woken:
            self._is_stopping = True
            self._woken.notify_all()
        if self._thread is not None:
            self._thread.join(_END_S)
            if self._thread.is_alive():  # it waits for an answer, which we would wait for, too
                _log.warning("this host left its cluster without a word: ZooKeeper does not answer")
                return
        if self._session.is_connected and self._membership.has_joined and self._refused is None:
            try:
                self._session.sync(timeout_s=_LAST_S)  # nobody is held up by servers that stand still
                self._act()  # to see how what ran has ended
                self._tell(is_last=True)
                self._membership.leave()
            except EnvmgrError as error:
                _log.warning("this host left its cluster without a word: %s", error.message)

    def glance(self) -> wire.Membership:
        """Return how this host stands to its cluster."""
        wanted = self._wanted
        return wire.Membership(
            host=self._membership.identity.host,
            is_connected=self._session.is_connected,
            uuid=self.uuid,
            revision=self._reconciler.memory.revision,
            declared=len(self.declared()),
            is_cordoned=wanted.is_cordoned,
            problem=self._problem(),
        )

    @property
    def uuid(self) -> str | None:
        """The cluster that this host belongs to, ``None``: none yet."""
        return self._reconciler.memory.uuid

    def declared(self) -> Collection[EnvName]:
        """Return the environments that are the cluster's here."""
        return tuple(EnvName(name) for name in self._reconciler.memory.environments)

    def coming(self) -> Collection[EnvName]:
        """Return the environments that are made now or soon, without waiting for another host's turn."""
        return self._coming

    def _hint(self) -> None:
        """Hear that the revision changed, or the connection."""
        jitter = random.uniform(0, min(LONGEST_JITTER_S, self._neighbours.count * JITTER_PER_HOST_S))  # noqa: S311 - no secret
        with self._woken:
            self._look_at = min(self._look_at, self._clock.monotonic() + jitter)
            self._woken.notify_all()

    def look_soon(self) -> None:
        """Have a full pass now: the settings changed, or somebody else changed what this host says of itself."""
        with self._woken:
            self._look_at = self._clock.monotonic()
            self._is_woken = True
            self._woken.notify_all()

    # ---------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            due = self.turn()
            with self._woken:
                if not self._is_woken and not self._is_stopping:
                    self._woken.wait(max(0.0, min(due, self._look_at) - self._clock.monotonic()))
                self._is_woken = False
                if self._is_stopping:
                    return

    def turn(self) -> float:
        """Do all that is due now; return when (monotonic) the next turn is, unless something happens."""
        now = self._clock.monotonic()
        self._trouble = None
        due = []
        try:
            due = self._turn(now)
        except CoordinatorUnavailable as error:
            self._trouble = error.message
            due.append(now + RETRY_S)
        except ClusterTreeRefused as error:
            where = f"; what this host knows of its cluster stands in {self._memory_path}" if self._memory_path else ""
            self._refused = str(error).replace("\nhint: ", "; ") + where
        except (EnvmgrError, OSError) as error:
            self._trouble = str(error).replace("\n", "; ")
            due += [now + RETRY_S, *self._tell_trouble()]
        except Exception as error:  # noqa: BLE001 - the agent of a host never ends before its daemon
            _log.exception("agent: a pass failed unexpectedly")
            self._trouble = f"unexpected {type(error).__name__} in the agent; the log has the details"
            due += [now + RETRY_S, *self._tell_trouble()]
        self._say()
        with self._woken:
            return min([self._look_at, *due])

    def _turn(self, now: float) -> list[float]:
        is_full = False
        if self._session.is_connected:
            if now >= self._look_at or self._epoch != self._session.epoch:
                is_full = True
                self._look(now)
            if self._refused is not None or self._wanted.cluster is None:
                return []
            if not self._be_there():
                return [] if self._membership.due is None else [self._membership.due]
        else:
            self._put_off(now)
        if self._refused is not None or self._wanted.cluster is None or self._membership.is_pushed_aside:
            return []
        if not self._status.was_known:  # the connection went before anybody heard of this host
            return []
        if self._session.is_connected and not self._wanted.present().keys() <= self._hands.published().keys():
            self._neighbours.look_around_again(self._membership.identity.host)
        self._act()
        coming = ("building",) if self._wanted.is_cordoned else ("building", "pending")
        self._coming = frozenset(EnvName(it.name) for it in self._reconciler.statuses() if it.state in coming)
        due = [moment for moment in (self._reconciler.next_at(),) if moment is not None]
        due += [] if self._trouble is None else [now + RETRY_S]
        if self._membership.has_joined and self._session.is_connected:
            later = self._tell()
            due += [] if later is None else [later]
            if self._reconciler.jobs():  # how far they are is told from time to time, and nobody wakes us for it
                due.append(now + max(PROGRESS_S, self._neighbours.count / PROGRESS_PER_S))
            if self._status.has_vanished:
                self.look_soon()
            if is_full:
                self._neighbours.sweep(self._membership.identity.host, self._wanted.absent())
        return due

    def _put_off(self, now: float) -> None:
        """Look when the connection is back, of which we hear, and not before: the time for it may have come already."""
        interval_s = self._settings_of().agent_interval_s
        with self._woken:
            # The session is connected before anybody hears of it, so what is heard from now on is not overwritten.
            if self._look_at <= now and not self._session.is_connected:
                self._look_at = now + interval_s

    def _act(self) -> None:
        """Do what is wanted, as far as it may be done: on a full disk, which cannot remember more, only removals."""
        try:
            self._reconciler.reconcile(self._wanted, epoch=self._session.epoch)
        except (EnvmgrError, OSError) as error:
            self._trouble = str(error).replace("\n", "; ")
        else:
            self._acted_on = max(0, self._wanted.revision)

    def _look(self, now: float) -> None:
        """Read what the cluster wants."""
        interval_s = self._settings_of().agent_interval_s
        with self._woken:
            self._look_at = now + interval_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        labels = dict(self._settings_of().host_labels)
        if labels != self._wanted.labels:
            self._wanted = replace(self._wanted, labels=labels)
        # Read before the rest: a session that comes meanwhile is looked at with the next turn. So is what fails here.
        epoch, self._epoch = self._session.epoch, -1
        self._wanted = self._wanted.refresh(self._session, watch=self._hint)
        self._refused = None
        self._epoch = epoch
        cluster = self._wanted.cluster
        if cluster is None:
            return
        is_kept = True
        try:
            self._reconciler.meet(cluster)
        except OSError as error:
            self._trouble, is_kept = str(error), False
        self._coordinator.classes(cluster.classes)
        self._coordinator.declared({name: intent.lock_generation for name, intent in self._wanted.present().items()})
        if is_kept and cluster.settings != self._shared:  # they are read from where they are remembered
            self._share_problems = self._hands.share(cluster.settings)
            self._shared = cluster.settings

    def _be_there(self) -> bool:
        before = self._membership.identity.host
        is_new = not self._membership.has_joined
        is_there = self._membership.attend()
        if self._membership.identity.host != before:
            self._coordinator.named(self._membership.identity.host)
            self._wanted = self._nothing_read()
            self._status = StatusWriter(self._session, self._clock, self._membership.identity.host)
            self._look(self._clock.monotonic())
        if is_there and (is_new or self._status.has_vanished):
            self._status.begin()
            self._neighbours.look_around(self._membership.identity.host)
        if is_there and self._status.make_known(self._unknown()):
            # What was removed before anybody knew of this host is not kept for it: it must not act on it.
            self._look(self._clock.monotonic())
        return is_there

    def _nothing_read(self) -> Wanted:
        memory = self._reconciler.memory
        seen = None
        if memory.uuid is not None:
            seen = Seen(memory.uuid, memory.revision, memory.token, memory.is_restored)
        return Wanted(host=self._membership.identity.host, labels=dict(self._settings_of().host_labels), seen=seen)

    # ------------------------------------------------------------------------------------------------- what it tells

    def _describe(self, identity: Identity) -> Host:
        settings = self._settings_of()
        return Host(
            host=identity.host,
            instance=identity.instance,
            machine_id=identity.machine.id,
            boot_id=identity.machine.boot_id,
            store_id=identity.store_id,
            machine_class=settings.machine_class,
            version=__version__,
            address=settings.listen,
            archives=self._archives(),
            labels=dict(settings.host_labels),
            virtual_packages=dict(settings.virtual_packages),
            since=self._since,
        )

    def _unknown(self) -> HostStatus:
        """Return what a host says before it has done anything."""
        identity = self._membership.identity
        labels = dict(self._wanted.labels)
        return HostStatus(host=identity.host, instance=identity.instance, at=self._clock.time(), labels=labels)

    def _tell(self, *, is_last: bool = False) -> float | None:
        identity = self._membership.identity
        self._status.tell(
            HostStatus(
                host=identity.host,
                instance=identity.instance,
                revision=self._acted_on,
                at=self._clock.time(),
                heal=self._reconciler.memory.heal,
                environments=self._reconciler.statuses(),
                drift=self._reconciler.drift(),
                problem=self._problem(),
                labels=dict(self._wanted.labels),
            ),
            tuple(
                Progress(name=job.name, phase=job.phase, percent=job.percent)
                for job in self._reconciler.jobs()
                if job.kind != "remove" and not job.is_waiting
            ),
        )
        return self._status.flush(is_last=is_last)

    def _tell_trouble(self) -> list[float]:
        """Write down what ended this pass, since the next may end there, too; return when to write, if not now."""
        if not (self._membership.has_joined and self._session.is_connected):
            return []
        try:
            later = self._tell()
        except Exception:  # noqa: BLE001 - it tells of a failure, and may meet the same
            _log.warning("the cluster could not be told what keeps this host", exc_info=True)
            return []
        return [] if later is None else [later]

    def _problem(self) -> str | None:
        """Return what keeps this host from what the cluster wants, in words."""
        if self._refused is not None:
            return self._refused
        found = [self._membership.problem, self._membership.note, self._wanted.problem, self._trouble]
        has_looked = self._session.is_connected and self._epoch == self._session.epoch and self._trouble is None
        if has_looked and self._wanted.cluster is None:
            found.append("ZooKeeper has no cluster of envmgr here yet; envmgr cluster create makes one")
        found += [*self._share_problems, *self._reconciler.problems()]
        return "; ".join(word for word in found if word) or None

    def _say(self) -> None:
        """Tell the log of a problem once, and of its end."""
        problem = self._problem()
        if problem == self._said or (problem is None and not self._session.is_connected):
            return  # that all is well nobody knows while there is no connection
        self._said = problem
        if problem is None:
            _log.info("the cluster: all is well")
        else:
            _log.warning("the cluster: %s", problem)
