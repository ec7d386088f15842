"""What a cluster costs its ZooKeeper servers, with more and more hosts, and with more and more environments at rest.

The hosts are simulated (`benchmarks.cluster.hosts`), after it was shown that they ask what real ones ask. They install
nothing: everything that they ask for a `cluster create` falls into the seconds that the agents' jitter allows, where
builds would spread it over minutes. A minute at rest is some seconds of it, extrapolated, with the hosts' passes spread
over their interval as they are after a while. The servers keep their data in files that they do not sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass

from zookeeper_servers import Servers

from benchmarks.cluster import administering, comparing, daemons, growth
from benchmarks.cluster.administering import declaration, spec_of
from benchmarks.cluster.hosts import SimulatedHost, Work
from benchmarks.cluster.session import ThinSession
from benchmarks.cluster.thin import Fleet
from benchmarks.cluster.traffic import Traffic
from benchmarks.measuring import BenchError, Figure, Growth, Spread
from benchmarks.serving import processor_s
from benchmarks.workspace import Workspace, say
from envmgr.names import EnvName

_SIZES = (100, 300, 1_000, 3_000, 10_000)
_QUICK_SIZES = (100, 300, 1_000)
_DECLARED = (1, 10, 100, 1_000)
_QUICK_DECLARED = (1, 10, 100)
_INTERVAL_S = 60.0
_SESSION_S = 60.0
"""Twice what hosts have: one process that is 10,000 of them is up to 40 s late with some."""
_SPARE_DESCRIPTORS = 200
_PATIENCE_S = 300.0
_SETTLE_S = 3.0
_SOLVE_S = 1.0
_HEAP = ("-Xms64m", "-Xmx3g")  # 10,000 hosts that all read the lockfile at once took more than 768 MB
_TICK_MS = 2_000
"""ZooKeeper's own default. With short ticks a server that is busy with 10,000 hosts for a second counts as gone."""
_COUNTS_AGREE = 0.03
_WORD = "created"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured with so many hosts; traffic is that of all of them together, `rest` that of `rest_s`."""

    hosts: int
    join_s: float
    join: Traffic
    rest_s: float
    rest: Traffic
    rest_processor_s: float
    create_s: float
    create: Traffic
    administrator: int
    """Operations: what the servers counted besides those of the hosts."""

    def minute(self, amount: float) -> float:
        """Return for a minute what was counted at rest."""
        return amount * 60 / self.rest_s

    def facts(self) -> dict[str, object]:
        """Return what one host costs, for people."""
        each = {kind: f"{count / self.hosts:.2f}" for kind, count in self.create.operations.most_common() if count}
        return {
            "operations each": f"{self.create.total / self.hosts:.1f}",
            "of which writes": f"{self.create.writes / self.hosts:.1f}",
            "bytes each": f"{self.create.bytes / self.hosts:,.0f}",
            "events each": f"{self.create.events / self.hosts:.1f}",
            "by kind": each,
            "administrator's operations": self.administrator,
            "joining took": f"{self.join_s:.1f} s with {self.join.total / self.hosts:.1f} operations each",
        }


def agents(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Measure joining, resting and `cluster create` with more and more hosts."""
    sizes = _possible(_QUICK_SIZES if is_quick else _SIZES)
    lock_text = daemons.write_lockfile(work).read_text()
    with _servers(work) as servers:
        say("comparing simulated hosts with real ones")
        asyncio.run(_compare(work, servers, lock_text))
        build = Work(_SOLVE_S, 0.0, lock_text, daemons.digest_of(lock_text))
        measured = []
        for size in sizes:
            say(f"{size:,} simulated hosts")
            try:
                measured.append(asyncio.run(_measure(work, servers, size, build, rest_s=10.0 if is_quick else 20.0)))
            except BenchError as error:
                if len(measured) < 2:
                    raise
                say(f"{size:,} hosts are too many for this machine, and are left out: {error}")
                break
    return _figures(measured)


async def _compare(work: Workspace, servers: Servers, lock_text: str) -> None:
    real = await comparing.of_real_hosts(work, servers.addresses)
    comparing.compare(real, await comparing.of_simulated_hosts(servers.addresses, comparing.work_of(lock_text)))


def _figures(measured: Sequence[Measured]) -> list[Figure]:
    figures = [
        Figure("agents", f"cluster create, {each.hosts:,} hosts", Spread((each.create_s,)), facts=each.facts())
        for each in measured
    ]
    sizes = tuple(each.hosts for each in measured)
    series = (
        ("cluster create", "operations", [each.create.total for each in measured], growth.LINEAR),
        ("cluster create", "writes", [each.create.writes for each in measured], growth.LINEAR),
        ("cluster create", "bytes", [each.create.bytes for each in measured], growth.LINEAR),
        ("cluster create", "seconds", [each.create_s for each in measured], growth.LINEAR),
        ("its administrator", "operations", [each.administrator for each in measured], growth.LINEAR),
        ("a minute at rest", "operations", [each.minute(each.rest.total) for each in measured], growth.LINEAR),
        ("a minute at rest", "pings", [each.minute(each.rest.operations["ping"]) for each in measured], growth.LINEAR),
        ("a minute at rest", "bytes", [each.minute(each.rest.bytes) for each in measured], growth.LINEAR),
        ("a minute at rest", "seconds of the servers' processors",
         [each.minute(each.rest_processor_s) for each in measured], growth.LINEAR),
        ("joining", "operations", [each.join.total for each in measured], growth.LINEAR),
    )  # fmt: skip
    return figures + [
        growth.figure("agents", f"{what}, {unit}", Growth("hosts", unit, sizes, tuple(map(float, values))), goal)
        for what, unit, values, goal in series
    ]


# ------------------------------------------------------------------------------------------------- one number of hosts


