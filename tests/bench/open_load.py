"""`open`: single actions at ten loads, against the best fixed degree of parallelism at each load."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tangram.scheduler.simulator.workloads.arrivals import LOADS

from .coding import OURS, PUBLISHED
from .fixed_degree import DEGREES
from .measure import Sheet
from .simulations import FIXED_GRID, Job, Simulations, geomean, seeded, spread

COUNT = 4_000
"""Actions of one run."""

WORST_MAX = 1.02
"""Our mean ACT over that of the best fixed degree, at any load."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One node and one share of serial work, and the geometric mean to reach there."""

    cores: int
    serial: float
    to_reach: float

    def name(self, load: float) -> str:
        return f"open:load={load:g},cores={self.cores},serial={self.serial:g}"

    @property
    def title(self) -> str:
        return f"{self.cores} cores, s {self.serial:g}"


SETTINGS = (Setting(64, 0.03, 1.45), Setting(64, 0.1, 1.3), Setting(256, 0.03, 1.2))
POLICIES = {PUBLISHED: False, OURS: False, f"{OURS}, malleable": True}
"""What is compared, and whether its actions may change their amounts while they run."""


def job(setting: Setting, load: float, called: str) -> Job:
    policy = called.partition(",")[0]
    return Job(setting.name(load), COUNT, policy, 0, malleable=POLICIES.get(called, False))


def measure(simulations: Simulations) -> list[Sheet]:
    asked = [
        job(setting, load, called)
        for setting in SETTINGS
        for load in LOADS
        for called in (FIXED_GRID, *POLICIES)
    ]
    simulations.run(seeded(asked, simulations.seeds))
    return [_overview(simulations), *(_loads(simulations, setting) for setting in SETTINGS)]


def best_fixed(simulations: Simulations, like: Job) -> int:
    """The degree with the least mean ACT over all seeds of this workload: one for all of them,
    since whoever fixes it does not know the seed."""
    found = _grid(simulations, like)
    return min(DEGREES, key=lambda degree: statistics.fmean(acts[degree] for acts in found))


def fixed_acts_s(simulations: Simulations, like: Job) -> tuple[float, ...]:
    """Its mean ACT, per seed."""
    degree = best_fixed(simulations, like)
    return tuple(acts[degree] for acts in _grid(simulations, like))


def times_lower(simulations: Simulations, ours: Job) -> tuple[float, ...]:
    """The best fixed degree's mean ACT over ours, per seed."""
    fixed = fixed_acts_s(simulations, ours)
    return tuple(a / b for a, b in zip(fixed, simulations.acts_s(ours), strict=False))


def over_loads(per_load: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Geometric mean over the loads, per seed."""
    return tuple(map(geomean, zip(*per_load, strict=True)))


def _grid(simulations: Simulations, like: Job) -> list[Mapping[int, float]]:
    jobs = seeded([Job(like.workload, like.count, FIXED_GRID, 0)], simulations.seeds)
    return [simulations.found[job].degrees_s for job in jobs]


def _overview(simulations: Simulations) -> Sheet:
    rows = []
    for setting in SETTINGS:
        for called in POLICIES:
            per_load = [times_lower(simulations, job(setting, load, called)) for load in LOADS]
            worst = max(1 / ratio for at_load in per_load for ratio in at_load)
            wanted = called == OURS
            rows.append(
                (
                    f"{setting.title}, `{called}` against the best fixed degree at each load",
                    spread(over_loads(per_load)),
                    f">= {setting.to_reach:g}" if wanted else "",
                    f"{worst:.2f} x",
                    f"<= {WORST_MAX} x" if wanted else "",
                )
            )
    return Sheet(
        "Open arrivals: against the best fixed degree of parallelism",
        f"One node; {COUNT:,} actions a run, a quarter of them elastic 1 - 32; ten loads from"
        f" {LOADS[0]:g} to {LOADS[-1]:g}. The baseline may choose its degree of {len(DEGREES)} for"
        " each load in hindsight. Geometric mean over the loads of how many times lower the mean"
        " ACT is, mean (min - max) over"
        f" {len(simulations.seeds)} seeds; worst: our mean ACT over the baseline's at the worst load of the worst seed.",
        ("pool, policy and baseline", "times lower", "to reach", "worst load", "to reach"),
        tuple(rows),
    )


def _loads(simulations: Simulations, setting: Setting) -> Sheet:
    rows = []
    for load in LOADS:
        ours = job(setting, load, OURS)
        fixed_s = statistics.fmean(fixed_acts_s(simulations, ours))
        acts = {called: simulations.acts_s(job(setting, load, called)) for called in POLICIES}
        mine = seeded([ours], simulations.seeds)
        bounds = {
            name: statistics.fmean(simulations.found[each].bounds_s[name] for each in mine)
            for name in simulations.found[mine[0]].bounds_s
        }
        best = max(bounds.values())
        shown = [f"{statistics.fmean(acts[called]):.2f}" for called in POLICIES]
        rows.append(
            (
                f"{load:g}",
                f"{fixed_s:.2f} (N {best_fixed(simulations, ours)})",
                *shown,
                *(f"{bounds[name]:.2f}" for name in ("fastest", "srpt", "price")),
                f"{(statistics.fmean(acts[OURS]) / best - 1) * 100:.0f} %",
            )
        )
    policies = (f"`{called}`" for called in POLICIES)
    return Sheet(
        f"Open arrivals, {setting.title}: mean ACT in seconds",
        "Beside the lower bounds (`price` holds only where amounts do not change while actions run)"
        " and how far `elastic` is above the best of them. At a load of 1.1 there is no steady"
        " state: the queue grows for as long as actions arrive, and all figures with it.",
        ("load", "best fixed", *policies, "fastest", "srpt", "price", "above"),
        tuple(rows),
    )
