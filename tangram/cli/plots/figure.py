"""The picture of one or several simulations, drawn with matplotlib as an SVG.

From top to bottom: how ACT is distributed and what it is made of; how much of each resource is held
and how many actions wait, over time; and per policy who held the units of the busiest node. What is
drawn is decided here; the numbers come from `series`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from ...scheduler.model import CORES, QUOTA_PREFIX
from ...scheduler.simulator.result import SimulationResult
from . import series

WIDTH_IN = 12.0
HEAD_IN, TOP_IN, CURVE_IN, GANTT_IN, GAP_IN, FOOT_IN = 1.05, 2.7, 1.5, 2.3, 0.62, 0.55

GANTT_ROWS_MAX = 10
"""Gantts of one picture: a metre of screen."""

VECTOR_BARS_MAX = 1500
"""More bars in a Gantt are drawn as pixels: the file stays small, and text stays text."""

RASTER_DPI = 180

NAME_CHARS = 18
"""Of a policy beside its bar: more would reach into the chart to the left."""

NARROW, LOW = 0.005, 0.012
"""Bars that take less of the width or height have no edge: it would cover them."""

CDF_POINTS = 400
"""Steps of a distribution: more cannot be told apart."""

LINE_COLOURS = ("#7c8591", "#2f6fde", "#e8762d", "#1f9d7a", "#a44fc4", "#c9a40b", "#d6426a")
"""Grey for the first policy, which the others are compared with."""

PART_COLOURS = {"queue": "#e9b44c", "prepare": "#6ba3d6", "run": "#4f9d69"}

UNIT_COLOURS = (
    (1, "1", "#9fb0c3"),
    (2, "2-3", "#7fcdbb"),
    (4, "4-7", "#3fb0c4"),
    (8, "8-15", "#2183bb"),
    (16, "16-31", "#24549f"),
    (32, "32 and more", "#0c2470"),
)
"""From how many units on, in words, and the colour of a bar that holds so many."""

INK, FAINT = "#22272e", "#6b7280"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": "#c9ced6",
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#edf0f3",
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "tangram",
    "text.parse_math": False,
}


def draw(results: Sequence[SimulationResult], title: str, details: str) -> bytes:
    """An SVG of all results, on one scale. Actions that ended without a result are part of it."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(results, title, details)
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    return file.getvalue()


def _figure(results: Sequence[SimulationResult], title: str, details: str) -> Figure:
    kinds = series.kinds(results)
    # Units of a quota are all alike: how many are held is told by the curve.
    physical = [kind for kind in kinds if not kind.startswith(QUOTA_PREFIX)] or kinds
    drawn = ((result, series.gantt(result, kind)) for kind in physical for result in results)
    charts = list(islice((pair for pair in drawn if pair[1].bars), GANTT_ROWS_MAX))
    heights = [TOP_IN, *[CURVE_IN] * (len(kinds) + 1), *[GANTT_IN] * len(charts)]
    height = HEAD_IN + FOOT_IN + sum(heights) + GAP_IN * (len(heights) - 1)
    figure = Figure(figsize=(WIDTH_IN, height), facecolor="white")
    grid = GridSpec(
        len(heights),
        12,
        figure=figure,
        height_ratios=heights,
        hspace=GAP_IN / (sum(heights) / len(heights)),
        left=0.065,
        right=0.975,
        top=1 - HEAD_IN / height,
        bottom=FOOT_IN / height,
    )
    _headline(figure, height, title, details)
    colours = dict(zip(_names(results), _cycle(len(results)), strict=True))
    _distribution(figure.add_subplot(grid[0, :7]), results, colours)
    _parts(figure.add_subplot(grid[0, 8:]), results)
    window = (series.start_s(results), series.start_s(results) + series.span_s(results))
    for row, kind in enumerate(kinds, 1):
        _over_time(figure.add_subplot(grid[row, :]), results, colours, kind, window)
    _over_time(figure.add_subplot(grid[len(kinds) + 1, :]), results, colours, None, window)
    for row, (result, chart) in enumerate(charts, len(kinds) + 2):
        _gantt(figure.add_subplot(grid[row, :]), result, chart, window)
    return figure


