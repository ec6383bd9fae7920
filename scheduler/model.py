"""The vocabulary: actions, demands, amounts, profiles, trajectories, capacities, reasons.

Frozen data that events and decisions are made of. Everything here can be serialised and compared;
nothing here decides. Amounts are integers in the resource's own unit: cores, bytes of memory,
tokens or calls of a quota. Times are seconds on the host's monotonic clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import ge
from types import MappingProxyType
from typing import Any, NamedTuple

CLUSTER = ""
"""The node name of a resource that belongs to no node (an API quota)."""

CORES = "cores"
MEMORY = "memory"
QUOTA_PREFIX = "quota:"

UNITS_MAX = 1 << 50
"""No amount is larger (a pebibyte of memory, far beyond any count of cores)."""

EMPTY: Mapping[Any, Any] = MappingProxyType({})


class ResourceId(NamedTuple):
    """One countable resource: a kind of unit on a node, or on the cluster."""

    kind: str
    node: str = CLUSTER

    def __str__(self) -> str:
        return f"{self.kind}@{self.node}" if self.node else self.kind


class State(StrEnum):
    """States of an action. The first end that is written wins."""

    WAITING = "waiting"
    PREPARING = "preparing"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset({State.FINISHED, State.FAILED, State.CANCELLED, State.EXPIRED})


class WaitReason(StrEnum):
    """Why an action does not run yet. One action has one reason at a time."""

    NO_NODE = "no-node"  # its node is gone, or none has joined
    MEMORY = "memory"  # its trajectory waits for memory on a node
    SANDBOX_STARTING = "sandbox-starting"
    TRAJECTORY_BUSY = "trajectory-busy"  # as many of its trajectory's actions run as may
    CORES = "cores"  # too few free cores on its node
    GPUS = "gpus"  # no free chunk of GPUs is large enough
    QUOTA = "quota"  # the quota's concurrency is used up
    RATE = "rate"  # the quota's period is used up
    QUOTA_CLOSED = "quota-closed"  # closed by a Retry-After
    BEHIND = "behind"  # others that go before it wait for the same resource
    RESERVED = "reserved"  # the units that it needs are kept for one that was overtaken too often
    FOR_MORE = "for-more"  # it ends sooner, or others do, if it waits for more units than are free
    TASK_LIMIT = "task-limit"  # its task holds as many units as it may


class EndReason(StrEnum):
    """Why an action ended without a result, or why a trajectory is lost."""

    INFEASIBLE = "infeasible"  # no node could ever meet its demand
    UNKNOWN_RESOURCE = "unknown-resource"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    TRAJECTORY_CLOSED = "trajectory-closed"
    SANDBOX_FAILED = "sandbox-failed"  # it could not be started
    LOST = "lost"  # its sandbox, node or lease is gone


@dataclass(frozen=True, slots=True)
class Amounts:
    """The feasible amounts of one resource: a single value, an inclusive range, or a set.

    `values` are sorted and distinct; a range keeps only its ends. At least one amount is feasible.
    Raises ValueError for anything else.
    """

    minimum: int
    maximum: int
    values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.maximum <= UNITS_MAX:
            raise ValueError(f"amounts must be positive and ordered, not {self}")
        if self.values and (self.values[0], self.values[-1]) != (self.minimum, self.maximum):
            raise ValueError(f"values and range disagree: {self}")
        if any(map(ge, self.values, self.values[1:])):
            raise ValueError(f"values ascend, and are distinct: not {self}")

    @classmethod
    def exactly(cls, amount: int) -> Amounts:
        return cls(amount, amount)

    @classmethod
    def between(cls, low: int, high: int) -> Amounts:
        return cls(low, high)

    @classmethod
    def among(cls, values: set[int] | frozenset[int] | tuple[int, ...] | list[int]) -> Amounts:
        """Exactly the given values. Raises ValueError if there are none."""
        ordered = tuple(sorted(set(values)))
        if not ordered:
            raise ValueError("an empty set of amounts can never be met")
        return cls(ordered[0], ordered[-1], ordered)

    @property
    def elastic(self) -> bool:
        return self.minimum != self.maximum

    def at_most(self, amount: int) -> int:
        """The largest feasible amount that is not above `amount`; the least if there is none."""
        if amount <= self.minimum:
            return self.minimum
        if self.values:
            return self.values[bisect_right(self.values, amount) - 1]
        return min(amount, self.maximum)

    def __iter__(self) -> Iterator[int]:
        return iter(self.values or range(self.minimum, self.maximum + 1))

    def __contains__(self, amount: object) -> bool:
        if self.values:
            return amount in self.values
        return isinstance(amount, int) and self.minimum <= amount <= self.maximum

    def __str__(self) -> str:
        if self.values:
            return ",".join(map(str, self.values))
        return f"{self.minimum}-{self.maximum}" if self.elastic else str(self.minimum)


Elasticity = Mapping[int, float]
"""Parallel efficiency: units -> E, EFFICIENCY_MIN <= E <= 1. Between entries it is linear in 1/m."""

EFFICIENCY_MIN = 1e-6
"""Of a million units one works: below this durations are soon no finite numbers."""

DURATION_MIN_S = 1e-6
"""Shorter durations count as this: a duration of zero would make every amount equally good."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of an action's run time as a function of its key resource's amount m.

    duration(m) = duration_s / (E(m) * m), ARL-Tangram section 4.1 (arXiv 2603.13019). E comes from
    the table `elasticity`, or is 1 / (1 + serial (m - 1)): Amdahl's law, `serial` the share of the
    work that does not scale, 0 to 1. With neither, nothing is known of how the action scales.
    Raises ValueError for values outside their ranges and for both forms of elasticity at once.
    """

    duration_s: float | None = None
    elasticity: Elasticity = field(default_factory=lambda: EMPTY)
    serial: float | None = None

    def __post_init__(self) -> None:
        if self.duration_s is not None and not 0 <= self.duration_s < math.inf:
            raise ValueError(f"duration_s must be finite and not negative, not {self.duration_s}")
        for units, efficiency in self.elasticity.items():
            if units < 1 or not EFFICIENCY_MIN <= efficiency <= 1:
                raise ValueError(
                    f"elasticity maps units >= 1 to {EFFICIENCY_MIN:g} <= E <= 1, "
                    f"not {units}: {efficiency}"
                )
        if self.elasticity and self.elasticity.get(1, 1.0) != 1:
            raise ValueError(
                f"at one unit E is 1, not {self.elasticity[1]}: duration_s is with one unit"
            )
        if self.serial is not None and not 0 <= self.serial <= 1:
            raise ValueError(f"serial is a share from 0 to 1, not {self.serial}")
        if self.serial is not None and self.elasticity:
            raise ValueError("elasticity and serial say the same thing: give one of them")

    @property
    def scales(self) -> bool:
        """Whether it is known how its duration depends on the amount."""
        return self.duration_s is not None and (self.serial is not None or bool(self.elasticity))

    def efficiency(self, units: int) -> float:
        """E(units); 1 at one unit, beyond the table's last entry the last entry's, and 1 at every
        amount if neither form is given."""
        if self.serial is not None:
            return 1 / (1 + self.serial * (units - 1))
        if not self.elasticity:
            return 1.0
        table = {1: 1.0, **self.elasticity}
        if units in table:
            return table[units]
        below = max(m for m in table if m < units)
        above = min((m for m in table if m > units), default=None)
        if above is None:
            return table[below]
        weight = (1 / below - 1 / units) / (1 / below - 1 / above)
        return table[below] + weight * (table[above] - table[below])

    def run_s(self, units: int) -> float | None:
        """Predicted run time with `units` of the key resource; None if nothing is known."""
        if self.duration_s is None:
            return None
        return max(self.duration_s, DURATION_MIN_S) / (self.efficiency(units) * units)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one action needs: per kind of resource its feasible amounts, all or nothing.

    A kind is bound to a node's resource when the trajectory is placed; `cluster` kinds (quotas)
    are the same from everywhere. `key` is the one kind whose amount changes the duration.
    """

    per_node: Mapping[str, Amounts] = field(default_factory=lambda: EMPTY)
    cluster: Mapping[str, Amounts] = field(default_factory=lambda: EMPTY)
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.per_node and not self.cluster:
            raise ValueError("a demand needs at least one resource")
        if self.key is not None and self.key not in self.per_node and self.key not in self.cluster:
            raise ValueError(f"key resource {self.key!r} is not part of the demand")

    def of(self, kind: str) -> Amounts:
        """Raises KeyError for a kind that is not part of it."""
        return self.per_node[kind] if kind in self.per_node else self.cluster[kind]


