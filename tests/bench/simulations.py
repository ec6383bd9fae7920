"""Simulations in worker processes, each done once however many tables ask for it.

What is simulated is a `Job`, plain data, so that it can be handed to another process and looked up
again; what is kept of it are its `Figures`. Nothing here depends on the speed of the machine.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tangram.cli.scenario import read_file
from tangram.scheduler.simulator import workloads
from tangram.scheduler.simulator.cluster import ClusterSpec, parse_nodes
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.summary import summarise
from tangram.scheduler.simulator.trace import (
    TraceTrajectory,
    make_elastic,
    parse_elastic,
    replicate,
)

from .fixed_degree import DEGREES, mean_acts_s

T = TypeVar("T")

WORKERS = 2
"""Processes at once: as many as the smallest machine that this is run on has cores."""

SLOW_SEEDS_MAX = 3
"""Of jobs that take minutes each (those whose actions change while they run) or double the work of a
table (those told wrong durations)."""

FIXED_GRID = "fixed:grid"
"""Not a policy: the mean ACT of each degree in DEGREES, of a workload of single actions."""


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation. `workload` is a workload's name or the file of a trace."""

    workload: str
    count: int
    policy: str
    seed: int
    nodes: str = ""
    """Empty: the workload's own."""
    malleable: bool = False
    """Whether actions whose amount is chosen may change it while they run."""
    noise: float = 0.0
    """Sigma of the log of the factor by which the durations told to the policy are wrong."""
    elastic: str = ""
    """Of a trace: which kind of action is elastic, as `tangram simulate --elastic` takes it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds, means over all actions, or over those of one kind."""

    act_s: float = 0.0
    bounds_s: Mapping[str, float] = field(default_factory=dict)
    kinds_s: Mapping[str, float] = field(default_factory=dict)
    degrees_s: Mapping[int, float] = field(default_factory=dict)
    """Degree of parallelism -> mean ACT; of FIXED_GRID alone."""


def run(job: Job) -> Figures:
    """Raises AssertionError for a figure that is below its lower bound."""
    trajectories, cluster = _world(job)
    if job.policy == FIXED_GRID:
        return Figures(degrees_s=mean_acts_s(trajectories, cluster.cores, DEGREES))
    result = simulate(trajectories, cluster, job.policy, profile_noise=job.noise, seed=job.seed)
    summary = summarise(result)
    assert set(summary["states"]) == {"finished"}, f"{job}: {summary['reasons']}"
    assert summary["mean_act_s"] >= summary["lower_bound_s"], f"{job} is below its lower bound"
    kinds_s = {kind: of["mean_act_s"] for kind, of in summary["by_kind"].items()}
    return Figures(summary["mean_act_s"], summary["lower_bounds_s"], kinds_s)


def _world(job: Job) -> tuple[Sequence[TraceTrajectory], ClusterSpec]:
    if workloads.is_workload(job.workload):
        made = workloads.workload(job.workload, job.count, job.seed)
        trajectories, cluster = made.trajectories, made.cluster
    else:
        trajectories = replicate(read_file(job.workload), job.count, job.seed)
        cluster = parse_nodes(job.nodes)
    if job.elastic:
        trajectories = make_elastic(trajectories, *parse_elastic(job.elastic))
    if job.malleable:
        trajectories = [_malleable(trajectory) for trajectory in trajectories]
    return trajectories, parse_nodes(job.nodes) if job.nodes else cluster


def _malleable(trajectory: TraceTrajectory) -> TraceTrajectory:
    actions = (replace(a, malleable=a.amounts.elastic) for a in trajectory.actions)
    return replace(trajectory, actions=tuple(actions))


def in_processes(parts: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, in their order; started in that order too, WORKERS at a time."""
    spawn = multiprocessing.get_context("spawn")
    columns = (TextColumn("simulating"), MofNCompleteColumn(), TimeElapsedColumn())
    screen = Console(stderr=True)
    with (
        ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool,
        Progress(*columns, console=screen, disable=not screen.is_terminal) as progress,
    ):
        bar = progress.add_task("", total=len(parts))
        futures = [pool.submit(part) for part in parts]
        for done in as_completed(futures):
            done.result()
            progress.advance(bar)
        return [future.result() for future in futures]


class Simulations:
    """Results by job. `seeds` are those that every table is made over, `trace` the file of a
    recorded trace, if one was given."""

    def __init__(self, seeds: Sequence[int], trace: Path | None = None) -> None:
        self.seeds = tuple(seeds)
        self.trace = trace
        self.found: dict[Job, Figures] = {}

    def run(self, jobs: Iterable[Job]) -> None:
        """Those that are not done yet, the longest first."""
        todo = [job for job in dict.fromkeys(jobs) if job not in self.found]
        todo.sort(key=lambda job: job.count, reverse=True)
        if not todo:
            return
        done = in_processes([partial(run, job) for job in todo])
        self.found.update(zip(todo, done, strict=True))

    def each(self, figure: Callable[[int], float]) -> tuple[float, ...]:
        """One figure per seed."""
        return tuple(figure(seed) for seed in self.seeds)

    def acts_s(self, job: Job, kind: str = "") -> tuple[float, ...]:
        """The mean ACT of a job, of all its actions or of one kind, per seed (its own is ignored); of
        the first SLOW_SEEDS_MAX alone where it is slow."""
        found = [self.found[of_seed] for of_seed in seeded([job], self.seeds)]
        return tuple(figures.kinds_s[kind] if kind else figures.act_s for figures in found)

    def faster(self, ours: Job, baseline: Job, kind: str = "") -> tuple[float, ...]:
        """How many times lower our mean ACT is than the baseline's, per seed that both have."""
        pairs = zip(self.acts_s(baseline, kind), self.acts_s(ours, kind), strict=False)
        return tuple(theirs / mine for theirs, mine in pairs)


def seeded(jobs: Iterable[Job], seeds: Iterable[int]) -> list[Job]:
    """Each job with each seed, slow ones with the first few."""
    jobs = list(jobs)
    return [
        replace(job, seed=seed)
        for number, seed in enumerate(seeds)
        for job in jobs
        if number < SLOW_SEEDS_MAX or not (job.malleable or job.noise)
    ]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`mean (min - max)`."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def geomean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values)
