"""`agentcgroup-like`: coding agents as measured, drawn from distributions instead of replayed.

Fitted to the public runs of Claude Code on 144 SWE-rebench tasks (eunomia-bpf/agentcgroup, arXiv
2602.09345): 161 trajectories with 8,092 actions that are tests, other shell commands, file tools and
the rest. Each kind is a mixture of lognormals whose medians and weights were chosen so that its
measured percentiles come out; `MEASURED` has these. What the fit leaves out: that a test follows an
edit, and that actions of one trajectory resemble each other, so that here more trajectories have one
test with much memory (median of their peaks 400 MiB instead of 290).

Tests are elastic here, which the measured ones were not: that they can use 1 - 32 cores, and the
share that does not scale, are assumptions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from ...model import Amounts
from ..cluster import parse_nodes
from ..trace import TraceAction, TraceTrajectory
from .coding import CLUSTER, SERIAL_PARAMETER
from .draws import Mixture, Part, count
from .family import Family, Workload

COUNT = 161
"""As many as were measured."""

ACTIONS_MEAN, ACTIONS_SIGMA, ACTIONS_MIN = 50.3, 0.77, 3
"""Actions of a trajectory: 8,092 / 161; median 38 and 90th percentile 102 give the sigma."""

KINDS = {"file": 0.41, "test": 0.16, "shell": 0.35, "other": 0.08}
"""Shares of the actions."""

GAP_MEDIAN_S, GAP_SIGMA = 2.6, 1.126
"""Median 2.6 s and 90th percentile 11.0 s of the time between actions."""

DURATION_MAX_S = 362.0
"""The longest action measured."""

DURATIONS = {
    "file": Mixture(DURATION_MAX_S, Part(0.96, 0.022, 0.8), Part(0.04, 1.0, 0.8)),
    # The short ones are listings and the like, the others wait for a build or an installation.
    "shell": Mixture(DURATION_MAX_S, Part(0.58, 0.095, 1.65), Part(0.42, 8.1, 0.267)),
    # Those that fail at once; those that pass; a few whole suites.
    "test": Mixture(
        DURATION_MAX_S, Part(0.18, 0.31, 1.3), Part(0.79, 7.8, 0.3), Part(0.03, 60.0, 0.9)
    ),
    "other": Mixture(DURATION_MAX_S, Part(0.88, 0.015, 0.6), Part(0.12, 12.0, 1.5)),
}

MEASURED = {
    "all": {0.5: 0.04, 0.9: 9.0, 0.99: 20.5},
    "file": {0.5: 0.022},
    "shell": {0.5: 0.57, 0.9: 9.8},
    "test": {0.5: 7.3, 0.9: 12.2},
    "gap": {0.5: 2.6, 0.9: 11.0},
}
"""Percentiles in seconds that the fit aims at; besides, 40 % of a trajectory's time in actions."""

BASELINE_MIB = 185e6 / (1 << 20)
"""Memory of an agent's sandbox while nothing special runs: 185 MB (section 4 of the paper)."""

BURST_MEDIAN_MIB, BURST_SIGMA = 58.0, 1.03
"""What a test run takes beyond: median 234 MiB and 95th percentile 518 MB in all."""

MEMORY_MAX_MIB = 4e9 / (1 << 20)
"""The largest test run: 4 GB."""

TEST_CORES = Amounts.between(1, 32)


def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
    generator = random.Random(seed)
    trajectories = [_trajectory(generator, index, values["serial"]) for index in range(number)]
    return Workload(name, trajectories, parse_nodes(CLUSTER))


def _trajectory(generator: random.Random, index: int, serial: float) -> TraceTrajectory:
    number = count(generator, ACTIONS_MEAN, ACTIONS_SIGMA, ACTIONS_MIN)
    kinds = generator.choices(list(KINDS), list(KINDS.values()), k=number)
    actions = tuple(_action(generator, kind, serial) for kind in kinds)
    return TraceTrajectory(f"a{index}", "coding", 0.0, actions)


_GAPS = Mixture(DURATION_MAX_S, Part(1, GAP_MEDIAN_S, GAP_SIGMA))
_BURSTS = Mixture(MEMORY_MAX_MIB - BASELINE_MIB, Part(1, BURST_MEDIAN_MIB, BURST_SIGMA))


def _action(generator: random.Random, kind: str, serial: float) -> TraceAction:
    gap_s = _GAPS.draw(generator)
    duration_s = DURATIONS[kind].draw(generator)
    if kind != "test":
        return TraceAction(kind, gap_s, duration_s, memory_mib=BASELINE_MIB)
    memory_mib = BASELINE_MIB + _BURSTS.draw(generator)
    return TraceAction(kind, gap_s, duration_s, TEST_CORES, serial, memory_mib=memory_mib)


AGENTCGROUP_LIKE = Family(
    "agentcgroup-like",
    "coding agents on SWE-rebench, fitted to 161 measured runs",
    COUNT,
    make,
    {"serial": SERIAL_PARAMETER},
)
