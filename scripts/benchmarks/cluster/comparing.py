"""Whether a simulated host asks ZooKeeper what a real one asks: the same small cluster twice, operation by operation.

Two hosts join a cluster and make environments: one solves, and the other waits for what he solves. Each role's
operations are compared as a multiset, since the threads of a daemon work side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from benchmarks.cluster import administering, daemons, jute
from benchmarks.cluster.administering import declaration, spec_of
from benchmarks.cluster.hosts import SimulatedHost, Work
from benchmarks.cluster.session import ThinSession
from benchmarks.cluster.tap import Tap
from benchmarks.cluster.thin import Fleet
from benchmarks.cluster.traffic import Operation, outline
from benchmarks.measuring import BenchError
from benchmarks.workspace import Workspace
from envmgr.cluster.administration import Administration
from envmgr.names import EnvName

HOSTS = 2
SESSION_S = 30.0
_SOLVE_S, _INSTALL_S = 1.5, 1.5
"""Together longer than the time after which a host says how far it is, and shorter than twice that."""
_PATIENCE_S = 60.0
_SETTLE_S = 2.5
"""After which a host writes at once what it has to say, however much it said before."""
_LOOK_S = 0.05

Roles = Mapping[str, "Counter[str]"]
"""What the hosts of each role asked: ``join``, ``solve``, ``wait``."""


def compare(real: Roles, simulated: Roles) -> None:
    """Raise `BenchError` with every difference, if there is one."""
    lines: list[str] = []
    for role in real:
        sides = (("real", real[role] - simulated[role]), ("simulated", simulated[role] - real[role]))
        for side, only in sides:
            lines += (f"  {role}: only the {side} host: {line}" for line in sorted(only.elements()))
    if lines:
        differences = "\n".join(lines)
        raise BenchError(
            "a simulated host does not ask what a real one asks, and its figures are nobody's; "
            f"benchmarks/cluster/hosts.py has to be changed with the agent:\n{differences}"
        )


async def of_real_hosts(work: Workspace, servers: Sequence[str]) -> Roles:
    """Return what daemons ask."""
    root = "/compared-real"
    async with contextlib.AsyncExitStack() as held:
        with administering.administrator(servers, root) as admin:
            await asyncio.to_thread(_prepare, admin)
            taps = [await held.enter_async_context(Tap(servers[number % len(servers)])) for number in range(HOSTS)]
            with contextlib.ExitStack() as running:
                for name, tap in zip(_names(), taps, strict=True):
                    host = daemons.host(
                        work, name, [tap.address], solve_s=_SOLVE_S, install_s=_INSTALL_S, zookeeper_root=root,
                        zookeeper_session_s=SESSION_S,
                    )  # fmt: skip
                    await asyncio.to_thread(running.enter_context, host)
                try:
                    return await _roles(admin, root, [tap.operations for tap in taps])
                finally:
                    await asyncio.to_thread(running.close)


async def of_simulated_hosts(servers: Sequence[str], work: Work) -> Roles:
    """Return what simulated hosts ask."""
    root = "/compared-simulated"
    with administering.administrator(servers, root) as admin:
        await asyncio.to_thread(_prepare, admin)
        async with Fleet(servers, session_ms=int(SESSION_S * 1000)) as fleet:
            traces: list[list[Operation]] = []
            running = []
            for name in _names():
                line = await fleet.open()
                line.trace = []
                traces.append(line.trace)
                host = SimulatedHost(ThinSession(line, root, SESSION_S), name, work, interval_s=60.0, gives=False)
                running.append(asyncio.create_task(host.run()))
            try:
                return await _roles(admin, root, traces)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)


def work_of(lock_text: str) -> Work:
    """Return what the compared builds take."""
    return Work(_SOLVE_S, _INSTALL_S, lock_text, daemons.digest_of(lock_text))


def _names() -> list[str]:
    return [f"compared-{number}" for number in range(HOSTS)]


def _prepare(admin: Administration) -> None:
    """Make the tree, with one environment that is for none of the hosts."""
    admin.create(declaration(spec_of("elsewhere"), hosts=["nobody"]))


async def _roles(admin: Administration, root: str, traces: Sequence[list[Operation]]) -> Roles:
    solver, waiter = _names()
    await _until(lambda: len(admin.hosts()) == HOSTS, "the hosts do not join")
    await asyncio.sleep(_SETTLE_S)
    joined = len(traces[0])
    # The first environment makes what all later ones find (nodes above claims and progress).
    await _declare(admin, "first", [solver, waiter])
    await _made(admin, "first")

    def asked(trace: Sequence[Operation], host: str, word: str) -> Counter[str]:
        return Counter(outline(trace, {str(spec_of(word).name): "<name>", root: "", host: "<host>"}))

    roles = {"join": asked(traces[0][:joined], solver, "elsewhere")}
    began = len(traces[0])
    await _declare(admin, "alone", [solver])
    await _made(admin, "alone")
    roles["solve"] = asked(traces[0][began:], solver, "alone")
    began, starts = len(traces[1]), len(traces[0])
    await _declare(admin, "waited-for", [solver])
    await _until(lambda: any(map(_contends, traces[0][starts:])), "nobody solves")
    await _declare(admin, "waited-for", [solver, waiter])
    await _made(admin, "waited-for")
    roles["wait"] = asked(traces[1][began:], waiter, "waited-for")
    return roles


def _contends(operation: Operation) -> bool:
    request = operation.request
    return request.flags == jute.EPHEMERAL_SEQUENCE and "/claims/solve/" in request.path and not operation.error


async def _declare(admin: Administration, word: str, hosts: Sequence[str]) -> None:
    await asyncio.to_thread(admin.create, declaration(spec_of(word), hosts=hosts))


async def _made(admin: Administration, word: str) -> None:
    """Wait until an environment is ready wherever it is declared, and the hosts have nothing more to say."""
    name = EnvName(spec_of(word).name)
    await _until(lambda: all(row.state == "ready" for row in admin.show(name).rows), f"the hosts do not make {name}")
    await asyncio.sleep(_SETTLE_S)


async def _until(look: Callable[[], bool], failure: str) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not await asyncio.to_thread(look):
        if time.monotonic() > ends:
            raise BenchError(f"{failure} within {_PATIENCE_S:g} s")
        await asyncio.sleep(_LOOK_S)
