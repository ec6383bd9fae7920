"""What `tangram plan` found, as a table and as JSON. No IO, no simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..scheduler.model import MEMORY
from ..scheduler.sentences import amount_of
from ..scheduler.simulator.actions import GPUS
from ..scheduler.simulator.cluster import ClusterSpec
from ..scheduler.simulator.planner import Misfit, Target
from ..scheduler.simulator.result import SimulationResult
from ..scheduler.simulator.summary import summarise
from .options import ORDER_DEFAULT
from .render import counted, seconds


@dataclass(frozen=True, slots=True)
class Trial:
    """One pool that was simulated."""

    name: str
    cluster: ClusterSpec
    values_s: Mapping[str, float]
    """Statistic -> its figure; infinite where actions could not run."""
    meets: bool
    result: SimulationResult


@dataclass(frozen=True, slots=True)
class Relief:
    """The pool that binds, with more of one thing."""

    name: str
    values_s: Mapping[str, float]
    meets: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one search."""

    scenario: str
    policy: str
    order: str
    """Empty where there is none (pods)."""
    targets: Sequence[Target]
    misfits: Sequence[Misfit]
    """Why no pool of such nodes can run all actions; usually empty."""
    size: Trial | None
    """The smallest pool that meets all targets; None if there is none."""
    steady: bool
    trials: Sequence[Trial]
    """From the smallest to the largest."""
    least_s: Mapping[str, float]
    """Statistic -> its figure if nothing ever waited, which no pool of such nodes can better."""
    looked_at: str
    """The pool that `waiting` and `reliefs` are about: one less than the answer where that misses,
    else the answer itself; the largest where none meets."""
    waiting: Mapping[str, float]
    """Resource -> its share of the waiting there."""
    reliefs: Sequence[Relief]


def render(finding: Finding) -> RenderableType:
    """The answer, the pools that were tried, what binds."""
    wanted = ", ".join(f"{t.statistic} <= {seconds(t.limit_s)}" for t in finding.targets)
    parts: list[RenderableType] = [
        Text(f"{finding.scenario}, policy {finding.policy}{_order(finding.order)}"),
        Text.assemble("target: ", (wanted, "bold")),
        Text(),
        _answer(finding),
    ]
    if finding.trials:
        parts += [Text(), _trials(finding)]
    parts += [Text(), *map(Text, binding(finding))]
    notes = finding.trials[-1].result.notes if finding.trials else ()
    parts += [Text(note, style="dim") for note in notes]
    return Group(*parts)


def _order(order: str) -> str:
    """The usual one goes without saying."""
    return "" if order in ("", ORDER_DEFAULT) else f", order {order}"


def _answer(finding: Finding) -> Text:
    if finding.size is None:
        return Text("no pool meets it", style="bold red")
    cluster = finding.size.cluster
    cores = counted(cluster.cores, "core")
    if len(cluster.nodes) > 1:
        cores = f"{len(cluster.nodes):,} x {counted(cluster.nodes[0].cores, 'core')} = {cores}"
    text = Text.assemble("smallest pool: ", (finding.size.name, "bold green"), f" ({cores})")
    if not finding.steady:
        text.append("; one more misses: near the target it is luck, take a few more", "yellow")
    return text


def _trials(finding: Finding) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("pool", style="bold")
    for name in (*(target.statistic for target in finding.targets), "waits", "cores held"):
        table.add_column(name, justify="right")
    table.add_column("")
    for trial in finding.trials:
        summary = summarise(trial.result)
        met = Text("meets", style="green") if trial.meets else Text("misses", style="red")
        utilisation = summary["core_utilisation"]
        table.add_row(
            trial.name,
            *(_time(trial.values_s[target.statistic]) for target in finding.targets),
            _time(summary["mean_queue_s"]),
            "-" if utilisation is None else f"{utilisation:.0%}",
            met,
        )
    return table


def binding(finding: Finding) -> list[str]:
    """What keeps a smaller pool, or every pool, from the target, one sentence a line."""
    if finding.misfits:
        return [_misfit(misfit) for misfit in finding.misfits]
    lines = [_least(finding, target) for target in finding.targets]
    if not finding.trials:
        return lines
    smallest = finding.size is not None and finding.looked_at == finding.size.name
    if finding.waiting:
        shares = ", ".join(f"{_words(name)} {share:.0%}" for name, share in finding.waiting.items())
        lines.append(f"waiting at {finding.looked_at} is for: {shares}")
    else:
        lines.append(f"nothing waits at {finding.looked_at}: what is left is the run itself")
    if smallest:
        return lines
    for relief in finding.reliefs:
        figures = ", ".join(f"{name} {_time(value)}" for name, value in relief.values_s.items())
        verdict = "would meet it" if relief.meets else "would not do"
        lines.append(f"{finding.looked_at} with {relief.name} {verdict}: {figures}")
    helping = [relief.name for relief in finding.reliefs if relief.meets]
    if not helping and finding.size is None:
        lines.append("more of one thing alone does not help: see what waits, or relax the target")
    return lines


def _misfit(misfit: Misfit) -> str:
    kind = "GPUs" if misfit.kind == GPUS else misfit.kind
    option = "--gpus" if misfit.kind == GPUS else "--nodes"
    needed, there = amount_of(kind, misfit.needed), amount_of(kind, misfit.there)
    who = "a trajectory reserves" if misfit.kind == MEMORY else "an action needs at least"
    return f"{who} {needed}, and a node has {there}: see {option}"


def _least(finding: Finding, target: Target) -> str:
    least_s = finding.least_s[target.statistic]
    said = f"if nothing ever waited, {target.statistic} would be {seconds(least_s)}"
    if least_s > target.limit_s:
        return (
            f"{said}: the actions themselves take longer than the target, so more nodes cannot help"
        )
    return f"{said}: no pool of such nodes shows less"


def document(finding: Finding) -> dict[str, Any]:
    """`tangram plan --json`. A figure that is infinite is null."""
    return {
        "met": finding.size is not None,
        "policy": finding.policy,
        "order": finding.order or None,
        "targets": [{"statistic": t.statistic, "limit_s": t.limit_s} for t in finding.targets],
        "pool": _pool(finding.size) if finding.size else None,
        "steady": finding.steady,
        "result": summarise(finding.size.result) if finding.size else None,
        "tried": [
            {**_pool(trial), "values_s": _figures(trial.values_s), "meets": trial.meets}
            for trial in finding.trials
        ],
        "least_s": _figures(finding.least_s),
        "binding": {
            "pool": finding.looked_at or None,
            "waiting": dict(finding.waiting),
            "reliefs": [
                {"with": r.name, "values_s": _figures(r.values_s), "meets": r.meets}
                for r in finding.reliefs
            ],
            "sentences": binding(finding),
        },
    }


def _pool(trial: Trial) -> dict[str, Any]:
    cluster = trial.cluster
    gpus = cluster.gpus
    return {
        "nodes": len(cluster.nodes),
        "cores_per_node": cluster.nodes[0].cores,
        "gpu_nodes": gpus.nodes if gpus else 0,
        "gpus_per_node": gpus.per_node if gpus else 0,
    }


def _figures(values_s: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isinf(value) else value for name, value in values_s.items()}


def _time(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    return "never" if math.isinf(value_s) else seconds(value_s)


def _words(resource: str) -> str:
    return resource.replace("quota:", "quota ")
