"""AI coding as commands and one reward: the reference workloads, and the paper's own batch.

A trajectory is some thirty short commands on one core, with the model thinking between them, and at
its end one reward that runs the tests and can use many cores.

`coding64` and `coding236` are fixed points for comparing figures: one reward takes 64 s (236 s) on
one core in the mean. Both spend about 47 % of their time in actions, coding64 if its reward has one
core, coding236 if it has four, after ARL-Tangram (arXiv 2603.13019) section 2.2, Figure 3c: "active
only 47 % of the trajectory on average". The published figures decide between the two: mean execution
of 0.975 s an action (section 6, batch 1,280) is a reward of 22.7 s behind thirty commands of
0.25 s, and 2.8 times that (section 6: what the reward took in pods) is 64 s. coding236 would need
14 cores for each reward to get there, more than 1,280 cores have to give.

`ai-coding` is therefore coding64 with what else is known of the paper's batch: GRPO groups, and two
modes of commands, since actions can be as short as 1 ms (section 2.4).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from ...model import Amounts
from ..cluster import parse_nodes
from ..trace import TraceAction, TraceTrajectory
from .draws import Mixture, Part, count, lognormal
from .family import Family, Parameter, Workload

BATCH = 1280
"""Trajectories of one batch, samples counted (section 6.1)."""

CLUSTER = "5x256x2400Gi"
"""Of the scalability study: 1,280 cores on five nodes of 256 and 2.4 TB (section 6)."""

COMMANDS_MEAN, COMMANDS_SIGMA, COMMANDS_MIN = 30.0, 0.6, 3
"""Commands of a trajectory. Assumption: the paper states none."""

GAP_MEAN_S, GAP_SIGMA = 2.7, 0.8
"""The model's thinking before each action. The median of 8,110 measured gaps of coding agents is
2.6 s (data set eunomia-bpf/agentcgroup, arXiv 2602.09345); the mean is chosen so that 47 % comes
out."""

COMMAND_MEAN_S, COMMAND_SIGMA = 0.25, 1.2
"""Run time of a command. Assumption, between file tools (14 - 30 ms) and shell commands (median
0.6 s) of the same data set."""

REWARD_SIGMA = 1.0
"""Assumption; the paper calls rewards long-tailed (section 6.4)."""

REWARD_CORES = Amounts.between(1, 32)
"""Section 6.4: elastic degrees of parallelism 1 - 32."""

SERIAL = 0.03
"""Share of a reward that does not scale. Assumption: 54 % efficiency at 32 cores."""

MEMORY_MIB = 1024.0
"""What a trajectory reserves: what a client reserves who does not say. Measured agents have 185 MB
and 518 MB in the 95th percentile of test runs, up to 4 GB (arXiv 2602.09345)."""

GROUP = 8
"""Samples of one prompt, all in one group. Assumption: the paper states GRPO, not its group."""

FILE_SHARE, FILE_MEDIAN_S, FILE_SIGMA = 0.41, 0.022, 0.86
"""Of `ai-coding`: commands that only read or edit a file, as in agentcgroup (41 % of its actions,
median 22 ms, 90th percentile 66 ms)."""

_FILE_MEAN_S = Part(1, FILE_MEDIAN_S, FILE_SIGMA).mean
SHELL_MEAN_S = (COMMAND_MEAN_S - FILE_SHARE * _FILE_MEAN_S) / (1 - FILE_SHARE)
"""The others: so that the mean of all stays COMMAND_MEAN_S."""

SERIAL_PARAMETER = Parameter(SERIAL, 0.0, 1.0, "share of the elastic work that does not scale")

Command = Callable[[random.Random], tuple[str, float]]
"""Draws the kind and the run time of one command."""


def _plain_command(generator: random.Random) -> tuple[str, float]:
    return "shell", lognormal(generator, COMMAND_MEAN_S, COMMAND_SIGMA)


_FILES = Mixture(COMMAND_MEAN_S * 1000, Part(1, FILE_MEDIAN_S, FILE_SIGMA))


def _two_mode_command(generator: random.Random) -> tuple[str, float]:
    if generator.random() < FILE_SHARE:
        return "file", _FILES.draw(generator)
    return "shell", lognormal(generator, SHELL_MEAN_S, COMMAND_SIGMA)


def _maker(
    reward_s: float, command: Command
) -> Callable[[str, int, int, Mapping[str, float]], Workload]:
    def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
        generator = random.Random(seed)
        trajectories = [
            _trajectory(generator, index, reward_s, values["serial"], command)
            for index in range(number)
        ]
        return Workload(name, trajectories, parse_nodes(CLUSTER))

    return make


def _trajectory(
    generator: random.Random, index: int, reward_s: float, serial: float, command: Command
) -> TraceTrajectory:
    actions: list[TraceAction] = []
    for _ in range(count(generator, COMMANDS_MEAN, COMMANDS_SIGMA, COMMANDS_MIN)):
        gap_s = lognormal(generator, GAP_MEAN_S, GAP_SIGMA)
        kind, duration_s = command(generator)
        actions.append(TraceAction(kind, gap_s, duration_s, memory_mib=MEMORY_MIB))
    reward = TraceAction(
        "test",
        lognormal(generator, GAP_MEAN_S, GAP_SIGMA),
        lognormal(generator, reward_s, REWARD_SIGMA),
        REWARD_CORES,
        serial,
        memory_mib=MEMORY_MIB,
    )
    group = f"g{index // GROUP}"
    return TraceTrajectory(f"c{index}", "coding", 0.0, (*actions, reward), group, step=0)


_PARAMETERS = {"serial": SERIAL_PARAMETER}

CODING64 = Family(
    "coding64",
    "thirty short commands, then an elastic reward of 64 s on one core",
    BATCH,
    _maker(64.0, _plain_command),
    _PARAMETERS,
)
CODING236 = Family(
    "coding236",
    "the same with rewards of 236 s: too much work for its cluster at 1,280",
    BATCH,
    _maker(236.0, _plain_command),
    _PARAMETERS,
)
AI_CODING = Family(
    "ai-coding",
    "the paper's AI coding: coding64 with commands of two modes",
    BATCH,
    _maker(64.0, _two_mode_command),
    _PARAMETERS,
)
