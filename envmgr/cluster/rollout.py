"""How far a rollout is, when it is done, and waiting for it.

The hosts that *count* are those that an environment is meant for, live, and may begin something; one that is away or
cordoned catches up later and holds nobody up. A host that the declaration names counts in any case.

A row is *final* when it is ready, or failed in a way that nobody repeats by himself, or `TRIES` times. A rollout is
*done* when enough counted hosts are ready (all of them, or ``--min-ready``), *failed* when that cannot come any more
without somebody doing something, and the others that live have come to their end, too. One without a counted host is
done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from envmgr.errors import EnvironmentNotFound, RolloutFailed, TimedOut, UsageError

if TYPE_CHECKING:
    from envmgr.ports import Clock, Watching
    from envmgr.wire.cluster import DeclaredEnvironment, Row

TRIES = 3
LONGEST_PAUSE_S = 5.0
_WAITING = ("pending", "waiting", "removing")


@dataclass(frozen=True, slots=True)
class Bound:
    """So many hosts, or so many of a hundred; both 0: no bound."""

    count: int = 0
    percent: int = 0

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Read ``N`` or ``P%``; raises `UsageError`."""
        digits, is_percent = (text[:-1], True) if text.endswith("%") else (text, False)
        if digits.isascii() and digits.isdigit() and len(digits) <= 7:
            number = int(digits)
            if is_percent and 1 <= number <= 100:
                return cls(percent=number)
            if not is_percent and number >= 1:
                return cls(count=number)
        raise UsageError(f"{text!r} is no number of hosts", hint="such as 10, or 25% (1% to 100%)")

    def at_most(self, hosts: int) -> int:
        """Return how many of `hosts` may do something at a time, at least one; 0: all."""
        return self.count or (max(1, hosts * self.percent // 100) if self.percent else 0)

    def at_least(self, hosts: int) -> int:
        """Return how many of `hosts` must be ready."""
        if self.percent:
            return -(-hosts * self.percent // 100)
        return self.count or hosts


@dataclass(frozen=True, slots=True)
class Summary:
    """One line on a rollout; the first numbers are of all rows, `counted`, `needed` and `lost` of those that count.

    `waiting` are only hosts that live and are not cordoned: the others are `away` or `cordoned`. `lost` are the counted
    hosts of which nothing more is to be expected, `busy` those that live and are not there yet.
    """

    hosts: int
    ready: int
    failed: int
    building: int
    waiting: int
    away: int
    cordoned: int
    counted: int
    counted_ready: int
    needed: int
    lost: int
    busy: int

    @property
    def is_done(self) -> bool:
        """Whether enough is ready."""
        return self.counted_ready >= self.needed

    @property
    def is_failed(self) -> bool:
        """Whether enough cannot become ready any more, and nobody is at it."""
        return not self.is_done and self.counted - self.lost < self.needed and not self.busy


def summary(environment: DeclaredEnvironment, min_ready: Bound | None = None) -> Summary:
    """Return how far an environment's rollout (or its removal) is."""
    rows = environment.rows
    counted = [row for row in rows if counts(row, environment.selector.hosts)]
    states = [row.state for row in rows]
    return Summary(
        hosts=len(rows),
        ready=sum(row.success is True for row in rows),
        failed=sum(row.success is False for row in rows),
        building=states.count("building"),
        waiting=sum(row.state in _WAITING and row.is_live and not row.is_cordoned for row in rows),
        away=sum(not row.is_live for row in rows),
        cordoned=sum(row.is_cordoned for row in rows),
        counted=len(counted),
        counted_ready=sum(row.success is True for row in counted),
        needed=(min_ready or Bound()).at_least(len(counted)),
        lost=sum(row.success is False and is_final(row) for row in counted),
        busy=sum(row.is_live and not row.is_cordoned and not is_final(row) for row in counted),
    )


def counts(row: Row, named: Sequence[str]) -> bool:
    """Tell whether a rollout waits for this host."""
    return row.success is True or row.host in named or (row.is_live and not row.is_cordoned)


def is_final(row: Row) -> bool:
    """Tell whether nothing more is to be expected of a row."""
    return row.success is True or (row.success is False and (row.retry_at is None or row.attempts >= TRIES))


def wait(
    watching: Watching,
    *,
    clock: Clock,
    state: str | None = None,
    min_ready: Bound | None = None,
    timeout_s: float | None = None,
    on_look: Callable[[DeclaredEnvironment, Summary], None] = lambda *_: None,
) -> DeclaredEnvironment:
    """Return when the rollout (or the removal) is done; `on_look` is told each time it was looked at.

    Raises `RolloutFailed`, and `TimedOut` when the time is up; the field ``rows`` of both has those that are not ready.
    When somebody else wants another `state` of it meanwhile (``present``, ``absent``), that is not what was waited for:
    `EnvironmentNotFound` for a rollout, `RolloutFailed` for a removal.
    """
    end = None if timeout_s is None else clock.monotonic() + timeout_s
    while True:
        environment = watching.show()
        if state not in (None, environment.state):
            raise _changed(environment)
        now = summary(environment, min_ready)
        on_look(environment, now)
        if now.is_done:
            return environment
        if now.is_failed:
            raise _failed(environment, now)
        left = None if end is None else end - clock.monotonic()
        if left is not None and left <= 0:
            raise _timed_out(environment, now, timeout_s)
        watching.wait(LONGEST_PAUSE_S if left is None else min(LONGEST_PAUSE_S, left))


def _changed(environment: DeclaredEnvironment) -> EnvironmentNotFound | RolloutFailed:
    name, by = environment.name, environment.declared_by
    if environment.state == "absent":
        return EnvironmentNotFound(
            f"{name} was removed from the cluster by {by} while its hosts were waited for",
            hint="envmgr cluster create FILE declares it again",
        )
    return RolloutFailed(
        f"{name} was declared again by {by} while its removal was waited for",
        hint="envmgr cluster show X tells for whom; envmgr cluster remove X takes it away again",
        name=name,
        rows=_undone(environment),
    )


def _failed(environment: DeclaredEnvironment, now: Summary) -> RolloutFailed:
    reasons: dict[str, list[str]] = {}
    for row in environment.rows:
        if row.success is False:
            reasons.setdefault(row.message or "", []).append(row.host)
    told = "; ".join(f"{_hosts(hosts)}: {message}" for message, hosts in sorted(reasons.items())[:5])
    return RolloutFailed(
        f"{environment.name} is {_done(environment)} {now.counted_ready} of {now.counted} hosts, "
        f"{now.needed} were needed"
        + (f"; {told}" if told else ""),  # none failed where fewer hosts are meant than were asked for
        hint="envmgr cluster why X HOST says more; envmgr cluster retry X has it tried again",
        name=environment.name,
        rows=_undone(environment),
    )


def _timed_out(environment: DeclaredEnvironment, now: Summary, timeout_s: float | None) -> TimedOut:
    return TimedOut(
        f"{environment.name} is {_done(environment)} {now.counted_ready} of {now.counted} hosts after {timeout_s:g} s; "
        f"{now.needed} were needed",
        hint="the hosts go on; envmgr cluster status X shows them",
        name=environment.name,
        rows=_undone(environment),
    )


def _done(environment: DeclaredEnvironment) -> str:
    return "ready on" if environment.state == "present" else "gone from"


def _undone(environment: DeclaredEnvironment) -> list[dict[str, object]]:
    return [asdict(row) for row in environment.rows if row.success is not True]


def _hosts(hosts: Sequence[str]) -> str:
    shown = ", ".join(hosts[:3])
    return shown if len(hosts) <= 3 else f"{shown} and {len(hosts) - 3} more"
