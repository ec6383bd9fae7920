"""Simulations side by side: the cells of the table, and the lines under it. No IO.

`tangram simulate` prints them and the HTML page of a plot repeats them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..scheduler.simulator.actions import counts_gpus
from ..scheduler.simulator.result import SimulationResult
from ..scheduler.simulator.summary import summarise
from .render import seconds

MISSING = "-"


def columns(results: Sequence[SimulationResult]) -> list[str]:
    """The names of the cells of `rows`."""
    names = ["policy", "mean ACT", "p50", "p95", "queue", "per traj", "makespan", "cores"]
    if _has_gpus(results):
        names.append("GPUs")
    if len(results) > 1:
        names.append("vs first")
    if any(result.lower_bounds_s for result in results):
        names.append("over bound")
    return names


def rows(results: Sequence[SimulationResult]) -> list[list[str]]:
    """Per result its figures as text. `per traj` is the sum of ACTs of a trajectory, the mean. `vs first`
    is the first policy's mean ACT over this one's: more than 1 is better. `over bound` is how far
    the mean ACT is above the best lower bound."""
    summaries = [summarise(result) for result in results]
    has_bounds = any(result.lower_bounds_s for result in results)
    table = []
    for summary, result in zip(summaries, results, strict=True):
        row = [
            summary["policy"],
            *(_time(summary[key]) for key in ("mean_act_s", "p50_act_s", "p95_act_s")),
            *(_time(summary[key]) for key in ("mean_queue_s", "traj_act_s", "makespan_s")),
            _share(summary["core_utilisation"]),
        ]
        if _has_gpus(results):
            row.append(_share(_gpu_utilisation(result, summary["makespan_s"])))
        if len(results) > 1:
            row.append(_ratio(summaries[0]["mean_act_s"], summary["mean_act_s"]))
        if has_bounds:
            row.append(_above(summary["mean_act_s"], summary["lower_bound_s"]))
        table.append(row)
    return table


def notes(results: Sequence[SimulationResult]) -> list[str]:
    """What stands under the table, each line once: bounds, actions without a result, notes."""
    lines = dict.fromkeys(_bounds(results))
    for result in results:
        for line in (*_unfinished(result), *result.notes):
            lines[line] = None
    return list(lines)


def _bounds(results: Sequence[SimulationResult]) -> list[str]:
    """One line where the bounds are the same for all: some hold for some policies alone."""
    said = {result.policy: _bounds_of(result) for result in results if result.lower_bounds_s}
    if len(set(said.values())) == 1:
        return [f"lower bounds on the mean ACT without resizing: {next(iter(said.values()))}"]
    return [f"{policy}: lower bounds on the mean ACT: {line}" for policy, line in said.items()]


def _bounds_of(result: SimulationResult) -> str:
    best = max(result.lower_bounds_s, key=lambda name: result.lower_bounds_s[name])
    return ", ".join(
        f"{name} {seconds(bound)}" + (" (the best)" if name == best else "")
        for name, bound in result.lower_bounds_s.items()
    )


def _unfinished(result: SimulationResult) -> list[str]:
    summary = summarise(result)
    ended = {state: n for state, n in summary["states"].items() if state != "finished"}
    lines = [f"{result.policy}: {n:,} actions {state}" for state, n in ended.items()]
    if summary["timed_out"]:
        lines.append(f"{result.policy}: {summary['timed_out']:,} actions cut at their timeout")
    lines += [f"{result.policy}: {n:,} x {why}" for why, n in list(summary["reasons"].items())[:3]]
    return lines


def render(results: Sequence[SimulationResult], title: str) -> RenderableType:
    """`tangram simulate`: one row per policy, and what must be known to read it."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for index, name in enumerate(columns(results)):
        style = "bold" if name in ("policy", "mean ACT") else None
        # Only the policy may be folded: a name of many words over narrow columns fits 80 characters.
        table.add_column(
            name.replace(" ", "\n"),
            justify="left" if index == 0 else "right",
            style=style,
            overflow="fold",
            no_wrap=index > 0,
            vertical="bottom",
        )
    for row in rows(results):
        table.add_row(*row)
    lines = [Text(line, style="dim") for line in notes(results)]
    return Group(table, Text(), *lines) if lines else table


def document(results: Sequence[SimulationResult]) -> dict[str, Any]:
    """`tangram simulate --json`: one object, or several under `results`."""
    summaries = [summarise(result) for result in results]
    return summaries[0] if len(summaries) == 1 else {"results": summaries}


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
