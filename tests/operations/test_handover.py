"""The lease of what became ready is handed from the operation to those who waited, and given back in time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.processes import LIMIT_S
from fakes.worlds import begin, name_of, open_descriptors
from flying import ANN, BEN, DONE, NAME, Held, ended, submit

from envmgr import ready
from envmgr.daemon import answers
from envmgr.errors import AliasTaken
from envmgr.manager.context import SystemClock
from envmgr.model import Caller
from envmgr.operations import HANDOVER_S, Flight, Leased, Operations
from envmgr.operations.flight import RESUME_GRACE_S
from envmgr.store import leases, opening, publication
from envmgr.store.layout import Layout
from envmgr.wire import socket as wire


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return opening.open_for_writing(tmp_path / "store")


def building(layout: Layout, word: str = "a", go: threading.Event | None = None) -> Callable[..., Leased]:
    def work(_report: object, _is_cancelled: object) -> Leased:
        assert go is None or go.wait(LIMIT_S)
        lease = begin(layout, word)
        publication.publish(layout, lease.name, lease.build_id)
        return Leased(wire.EnsureResult(ready=answers.ready(lease), was_built=True, duration_s=0.0), lease)

    return work


def is_free(layout: Layout, word: str = "a") -> bool:
    build = publication.current(layout, name_of(word))
    assert build is not None
    with leases.exclusive(layout.build(build)) as is_granted:
        return is_granted


def submit_ensure(operations: Operations, layout: Layout, *callers: Caller) -> Flight:
    """Let each caller ask for one build; whoever does not listen is waited for until the handover's time is over."""
    go = threading.Event()
    flights = {
        operations.submit("ensure", "key", name_of("a"), it, building(layout, go=go), cancel_when_unwanted=False)
        for it in callers
    }
    go.set()
    (flight,) = flights
    return flight


def test_given_back_when_all_have_theirs(operations: Operations, layout: Layout) -> None:
    """When the last of those who asked has listened and gone, nothing is held any more."""
    one = submit_ensure(operations, layout, ANN, BEN)
    leave = one.listen(lambda: None)
    ended(one)
    assert not is_free(layout)
    leave()
    assert is_free(layout)


def test_a_waiter_gets_a_lease_of_his_own(operations: Operations, layout: Layout, clock: FakeClock) -> None:
    """The build is leased without a gap until the waiter has his own lease, which outlasts the operation's."""
    one = submit_ensure(operations, layout, ANN, BEN)
    ended(one)
    assert not is_free(layout)
    own = one.lease()
    assert own is not None
    clock.now += HANDOVER_S
    operations.tend()
    assert not is_free(layout)
    own.close()
    assert is_free(layout)
    again = one.lease()
    assert again is not None
    again.close()


def test_the_operation_gives_its_lease_back_in_time(operations: Operations, layout: Layout, clock: FakeClock) -> None:
    """It is held for the handover's time, whoever listens, and no longer; what was removed then is told as gone."""
    one = submit_ensure(operations, layout, ANN, BEN)
    ended(one)
    one.listen(lambda: None)
    clock.now += HANDOVER_S - 0.1
    operations.tend()
    assert not is_free(layout)
    clock.now += 0.1
    operations.tend()
    assert is_free(layout)
    build = publication.current(layout, name_of("a"))
    assert build is not None
    publication.unpublish(layout, name_of("a"), build)
    assert one.lease() is None


def test_release_before_the_time(operations: Operations, layout: Layout) -> None:
    """A removal may have it back at once, unless somebody still listens."""
    one = submit_ensure(operations, layout, ANN, BEN)
    ended(one)
    operations.release(NAME)
    leave = one.listen(lambda: None)
    operations.release(name_of("a"))
    assert not is_free(layout)
    leave()
    operations.release(name_of("a"))
    assert is_free(layout)
    own = one.lease()
    assert own is not None
    own.close()


def test_no_lease_of_what_made_no_environment(operations: Operations) -> None:
    """Other operations, and those that are not done, have no lease to give."""
    work = Held()
    one = submit(operations, work)
    assert one.lease() is None
    work.go.set()
    assert ended(one).result == DONE
    assert one.lease() is None


def test_no_descriptor_is_left(make: Callable[..., Operations], layout: Layout) -> None:
    """A lease is closed also when its operation fails after all, or when the daemon stops."""
    before = open_descriptors()

    def refuse() -> None:
        raise AliasTaken("taken")

    operations = make()
    failing = operations.submit("ensure", 1, None, ANN, building(layout, "b"), cancel_when_unwanted=False, then=refuse)
    assert ended(failing).state == "failed"
    assert open_descriptors() == before
    assert ended(submit_ensure(operations, layout, ANN, BEN)).result
    assert open_descriptors() == before + 1
    operations.drain(1.0)
    assert open_descriptors() == before


def test_in_real_time() -> None:
    """Without a test that moves the clock, a thread of the operations' own does what is due, and ends with them."""
    operations = Operations(max_running=1, max_waiting=1, max_waiting_per_caller=1, clock=SystemClock())
    ended(submit(operations))
    while operations._attended_at == math.inf:  # until the thread waits for something that is not due for long
        threading.Event().wait(0.001)
    gone = threading.Event()
    operations.hear_of_ends(lambda _one: gone.set())
    one = submit(operations, Held(), unwanted=True)
    one.listen(lambda: None)()
    assert gone.wait(RESUME_GRACE_S + 15)
    assert one.snapshot().state == "cancelled"
    assert [it.name for it in threading.enumerate()].count("envmgr-operations") == 1
    operations.drain(0.0)
    assert "envmgr-operations" not in [it.name for it in threading.enumerate()]


def test_a_lease_comes_from_where_the_build_is(operations: Operations, layout: Layout) -> None:
    """The lease that is handed over is on the environment of the result."""
    one = submit_ensure(operations, layout, ANN, BEN)
    result = ended(one).result
    own = one.lease()
    assert isinstance(own, ready.Lease)
    assert isinstance(result, wire.EnsureResult)
    assert answers.ready(own) == result.ready
    own.close()
