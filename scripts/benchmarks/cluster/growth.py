"""How a cost grows, judged, and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Figure, Growth, Spread

LINEAR, FLAT = 1.05, 0.05
"""Goals of exponents: what grows with the number, and what does not; a little more, since counts have a rest."""
_COLUMNS = 2


def figure(group: str, what: str, growth: Growth, goal: float | None) -> Figure:
    """Return the exponent of a growth against its goal."""
    named = f"{what}: growth with {growth.over}"
    return Figure(group, named, Spread((growth.exponent,)), goal=goal, unit="exponent", growth=growth)


def draw(figures: Sequence[Figure], target: Path) -> bool:
    """Draw what grows among the figures into a PNG; ``False`` if nothing does."""
    grown = [(each, each.growth) for each in figures if each.growth is not None]
    if not grown:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second, for who draws
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415

    rows = -(-len(grown) // _COLUMNS)
    picture = Picture(figsize=(6.4 * _COLUMNS, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    axes = list(picture.subplots(rows, _COLUMNS, squeeze=False).flat)
    for place, (each, growth) in zip(axes, grown, strict=False):
        place.loglog(growth.sizes, growth.values, "o-")
        power = 1 if each.goal is None else round(each.goal)
        ideal = [growth.values[0] * (size / growth.sizes[0]) ** power for size in growth.sizes]
        place.loglog(growth.sizes, ideal, ":", color="gray", label="linear" if power else "flat")
        place.set_title(f"{each.what}: n^{growth.exponent:.2f}", fontsize=9)
        place.set_xlabel(growth.over)
        place.set_ylabel(growth.unit)
        place.set_ylim(bottom=min(growth.values) / 3, top=max(growth.values) * 3)
        place.grid(visible=True, which="both", alpha=0.2)
        place.legend(fontsize=8)
    for unused in axes[len(grown) :]:
        unused.remove()
    picture.savefig(target, dpi=110)
    return True
