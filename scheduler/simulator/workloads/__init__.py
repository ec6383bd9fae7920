"""Reference workloads: traces drawn from stated distributions instead of recorded.

A workload is named by its family and what it sets: `coding64`, `open:load=0.9,cores=64`. Each family
stands in a file of its own with its numbers and where they come from; what no source gives is called
an assumption there. The same name, count and seed make the same trace, and a smaller count its
beginning. No IO; the only randomness comes from the seed.
"""

from __future__ import annotations

from ..cluster import Service
from ..trace import TraceTrajectory
from .agentcgroup import AGENTCGROUP_LIKE
from .arrivals import OPEN
from .coding import AI_CODING, CODING64, CODING236
from .deepsearch import DEEPSEARCH
from .family import Family, Parameter, Workload
from .mopd import MOPD
from .pooled import MOPD_DEEPSEARCH

__all__ = [
    "FAMILIES",
    "NAMES",
    "Family",
    "Parameter",
    "Service",
    "Workload",
    "generate",
    "is_workload",
    "workload",
]

FAMILIES = {
    family.name: family
    for family in (
        CODING64,
        CODING236,
        OPEN,
        AGENTCGROUP_LIKE,
        AI_CODING,
        MOPD,
        DEEPSEARCH,
        MOPD_DEEPSEARCH,
    )
}

NAMES = tuple(FAMILIES)


def is_workload(text: str) -> bool:
    """Whether a text names a workload (its settings may still be wrong) and not a file."""
    return text.partition(":")[0] in FAMILIES


def workload(name: str, count: int | None = None, seed: int = 0) -> Workload:
    """The workload of this name with `count` trajectories (its family's own count by default).

    Raises ValueError for an unknown family, an unknown or impossible parameter, or a bad count; it
    says what would be right.
    """
    family, _, settings = name.partition(":")
    if family not in FAMILIES:
        raise ValueError(f"no workload is named {family[:40]!r}: there are {', '.join(NAMES)}")
    return FAMILIES[family].workload(name, settings, count, seed)


def generate(name: str, count: int | None = None, seed: int = 0) -> list[TraceTrajectory]:
    """The trajectories of `workload` alone."""
    return list(workload(name, count, seed).trajectories)