@dataclass(frozen=True, slots=True)
class Action:
    """An action as the scheduler sees it: no payload, only what a decision needs.

    `deadline` is absolute (the host's clock): passed while it waits, the action expires.
    `timeout_s` counts the run alone. Raises ValueError for a deadline that is not finite or a
    timeout that is negative or no number.
    """

    id: str
    task: str
    demand: Demand
    trajectory: str | None = None
    kind: str = "exec"
    priority: int = 0
    deadline: float | None = None
    timeout_s: float | None = None
    profile: Profile = field(default_factory=Profile)
    group: str = ""
    step: int | None = None
    tenant: str = ""
    signature: str = ""
    """What its command is like, such as "pytest": actions alike in task, kind and signature are
    taken to run alike (`profile`). Empty: only task and kind tell."""
    malleable: bool = False
    """Its amount of the key resource may change while it runs."""
    service: str = ""
    """The service that it asks: units that differ by what they served last are chosen by it."""

    def __post_init__(self) -> None:
        if self.deadline is not None and not math.isfinite(self.deadline):
            raise ValueError(f"the deadline of {self.id!r} is finite, not {self.deadline}")
        if self.timeout_s is not None and not self.timeout_s >= 0:
            raise ValueError(f"the timeout of {self.id!r} is not negative, not {self.timeout_s}")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A trajectory as the scheduler sees it: what it reserves on its node while it lives."""

    id: str
    task: str
    reserve: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    concurrency: int = 1
    priority: int = 0
    group: str = ""
    step: int | None = None
    tenant: str = ""
    sandboxed: bool = True  # False: no sandbox is needed before its actions may run
    node: str = ""
    """The only node that it can live on, since its files are there. Empty: any."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much of one resource there is. `view` names the ResourceView that counts it and
    `parameters` are what that view needs beside the total (the windows of a quota). Raises
    ValueError for a total that is no whole number from 0 to UNITS_MAX."""

    resource: ResourceId
    total: int
    view: str = "linear"
    parameters: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    def __post_init__(self) -> None:
        whole = isinstance(self.total, int) and not isinstance(self.total, bool)
        if not whole or not 0 <= self.total <= UNITS_MAX:
            raise ValueError(
                f"the total of {self.resource} is a whole number from 0 to {UNITS_MAX}, "
                f"not {self.total}"
            )


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease that a node already holds when it joins: adopted first, granted afterwards."""

    action: Action
    token: int
    node: str
    amounts: Mapping[ResourceId, int]


@dataclass(frozen=True, slots=True)
class WaitSpan:
    """One stretch of waiting, for one reason. `end` is None while it lasts."""

    reason: WaitReason
    resource: ResourceId | None
    start: float
    end: float | None = None
