"""What the hosts say, read in bulk and put beside what is wanted of them.

The lists of children are read once, and one node per host; who looks again (`Statuses.refresh` with watches) reads only
the lists that have changed and the hosts that have said something new. Since a watch may be lost, everything is read
again now and then: after `FULL_S`, and the later the more hosts there are and the longer it has lasted, so that a wait
of any length reads each host a few times only. Progress has no watch: of at most `MOST_PROGRESS` hosts it is read, so
many in a second, and only for who shows it.

Of thousands of reads some get no answer where the servers have much to do: only those are asked for again, up to
`ROUNDS` times in a look, and by who looks again with the next one.

Intent is read before the statuses: a host may be ahead of what is read of the intent, never behind what it says itself.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from envmgr.coordination.zookeeper import tree as paths
from envmgr.errors import CoordinatorUnavailable, Corrupt
from envmgr.wire.cluster import HostInfo, Row
from envmgr.wire.tree import EnvironmentStatus, EnvState, Host, HostProgress, HostStatus, Intent, Progress, decode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock

T = TypeVar("T")

FULL_S = 15.0
MOST_PROGRESS = 40
_READS_PER_S = 2
"""How fast, on the average, what should not be new is read again."""
_PROGRESS_PER_S = 20
_PROGRESS_S = 1.0
_FEW = 32
ROUNDS = 3
_LONGEST_WORDS = 4000
"""Of what a host says; whoever asks for all hosts is not to get megabytes of one."""
_BUILDING: frozenset[EnvState] = frozenset({"building"})


@dataclass(frozen=True, slots=True)
class Known:
    """One host as far as it is known; `status` is ``None`` for one that has said nothing yet."""

    host: str
    is_live: bool
    is_cordoned: bool
    labels: Mapping[str, str]
    status: HostStatus | None
    environments: Mapping[str, EnvironmentStatus] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    damage: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the host as a whole."""
        return self.damage or (_cut(self.status.problem) if self.status else None)

    def has_acknowledged(self, intent: Intent) -> bool:
        """Tell whether the host has done what an ``absent`` asks for, or never had the environment."""
        if self.status is None:
            return not self.damage
        found = self.environments.get(intent.name)
        if found is None:
            return self.status.revision >= intent.generation
        return found.generation >= intent.generation and found.state == "absent"


