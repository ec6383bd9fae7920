"""`tangram plan`: the smallest pool that meets a target, by simulation, and what binds it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    ORDER_DEFAULT,
    POLICIES,
    POLICY_DEFAULT,
    Count,
    Elastic,
    Gpus,
    Json,
    Limits,
    Order,
    Quotas,
    Replicate,
    Seed,
    Source,
    Weights,
)
from .terminal import EXIT_FAILURE, console, interruptible, print_json

if TYPE_CHECKING:
    from ..scheduler.simulator.cluster import ClusterSpec
    from ..scheduler.simulator.planner import Target
    from .scenario import Scenario

EXAMPLES = """Examples:

tangram plan trace.jsonl --slo p95=2s --nodes 1x64x256Gi

tangram plan coding64 --slo mean=1.5s --slo p95=6s --nodes 256 --policy elastic

tangram plan trace.jsonl --slo p99=30s --nodes 64 --gpus 8 --search nodes --search gpus --json"""

NODES_DEFAULT = 64
CORES_DEFAULT = "64"


class Searched(StrEnum):
    """What may be made smaller."""

    NODES = "nodes"
    CORES = "cores"
    GPUS = "gpus"


NEEDED = {"exec": Searched.NODES, "score": Searched.GPUS}
"""What kinds of actions make a pool larger."""


LIMITLESS = ("unlimited", "dedicated")
"""Policies that take more than the pool has, or GPUs beside it."""


@interruptible()
def plan(
    source: Source,
    slo: Annotated[
        list[str],
        typer.Option(
            metavar="STATISTIC=TIME",
            help="Such as p95=2s; mean, p1 to p99 and max of the ACT, mean queue, ACT per"
            " trajectory, or makespan. May be repeated: all are to be met.",
        ),
    ],
    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="1xCORES[xMEMORY]",
            help="One node of the pool, such as 64 or 1x256x2400Gi.",
            show_default=f"the workload's, or {CORES_DEFAULT}",
        ),
    ] = None,
    gpus: Gpus = None,
    quotas: Quotas = None,
    searched: Annotated[
        list[Searched] | None,
        typer.Option(
            "--search",
            help="What to make as small as can be, in this order: the number of nodes, the cores of"
            " a node (--nodes says the most), the number of nodes with GPUs.",
            show_default="nodes for exec, gpus for score",
        ),
    ] = None,
    max_nodes: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="The largest pool to think of.")
    ] = NODES_DEFAULT,
    policy: Annotated[
        str, typer.Option(metavar="P", help=f"Known are {POLICIES}.")
    ] = POLICY_DEFAULT,
    order: Order = ORDER_DEFAULT,
    weights: Weights = None,
    limits: Limits = None,
    trajectories: Count = None,
    replicate_to: Replicate = None,
    seed: Seed = 0,
    elastic: Elastic = None,
    as_json: Json = False,
) -> None:
    """Find the smallest pool on which a trace or a workload meets a target, and what binds it.

    Exits with 1 if no pool meets it, and says whether more nodes, another resource or only faster
    actions would help.
    """
    from .inquiry import Inquiry
    from .planned import document, render
    from .scenario import read_disciplines, read_policies, read_pool, read_scenario

    targets = _targets(slo)
    scenario = read_scenario(source, trajectories, replicate_to, seed, elastic or ())
    if nodes is None and not (scenario.cluster and scenario.cluster.nodes):
        nodes = CORES_DEFAULT
    largest = read_pool(scenario, nodes, gpus, quotas or ())
    read_policies(largest, [policy])
    dimensions = _searched(scenario, largest, policy, searched or ())
    [discipline] = read_disciplines(scenario, largest, [order], weights or (), limits or ())
    inquiry = Inquiry(
        scenario, targets, policy, discipline, largest, max_nodes, dimensions, quiet=as_json
    )
    finding = inquiry.find()
    if as_json:
        print_json(document(finding))
    else:
        console().print(render(finding))
    if finding.size is None:
        raise typer.Exit(EXIT_FAILURE)


def _targets(slo: Sequence[str]) -> list[Target]:
    """One for each statistic. Ends the command where one is malformed or given twice."""
    from .scenario import naming

    with naming("--slo"):
        targets = [parse_slo(text) for text in slo]
        statistics = [target.statistic for target in targets]
        for statistic in statistics:
            if statistics.count(statistic) > 1:
                raise ValueError(f"{statistic} is given twice: the smaller limit is enough")
    return targets


def _searched(
    scenario: Scenario, largest: ClusterSpec, policy: str, asked: Sequence[Searched]
) -> Sequence[Searched]:
    """What was asked for, else what the trace needs. Ends the command where a search has no
    meaning."""
    from .scenario import places_by_memory, refuse

    if policy.partition(":")[0] in LIMITLESS:
        refuse("--policy", f"{policy} does not hold itself to the pool, so none is the smallest")
    searched = asked or [NEEDED[kind] for kind in NEEDED if kind in scenario.kinds]
    searched = searched or [Searched.NODES]
    if len(set(searched)) < len(searched):
        refuse("--search", "each of nodes, cores and gpus once at most")
    if Searched.GPUS in searched and largest.gpus is None:
        refuse("--search", "gpus need --gpus, which says what a node of them has")
    if Searched.NODES in searched and not places_by_memory(scenario, policy):
        refuse(
            "--search",
            "no action tells its memory_mib, and trajectories are placed by free memory: however"
            " many nodes there are, the first gets all of them. Look for the smallest node with"
            " --search cores",
        )
    return searched


def parse_slo(text: str) -> Target:
    """`p95=2s`. Raises ValueError."""
    from ..managers.periods import parse_period
    from ..scheduler.simulator.planner import Target

    statistic, equals, limit = text.partition("=")
    if not equals:
        raise ValueError(f"write STATISTIC=TIME, such as p95=2s, not {text!r}")
    return Target(statistic.strip(), parse_period(limit))
