"""What a simulation came to: every action's life, and the figures computed from it.

Data and arithmetic alone; tables, JSON and plots are made of it elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..model import EMPTY, State
from ..order import DEFAULT as FIRST_COME


@dataclass(frozen=True, slots=True)
class Hold:
    """Units of one resource held from `start_s` to `end_s` (virtual time)."""

    start_s: float
    end_s: float
    units: float
    """Whole units of a grant; in a pod, the share of its node's cores that it got."""


@dataclass(frozen=True, slots=True)
class ActionRun:
    """One action of the trace, as it went. Times are virtual seconds from the trace's zero."""

    id: str
    trajectory: str
    task: str
    kind: str
    resource: str
    """The key resource's kind: cores, gpus, or quota:NAME."""
    node: str
    submitted_s: float
    granted_s: float | None
    ended_s: float
    state: State
    holds: tuple[Hold, ...] = ()
    """Of the key resource, in order; several where the amount changed while it ran."""
    prepare_s: float = 0.0
    """In which it was made ready: its sandbox, then its lease, a service that was restored."""
    timed_out: bool = False
    """It was cut at its timeout: an end like others, `finished`, with that outcome."""
    sandbox_prepare_s: float = 0.0
    """The part of `prepare_s` before the grant: its sandbox started."""
    reason: str = ""
    """Why it ended without a result, in plain English; empty if it has one."""
    tenant: str = ""

    @property
    def act_s(self) -> float:
        return self.ended_s - self.submitted_s

    @property
    def run_s(self) -> float:
        return self.act_s - self.queue_s - self.prepare_s

    @property
    def queue_s(self) -> float:
        granted_s = self.granted_s if self.granted_s is not None else self.ended_s
        return max(0.0, granted_s - self.submitted_s - self.sandbox_prepare_s)


@dataclass(frozen=True, slots=True)
class GroupRun:
    """The trajectories of one group, else of one step, from the first start to the last end."""

    task: str
    group: str
    """Empty: those of `step` that are in no group."""
    step: int | None
    start_s: float
    end_s: float
    complete: bool
    """Every action has a result."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """All actions in the order of their ends, and what they ran on."""

    policy: str
    actions: Sequence[ActionRun]
    capacities: Mapping[tuple[str, str], int]
    """(kind, node) -> units; node is empty for the cluster's own resources."""
    start_s: float = 0.0
    """The earliest start of a trajectory."""
    lower_bounds_s: Mapping[str, float] = field(default_factory=lambda: EMPTY)
    """Name of a lower bound -> bound on the mean ACT of any policy that does not resize."""
    notes: Sequence[str] = ()
    """What a reader must know: trajectories that never got a pod, a trace without memory."""
    order: str = ""
    """Of service; empty where there is none (pods)."""
    groups: Sequence[GroupRun] = ()

    @property
    def has_results(self) -> bool:
        """Whether any action has one, so that there are figures at all."""
        return any(run.state is State.FINISHED for run in self.actions)

    @property
    def name(self) -> str:
        """Its policy, and its order if that is not the usual one."""
        return self.policy if self.order in ("", FIRST_COME) else f"{self.policy}, {self.order}"