def _names(results: Sequence[SimulationResult]) -> list[str]:
    """One per result, also where a policy is asked for twice."""
    return [f"{result.name} #{n}" if n else result.name for n, result in _numbered(results)]


def _numbered(results: Sequence[SimulationResult]) -> list[tuple[int, SimulationResult]]:
    seen: dict[str, int] = {}
    numbered = []
    for result in results:
        seen[result.name] = seen.get(result.name, 0) + 1
        number = seen[result.name]
        numbered.append((number if number > 1 else 0, result))
    return numbered


def _cycle(number: int) -> list[str]:
    colours = LINE_COLOURS if number > 1 else LINE_COLOURS[1:]
    return [colours[index % len(colours)] for index in range(number)]


def _headline(figure: Figure, height: float, title: str, details: str) -> None:
    figure.text(0.065, 1 - 0.28 / height, title, size=14, weight="bold", color=INK, va="center")
    figure.text(0.065, 1 - 0.52 / height, details, size=9, color=FAINT, va="center")


def _distribution(axes: Axes, results: Sequence[SimulationResult], colours: dict[str, str]) -> None:
    """Share of actions whose ACT is at most x. The axis of shares is stretched towards 100 %, one
    nine as long as the next, since it is the slowest actions that policies differ in."""
    nines = np.log10(max(100, *(len(result.actions) for result in results)))
    shares = 1 - 10 ** -np.linspace(0, nines, CDF_POINTS)
    for (name, colour), result in zip(colours.items(), results, strict=True):
        acts = np.array([max(action.act_s, 1e-6) for action in result.actions] or [1e-6])
        mean = float(acts.mean())
        label = f"{name}   mean {_seconds(mean)}"
        axes.plot(np.quantile(acts, shares), shares, color=colour, linewidth=1.8, label=label)
        reached = min(float((acts <= mean).mean()), float(shares[-1]))
        axes.plot([mean], [reached], "o", color=colour, markersize=6, markeredgecolor="white")
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_to_nines, _from_nines))
    axes.set_ylim(0, float(shares[-1]))
    axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 0.9, 0.99, 0.999, 0.9999]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}%"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))
    axes.set_title("Action completion time: share of actions done within (dot: the mean)")
    axes.legend(loc="upper left")


def _to_nines(share: npt.ArrayLike) -> series.Array:
    nines: series.Array = -np.log10(np.maximum(1 - np.asarray(share, dtype=float), 1e-12))
    return nines


def _from_nines(nines: npt.ArrayLike) -> series.Array:
    return np.asarray(1 - 10 ** -np.asarray(nines, dtype=float))


def _parts(axes: Axes, results: Sequence[SimulationResult]) -> None:
    """What the mean ACT of each policy is made of."""
    names = _names(results)
    lefts = np.zeros(len(results))
    values = np.array([series.parts(result) for result in results])
    positions = np.arange(len(results))
    for index, (part, colour) in enumerate(PART_COLOURS.items()):
        widths = values[:, index]
        if widths.any():
            axes.barh(positions, widths, left=lefts, height=0.58, color=colour, label=part)
        lefts = lefts + widths
    for position, whole in enumerate(lefts.tolist()):
        axes.text(whole, position, f" {_seconds(whole)}", va="center", color=INK, size=8.5)
    axes.set_yticks(positions, [_folded(name) for name in names], color=INK)
    axes.set_ylim(max(len(results), 3) - 0.5, -0.5)
    axes.set_xlim(0, max(float(lefts.max()), 1e-6) * 1.18)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))
    axes.grid(axis="y", visible=False)
    axes.set_title("Mean ACT by part")
    if lefts.any():
        axes.legend(loc="lower right", ncols=3, handlelength=1, handleheight=1, columnspacing=1.2)


