"""Claims with a real ZooKeeper: who holds them, in which order, and what becomes of them when links break."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from coordination.contender import contender
from coordination.polling import fork, until
from kazoo.client import KazooClient
from link_proxy import LinkProxy
from zookeeper_servers import Servers

from envmgr.coordination.zookeeper.claims import Claim, Claims
from envmgr.coordination.zookeeper.client import boot_time
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Create, NoNode, Session
from envmgr.errors import Cancelled, ClaimLost, CoordinatorUnavailable, TimedOut

PATH = "/v1/claims/build/store/env-0123456789abcdef"
TURNS = "/v1/claims/rollout/env-0123456789abcdef"


class Host:
    """One process of one host: its session and its claims."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self.session = Session(endpoint)
        self.session.start()
        self.claims = Claims(self.session, name)


@pytest.fixture
def join(endpoint: Endpoint) -> Iterator[Callable[..., Host]]:
    """Make hosts; their sessions end with the test."""
    hosts: list[Host] = []

    def make(name: str = "one", **changes: object) -> Host:
        hosts.append(Host(replace(endpoint, **changes), name))  # type: ignore[arg-type]
        return hosts[-1]

    yield make
    for host in hosts:
        host.session.close()


@pytest.fixture
def proxy(zookeeper: Servers) -> Iterator[LinkProxy]:
    """A link to the server that can be broken."""
    with LinkProxy(zookeeper.addresses[0]) as proxy:
        yield proxy


class Waiter:
    """A thread that acquires a claim and holds it until it is told to let go."""

    def __init__(self, host: Host, path: str = PATH, **options: object) -> None:
        self.told: list[str] = []
        self.claim: Claim | None = None
        self.error: BaseException | None = None
        self.took_s = 0.0
        self._let_go = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(host, path, options), daemon=True)
        self._thread.start()

    def _run(self, host: Host, path: str, options: dict[str, object]) -> None:
        began = time.monotonic()
        try:
            with host.claims.acquire(path, on_wait=self.told.append, **options) as self.claim:  # type: ignore[arg-type]
                self.took_s = time.monotonic() - began
                self._let_go.wait()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.took_s = time.monotonic() - began
            self.error = error

    def let_go(self) -> None:
        self._let_go.set()
        self.join()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def expire(host: Host) -> None:
    """Have the servers give the host's session up, as if it had been silent for too long."""
    client, epoch = host.session._client, host.session.epoch
    assert client is not None
    thief = KazooClient(",".join(host.session.endpoint.servers), client_id=client.client_id)
    thief.start()
    thief.stop()
    thief.close()
    until(lambda: host.session.epoch > epoch and host.session.is_connected)


def contenders(host: Host, path: str = PATH) -> tuple[str, ...]:
    host.session.sync()
    return host.session.children(path)


Join = Callable[..., Host]


