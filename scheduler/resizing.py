"""Other amounts for actions that run already: booked, asked for, confirmed.

Units that an action grows by are taken at once; those that it gives up are free when the node
confirms. Who should grow or shrink is the policy's to say, or a request's.
"""

from __future__ import annotations

from collections.abc import Mapping

from .decisions import Resize
from .matching import Matching
from .model import ResourceId, State
from .pool import Pool
from .records import Entry


class Resizing:
    """Changes the amounts of grants. One change of an action at a time."""

    def __init__(self, pool: Pool, matching: Matching) -> None:
        self._pool = pool
        self._matching = matching

    def change(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> Resize | None:
        """None, and nothing changed, if the action does not run, is being resized, or the amounts
        are infeasible for it or not free."""
        if entry.state is not State.RUNNING or entry.resizing:
            return None
        wanted = {r: amounts.get(r, n) for r, n in entry.amounts.items()}
        if wanted == entry.amounts:
            return None
        for resource, amount in amounts.items():
            free = self._pool.free(resource, now) - self._matching.kept(resource)
            growth = amount - entry.amounts.get(resource, amount)
            if not entry.allows(resource, amount) or growth > max(0, free):
                return None
        grown = {r: max(n, wanted[r]) for r, n in entry.amounts.items()}
        self._book(entry, grown, now)
        entry.resizing = True
        return Resize(entry.id, entry.node, entry.token, wanted)

    def confirm(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> bool:
        """Books what the node says. False if that cannot be true: more than there is."""
        held = {r: amounts.get(r, n) for r, n in entry.amounts.items()}
        entry.resizing = False
        if any(n - entry.amounts[r] > self._pool.free(r, now) for r, n in held.items()):
            return False
        self._book(entry, held, now)
        for resource in held:
            self._matching.touch(resource)
        return True

    def _book(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> None:
        key = entry.key_resource()
        running = self._matching.running.get(key) if key is not None else None
        if running is not None:
            running.advance(entry, now)
        self._pool.resize(entry.token, amounts, now)
        entry.amounts = amounts
        if running is not None:
            running.resume(entry)