async def _measure(work: Workspace, servers: Servers, size: int, build: Work, *, rest_s: float) -> Measured:
    root = f"/agents-{size}"
    names = [f"host-{number:05d}" for number in range(size)]
    with administering.administrator(servers.addresses, root) as admin:
        await asyncio.to_thread(admin.create, declaration(spec_of("elsewhere"), hosts=["nobody"]))
    async with Fleet(servers.addresses, session_ms=int(_SESSION_S * 1000)) as fleet:
        began = time.monotonic()
        lines = await asyncio.gather(*(fleet.open() for _ in names))
        hosts = [
            SimulatedHost(ThinSession(line, root, _SESSION_S), name, build, interval_s=_INTERVAL_S, gives=True)
            for line, name in zip(lines, names, strict=True)
        ]
        async with _living(hosts) as failure:
            await _all([host.joined.wait() for host in hosts], failure)
            join_s, join = time.monotonic() - began, fleet.traffic.copy()
            await asyncio.sleep(_SETTLE_S)
            rest, rest_processor_s, took_s = await _rest(servers, fleet, rest_s)
            before, counted = fleet.traffic.copy(), _packets(servers)
            create_s = await _create(work, servers, root, hosts, failure)
            await asyncio.sleep(_SETTLE_S)
            create = fleet.traffic.since(before)
            administrator = _packets(servers) - counted - sum(create.operations.values())
    return Measured(size, join_s, join, took_s, rest, rest_processor_s, create_s, create, administrator)


@contextlib.asynccontextmanager
async def _living(hosts: Sequence[SimulatedHost]) -> AsyncIterator[asyncio.Future[None]]:
    """Run hosts for the length of the block; what is yielded fails when one of them does."""
    failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not failure.done():
            failure.set_exception(task.exception() or BenchError("a simulated host ended"))

    tasks = [asyncio.create_task(host.run()) for host in hosts]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failure.done():
            failure.exception()  # it was seen
        failure.cancel()


async def _all(waits: Sequence[Coroutine[object, object, object]], failure: asyncio.Future[None]) -> None:
    """Wait for all, bounded; raise what makes that impossible."""
    everything = asyncio.gather(*waits)
    done, _ = await asyncio.wait((everything, failure), timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    if everything in done:
        everything.result()
        return
    everything.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await everything
    if failure in done:
        failure.result()
    raise BenchError(f"the simulated hosts are not done after {_PATIENCE_S:g} s")


async def _rest(servers: Servers, fleet: Fleet, seconds: float) -> tuple[Traffic, float, float]:
    """Let the hosts rest; return what they asked all the same, what it cost the servers, and the seconds."""
    before, counted, spent, began = fleet.traffic.copy(), _packets(servers), _spent(servers), time.monotonic()
    await asyncio.sleep(seconds)
    took_s, spent_s, rest = time.monotonic() - began, _spent(servers) - spent, fleet.traffic.since(before)
    ours, theirs = sum(rest.operations.values()), _packets(servers) - counted
    if abs(ours - theirs) > max(50.0, theirs * _COUNTS_AGREE):
        raise BenchError(f"the bench counted {ours} requests, the servers {theirs}: one of them is wrong")
    return rest, spent_s, took_s


async def _create(
    work: Workspace, servers: Servers, root: str, hosts: Sequence[SimulatedHost], failure: asyncio.Future[None]
) -> float:
    """Declare an environment as ``cluster create --wait`` does; return when the last host had said that it is ready."""
    name = EnvName(spec_of(_WORD).name)
    command = work.program("cluster/declaring", ",".join(servers.addresses), root, _WORD, str(_PATIENCE_S))
    with work.log.open("wb") as log:
        program = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, env=work.environ()
        )
    if program.stdin is None or program.stdout is None:
        raise BenchError("the administrator has no pipes")
    try:
        if await program.stdout.readline() != b"ready\n":
            raise BenchError(f"the administrator does not begin: {work.log.read_text('utf-8', 'replace')[-2000:]}")
        began = time.monotonic()
        program.stdin.write(b"go\n")
        await _all([program.wait(), *(host.made(name) for host in hosts)], failure)
        if program.returncode:
            raise BenchError(f"the administrator failed: {work.log.read_text('utf-8', 'replace')[-2000:]}")
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    return max(host.ready[name] for host in hosts) - began


# -------------------------------------------------------------------------------------------------------- the servers


@contextlib.contextmanager
def _servers(work: Workspace) -> Iterator[Servers]:
    with Servers(3, tick_ms=_TICK_MS, java=_HEAP, directory=work.run) as servers:
        yield servers


def _possible(sizes: Sequence[int]) -> list[int]:
    """Return the sizes for which this process may open connections enough, and raise its limit to that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(sizes) + _SPARE_DESCRIPTORS
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))  # the servers inherit it
    possible = [size for size in sizes if size + _SPARE_DESCRIPTORS <= max(soft, limit)]
    if len(possible) < len(sizes):
        left_out = ", ".join(f"{size:,}" for size in sizes if size not in possible)
        say(f"this process may open {max(soft, limit):,} files (ulimit -Hn): {left_out} hosts are left out")
    if len(possible) < 2:
        raise BenchError("growth needs two numbers of hosts at least; raise the limit of open files (ulimit -n)")
    return possible


def _spent(servers: Servers) -> float:
    return sum(processor_s(pid) for number in range(servers.count) if (pid := servers.pid(number)) is not None)


def _packets(servers: Servers) -> int:
    """Return how many requests the servers themselves have counted."""
    total = 0
    for number in range(servers.count):
        facts = dict(line.split("\t", 1) for line in servers.ask(number, "mntr").splitlines() if "\t" in line)
        total += int(facts["zk_packets_received"])
    return total
