"""Every operation that was asked for comes to one end, whoever joins, cancels, leaves or stops the daemon meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes.clock import FakeClock
from fakes.processes import LIMIT_S
from flying import BEN, DONE, NAME, ROOT, Held, done, ended, submit

from envmgr.errors import AliasTaken, Busy, Cancelled, DaemonUnavailable, Unsatisfiable
from envmgr.events import Event
from envmgr.model import Caller
from envmgr.operations import Flight, Operations, flight
from envmgr.operations.operations import MAX_KEPT
from envmgr.wire import socket as wire


def states(one: Flight) -> list[str]:
    return [str(entry.data["state"]) for entry in one.since(0) if entry.event in ("state", "end")]


def kinds(one: Flight) -> list[str]:
    return [entry.event for entry in one.since(0)]


# ----------------------------------------------------------------------------------------------------- how they end


def test_a_success(operations: Operations, told: list[Flight]) -> None:
    """Work that returns makes a success: its result, all states in order, the end last, told once."""
    one = submit(operations)
    operation = ended(one)
    assert (operation.state, operation.result, operation.error) == ("succeeded", DONE, None)
    assert states(one) == ["queued", "running", "succeeded"]
    assert kinds(one)[-1] == "end"
    assert one.since(0)[-1].data["result"] == {"name": NAME, "lock_digest": "0" * 64, "text": "x"}
    operations.drain(0.0)
    assert told == [one]


def test_a_failure_is_the_works_own_error(operations: Operations) -> None:
    """What the work raises is the operation's error, with its code, hint and fields."""
    work = Held(error=Unsatisfiable("no numpy", hint="look", package="numpy"))
    work.go.set()
    error = ended(submit(operations, work)).error
    assert error == wire.Error(
        code="unsatisfiable", message="no numpy", hint="look", is_transient=False, fields={"package": "numpy"}
    )


