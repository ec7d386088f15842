"""How far a rollout is: numbers of hosts, which hosts count, when it is done or has failed, and waiting for it."""

from __future__ import annotations

import dataclasses

import pytest
from fakes.clock import FakeClock

from envmgr.cluster.rollout import Bound, Summary, summary, wait
from envmgr.errors import EnvironmentNotFound, RolloutFailed, TimedOut, UsageError
from envmgr.wire.cluster import DeclaredEnvironment, Row
from envmgr.wire.tree import EnvState, Selector


@pytest.mark.parametrize(
    ("text", "hosts", "at_most", "at_least"),
    [
        ("1", 100, 1, 1),
        ("10", 3, 10, 10),
        ("25%", 10, 2, 3),
        ("1%", 10, 1, 1),
        ("100%", 7, 7, 7),
        ("50%", 0, 1, 0),
        ("33%", 3, 1, 1),
    ],
)
def test_numbers_of_hosts(text: str, hosts: int, at_most: int, at_least: int) -> None:
    """A share for `--max-parallel` is rounded down, but never to none; for `--min-ready` it is rounded up."""
    bound = Bound.parse(text)
    assert (bound.at_most(hosts), bound.at_least(hosts)) == (at_most, at_least)


@pytest.mark.parametrize("text", ["", "0", "-1", "0%", "101%", "1.5", "ten", "%", "1 %", "١", "9" * 30])
def test_what_is_no_number_of_hosts(text: str) -> None:
    """Whatever is neither N nor P% is refused with an example."""
    with pytest.raises(UsageError, match="number of hosts"):
        Bound.parse(text)


def test_no_bound_is_all() -> None:
    """Without a bound all may begin at once, and all must be ready."""
    assert (Bound().at_most(9), Bound().at_least(9)) == (0, 9)


def row_of(host: str, state: EnvState, **facts: object) -> Row:
    row = Row(
        host=host,
        name="env-0000000000000000",
        success={"ready": True, "failed": False}.get(state),
        state=state,
        is_live=True,
        phase=None,
        percent=None,
        start=1.0,
        end=2.0,
        message="the disk is full" if state == "failed" else None,
        code=None,
        hint=None,
        is_drift=False,
        generation=1,
        lock_generation=1,
        lock_digest=None,
        retry_at=None,
    )
    return dataclasses.replace(row, **facts)  # type: ignore[arg-type]


def environment_of(*rows: Row, hosts: tuple[str, ...] = ()) -> DeclaredEnvironment:
    return DeclaredEnvironment(
        name="env-0000000000000000",
        state="present",
        generation=1,
        label=None,
        aliases=(),
        selector=Selector(hosts=hosts),
        lock_generation=1,
        max_parallel=0,
        declared_by="ada",
        declared_at=0.0,
        rows=rows,
    )


def test_hosts_that_are_away_or_cordoned_hold_nobody_up() -> None:
    """They are told of, and catch up later; what is ready there already counts."""
    rows = (
        row_of("a", "ready"),
        row_of("b", "pending", is_live=False),
        row_of("c", "pending", is_cordoned=True),
        row_of("d", "ready", is_live=False),
    )
    now = summary(environment_of(*rows))
    assert now.is_done
    assert (now.hosts, now.ready, now.away, now.cordoned, now.counted, now.waiting) == (4, 2, 2, 1, 2, 0)


def test_a_host_that_was_named_is_waited_for() -> None:
    """Who names a host wants it there: that it is away does not make the rollout done."""
    now = summary(environment_of(row_of("a", "ready"), row_of("b", "pending", is_live=False), hosts=("a", "b")))
    assert not now.is_done
    assert not now.is_failed


def test_one_host_that_fails_for_good_fails_the_rollout_when_all_must_be_ready() -> None:
    """It is said as soon as the others have come to their end, too, so that the whole of it is told."""
    rows = [row_of("a", "ready"), row_of("b", "building"), row_of("c", "failed")]
    now = summary(environment_of(*rows))
    assert (now.is_done, now.is_failed, now.lost, now.busy) == (False, False, 1, 1)
    rows[1] = row_of("b", "ready")
    assert summary(environment_of(*rows)).is_failed
    assert not summary(environment_of(*rows), Bound(count=2)).is_failed
    assert summary(environment_of(*rows), Bound(percent=34)).needed == 2


def test_what_is_repeated_by_itself_has_not_failed_yet() -> None:
    """A transient failure counts after so many tries."""
    again = row_of("a", "failed", retry_at=10.0, attempts=1)
    assert not summary(environment_of(again)).is_failed
    assert summary(environment_of(dataclasses.replace(again, attempts=3))).is_failed


