"""Other amounts for actions that run already: booked, asked for, confirmed.

Units that an action grows by are taken at once; those that it gives up are free when the node
confirms. Who should grow or shrink is the policy's to say, or a request's.
"""

from __future__ import annotations

from collections.abc import Mapping

from .decisions import Resize
from .ledger import Ledger
from .model import ResourceId, State
from .pool import Pool
from .records import Entry
from .waiting import Waiting


class Resizing:
    """Changes the amounts of grants. One change of an action at a time."""

    def __init__(self, pool: Pool, waiting: Waiting, ledger: Ledger) -> None:
        self._pool = pool
        self._waiting = waiting
        self._ledger = ledger

    def change(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> Resize | None:
        """None, and nothing changed, if the action does not run, is being resized or could not be
        before, or the amounts are infeasible for it, not free, or more than its task may hold."""
        if entry.state is not State.RUNNING or entry.change or entry.stiff:
            return None
        wanted = {r: amounts.get(r, n) for r, n in entry.amounts.items()}
        if wanted == entry.amounts:
            return None
        for resource, amount in amounts.items():
            growth = amount - entry.amounts.get(resource, amount)
            if not entry.allows(resource, amount) or growth > self._spare(entry, resource, now):
                return None
        grown = {r: max(n, wanted[r]) for r, n in entry.amounts.items()}
        if not all(self._pool.could_resize(entry.token, to, now) for to in (grown, wanted)):
            return None
        self._book(entry, grown, now)
        entry.change, entry.asked = self._pool.next_token(), wanted
        return Resize(entry.id, entry.node, entry.token, wanted, entry.change)

    def _spare(self, entry: Entry, resource: ResourceId, now: float) -> int:
        """By how much it may grow."""
        view = self._pool.views.get(resource)
        if view is None:
            return 0
        kept = self._waiting.reservations.kept(resource)
        allowed = self._waiting.limits.spare(entry.action.task, resource.kind)
        return max(0, min(view.operator(now).beside(kept).most, allowed))

    def confirm(
        self, entry: Entry, amounts: Mapping[ResourceId, int], change: int, now: float
    ) -> bool:
        """Books what the node says. False if it answers another change than the last, or cannot be
        true: more than there is."""
        if not entry.change or entry.change != change:
            return False
        held = {r: amounts.get(r, n) for r, n in entry.amounts.items()}
        entry.stiff = entry.stiff or held != entry.asked
        entry.change = 0
        if not self._pool.could_resize(entry.token, held, now):
            return False
        self._book(entry, held, now)
        key = entry.key_resource
        if entry.stretches is not None and key in held:
            entry.stretches.change(held[key], now)
        for resource in held:
            self._waiting.touch(resource)
        return True

    def _book(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> None:
        self._ledger.change(entry, amounts, now)
        for resource in amounts:
            self._waiting.hold_back_excess(entry.action.task, resource.kind, now)
