"""What the daemon costs: a round trip, many of them, memory, processor time at rest, its start and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.asking import Line, request
from benchmarks.measuring import BenchError, Figure, Rounds, Spread, end_group, in_turn
from benchmarks.workspace import QUICKSTART, Workspace, say

_PATIENCE_S = 30.0
_PAUSE_S = 0.01
_BLOCK = 500
"""Round trips in one block: enough that its 99th percentile is not its maximum."""
_PING = request("GET", "/v1/health/live")
_ROUND_TRIP_GOAL = 1.5
_REST_BYTES_GOAL = 80e6
_GROWTH_GOAL = 1.1
_REST_CPU_GOAL_S = 0.2
_BUILDS = 100
_CPUCLOCK_SCHED = 2
"""clock_getcpuclockid(3), of which Python has none."""
_SETTLE_S = 3.0
"""From the last request until the daemon is at rest: longer than it holds what it hands over by a connection."""


def round_trips(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare `ensure` of a ready environment over the socket with a bare ping of the same server."""
    text = QUICKSTART.read_text("utf-8")
    by_name = request("POST", "/v1/environments", json.dumps({"name": work.name}))
    by_text = request("POST", "/v1/environments", json.dumps({"spec": {"text": text, "includes": {}}}))
    with _usual(work) as daemon, contextlib.closing(Line(daemon.socket)) as line:
        for data in (by_name, by_text, _PING):
            _trips(line, data)
        sides = [by_name, by_text, _PING]
        medians: list[list[float]] = [[] for _ in sides]
        tails: list[list[float]] = [[] for _ in sides]
        say("round trips over the socket: ensure by name, by text, and a ping in turn")
        rounds = Rounds(4 if is_quick else 20, 4, 30)
        in_turn(rounds, [_Block(line, data, *lists) for data, *lists in zip(sides, medians, tails, strict=True)])
    (name, spec, ping), (name_99, spec_99, ping_99) = (
        [Spread(tuple(values)) for values in those] for those in (medians, tails)
    )
    return [
        Figure("socket", what, measured, "ratio", against, "GET /v1/health/live", _ROUND_TRIP_GOAL)
        for what, measured, against in (
            ("ensure by name over the socket, median", name, ping),
            ("ensure by name over the socket, p99", name_99, ping_99),
            ("ensure by a seen text over the socket, median", spec, ping),
            ("ensure by a seen text over the socket, p99", spec_99, ping_99),
        )
    ]


class _Block:
    """Makes a block of round trips; notes their median and their 99th percentile."""

    def __init__(self, line: Line, data: bytes, medians: list[float], tails: list[float]) -> None:
        self._line = line
        self._data = data
        self._medians = medians
        self._tails = tails

    def __call__(self) -> float:
        took = _trips(self._line, self._data)
        self._medians.append(statistics.median(took))
        self._tails.append(statistics.quantiles(took, n=100)[98])
        return self._medians[-1]


def _trips(line: Line, data: bytes) -> list[float]:
    clock, took = time.perf_counter, []
    for _ in range(_BLOCK):
        began = clock()
        line.ask(data)
        took.append(clock() - began)
    return took


