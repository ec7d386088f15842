"""What agreeing costs: a ``cluster create`` of five hosts against one's, and one host at rest among many environments.

The hosts are real daemons with a store each, on one machine; their builds sleep, so that they do not take the processor
from each other, and what differs is ZooKeeper, claims, the lockfile's way to the others, and the agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from zookeeper_servers import Servers

from benchmarks.cluster import administering, daemons, growth
from benchmarks.cluster.administering import declaration, spec_of
from benchmarks.cluster.tap import Tap
from benchmarks.measuring import BenchError, Figure, Growth, Rounds, in_turn
from benchmarks.workspace import Workspace, say
from envmgr.cluster.administration import Administration
from envmgr.names import EnvName

_HOSTS = 5
_GOAL = 1.3
_SOLVE_S, _INSTALL_S = 2.0, 3.0
_DECLARED = (1, 10, 100, 1_000)
_QUICK_DECLARED = (1, 10, 100)
_PASS_S = 0.5
_REST_S = 8.0
_LOOK_S = 0.02
_PATIENCE_S = 600.0


def coordination(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare the time from a declaration to the last host's ready, of five hosts and of one of them."""
    names = [f"five-{number}" for number in range(_HOSTS)]
    with Servers(3, directory=work.run) as servers, contextlib.ExitStack() as held:
        admin = held.enter_context(administering.administrator(servers.addresses, "/five"))
        admin.create(declaration(spec_of("nothing"), hosts=["nobody"]))
        for name in names:
            held.enter_context(
                daemons.host(
                    work, name, servers.addresses, solve_s=_SOLVE_S, install_s=_INSTALL_S, zookeeper_root="/five"
                )
            )
        _until(lambda: len(admin.hosts()) == _HOSTS, "the hosts do not join")
        _timed(admin, "warm", names)  # a daemon's first build loads what later ones find
        say("cluster create on five hosts and on one in turn")
        count = iter(range(1_000))
        rounds = Rounds(2 if is_quick else 5, 2, 120)
        sides = [
            lambda: _timed(admin, f"five-{next(count)}", names),
            lambda: _timed(admin, f"one-{next(count)}", names[:1]),
        ]
        five, one = in_turn(rounds, sides)
    facts = {"a build": f"{_SOLVE_S:g} s of solving, {_INSTALL_S:g} s of installing"}
    what = f"cluster create on {_HOSTS} hosts whose builds sleep"
    return [Figure("coordination", what, five, "ratio", one, "on one host", _GOAL, facts)]


def _timed(admin: Administration, word: str, hosts: Sequence[str]) -> float:
    """Declare an environment for these hosts; return the seconds until all have said that it is ready."""
    began = time.perf_counter()
    admin.create(declaration(spec_of(word), hosts=hosts))
    _until(lambda: _is_ready(admin, word), f"{word} does not become ready")
    return time.perf_counter() - began


def _is_ready(admin: Administration, word: str) -> bool:
    return all(row.state == "ready" for row in admin.show(EnvName(spec_of(word).name)).rows)


def _until(look: Callable[[], bool], failure: str) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not look():
        if time.monotonic() > ends:
            raise BenchError(f"{failure} within {_PATIENCE_S:g} s")
        time.sleep(_LOOK_S)


# ----------------------------------------------------------------------------------------- at rest, many environments


def declared(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Count what a real host at rest asks with more and more environments declared and ready on it, for each pass."""
    sizes = _QUICK_DECLARED if is_quick else _DECLARED
    with Servers(3, directory=work.run) as servers:
        operations, sizes_bytes = asyncio.run(_at_rest(work, servers, sizes))
    series = (("operations", operations), ("bytes", sizes_bytes))
    return [
        growth.figure(
            "declared",
            f"one pass of a host at rest, {unit}",
            Growth("environments", unit, sizes, tuple(values)),
            growth.FLAT,
        )
        for unit, values in series
    ]


async def _at_rest(work: Workspace, servers: Servers, sizes: Sequence[int]) -> tuple[list[float], list[float]]:
    operations, sizes_bytes = [], []
    async with Tap(servers.addresses[0]) as tap:
        with contextlib.ExitStack() as held:
            admin = await asyncio.to_thread(held.enter_context, _one_host(work, servers, tap))
            made = 0
            for size in sizes:
                say(f"{size:,} environments declared")
                words = [f"declared-{number}" for number in range(made, size)]
                made = size
                await asyncio.to_thread(_declare, admin, words)
                await asyncio.sleep(5 * _PASS_S)
                before = tap.traffic.copy()
                await asyncio.sleep(_REST_S)
                rest = tap.traffic.since(before)
                passes = rest.operations["exists"] or 1  # one look at the revision each
                operations.append(rest.total / passes)
                # Pings come by time, not by pass: a request and an answer of twelve and twenty bytes.
                sizes_bytes.append((rest.bytes - rest.operations["ping"] * 32) / passes)
            await asyncio.to_thread(held.close)
    return operations, sizes_bytes


@contextlib.contextmanager
def _one_host(work: Workspace, servers: Servers, tap: Tap) -> Iterator[Administration]:
    root = "/declared"
    with administering.administrator(servers.addresses, root) as admin:
        admin.create(declaration(spec_of("nothing"), hosts=["nobody"]))
        host = daemons.host(
            work, "declared", [tap.address], solve_s=0.0, install_s=0.0, zookeeper_root=root, agent_interval_s=_PASS_S,
            max_builds=8,
        )  # fmt: skip
        with host:
            _until(lambda: len(admin.hosts()) == 1, "the host does not join")
            yield admin


def _declare(admin: Administration, words: Sequence[str]) -> None:
    for word in words:
        admin.create(declaration(spec_of(word)))

    def is_ready() -> bool:
        rows = (row for each in admin.status().environments for row in each.rows if row.host == "declared")
        return all(row.state == "ready" for row in rows)

    _until(is_ready, "the environments do not become ready")