class Statuses:
    """The hosts' words, kept from one look to the next; not for several threads. `on_change` is set from any.

    Without `on_change` each look reads everything, all progress with it.
    """

    def __init__(
        self, tree: Tree, clock: Clock, on_change: threading.Event | None = None, *, has_progress: bool = False
    ) -> None:
        self._tree = tree
        self._clock = clock
        self._on_change = on_change
        self._known: dict[str, Known] = {}
        self._fresh: dict[str, Known] = {}
        """What a look has read that was not answered in full."""
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._watches: dict[str, functools.partial[None]] = {}
        self._lists: dict[str, frozenset[str]] = {}
        self._has_progress = has_progress
        self._began = self._full_at = self._progress_at = clock.monotonic()

    def refresh(self) -> Mapping[str, Known]:
        """Read what is new and return every known host."""
        is_full = self._on_change is None or self._clock.monotonic() >= self._full_at
        with self._lock:
            changed, self._changed = self._changed, set()
        try:
            self._known = self._look(changed, is_full=is_full)
        except BaseException:
            with self._lock:
                self._changed |= changed - self._fresh.keys()  # no watch tells of it again
            raise
        if is_full:
            now = self._clock.monotonic()
            self._full_at = now + max(FULL_S, len(self._known) / _READS_PER_S, (now - self._began) / 2)
        return self._known

    @property
    def progress_in_s(self) -> float | None:
        """How long until progress is to be read again; ``None``: nobody shows it."""
        return max(0.0, self._progress_at - self._clock.monotonic()) if self._has_progress else None

    def _look(self, changed: Collection[str], *, is_full: bool) -> dict[str, Known]:
        # Without watches nobody would tell that it has changed since.
        is_kept = self._on_change is not None
        self._fresh = {host: it for host, it in self._fresh.items() if is_kept and host not in changed}
        live, known, cordoned = (
            self._list(path, is_new=is_full or path in changed) for path in (paths.HOSTS, paths.STATUS, paths.CORDONS)
        )
        building = self._building()
        kept = {} if is_full else {host: it for host, it in self._known.items() if host not in changed}
        kept |= self._fresh

        def read(host: str) -> Known:
            found = self._read(
                host,
                kept.get(host),
                is_live=host in live,
                is_known=host in known,
                is_cordoned=host in cordoned,
                is_building=building is not None and host in building,
            )
            if building is None and host in self._known:
                return dataclasses.replace(found, progress=self._known[host].progress)
            return found

        hosts = sorted(live | known)
        found: dict[str, Known] = {}
        try:
            at_once(read, [host for host in hosts if host not in kept or host in (building or ())], found)
        except CoordinatorUnavailable:
            self._fresh |= found
            raise
        self._fresh = {}
        return {host: found[host] if host in found else read(host) for host in hosts}

    def _list(self, path: str, *, is_new: bool) -> frozenset[str]:
        if is_new or path not in self._lists:
            self._lists.pop(path, None)
            self._lists[path] = frozenset(self._tree.children(path, watch=self._watch(path)))
        return self._lists[path]

    def _building(self) -> Collection[str] | None:
        """Return the hosts whose progress is to be read now; ``None``: what was read of it holds."""
        if self._on_change is None:
            return frozenset(self._tree.children(paths.PROGRESS))
        if not self._has_progress or self._clock.monotonic() < self._progress_at:
            return None
        building = self._tree.children(paths.PROGRESS)[:MOST_PROGRESS]
        self._progress_at = self._clock.monotonic() + max(_PROGRESS_S, len(building) / _PROGRESS_PER_S)
        return building

    def said_by(self, host: str) -> Known:
        """Read what a known host says, and nothing else about it."""
        return self._read(host, None, is_live=False, is_known=True, is_cordoned=False, is_building=False)

    def one(self, host: str) -> Known | None:
        """Read one host alone; ``None``: it is not known."""
        is_live = self._tree.get(paths.host(host)) is not None
        is_known = self._tree.get(paths.status(host)) is not None
        if not is_live and not is_known:
            return None
        return self._read(
            host,
            None,
            is_live=is_live,
            is_known=is_known,
            is_cordoned=self._tree.get(paths.cordon(host)) is not None,
            is_building=True,
        )

    def _read(
        self, host: str, kept: Known | None, *, is_live: bool, is_known: bool, is_cordoned: bool, is_building: bool
    ) -> Known:
        status, damage, labels = (kept.status, kept.damage, kept.labels) if kept else (None, None, {})
        environments = kept.environments if kept else {}
        if is_known and status is None and damage is None:
            status, damage = _record(HostStatus, self._tree, paths.status(host), self._watch(host))
            environments = {found.name: found for found in status.environments} if status else {}
            labels = status.labels if status else {}
        if status is None and is_live and not (kept and kept.is_live):
            labels = labels or self._host_labels(host)
        progress = self._progress(host) if is_building else {}
        return Known(host, is_live, is_cordoned, labels, status, environments, progress, damage)

    def _host_labels(self, host: str) -> Mapping[str, str]:
        found, _ = _record(Host, self._tree, paths.host(host))
        return found.labels if found else {}

    def _progress(self, host: str) -> Mapping[str, Progress]:
        found, _ = _record(HostProgress, self._tree, paths.progress(host))
        return {build.name: build for build in found.builds} if found else {}

    def _watch(self, what: str) -> functools.partial[None] | None:
        """Return what hears of a change of a host's word, or of a list: always the same, so that it is kept once."""
        return self._watches.setdefault(what, functools.partial(self._wake, what)) if self._on_change else None

    def _wake(self, what: str) -> None:
        with self._lock:
            self._changed.add(what)
        if self._on_change is not None:
            self._on_change.set()


def at_once(read: Callable[[str], T], hosts: Sequence[str], found: dict[str, T] | None = None) -> Mapping[str, T]:
    """Return each host with what is read of it; of many hosts, several are asked for at a time.

    Raises `CoordinatorUnavailable` when some were not answered, `ROUNDS` times or all of them; `found` has the others.
    """
    found = {} if found is None else found
    left, rounds = list(hosts), 1
    while (error := _ask(read, left, found)) is not None:
        rest = [host for host in left if host not in found]
        if rounds == ROUNDS or len(rest) == len(left):
            raise error
        left, rounds = rest, rounds + 1
    return found


