"""`deepsearch`: one batch of search agents, after ARL-Tangram (arXiv 2603.13019).

A trajectory searches the web, fetches pages and parses PDFs, each API under a quota of its own, and
at its end a model judges the answer. Published (section 6): 2,048 trajectories, questions in the
style of BrowseComp, APIs from Google Search to PDF parsing with enforced quotas, calls that time out
after 600 s, and a fine-tuned GPT-OSS as judge in five replicas of eight GPUs where nothing is
shared. How many calls there are, how long they take and what the quotas allow is not published: all
of it is assumption, chosen so that the quotas just suffice while all trajectories run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from ...model import Amounts
from ..cluster import ClusterSpec, QuotaSpec, Service
from ..trace import TraceAction, TraceTrajectory
from .draws import count, lognormal
from .family import Family, Parameter, Workload
from .mopd import (
    ELASTICITY,
    GPUS_PARAMETER,
    MEMORY_PARAMETER,
    POOL,
    amounts,
    restore_s,
    room,
)

BATCH = 2048
"""Trajectories of one batch (section 6.1)."""

CALLS_MEAN, CALLS_SIGMA, CALLS_MIN = 20.0, 0.7, 2
"""API calls of a trajectory. Assumption: questions like BrowseComp's take dozens."""

GAP_MEAN_S, GAP_SIGMA = 8.0, 0.8
"""The model's thinking before each call. Assumption: pages are longer to read than outputs of
commands."""

CALL_TIMEOUT_S = 600.0
"""Of every API call (section 6.1)."""


class Api(NamedTuple):
    """An API of its own quota. Assumptions, all of them."""

    share: float
    """Of all calls."""
    mean_s: float
    sigma: float
    concurrency: int
    """Calls at once that its quota allows."""


APIS = {
    "search": Api(0.55, 0.8, 0.6, 96),
    "fetch": Api(0.35, 2.5, 1.0, 192),
    "pdf": Api(0.10, 6.0, 1.0, 128),
}

JUDGE = "judge"
JUDGE_DEDICATED_GPUS, JUDGE_REPLICAS = 40, 5
"""Five replicas at tensor parallelism 8 (section 6.1)."""

JUDGE_WEIGHTS_GB = 63.0
"""GPT-OSS 120B in four bits. Assumption: which GPT-OSS it was is not said."""

JUDGE_MEAN_S, JUDGE_SIGMA = 2.56, 0.6
"""Of a judgement, if it could run on one GPU. Assumption: 0.4 s on eight, so that the dedicated
replicas are busy for three quarters of the time at the peak. A replica that batches takes longer
for each and as long for all; one at a time is simulated."""


def judge(gpus: Amounts, gpu_gb: float, dedicated_gpus: int, replicas: int) -> Service:
    """The judge, that can have these GPUs."""
    return Service(
        gpus,
        restore_s(JUDGE_WEIGHTS_GB, gpus),
        dedicated_gpus,
        replicas,
        room(JUDGE_WEIGHTS_GB, gpus, gpu_gb),
    )


QUOTAS = tuple(QuotaSpec(name, api.concurrency) for name, api in APIS.items())


def searches(number: int, seed: int, calls_mean: float, gpus: Amounts) -> list[TraceTrajectory]:
    """Trajectories of one batch, all starting at 0."""
    generator = random.Random(f"deepsearch {seed}")
    return [_trajectory(generator, index, calls_mean, gpus) for index in range(number)]


def _trajectory(
    generator: random.Random, index: int, calls_mean: float, gpus: Amounts
) -> TraceTrajectory:
    calls = count(generator, calls_mean, CALLS_SIGMA, CALLS_MIN)
    shares = [api.share for api in APIS.values()]
    names = generator.choices(list(APIS), shares, k=calls)
    actions = [_call(generator, name) for name in names]
    judgement = TraceAction(
        "score",
        lognormal(generator, GAP_MEAN_S, GAP_SIGMA),
        lognormal(generator, JUDGE_MEAN_S, JUDGE_SIGMA),
        gpus,
        elasticity=ELASTICITY,
        service=JUDGE,
    )
    return TraceTrajectory(f"d{index}", "deepsearch", 0.0, (*actions, judgement), step=0)


def _call(generator: random.Random, name: str) -> TraceAction:
    api = APIS[name]
    return TraceAction(
        "call",
        lognormal(generator, GAP_MEAN_S, GAP_SIGMA),
        min(CALL_TIMEOUT_S, lognormal(generator, api.mean_s, api.sigma)),
        quota=name,
        timeout_s=CALL_TIMEOUT_S,
    )


def make(name: str, number: int, seed: int, values: Mapping[str, float]) -> Workload:
    gpus = amounts(values["gpus"])
    services = {JUDGE: judge(gpus, values["gpu_gb"], JUDGE_DEDICATED_GPUS, JUDGE_REPLICAS)}
    return Workload(
        name,
        searches(number, seed, values["calls"], gpus),
        ClusterSpec((), POOL, QUOTAS, services),
    )


CALLS_PARAMETER = Parameter(CALLS_MEAN, CALLS_MIN, 1000, "API calls of a trajectory in the mean")

DEEPSEARCH = Family(
    "deepsearch",
    "the paper's DeepSearch: web APIs under quotas, then a judge",
    BATCH,
    make,
    {"calls": CALLS_PARAMETER, "gpus": GPUS_PARAMETER, "gpu_gb": MEMORY_PARAMETER},
)
