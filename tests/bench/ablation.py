"""What each ingredient of `elastic` earns: removed alone, all else as it is."""

from __future__ import annotations

from .coding import BASELINES, OURS, PODS, PODS_110
from .measure import Sheet
from .open_load import COUNT, SETTINGS, Setting, over_loads, times_lower
from .simulations import FIXED_GRID, Job, Simulations, seeded, spread

VARIANTS = {
    OURS: "whole",
    "elastic:waits=0": "no waiting for units: starts on what is free",
    "elastic:shortest=0": "first come first instead of shortest first",
    "elastic:behind=0": "no price for those who wait behind",
    "elastic:expected=0": "no price for those who are expected",
    "elastic:running=0": "no price for those who run",
    "elastic:idle=0": "no price when nobody else is there",
    "elastic:behind=0,expected=0,running=0,idle=0": "no price at all",
    "elastic:keep=0": "nothing kept free for settled actions",
}

SEEDS_MAX = 2
LOADS = (0.1, 0.3, 0.5, 0.75, 0.9)
"""Fewer seeds and loads than the tables of the whole policy have: there are nine variants."""

CODING = (("coding64", 1280, PODS), ("coding64", 1536, PODS_110), ("coding236", 1280, PODS))


def measure(simulations: Simulations) -> list[Sheet]:
    seeds = simulations.seeds[:SEEDS_MAX]
    few = Simulations(seeds)
    few.found = simulations.found
    policies = (FIXED_GRID, *VARIANTS)
    asked = [
        Job(setting.name(load), COUNT, policy, 0)
        for setting in SETTINGS
        for load in LOADS
        for policy in policies
    ]
    for name, count, baseline in CODING:
        asked += [Job(name, count, policy, 0) for policy in (baseline, *VARIANTS)]
    few.run(seeded(asked, seeds))
    rows = [
        (
            f"{meaning} (`{policy}`)",
            *(
                spread(few.faster(Job(name, count, policy, 0), Job(name, count, baseline, 0)))
                for name, count, baseline in CODING
            ),
            *(_open(few, setting, policy) for setting in SETTINGS),
        )
        for policy, meaning in VARIANTS.items()
    ]
    coding = [
        f"`{name}` {count:,} against {BASELINES[baseline]}" for name, count, baseline in CODING
    ]
    opened = [f"`open` {setting.title} against the best fixed degree" for setting in SETTINGS]
    loads = ", ".join(f"{load:g}" for load in LOADS)
    return [
        Sheet(
            "What each ingredient of `elastic` earns",
            "How many times lower the mean ACT is than the baseline's when one ingredient is taken"
            f" out. {len(seeds)} seeds, mean (min - max); `open` as the geometric mean over the"
            f" loads {loads} alone, so these figures are not those of the tables above.",
            ("`elastic` with", *coding, *opened),
            tuple(rows),
        )
    ]


def _open(simulations: Simulations, setting: Setting, policy: str) -> str:
    jobs = [Job(setting.name(load), COUNT, policy, 0) for load in LOADS]
    return spread(over_loads(times_lower(simulations, job) for job in jobs))
