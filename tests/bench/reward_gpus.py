"""GPUs for ten bursty reward services: each on its own, against all on one pool. Simulated.

The scheduler itself under virtual time, with the GPU manager's chunks: a service that is not on the
chunk of its action is restored first. Dedicated GPUs are served by the same scheduler, first come
first served per service, and nothing is ever restored there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.scheduler.pool import ViewFactory
from tangram.scheduler.simulator.cluster import GpuSpec
from tangram.scheduler.simulator.dedicated import DEDICATED_POLICY
from tangram.scheduler.simulator.planner import smallest
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.summary import summarise
from tangram.scheduler.simulator.workloads import Workload, workload

from .measure import Row, Sheet, Spread, Table
from .simulations import Simulations, in_processes

WORKLOAD = "mopd-deepsearch"
ALONE = "mopd-deepsearch:gpu_gb=0"
"""The same where only the service that ran last stays on a GPU."""

JUDGE_ALONE = "deepsearch"
BATCHES = (128, 256, 512, 1024, 2048)
"""Trajectories at once, half of them of each kind."""

CLAIMED = 512
"""Where the dedicated GPUs are used well without being overrun: their mean wait is a third of the
execution. Sensitivities are shown there."""

POOLS = tuple(
    GpuSpec(nodes, per_node)
    for nodes, per_node in ((1, 4), (1, 8), (3, 4), (2, 8), (5, 4), (3, 8), (4, 8), (5, 8))
)
"""In the order of their GPUs; nodes of four cannot run a service on eight."""

GUESS = 3
"""Which of them the search begins with."""

SEED_FIRST = 100
"""Added to every seed: weights were found on 0 and 1."""

VIEWS: Mapping[str, ViewFactory] = {CHUNKS_VIEW: ChunksView, QUOTA_VIEW: QuotaView}
RESTORES = (0.25, 1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """Of the score actions alone."""

    mean_s: float
    p95_s: float


def measure(simulations: Simulations) -> list[Sheet]:
    seeds = [SEED_FIRST + seed for seed in simulations.seeds]
    parts = [partial(_of_batch, batch, seeds) for batch in reversed(BATCHES)]
    of_batches = in_processes(
        [*parts, partial(_sensitivities, seeds), partial(_one_service, seeds)]
    )
    *batches, sensitivities, alone = of_batches
    rows = [row for batch in reversed(batches) for row in batch]
    table = Table(
        "GPUs for ten reward services",
        f"Simulated: `{WORKLOAD}`, all trajectories of a batch at once, half with one call of nine "
        f"teachers each, half with one of a judge; 40 dedicated GPUs, four for each service. ACT of "
        f"these calls alone. Services run on 4 or 8 GPUs, one call at a time on a GPU (no batching, "
        f"on either side); weights 64 GB, restored at 50 GB/s to each GPU, 0.32 s on four; GPUs of 80 "
        f"GB, of which a service that stays takes 18 on four. Pools of 4, 8, 12, 16, 20, 24, 32, 40 "
        f"GPUs (12 and 20 in nodes of four). Durations are known to `elastic`, not to dedicated GPUs. "
        f"{len(seeds)} seeds from {seeds[0]} on, median (min - max).",
        (*rows, *sensitivities, *alone),
    )
    return [table.sheet()]


def _of_batch(batch: int, seeds: Sequence[int]) -> list[Row]:
    loads = [workload(WORKLOAD, batch, seed) for seed in seeds]
    dedicated = [figure(load, DEDICATED_POLICY) for load in loads]
    pools = [Pools(load, "elastic") for load in loads]
    published = [Pools(load, "arl-tangram") for load in loads]
    whole = [pool.of(len(POOLS)) for pool in pools]
    means = [pool.needed(own) for pool, own in zip(pools, dedicated, strict=True)]
    tails = [pool.needed(own, "p95_s") for pool, own in zip(pools, dedicated, strict=True)]
    theirs = [pool.needed(own) for pool, own in zip(published, dedicated, strict=True)]
    return [
        Row(f"batch {batch:,}, 40 dedicated GPUs, mean and p95 ACT", _both(dedicated)),
        Row(f"batch {batch:,}, 40 pooled GPUs, mean and p95 ACT", _both(whole)),
        Row(f"batch {batch:,}, pooled GPUs for equal mean ACT", _gpus(means), "<= 10 (25 %)"),
        Row(f"batch {batch:,}, pooled GPUs for equal p95", _gpus(tails)),
        Row(f"batch {batch:,}, the same by `arl-tangram`, equal mean ACT", _gpus(theirs)),
    ]


def _sensitivities(seeds: Sequence[int]) -> list[Row]:
    rows = []
    for name, what in ((WORKLOAD, "services stay beside others"), (ALONE, "one service per GPU")):
        loads = [workload(name, CLAIMED, seed) for seed in seeds]
        limits = [figure(load, DEDICATED_POLICY) for load in loads]
        for scale in RESTORES:
            pools = [Pools(restored(load, scale), "elastic") for load in loads]
            found = [pool.needed(limit) for pool, limit in zip(pools, limits, strict=True)]
            label = (
                f"batch {CLAIMED}, {what}, restores {scale:g} x as long: GPUs for equal mean ACT"
            )
            rows.append(Row(label, _gpus(found)))
    return rows


def _one_service(seeds: Sequence[int]) -> list[Row]:
    """A judge alone on 40 GPUs: five replicas of eight, against one pool of as many."""
    loads = [workload(JUDGE_ALONE, 2048, seed) for seed in seeds]
    own = [figure(load, DEDICATED_POLICY) for load in loads]
    return [
        Row("one judge alone, 2,048, 40 dedicated GPUs", _both(own)),
        Row(
            "one judge alone, 2,048, 40 pooled GPUs",
            _both([figure(load, "elastic", POOLS[-1]) for load in loads]),
        ),
    ]


def figure(load: Workload, policy: str, gpus: GpuSpec | None = None) -> Figure:
    """Without `gpus`, on what the workload is meant to run on."""
    cluster = load.cluster if gpus is None else replace(load.cluster, gpus=gpus)
    score = summarise(simulate(load.trajectories, cluster, policy, views=VIEWS))["by_kind"]["score"]
    return Figure(score["mean_act_s"], score["p95_act_s"])


@dataclass(slots=True)
class Pools:
    """A workload on pools of several sizes, each simulated once."""

    load: Workload
    policy: str
    known: dict[int, Figure] = field(default_factory=dict)

    def of(self, number: int) -> Figure:
        """On the pool of this number, the smallest being 1."""
        if number not in self.known:
            self.known[number] = figure(self.load, self.policy, POOLS[number - 1])
        return self.known[number]

    def needed(self, limit: Figure, statistic: str = "mean_s") -> int:
        """GPUs of the smallest that is as fast; more than there are if none is."""

        def meets(number: int) -> bool:
            return bool(getattr(self.of(number), statistic) <= getattr(limit, statistic))

        number = smallest(meets, GUESS, len(POOLS))
        return POOLS[-1].total + 1 if number is None else POOLS[number - 1].total


def restored(load: Workload, scale: float) -> Workload:
    """With so many times the time to restore a service."""
    services = {
        name: replace(service, restore_s=_scaled(service.restore_s, scale))
        for name, service in load.services.items()
    }
    return replace(load, cluster=replace(load.cluster, services=services))


def _scaled(times_s: Mapping[int, float], scale: float) -> dict[int, float]:
    return {units: time_s * scale for units, time_s in times_s.items()}


def _both(figures: Sequence[Figure]) -> str:
    means = Spread(tuple(found.mean_s for found in figures))
    tails = Spread(tuple(found.p95_s for found in figures))
    return f"{means.text('s')}; {tails.text('s')}"


def _gpus(found: Sequence[int]) -> str:
    most = POOLS[-1].total
    values = Spread(tuple(float(number) for number in found))
    more = f" ({most + 1}: more than {most})" if max(found) > most else ""
    return f"{values.text('', 0)}, {values.median / most:.0%} of {most}{more}"
