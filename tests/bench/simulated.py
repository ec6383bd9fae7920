"""Simulated against measured: the demo's workload, recorded as it runs and simulated afterwards.

Both modes of the demo: a core held from start to end of a trajectory, and cores granted per action.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tangram.client import AsyncClient
from tangram.demo.host import usable_cores
from tangram.demo.runner import Pass, open_limit
from tangram.demo.workload import Episode, episode, load_problems
from tangram.scheduler.simulator.cluster import parse_nodes
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.summary import summarise
from tangram.scheduler.simulator.trace import TraceTrajectory, read_lines

from .measure import Row, Spread, Table, ratio
from .servers import tangram_server

TRAJECTORIES = 64
"""Of the demo's 164: ten seconds in each mode on two cores."""

MODES = ("held", "granted")


async def measure(runs: int) -> Table:
    cores = usable_cores()
    measured: dict[str, list[float]] = {mode: [] for mode in MODES}
    simulated: dict[str, list[float]] = {mode: [] for mode in MODES}
    for seed in range(runs):
        episodes = [episode(problem, seed) for problem in load_problems()[:TRAJECTORIES]]
        with tempfile.TemporaryDirectory(prefix="tangram-bench-") as folder:
            trace = Path(folder, "trace.jsonl")
            listed = ",".join(map(str, cores))
            with tangram_server("--cores", listed, "--record", str(trace)) as server:
                for mode in MODES:
                    measured[mode].append(await _run(server, mode, episodes, len(cores)))
            recorded = _read(trace)
        for mode in MODES:
            mean_s = _simulate([t for t in recorded if t.task == mode], len(cores))
            simulated[mode].append(mean_s)
    rows: list[Row] = []
    for mode in MODES:
        really, virtually = Spread(tuple(measured[mode])), Spread(tuple(simulated[mode]))
        off = Spread(tuple(abs(share - 1) for share in ratio(virtually, really).values))
        rows += [
            Row(f"{mode}: mean ACT, measured", really.text("s", 3)),
            Row(f"{mode}: mean ACT, simulated", virtually.text("s", 3)),
            Row(
                f"{mode}: off by", Spread(tuple(100 * o for o in off.values)).text("%", 1), "< 10 %"
            ),
        ]
    return Table(
        "Simulated against measured",
        f"{TRAJECTORIES} trajectories of the demo on {len(cores)} cores with `tangram serve --record`,"
        f" then `simulate` of that trace; {runs} runs with other think times, median (min - max)."
        " Measured is the ACT that the server saw. Held: as many trajectories at once as cores, so that"
        " nothing waits for one; granted: what waits is the simulation's to find out.",
        tuple(rows),
    )


def _read(trace: Path) -> list[TraceTrajectory]:
    with trace.open() as lines:
        return read_lines(lines, trace.name)


async def _run(server: str, mode: str, episodes: Sequence[Episode], cores: int) -> float:
    """The mean ACT of one pass, as the server measured it."""
    async with AsyncClient(server, task=mode) as client:
        at_once = cores if mode == "held" else await open_limit(client, len(episodes))
        done = await Pass(client, at_once, lambda: None).run(episodes)
        if done.wrong:
            raise RuntimeError(f"the demo judged wrong: {done.wrong}")
        [task] = [task for task in (await client.status()).tasks if task.name == mode]
    assert task.mean is not None
    return task.mean.act


def _simulate(trajectories: Sequence[TraceTrajectory], cores: int) -> float:
    mean_s = summarise(simulate(trajectories, parse_nodes(str(cores))))["mean_act_s"]
    assert isinstance(mean_s, float)
    return mean_s
