"""What a policy is shown of one resource at one moment, and what it answers.

The contract between `matching`, which owns the queues, and the policies, which choose amounts.
Data alone; a policy keeps no state of its own between two passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .load import Load
from .model import ResourceId
from .operators import Operator
from .records import Entry, Rank
from .resource import ResourceView
from .running import Running


@dataclass(frozen=True, slots=True)
class Situation:
    """One resource, now. Times in seconds on the host's clock."""

    now: float
    resource: ResourceId
    view: ResourceView
    operator: Operator
    """What may be given away now: reservations are taken off. It says which amounts fit together."""
    waiting: Sequence[Entry]
    """Those whose amount is to be chosen, in the order of their rank."""
    fitting: int
    """How many of the first may start. For a policy that is `merged`, as many as fit together at
    their least amounts; else all that wait, or 0 while somebody goes before them all."""
    due: Entry | None
    """The first of those waiting, if it was overtaken so often that it must be served before all
    others, when enough is free for it; nobody else may start before it does."""
    running: Running
    """Granted actions whose end can be predicted."""
    load: Load
    """What its queue has learned."""

    @property
    def free(self) -> int:
        """All units that may be given away. One grant may get `operator.most` of them at most."""
        return self.operator.free_units


@dataclass(frozen=True, slots=True)
class Plan:
    """Who starts now with how many units, in this order; and when to ask again although nothing
    happened (s on the host's clock), infinite if there is no need to."""

    starts: Sequence[tuple[Entry, int]] = ()
    again_s: float = math.inf
    resizes: Sequence[tuple[Entry, int]] = field(default=())
    """Running actions that should have other amounts."""


class Arranger(Protocol):
    """Chooses the amounts of the actions that have a choice."""

    @property
    def merged(self) -> bool:
        """Whether those with a choice and those without are served in one order. If not, those
        without come first."""
        ...

    def rank(self, entry: Entry) -> Rank:
        """Its place among those with a choice. Changes only with the action's key;
        begins with its tier, so that the order of service stands above the policy's."""
        ...

    def patience_s(self, entry: Entry) -> float:
        """After so long a wait it comes before all that did not wait so long for their kind."""
        ...

    def arrange(self, situation: Situation) -> Plan: ...