class TestHolding:
    """One at a time, in order of arrival."""

    @pytest.mark.slow
    def test_many_processes_never_hold_it_together_and_tokens_rise(self, endpoint: Endpoint, tmp_path: Path) -> None:
        """Six processes take one claim ten times each: alone in a directory, each token higher than the one before."""
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(contender(endpoint, f"host-{number}")) for number in range(6)]
            for one in many:
                one.tell(f"rounds {PATH} 10 {tmp_path}")
            assert [one.hear() for one in many] == [["done"]] * 6
        tokens = [int(line) for line in (tmp_path / "tokens").read_text().split()]
        assert len(tokens) == 60
        assert tokens == sorted(set(tokens))

    def test_the_first_that_came_is_the_first_that_gets_it(self, join: Join) -> None:
        """Contenders of several hosts get it in the order in which they came, each is told once whom it waits for."""
        hosts = [join(f"host-{number}") for number in range(3)]
        first = Waiter(hosts[0], what="building env-1")
        until(lambda: first.claim)
        queue = []
        for number in range(6):
            queue.append(Waiter(hosts[number % 3]))
            until(lambda: queue[-1].told)
        assert all(waiter.told == [f"building env-1 on host-0 (pid {os.getpid()})"] for waiter in queue)
        for current, following in zip([first, *queue], queue, strict=False):
            assert following.claim is None
            current.let_go()
            until(lambda following=following: following.claim)
        queue[-1].let_go()
        tokens = [waiter.claim.token for waiter in queue if waiter.claim]
        assert tokens == sorted(tokens)
        assert first.told == []
        assert all(len(waiter.told) == 1 for waiter in queue)

    def test_whoever_waits_watches_one_node_only(self, join: Join) -> None:
        """No herd: a node that goes wakes the one behind it, and nobody else."""
        host = join()
        waiters = [Waiter(host)]
        until(lambda: waiters[0].claim)
        for _ in range(8):
            waiters.append(Waiter(host))
            until(lambda: waiters[-1].told)
        client = host.session._client
        assert client is not None
        until(lambda: [len(watchers) for watchers in client._data_watchers.values()] == [1] * 8)
        assert not any(client._child_watchers.values())
        for waiter in waiters:
            waiter.let_go()

    def test_holders_says_who_stands_there(self, join: Join) -> None:
        """Each node says host, process, time and what for; the first is who holds it."""
        host = join("host-1")
        assert host.claims.holders(PATH) == ()
        with host.claims.acquire(PATH, timeout_s=5, what="building env-1") as claim:
            (holder,) = host.claims.holders(PATH)
            assert (holder.host, holder.pid, holder.what) == ("host-1", os.getpid(), "building env-1")
            assert holder.node == claim.node
            assert abs(holder.at - time.time()) < 60

    def test_try_acquire_waits_for_nobody(self, join: Join) -> None:
        """Free: it is held. Taken: `None`, at once, and nobody is left in the queue."""
        one, two = join("one"), join("two")
        with one.claims.try_acquire(PATH) as claim:
            assert claim is not None
            with two.claims.try_acquire(PATH) as other:
                assert other is None
            until(lambda: len(contenders(one)) == 1)
        with two.claims.try_acquire(PATH) as other:
            assert other is not None

    def test_nothing_is_left_of_it(self, join: Join) -> None:
        """Given back, the claim's node is gone, and what was made above it; `claims/build` itself stays."""
        host = join()
        with host.claims.acquire(PATH, timeout_s=5):
            assert len(contenders(host)) == 1
        until(lambda: host.session.children("/v1/claims/build") == ())
        assert host.session.children("/v1/claims") == ("build",)

    def test_removing_empty_parents_races_with_making_them(self, join: Join) -> None:
        """Hosts that take and give back one claim as fast as they can never fail for want of its parents."""
        errors: list[Exception] = []

        def rounds(host: Host) -> None:
            try:
                for _ in range(40):
                    with host.claims.acquire(PATH, timeout_s=30):
                        pass
            except Exception as error:  # noqa: BLE001 - the test looks at it
                errors.append(error)

        threads = [threading.Thread(target=rounds, args=(join(f"host-{number}"),)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []

    def test_the_guard_ends_with_the_claim(self, join: Join) -> None:
        """A guarded write is done while the claim is held, and refused as a whole afterwards."""
        host = join()
        with host.claims.acquire(PATH, timeout_s=5) as claim:
            host.session.write([claim.guard(), Create("/v1/written")])
        assert claim.is_lost
        with pytest.raises(NoNode) as refused:
            host.session.write([claim.guard(), Create("/v1/late")])
        assert refused.value.index == 0
        assert host.session.get("/v1/late") is None
        with pytest.raises(ClaimLost) as lost:
            claim.check()
        assert lost.value.fields["token"] == claim.token


class TestLosing:
    """A claim never says that it is held when somebody else may have it."""

    def test_a_holder_that_stood_still_past_its_session_knows_at_once(self, join: Join, endpoint: Endpoint) -> None:
        """kazoo's trap: stopped for longer than its session and woken, a process holds on. Ours never says so.

        It asks itself without end whether it holds the claim; the last time that it says yes is before another one got
        it, and its guarded write is refused.
        """
        other = join()
        with contender(endpoint) as holder:
            word, token = holder.ask(f"acquire {PATH} 5")
            assert word == "held"
            os.kill(holder.pid, signal.SIGSTOP)
            with other.claims.acquire(PATH, timeout_s=20) as claim:
                acquired_at = boot_time()
                assert claim.token > int(token)
                os.kill(holder.pid, signal.SIGCONT)
                state, last = holder.ask("state")
                assert state == "lost"
                assert float(last) < acquired_at
                assert holder.ask("guarded /v1/late")[0] in {"refused", "error"}
                assert other.session.get("/v1/late") is None
                assert not claim.is_lost
            assert holder.ask("release") == ["released"]
            word, again = holder.ask(f"acquire {PATH} 20")
            assert (word, int(again) > claim.token) == ("held", True)

    def test_a_holder_behind_a_silent_link_gives_up_before_the_next_one_has_it(
        self, join: Join, proxy: LinkProxy
    ) -> None:
        """kazoo's trap: while nobody answers, its lock is held for ever. Ours is lost before another one gets it."""
        cut_off, other = join("cut off", servers=(proxy.address,)), join("other")
        with cut_off.claims.acquire(PATH, timeout_s=5) as claim:
            lost_at: list[float] = []
            threading.Thread(target=lambda: lost_at.append(lost_time(claim)), daemon=True).start()
            waiter = Waiter(other)
            until(lambda: waiter.told)
            proxy.silence()
            until(lambda: waiter.claim)
            acquired_at = boot_time()
            assert lost_at
            assert lost_at[0] < acquired_at
            proxy.mend()
            until(lambda: cut_off.session.epoch == 2)
            assert claim.is_lost
        waiter.let_go()

    def test_a_lost_claim_stays_lost_and_the_next_one_is_another(self, join: Join) -> None:
        """kazoo's trap: a lock whose session is gone says that it is held, and cannot be taken again."""
        host = join()
        with host.claims.acquire(PATH, timeout_s=5) as claim:
            expire(host)
            assert claim.is_lost
            with host.claims.acquire(PATH, timeout_s=5) as again:
                assert claim.is_lost
                assert not again.is_lost
                assert again.token > claim.token
        until(lambda: contenders(host) == ())

    def test_a_waiter_whose_session_expired_stands_in_the_queue_again(self, join: Join) -> None:
        """Its node went with the old session; what it gets belongs to the present one."""
        holder, waiting = join("holder"), join("waiting")
        first, second = Waiter(holder), None
        until(lambda: first.claim)
        second = Waiter(waiting)
        until(lambda: second.told)
        expire(waiting)
        first.let_go()
        until(lambda: second.claim)
        assert second.claim is not None
        node = waiting.session.get(second.claim.node)
        assert node is not None
        assert node.ephemeral_owner == waiting.session.session_id
        assert (node.czxid, second.claim.is_lost) == (second.claim.token, False)
        second.let_go()

    def test_a_broken_connection_and_a_killed_leader_lose_nothing(self, join: Join, ensemble: Servers) -> None:
        """The session outlives both, so a build of minutes need not begin again."""
        host = join(servers=ensemble.addresses, session_s=6.0)
        with host.claims.acquire(PATH, timeout_s=5) as claim:
            ensemble.kill(ensemble.leader())
            ensemble.wait(least=2)
            host.session.write([claim.guard(), Create("/v1/written")], timeout_s=10)
            assert not claim.is_lost
            assert host.session.epoch == 1

    def test_a_follower_that_answers_without_its_leader_keeps_no_claim(self, join: Join, ensemble: Servers) -> None:
        """The leader stands still; our server does not know yet, and still answers what it can. Our claim is lost.

        Answers of a server prove nothing of what its leader counts. When the leader goes on, the claim stays lost.
        """
        leader = ensemble.leader()
        follower = ensemble.addresses[(leader + 1) % 3]
        host = join(servers=(follower,), session_s=2.0)
        with host.claims.acquire(PATH, timeout_s=5) as claim:
            stopped_at = boot_time()
            ensemble.signal(leader, signal.SIGSTOP)
            assert lost_time(claim) < stopped_at + 2.0
            ensemble.signal(leader, signal.SIGCONT)
            assert host.session.get("/v1/claims", timeout_s=20)
            assert claim.is_lost

    def test_a_killed_holder_is_followed_when_its_session_is_over(self, join: Join, endpoint: Endpoint) -> None:
        """Nobody gives it back: the servers do, after the session's time and not before."""
        other = join()
        with contender(endpoint) as holder:
            assert holder.ask(f"acquire {PATH} 5")[0] == "held"
            os.kill(holder.pid, signal.SIGKILL)
            killed_at = boot_time()
            with other.claims.acquire(PATH, timeout_s=20):
                assert boot_time() > killed_at + 1.0

    def test_a_child_made_by_fork_holds_nothing(self, join: Join) -> None:
        """The child is refused; the parent's claim is not harmed."""
        host = join()
        with host.claims.acquire(PATH, timeout_s=5) as claim:
            pid = fork()
            if pid == 0:
                status = 1
                try:
                    with host.claims.acquire(PATH, timeout_s=1):
                        status = 2
                except CoordinatorUnavailable:
                    status = 0 if claim.is_lost else 3
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            assert not claim.is_lost
            host.session.write([claim.guard(), Create("/v1/written")])


class TestTime:
    """One deadline for all of it."""

    def test_the_time_does_not_begin_again_with_each_predecessor(self, join: Join) -> None:
        """kazoo's trap: its timeout counts from the last change of predecessor. Ours counts from the beginning."""
        host, other = join("one"), join("other")
        queue = [Waiter(other) for _ in range(4)]
        until(lambda: len(contenders(host)) == 4)
        last = Waiter(host, timeout_s=1.0)
        until(lambda: last.told)
        for _ in range(3):  # not the last: each change is a new predecessor or a new holder
            until(lambda: any(waiter.claim for waiter in queue))
            current = next(waiter for waiter in queue if waiter.claim)
            time.sleep(0.3)
            queue.remove(current)
            current.let_go()
        last.join()
        assert isinstance(last.error, TimedOut)
        assert 1.0 <= last.took_s < 2.0
        until(lambda: queue[0].claim)
        until(lambda: len(contenders(host)) == 1)
        queue[0].let_go()

    def test_the_time_counts_while_nobody_answers(self, join: Join, proxy: LinkProxy) -> None:
        """kazoo's trap: while it is suspended its timeout bounds nothing. Silent or cut, ours ends in its time."""
        host = join(servers=(proxy.address,), session_s=6.0)
        for breaks in (proxy.silence, proxy.cut):
            breaks()
            began = time.monotonic()
            with pytest.raises(CoordinatorUnavailable), host.claims.acquire(PATH, timeout_s=1.0):
                pytest.fail("nobody answered")
            assert 1.0 <= time.monotonic() - began < 2.0
            began = time.monotonic()
            with pytest.raises(CoordinatorUnavailable), host.claims.acquire(PATH, timeout_s=60, unreachable_s=0.5):
                pytest.fail("nobody answered")
            assert 0.4 <= time.monotonic() - began < 1.5
            proxy.mend()
            with host.claims.acquire(PATH, timeout_s=20, unreachable_s=10):
                pass

    def test_waiting_for_a_holder_is_not_waiting_for_zookeeper(self, join: Join) -> None:
        """`unreachable_s` bounds silence, not the queue."""
        one, two = join("one"), join("two")
        with one.claims.acquire(PATH, timeout_s=5):
            began = time.monotonic()
            with (
                pytest.raises(TimedOut, match="process on one"),
                two.claims.acquire(PATH, timeout_s=1, unreachable_s=0.2),
            ):
                pytest.fail("it was held")
            assert time.monotonic() - began >= 1

    def test_the_callers_deadline_ends_it(self, join: Join) -> None:
        """A caller that gives up is heard while waiting, and leaves nobody in the queue."""
        one, two = join("one"), join("two")
        given_up = threading.Event()

        class Deadline:
            def remaining_s(self) -> float | None:
                return None

            def check(self) -> None:
                if given_up.is_set():
                    raise Cancelled("the caller gave up")

        with one.claims.acquire(PATH, timeout_s=5):
            waiter = Waiter(two, deadline=Deadline())
            until(lambda: waiter.told)
            given_up.set()
            waiter.join()
            assert isinstance(waiter.error, Cancelled)
            until(lambda: len(contenders(one)) == 1)


class TestGhosts:
    """Nodes that nobody stands for."""

    def test_a_contender_that_gave_up_unheard_holds_nobody_up(self, join: Join, proxy: LinkProxy) -> None:
        """kazoo's trap: the delete of a contender that gives up fails, and its node blocks all for its session's life.

        The link falls silent while it waits; it gives up; the link is mended in the same session: its node goes.
        """
        holder, ghost, third = join("holder"), join("ghost", servers=(proxy.address,), session_s=20.0), join("third")
        first = Waiter(holder)
        until(lambda: first.claim)
        waiter = Waiter(ghost, timeout_s=0.6)
        until(lambda: waiter.told)
        proxy.silence()
        waiter.join()
        assert waiter.error is not None
        assert len(contenders(third)) == 2
        first.let_go()
        proxy.break_all()
        proxy.mend()
        with third.claims.acquire(PATH, timeout_s=10):
            pass
        assert ghost.session.epoch == 1
        until(lambda: not [thread for thread in threading.enumerate() if thread.name == "envmgr-zookeeper-sweep"])

    def test_a_node_whose_making_was_not_heard_of_is_ours(self, join: Join, proxy: LinkProxy) -> None:
        """The create was done, its answer lost: the same node is found again, and there is one only."""
        host, other = join(servers=(proxy.address,), session_s=20.0), join("other")
        other.session.create(PATH)
        proxy.silence_after(PATH.encode())
        waiter = Waiter(host, timeout_s=20)
        until(lambda: len(contenders(other)) == 1)
        proxy.break_all()
        proxy.mend()
        until(lambda: waiter.claim)
        assert contenders(other) == (waiter.claim.node.rpartition("/")[2],)  # type: ignore[union-attr]
        waiter.let_go()
        assert contenders(other) == ()

    def test_a_node_whose_making_was_not_heard_of_goes_when_its_contender_gave_up(
        self, join: Join, proxy: LinkProxy
    ) -> None:
        """The same, and the time is up before anything is heard."""
        host, other = join(servers=(proxy.address,), session_s=20.0), join("other")
        other.session.create(PATH)
        proxy.silence_after(PATH.encode())
        waiter = Waiter(host, timeout_s=0.5)
        waiter.join()
        assert isinstance(waiter.error, CoordinatorUnavailable)
        assert len(contenders(other)) == 1
        proxy.break_all()
        proxy.mend()
        until(lambda: contenders(other) == ())
        assert host.session.epoch == 1

    def test_giving_back_is_bounded_and_made_up_for(self, join: Join, proxy: LinkProxy) -> None:
        """Nobody answers when the claim is given back: that takes two seconds, and the node goes later."""
        host, other = join(servers=(proxy.address,), session_s=20.0), join("other")
        waiter = Waiter(host)
        until(lambda: waiter.claim)
        proxy.silence("up")
        began = time.monotonic()
        waiter.let_go()
        assert time.monotonic() - began < 3
        assert len(contenders(other)) == 1
        proxy.break_all()
        proxy.mend()
        with other.claims.acquire(PATH, timeout_s=10):
            pass

    def test_a_closed_session_leaves_no_ghost_and_no_thread(self, join: Join, proxy: LinkProxy) -> None:
        """Closed while something is still to be deleted, all goes with the session."""
        before = threading.active_count()
        host, other = join(servers=(proxy.address,)), join("other")
        proxy.silence_after(PATH.encode())
        Waiter(host, timeout_s=0.3).join()
        host.session.close()
        until(lambda: contenders(other) == ())
        other.session.close()
        proxy.close()
        until(lambda: threading.active_count() < before)


class TestCounted:
    """So many at a time: turns of a rollout."""

    def test_so_many_hold_it_and_the_next_comes_when_one_goes(self, join: Join) -> None:
        """Three places, seven contenders: never more than three, in order of arrival, nobody is left."""
        hosts = [join(f"host-{number}") for number in range(3)]
        queue = []
        for number in range(7):
            waiter = Waiter(hosts[number % 3], TURNS, places=3, what=f"turn {number}")
            queue.append(waiter)
            until(lambda waiter=waiter: waiter.claim or waiter.told)
        assert [waiter.claim is not None for waiter in queue] == [True] * 3 + [False] * 4
        assert [holder.what for holder in hosts[0].claims.holders(TURNS)] == ["turn 0", "turn 1", "turn 2"]
        for leaving, following in ((1, 3), (0, 4), (3, 5), (2, 6)):
            assert queue[following].claim is None
            queue[leaving].let_go()
            until(lambda following=following: queue[following].claim)
            assert sum(waiter.claim is not None and not waiter.claim.is_lost for waiter in queue) == 3
        tokens = [waiter.claim.token for waiter in queue if waiter.claim]
        assert tokens == sorted(tokens)
        for waiter in queue[4:]:
            waiter.let_go()
        until(lambda: hosts[0].session.children("/v1/claims/rollout") == ())

    def test_each_goes_by_its_own_number_of_places(self, join: Join) -> None:
        """The bound of a rollout is changed while it runs: who comes later counts by the new one."""
        one, two = join("one"), join("two")
        with one.claims.acquire(TURNS, places=1, timeout_s=5):
            with two.claims.try_acquire(TURNS, places=1) as claim:
                assert claim is None
            with two.claims.try_acquire(TURNS, places=2) as claim:
                assert claim is not None

    def test_a_place_goes_with_its_session(self, join: Join) -> None:
        """Who lost the gate or the place while waiting begins anew, and nobody's place stays taken."""
        one, two = join("one"), join("two")
        first = Waiter(one, TURNS, places=1)
        until(lambda: first.claim)
        second = Waiter(two, TURNS, places=1)
        until(lambda: second.told)
        expire(two)
        expire(one)
        until(lambda: second.claim)
        assert first.claim is not None
        assert second.claim is not None
        assert (first.claim.is_lost, second.claim.is_lost) == (True, False)
        first.let_go()
        second.let_go()

    def test_a_place_whose_making_was_not_heard_of_is_ours(self, join: Join, proxy: LinkProxy) -> None:
        """The transaction was done, its answer lost: the place is found again."""
        host, other = join(servers=(proxy.address,), session_s=20.0), join("other")
        other.session.create(f"{TURNS}/places")
        proxy.silence_after(f"{TURNS}/places/".encode())
        waiter = Waiter(host, TURNS, places=1, timeout_s=20)
        until(lambda: other.session.children(f"{TURNS}/places"))
        proxy.break_all()
        proxy.mend()
        until(lambda: waiter.claim)
        assert len(other.session.children(f"{TURNS}/places")) == 1
        waiter.let_go()


def lost_time(claim: Claim) -> float:
    """Return when a claim said first that it is lost."""
    until(lambda: claim.is_lost)
    return boot_time()
