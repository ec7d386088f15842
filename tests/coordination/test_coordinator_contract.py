"""What every coordinator promises: the fake, a host alone where it applies, and ZooKeeper."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_harness import WAIT_S, Cluster, FakeOne, real
from fakes.worlds import name_of

from envmgr import lockfile
from envmgr.coordination.alone import Alone
from envmgr.errors import ClaimLost, CoordinatorUnavailable, NetworkError, TimedOut, Unsatisfiable
from envmgr.events import Event, ignore
from envmgr.manager.context import SystemClock
from envmgr.manager.waiting import TimeLimit
from envmgr.model import LockedPackage, LockInForce, PublishedLockfile
from envmgr.ports import Coordinator, Siblings

NAME, OTHER = name_of("x"), name_of("y")
CLASS = "linux-64"
LIMIT_S = 20.0


@pytest.fixture(params=["fake", pytest.param("zookeeper", marks=pytest.mark.slow)])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster without hosts yet."""
    if request.param == "fake":
        yield FakeOne(tmp_path)
    else:
        with real(request.getfixturevalue("endpoint")) as made:
            yield made


def limit(timeout_s: float = LIMIT_S) -> TimeLimit:
    return TimeLimit(SystemClock(), timeout_s)


def text_of(version: str) -> str:
    package = LockedPackage(
        "conda", "tool", version, f"https://channel.invalid/demo/noarch/tool-{version}-0.conda", "0" * 64, "0" * 32,
        "0", "noarch", (),
    )  # fmt: skip
    return lockfile.write((package,), subdir=CLASS, channels=["https://channel.invalid/demo"])


FIRST, SECOND = text_of("1.0"), text_of("2.0")


def publish(host: Coordinator, text: str, generation: int = 1) -> PublishedLockfile:
    with host.solving(NAME, CLASS, generation, deadline=limit(), report=ignore) as solving:
        return solving.publish(text)


# ------------------------------------------------------------------------------------------------------ building


def test_a_build_claim_excludes_the_hosts_of_one_store(cluster: Cluster) -> None:
    """Who comes second waits, is told so once, and gets a higher token; his deadline ends the wait."""
    a = cluster.host("a", store_id="one", is_shared=True)
    b = cluster.host("b", store_id="one", is_shared=True)
    told: list[Event] = []
    waits = threading.Event()

    def report(event: Event) -> None:
        told.append(event)
        waits.set()

    def second() -> int:
        with b.building(NAME, deadline=limit(), report=report) as claim:
            assert claim is not None
            claim.check()
            return claim.token

    with ThreadPoolExecutor() as pool:
        with a.building(NAME, deadline=limit(), report=ignore) as claim:
            assert claim is not None
            assert not claim.is_lost
            with pytest.raises(TimedOut), b.building(NAME, deadline=limit(0.3), report=ignore):
                pass
            later = pool.submit(second)
            assert waits.wait(LIMIT_S)
            token = claim.token
        assert later.result(LIMIT_S) > token
    assert [event.kind for event in told] == ["begin", "end"]


def test_stores_and_names_do_not_exclude_each_other(cluster: Cluster) -> None:
    """The claim is on one name in one store."""
    a, b = cluster.host("a", is_shared=True), cluster.host("b", is_shared=True)
    with (
        a.building(NAME, deadline=limit(), report=ignore) as one,
        b.building(NAME, deadline=limit(), report=ignore) as two,
        a.building(OTHER, deadline=limit(), report=ignore) as three,
    ):
        assert None not in (one, two, three)


def test_building_without_the_coordinator(cluster: Cluster) -> None:
    """A store of one host goes on, soon and without a claim; a shared one may not."""
    a, b = cluster.host("a"), cluster.host("b", is_shared=True)
    cluster.cut("a")
    cluster.cut("b")
    begun = time.monotonic()
    with a.building(NAME, deadline=limit(), report=ignore) as claim:
        assert claim is None
    with pytest.raises(CoordinatorUnavailable), b.building(NAME, deadline=limit(), report=ignore):
        pass
    assert time.monotonic() - begun < LIMIT_S / 2


