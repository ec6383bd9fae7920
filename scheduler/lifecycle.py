"""The life of an action and of a trajectory: gates, slots, ends, release.

Every change of an entry's or a seat's standing goes through here, so that queue, slot, units,
deadline and history change together. Decisions that follow at once (End, Kill) gather in `out`.
Events and their tokens are `core`'s.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from .choices import choices_of
from .decisions import Decision, End, Kill
from .exploring import explored
from .ledger import Ledger
from .model import (
    MEMORY,
    Action,
    EndReason,
    ResourceId,
    State,
    Trajectory,
    WaitReason,
)
from .placement import Placement, reservation
from .policy import Policy
from .pool import Pool
from .profile import Profiler
from .queue import Alarms
from .ranking import Ranking
from .records import Arrival, Entry, Phase, Seat, Waits
from .sentences import amount_of
from .waiting import Waiting

ENDED_MAX = 65_536
"""Ended actions, and as many trajectories, that stay explainable until the host forgets them; of
more the oldest go. Above what a host retains, so that it is a guard, not a policy."""


class Lifecycle:
    """All actions and trajectories that are known."""

    def __init__(
        self,
        pool: Pool,
        waits: Waits,
        waiting: Waiting,
        ledger: Ledger,
        placement: Placement,
        policy: Policy,
        ranking: Ranking,
        profiler: Profiler,
    ) -> None:
        self.actions: dict[str, Entry] = {}
        """Waiting, granted, or ended with units that are not released yet."""
        self.ended: dict[str, Entry] = {}
        self.seats: dict[str, Seat] = {}
        self.past_seats: dict[str, Seat] = {}
        """Over, and hold nothing."""
        self.stranded: dict[str, Entry] = {}
        """At no gate and in no queue: what they need has not joined, or is gone."""
        self._orphans: dict[str, dict[str, Entry]] = {}
        """Trajectory -> its actions that a node told of before it was opened (again)."""
        self.deadlines: Alarms[Arrival] = Alarms()
        self.out: list[Decision] = []
        self._pool = pool
        self._waits = waits
        self._waiting = waiting
        self._ledger = ledger
        self._placement = placement
        self._policy = policy
        self._ranking = ranking
        self._profiler = profiler
        self._arrivals = 0

    # Arrival

    def open(self, trajectory: Trajectory, now: float) -> Seat:
        """Raises ValueError for a known id."""
        if trajectory.id in self.seats or trajectory.id in self.past_seats:
            raise ValueError(f"trajectory {trajectory.id!r} is open already")
        self._arrivals += 1
        seat = Seat(trajectory, (0.0, self._arrivals, trajectory.id), now)
        seat.key = (self._ranking.of_trajectory(seat), *seat.key[1:])
        self.seats[trajectory.id] = seat
        self._placement.add(seat)
        for entry in self._orphans.pop(trajectory.id, {}).values():
            entry.seat = seat
            seat.actions[entry.id] = entry
            if entry.boxed:
                seat.admitted[entry.id] = entry
            self.settle_where(seat, entry, now)
        return seat

    def settle_where(self, seat: Seat, entry: Entry, now: float) -> None:
        """The action turns out to run on this node, so its trajectory lives there too, if it has
        no node yet and what it reserves is free."""
        if seat.phase is not Phase.UNPLACED or not entry.homed:
            return
        if (place := self._placement.place_at(seat, entry.node, now)) is not None:
            self.out.append(place)
            if not seat.trajectory.sandboxed:
                seat.phase = Phase.READY
            self.advance(seat, now)

    def enter(self, action: Action, now: float) -> Entry:
        """A new entry that waits nowhere yet. Raises ValueError for a known id or for an action
        that names no trajectory though it runs on a node, KeyError for an unknown trajectory."""
        if action.id in self.actions or action.id in self.ended:
            raise ValueError(f"action {action.id!r} was submitted already")
        if action.trajectory is None and action.demand.per_node:
            raise ValueError(f"action {action.id!r} runs on a node, so it needs a trajectory")
        seat = self.seat(action.trajectory) if action.trajectory is not None else None
        return self._enter(action, seat, now)

    def recall(self, action: Action, now: float) -> Entry:
        """The entry of an action whose lease a node reports: known, ended long ago, or new."""
        if (entry := self.actions.get(action.id)) is not None:
            return entry
        if (entry := self.ended.pop(action.id, None)) is not None:
            self.actions[action.id] = entry
            self._ranking.of_action(entry, action.priority)  # it was told that this one is over
            return entry
        seat = self.seats.get(action.trajectory) if action.trajectory is not None else None
        return self._enter(action, seat, now)

    def hold(self, entry: Entry, token: int, node: str, now: float) -> None:
        """The action turns out to run already, under this token."""
        if entry.state is State.WAITING:
            self.stop_waiting(entry, now)
            entry.state = State.RUNNING
        if entry.seat is not None and entry.boxed:
            entry.seat.admitted[entry.id] = entry
        entry.token = token
        entry.settle_on(node)

    def _enter(self, action: Action, seat: Seat | None, now: float) -> Entry:
        priority = action.priority + (seat.trajectory.priority if seat else 0)
        self._arrivals += 1
        key = (0.0, self._arrivals, action.id)
        entry = Entry(action, key, seat, now, profile=action.profile)
        entry.key = (self._ranking.of_action(entry, priority), *key[1:])
        self.actions[action.id] = entry
        if seat is not None:
            seat.actions[action.id] = entry
        elif action.trajectory is not None:
            self._orphans.setdefault(action.trajectory, {})[action.id] = entry
        return entry

    def seat(self, trajectory: str) -> Seat:
        """Raises KeyError for an unknown trajectory."""
        return self.seats.get(trajectory) or self.past_seats[trajectory]

    # Gates

    def send_in(self, entry: Entry, now: float) -> None:
        """Refuse an action that can never run, else bring it as far as it gets: to the gate of its
        trajectory, or into the queues."""
        seat = entry.seat
        if seat is not None and seat.over is not None:
            self.end(entry, *seat.over, now)
            return
        if (refusal := self._refusal(entry)) is not None:
            self.end(entry, State.FAILED, *refusal, now)
            return
        if entry.action.deadline is not None:
            self.deadlines.set(entry.key[1:], entry.action.deadline)
        if seat is None or not entry.homed:
            self._queue(entry, now)
            return
        seat.line[entry.id] = entry
        if self._may_pass(seat, entry):
            self._admit(entry, seat, now)
        else:
            self._wait_at_gate(entry, seat, now)

    def advance(self, seat: Seat, now: float) -> None:
        """The trajectory got further (placed, ready), or the nodes changed: look at all its line."""
        refusals = [(entry, self._refusal(entry)) for entry in seat.line.values()]
        refused = [(entry, refusal) for entry, refusal in refusals if refusal is not None]
        for entry, _ in refused:
            # All at once: the end of one lets the next pass, which must not be one of these.
            del seat.line[entry.id]
        for entry, refusal in refused:
            self.end(entry, State.FAILED, *refusal, now)
        for entry in list(seat.line.values()):
            if self._may_pass(seat, entry):
                self._admit(entry, seat, now)
            else:
                self._wait_at_gate(entry, seat, now)

    def retry_stranded(self, now: float) -> None:
        """The nodes changed: what they need may be there now, or be known never to come."""
        stranded, self.stranded = self.stranded, {}
        for entry in stranded.values():
            self.send_in(entry, now)

    def strand(self, entry: Entry, now: float) -> None:
        """What a queued action needs has left the pool: out of the queue, keeping its slot."""
        self._waiting.remove(entry, now)
        entry.needs = {}
        self.stranded[entry.id] = entry
        self._waits.set(entry, WaitReason.NO_NODE, None, now)

    def _refusal(self, entry: Entry) -> tuple[EndReason, str] | None:
        seat = entry.seat
        if seat is not None and entry.homed and seat.trajectory.id in self._placement.unplaceable:
            for kind, amount in seat.trajectory.reserve.items():
                asked, most = (amount_of(kind, n) for n in (amount, self._pool.largest(kind)))
                if amount > self._pool.largest(kind):
                    message = f"its trajectory reserves {asked}, but the most of a node is {most}"
                    return EndReason.INFEASIBLE, message
            if (only := seat.trajectory.node) and not self._pool.is_up(only):
                return EndReason.LOST, f"node {only}, where its trajectory's files are, is gone"
            return EndReason.INFEASIBLE, "no node has all that its trajectory reserves"
        node = seat.node if seat else None
        refusal = self._pool.refusal(entry.action.demand, node)
        return refusal or self._waiting.limits.refusal(entry.action)

    def _may_pass(self, seat: Seat, entry: Entry) -> bool:
        if seat.node is None or seat.over is not None:
            return False
        if not entry.boxed or entry.id in seat.admitted:
            return True
        return seat.phase is Phase.READY and len(seat.admitted) < seat.trajectory.concurrency

    def _wait_at_gate(self, entry: Entry, seat: Seat, now: float) -> None:
        if seat.node is None and not self._pool.live():
            self._waits.set(entry, WaitReason.NO_NODE, None, now)
        elif seat.node is None:
            memory = ResourceId(MEMORY, seat.trajectory.node)
            self._waits.set(entry, WaitReason.MEMORY, memory, now)
        elif seat.phase is Phase.STARTING:
            self._waits.set(entry, WaitReason.SANDBOX_STARTING, None, now)
        else:
            self._waits.set(entry, WaitReason.TRAJECTORY_BUSY, None, now)

    def _admit(self, entry: Entry, seat: Seat, now: float) -> None:
        del seat.line[entry.id]
        if entry.boxed:
            seat.admitted[entry.id] = entry
        self._queue(entry, now)

    def _queue(self, entry: Entry, now: float) -> None:
        demand = entry.action.demand
        if entry.seat is not None and entry.seat.node and demand.per_node:
            entry.settle_on(entry.seat.node)
        needs = {ResourceId(kind, entry.node): a.minimum for kind, a in demand.per_node.items()}
        needs |= {ResourceId(kind): a.minimum for kind, a in demand.cluster.items()}
        if any(resource not in self._pool.views for resource in needs):
            self.stranded[entry.id] = entry
            self._waits.set(entry, WaitReason.NO_NODE, None, now)
            return
        entry.needs = needs
        self._settle_amount(entry, now)
        self._waiting.set_rank(entry)
        self._waiting.add(entry, now)

    def _settle_amount(self, entry: Entry, now: float) -> None:
        """Of its key resource: a set to choose from, or the one amount that the policy gives."""
        if (key := entry.key_resource) is None:
            return
        prediction = self._profiler.predict(entry.action)
        entry.profile, entry.source = prediction.profile, prediction.source
        allowed = self._waiting.limits.most(entry.action.task, key.kind)
        largest = min(allowed, self._pool.views[key].largest())
        arranger = self._policy.arranger
        if arranger is not None:
            entry.choices = choices_of(entry.action, entry.profile, largest)
        if arranger is not None and entry.choices is not None:
            entry.patient_until_s = entry.submitted + arranger.patience_s(entry)
            entry.needs = {**entry.needs, key: entry.choices.units[0]}
            return
        amounts = entry.action.demand.of(key.kind)
        amount = amounts.at_most(min(self._policy.degree, largest))
        if self._policy.explores and (free := self._unwanted(entry, key, now)):
            amount = explored(entry.action, prediction, free, largest) or amount
        entry.needs = {**entry.needs, key: amount}

    def _unwanted(self, entry: Entry, key: ResourceId, now: float) -> int:
        """Free units that the action might have and for which nobody waits."""
        waiting = self._waiting
        if waiting.reservations.entries or any(True for _ in waiting.queues.get(key, ())):
            return 0
        spare = waiting.limits.spare(entry.action.task, key.kind)
        return max(0, min(self._pool.free(key, now), spare))

    # Ends

    def end(self, entry: Entry, state: State, reason: EndReason, message: str, now: float) -> None:
        """The action ends without a result, unless it has an end: the first stands. Units that it
        holds stay taken until their release is confirmed."""
        if entry.state.ended:
            return
        self.out.append(End(entry.id, state, reason, message))
        entry.end = (reason, message)
        if entry.state is not State.WAITING:
            entry.state = state
            self.out.append(Kill(entry.id, entry.node, entry.token))
            return
        self.stop_waiting(entry, now)
        entry.state = state
        self._settle(entry, now)

    def lose(self, entry: Entry, message: str, now: float) -> None:
        """What the action holds is gone with its node or lease: nothing is left to kill."""
        if entry.state is State.WAITING:
            self.end(entry, State.FAILED, EndReason.LOST, message, now)
            return
        if not entry.state.ended:
            entry.state, entry.end = State.FAILED, (EndReason.LOST, message)
            self.out.append(End(entry.id, entry.state, *entry.end))
        self.release(entry, now)

    def lose_part(
        self, entry: Entry, resources: Collection[ResourceId], message: str, now: float
    ) -> None:
        """Of what the action holds this is gone, and it runs elsewhere: it has to be killed there."""
        self._ledger.give_part(entry, resources, now)
        self.end(entry, State.FAILED, EndReason.LOST, message, now)

    def stop_waiting(self, entry: Entry, now: float) -> None:
        """Out of wherever it waits; a slot that it holds stays held."""
        self._waiting.remove(entry, now)
        self.stranded.pop(entry.id, None)
        if entry.seat is not None:
            entry.seat.line.pop(entry.id, None)
        self.deadlines.drop(entry.key[1:])
        self._waits.stop((entry,), now)

    def release(self, entry: Entry, now: float) -> None:
        """An ended action's units are free: others may have them, and its slot."""
        for resource in entry.amounts:
            self._waiting.touch(resource)
        self._ledger.give(entry, now)
        self._settle(entry, now)

    def _settle(self, entry: Entry, now: float) -> None:
        """Ended and holding nothing: only its explanation stays."""
        del self.actions[entry.id]
        self._ranking.settled(entry, now)
        if not entry.forgotten:
            _keep(self.ended, entry.id, entry)
        seat, entry.seat = entry.seat, None
        if seat is None:
            self._forget_orphan(entry)
            return
        del seat.actions[entry.id]
        seat.admitted.pop(entry.id, None)
        while seat.line and self._may_pass(seat, first := next(iter(seat.line.values()))):
            self._admit(first, seat, now)
        self._settle_seat(seat, now)

    def _forget_orphan(self, entry: Entry) -> None:
        if (name := entry.action.trajectory) is None or name not in self._orphans:
            return
        self._orphans[name].pop(entry.id, None)
        if not self._orphans[name]:
            del self._orphans[name]

    # Trajectories

    def end_seat(
        self, seat: Seat, state: State, reason: EndReason, message: str, now: float
    ) -> None:
        """Closed or lost: all its actions end so, those that come later too. What it reserves stays
        taken until its release is confirmed."""
        if seat.over is not None:
            return
        self._placement.remove(seat)
        seat.phase, seat.over = Phase.OVER, (state, reason, message)
        self._ranking.closed(seat, now)
        for entry in list(seat.actions.values()):
            self.end(entry, state, reason, message, now)
        self._settle_seat(seat, now)

    def lose_seat(self, seat: Seat, message: str, now: float) -> None:
        """Gone with its node: of what was there nothing is left to kill or to release. Its calls
        that run elsewhere are killed."""
        if seat.over is None:
            seat.phase, seat.over = Phase.OVER, (State.FAILED, EndReason.LOST, message)
            self._ranking.closed(seat, now)
        for entry in list(seat.actions.values()):
            if entry.token and entry.node != seat.node:
                self.end(entry, State.FAILED, EndReason.LOST, message, now)
            else:
                self.lose(entry, message, now)
        self.release_seat(seat, now)

    def release_seat(self, seat: Seat, now: float) -> None:
        """What it reserves is free."""
        self._pool.give(seat.token, reservation(seat), now)
        for resource in reservation(seat):
            self._waiting.touch(resource)
        seat.token = 0
        self._placement.touch()
        self._settle_seat(seat, now)

    def _settle_seat(self, seat: Seat, now: float) -> None:
        over = seat.over is not None and not seat.token and not seat.actions
        if over and self.seats.pop(seat.trajectory.id, None) is not None:
            self._ranking.released(seat, now)
            _keep(self.past_seats, seat.trajectory.id, seat)


T = TypeVar("T", Entry, Seat)


def _keep(kept: dict[str, T], name: str, what: T) -> None:
    kept[name] = what
    if len(kept) > ENDED_MAX:
        del kept[next(iter(kept))]
