"""Simulations side by side: the cells of the table, and the lines under it. No IO.

`tangram simulate` prints them and the HTML page of a plot repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def columns(results: Sequence[SimulationResult]) -> list[str]:
    """The names of the cells of `rows`."""
    names = ["policy"]
    if _has_orders(results):
        names.append("order")
    names += ["mean ACT", "p50", "p95", "queue", "per traj"]
    if _has_groups(results):
        names.append("per group")
    names += ["makespan", "cores"]
    if _has_gpus(results):
        names.append("GPUs")
    if len(results) > 1:
        names.append("vs first")
    if any(result.lower_bounds_s for result in results):
        names.append("over bound")
    return names


def rows(results: Sequence[SimulationResult]) -> list[list[str]]:
    """Per result its figures as text. `per traj` is the sum of ACTs of a trajectory, the mean, `per
    group` the mean time from the first start of a group to its last end. `vs first` is the first policy's mean ACT over this one's: more than 1 is better. `over bound` is how far
    the mean ACT is above the best lower bound."""
    summaries = [summarise(result) for result in results]
    has_bounds = any(result.lower_bounds_s for result in results)
    table = []
    for summary, result in zip(summaries, results, strict=True):
        row = [summary["policy"]]
        if _has_orders(results):
            row.append(summary["order"] or MISSING)
        row += [_time(summary[key]) for key in ("mean_act_s", "p50_act_s", "p95_act_s")]
        row += [_time(summary[key]) for key in ("mean_queue_s", "traj_act_s")]
        if _has_groups(results):
            row.append(_time(summary["groups"]["mean_s"]))
        row += [_time(summary["makespan_s"]), _share(summary["core_utilisation"])]
        if _has_gpus(results):
            row.append(_share(_gpu_utilisation(result, summary["makespan_s"])))
        if len(results) > 1:
            row.append(_ratio(summaries[0]["mean_act_s"], summary["mean_act_s"]))
        if has_bounds:
            row.append(_above(summary["mean_act_s"], summary["lower_bound_s"]))
        table.append(row)
    return table


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Who of several had what of it: a table of text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: int
    """Tasks or tenants that are left out."""


def breakdowns(results: Sequence[SimulationResult]) -> list[Breakdown]:
    """By task and by tenant, where there are several: one row for each and each result. `of cores` is the share of all core-seconds that were held, `while all` the same
    over the time in which each of them had begun and none was done."""
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
) -> Breakdown:
    several = len(results) > 1
    columns = [what, *(["policy"] if several else [])]
    columns += ["actions", "mean ACT", "p95", "queue", "of cores", "while all"]
    owners = sorted({name for summary in summaries for name in summary.get(key, ())})
    rows = []
    for owner in owners[:OWNERS_MAX]:
        for result, summary in zip(results, summaries, strict=True):
            if (figures := summary.get(key, {}).get(owner)) is None:
                continue
            row = [owner or MISSING, *([result.name] if several else []), f"{figures['actions']:,}"]
            row += [_time(figures[k]) for k in ("mean_act_s", "p95_act_s", "mean_queue_s")]
            row += [_share(figures[k]) for k in ("core_share", "core_share_together")]
            rows.append(row)
    return Breakdown(columns, rows, max(0, len(owners) - OWNERS_MAX))


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


def render(results: Sequence[SimulationResult], title: str) -> RenderableType:
    """`tangram simulate`: one row per policy and order, per task, and what must be known to read it."""
    parts: list[RenderableType] = [_table(columns(results), rows(results), 1, title)]
    for part in breakdowns(results):
        names = 2 if len(results) > 1 else 1
        parts += [Text(), _table(part.columns, part.rows, names)]
    lines = [Text(line, style="dim") for line in notes(results)]
    return Group(*parts, Text(), *lines) if lines else Group(*parts)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], names: int, title: str | None = None
) -> Table:
    """The first `names` columns say whose the figures are."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for index, name in enumerate(columns):
        is_name = index < names or name == "order"
        # Only names may be folded: one of many words over narrow columns fits 80 characters.
        table.add_column(
            name.replace(" ", "\n"),
            justify="left" if is_name else "right",
            style="bold" if index == 0 or name == "mean ACT" else None,
            overflow="fold",
            no_wrap=not is_name,
            vertical="bottom",
        )
    for row in rows:
        table.add_row(*row)
    return table


def document(results: Sequence[SimulationResult]) -> dict[str, Any]:
    """`tangram simulate --json`: one object, or several under `results`."""
    summaries = [summarise(result) for result in results]
    return summaries[0] if len(summaries) == 1 else {"results": summaries}


def _has_orders(results: Sequence[SimulationResult]) -> bool:
    """Where all are served as usual it goes without saying."""
    return any(result.order not in ("", FIRST_COME) for result in results)


def _has_groups(results: Sequence[SimulationResult]) -> bool:
    return any(result.groups for result in results)


def _has_gpus(results: Sequence[SimulationResult]) -> bool:
    return any(counts_gpus(kind) for result in results for kind, _ in result.capacities)


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
