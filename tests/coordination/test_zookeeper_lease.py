"""Until when a session certainly lives: the arithmetic, against a model of what the leader knows."""

from __future__ import annotations

import random

from envmgr.coordination.zookeeper.lease import NEVER, Lease

T = 12.0


def test_nothing_is_certain_before_the_first_session() -> None:
    """A lease that no server granted never holds."""
    assert Lease().until() == NEVER


def test_a_connection_counts_from_before_it_was_asked_for() -> None:
    """The servers count from when they heard of us, which is not earlier than when we began to ask."""
    lease = Lease()
    assert lease.connected(7, T, before=100.0)
    assert lease.until(1) == 100.0 + 11.0


def test_an_answer_of_a_follower_proves_nothing() -> None:
    """A server that is cut off from its leader answers for a while: pings and reads alone make nothing later."""
    lease = Lease()
    lease.connected(7, T, before=100.0)
    for moment in range(101, 130):
        lease.touched(1, float(moment))
    assert lease.until(1) == 111.0


def test_a_proof_counts_what_the_leader_must_have_heard_of_before() -> None:
    """An answer of the leader covers the touches that are at least T/6 older, and not the one that it answers."""
    lease = Lease()
    lease.connected(7, T, before=100.0)
    lease.touched(1, 103.0)
    lease.touched(1, 104.5)
    lease.proved(1, 105.5)
    assert lease.until(1) == 103.0 + 11.0


def test_a_new_session_ends_the_old_one_and_what_is_said_of_it() -> None:
    """After the session was lost nothing of it counts; a late answer to it does not make the new one live longer."""
    lease = Lease()
    lease.connected(7, T, before=100.0)
    lease.expired()
    assert lease.until(1) == NEVER
    assert lease.connected(8, T, before=110.0)
    assert lease.epoch == 2
    lease.touched(1, 115.0)
    lease.proved(1, 119.0)
    assert (lease.until(1), lease.until(2)) == (NEVER, 121.0)


def test_the_same_session_again_keeps_its_epoch() -> None:
    """A connection that was lost and made again in time is the same session, and what it holds is still held."""
    lease = Lease()
    lease.connected(7, T, before=100.0)
    assert not lease.connected(7, T, before=104.0)
    assert lease.epoch == 1
    assert lease.until(1) == 115.0


def test_the_servers_may_want_a_shorter_session_from_now_on() -> None:
    """Servers that were configured anew keep the session for less: what was counted by the longer time is void."""
    lease = Lease()
    lease.connected(7, T, before=100.0)
    lease.touched(1, 101.0)
    lease.proved(1, 104.0)
    assert not lease.connected(7, T / 4, before=105.0)
    assert lease.until(1) == 105.0 + 11.0 / 4


def test_the_lease_never_outlives_what_the_leader_counts() -> None:
    """Whatever touches and proofs there are, and whenever the follower is cut off, the leader expires us no earlier.

    The leader hears of a follower's touches each half tick, with T three ticks; a proof is answered only while the
    follower has the leader.
    """
    tick = T / 3
    for seed in range(300):
        chance = random.Random(seed)
        lease = Lease()
        lease.connected(7, T, before=0.0)
        leader_heard, unsaid, now = 0.0, 0.0, 0.0
        next_report, cut_at = chance.uniform(0, tick / 2), chance.uniform(5, 60)
        while now < cut_at + 5:
            now += chance.choice((0.01, 0.3, 1.0, T / 6, T / 3)) * chance.uniform(0.5, 1.5)
            while next_report <= min(now, cut_at):
                # Everything that the follower was told up to then.
                leader_heard = max(leader_heard, min(unsaid, next_report))
                next_report += tick / 2
            if now > leader_heard + T:
                break  # expired
            if chance.random() < 0.5:
                unsaid = now
                lease.touched(1, now)
            elif now < cut_at:
                unsaid = now
                lease.touched(1, now)
                lease.proved(1, now)
            assert lease.until(1) < leader_heard + T, seed