def test_enough_is_enough() -> None:
    """With `--min-ready` the rest goes on without anybody waiting for it."""
    rows = (row_of("a", "ready"), row_of("b", "building"), row_of("c", "failed"), row_of("d", "waiting"))
    assert summary(environment_of(*rows), Bound(percent=25)).is_done
    assert not summary(environment_of(*rows), Bound(percent=50)).is_done


def test_without_hosts_a_rollout_is_done() -> None:
    """What is meant for hosts that are yet to come is declared, and that is all."""
    assert summary(environment_of()).is_done


class Watched:
    """A rollout that goes on a step with each look; waiting takes the time that it is given."""

    def __init__(self, clock: FakeClock, *steps: DeclaredEnvironment) -> None:
        self.clock = clock
        self.steps = list(steps)
        self.waited = 0

    def show(self) -> DeclaredEnvironment:
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    def wait(self, timeout_s: float) -> None:
        self.clock.sleep(timeout_s)
        self.waited += 1
        assert self.waited < 100, "nobody ends this"


def test_waiting_ends_with_the_rollout(clock: FakeClock) -> None:
    """It returns when it is done, having told of each look."""
    steps = [environment_of(row_of("a", state)) for state in ("pending", "building", "ready")]
    seen: list[Summary] = []
    done = wait(Watched(clock, *steps), clock=clock, on_look=lambda _, now: seen.append(now))
    assert done.rows[0].success
    assert [now.counted_ready for now in seen] == [0, 0, 1]


def test_a_failed_rollout_says_which_hosts_and_why(clock: FakeClock) -> None:
    """The message groups hosts by their reason; the rows of all that are not ready go along."""
    rows = (row_of("a", "failed"), row_of("b", "failed"), row_of("c", "failed", message="x"), row_of("d", "ready"))
    with pytest.raises(RolloutFailed, match="a, b: the disk is full") as caught:
        wait(Watched(clock, environment_of(*rows)), clock=clock)
    told = caught.value.fields["rows"]
    assert isinstance(told, list)
    assert [row["host"] for row in told] == ["a", "b", "c"]


def test_fewer_hosts_than_are_asked_for(clock: FakeClock) -> None:
    """More hosts than there are cannot become ready: it fails when all are done, and there is no reason to name."""
    with pytest.raises(RolloutFailed, match=r"ready on 1 of 1 hosts, 5 were needed\n"):
        wait(Watched(clock, environment_of(row_of("a", "ready"))), clock=clock, min_ready=Bound(count=5))


def test_time_that_is_up_is_not_failure(clock: FakeClock) -> None:
    """Waiting is bounded by the caller's time, to the moment; the hosts go on."""
    before = clock.now
    with pytest.raises(TimedOut, match="0 of 1 hosts after 12 s"):
        wait(Watched(clock, environment_of(row_of("a", "building"))), clock=clock, timeout_s=12.0)
    assert clock.now == before + 12.0


def test_a_removal_is_told_as_one(clock: FakeClock) -> None:
    """What is to go is not "ready" where it has gone, neither when the time is up nor when a host cannot do it."""
    rows = (row_of("a", "absent", success=True), row_of("b", "removing"))
    with pytest.raises(TimedOut, match="is gone from 1 of 2 hosts after 12 s"):
        wait(Watched(clock, dataclasses.replace(environment_of(*rows), state="absent")), clock=clock, timeout_s=12.0)
    failed = dataclasses.replace(environment_of(rows[0], row_of("b", "failed")), state="absent")
    with pytest.raises(RolloutFailed, match="is gone from 1 of 2 hosts, 2 were needed; b: the disk is full"):
        wait(Watched(clock, failed), clock=clock)


def test_what_somebody_else_wants_meanwhile_is_not_what_was_waited_for(clock: FakeClock) -> None:
    """That every host has removed it is no success of a create, and that all have it again none of a removal."""
    present = environment_of(row_of("a", "building"))
    absent = dataclasses.replace(
        environment_of(dataclasses.replace(row_of("a", "absent"), success=True)), state="absent", declared_by="eve"
    )
    with pytest.raises(EnvironmentNotFound, match="removed from the cluster by eve while"):
        wait(Watched(clock, present, absent), clock=clock, state="present")
    again = dataclasses.replace(environment_of(row_of("a", "ready")), declared_by="eve")
    going = dataclasses.replace(absent, rows=(row_of("a", "removing"),))
    with pytest.raises(RolloutFailed, match="declared again by eve while"):
        wait(Watched(clock, going, again), clock=clock, state="absent")
    assert wait(Watched(clock, going, absent), clock=clock, state="absent") == absent
