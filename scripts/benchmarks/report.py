"""The tables on standard output, and the JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measuring import Facts, Figure, Growth, Spread, Unit

FORMAT = 1
_VERDICTS = {True: "met", False: "MISSED", None: ""}


@dataclass(frozen=True, slots=True)
class Run:
    """All that is known of one run; `load` is the load average of the last minute, before and after."""

    figures: Sequence[Figure]
    is_quick: bool
    duration_s: float
    load: tuple[float, float]

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.is_met is False]

    def to_json(self) -> Facts:
        return {
            "format": FORMAT,
            "is_quick": self.is_quick,
            "duration_s": self.duration_s,
            "processors": processors(),
            "load_before": self.load[0],
            "load_after": self.load[1],
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "missed": len(self.missed),
            "figures": [figure.to_json() for figure in self.figures],
        }


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def text(run: Run) -> str:
    """Return the run as text: the conditions, the figures, and where builds spend their time."""
    parts = [
        f"{processors()} processors, load average {run.load[0]:.2f} before and {run.load[1]:.2f} after; "
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}; {run.duration_s:.0f} s"
        + ("; quick: few rounds" if run.is_quick else ""),
        _table(
            ("figure", "median", "quartiles", "min-max", "n", "against", "its median", "result", "goal", ""),
            (_row(figure) for figure in run.figures),
        ),
    ]
    details = [line for figure in run.figures for line in _details(figure)]
    if details:
        parts.append("\n".join(details))
    goals = [figure for figure in run.figures if figure.goal is not None]
    parts.append(f"{len(goals) - len(run.missed)} of {len(goals)} goals met")
    return "\n\n".join(parts)


def _row(figure: Figure) -> tuple[str, ...]:
    first, third = figure.measured.quartiles
    unit = figure.unit
    return (
        figure.what,
        _amount(figure.measured.median, unit),
        f"{_amount(first, unit)}-{_amount(third, unit)}",
        f"{_amount(min(figure.measured.values), unit)}-{_amount(max(figure.measured.values), unit)}",
        str(len(figure.measured.values)),
        figure.baseline_what,
        "" if figure.baseline is None else _amount(figure.baseline.median, unit),
        _result(figure),
        _goal(figure),
        _VERDICTS[figure.is_met],
    )


def _result(figure: Figure) -> str:
    """Return what stands against the goal, with its quartiles where it is not what the row begins with."""
    result = figure.result
    if figure.comparison == "value":
        if figure.unit == "exponent":
            return ""
        return "" if figure.goal is None else f"{result.median / figure.goal:.2f} of goal"
    return f"{_compared(figure, result.median)} ({'-'.join(_compared(figure, one) for one in result.quartiles)})"


def _compared(figure: Figure, value: float) -> str:
    return f"{value:.2f}x" if figure.comparison == "ratio" else _amount(value, figure.unit)


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return "<= " + (f"{figure.goal:g}x" if figure.comparison == "ratio" else _amount(figure.goal, figure.unit))


def _details(figure: Figure) -> Iterable[str]:
    """Say what was built, where the time went, and what else a figure knows."""
    if figure.growth is not None:
        yield f"{figure.what}: {_growth(figure.growth)}"
    facts = dict(figure.facts)
    phases, bare = facts.pop("phases_s", None), facts.pop("bare_phases_s", None)
    if facts:
        yield f"{figure.what}: " + ", ".join(f"{key} {_fact(value)}" for key, value in facts.items())
    if isinstance(phases, Mapping):
        yield f"{figure.what}: {_phases(phases)}"
    if isinstance(bare, Mapping):
        yield f"  bare tools: {_phases(bare)}"


def _growth(growth: Growth) -> str:
    measured = (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in growth.values)
    pairs = (f"{value} with {size:,}" for size, value in zip(growth.sizes, measured, strict=True))
    return f"{', '.join(pairs)} {growth.over} ({growth.unit})"


def _fact(value: object) -> str:
    if isinstance(value, list):
        return _time(Spread(tuple(value)).median)
    return str(value)


def _phases(phases: Mapping[str, float]) -> str:
    whole = sum(phases.values())
    return ", ".join(f"{name} {_time(took)} ({took / whole:.0%})" for name, took in phases.items())


def _amount(value: float, unit: Unit) -> str:
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    if unit == "exponent":
        return f"n^{value:.2f}"
    return f"{value:.0f}/s" if unit == "per_s" else _time(value)


def _time(seconds: float) -> str:
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    if abs(seconds) < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in ruled
    )
