"""Simulations side by side: the cells of the table, and the lines under it. No IO.

`tangram simulate` prints them and the HTML page of a plot repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..scheduler.order import DEFAULT as FIRST_COME
from ..scheduler.simulator.actions import counts_gpus
from ..scheduler.simulator.result import SimulationResult
from ..scheduler.simulator.summary import summarise
from .render import counted, seconds

MISSING = "-"

OWNERS_MAX = 8
"""Tasks or tenants in the table: what fits a screen beside the policies."""


NAME_WIDTH = 16
"""To which the name of a policy, an order or a task is folded at most: `pod:request=0.5,limit=4` in
two lines. Rather than fold it more, a narrow table sheds figures."""

SHED = ("p50", "over bound", "prepare", "per group", "makespan", "p95", "per traj")
"""Figures that a narrow table does without, the least wanted first."""

GAP = 2
"""Characters between two columns."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A table of text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int
    """The first columns, which say whose the figures are."""
    more: int = 0
    """Rows that are left out."""


def overview(results: Sequence[SimulationResult]) -> Cells:
    """Per result its figures. `per traj` is the sum of ACTs of a trajectory, the mean, `per group`
    the mean time from the first start of a group to its last end. `vs first` is the first policy's
    mean ACT over this one's: more than 1 is better. `over bound` is how far the mean ACT is above
    the best lower bound. Figures that no result has are left out, and `prepare` where nothing was."""
    summaries = [summarise(result) for result in results]
    first_s = summaries[0]["mean_act_s"]
    table = {"policy": [summary["policy"] for summary in summaries]}
    if has_orders := _has_orders(results):
        table["order"] = [summary["order"] or MISSING for summary in summaries]
    for name, key in _TIMES.items():
        table[name] = [_time(summary[key]) for summary in summaries]
    table["prepare"] = [_time(summary["mean_prepare_s"] or None) for summary in summaries]
    table["per group"] = [_time(s.get("groups", {}).get("mean_s")) for s in summaries]
    table["makespan"] = [_time(summary["makespan_s"]) for summary in summaries]
    table["cores"] = [_share(summary["core_utilisation"]) for summary in summaries]
    table["GPUs"] = [
        _share(_gpu_utilisation(result, summary["makespan_s"]))
        for result, summary in zip(results, summaries, strict=True)
    ]
    if len(results) > 1:
        table["vs first"] = [_ratio(first_s, summary["mean_act_s"]) for summary in summaries]
    table["over bound"] = [_above(s["mean_act_s"], s["lower_bound_s"]) for s in summaries]
    return _cells(table, 2 if has_orders else 1)


_TIMES = {
    "mean ACT": "mean_act_s",
    "p50": "p50_act_s",
    "p95": "p95_act_s",
    "queue": "mean_queue_s",
    "per traj": "traj_act_s",
}


def _cells(table: Mapping[str, Sequence[str]], names: int, more: int = 0) -> Cells:
    """Without columns that nobody has a figure for; names and the mean stay."""
    kept = {
        name: cells
        for index, (name, cells) in enumerate(table.items())
        if index <= names or any(cell != MISSING for cell in cells)
    }
    return Cells(list(kept), list(zip(*kept.values(), strict=True)), names, more)


def breakdowns(results: Sequence[SimulationResult]) -> list[Cells]:
    """By task and by tenant, where there are several: one row for each and each result. `of cores`
    is the share of all core-seconds that were held, `while all` the same over the time in which
    each of them had begun and none was done."""
    summaries = [summarise(result) for result in results]
    kinds = (("task", "by_task"), ("tenant", "by_tenant"))
    return [
        _breakdown(results, summaries, what, key)
        for what, key in kinds
        if any(key in summary for summary in summaries)
    ]


def _breakdown(
    results: Sequence[SimulationResult],
    summaries: Sequence[Mapping[str, Any]],
    what: str,
    key: str,
) -> Cells:
    owners = sorted({name for summary in summaries for name in summary.get(key, ())})
    found = [
        (owner, result.name, summary[key][owner])
        for owner in owners[:OWNERS_MAX]
        for result, summary in zip(results, summaries, strict=True)
        if owner in summary.get(key, {})
    ]
    table = {what: [owner or MISSING for owner, _, _ in found]}
    if len(results) > 1:
        table["policy"] = [name for _, name, _ in found]
    names = len(table)
    table["actions"] = [f"{figures['actions']:,}" for _, _, figures in found]
    for name in ("mean ACT", "p95", "queue"):
        table[name] = [_time(figures[_TIMES[name]]) for _, _, figures in found]
    for name, share in (("of cores", "core_share"), ("while all", "core_share_together")):
        table[name] = [_share(figures[share]) for _, _, figures in found]
    return _cells(table, names, max(0, len(owners) - OWNERS_MAX))


