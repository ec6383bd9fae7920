"""What wrong profiles cost: the policy is told durations that are off, and decides by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tangram.scheduler.simulator.workloads.arrivals import LOADS

from .coding import OURS
from .measure import Sheet
from .open_load import COUNT, SETTINGS, over_loads
from .simulations import Job, Simulations, seeded, spread

NOISE = 0.5
"""Durations are told times exp(0.5 N(0, 1)): the middle two thirds are off by up to 1.65 x."""

COST_MAX = 3.0
"""Per cent of the mean ACT."""

CODING = (("coding64", 1280), ("coding236", 1280))


def measure(simulations: Simulations) -> list[Sheet]:
    coding = [Job(name, count, OURS, 0) for name, count in CODING]
    opened = [[Job(s.name(load), COUNT, OURS, 0) for load in LOADS] for s in SETTINGS]
    told = [job for jobs in (coding, *opened) for job in jobs]
    wrong = [replace(job, noise=NOISE) for job in told]
    simulations.run(seeded([*told, *wrong], simulations.seeds))
    rows = [
        (f"`{job.workload}` {job.count:,}", _per_cent(_slower(simulations, job))) for job in coding
    ]
    rows += [
        (
            f"`open` {setting.title}, geometric mean of ten loads",
            _per_cent(over_loads(_slower(simulations, job) for job in jobs)),
        )
        for setting, jobs in zip(SETTINGS, opened, strict=True)
    ]
    return [
        Sheet(
            "What a wrong profile costs",
            f"`elastic`, told every elastic action's duration times exp({NOISE:g} N(0, 1)), against"
            " `elastic` told the true ones: by how much the mean ACT is longer. Mean (min - max)"
            f" over {len(simulations.seeds)} seeds.",
            ("workload", "longer by", "to reach"),
            tuple((*row, f"<= {COST_MAX:g} %") for row in rows),
        )
    ]


def _slower(simulations: Simulations, job: Job) -> tuple[float, ...]:
    """Told wrongly over told rightly, per seed."""
    return simulations.faster(job, replace(job, noise=NOISE))


def _per_cent(ratios: Sequence[float]) -> str:
    return spread([(ratio - 1) * 100 for ratio in ratios], 1) + " %"
