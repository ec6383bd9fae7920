"""Matching waiting actions to free units: one pass per touched queue.

A pass goes through a queue in order: an action that fits on all its resources is granted; one that
is short of this queue's resource stays and blocks those behind it; one that fits here but is short
of another resource moves to that queue, and blocks nobody here. What is free after that, the
policy's arranger shares among the actions whose amount it chooses. So a pass looks only at what it
grants or moves, at one blocked head, and at the choosers.

What the next grant depends on (units, limits, reservations) is booked with each one; all else, when
the pass is over. What keeps an action from its units is for `shortages` to say; who stands where, and
what keeps anybody from being overtaken for ever, is `waiting`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import merge
from operator import attrgetter

from .decisions import Decision, Grant
from .ledger import Ledger
from .model import ResourceId, State, WaitReason
from .policy import Policy
from .pool import Pool
from .queue import Queue
from .records import FIRST, Entry, Waits
from .running import Running
from .shortages import Short, Shortages
from .situation import Situation
from .waiting import Waiting

WAKE_MIN_S = 0.001
"""A view that names a change at or before now is asked again after this, never in a busy loop."""


class Matching:
    """The passes over the queues."""

    def __init__(
        self, pool: Pool, waits: Waits, waiting: Waiting, ledger: Ledger, policy: Policy
    ) -> None:
        self.resizes: list[tuple[Entry, Mapping[ResourceId, int]]] = []
        """Other amounts that the policy wishes for running actions: taken out by `core`."""
        self._pool = pool
        self._waits = waits
        self._waiting = waiting
        self._ledger = ledger
        self._policy = policy
        self._shortages = Shortages(pool, waiting)
        self._granted: list[Entry] = []
        """In this pass, and not yet told to those that no grant of the pass depends on."""

    def run(self, now: float) -> list[Decision]:
        """One pass over each queue that was touched since, or whose time has come."""
        for resource in self._waiting.wakes.due(now):
            self._waiting.touch(resource)
        decisions: list[Decision] = []
        while (queue := self._waiting.next_touched(now)) is not None:
            self._waiting.promote_oldest(queue, decisions)
            self._pass(queue, now, decisions)
            self._waiting.promote_overdue()
        return decisions

    # Passes

    def _pass(self, queue: Queue, now: float, decisions: list[Decision]) -> None:
        arranger = self._policy.arranger
        again_s = math.inf
        why: WaitReason | None
        blocked = False
        queue.promote(now)
        if arranger is not None and not arranger.merged:
            blocked, again_s = self._serve_due(queue, now, decisions)
        if blocked:
            why, fitting = WaitReason.RESERVED, 0
        elif arranger is not None and arranger.merged:
            why, fitting = self._serve_prefix(queue, now, decisions)
        else:
            why = self._serve(queue, now, decisions)
            if why is None and arranger is not None:
                blocked, again_s = self._serve_due(queue, now, decisions)
            fitting = 0 if why is not None or blocked else len(queue.elastic.items)
        if fitting or (not blocked and self._may_move(queue)):
            again_s = self._arrange(queue, fitting, now, decisions)
        self._tell_of_granted(now)
        self._waiting.tell(queue, queue.rigid, why or WaitReason.BEHIND, now)
        self._waiting.tell(queue, queue.elastic, self._shortages.why_choosing(queue, now), now)
        self._set_alarm(queue, again_s, now)

    def _may_move(self, queue: Queue) -> bool:
        """Whether a running action's amount may be chosen anew."""
        arranger = self._policy.arranger
        running = self._ledger.running.get(queue.resource)
        return bool(arranger and not arranger.merged and running and running.malleable)

    def _serve_due(self, queue: Queue, now: float, decisions: list[Decision]) -> tuple[bool, float]:
        """Those that choose and were overtaken often enough, before everybody else. Whether one of
        them still waits, which keeps all others waiting; and when to ask the policy again."""
        while (due := queue.due()) is not None:
            again_s = self._arrange(queue, 1, now, decisions)
            if due.queued_at == queue.resource:
                return True, again_s
        return False, math.inf

    def _serve(self, queue: Queue, now: float, decisions: list[Decision]) -> WaitReason | None:
        """Grant or move on those whose amount is settled, in order. Why the first that is left
        waits; None if none is left."""
        line = queue.rigid
        kept: list[Entry] = []
        gone: list[Entry] = []
        why: WaitReason | None = None
        for entry in line.items:
            short = self._shortages.of(entry, queue.resource, now)
            if short is not None and short[0] == queue.resource:
                why = why or short[1]
                if not self._policy.overtakes or not self._pool.free(queue.resource, now):
                    break
                kept.append(entry)
            else:
                gone.append(entry)
                self._waiting.leave(entry, line)
                self._send_on(entry, queue, short, now, decisions)
        line.items[: len(gone) + len(kept)] = kept
        queue.ages.remove(*gone)
        return why

    def _serve_prefix(
        self, queue: Queue, now: float, decisions: list[Decision]
    ) -> tuple[WaitReason | None, int]:
        """Alike, in one order with those that choose, which count with their least amounts. Why
        the first left of the settled waits, and how many of those that choose fit."""
        resource = queue.resource
        served: list[Entry] = []
        moved: list[tuple[Entry, Short]] = []
        budget = self._shortages.spare(queue, 0, None, now)
        why: WaitReason | None = None
        fitting = 0
        for entry in merge(queue.rigid.items, queue.elastic.items, key=attrgetter("key")):
            short = self._shortages.of(entry, resource, now)
            # What is kept for a reserved one is not in the budget.
            needs = [] if entry.reserved else [entry.needs[resource]]
            # Only what is kept for those before it counts for who is FIRST: `short` says it all.
            goes_first = entry.key[0] == FIRST and not fitting
            fits = budget.longest_prefix(needs) == len(needs)
            stays = not (fits or goes_first) if short is None else short[0] == resource
            if stays:
                need = entry.needs[resource]
                why = short[1] if short else self._pool.views[resource].why_short(need, now)
                break
            if not entry.chooses(resource):
                served.append(entry)
                self._waiting.leave(entry, queue.rigid)
                self._send_on(entry, queue, short, now, decisions)
                if goes_first:
                    budget = self._shortages.spare(queue, 0, None, now)
                elif short is None:
                    budget = budget.less(needs)
            elif short is not None:
                moved.append((entry, short))
            else:
                fitting += 1
                if fits:
                    budget = budget.less(needs)
        queue.let_go(queue.rigid, served)
        for entry, short in moved:
            self._waiting.leave(entry, queue.elastic)
            self._send_on(entry, queue, short, now, decisions)
        queue.let_go(queue.elastic, [entry for entry, _ in moved])
        return why, fitting

    def _arrange(self, queue: Queue, fitting: int, now: float, decisions: list[Decision]) -> float:
        """Let the policy share what is free among those that choose. When to ask it again."""
        assert self._policy.arranger is not None
        self._tell_of_granted(now)
        resource = queue.resource
        due = None if self._policy.arranger.merged else queue.due()
        running = self._ledger.running.get(resource) or Running(resource)
        view = self._pool.views[resource]
        spare = self._shortages.spare(queue, fitting, due, now)
        waiting, load = queue.elastic.items, self._ledger.loads[resource]
        plan = self._policy.arranger.arrange(
            Situation(now, resource, view, spare, waiting, fitting, due, running, load)
        )
        self._start(queue, plan.starts, now, decisions)
        self.resizes.extend((entry, {resource: units}) for entry, units in plan.resizes)
        return plan.again_s

    def _start(
        self,
        queue: Queue,
        starts: Sequence[tuple[Entry, int]],
        now: float,
        decisions: list[Decision],
    ) -> None:
        """With so many units each, or as many of them as its task may still hold."""
        resource, waiting, limited = queue.resource, self._waiting, self._waiting.limits.any
        gone: list[Entry] = []
        for entry, units in starts:
            if entry.queued_at != resource:
                continue  # one before it took what its task may hold
            alone = len(entry.needs) == 1
            short = None if alone else self._shortages.elsewhere(entry, resource, now)
            waiting.leave(entry, queue.elastic)
            gone.append(entry)
            if short is not None:
                waiting.send_on(entry, short[0], now, decisions)
                # What it leaves may serve somebody else.
                waiting.touch(resource)
                continue
            if limited:
                units = self._allowed(entry, resource, units)
            amounts = {resource: units} if alone else {**entry.needs, resource: units}
            self._grant(entry, queue, amounts, now, decisions)
            if limited:
                waiting.hold_back_excess(entry.action.task, resource.kind, now)
        queue.let_go(queue.elastic, gone)

    def _allowed(self, entry: Entry, resource: ResourceId, units: int) -> int:
        """As many of these units as its task may still hold."""
        allowed = self._waiting.limits.spare(entry.action.task, resource.kind)
        if units <= allowed:
            return units
        assert entry.choices is not None
        self._waiting.touch(resource)
        return entry.choices.units[entry.choices.at_most(allowed) or 0]

    def _send_on(
        self,
        entry: Entry,
        queue: Queue,
        short: Short | None,
        now: float,
        decisions: list[Decision],
    ) -> None:
        """An action that nothing in this queue keeps: granted, or to where it has to wait."""
        if short is not None:
            self._waiting.send_on(entry, short[0], now, decisions)
        elif entry.choices is not None and (door := self._waiting.door(entry)) != queue.resource:
            self._waiting.park(entry, door, now)
        else:
            self._grant(entry, queue, entry.needs, now, decisions)

    # Granting

    def _grant(
        self,
        entry: Entry,
        queue: Queue,
        amounts: Mapping[ResourceId, int],
        now: float,
        decisions: list[Decision],
    ) -> None:
        """It stood in this queue last, and in none any more."""
        token = entry.token = self._pool.next_token()
        if self._waiting.limits.any:
            self._waiting.limits.unclaim(entry)
        self._ledger.take(entry, amounts, now)
        decisions.append(Grant(entry.id, entry.node, token, amounts))
        self._waiting.granted(entry, queue.resource, decisions)
        self._granted.append(entry)

    def _tell_of_granted(self, now: float) -> None:
        """To the histories of waits, the predictions and the order: all at once, since no grant of
        the same pass depends on them."""
        granted, self._granted = self._granted, []
        preparing = State.PREPARING
        for entry in granted:
            entry.state = preparing
        self._waits.stop(granted, now)
        self._ledger.took(granted, now)

    # After a pass

    def _set_alarm(self, queue: Queue, again_s: float, now: float) -> None:
        change: float | None = None
        if queue.rigid.items or queue.elastic.items:
            change = self._pool.views[queue.resource].next_change(now)
        time = again_s if change is None else min(change, again_s)
        if time < math.inf:
            self._waiting.wakes.set(queue.resource, max(time, now + WAKE_MIN_S))
        else:
            self._waiting.wakes.drop(queue.resource)
