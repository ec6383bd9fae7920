"""The simulation: the scheduler that runs live, fed with a trace under virtual time.

Making a grant real costs nothing here: a sandbox is ready and an action started the moment that it
is decided, so all that is measured is the scheduler's doing. The exceptions are what the views
themselves say has to be prepared (a service that is not on the GPUs of its action is restored there
first) and what a recorded trace says of its server (`overhead_s`, `prepare_s`, `release_s`). The
loop is closed: an action is submitted a gap after the end of the one before it in its trajectory.
The same trace, cluster, policy and seed give the same result.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .. import events as ev
from ..core import Scheduler
from ..decisions import Decision, End, Grant, Kill, Place, Reserve, Resize
from ..model import CLUSTER, ResourceId, State
from ..resource import Preparing
from .actions import Plan, opened
from .result import ActionRun, Hold
from .trace import TraceTrajectory

EPOCH = 1
"""Nodes join once and stay."""

IDLE_TICKS_MAX = 100_000
"""Ticks in a row without an event of the trace or a decision. A quota's period may pass many times;
a scheduler that asks to be woken for ever is broken."""

STUCK_SHOWN = 5
"""Waiting actions that the error of a simulation that stands still tells of."""


class SimulationError(RuntimeError):
    """The simulation cannot go on: actions wait, and nothing will ever happen. A bug of a policy,
    never of a trace."""


@dataclass(slots=True, eq=False)
class _Walk:
    """One trajectory on its way through its actions."""

    trajectory: TraceTrajectory
    plans: Sequence[Plan]
    next: int = 0
    """Index of the action to be submitted next."""
    opened: bool = False
    token: int = 0
    """Of its placement."""


@dataclass(slots=True, eq=False)
class _Run:
    """One action from its submission to its release."""

    plan: Plan
    walk: _Walk
    submitted_s: float
    granted_s: float | None = None
    node: str = CLUSTER
    token: int = 0
    units: int = 0
    """Of the key resource, since `since_s`."""
    since_s: float = 0.0
    ready_s: float = 0.0
    """When what it was granted is prepared, so that it begins to run."""
    remaining: float = 1.0
    """Share of its work that was undone at `since_s`."""
    version: int = 0
    """Counts resizes: an end that was foreseen before one never comes."""
    cut: bool = False
    """It will end by its timeout."""
    entered: bool = False
    """Its overhead is over: the scheduler knows of it."""
    finished: bool = False
    """It has ended, and what it holds is being released."""
    holds: list[Hold] = field(default_factory=list)


_Due: TypeAlias = tuple[float, int, _Walk | _Run, int]
"""When, in the order of being foreseen, whose next submission, or whose end of overhead, of run or
of release, the version of the run."""


class Host:
    """Feeds one scheduler and makes its decisions come true. For one simulation."""

    def __init__(
        self,
        scheduler: Scheduler,
        trajectories: Sequence[TraceTrajectory],
        plans: Sequence[Sequence[Plan]],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """`on_end` is called after each end of an action."""
        self._scheduler = scheduler
        self._on_end = on_end
        self._now = 0.0
        self._due: list[_Due] = []
        self._foreseen = 0
        self._inbox: deque[ev.Event] = deque()
        self._runs: dict[str, _Run] = {}
        self._walks: dict[str, _Walk] = {}
        self.ended: list[ActionRun] = []
        for trajectory, planned in zip(trajectories, plans, strict=True):
            walk = _Walk(trajectory, planned)
            self._walks[trajectory.id] = walk
            self._foresee_next(walk, trajectory.start_s)

    def run(self, joins: Sequence[ev.NodeUp]) -> list[ActionRun]:
        """All actions in the order of their ends. Raises SimulationError if some never end."""
        for join in joins:
            self._feed(join)
        idle_ticks = 0
        while True:
            wake = self._scheduler.next_wakeup(self._now)
            if wake is not None and (not self._due or wake < self._due[0][0]):
                idle_ticks = 0 if self._tick(wake) else idle_ticks + 1
                if idle_ticks > IDLE_TICKS_MAX:
                    raise SimulationError(f"{idle_ticks} ticks changed nothing: {self._stuck()}")
            elif self._due:
                idle_ticks = 0
                self._now, _, whose, version = heapq.heappop(self._due)
                self._go_on_with(whose, version)
            else:
                break
        if self._runs:
            raise SimulationError(f"{len(self._runs)} actions wait for ever: {self._stuck()}")
        return self.ended

    # What happens

    def _go_on_with(self, whose: _Walk | _Run, version: int) -> None:
        if isinstance(whose, _Walk):
            self._submit(whose)
        elif not whose.entered:
            self._enter(whose)
        elif whose.finished:
            self._feed(ev.LeaseReleased(whose.plan.action.id, whose.token))
        elif whose.version == version:
            self._finish(whose)

    def _tick(self, wake: float) -> bool:
        """Whether the scheduler made anything of it."""
        self._now = max(self._now, wake)
        return self._feed(ev.Tick())

    def _submit(self, walk: _Walk) -> None:
        plan = walk.plans[walk.next]
        walk.next += 1
        if not walk.opened:
            walk.opened = True
            self._feed(ev.TrajectoryOpened(opened(walk.trajectory)))
        run = self._runs[plan.action.id] = _Run(plan, walk, self._now)
        if plan.trace.overhead_s:
            self._foresee(self._now + plan.trace.overhead_s, run, run.version)
        else:
            self._enter(run)

    def _enter(self, run: _Run) -> None:
        run.entered = True
        self._feed(ev.Submitted(run.plan.action))

    def _finish(self, run: _Run) -> None:
        assert run.granted_s is not None
        run_s = None if run.cut else self._now - run.ready_s
        name = run.plan.action.id
        self._record(run, State.FINISHED)
        del self._runs[name]
        self._inbox.append(ev.ActionEnded(name, run.token, run_s=run_s))
        if run.plan.trace.release_s:
            run.finished = True
            self._foresee(self._now + run.plan.trace.release_s, run, run.version)
        else:
            self._inbox.append(ev.LeaseReleased(name, run.token))
        self._go_on(run.walk)
        self._drain()

    def _go_on(self, walk: _Walk) -> None:
        """After an end: foresee what follows, or close the trajectory."""
        if walk.next < len(walk.plans):
            self._foresee_next(walk, self._now)
            return
        self._inbox.append(ev.TrajectoryClosed(walk.trajectory.id))
        if walk.token:
            self._inbox.append(ev.TrajectoryReleased(walk.trajectory.id, walk.token))

    def _foresee_next(self, walk: _Walk, after_s: float) -> None:
        if walk.next < len(walk.plans):
            self._foresee(after_s + walk.plans[walk.next].trace.gap_s, walk, 0)

    def _foresee(self, at_s: float, whose: _Walk | _Run, version: int) -> None:
        self._foreseen += 1
        heapq.heappush(self._due, (at_s, self._foreseen, whose, version))

    # What the scheduler says

    def _feed(self, event: ev.Event) -> bool:
        """Whether anything was decided."""
        self._inbox.append(event)
        return self._drain()

    def _drain(self) -> bool:
        """Hand over what happened, and what becomes of each decision, until all is said."""
        decided = False
        while self._inbox:
            for decision in self._scheduler.handle(self._inbox.popleft(), self._now):
                decided = True
                self._carry_out(decision)
        return decided

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Grant():
                self._start(decision)
            case Place(trajectory, _, token):
                self._walks[trajectory].token = token
                self._inbox.append(ev.SandboxReady(trajectory, token))
            case Resize():
                self._resize(decision)
            case End():
                self._end(decision)
            case Kill(action, _, token):
                self._inbox.append(ev.LeaseReleased(action, token))
            case Reserve():
                pass

    def _start(self, grant: Grant) -> None:
        run = self._runs.get(grant.action)
        if run is None or run.granted_s is not None:
            raise SimulationError(f"{grant.action} does not wait and was granted units: {grant}")
        run.granted_s, run.node, run.token = self._now, grant.node, grant.token
        run.units, run.since_s = _units(run, grant.amounts), self._now
        run.ready_s = self._now + run.plan.trace.prepare_s
        if run.plan.action.service:
            run.ready_s += self._prepare_s(grant)
        self._foresee_end(run)
        self._inbox.append(ev.Started(grant.action, grant.token))

    def _prepare_s(self, grant: Grant) -> float:
        """What the views say of the units that they chose: a service may have to be restored."""
        views = [self._scheduler.view(resource) for resource in grant.amounts]
        return sum(v.preparing_s(grant.token) for v in views if isinstance(v, Preparing))

    def _foresee_end(self, run: _Run) -> None:
        end_s = max(run.since_s, run.ready_s) + run.remaining * run.plan.run_s(run.units)
        timeout_s = run.plan.trace.timeout_s
        run.cut = timeout_s is not None and end_s > run.ready_s + timeout_s
        if timeout_s is not None and run.cut:
            end_s = run.ready_s + timeout_s
        self._foresee(end_s, run, run.version)

    def _resize(self, resize: Resize) -> None:
        """What is done stays done; the rest goes on at the speed of the new amount."""
        run = self._runs.get(resize.action)
        if run is not None:
            ran_s = max(0.0, self._now - max(run.since_s, run.ready_s))
            done = ran_s / run.plan.run_s(run.units)
            self._hold(run)
            run.remaining = max(0.0, run.remaining - done)
            run.units, run.since_s = _units(run, resize.amounts), self._now
            run.version += 1
            self._foresee_end(run)
        self._inbox.append(ev.Resized(resize.action, resize.token, resize.amounts, resize.change))

    def _end(self, end: End) -> None:
        """An end without a result: refused, or taken from it by a fault."""
        run = self._runs.pop(end.action)
        run.version += 1
        self._record(run, end.state, end.message)
        self._go_on(run.walk)

    # What came of it

    def _hold(self, run: _Run) -> None:
        if run.granted_s is not None and self._now > run.since_s:
            run.holds.append(Hold(run.since_s, self._now, run.units))

    def _record(self, run: _Run, state: State, reason: str = "") -> None:
        self._hold(run)
        action = run.plan.action
        self.ended.append(
            ActionRun(
                action.id,
                run.walk.trajectory.id,
                action.task,
                run.plan.trace.kind,
                run.plan.resource,
                run.node,
                run.submitted_s,
                run.granted_s,
                self._now,
                state,
                tuple(run.holds),
                0.0 if run.granted_s is None else min(self._now, run.ready_s) - run.granted_s,
                overhead_s=min(run.plan.trace.overhead_s, self._now - run.submitted_s),
                timed_out=run.cut and state is State.FINISHED,
                reason=reason,
                tenant=action.tenant,
            )
        )
        if self._on_end is not None:
            self._on_end()

    def _stuck(self) -> str:
        waiting = [name for name in self._runs if self._scheduler.knows(name)][:STUCK_SHOWN]
        return "; ".join(
            f"{name}: {self._scheduler.explain(name, self._now).sentence}" for name in waiting
        )


def _units(run: _Run, amounts: Mapping[ResourceId, int]) -> int:
    """How much of its key resource it holds."""
    for resource, amount in amounts.items():
        if resource.kind == run.plan.resource:
            return amount
    raise SimulationError(f"{run.plan.action.id} was granted no {run.plan.resource}: {amounts}")
