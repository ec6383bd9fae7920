"""`open`: actions that arrive whatever happens to those before them, at a stated load.

One action a trajectory, Poisson arrivals on one node. A quarter of the actions is elastic and makes
up nine tenths of the work. A reference workload: all its numbers are assumptions, chosen to compare
policies at equal load; a closed loop (`coding64`) slows down with its policy, this one does not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from ...model import Amounts
from ..cluster import parse_nodes
from ..trace import TraceAction, TraceTrajectory
from .coding import SERIAL_PARAMETER
from .draws import lognormal
from .family import Family, Parameter, Workload

ELASTIC_SHARE = 0.25
ELASTIC_MEAN_S = 36.0
"""On one core."""

ELASTIC_CORES = Amounts.between(1, 32)
SHORT_MEAN_S = 1.0
"""Of the others, exponential, on one core."""

WORK_MEAN_S = ELASTIC_SHARE * ELASTIC_MEAN_S + (1 - ELASTIC_SHARE) * SHORT_MEAN_S
"""Core-seconds of an action, run on one core: 9.75."""

COUNT = 5000
"""At the highest load of 64 cores a quarter of an hour, several times the longest action."""

LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.1)
"""At which policies are compared. Above 1, the queue grows for as long as actions arrive."""


def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
    generator = random.Random(seed)
    cores = int(values["cores"])
    arrivals_per_s = values["load"] * cores / WORK_MEAN_S
    now_s = 0.0
    trajectories: list[TraceTrajectory] = []
    for index in range(number):
        now_s += generator.expovariate(arrivals_per_s)
        action = _action(generator, values["sigma"], values["serial"])
        trajectories.append(TraceTrajectory(f"o{index}", "open", now_s, (action,)))
    return Workload(name, trajectories, parse_nodes(str(cores)))


def _action(generator: random.Random, sigma: float, serial: float) -> TraceAction:
    if generator.random() < ELASTIC_SHARE:
        duration_s = lognormal(generator, ELASTIC_MEAN_S, sigma)
        return TraceAction("test", 0.0, duration_s, ELASTIC_CORES, serial)
    return TraceAction("shell", 0.0, generator.expovariate(1 / SHORT_MEAN_S))


OPEN = Family(
    "open",
    "single actions with Poisson arrivals at a stated load",
    COUNT,
    make,
    {
        "load": Parameter(0.5, 0.001, 10.0, "work on one core over cores"),
        "cores": Parameter(64, 1, 4096, "cores of the node", whole=True),
        "serial": SERIAL_PARAMETER,
        "sigma": Parameter(1.0, 0.0, 3.0, "sigma of the log of the elastic durations"),
    },
)
