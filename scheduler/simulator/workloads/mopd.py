"""`mopd`: one batch of multi-teacher on-policy distillation, after ARL-Tangram (arXiv 2603.13019).

A trajectory is a rollout, of which nothing but its length is seen here, and then one call of the
teacher of its domain for the log-probabilities. Published: nine teachers, 2,048 trajectories, each
teacher on four GPUs of its own where they are not shared, 40 GPUs where they are (section 6). Of a
call (breakdown of section 6) at batch 2,048 and 3,072: execution 0.621 and 0.705 s, queueing 0.081
and 15.05 s. So the pool is full at the second, where execution is hardly longer: no call ran on far
fewer GPUs than before, which is why a teacher has at least four here (`gpus` changes that). All else
is assumption, and chosen so that the pool fills between these two batches: with 0.25 s to restore a
service before each call, the published algorithm queues for 0.2 and 12.5 s in simulation.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from ...model import Amounts
from ..cluster import ClusterSpec, GpuSpec, Service
from ..trace import TraceAction, TraceTrajectory
from .draws import lognormal, zipf_weights
from .family import Family, Parameter, Workload

BATCH = 2048
"""Trajectories of one batch (section 6.1)."""

TEACHERS = 9
"""Services (section 6.1). The motivation of section 2 has twelve."""

POOL = GpuSpec(5, 8)
"""The external GPU cluster (section 6.1)."""

DEDICATED_GPUS = 4
"""Of each teacher in the baseline, at tensor parallelism 4 (section 6.1)."""

AMOUNTS = (1, 2, 4, 8)
"""Degrees of parallelism of any service: the powers of two that a node has."""

GPUS_MIN = 4
"""The fewest that a service runs on. Assumption; four is also the baseline's parallelism."""

ELASTICITY = {2: 0.95, 4: 0.9, 8: 0.8}
"""Parallel efficiency of a service. Assumption: tensor parallelism within one node."""

EXECUTION_MEAN_S = 0.705
"""At four GPUs: the published mean where the pool is full, so that all get the fewest. Where it is
not, some get eight, which take 0.40 s: 0.621 s is between."""

CALL_MEAN_S = EXECUTION_MEAN_S * 4 * ELASTICITY[4]
"""What that would be on one GPU: 2.54 s."""

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


GPU_GB = 80.0
"""Memory of one GPU. Assumption: the paper's are "high-end" ones."""

EXECUTION_GB = 8.0
"""Of these, what only the service that runs there needs. Assumption: one request at a time, whose
32k tokens take 8 GB of cache in a model such as Qwen3-32B, 2 GB on each of four GPUs, and as much
again and more for activations and log-probabilities."""

PROCESS_GB = 2.0
"""Beside its weights, what a service keeps on each GPU while it stays: context, communicators,
graphs. Assumption."""


def amounts(gpus_min: float) -> Amounts:
    """GPUs that a service can have, of which the fewest are `gpus_min` or the next power of two."""
    return Amounts.among([units for units in AMOUNTS if units >= gpus_min])


def restore_s(weights_gb: float, gpus: Amounts) -> dict[int, float]:
    """Per amount of GPUs, seconds to restore a model of this size."""
    return {units: weights_gb / RESTORE_GB_PER_S / units for units in gpus}


def room(weights_gb: float, gpus: Amounts, gpu_gb: float) -> dict[int, float]:
    """Per amount of GPUs, the share of each that a model of this size takes while it stays. The
    paper evicts until memory suffices, so others stay beside it; with GPUs of 0 GB none does."""
    if gpu_gb <= EXECUTION_GB:
        return dict.fromkeys(gpus, 1.0)
    share = {units: (weights_gb / units + PROCESS_GB) / (gpu_gb - EXECUTION_GB) for units in gpus}
    return {units: min(1.0, taken) for units, taken in share.items()}


def teachers(number: int, gpus: Amounts, gpu_gb: float = GPU_GB) -> dict[str, Service]:
    """The services by name, the busiest first."""
    shares = room(WEIGHTS_GB, gpus, gpu_gb)
    service = Service(gpus, restore_s(WEIGHTS_GB, gpus), DEDICATED_GPUS, room=shares)
    return {f"teacher{index}": service for index in range(number)}


def rollouts(number: int, seed: int, services: int, gpus: Amounts) -> list[TraceTrajectory]:
    """Trajectories of one batch, all starting at 0, each with one call of a teacher."""
    generator = random.Random(f"mopd {seed}")
    names, weights = list(teachers(services, gpus)), zipf_weights(services, SKEW)
    trajectories: list[TraceTrajectory] = []
    for index in range(number):
        (name,) = generator.choices(names, weights)
        call = TraceAction(
            "score",
            lognormal(generator, ROLLOUT_MEAN_S, ROLLOUT_SIGMA),
            lognormal(generator, CALL_MEAN_S, CALL_SIGMA),
            gpus,
            elasticity=ELASTICITY,
            service=name,
        )
        trajectories.append(TraceTrajectory(f"m{index}", "mopd", 0.0, (call,), step=0))
    return trajectories


def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
    services, gpus = int(values["teachers"]), amounts(values["gpus"])
    trajectories = rollouts(number, seed, services, gpus)
    pool = ClusterSpec((), POOL, services=teachers(services, gpus, values["gpu_gb"]))
    return Workload(name, trajectories, pool)


GPUS_PARAMETER = Parameter(GPUS_MIN, 1, 8, "fewest GPUs that a service runs on", whole=True)
MEMORY_PARAMETER = Parameter(
    GPU_GB, 0, 1000, "GB of memory of a GPU; with 0 only the service that ran last stays there"
)
TEACHERS_PARAMETER = Parameter(TEACHERS, 1, 1000, "services asked", whole=True)

MOPD = Family(
    "mopd",
    "the paper's MOPD: rollouts that end in a call of one of nine teachers",
    BATCH,
    make,
    {"teachers": TEACHERS_PARAMETER, "gpus": GPUS_PARAMETER, "gpu_gb": MEMORY_PARAMETER},
)
