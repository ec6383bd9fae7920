"""Small traces and clusters, and what a policy makes of them: the words of the simulator's tests."""

from __future__ import annotations

from typing import Any

from tangram.scheduler.model import Amounts
from tangram.scheduler.simulator.cluster import ClusterSpec, parse_nodes
from tangram.scheduler.simulator.result import ActionRun, SimulationResult
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.trace import TraceAction, TraceTrajectory, read_lines


def run_of(
    duration_s: float, cores: int | str | list[int] = 1, gap_s: float = 0.0, **more: Any
) -> TraceAction:
    """An exec; `cores` as a trace writes them, a number one amount."""
    if isinstance(cores, str):
        low, high = cores.split("-")
        amounts = Amounts.between(int(low), int(high))
    else:
        listed = [cores] if isinstance(cores, int) else cores
        amounts = Amounts.among(listed) if len(listed) > 1 else Amounts.exactly(listed[0])
    return TraceAction("exec", gap_s, duration_s, amounts, **more)


def call_of(quota: str, duration_s: float, gap_s: float = 0.0) -> TraceAction:
    return TraceAction("call", gap_s, duration_s, quota=quota)


def score_of(duration_s: float, gpus: list[int], gap_s: float = 0.0, **more: Any) -> TraceAction:
    return TraceAction("score", gap_s, duration_s, Amounts.among(gpus), service="rm", **more)


def walk(
    name: str, *actions: TraceAction, start_s: float = 0.0, task: str = "task", **more: Any
) -> TraceTrajectory:
    return TraceTrajectory(name, task, start_s, actions, **more)


def walks(*actions: TraceAction, start_s: float = 0.0) -> list[TraceTrajectory]:
    """One trajectory for each action: t0, t1, ..."""
    return [walk(f"t{i}", action, start_s=start_s) for i, action in enumerate(actions)]


def outcome(
    trajectories: list[TraceTrajectory],
    nodes: str | ClusterSpec,
    policy: str = "fcfs",
    **more: Any,
) -> SimulationResult:
    cluster = parse_nodes(nodes) if isinstance(nodes, str) else nodes
    return simulate(trajectories, cluster, policy, **more)


def ends(result: SimulationResult) -> dict[str, float]:
    """Action -> when it ended, rounded against floating point."""
    return {run.id: round(run.ended_s, 6) for run in result.actions}


def acts(result: SimulationResult) -> dict[str, float]:
    return {run.id: round(run.act_s, 6) for run in result.actions}


def the(result: SimulationResult, name: str) -> ActionRun:
    return next(run for run in result.actions if run.id == name)


def read(*lines: str) -> list[TraceTrajectory]:
    return read_lines(lines, "trace.jsonl")
