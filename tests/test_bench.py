"""scripts/bench measures and tells; what it measures is not judged here, because tests share their machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from benchmarks import report
from benchmarks.cluster import comparing, daemons, growth, jute
from benchmarks.cluster.jute import Request
from benchmarks.cluster.tap import Tap
from benchmarks.cluster.thin import Fleet
from benchmarks.cluster.traffic import outline
from benchmarks.measuring import BenchError, Figure, Growth, Rounds, Spread, in_turn
from benchmarks.workspace import Workspace
from zookeeper_servers import Servers

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_run_writes_its_figures_and_leaves_nothing(tmp_path: Path) -> None:
    """A run prints a table, writes each measurement as JSON, and removes its directory."""
    target = tmp_path / "figures.json"
    done = subprocess.run(
        [CHECKOUT / "scripts" / "bench", "--quick", "--only", "import", "--json", target],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    document = json.loads(target.read_text())
    (figure,) = document["figures"]
    assert figure["group"] == "import"
    assert figure["comparison"] == "difference"
    assert len(figure["measured"]["values"]) == len(figure["baseline"]["values"]) == figure["result"]["n"] > 1
    assert figure["measured"]["least"] <= figure["measured"]["median"] <= figure["measured"]["most"]
    assert isinstance(figure["is_met"], bool)
    assert figure["what"] in done.stdout
    assert not list((CHECKOUT / ".bench").glob("run-*"))


def test_sides_take_turns_and_each_begins_a_round() -> None:
    """Every round runs each side once, and no side is always the first."""
    ran: list[str] = []

    def side(name: str) -> float:
        ran.append(name)
        return float(len(ran))

    first, second = in_turn(Rounds(3, 3, 60), [lambda: side("a"), lambda: side("b")])
    assert "".join(ran) == "abbaab"
    assert first.values == (1.0, 4.0, 5.0)
    assert second.values == (2.0, 3.0, 6.0)


def test_rounds_end_with_their_budget_but_not_before_the_least() -> None:
    """A budget that is spent ends the rounds, after as many as a median needs."""
    assert list(Rounds(9, 2, -1)) == [0, 1]


def test_a_missed_goal_is_said_and_counted() -> None:
    """A figure that misses its goal is marked in the table and counted below it; the others are not."""
    missed = Figure("one", "slow thing", Spread((3.0, 2.0)), "ratio", Spread((1.0, 1.0)), "bare", goal=1.3)
    met = Figure("two", "quick thing", Spread((0.001,)), goal=0.002)
    told = Figure("three", "some thing", Spread((0.5,)), facts={"phases_s": {"link": 0.1, "sync": 0.3}})
    run = report.Run([missed, met, told], is_quick=True, duration_s=1.0, load=(0.0, 0.0))
    lines = report.text(run).splitlines()
    assert [line.rstrip().endswith("MISSED") for line in lines if "thing  " in line] == [True, False, False]
    assert "2.50x (2.25x-2.75x)" in report.text(run)
    assert "some thing: link 100.0 ms (25%), sync 300.0 ms (75%)" in lines
    assert lines[-1] == "1 of 2 goals met"
    assert json.loads(json.dumps(run.to_json()))["missed"] == 1


def test_bytes_and_rates_are_told_in_their_units() -> None:
    """What is no time is shown as what it is; its ratio is a ratio."""
    memory = Figure("one", "memory", Spread((67e6,)), "ratio", Spread((61e6,)), "before", goal=1.1, unit="bytes")
    rate = Figure("two", "rate", Spread((4200.0,)), unit="per_s")
    run = report.Run([memory, rate], is_quick=True, duration_s=1.0, load=(0.0, 0.0))
    text = report.text(run)
    assert "67.0 MB" in text
    assert "1.10x (1.10x-1.10x)" in text
    assert "4200/s" in text
    assert [figure["unit"] for figure in json.loads(json.dumps(run.to_json()))["figures"]] == ["bytes", "per_s"]


@pytest.mark.slow
def test_a_daemon_is_asked(tmp_path: Path) -> None:
    """What measures the daemon starts it, gets answers from it over many connections at once, and ends it."""
    target = tmp_path / "figures.json"
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [CHECKOUT / "scripts" / "bench", "--quick", "--only", "requests", "--json", target]
    subprocess.run(command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, check=True)
    figures = {figure["what"]: figure["measured"] for figure in json.loads(target.read_text())["figures"]}
    assert figures["ensure of a ready environment, 16 connections"]["median"] > 100


def test_growth_is_an_exponent_and_is_drawn(tmp_path: Path) -> None:
    """What grows with the square is told as such, misses its goal, is told with its numbers, and becomes a picture."""
    squared = growth.figure("g", "squared", Growth("hosts", "bytes", (10, 100, 1000), (1e2, 1e4, 1e6)), growth.LINEAR)
    flat = growth.figure("g", "flat", Growth("hosts", "bytes", (10, 100, 1000), (7, 7, 7)), growth.FLAT)
    assert squared.measured.median == pytest.approx(2)
    assert (squared.is_met, flat.is_met) == (False, True)
    text = report.text(report.Run([squared, flat], is_quick=True, duration_s=1.0, load=(0.0, 0.0)))
    assert "100 with 10, 10,000 with 100, 1,000,000 with 1,000 hosts (bytes)" in text
    assert growth.draw([squared, flat], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not growth.draw([], tmp_path / "none.png")


def test_a_simulated_host_that_asks_something_else_is_refused() -> None:
    """A run ends with every difference between a real host and a simulated one, by role."""
    same = {"join": Counter(["getData /a"]), "wait": Counter(["sync ", "sync "])}
    comparing.compare(same, same)
    with pytest.raises(BenchError, match=r"(?s)wait: only the real host: sync.*simulated host: exists /b"):
        comparing.compare(same, {**same, "wait": Counter(["sync ", "exists /b"])})


def test_the_thin_client_and_the_tap_speak_zookeepers_protocol(zookeeper: Servers) -> None:
    """Through a tap, a thin session creates, reads, watches, lists, writes in one transaction, and hears what fails."""

    async def ask() -> list[str]:
        async with Tap(zookeeper.addresses[0]) as tap, Fleet([tap.address], session_ms=10_000) as fleet:
            line, heard = await fleet.open(), asyncio.Event()
            root = f"/thin-{os.getpid()}"
            await line.ask(Request("create2", root, b"one"))
            read = await line.ask(Request("getData", root, is_watching=True), heard.set)
            assert (read.data, read.version, read.child_count) == (b"one", 0, 0)
            await line.ask(Request("create", f"{root}/a-", flags=jute.EPHEMERAL_SEQUENCE))
            assert (await line.ask(Request("getChildren", root))).children == ("a-0000000000",)
            parts = (Request("check", root, version=0), Request("setData", root, b"two", version=0))
            assert (await line.ask(Request("multi", parts=parts))).error == jute.OK
            await asyncio.wait_for(heard.wait(), 10)
            assert (await line.ask(Request("multi", parts=parts))).error == jute.BAD_VERSION
            assert (await line.ask(Request("getData", f"{root}/none"))).error == jute.NO_NODE
            assert tap.traffic.operations == fleet.traffic.operations
            assert tap.traffic.bytes == fleet.traffic.bytes
            assert tap.traffic.events == fleet.traffic.events == 1
            return outline(tap.operations, {root: "<root>"})

    assert asyncio.run(ask()) == [
        "create <root>",
        "getData watch <root>",
        "create ephemeral sequence <root>/a-",
        "getChildren <root>",
        "multi(check <root>, setData <root>)",
        "multi(check <root>, setData <root>) -> -103",
        "getData <root>/none -> -101",
    ]


@pytest.mark.slow
def test_a_simulated_host_asks_what_a_real_one_asks(tmp_path: Path, ensemble: Servers) -> None:
    """Joining, solving, and waiting for a solve are the same operations, by a daemon and by a simulated host."""
    work = Workspace(tmp_path)
    lock_text = daemons.write_lockfile(work).read_text()

    async def compare() -> None:
        real, simulated = await asyncio.gather(  # they mostly wait, and in trees of their own
            comparing.of_real_hosts(work, ensemble.addresses),
            comparing.of_simulated_hosts(ensemble.addresses, comparing.work_of(lock_text)),
        )
        comparing.compare(real, simulated)

    asyncio.run(compare())
