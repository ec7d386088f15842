"""What a claim costs, beside kazoo's own lock on the same three servers: alone, and with a hundred who want it.

kazoo's lock does less: it trusts its own flag, asks no leader whether its session lives, and leaves the lock's parent
behind for ever. A new lock object is made for each acquire, since one that lost its session cannot be used again.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from kazoo.client import KazooClient
from zookeeper_servers import Servers

from benchmarks.measuring import BenchError, Figure, Rounds, in_turn
from benchmarks.workspace import Workspace, say
from envmgr.coordination.zookeeper.claims import Claims
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session

_SESSION_S = 10.0
_TIMES = 25
_SESSIONS = 10
_CONTENDERS = 100
_PATIENCE_S = 60.0
_CLAIM = "/v1/claims/build/store/env-0123456789abcdef"
_LOCK = f"/kazoo{_CLAIM}"

Hold = Callable[[], contextlib.AbstractContextManager[object]]


def claims(_work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare claims with kazoo's locks, in turn."""
    with Servers(3) as servers, contextlib.ExitStack() as stack:
        endpoint = Endpoint(servers=servers.addresses, root=f"/bench-{uuid.uuid4().hex}", session_s=_SESSION_S)
        ours = [stack.enter_context(_our_session(endpoint, f"host-{number}")) for number in range(_SESSIONS)]
        theirs = [stack.enter_context(_their_session(servers.connect)) for _ in range(_SESSIONS)]
        say(f"one that is alone, {_TIMES} times a round, then {_CONTENDERS} of {_SESSIONS} sessions, in turn")
        alone = in_turn(
            Rounds(4 if is_quick else 20, 4, 30), [lambda: _one_by_one(ours[0]), lambda: _one_by_one(theirs[0])]
        )
        crowd = in_turn(Rounds(3 if is_quick else 9, 3, 40), [lambda: _all_at_once(ours), lambda: _all_at_once(theirs)])
    return [
        Figure("claims", "claim, alone: acquire and give back", alone[0], "ratio", alone[1], "kazoo's lock", 1.5),
        Figure(
            "claims", "claim, 100 contenders: until all have had it", crowd[0], "ratio", crowd[1], "kazoo's lock", 2.0
        ),
    ]


@contextlib.contextmanager
def _our_session(endpoint: Endpoint, host: str) -> Iterator[Hold]:
    session = Session(endpoint)
    session.start()
    try:
        held = Claims(session, host)
        yield lambda: held.acquire(_CLAIM, timeout_s=_PATIENCE_S)
    finally:
        session.close()


@contextlib.contextmanager
def _their_session(connect: str) -> Iterator[Hold]:
    client = KazooClient(connect, timeout=_SESSION_S)
    client.start()

    @contextlib.contextmanager
    def hold() -> Iterator[None]:
        lock = client.Lock(_LOCK, "bench")
        if not lock.acquire(timeout=_PATIENCE_S):
            raise BenchError("kazoo's lock was not got")
        try:
            yield
        finally:
            lock.release()

    try:
        yield hold
    finally:
        client.stop()
        client.close()


def _one_by_one(hold: Hold) -> float:
    """Return the seconds for one acquire and release, of many in a row."""
    began = time.perf_counter()
    for _ in range(_TIMES):
        with hold():
            pass
    return (time.perf_counter() - began) / _TIMES


def _all_at_once(holds: Sequence[Hold]) -> float:
    """Return the seconds until each contender has had it once."""
    ready = threading.Barrier(_CONTENDERS + 1)
    inside: list[int] = []
    done: list[int] = []

    def contend(number: int) -> None:
        ready.wait()
        with holds[number % len(holds)]():
            inside.append(number)
            if inside != [number]:
                raise BenchError("two held it")
            inside.remove(number)
            done.append(number)

    threads = [threading.Thread(target=contend, args=(number,), daemon=True) for number in range(_CONTENDERS)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    if len(done) != _CONTENDERS:
        raise BenchError(f"{_CONTENDERS - len(done)} of {_CONTENDERS} did not get it, or not alone")
    return took_s