def _ask(read: Callable[[str], T], hosts: Sequence[str], found: dict[str, T]) -> CoordinatorUnavailable | None:
    """Ask for each host once; return an error if one was not answered. Servers that stand still are not asked on."""
    most = 1 if len(hosts) <= _FEW else _FEW
    unanswered: list[CoordinatorUnavailable] = []

    def ask(host: str) -> None:
        if len(unanswered) < most:
            try:
                found[host] = read(host)
            except CoordinatorUnavailable as error:
                unanswered.append(error)

    if len(hosts) <= _FEW:
        for host in hosts:
            ask(host)
    else:
        with ThreadPoolExecutor(_FEW, thread_name_prefix="statuses") as pool:
            list(pool.map(ask, hosts))
    return unanswered[0] if unanswered else None


def _record(
    cls: type[T], tree: Tree, path: str, watch: functools.partial[None] | None = None
) -> tuple[T | None, str | None]:
    """Return the record at a path, or ``None`` and, if it cannot be read, why."""
    node = tree.get(path, watch=watch)
    try:
        return (None if node is None else decode(cls, node.data, path)), None
    except Corrupt as error:
        return None, error.message


# --------------------------------------------------------------------------------------------------------------- rows


def rows(intent: Intent, known: Mapping[str, Known]) -> tuple[Row, ...]:
    """Return a row for each host that an environment is meant for, or, once ``absent``, was brought to."""
    if intent.state == "absent":
        had = (host for host in known.values() if intent.name in host.environments or not host.has_acknowledged(intent))
        return tuple(row(intent, host.host, host) for host in had)
    meant = {host.host for host in known.values() if intent.selector.matches(host.host, host.labels)}
    if not intent.selector.labels:
        meant.update(intent.selector.hosts)
    return tuple(row(intent, host, known.get(host)) for host in sorted(meant))


def row(intent: Intent, host: str, known: Known | None) -> Row:
    """Return what there is to say of one environment on one host; of an unknown host, that it is unknown."""
    found = known.environments.get(intent.name) if known else None
    state = _state(intent, known, found)
    is_current = found is not None and found.generation >= intent.generation
    error = found.error if found and is_current and state == "failed" else None
    progress = known.progress.get(intent.name) if known and state in _BUILDING else None
    wanted = "ready" if intent.state == "present" else "absent"
    return Row(
        host=host,
        name=intent.name,
        success=True if state == wanted else False if state == "failed" else None,
        state=state,
        is_live=known is not None and known.is_live,
        is_cordoned=known is not None and known.is_cordoned,
        phase=progress.phase if progress else None,
        percent=progress.percent if progress else None,
        start=found.started_at if found else None,
        end=found.finished_at if found else None,
        message=_message(known, state, error),
        code=_cut(error["code"]) if error and "code" in error else None,
        hint=_cut(error["hint"]) if error and error.get("hint") else None,
        is_drift=found is not None and found.is_drift,
        generation=found.generation if found else 0,
        lock_generation=found.lock_generation if found else 0,
        lock_digest=found.lock_digest if found else None,
        retry_at=found.retry_at if found and is_current else None,
        attempts=found.attempts if found and is_current else 0,
    )


def _state(intent: Intent, known: Known | None, found: EnvironmentStatus | None) -> EnvState:
    if found is not None and found.generation >= intent.generation:
        return found.state
    if intent.state == "absent" and known is not None and known.has_acknowledged(intent):
        return "absent"
    return "building" if found is not None and found.state == "building" else "pending"


def _message(known: Known | None, state: EnvState, error: Mapping[str, object] | None) -> str | None:
    if error is not None:
        return _cut(error.get("message", ""))
    if known is None:
        return "no host of that name is or was in the cluster"
    if state in ("ready", "absent"):
        return None
    if not known.is_live:
        return "the host is away; it catches up when it is back"
    if known.is_cordoned and state in ("pending", "waiting"):
        return "the host is cordoned: it begins nothing new"
    return known.problem


def _cut(words: object) -> str | None:
    return None if words is None else str(words)[:_LONGEST_WORDS]


def host_info(known: Known, live: Host | None) -> HostInfo:
    """Return what there is to say of a host; `live` is what it says of itself while it lives."""
    states = [found.state for found in known.environments.values()]
    drifted = (found.name for found in known.environments.values() if found.is_drift)
    return HostInfo(
        host=known.host,
        is_live=known.is_live,
        is_cordoned=known.is_cordoned,
        live=live,
        ready=states.count("ready"),
        building=states.count("building"),
        failed=states.count("failed"),
        drift=tuple(sorted({*drifted, *(known.status.drift if known.status else ())})),
        seen_at=known.status.at if known.status else live.since if live else 0.0,
        problem=known.problem,
    )
