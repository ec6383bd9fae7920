"""The policy `elastic`: amounts by a price on units, shortest first, waiting where it pays."""

from __future__ import annotations

from dataclasses import dataclass

from .choices import Choices
from .records import Entry, Rank
from .situation import Plan, Situation


@dataclass(frozen=True, slots=True)
class Elastic:
    """Chooses the amount that costs least, its run time plus the price of the units it holds."""

    price: float = 1.0
    merged: bool = False

    def rank(self, entry: Entry) -> Rank:
        """Within a class of the order the shortest first."""
        assert entry.choices is not None
        return (entry.key[0], entry.choices.runs_s[0], entry.key[1], entry.id)

    def arrange(self, situation: Situation) -> Plan:
        free = situation.free
        crowd = len(situation.waiting) + len(situation.running)
        price = self.price * crowd / max(1, situation.view.total)
        starts: list[tuple[Entry, int]] = []
        waiting = [situation.due] if situation.due is not None else situation.waiting
        for entry in waiting:
            assert entry.choices is not None
            if entry.choices.units[0] > free:
                break
            wanted = self._cheapest(entry.choices, price)
            units = entry.choices.units[wanted]
            if units > free:
                break
            starts.append((entry, units))
            free -= units
        return Plan(starts)

    def _cheapest(self, choices: Choices, price: float) -> int:
        costs = [
            run_s * (1 + price * units)
            for units, run_s in zip(choices.units, choices.runs_s, strict=True)
        ]
        return costs.index(min(costs))
