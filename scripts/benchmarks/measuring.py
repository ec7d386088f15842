"""Spreads and figures, interleaved rounds, and one timed process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, TypeAlias

Comparison = Literal["value", "difference", "ratio"]
Unit = Literal["s", "bytes", "per_s", "exponent"]
Facts: TypeAlias = "Mapping[str, object]"


class BenchError(Exception):
    """Something that is to be measured did not work at all."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Measurements in the order in which they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, both within the measurements."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    def to_json(self) -> Facts:
        first, third = self.quartiles
        return {
            "n": len(self.values),
            "median": self.median,
            "first_quartile": first,
            "third_quartile": third,
            "least": min(self.values),
            "most": max(self.values),
        }


@dataclass(frozen=True, slots=True)
class Growth:
    """What was measured, in `unit`, with more and more of something (`over`: hosts, environments)."""

    over: str
    unit: str
    sizes: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """The slope in logarithms, by least squares: n hosts cost as much as one, times n to the power of this."""
        xs = [math.log(size) for size in self.sizes]
        ys = [math.log(max(value, 1e-9)) for value in self.values]
        return statistics.linear_regression(xs, ys).slope


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; `unit` is that of what was measured, and of its goal unless that is a ratio.

    `comparison` says what stands against the goal: what was measured itself, or its difference from or ratio to the
    baseline's of the same round. Without a goal the figure is only told. Of a `growth`, its exponent is measured.
    """

    group: str
    what: str
    measured: Spread
    comparison: Comparison = "value"
    baseline: Spread | None = None
    baseline_what: str = ""
    goal: float | None = None
    facts: Facts = field(default_factory=dict)
    unit: Unit = "s"
    growth: Growth | None = None

    @property
    def result(self) -> Spread:
        """What is compared with the goal, round by round."""
        if self.comparison == "value" or self.baseline is None:
            return self.measured
        pairs = zip(self.measured.values, self.baseline.values, strict=True)
        if self.comparison == "difference":
            return Spread(tuple(one - other for one, other in pairs))
        return Spread(tuple(one / other for one, other in pairs))

    @property
    def is_met(self) -> bool | None:
        """Whether the median result is within the goal; ``None`` without a goal."""
        return None if self.goal is None else self.result.median <= self.goal

    def to_json(self) -> Facts:
        return {
            "group": self.group,
            "what": self.what,
            "unit": self.unit,
            "comparison": self.comparison,
            "baseline_what": self.baseline_what or None,
            "measured": {**self.measured.to_json(), "values": list(self.measured.values)},
            "baseline": None
            if self.baseline is None
            else {**self.baseline.to_json(), "values": list(self.baseline.values)},
            "result": self.result.to_json(),
            "goal": self.goal,
            "is_met": self.is_met,
            "facts": dict(self.facts),
            "growth": None if self.growth is None else dataclasses.asdict(self.growth),
        }


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often something is done: `wished` times, but no more after `budget_s` once there were `least`."""

    wished: int
    least: int
    budget_s: float

    def __iter__(self) -> Iterator[int]:
        began = time.monotonic()
        for number in range(self.wished):
            if number >= self.least and time.monotonic() - began > self.budget_s:
                return
            yield number


def in_turn(rounds: Rounds, sides: Sequence[Callable[[], float]]) -> tuple[Spread, ...]:
    """Run one of each side in every round, another one first each time; return one spread for each side."""
    values: list[list[float]] = [[] for _ in sides]
    for number in rounds:
        for step in range(len(sides)):
            side = (number + step) % len(sides)
            values[side].append(sides[side]())
    return tuple(Spread(tuple(taken)) for taken in values)


def timed(
    command: Sequence[str | Path],
    environ: Mapping[str, str],
    *,
    timeout_s: float = 120,
    log: Path,
    out: Path | None = None,
) -> float:
    """Run a program to its end and return the seconds that it took; `BenchError` when it fails.

    Its standard input and output are empty (or `out`), and its standard error goes to `log`. The program and its
    children are killed when it takes longer than `timeout_s`, or when this process is told to stop.
    """
    argv = [os.fspath(word) for word in command]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.fspath(out or os.devnull), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, os.fspath(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
    ]
    with _alarm(timeout_s, argv):
        began = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, dict(environ), file_actions=actions, setpgroup=0)
        try:
            _, status = os.waitpid(pid, 0)
            took_s = time.perf_counter() - began
        except BaseException:
            end_group(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            raise
    if status != 0:
        said = log.read_text("utf-8", "replace")[-2000:].strip()
        raise BenchError(f"{' '.join(argv)} failed ({os.waitstatus_to_exitcode(status)}): {said}")
    return took_s


def end_group(pid: int) -> None:
    """Kill a program that was started in a process group of its own, with all that it has started there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def _alarm(timeout_s: float, argv: Sequence[str]) -> Iterator[None]:
    def too_late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise BenchError(f"{' '.join(argv)} has not ended within {timeout_s:g} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
