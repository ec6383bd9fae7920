"""`tangram simulate`: a trace or a workload under one or several policies, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    ORDER_DEFAULT,
    ORDERS,
    POLICIES,
    POLICY_DEFAULT,
    Count,
    Elastic,
    Gpus,
    Json,
    Limits,
    Quotas,
    Replicate,
    Seed,
    Source,
    Weights,
)
from .terminal import (
    EXIT_FAILURE,
    complain,
    console,
    give_up,
    interruptible,
    missing_extra,
    print_json,
)

if TYPE_CHECKING:
    from ..scheduler.simulator.discipline import Discipline
    from ..scheduler.simulator.result import SimulationResult

PLOT_EXTRA = "tangram-rl[plot]"
PIPED_WIDTH = 100
"""Of the table where stdout is no terminal: what fits the page of a guide or of a message."""

PLOT_FORMATS = ("svg", "html")

EXAMPLES = """Examples:

tangram simulate coding64 --nodes 5x256 --policy elastic --policy fcfs

tangram simulate trace.jsonl.gz --nodes 2x64x256Gi --replicate 500 --elastic test=1-32:0.03 --json

tangram simulate trace.jsonl --nodes 64 --quota search:concurrency=8,rate=100,period=1m --plot F.svg

tangram simulate trace.jsonl --nodes 64 --order first-come --order fair-share --weight coding=2"""


@interruptible()
def simulate(
    source: Source,
    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="NODESxCORES[xMEMORY]",
            help="The pool, such as 5x256x2400Gi, or 64 for one node. A trace needs it.",
            show_default="the workload's",
        ),
    ] = None,
    gpus: Gpus = None,
    quotas: Quotas = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="P",
            help=f"May be repeated. Known are {POLICIES}.",
            show_default=POLICY_DEFAULT,
        ),
    ] = None,
    orders: Annotated[
        list[str] | None,
        typer.Option(
            "--order",
            metavar="O",
            help=f"Who is served first: {ORDERS}. May be repeated: every policy is run with each.",
            show_default=ORDER_DEFAULT,
        ),
    ] = None,
    weights: Weights = None,
    limits: Limits = None,
    trajectories: Count = None,
    replicate_to: Replicate = None,
    seed: Seed = 0,
    elastic: Elastic = None,
    as_json: Json = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it, as FILE.svg or FILE.html."),
    ] = None,
) -> None:
    """Replay a trace or a workload in virtual time, and say how long its actions would take.

    The scheduler is the one that serves. An action follows a gap after the end of the one before
    it, so slow actions delay what comes next. With several policies or orders the first is what the
    others are compared with. Exits with 1 if no action of one of them had a result.
    """
    from .comparison import document, render
    from .progress import progress
    from .scenario import (
        pool_name,
        read_disciplines,
        read_policies,
        read_pool,
        read_scenario,
        run,
    )

    drawing = None if plot is None else _drawing(plot)
    scenario = read_scenario(source, trajectories, replicate_to, seed, elastic or ())
    cluster = read_pool(scenario, nodes, gpus, quotas or ())
    disciplines = read_disciplines(
        scenario, cluster, orders or [ORDER_DEFAULT], weights or (), limits or ()
    )
    chosen = _pairs(read_policies(cluster, policies or [POLICY_DEFAULT]), disciplines)
    results = []
    with progress("simulating", scenario.actions, len(chosen), quiet=as_json) as ends:
        for policy, discipline in chosen:
            ends.begin(policy if len(disciplines) == 1 else f"{policy}, {discipline.order}")
            results.append(run(scenario.trajectories, cluster, policy, discipline, ends.on_end))
    details = f"{scenario.details} on {pool_name(cluster)}"
    if as_json:
        print_json(document(results))
    else:
        screen = console(PIPED_WIDTH)
        screen.print(render(results, f"{scenario.name}: {details}", screen.width))
    if drawing is not None:
        drawing(results, scenario.name, details)
    if not all(result.has_results for result in results):
        raise typer.Exit(EXIT_FAILURE)


def _pairs(
    policies: Sequence[str], disciplines: Sequence[Discipline]
) -> list[tuple[str, Discipline]]:
    """Every policy with each discipline; pods, which know no order, once."""
    from ..scheduler.simulator.policies import is_pod

    return [
        (policy, discipline)
        for policy in policies
        for discipline in (disciplines[:1] if is_pod(policy) else disciplines)
    ]


def _drawing(path: Path) -> Callable[[Sequence[SimulationResult], str, str], None]:
    """Draws results into the file. What would keep it from doing so is said before anything is
    simulated."""
    from .scenario import refuse

    form = path.suffix.removeprefix(".").lower()
    if form not in PLOT_FORMATS:
        refuse("--plot", f"{str(path)!r} ends with neither .svg nor .html")
    if not path.parent.is_dir():
        refuse("--plot", f"there is no folder {str(path.parent)!r}")
    try:
        from .plots import render as drawn
    except ModuleNotFoundError as error:
        missing_extra("simulate --plot", PLOT_EXTRA, error.name)

    def draw(results: Sequence[SimulationResult], title: str, details: str) -> None:
        try:
            path.write_bytes(drawn(results, title, details, form))
        except OSError as error:
            give_up(f"--plot: {path} cannot be written: {error.strerror}")
        complain(f"drawn: {path}")

    return draw
