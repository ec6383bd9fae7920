"""The scheduler: events in, decisions out, in one numbered cycle.

`Scheduler` checks each event's token or epoch and hands it to the part that it concerns: `pool`
counts units, `placement` chooses nodes, `lifecycle` moves actions and trajectories on, `waiting`
keeps the queues, `matching` serves them, `ledger` books, `explain` finds the words. No IO, no clock,
no randomness; every collection is ordered, so that the same events give the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from . import events as ev
from .decisions import Decision, Grant
from .explain import Explainer, Explanation, QueueSummary
from .invariants import check
from .ledger import Ledger
from .lifecycle import ENDED_MAX, Lifecycle
from .limits import Limits, TaskLimits
from .matching import Matching
from .membership import Membership
from .model import EMPTY, EndReason, ResourceId, State
from .order import DEFAULT as DEFAULT_ORDER
from .order import check_weights, parse_order
from .placement import Placement
from .policy import DEFAULT as DEFAULT_POLICY
from .policy import parse_policy
from .pool import Closable, Pool, ViewFactory
from .profile import Profiler
from .ranking import Weights
from .records import Entry, Phase, Seat, Waits
from .resizing import Resizing
from .resource import LinearView, ResourceView
from .stretches import Stretches
from .waiting import OVERTAKE_MAX, Waiting

__all__ = ["ENDED_MAX", "OVERTAKE_MAX", "Closable", "Explanation", "QueueSummary", "Scheduler"]

SandboxEvent: TypeAlias = ev.SandboxReady | ev.SandboxLost | ev.TrajectoryReleased
LeaseEvent: TypeAlias = ev.Started | ev.ActionEnded | ev.LeaseReleased | ev.LeaseLost
ActionEvent: TypeAlias = (
    ev.Submitted
    | ev.CancelRequested
    | ev.CancelAllRequested
    | ev.ResizeRequested
    | ev.Resized
    | LeaseEvent
)


class Scheduler:
    """Decides who gets which units and when. Nobody else changes its state.

    `views` names the factories of resource views beside "linear"; `policy` says how many units an
    action gets (`policy.parse_policy`), `order` who is served first (`order.parse_order`), with
    `weights` of tasks and tenants; `limits` how many units a task holds at most at once
    (`limits.Limits`); `last_token` the largest token that a scheduler before this one gave out, so
    that what still comes under an old token is told from what is new. Raises ValueError for one
    that is unknown or malformed. `now` is the host's monotonic clock in seconds and must not go
    back between calls.
    """

    def __init__(
        self,
        views: Mapping[str, ViewFactory] | None = None,
        policy: str = DEFAULT_POLICY,
        order: str = DEFAULT_ORDER,
        weights: Weights = EMPTY,
        limits: Limits = EMPTY,
        last_token: int = 0,
    ) -> None:
        self.policy, self.order = parse_policy(policy), parse_order(order)
        check_weights(weights)
        self._pool = pool = Pool({"linear": LinearView, **(views or {})}, last_token)
        self._ranking = ranking = self.order.ranking(pool.total, weights)
        self._waits = waits = Waits()
        task_limits = TaskLimits(limits)
        ledger = Ledger(pool, task_limits, ranking, predicts=self.policy.arranger is not None)
        self._waiting = waiting = Waiting(waits, self.policy, ranking, task_limits, ledger)
        self._matching = Matching(pool, waits, waiting, ledger, self.policy)
        self._placement = placement = Placement(pool, ranking)
        self.profiler = Profiler()
        """What was learned of durations. Hosts read its errors; nobody else teaches it."""
        self._life = Lifecycle(
            pool, waits, waiting, ledger, placement, self.policy, ranking, self.profiler
        )
        self._resizing = Resizing(pool, waiting, ledger)
        self._membership = Membership(pool, waiting, ledger, placement, self._life)
        self._explainer = Explainer(pool, waiting, placement)
        self._stale = 0

    def handle(self, event: ev.Event, now: float) -> list[Decision]:
        """The one way in. Raises ValueError for what the host must never send (a known id again, a
        malformed capacity or demand), KeyError for an action of an unknown trajectory; the state
        is as before then."""
        life = self._life
        # 1. Apply the event; whatever it changes marks the queues that deserve a pass.
        self._apply(event, now)
        # 2. Expire actions whose deadline passed while they wait.
        for _, action_id in life.deadlines.due(now):
            entry = life.actions[action_id]
            message = f"its deadline passed while it waited ({entry.reason or 'just submitted'})"
            life.end(entry, State.EXPIRED, EndReason.EXPIRED, message, now)
        # 3. Move those whose rank is another now.
        for member, rank in self._ranking.moved():
            if isinstance(member, Seat):
                self._placement.rekey(member, rank)
            else:
                self._waiting.rekey(member, rank)
        # 4. Place trajectories for whose reservation a node has room now.
        for seat, place in self._placement.run(now):
            life.out.append(place)
            if not seat.trajectory.sandboxed:
                seat.phase = Phase.READY
            life.advance(seat, now)
        # 5. One pass over each touched queue, never over all.
        granted = self._matching.run(now)
        granted += self._change_amounts(now)
        if len(life.deadlines):
            for decision in granted:
                if isinstance(decision, Grant):
                    life.deadlines.drop(life.actions[decision.action].key[1:])
        # 6. Hand over what was decided, in order.
        decisions, life.out = life.out + granted, []
        return decisions

    def next_wakeup(self, now: float) -> float | None:
        """When to send a Tick if nothing else happens before: the earliest deadline of a waiting
        action, or change of a resource that somebody waits for. None if time changes nothing."""
        times = (self._life.deadlines.next(), self._waiting.wakes.next())
        return min((time for time in times if time is not None), default=None)

    def _change_amounts(self, now: float) -> list[Decision]:
        """Running actions get the other amounts that the policy wishes for them, where they can."""
        if not (wishes := self._matching.resizes):
            return []
        self._matching.resizes = []
        changes = [self._resizing.change(entry, amounts, now) for entry, amounts in wishes]
        return [change for change in changes if change is not None]

    # Reading

    @property
    def stale(self) -> int:
        """Events that were dropped: of an older epoch or token, or of something unknown."""
        return self._stale

    def knows(self, action_id: str) -> bool:
        """Whether `explain` can tell of it."""
        return action_id in self._life.actions or action_id in self._life.ended

    def explain(self, action_id: str, now: float) -> Explanation:
        """Also of an ended action until it is forgotten. Raises KeyError for an unknown one."""
        entry = self._life.actions.get(action_id) or self._life.ended[action_id]
        return self._explainer.explain(entry, now)

    def view(self, resource: ResourceId) -> ResourceView:
        """For reading alone. Raises KeyError for an unknown resource."""
        return self._pool.views[resource]

    def resources(self) -> tuple[ResourceId, ...]:
        return tuple(self._pool.views)

    def largest(self, kind: str) -> int:
        """The most of this kind that one grant or reservation could ever get; 0 if there is none."""
        return self._pool.largest(kind)

    def waiting(self) -> dict[ResourceId, QueueSummary]:
        """What waits, per resource. An action counts once: where it is queued, else (at the gate of
        its trajectory) at the first resource of its demand, without a node while it has none."""
        return self._explainer.waiting(self._waits)

    def node_of(self, trajectory: str) -> str | None:
        """None while it is not placed. Raises KeyError for an unknown trajectory."""
        return self._life.seat(trajectory).node

    def forget(self, action_id: str) -> None:
        """The host remembers this ended action no more. Silent if it is unknown; raises ValueError
        if it has no end yet. Units that it still holds stay booked until their release."""
        entry = self._life.actions.get(action_id)
        if entry is None:
            self._life.ended.pop(action_id, None)
            return
        if not entry.state.ended:
            raise ValueError(f"action {action_id!r} is {entry.state}: it cannot be forgotten")
        entry.forgotten = True

    def forget_trajectory(self, trajectory: str) -> None:
        """Alike, for a trajectory that is closed or lost and released."""
        if trajectory in self._life.seats:
            raise ValueError(f"trajectory {trajectory!r} is not released: it cannot be forgotten")
        self._life.past_seats.pop(trajectory, None)

    def check_invariants(self) -> None:
        """Raises AssertionError where two parts of the state disagree. For tests: O(everything)."""
        check(self._pool, self._waits, self._waiting, self._placement, self._life)

    # Events

    def _apply(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.NodeUp():
                self._stale += self._membership.join(event, now)
            case ev.NodeDown(node, epoch):
                self._stale += self._membership.leave(node, epoch, now)
            case ev.TrajectoryOpened(trajectory):
                self._life.open(trajectory, now)
            case ev.TrajectoryClosed(trajectory):
                self._closed(trajectory, now)
            case ev.SandboxReady() | ev.SandboxLost() | ev.TrajectoryReleased():
                self._apply_to_sandbox(event, now)
            case ev.QuotaClosed(resource, until):
                self._close_quota(resource, until)
            case ev.Tick():
                pass
            case _:
                self._apply_to_action(event, now)

    def _apply_to_action(self, event: ActionEvent, now: float) -> None:
        match event:
            case ev.Submitted(action):
                self._life.send_in(self._life.enter(action, now), now)
            case ev.CancelRequested(action_id, message):
                self._cancel(action_id, message, now)
            case ev.CancelAllRequested(action_ids, message):
                for action_id in action_ids:
                    self._cancel(action_id, message, now)
            case ev.ResizeRequested(action_id, amounts):
                self._resize(action_id, amounts, now)
            case ev.Resized():
                self._resized(event, now)
            case _:
                self._apply_to_lease(event, now)

    def _apply_to_lease(self, event: LeaseEvent, now: float) -> None:
        if (entry := self._holder(event.action, event.token)) is None:
            return
        match event:
            case ev.Started():
                if entry.state is State.PREPARING:
                    entry.state = State.RUNNING
                    if (key := entry.key_resource) and key in entry.amounts:
                        entry.stretches = Stretches(entry.amounts[key], now)
            case ev.ActionEnded(_, _, failed, run_s):
                self._learn(entry, run_s, now)
                if not entry.state.ended:
                    entry.state = State.FAILED if failed else State.FINISHED
            case ev.LeaseReleased():
                self._life.lose(entry, "its lease was released before it ended", now)
            case ev.LeaseLost(_, _, message):
                self._life.lose(entry, message, now)

    def _learn(self, entry: Entry, run_s: float | None, now: float) -> None:
        """What it ran teaches about others like it, unless its key resource is not booked here."""
        key, stretches = entry.key_resource, entry.stretches
        if run_s is None:
            return
        if stretches is not None and not stretches.constant:
            self.profiler.observe_changing(entry.action, stretches.until(now), run_s)
            return
        units = entry.amounts.get(key) if key is not None else 1
        units = stretches.units if stretches is not None else units
        if units is not None:
            self.profiler.observe(entry.action, units, run_s)

    def _holder(self, action_id: str, token: int) -> Entry | None:
        """The action that holds a lease under this very token; anything else is a late event."""
        entry = self._life.actions.get(action_id)
        if entry is None or not entry.token or entry.token != token:
            self._stale += 1
            return None
        return entry

    def _apply_to_sandbox(self, event: SandboxEvent, now: float) -> None:
        seat = self._life.seats.get(event.trajectory)
        if seat is None or not seat.token or seat.token != event.token:
            self._stale += 1
            return
        match event:
            case ev.SandboxReady():
                if seat.phase is Phase.STARTING:
                    seat.phase = Phase.READY
                    self._life.advance(seat, now)
            case ev.SandboxLost(_, _, reason, message):
                self._life.end_seat(seat, State.FAILED, reason, message, now)
            case ev.TrajectoryReleased():
                message = "the sandbox of its trajectory is gone"
                self._life.end_seat(seat, State.FAILED, EndReason.LOST, message, now)
                self._life.release_seat(seat, now)

    def _closed(self, trajectory: str, now: float) -> None:
        if (seat := self._life.seats.get(trajectory)) is None:
            self._stale += 1
            return
        reason, message = EndReason.TRAJECTORY_CLOSED, "its trajectory was closed"
        self._life.end_seat(seat, State.CANCELLED, reason, message, now)

    def _cancel(self, action_id: str, message: str, now: float) -> None:
        entry = self._life.actions.get(action_id)
        if entry is None or entry.state.ended:
            self._stale += 1
            return
        message = message or "it was cancelled"
        self._life.end(entry, State.CANCELLED, EndReason.CANCELLED, message, now)

    # Resizing and quotas

    def _resize(self, action_id: str, amounts: Mapping[ResourceId, int], now: float) -> None:
        """What is infeasible or does not fit is not answered."""
        entry = self._life.actions.get(action_id)
        if entry is None or entry.state.ended or not entry.token:
            self._stale += 1
            return
        if (resize := self._resizing.change(entry, amounts, now)) is not None:
            self._life.out.append(resize)

    def _resized(self, event: ev.Resized, now: float) -> None:
        """What cannot be true is dropped."""
        entry = self._holder(event.action, event.token)
        if entry is not None and not self._resizing.confirm(
            entry, event.amounts, event.change, now
        ):
            self._stale += 1

    def _close_quota(self, resource: ResourceId, until: float) -> None:
        view = self._pool.views.get(resource)
        if not isinstance(view, Closable):
            self._stale += 1
            return
        view.close(until)
        self._waiting.touch(resource)