def test_the_blocks_errors_are_its_own(cluster: Cluster) -> None:
    """What the caller does inside a claim fails as it fails."""
    a = cluster.host("a", is_shared=True)
    with pytest.raises(NetworkError), a.building(NAME, deadline=limit(), report=ignore):
        raise NetworkError("away")
    with pytest.raises(NetworkError), a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore):
        raise NetworkError("away")
    assert publish(cluster.host("b"), FIRST).text == FIRST


# ------------------------------------------------------------------------------------------------------- solving


def test_published_once_for_all(cluster: Cluster) -> None:
    """What one host publishes all others find, byte for byte, under the class that it was made for."""
    a, b = cluster.host("a"), cluster.host("b")
    assert (a.lockfile(NAME, CLASS), a.lock_in_force(NAME, CLASS)) == (None, None)
    made = publish(a, FIRST)
    assert (made.generation, made.digest, made.text) == (1, lockfile.parse(FIRST, CLASS).digest, FIRST)
    with b.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        assert solving.found == made
    assert b.lockfile(NAME, CLASS) == made
    assert b.lock_in_force(NAME, CLASS) == LockInForce(1, made.digest)
    assert b.lockfile(NAME, "linux-64+cuda12") is None
    assert b.lockfile(OTHER, CLASS) is None


def test_who_waits_gets_what_the_other_solved(cluster: Cluster) -> None:
    """Three hosts at one moment: one solves; the others come to their turn when it is published."""
    a = cluster.host("a")
    others = [cluster.host("b"), cluster.host("c")]
    waiting = threading.Semaphore(0)

    def second(host: Coordinator) -> PublishedLockfile | None:
        with host.solving(NAME, CLASS, 1, deadline=limit(), report=lambda _event: waiting.release()) as solving:
            return solving.found

    with ThreadPoolExecutor() as pool:
        with a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
            assert solving.found is None
            later = [pool.submit(second, host) for host in others]
            for _ in others:
                assert waiting.acquire(timeout=LIMIT_S)
            made = solving.publish(FIRST)
        assert [one.result(LIMIT_S) for one in later] == [made, made]


def test_a_solver_that_leaves_without_a_result(cluster: Cluster) -> None:
    """The next one solves."""
    a, b = cluster.host("a"), cluster.host("b")
    with pytest.raises(NetworkError), a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore):
        raise NetworkError("away")
    with b.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        assert solving.found is None


def test_generations(cluster: Cluster) -> None:
    """Each is there for good; the highest is in force, and who wants at least a lower one is given it."""
    a, b = cluster.host("a"), cluster.host("b")
    publish(a, FIRST)
    with b.solving(NAME, CLASS, 2, deadline=limit(), report=ignore) as solving:
        assert solving.found is None
        made = solving.publish(SECOND)
    assert made.generation == 2
    assert a.lockfile(NAME, CLASS) == made
    with a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        assert solving.found == made


def test_who_lost_the_claim_publishes_nothing(cluster: Cluster) -> None:
    """Not even when nobody else has: another may be about to."""
    a, b = cluster.host("a"), cluster.host("b")
    with a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        cluster.take_solve_claim(NAME, CLASS)
        with pytest.raises(ClaimLost):
            solving.publish(SECOND)
        assert b.lockfile(NAME, CLASS) is None
        made = publish(b, FIRST)
        with pytest.raises(ClaimLost):
            solving.publish(SECOND)
    assert a.lockfile(NAME, CLASS) == made


def test_a_stalled_solver_loses_the_claim(cluster: Cluster) -> None:
    """Without progress for so long: whoever waits comes to his turn, and what was solved so far is void."""
    a, b = cluster.host("a", stall_s=0.4), cluster.host("b")
    with a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            solving.progress()
            solving.check()
            time.sleep(0.05)  # what a solver does that gets on
        with pytest.raises(ClaimLost):
            _until_it_raises(solving.check)
        made = publish(b, FIRST)
        with pytest.raises(ClaimLost):
            solving.publish(SECOND)
    assert a.lockfile(NAME, CLASS) == made


