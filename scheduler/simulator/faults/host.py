"""The hostile host: feeds a scheduler, has its decisions carried out (`nodes`), and brings back what
happened (`messages`), late, twice, in another order, or not at all.

It keeps the promises that a real host keeps: messages about one lease arrive in order (repeated
ones may come at any time), whoever breaks off comes back with a higher epoch, tokens are never used
again. Everything else may happen. All randomness is one generator, so a seed repeats a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

from ... import events as ev
from ...core import Scheduler
from ...decisions import Decision, Grant, Resize
from ..timeline import Timeline
from .checkers import Book, Rules, Violation
from .chunks import check_chunks
from .drawn import Caller, Work, World
from .messages import SOON_S, Messages
from .nodes import follow
from .site import Site

KILL_S = 6.0
"""A slow kill takes up to this."""

STEPS_MAX = 100_000
"""Happenings of one run. More than this is a host and a scheduler that keep each other busy."""

REASON_EVERY = 20
"""After so many events one of those that wait is asked why, and the scheduler's own invariants are
checked."""

UNFINISHED_SHOWN = 4

STORY = 60
"""The last events and their decisions, told with a failure."""

MakeScheduler: TypeAlias = Callable[[int], Scheduler]
"""A new scheduler; all its tokens are above the given one."""


@dataclass(slots=True)
class Progress:
    """How far a caller is."""

    caller: Caller
    next: int = 0
    under_way: int = 0
    closed: bool = False


class HostileHost:
    """One run. Raises Violation as soon as the scheduler breaks a promise."""

    def __init__(self, world: World, rules: Rules, make: MakeScheduler, random: Random) -> None:
        self.random = random
        self.offers = world.offers
        self.odds = world.odds
        self.now = 0.0
        self.book = Book(rules)
        self.sites = {name: Site(name, offer) for name, offer in world.offers.items()}
        self.callers = [Progress(caller) for caller in world.callers]
        self.scheduler = make(0)
        self.story: deque[tuple[float, ev.Event, list[Decision]]] = deque(maxlen=STORY)
        self.steps = 0
        self.restarts = 0
        self._asked = 0
        self.faults: set[str] = set()
        """Those that happened."""
        self.inside = True
        """Whether the scheduler's own invariants are checked too."""
        self.calm = False
        """No faults any more."""
        self.serving = True
        """The server runs; while it restarts, messages wait."""
        self.make = make
        self.works: dict[str, tuple[Progress, Work]] = {}
        """By action."""
        self.messages = Messages(self)
        self.deferred: list[ev.Event] = []
        """What came while the server was away."""
        self._timeline: Timeline[Callable[[], None]] = Timeline()

    # Time

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        self._timeline.add(self.now + delay_s, what)

    def run_until(self, end_s: float) -> bool:
        """Let everything happen that comes before `end_s`. Whether nothing is left to happen."""
        while True:
            wake = self.scheduler.next_wakeup(self.now) if self.serving else None
            next_s = self._timeline.next_s
            if wake is not None and (next_s is None or wake < next_s):
                if wake > end_s:
                    break
                self.now = max(self.now, wake)
                self.tell(ev.Tick())
            elif next_s is None:
                self.now = max(self.now, end_s)
                return True
            elif next_s > end_s:
                break
            else:
                self.now, what = self._timeline.pop()
                what()
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise Violation("progress", f"{self.steps} steps, and no end")
        self.now = max(self.now, end_s)
        return False

    def check_over(self, over: bool) -> None:
        """Raises Violation unless everything came to its end and nothing is held or awaited."""
        unfinished = self.book.unfinished()
        if unfinished or not over:
            told = "; ".join(self._state_of(name) for name in unfinished[:UNFINISHED_SHOWN])
            raise Violation("liveness", f"at {self.now} s not over: {told or 'it goes on'}")
        for resource in self.scheduler.resources():
            taken = self.scheduler.view(resource).taken
            if taken:
                raise Violation("leak", f"{taken} of {resource} are taken, and nobody holds them")
        if waiting := self.scheduler.waiting():
            raise Violation("leak", f"nobody waits, and yet {waiting}")
        if self.inside:
            self.scheduler.check_invariants()

    def _state_of(self, name: str) -> str:
        known = self.scheduler.knows(name)
        told = self.scheduler.explain(name, self.now).sentence if known else "unknown"
        return f"{self.book.jobs[name]}: {told}"

    def _ask_why(self) -> None:
        """Somebody who waits is told why."""
        self._asked += 1
        if self._asked % REASON_EVERY:
            return
        waiting = self.book.waiting()
        if waiting:
            name = waiting[self._asked % len(waiting)]
            explanation = self.scheduler.explain(name, self.now)
            if explanation.reason is None or not explanation.sentence:
                raise Violation("reason", f"{name} waits without one: {explanation}")
        if self.inside:
            self.scheduler.check_invariants()

    def uniform(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def chance(self, fault: str) -> bool:
        """Whether this fault happens now."""
        odds = self.odds[fault]
        happens = not self.calm and odds > 0 and self.random.random() < odds
        if happens:
            self.faults.add(fault)
        return happens

    # To the scheduler

    def send(self, lane: str, event: ev.Event, site: Site | None = None) -> None:
        """A message on its way to the server, lost if it is of a node that broke off. Those of one
        lane keep their order."""
        if site is not None and not site.up:
            return
        self.messages.to_server(lane, lambda: self.tell(event))

    def tell(self, event: ev.Event) -> None:
        """Hand an event over, check what is decided, and let it happen. While the server is away
        it waits."""
        if not self.serving:
            if not isinstance(event, ev.Tick):
                self.deferred.append(event)
            return
        decisions = self.scheduler.handle(event, self.now)
        self.story.append((self.now, event, decisions))
        ended = self.book.saw(event, decisions, self.now)
        if isinstance(event, ev.NodeUp) or any(isinstance(d, Grant | Resize) for d in decisions):
            check_chunks(self.scheduler, self.book)
        self._ask_why()
        for decision in decisions:
            follow(self, decision)
        for name in ended:
            self._go_on(name)

    # Callers

    def begin(self, progress: Progress) -> None:
        trajectory = progress.caller.trajectory
        if not self.serving:
            self.after(1.0, lambda: self.begin(progress))
            return
        if trajectory is not None:
            self.tell(ev.TrajectoryOpened(trajectory))
        for _ in range(progress.caller.width):
            self._foresee(progress)

    def _foresee(self, progress: Progress) -> None:
        works = progress.caller.works
        if progress.next < len(works):
            work = works[progress.next]
            progress.next += 1
            progress.under_way += 1
            self.after(work.gap_s, lambda: self.submit(progress, work))
        elif not progress.under_way:
            self.after(self.random.uniform(0, 1), lambda: self.close(progress))

    def submit(self, progress: Progress, work: Work) -> None:
        if not self.serving:
            self.after(1.0, lambda: self.submit(progress, work))
            return
        if self.chance("deadline"):
            deadline = self.now + self.random.expovariate(0.3)
            work = replace(work, action=replace(work.action, deadline=deadline))
        self.works[work.action.id] = (progress, work)
        if not self.knows(progress.caller):
            # Its trajectory ended before the server was restarted.
            progress.under_way -= 1
            self._foresee(progress)
            return
        self.tell(ev.Submitted(work.action))

    def knows(self, caller: Caller) -> bool:
        """The caller's trajectory is known to the scheduler that runs now, or it needs none."""
        return caller.trajectory is None or caller.trajectory.id in self.book.homes

    def _go_on(self, action: str) -> None:
        progress, _ = self.works[action]
        progress.under_way -= 1
        self._foresee(progress)

    def close(self, progress: Progress) -> None:
        """No more actions of this trajectory; its sandbox goes."""
        trajectory = progress.caller.trajectory
        if trajectory is None or progress.closed:
            return
        if not self.serving:
            self.after(1.0, lambda: self.close(progress))
            return
        progress.closed = True
        name = trajectory.id
        self.tell(ev.TrajectoryClosed(name))
        home = self.book.homes.get(name)
        if home is not None and home.token and home.node is not None:
            site, token = self.sites[home.node], home.token
            self.after(self.kill_s(), lambda: self._remove_sandbox(site, name, token))

    def _remove_sandbox(self, site: Site, name: str, token: int) -> None:
        if site.sandboxes.get(name) == token:
            del site.sandboxes[name]
        self.send(name, ev.TrajectoryReleased(name, token))

    def kill_s(self) -> float:
        return self.random.uniform(0, KILL_S if self.chance("slow_kill") else SOON_S)
