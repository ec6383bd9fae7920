"""One template's sandboxes that nobody has yet, those who wait for one, and what is counted of them.

Bookkeeping alone: what is started and when is the pool's decision.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import BackingOff, TemporaryError
from ..sandbox.base import Sandbox
from ..sandbox.template import Template
from .backoff import Backoff
from .sizing import Demand


@dataclass(eq=False, slots=True)
class Started:
    """A neutral sandbox."""

    sandbox: Sandbox | None = None
    """None until its launcher has returned it."""
    lost: str = ""
    """Why it is of no use any more."""


@dataclass(eq=False, slots=True)
class Waiter:
    """A trajectory that no started sandbox was there for. `number` orders all of a node."""

    number: int
    given: asyncio.Future[Started]


@dataclass(eq=False, slots=True)
class Shelf:
    """Everything of one template. Oldest first in each."""

    template: Template
    demand: Demand = field(default_factory=Demand)
    backoff: Backoff = field(default_factory=Backoff)
    ready: deque[Started] = field(default_factory=deque)
    waiting: deque[Waiter] = field(default_factory=deque)
    starting: list[asyncio.Task[None]] = field(default_factory=list)
    target: int = 0

    @property
    def warm(self) -> int:
        """Sandboxes that are there, or will be, for nobody yet."""
        return max(0, len(self.ready) + len(self.starting) - len(self.waiting))

    @property
    def surplus(self) -> int:
        """Of those, more than wanted."""
        return max(0, self.warm - self.target)

    @property
    def unserved(self) -> int | None:
        """The number of the first waiter that no start under way is for; None if there is none."""
        if len(self.waiting) <= len(self.starting):
            return None
        return self.waiting[len(self.starting)].number

    @property
    def is_empty(self) -> bool:
        return not (self.ready or self.waiting or self.starting)

    def give(self, started: Started) -> None:
        """To who waits longest, else onto the shelf."""
        while self.waiting:
            given = self.waiting.popleft().given
            if not given.done():
                given.set_result(started)
                return
        self.ready.append(started)

    def take_surplus(self) -> Iterator[Started]:
        """Those of them that are ready, to be ended."""
        while self.ready and self.surplus:
            yield self.ready.popleft()

    def refuse_failing(self, now: float) -> None:
        """Raises BackingOff while starts fail and the next try is yet to come."""
        if left_s := self.backoff.left_s(now):
            image = self.template.spec.image
            what = f"image {image!r}" if image else "sandboxes without an image"
            raise BackingOff(f"{what}: {self.backoff.sentence(now)}", delay_s=left_s)

    def tell_failure(self, problem: Exception, now: float) -> None:
        """One failure is its trajectory's; when they come in a row, all that wait are told."""
        left_s = self.backoff.left_s(now)
        if isinstance(problem, TemporaryError):
            problem = TemporaryError(str(problem), delay_s=max(problem.delay_s, left_s))
        if left_s:
            self.fail_waiting(problem)
        elif self.waiting:
            given = self.waiting.popleft().given
            if not given.done():
                given.set_exception(problem)

    def fail_waiting(self, problem: Exception) -> None:
        """Nobody waits any more."""
        while self.waiting:
            given = self.waiting.popleft().given
            if not given.done():
                given.set_exception(problem)