def _until_it_raises(check: object) -> None:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        check()  # type: ignore[operator]
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------ failures


def test_a_failure_is_told_to_all_until_it_is_cleared(cluster: Cluster) -> None:
    """As it was raised, and said to be repeated; a retry forgets it, and so does a publication."""
    a, b = cluster.host("a"), cluster.host("b")
    with a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        solving.fail(Unsatisfiable("nothing provides it", hint="ask for less"))
    with pytest.raises(Unsatisfiable) as caught, b.solving(NAME, CLASS, 1, deadline=limit(), report=ignore):
        pass
    assert (caught.value.message, caught.value.hint) == ("nothing provides it", "ask for less")
    assert caught.value.fields["is_repeated"] is True
    with b.solving(NAME, CLASS, 2, deadline=limit(), report=ignore) as solving:
        assert solving.found is None  # a failure is of one generation
    with b.solving(NAME, CLASS, 1, deadline=limit(), report=ignore, is_retry=True) as solving:
        assert solving.found is None
    made = publish(a, FIRST)
    with b.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        assert solving.found == made


def test_who_lost_the_claim_tells_no_failure(cluster: Cluster) -> None:
    """It may have been solved by another meanwhile."""
    a, b = cluster.host("a"), cluster.host("b")
    with a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        cluster.take_solve_claim(NAME, CLASS)
        with pytest.raises(ClaimLost):
            solving.fail(Unsatisfiable("no"))
    assert publish(b, FIRST).text == FIRST


# ------------------------------------------------------------------------------------------ without the coordinator


def test_nobody_answers(cluster: Cluster) -> None:
    """Every question ends soon with its own error; what the agent told is answered from memory; then all is well."""
    a = cluster.host("a")
    a.declared({NAME: 3})
    a.classes({CLASS: {"__glibc": "2.28"}})
    a.living(Siblings(None, ("http://b",)))
    cluster.cut("a")
    begun = time.monotonic()
    with pytest.raises(CoordinatorUnavailable):
        a.lockfile(NAME, CLASS)
    with pytest.raises(CoordinatorUnavailable):
        a.lock_in_force(NAME, CLASS)
    with pytest.raises(CoordinatorUnavailable), a.solving(NAME, CLASS, 1, deadline=limit(), report=ignore):
        pass
    assert time.monotonic() - begun < 10 + WAIT_S
    begun = time.monotonic()
    assert (a.is_declared(NAME), a.is_declared(OTHER)) == (True, False)
    assert (a.least_generation(NAME), a.least_generation(OTHER)) == (3, 1)
    assert (a.virtual_packages(CLASS), a.virtual_packages("other")) == ({"__glibc": "2.28"}, None)
    assert a.siblings(NAME).others == ("http://b",)
    assert time.monotonic() - begun < 0.5
    cluster.mend("a")
    assert publish(a, FIRST).text == FIRST


def test_a_store_of_one_host_may_delete(cluster: Cluster) -> None:
    """Nobody else can use what is there, whoever answers."""
    a = cluster.host("a")
    cluster.cut("a")
    a.check_deletion()


def test_a_host_alone() -> None:
    """It claims nothing, waits for nobody, and what it solves is what it solved."""
    alone = Alone()
    assert not alone.is_clustered
    assert not alone.is_shared
    with alone.building(NAME, deadline=limit(), report=ignore) as claim:
        assert claim is None
    assert (alone.lockfile(NAME, CLASS), alone.lock_in_force(NAME, CLASS), alone.virtual_packages(CLASS)) == (None,) * 3
    assert (alone.is_declared(NAME), alone.least_generation(NAME), alone.siblings(NAME)) == (False, 1, Siblings())
    alone.check_deletion()
    with alone.solving(NAME, CLASS, 1, deadline=limit(), report=ignore) as solving:
        assert solving.found is None
        solving.progress()
        solving.check()
        assert solving.publish(FIRST).digest == lockfile.parse(FIRST, CLASS).digest
        solving.fail(Unsatisfiable("no"))