def throughput(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Count the answers of a second, with one connection and with sixteen."""
    body = json.dumps({"name": work.name})
    seconds = 1.0 if is_quick else 3.0
    figures = []
    with _usual(work) as daemon:
        for connections in (1, 16):
            say(f"ensure of a ready environment as often as it goes, {connections} connections")
            rates = []
            for _ in Rounds(1 if is_quick else 5, 1, 20):
                command = work.program("asking", daemon.socket, str(connections), str(seconds))
                count, took = map(float, work.output([*command, "POST", "/v1/environments", body]).split())
                rates.append(count / took)
            noun = "connection" if connections == 1 else "connections"
            what = f"ensure of a ready environment, {connections} {noun}"
            figures.append(Figure("requests", what, Spread(tuple(rates)), unit="per_s"))
    return figures


def memory(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare the resident memory of a daemon before and after a hundred builds that take no time."""
    root = work.new_store("memory", work.channel)
    (lock,) = work.prefix.parent.parent.glob("conda-lock.yml")
    rests, afters = [], []
    for number in Rounds(1 if is_quick else 3, 1, 60):
        say(f"{_BUILDS} builds by one daemon")
        with daemon_of(work, work.program("instant", lock, root), root) as daemon:
            time.sleep(_SETTLE_S)
            rests.append(float(daemon.resident_bytes()))
            for build in range(_BUILDS):
                _build(daemon, f"name: memory\ndependencies:\n  - package-{number}-{build}\n")
            time.sleep(_SETTLE_S)
            afters.append(float(daemon.resident_bytes()))
    rest, after = Spread(tuple(rests)), Spread(tuple(afters))
    what = f"daemon after {_BUILDS} builds, resident"
    return [Figure("memory", what, after, "ratio", rest, "before them", _GROWTH_GOAL, unit="bytes")]


def _build(daemon: Daemon, text: str) -> None:
    """Have an environment made, and hear its events to their end, as a client does."""
    ask = request("POST", "/v1/environments", json.dumps({"spec": {"text": text, "includes": {}}}))
    with contextlib.closing(Line(daemon.socket)) as line:
        operation = json.loads(line.ask(ask))["data"]["operation"]
        line.socket.sendall(request("GET", f"/v1/operations/{operation['id']}/events"))
        heard = b""
        while b"event: end" not in heard:
            block = line.socket.recv(1 << 16)
            if not block:
                raise BenchError(f"the events ended early: {heard[-500:]!r}")
            heard = heard[-20:] + block
        while b"\n\n" not in heard.partition(b"event: end")[2]:
            heard += line.socket.recv(1 << 16)
        if b'"succeeded"' not in heard:
            raise BenchError(f"a build of no work failed: {heard[-1000:]!r}")


def rest(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Measure a daemon that nobody asks anything: its memory, its processor time in a minute (or scaled to one)."""
    seconds = 15.0 if is_quick else 60.0
    with _usual(work) as daemon:
        with contextlib.closing(Line(daemon.socket)) as line:
            line.ask(request("POST", "/v1/environments", json.dumps({"name": work.name})))
        time.sleep(_SETTLE_S)
        say(f"{seconds:.0f} s of rest")
        before, began = daemon.processor_s(), time.monotonic()
        time.sleep(seconds)
        spent = (daemon.processor_s() - before) * 60 / (time.monotonic() - began)
        facts = {"seconds": seconds, "threads": daemon.threads()}
        resident = float(daemon.resident_bytes())
    what = "daemon at rest: processor time in a minute"
    return [
        Figure("rest", "daemon at rest, resident", Spread((resident,)), goal=_REST_BYTES_GOAL, unit="bytes"),
        Figure("rest", what, Spread((spent,)), goal=_REST_CPU_GOAL_S, facts=facts),
    ]


def ending(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time from the start to the first answer, and from SIGTERM to the exit, alone and with a client that stays."""
    starts, ends, lingering = [], [], []
    for _ in Rounds(2 if is_quick else 7, 2, 30):
        with _usual(work) as daemon:
            starts.append(daemon.started_s)
            ends.append(daemon.end())
        with _usual(work) as daemon, contextlib.closing(Line(daemon.socket)) as line:
            line.ask(request("POST", "/v1/environments", json.dumps({"name": work.name})))
            lingering.append(daemon.end())
    return [
        Figure("ending", "daemon: from its start to the first answer", Spread(tuple(starts))),
        Figure("ending", "daemon: from SIGTERM to its exit", Spread(tuple(ends))),
        Figure("ending", "daemon: the same while a client keeps a lease that it was handed", Spread(tuple(lingering))),
    ]


def processor_s(pid: int) -> float:
    """Return the processor time of all threads of a process so far, ended ones too; finer than the ticks in /proc."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


class Daemon:
    """A daemon that runs, and what the kernel counts of it."""

    def __init__(self, process: subprocess.Popen[bytes], socket: str, started_s: float) -> None:
        self._process = process
        self._proc = Path(f"/proc/{process.pid}")
        self.socket = socket
        self.started_s = started_s

    def resident_bytes(self) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    def processor_s(self) -> float:
        """Return the processor time of all its threads so far, ended ones too; finer than the ticks in /proc."""
        return processor_s(self._process.pid)

    def threads(self) -> int:
        return len(list((self._proc / "task").iterdir()))

    def end(self) -> float:
        """Tell it to end and return the seconds that it takes."""
        began = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(_PATIENCE_S) != 0:
            raise BenchError(f"the daemon ended with {self._process.returncode}")
        return time.perf_counter() - began


def _usual(work: Workspace) -> contextlib.AbstractContextManager[Daemon]:
    """Run ``envmgr daemon`` over the store in which the quickstart environment is ready."""
    return daemon_of(work, [work.bin / "envmgr", "--root", work.store, "daemon"], work.store)


@contextlib.contextmanager
def daemon_of(work: Workspace, command: Sequence[str | Path], root: Path) -> Iterator[Daemon]:
    """Run a daemon of the store at `root` for the length of the block."""
    link = root / "socket"
    runtime = work.run / "runtime"  # for its socket
    runtime.mkdir(mode=0o700, exist_ok=True)
    environ = work.environ(root, XDG_RUNTIME_DIR=str(runtime))
    said = work.run / f"{root.name}.log"
    with said.open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while not (socket := _answering(link)):
            if process.poll() is not None or time.perf_counter() - began > _PATIENCE_S:
                raise BenchError(f"the daemon does not answer: {said.read_text('utf-8', 'replace')[-2000:]}")
            time.sleep(_PAUSE_S)
        yield Daemon(process, socket, time.perf_counter() - began)
        if process.poll() is None:
            process.terminate()
            process.wait(_PATIENCE_S)
    finally:
        end_group(process.pid)
        process.wait()


def _answering(link: Path) -> str | None:
    try:
        socket = os.path.join(link.parent, os.readlink(link))
        with contextlib.closing(Line(socket)) as line:
            line.ask(_PING)
    except OSError:
        return None
    return socket
