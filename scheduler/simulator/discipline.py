"""The service discipline of a simulation: who is served first, and how much a task may hold.

What `scheduler.order`, `scheduler.weights` and `scheduler.limits` are to a server; and the texts that
say so. What an order does is the scheduler's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ..limits import ANY_TASK, Limits, check_limits
from ..model import CORES, EMPTY, QUOTA_PREFIX, UNITS_MAX
from ..order import DEFAULT, check_weights, parse_order
from ..ranking import Weights
from .actions import GPUS
from .trace import TraceTrajectory

FAIR_SHARE = "fair-share"
"""The one order that looks at weights."""

SHOWN_MAX = 8
"""Names that one message lists."""

_LIMIT = re.compile(r"(.+?):((?:quota:)?[^:]*)")


@dataclass(frozen=True, slots=True)
class Discipline:
    """Raises ValueError for an unknown order, a weight or a limit that cannot be."""

    order: str = DEFAULT
    weights: Weights = field(default_factory=lambda: EMPTY)
    """Of tasks and tenants, by name."""
    limits: Limits = field(default_factory=lambda: EMPTY)

    def __post_init__(self) -> None:
        parse_order(self.order)
        check_weights(self.weights)
        check_limits(self.limits)

    @property
    def usual(self) -> bool:
        """As if nothing had been said."""
        return self.order == DEFAULT and not self.limits


def parse_weights(texts: Iterable[str]) -> dict[str, float]:
    """`coding=2` each. Raises ValueError."""
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not equals or not name or math.isnan(weight):
            raise ValueError(f"write TASK=WEIGHT or TENANT=WEIGHT, such as coding=2, not {text!r}")
        if name in weights:
            raise ValueError(f"{name!r} is given twice")
        weights[name] = weight
    check_weights(weights)
    return weights


def parse_limits(texts: Iterable[str]) -> dict[str, dict[str, int]]:
    """`coding:cores=64,quota:search=4` each; `*` is every task without a limit of its own.
    Raises ValueError."""
    limits: dict[str, dict[str, int]] = {}
    for text in texts:
        right = f"write TASK:cores=64 or TASK:cores=64,gpus=8,quota:search=4, not {text!r}"
        task, pairs = _split(text, right)
        for pair in pairs:
            kind, equals, units = (part.strip() for part in pair.rpartition("="))
            if not equals:
                raise ValueError(right)
            if kind not in (CORES, GPUS) and not kind.startswith(QUOTA_PREFIX):
                raise ValueError(
                    f"limits are of {CORES}, {GPUS} or {QUOTA_PREFIX}NAME, not of {kind!r}"
                )
            if not (units.isdecimal() and 0 < int(units) <= UNITS_MAX):
                raise ValueError(f"a limit is a whole number from 1 to {UNITS_MAX}; {right}")
            if kind in limits.setdefault(task, {}):
                raise ValueError(f"{kind} of {task!r} is given twice")
            limits[task][kind] = int(units)
    return limits


def _split(text: str, right: str) -> tuple[str, list[str]]:
    """Task and limits. A name may have colons in it, and so have kinds of quotas."""
    first, *others = text.split(",")
    match = _LIMIT.fullmatch(first)
    if match is None:
        raise ValueError(right)
    return match[1], [match[2], *others]


def check_names(
    discipline: Discipline, trajectories: Iterable[TraceTrajectory], quotas: Collection[str]
) -> None:
    """Raises ValueError where a weight or a limit is of something that does not occur: it would
    silently do nothing."""
    owners = {(trajectory.task, trajectory.tenant) for trajectory in trajectories}
    tasks = {task for task, _ in owners}
    tenants = {tenant for _, tenant in owners if tenant}
    _refuse_unknown(discipline.weights, tasks | tenants, "task or tenant")
    _refuse_unknown(discipline.limits, tasks | {ANY_TASK}, "task")
    for kinds in discipline.limits.values():
        limited = [k.removeprefix(QUOTA_PREFIX) for k in kinds if k.startswith(QUOTA_PREFIX)]
        _refuse_unknown(limited, quotas, "quota")


def _refuse_unknown(names: Iterable[str], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            shown = sorted(known)[:SHOWN_MAX]
            listed = ", ".join(shown) + (", ..." if len(known) > len(shown) else "")
            raise ValueError(f"no {what} is called {name!r}; there are: {listed or 'none'}")
