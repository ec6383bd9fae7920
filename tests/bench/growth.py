"""A picture of how a cost grows with a size, on logarithmic axes, beside what is linear.

Draws with the look of `tangram simulate --plot`. What is measured is the benchmark's to say.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tangram.cli.plots.figure import FAINT, INK, LINE_COLOURS, STYLE

WIDTH_IN, HEIGHT_IN = 10.0, 4.2

TIMES_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Where the axis of times has its marks."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds against one size, ascending; what the size counts and what stands still."""

    size: str
    points: tuple[tuple[int, float], ...]


def draw(curves: Sequence[Curve], title: str) -> bytes:
    """An SVG: a chart for each curve, all on one scale of times."""
    times_ms = [ms for curve in curves for _, ms in curve.points]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), facecolor="white")
        figure.suptitle(title, x=0.065, ha="left", size=14, weight="bold", color=INK)
        for place, (curve, colour) in enumerate(zip(curves, LINE_COLOURS[1:], strict=False), 1):
            axes = figure.add_subplot(1, len(curves), place)
            _chart(axes, curve, colour)
            axes.set_ylim(min(times_ms) / 1.5, max(times_ms) * 1.5)
        figure.subplots_adjust(left=0.065, right=0.975, top=0.84, bottom=0.14, wspace=0.18)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _chart(axes: Axes, curve: Curve, colour: str) -> None:
    sizes, times_ms = zip(*curve.points, strict=True)
    axes.set_xscale("log")
    axes.set_yscale("log")
    linear_ms = [times_ms[0] * size / sizes[0] for size in sizes]
    axes.plot(sizes, linear_ms, "--", color=FAINT, linewidth=1.0, label="linear")
    axes.plot(sizes, times_ms, "o-", color=colour, linewidth=1.8, label="measured")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_locator(FixedLocator(TIMES_MS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g} ms"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel(curve.size)
    axes.legend(loc="upper left")