@pytest.mark.parametrize("error", [KeyError("secret"), SystemExit(3), KeyboardInterrupt()])
def test_what_nobody_foresaw(operations: Operations, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """Anything else that is raised ends the operation, too: as `unexpected`, its text and traceback in the log only."""
    work = Held(error=error)
    work.go.set()
    with caplog.at_level(logging.ERROR):
        one = submit(operations, work)
        operation = ended(one)
    assert operation.error is not None
    assert (operation.state, operation.error.code) == ("failed", "unexpected")
    assert "secret" not in str(operation)
    assert "Traceback" in caplog.text
    assert one.error is not None
    assert one.error.__traceback__ is None


def test_cancel_while_queued(operations: Operations, told: list[Flight]) -> None:
    """What waits is cancelled at once and never runs; the error says by whom."""
    blocker, work = Held(), Held()
    submit(operations, blocker, key="blocker")
    one = submit(operations, work)
    one.cancel(ROOT)
    operation = one.snapshot()
    assert (operation.state, operation.error and operation.error.message) == ("cancelled", "root cancelled it")
    one.cancel(BEN)
    assert states(one) == ["queued", "cancelled"]
    assert told == [one]
    assert operations.queued == 0
    blocker.go.set()
    assert not work.begun.is_set()


def test_cancel_while_running(operations: Operations) -> None:
    """What runs is told to stop and ends when it does; the first who cancelled is named."""
    work = Held()
    one = submit(operations, work)
    work.wait_begun()
    one.cancel(ROOT)
    one.cancel(BEN)
    operation = ended(one)
    assert (operation.state, operation.error and operation.error.message) == ("cancelled", "root cancelled it")


def test_cancel_comes_too_late_for_work_that_succeeds(operations: Operations) -> None:
    """Work that was told to stop after its last look comes to its result: what was made is not denied."""
    work = Held(is_deaf=True)
    one = submit(operations, work)
    work.wait_begun()
    one.cancel(ROOT)
    work.go.set()
    assert ended(one).state == "succeeded"
    one.cancel(ROOT)
    assert states(one) == ["queued", "running", "succeeded"]


def test_a_failure_after_a_cancellation_stays_a_failure(operations: Operations) -> None:
    """An error that is no `Cancelled` is not hidden behind the cancellation that came at the same time."""
    work = Held(is_deaf=True, error=Unsatisfiable("no numpy"))
    one = submit(operations, work)
    work.wait_begun()
    one.cancel(ROOT)
    work.go.set()
    assert ended(one).state == "failed"


def test_cancel_and_finish_at_one_moment(make: Callable[..., Operations], told: list[Flight]) -> None:
    """Cancelled at the moment of its end by several: one end each, told once, of one of the two kinds."""
    operations = make(max_running=8)
    flights = []
    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            work = Held()
            one = submit(operations, work, key=number)
            work.wait_begun()
            start = threading.Barrier(3)
            acts = (work.go.set, lambda one=one: one.cancel(ROOT), lambda one=one: one.cancel(BEN))  # type: ignore[misc]
            list(pool.map(lambda act: (start.wait(LIMIT_S), act()), acts))  # noqa: B023 - waited for inside the loop
            flights.append(one)
        for one in flights:
            assert ended(one).state in ("succeeded", "cancelled")
            assert kinds(one).count("end") == 1
    operations.drain(0.0)
    assert sorted(map(id, told)) == sorted(map(id, flights))


# ------------------------------------------------------------------------------------------------------------- joining


def test_one_flight_for_all_who_ask(operations: Operations) -> None:
    """Fifty callers of one key at one moment share one flight; another key has its own."""
    work = Held()
    start = threading.Barrier(50)

    def ask(number: int) -> Flight:
        start.wait(LIMIT_S)
        return submit(operations, work, caller=Caller(f"user{number}", "use", uid=number))

    with ThreadPoolExecutor(50) as pool:
        flights = set(pool.map(ask, range(50)))
    assert len(flights) == 1
    assert submit(operations, key="other") not in flights
    work.go.set()
    assert ended(flights.pop()).by.startswith("user")


def test_what_ended_is_never_joined(operations: Operations) -> None:
    """Who asks while the end of the last one is being told gets a new flight, not one that is over."""
    second: list[Flight] = []
    asked = threading.Event()

    def ask_again(_one: Flight) -> None:
        if not asked.is_set():
            second.append(submit(operations))
            asked.set()

    operations.hear_of_ends(ask_again)
    first = submit(operations)
    assert asked.wait(LIMIT_S)
    assert first.snapshot().state == "succeeded"
    assert second[0] is not first
    assert ended(second[0]).state == "succeeded"


def test_what_was_told_to_stop_is_never_joined(make: Callable[..., Operations]) -> None:
    """Who asks for what is being cancelled gets a flight of his own, which comes to its own end."""
    operations = make(max_running=2)
    work = Held(is_deaf=True, error=Cancelled("stopped"))
    first = submit(operations, work)
    work.wait_begun()
    first.cancel(ROOT)
    second = submit(operations)
    assert second is not first
    assert ended(second).state == "succeeded"
    work.go.set()
    assert ended(first).state == "cancelled"
    assert submit(operations) is not second


def test_a_joined_flight_ends_after_it_was_asked_for(make: Callable[..., Operations]) -> None:
    """Many ask again and again for what ends at once: each gets a flight that ends, and none that was over before."""
    operations = make(max_running=2)
    finished = 0
    lock = threading.Lock()

    def work(_report: object, _is_cancelled: object) -> wire.Result:
        nonlocal finished
        with lock:
            finished += 1
            return wire.LockResult(name=NAME, lock_digest=str(finished), text="")

    def ask(_number: int) -> None:
        for _ in range(50):
            with lock:
                before = finished
            result = ended(submit(operations, work)).result
            assert isinstance(result, wire.LockResult)
            # The one that was in its work when we asked may be ours; one that had ended is not.
            assert int(result.lock_digest) >= before

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_what_an_asker_wants_done_comes_before_the_end(operations: Operations) -> None:
    """Also of one who joins while another's wish is being done: nobody hears of the end before all are done."""
    doing, go, wishes = threading.Event(), threading.Event(), []

    def first() -> None:
        doing.set()
        assert go.wait(LIMIT_S)
        wishes.append("first")

    one = submit(operations, then=first)
    assert doing.wait(LIMIT_S)
    assert submit(operations, caller=BEN, then=lambda: wishes.append("second")) is one
    go.set()
    assert ended(one).state == "succeeded"
    assert wishes == ["first", "second"]


def test_a_wish_that_fails(operations: Operations) -> None:
    """The wish of the only asker fails the operation; of several askers, one's failing wish is a warning to all."""

    def refuse() -> None:
        raise AliasTaken("alias taken")

    assert (ended(submit(operations, then=refuse)).error or DONE) == wire.Error(
        code="alias_taken", message="alias taken", hint=None, is_transient=False, fields={}
    )
    work = Held()
    one = submit(operations, work, then=refuse)
    assert submit(operations, caller=BEN) is one
    work.go.set()
    assert ended(one).state == "succeeded"
    assert [entry.data["message"] for entry in one.since(0) if entry.data.get("kind") == "warning"] == ["alias taken"]


# ------------------------------------------------------------------------------------------------------------- limits


def test_so_many_run_and_so_many_wait(make: Callable[..., Operations]) -> None:
    """More than may run wait; more than may wait are refused, with a time to ask again; a join is no more."""
    operations = make(max_running=2, max_waiting=3, max_waiting_per_caller=2)
    works = [Held() for _ in range(5)]
    for number, work in enumerate(works[:4]):
        submit(operations, work, key=number)
    with pytest.raises(Busy) as own:
        submit(operations, key="more")
    assert own.value.fields["setting"] == "max_waiting_per_user"
    submit(operations, works[4], key=4, caller=BEN)
    with pytest.raises(Busy) as everybodys:
        submit(operations, key="more", caller=ROOT)
    assert everybodys.value.fields["setting"] == "max_waiting"
    assert 1 <= float(str(everybodys.value.fields["retry_after_s"])) <= 60
    assert submit(operations, key=4, caller=ROOT).snapshot().position == 2
    assert (operations.running, operations.queued) == (2, 3)
    for work in works:
        work.go.set()
    assert {ended(one).state for one in operations.all()} == {"succeeded"}


def test_limits_can_change(make: Callable[..., Operations]) -> None:
    """A higher limit lets what waits begin at once; a lower one ends nothing that runs."""
    operations = make(max_running=1)
    works = [Held() for _ in range(4)]
    flights = [submit(operations, work, key=number) for number, work in enumerate(works)]
    operations.set_limits(max_running=3, max_waiting=1, max_waiting_per_caller=1)
    works[2].wait_begun()
    operations.set_limits(max_running=1, max_waiting=1, max_waiting_per_caller=1)
    works[0].go.set()
    ended(flights[0])
    assert not works[3].begun.is_set()
    assert operations.queued == 1
    for work in works:
        work.go.set()
    assert {ended(one).state for one in flights} == {"succeeded"}


def test_callers_take_turns(operations: Operations) -> None:
    """One who asked for a hundred does not keep another waiting for more than one of them."""
    blocker, order = Held(), []
    submit(operations, blocker, key="blocker")
    blocker.wait_begun()

    def work_of(who: str) -> Callable[..., wire.Result]:
        def work(_report: object, _is_cancelled: object) -> wire.Result:
            order.append(who)
            return DONE

        return work

    flights = [submit(operations, work_of("ann"), key=number) for number in range(90)]
    flights += [submit(operations, work_of("ben"), key=("b", number), caller=BEN) for number in range(2)]
    assert [one.snapshot().position for one in (*flights[:3], *flights[90:])] == [1, 3, 5, 2, 4]
    blocker.go.set()
    for one in flights:
        ended(one)
    assert order[:5] == ["ann", "ben", "ann", "ben", "ann"]


# ----------------------------------------------------------------------------------------------------- nobody listens


def test_unwanted_is_cancelled(operations: Operations, clock: FakeClock) -> None:
    """When the last listener left, and all who asked said so: after a grace, in which a broken stream can return."""
    work = Held()
    one = submit(operations, work, unwanted=True)
    leave = one.listen(lambda: None)
    clock.now += 1000
    operations.tend()
    assert not one.snapshot().error
    leave()
    leave()
    clock.now += flight.RESUME_GRACE_S - 0.1
    operations.tend()
    again = one.listen(lambda: None)
    clock.now += 1000
    operations.tend()
    again()
    assert one.cancel_reason is None
    clock.now += flight.RESUME_GRACE_S
    operations.tend()
    operation = ended(one)
    assert (operation.state, operation.error and operation.error.message) == (
        "cancelled", "nobody waited for it any more",
    )  # fmt: skip
    assert operation.error
    assert operation.error.fields == {"is_by_daemon": True}


def test_unwanted_before_anybody_listened(operations: Operations, clock: FakeClock) -> None:
    """Who asked has longer to begin to listen, also where another one, who listened, leaves meanwhile."""
    work = Held()
    one = submit(operations, work, unwanted=True)
    leave = one.listen(lambda: None)
    assert submit(operations, caller=BEN, unwanted=True) is one
    leave()
    clock.now += flight.LISTEN_GRACE_S - 0.1
    operations.tend()
    assert one.cancel_reason is None
    clock.now += 0.1
    operations.tend()
    assert ended(one).state == "cancelled"


@pytest.mark.parametrize("is_first", [True, False])
def test_wanted_by_one_is_wanted(operations: Operations, clock: FakeClock, is_first: bool) -> None:
    """One asker who did not say so, the first or a later one, keeps it going for good, whoever leaves."""
    work = Held()
    one = submit(operations, work, unwanted=is_first)
    assert submit(operations, caller=BEN, unwanted=not is_first) is one
    one.listen(lambda: None)()
    clock.now += 1000
    operations.tend()
    assert one.cancel_reason is None
    work.go.set()
    assert ended(one).state == "succeeded"


def test_unwanted_or_joined(operations: Operations, clock: FakeClock) -> None:
    """At the moment of its grace's end, it is either joined and lives, or cancelled and not joined."""
    for number in range(50):
        work = Held(is_deaf=True)
        one = submit(operations, work, key=number, unwanted=True)
        work.wait_begun()
        clock.now += flight.LISTEN_GRACE_S
        start = threading.Barrier(2)

        def tend() -> None:
            start.wait(LIMIT_S)  # noqa: B023 - waited for inside the loop
            operations.tend()

        with ThreadPoolExecutor(1) as pool:
            tending = pool.submit(tend)
            start.wait(LIMIT_S)
            other = submit(operations, done, key=number, caller=BEN)
            tending.result()
        assert (one.cancel_reason is None) == (other is one)
        work.go.set()
        assert ended(other).state == "succeeded"


def test_a_queued_one_is_unwanted_too(operations: Operations, clock: FakeClock) -> None:
    """What still waits for its turn leaves the queue when nobody wants it."""
    blocker = Held()
    submit(operations, blocker, key="blocker")
    one = submit(operations, unwanted=True)
    clock.now += flight.LISTEN_GRACE_S
    operations.tend()
    assert one.snapshot().state == "cancelled"
    assert operations.queued == 0
    blocker.go.set()


def test_listeners_are_counted_and_woken(operations: Operations) -> None:
    """Each listener is woken after each entry, a failing one keeps nobody else from it, and all count as waiters."""
    work = Held()
    one = submit(operations, work)
    work.wait_begun()
    rings: list[int] = []

    def fail() -> None:
        raise RuntimeError("the loop is closed")

    stops = [one.listen(fail), one.listen(lambda: rings.append(1))]
    assert one.snapshot().waiters == 2
    assert work.report is not None
    work.report(Event("begin", "link"))
    assert rings == [1]
    assert one.snapshot().phase == "link"
    work.report(Event("end", "link"))
    assert one.snapshot().phase is None
    for stop in stops:
        stop()
    assert one.snapshot().waiters == 0
    work.go.set()
    ended(one)
    work.report(Event("log", "link", "too late"))
    assert kinds(one)[-1] == "end"


# ------------------------------------------------------------------------------------------------------- afterwards


def test_ended_ones_are_kept_for_a_while(operations: Operations, clock: FakeClock) -> None:
    """Ten minutes after its end an operation is forgotten, and not before."""
    one = submit(operations)
    ended(one)
    clock.now += flight.KEPT_S - 1
    operations.tend()
    assert operations.find(one.id) is one
    clock.now += 1
    operations.tend()
    assert operations.find(one.id) is None
    assert operations.all() == ()


def test_so_many_ended_ones_are_kept(operations: Operations) -> None:
    """Of more than the limit, or of too many lockfiles, the oldest go first; those that run stay."""
    work = Held()
    operations.set_limits(max_running=2, max_waiting=5000, max_waiting_per_caller=5000)
    running = submit(operations, work, key="running")
    flights = [submit(operations, key=number) for number in range(1005)]
    for one in flights:
        ended(one)
    assert [one.id for one in operations.all()] == [running.id, *(one.id for one in flights[5:])]
    large = wire.LockResult(name=NAME, lock_digest="0", text="x" * (20 << 20))
    for number in ("a", "b"):
        huge = Held(result=large)
        huge.go.set()
        ended(submit(operations, huge, key=number))
    assert [one.result for one in operations.all()] == [None, large]
    work.go.set()


def test_one_makes_room_for_another_at_the_end_of_its_time(operations: Operations, clock: FakeClock) -> None:
    """An ended one whose time is over in the very look that cancels one more than are kept is forgotten once."""
    blocker = Held()
    submit(operations, blocker, key="blocker")
    unwanted = submit(operations, key="unwanted", unwanted=True)
    leave = unwanted.listen(lambda: None)
    oldest = submit(operations, key="oldest")
    oldest.cancel(ROOT)
    clock.now += flight.RESUME_GRACE_S
    for number in range(MAX_KEPT - 1):
        submit(operations, key=number).cancel(ROOT)
    leave()
    clock.now += flight.KEPT_S - flight.RESUME_GRACE_S
    operations.tend()
    assert unwanted.snapshot().state == "cancelled"
    assert operations.find(oldest.id) is None
    assert len(operations.all()) == MAX_KEPT + 1
    blocker.go.set()


# ------------------------------------------------------------------------------------------------------- the end of all


def test_drain_waits_and_then_cancels(operations: Operations, told: list[Flight]) -> None:
    """While it drains nothing new is taken, not even a join; what does not end in time is cancelled, queued or not."""
    work = Held()
    flights = [submit(operations, work, key="running"), submit(operations, key="queued")]
    work.wait_begun()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(operations.drain, 0.05).result(LIMIT_S)
    for key in ("running", "new"):
        with pytest.raises(DaemonUnavailable):
            submit(operations, key=key)
    assert [one.snapshot().state for one in flights] == ["cancelled", "cancelled"]
    assert {one.snapshot().error.message for one in flights} == {"the daemon stops"}  # type: ignore[union-attr]
    assert set(told) == set(flights)


def test_drain_lets_finish_what_can(operations: Operations) -> None:
    """What ends within the time ends well, what waited for it, too."""
    work = Held()
    flights = [submit(operations, work, key="running"), submit(operations, key="queued")]
    work.wait_begun()
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(operations.drain, LIMIT_S)
        while not operations.is_draining:
            threading.Event().wait(0.001)
        work.go.set()
        draining.result(LIMIT_S)
    assert [one.snapshot().state for one in flights] == ["succeeded", "succeeded"]


def test_drain_waits_until_all_is_told(operations: Operations) -> None:
    """When the drain is over, everybody who wants to hear of ends has heard of each."""
    hearing, go, order = threading.Event(), threading.Event(), []

    def hear(_one: Flight) -> None:
        hearing.set()
        assert go.wait(LIMIT_S)
        order.append("told")

    operations.hear_of_ends(hear)
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(submit, operations)  # it may be the one who tells
        assert hearing.wait(LIMIT_S)
        draining = pool.submit(operations.drain, LIMIT_S)
        draining.add_done_callback(lambda _future: order.append("drained"))
        while not operations.is_draining:
            threading.Event().wait(0.001)
        go.set()
        asking.result(LIMIT_S)
    assert order == ["told", "drained"]


def test_submit_and_drain_at_one_moment(make: Callable[..., Operations]) -> None:
    """Whoever gets a flight while the daemon begins to stop gets one that has ended when the drain is over."""
    for _ in range(20):
        operations = make(max_running=2)
        start = threading.Barrier(9)

        def ask(number: int, operations: Operations = operations, start: threading.Barrier = start) -> Flight | None:
            start.wait(LIMIT_S)
            try:
                return submit(operations, key=number)
            except DaemonUnavailable:
                return None

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, number) for number in range(8)]
            start.wait(LIMIT_S)
            operations.drain(LIMIT_S)
            flights = [one for one in (it.result() for it in asking) if one is not None]
        assert all(one.is_finished for one in flights)