def notes(results: Sequence[SimulationResult]) -> list[str]:
    """What stands under the table, each line once: bounds, actions without a result, notes."""
    lines = dict.fromkeys(_bounds(results))
    for result in results:
        for line in (*_unfinished(result), *result.notes):
            lines[line] = None
    for part in breakdowns(results):
        if part.more:
            lines[f"{part.more:,} more {part.columns[0]}s are not shown: see --json"] = None
    return list(lines)


def _bounds(results: Sequence[SimulationResult]) -> list[str]:
    """One line where the bounds are the same for all: some hold for some policies alone."""
    said = {result.name: _bounds_of(result) for result in results if result.lower_bounds_s}
    if len(set(said.values())) == 1:
        return [f"lower bounds on the mean ACT without resizing: {next(iter(said.values()))}"]
    return [f"{name}: lower bounds on the mean ACT: {line}" for name, line in said.items()]


def _bounds_of(result: SimulationResult) -> str:
    best = max(result.lower_bounds_s, key=lambda name: result.lower_bounds_s[name])
    return ", ".join(
        f"{name} {seconds(bound)}" + (" (the best)" if name == best else "")
        for name, bound in result.lower_bounds_s.items()
    )


def _unfinished(result: SimulationResult) -> list[str]:
    summary = summarise(result)
    ended = {state: n for state, n in summary["states"].items() if state != "finished"}
    lines = [f"{result.name}: {counted(n, 'action')} {state}" for state, n in ended.items()]
    if summary["timed_out"]:
        cut = counted(summary["timed_out"], "action")
        lines.append(f"{result.name}: {cut} cut at the timeout")
    lines += [f"{result.name}: {n:,} x {why}" for why, n in list(summary["reasons"].items())[:3]]
    return lines


def render(results: Sequence[SimulationResult], title: str, width: int) -> RenderableType:
    """`tangram simulate`: one row per policy and order, per task, and what must be known to read it.
    Fits `width` characters as far as figures can be left out."""
    whole = overview(results)
    main = narrowed(whole, width)
    parts: list[RenderableType] = [_table(main, title)]
    for part in breakdowns(results):
        parts += [Text(), _table(narrowed(part, width))]
    lines = notes(results)
    if shed := [name for name in whole.columns if name not in main.columns]:
        lines.append(f"not shown in {width} columns: {', '.join(shed)}")
    said = [Text(line, style="dim") for line in lines]
    return Group(*parts, Text(), *said) if said else Group(*parts)


def narrowed(cells: Cells, width: int) -> Cells:
    """As many figures as fit so many characters beside the names."""
    kept = list(range(len(cells.columns)))
    for name in SHED:
        wanted = [_width(cells, index) for index in kept]
        if sum(wanted) + GAP * len(kept) <= width:
            break
        kept = [index for index in kept if cells.columns[index] != name]
    columns = [cells.columns[index] for index in kept]
    rows = [[row[index] for index in kept] for row in cells.rows]
    return replace(cells, columns=columns, rows=rows)


def _width(cells: Cells, index: int) -> int:
    """Of a column: names are folded, heads broken at blanks."""
    widest = max((len(row[index]) for row in cells.rows), default=0)
    if index < cells.names:
        widest = min(widest, NAME_WIDTH)
    return max(widest, *map(len, cells.columns[index].split()))


def _table(cells: Cells, title: str | None = None) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for index, name in enumerate(cells.columns):
        is_name = index < cells.names
        # Only names may be folded: one of many words over narrow columns fits 80 characters.
        table.add_column(
            name.replace(" ", "\n"),
            justify="left" if is_name else "right",
            style="bold" if index == 0 or name == "mean ACT" else None,
            overflow="fold",
            no_wrap=not is_name,
            min_width=_width(cells, index),
            vertical="bottom",
        )
    for row in cells.rows:
        table.add_row(*row)
    return table


def document(results: Sequence[SimulationResult]) -> dict[str, Any]:
    """`tangram simulate --json`: one object, or several under `results`."""
    summaries = [summarise(result) for result in results]
    return summaries[0] if len(summaries) == 1 else {"results": summaries}


def _has_orders(results: Sequence[SimulationResult]) -> bool:
    """Where all are served as usual it goes without saying."""
    return any(result.order not in ("", FIRST_COME) for result in results)


def _gpu_utilisation(result: SimulationResult, makespan_s: float | None) -> float | None:
    """Held GPU-seconds over GPUs and makespan."""
    gpus = sum(units for (kind, _), units in result.capacities.items() if counts_gpus(kind))
    if not gpus or not makespan_s:
        return None
    holds = (hold for run in result.actions if counts_gpus(run.resource) for hold in run.holds)
    return sum(h.units * (h.end_s - h.start_s) for h in holds) / gpus / makespan_s


def _time(value_s: float | None) -> str:
    return MISSING if value_s is None else seconds(value_s)


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0%}"


def _ratio(first_s: float | None, value_s: float | None) -> str:
    return f"{first_s / value_s:.2f} x" if first_s and value_s else MISSING


def _above(value_s: float | None, bound_s: float | None) -> str:
    return f"{value_s / bound_s - 1:+.0%}" if value_s and bound_s else MISSING
