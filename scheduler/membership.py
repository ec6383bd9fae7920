"""Nodes that join, come back and go: what is lost with them, and the leases they still hold.

Adopt first, grant afterwards: when a node comes with leases, those are booked before anybody else
gets units of it. A node that joins anew without having left was lost in between, so whatever it
does not list is gone.
"""

from __future__ import annotations

from .decisions import Kill
from .events import NodeUp
from .ledger import Ledger
from .lifecycle import Lifecycle
from .model import CLUSTER, EndReason, LeaseRecord, State
from .placement import Placement
from .pool import Pool
from .records import Entry
from .waiting import Waiting


class Membership:
    """Applies NodeUp and NodeDown. Each method tells whether the event was stale."""

    def __init__(
        self,
        pool: Pool,
        waiting: Waiting,
        ledger: Ledger,
        placement: Placement,
        life: Lifecycle,
    ) -> None:
        self._pool = pool
        self._waiting = waiting
        self._ledger = ledger
        self._placement = placement
        self._life = life

    def join(self, event: NodeUp, now: float) -> bool:
        """Raises ValueError, before anything changes, if the node offers what it cannot."""
        known = self._pool.epoch(event.node)
        if known is not None and event.epoch <= known:
            return True
        self._pool.check_offer(event.node, event.capacities, now)
        if self._pool.is_up(event.node):
            kept = frozenset((lease.action.id, lease.token) for lease in event.leases)
            self._lose(event.node, kept, f"node {_named(event.node)} was restarted", now)
        self._pool.join(event.node, event.epoch, event.capacities, now)
        for lease in event.leases:
            self._adopt(lease, now)
        for capacity in event.capacities:
            self._waiting.touch(capacity.resource)
        self._review(event.node, now)
        return False

    def leave(self, node: str, epoch: int, now: float) -> bool:
        if not self._pool.is_up(node) or epoch != self._pool.epoch(node):
            return True
        self._lose(node, frozenset(), f"node {_named(node)} is gone", now)
        self._pool.leave(node)
        self._review(node, now)
        return False

    def _lose(self, node: str, kept: frozenset[tuple[str, int]], message: str, now: float) -> None:
        """Trajectories of the node without a kept lease, and grants that are not kept, are lost."""
        for seat in list(self._life.seats.values()):
            alive = any((entry.id, entry.token) in kept for entry in seat.actions.values())
            if node != CLUSTER and seat.node == node and not alive:
                self._life.lose_seat(seat, message, now)
        for entry in list(self._life.actions.values()):
            on_node = [resource for resource in entry.amounts if resource.node == node]
            runs_here = entry.token > 0 and entry.node == node
            if not (on_node or runs_here) or (entry.id, entry.token) in kept:
                continue
            if runs_here:
                self._life.lose(entry, message, now)
            else:
                self._life.lose_part(entry, on_node, message, now)

    def _adopt(self, lease: LeaseRecord, now: float) -> None:
        """Book a lease that a node holds. One whose action has its end already is killed."""
        self._pool.skip_token(lease.token)
        entry = self._life.recall(lease.action, now)
        if entry.token not in (0, lease.token):
            # The action was granted anew since: this lease is of the past.
            self._life.out.append(Kill(entry.id, lease.node, lease.token))
            return
        if not entry.token:
            self._life.hold(entry, lease.token, lease.node, now)
        entry.change = 0  # what was asked of the node before is lost, or seen in what it tells
        complete = self._book(entry, lease, now)
        if entry.state.ended:
            self._life.out.append(Kill(entry.id, lease.node, lease.token))
        elif not complete:
            message = f"its lease is for more than node {_named(lease.node)} has"
            self._life.end(entry, State.FAILED, EndReason.LOST, message, now)
        elif entry.seat is not None:
            self._life.settle_where(entry.seat, entry, now)

    def _book(self, entry: Entry, lease: LeaseRecord, now: float) -> bool:
        """Whether all of it fits; a part that fits is booked, so that nobody else gets it."""
        complete = True
        for resource, amount in lease.amounts.items():
            if resource not in self._pool.views:
                continue
            if not self._ledger.adopt(entry, resource, amount, now):
                complete = False
            self._waiting.hold_back_excess(entry.action.task, resource.kind, now)
        return complete

    def _review(self, node: str, now: float) -> None:
        """What the pool has changed: look again at everybody who waits for it. Rare, so it may
        look at all."""
        for entry in list(self._life.actions.values()):
            waits = entry.queued_at is not None or entry.limited_at is not None
            if not waits or not any(r.node == node for r in entry.needs):
                continue
            if self._hopeless(entry, node):
                self._life.strand(entry, now)
        self._waiting.drop_queues(self._pool.views)
        self._ledger.drop_gone()
        self._life.retry_stranded(now)
        self._placement.sort_out()
        for seat in list(self._life.seats.values()):
            self._life.advance(seat, now)

    def _hopeless(self, entry: Entry, node: str) -> bool:
        """A resource that it needs on this node is gone, or has become too small."""
        for resource, need in entry.needs.items():
            view = self._pool.views.get(resource)
            if resource.node == node and (view is None or need > view.largest()):
                return True
        return False


def _named(node: str) -> str:
    return node or "of the cluster's resources"