def _folded(name: str) -> str:
    """A long policy in lines, broken behind its commas."""
    lines = [""]
    for piece in name.replace(",", ",\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(piece) > NAME_CHARS:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _over_time(
    axes: Axes,
    results: Sequence[SimulationResult],
    colours: dict[str, str],
    kind: str | None,
    window: tuple[float, float],
) -> None:
    """Utilisation of a kind of resource, or with None the number of waiting actions."""
    edges = np.linspace(*window, series.TIME_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2 - window[0]
    for (name, colour), result in zip(colours.items(), results, strict=True):
        if kind is None:
            values = series.waiting(result, edges)
        else:
            values = series.utilisation(result, kind, edges)
        axes.plot(middles, values, color=colour, linewidth=1.3, label=name)
        axes.fill_between(middles, values, color=colour, alpha=0.10, linewidth=0)
    if kind is None:
        axes.set_title("Actions waiting")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        axes.set_title(f"{_titled(kind)} held")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.0 if kind is None else 0.01))
    _time_axis(axes, window)
    if len(results) > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=len(results), handlelength=1.2
        )


def _gantt(
    axes: Axes, result: SimulationResult, chart: series.Gantt, window: tuple[float, float]
) -> None:
    groups: dict[str, list[series.Bar]] = {}
    for bar in chart.bars:
        groups.setdefault(_unit_colour(bar.units), []).append(bar)
    top = max([chart.capacity, *(bar.lane + bar.lanes for bar in chart.bars)])
    narrow_s, low = (window[1] - window[0]) * NARROW, top * LOW
    for colour, bars in groups.items():
        shapes = [_corners(bar, window[0]) for bar in bars]
        edges = [
            0.4 if bar.end_s - bar.start_s > narrow_s and bar.lanes > low else 0.0 for bar in bars
        ]
        drawn = PolyCollection(shapes, facecolors=colour, edgecolors="white", linewidths=edges)
        drawn.set_rasterized(len(chart.bars) > VECTOR_BARS_MAX)
        axes.add_collection(drawn)
    axes.set_ylim(0, top)
    if top > chart.capacity:
        axes.axhline(chart.capacity, color="#c0392b", linewidth=0.9, linestyle="--")
    axes.grid(axis="y", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(_gantt_title(result, chart))
    _time_axis(axes, window)
    marks = [Patch(color=c, label=words) for _, words, c in UNIT_COLOURS if c in groups]
    marks.insert(0, Patch(color="none", label="units held:"))
    axes.legend(
        handles=marks,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=len(marks),
        handlelength=1,
        handleheight=1,
        columnspacing=1.2,
    )


def _corners(bar: series.Bar, zero_s: float) -> list[tuple[float, float]]:
    left, right = bar.start_s - zero_s, bar.end_s - zero_s
    low, high = bar.lane, bar.lane + bar.lanes
    return [(left, low), (left, high), (right, high), (right, low)]


def _gantt_title(result: SimulationResult, chart: series.Gantt) -> str:
    nodes = len({node for kind, node in result.capacities if kind == chart.kind})
    where = f" of {chart.node}" if chart.node else ""
    kind = "cores" if chart.kind == CORES else _titled(chart.kind)
    said = f"{result.name}: {kind}{where}"
    if nodes > 1:
        said += f", the busiest of {nodes} nodes"
    if chart.shared:
        said += f"; {chart.capacity} are shared"
    if chart.dropped:
        said += f"; {chart.dropped:,} more found no room"
    return said


def _unit_colour(units: float) -> str:
    return next(
        (colour for least, _, colour in reversed(UNIT_COLOURS) if units >= least),
        UNIT_COLOURS[0][2],
    )


def _titled(kind: str) -> str:
    return {"cores": "Cores", "gpus": "GPUs"}.get(kind, kind.replace("quota:", "Quota "))


def _time_axis(axes: Axes, window: tuple[float, float]) -> None:
    axes.set_xlim(0, window[1] - window[0])
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))


def _seconds(value: float) -> str:
    """Short, for axes: 0.25 s, 4 s, 90 s, 1,200 s."""
    if value >= 100:
        return f"{value:,.0f} s"
    return f"{value:.3g} s" if value >= 0.001 or value == 0 else f"{value * 1000:.3g} ms"
