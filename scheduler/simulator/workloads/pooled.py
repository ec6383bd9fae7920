"""`mopd-deepsearch`: a batch of each at once, whose ten services share one pool of GPUs.

After ARL-Tangram (arXiv 2603.13019, section 6): nine teachers and a judge on 40 GPUs; where nothing
is shared, each has four of them. Numbers stand with `mopd` and `deepsearch`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..cluster import ClusterSpec
from .deepsearch import CALLS_PARAMETER, JUDGE, QUOTAS, judge, searches
from .family import Family, Workload
from .mopd import (
    BATCH,
    DEDICATED_GPUS,
    GPUS_PARAMETER,
    MEMORY_PARAMETER,
    POOL,
    TEACHERS_PARAMETER,
    amounts,
    rollouts,
    teachers,
)


def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
    """Alternating, the teachers' batch first, so that an odd number gives it one more."""
    services, gpus = int(values["teachers"]), amounts(values["gpus"])
    distilled = rollouts((number + 1) // 2, seed, services, gpus)
    searched = searches(number // 2, seed, values["calls"], gpus)
    trajectories = [(searched if index % 2 else distilled)[index // 2] for index in range(number)]
    asked = teachers(services, gpus, values["gpu_gb"])
    asked[JUDGE] = judge(gpus, values["gpu_gb"], DEDICATED_GPUS, 1)
    return Workload(name, trajectories, ClusterSpec((), POOL, QUOTAS, asked))


MOPD_DEEPSEARCH = Family(
    "mopd-deepsearch",
    "both at once: ten services share one pool of GPUs",
    2 * BATCH,
    make,
    {
        "teachers": TEACHERS_PARAMETER,
        "calls": CALLS_PARAMETER,
        "gpus": GPUS_PARAMETER,
        "gpu_gb": MEMORY_PARAMETER,
    },
)
