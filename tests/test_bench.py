"""scripts/bench measures and tells; what it measures is not judged here, because tests share their machine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from benchmarks import report
from benchmarks.measuring import Figure, Rounds, Spread, in_turn

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
