"""`mopd`: one batch of multi-teacher on-policy distillation, after ARL-Tangram (arXiv 2603.13019).

A trajectory is a rollout, of which nothing but its length is seen here, and then one call of the
teacher of its domain for the log-probabilities. Published: nine teachers, 2,048 trajectories, each
teacher on four GPUs of its own where they are not shared, 40 GPUs where they are (section 6); mean
execution 0.621 s at batch 2,048, queueing 0.081 s there and 15.05 s at 3,072 (breakdown of section
6), so that the pool is full somewhere between the two. All else is assumption, and chosen so that
this happens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from ...model import Amounts
from ..cluster import ClusterSpec, GpuSpec
from ..trace import TraceAction, TraceTrajectory
from .draws import lognormal, zipf_weights
from .family import Family, Parameter, Service, Workload

BATCH = 2048
"""Trajectories of one batch (section 6.1)."""

TEACHERS = 9
"""Services (section 6.1). The motivation of section 2 has twelve."""

POOL = GpuSpec(5, 8)
"""The external GPU cluster (section 6.1)."""

DEDICATED_GPUS = 4
"""Of each teacher in the baseline, at tensor parallelism 4 (section 6.1)."""

GPUS = Amounts.among((1, 2, 4, 8))
"""Degrees of parallelism of a service. Assumption: every power of two that a node has."""

ELASTICITY = {2: 0.95, 4: 0.9, 8: 0.8}
"""Parallel efficiency of a service. Assumption: tensor parallelism within one node."""

EXECUTION_MEAN_S = 0.621
"""At four GPUs, taken to be what the published mean execution was reached with."""

CALL_MEAN_S = EXECUTION_MEAN_S * 4 * ELASTICITY[4]
"""On one GPU: 2.24 s."""

CALL_SIGMA = 0.8
"""Assumption: a call takes as long as its trajectory has tokens, which are heavy-tailed."""

ROLLOUT_MEAN_S, ROLLOUT_SIGMA = 200.0, 0.6
"""Time from the start of the step to the call. Assumption: at batch 2,048 some ten calls a second
come at the peak, which 40 GPUs can just serve and 36 dedicated ones cannot."""

SKEW = 0.7
"""Exponent of Zipf's law over the teachers. Assumption; the paper says that activity differs across
models (Figure 3b). The first of nine gets 27 % of the calls."""

WEIGHTS_GB = 64.0
"""A 32 B model in 16 bits, as Qwen3-32B, one of the paper's policy models. Assumption."""

RESTORE_GB_PER_S = 50.0
"""Host memory to one GPU over PCIe 5, each GPU by its own link. Assumption. With it, 0.32 s at four
GPUs; the published overhead is 0.201 s a call, hits among them."""


def restore_s(weights_gb: float) -> dict[int, float]:
    """Per amount of GPUs, seconds to restore a model of this size."""
    return {units: weights_gb / RESTORE_GB_PER_S / units for units in GPUS}


def teachers(number: int) -> dict[str, Service]:
    """The services by name, the busiest first."""
    service = Service(GPUS, restore_s(WEIGHTS_GB), DEDICATED_GPUS)
    return {f"teacher{index}": service for index in range(number)}


def rollouts(number: int, seed: int, services: int) -> list[TraceTrajectory]:
    """Trajectories of one batch, all starting at 0, each with one call of a teacher."""
    generator = random.Random(f"mopd {seed}")
    names, weights = list(teachers(services)), zipf_weights(services, SKEW)
    trajectories: list[TraceTrajectory] = []
    for index in range(number):
        (name,) = generator.choices(names, weights)
        call = TraceAction(
            "score",
            lognormal(generator, ROLLOUT_MEAN_S, ROLLOUT_SIGMA),
            lognormal(generator, CALL_MEAN_S, CALL_SIGMA),
            GPUS,
            elasticity=ELASTICITY,
            service=name,
        )
        trajectories.append(TraceTrajectory(f"m{index}", "mopd", 0.0, (call,), step=0))
    return trajectories


def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
    services = int(values["teachers"])
    cluster = ClusterSpec((), POOL)
    return Workload(name, rollouts(number, seed, services), cluster, teachers(services))


TEACHERS_PARAMETER = Parameter(TEACHERS, 1, 1000, "services asked", whole=True)

MOPD = Family(
    "mopd",
    "the paper's MOPD: rollouts that end in a call of one of nine teachers",
    BATCH,
    make,
    {"teachers": TEACHERS_PARAMETER},
)
