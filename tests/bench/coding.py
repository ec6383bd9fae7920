"""AI coding: batches of `coding64` and `coding236` against pods and against other policies."""

from __future__ import annotations

from collections.abc import Sequence

from .measure import Sheet
from .simulations import Figures, Job, Simulations, seeded, spread

PODS_110 = "pod:request=0.5,limit=4,pods=110"
PODS = "pod:request=0.5,limit=4"
PODS_OF_ONE = "pod:request=1,limit=1"
BASELINES = {
    PODS_110: "pods .5/4, 110 a node",
    PODS: "pods .5/4, no cap",
    PODS_OF_ONE: "pods 1/1, no cap",
}
OURS = "elastic"
PUBLISHED = "arl-tangram"
POLICIES = ("fcfs", PUBLISHED, OURS)

BATCHES = (
    ("coding64", 128),
    ("coding64", 512),
    ("coding64", 1280),
    ("coding64", 1536),
    ("coding236", 1280),
)

TO_REACH = {
    ("coding64", 128, PODS_110): 2.25,
    ("coding64", 512, PODS_110): 2.1,
    ("coding64", 1280, PODS_110): 6.7,
    ("coding64", 1280, PODS): 1.9,
    ("coding64", 1536, PODS_110): 8.0,
    ("coding236", 1280, PODS): 1.6,
}
GROWTH_MAX = 1.15
"""Mean ACT at the largest batch over that at the smallest."""


def jobs(seeds: Sequence[int]) -> list[Job]:
    asked = []
    for name, count in BATCHES:
        asked += [Job(name, count, policy, 0) for policy in (*BASELINES, *POLICIES)]
        asked.append(Job(name, count, OURS, 0, malleable=True))
    return seeded(asked, seeds)


def measure(simulations: Simulations) -> list[Sheet]:
    simulations.run(jobs(simulations.seeds))
    return [_ratios(simulations), _acts(simulations)]


def limits(simulations: Simulations, baseline: Job) -> tuple[float, ...]:
    """What the baseline's mean ACT is over the bound that nobody passes, per seed."""
    bound = "fastest"

    def limit(seed: int) -> float:
        found: Figures = simulations.found[seeded([baseline], [seed])[0]]
        return (
            found.act_s
            / simulations.found[Job(baseline.workload, baseline.count, OURS, seed)].bounds_s[bound]
        )

    return simulations.each(limit)


def _ratios(simulations: Simulations) -> Sheet:
    rows = []
    for name, count in BATCHES:
        for policy, called in BASELINES.items():
            baseline = Job(name, count, policy, 0)
            ours = Job(name, count, OURS, 0)
            target = TO_REACH.get((name, count, policy))
            rows.append(
                (
                    f"`{name}` {count:,} against {called}",
                    spread(simulations.faster(Job(name, count, PUBLISHED, 0), baseline)),
                    spread(simulations.faster(ours, baseline)),
                    spread(simulations.faster(Job(name, count, OURS, 0, malleable=True), baseline)),
                    spread(limits(simulations, baseline)),
                    "" if target is None else f">= {target:g}",
                )
            )
    return Sheet(
        "AI coding: how many times lower the mean ACT is than in pods",
        "5 nodes of 256 cores. Pods R/L: one per trajectory, request R and limit L cores. In the last"
        " columns the most that any policy could show (every action at its fastest, never queued)"
        " and what was to be reached by `elastic`." + _over(simulations),
        ("batch and baseline", "`arl-tangram`", "`elastic`", "malleable", "limit", "to reach"),
        tuple(rows),
    )


def _acts(simulations: Simulations) -> Sheet:
    rows = []
    policies = [(policy, f"`{policy}`", False) for policy in POLICIES]
    policies.append((OURS, "`elastic`, rewards malleable", True))
    for policy, called, malleable in policies:
        cells = [
            spread(simulations.acts_s(Job(name, count, policy, 0, malleable=malleable)), 3)
            for name, count in BATCHES
        ]
        first, last = (
            simulations.acts_s(Job("coding64", count, policy, 0, malleable=malleable))
            for count in (128, 1536)
        )
        growth = [b / a for a, b in zip(first, last, strict=True)]
        target = f", to reach <= {GROWTH_MAX}" if policy == OURS and not malleable else ""
        rows.append((called, *cells, spread(growth) + target))
    for bound in ("fastest", "srpt"):
        cells = []
        for name, count in BATCHES:
            found = [simulations.found[Job(name, count, OURS, seed)] for seed in simulations.seeds]
            cells.append(spread([figures.bounds_s[bound] for figures in found], 3))
        rows.append((f"lower bound `{bound}`", *cells, ""))
    return Sheet(
        "AI coding: mean ACT in seconds",
        "The same runs. The last column: how much longer actions of `coding64` take at a batch of"
        " 1,536 than at 128.",
        ("policy", *(f"`{name}` {count:,}" for name, count in BATCHES), "1,536 / 128"),
        tuple(rows),
    )


def _over(simulations: Simulations) -> str:
    return f" Mean (min - max) over {len(simulations.seeds)} seeds."
