"""The hostile host: carries decisions out as nodes would, and brings back what happened, late,
twice, in another order, or not at all.

It keeps the promises that a real host keeps: messages about one lease arrive in order (repeated
ones may come at any time), whoever breaks off comes back with a higher epoch, tokens are never used
again. Everything else may happen. All randomness is one generator, so a seed repeats a run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

from ... import events as ev
from ...core import Scheduler
from ...decisions import Decision, Grant, Kill, Place, Resize
from ...model import CLUSTER, EndReason, LeaseRecord, ResourceId
from .checkers import Book, Rules, Violation
from .chunks import check_chunks
from .drawn import Walk, Work, World
from .site import Site, SiteLease

LATE_S = 8.0
"""A late message is late by up to this."""

SOON_S = 0.2
"""A message that is not late comes within this."""

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
    """How far a walk is."""

    walk: Walk
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
        self.walks = [Progress(walk) for walk in world.walks]
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
        self._make = make
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0
        self._lanes: dict[str, float] = {}
        """When the last message about an action or trajectory arrives: later ones come after."""
        self._works: dict[str, tuple[Progress, Work]] = {}
        self._deferred: list[ev.Event] = []

    # Time

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._planned, what))

    def run_until(self, end_s: float) -> bool:
        """Let everything happen that comes before `end_s`. Whether nothing is left to happen."""
        while True:
            wake = self.scheduler.next_wakeup(self.now) if self.serving else None
            next_s = self._heap[0][0] if self._heap else None
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
                self.now, _, what = heapq.heappop(self._heap)
                what()
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise Violation("progress", f"{self.steps} steps, and no end")
        self.now = max(self.now, end_s)
        return False

    def restore(self) -> None:
        """Peace: every node has again what it had at first."""
        if not self.serving:
            self.after(1.0, self.restore)
            return
        for site in self.sites.values():
            if site.capacities != self.offers[site.name]:
                site.capacities = self.offers[site.name]
                if site.up:
                    site.break_off()
                    self.join(site)

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
        delay_s = self.random.uniform(0, SOON_S)
        if self.chance("late"):
            delay_s = self.random.uniform(0, LATE_S)
        at_s = self._lanes[lane] = max(self.now + delay_s, self._lanes.get(lane, 0.0))
        self.after(at_s - self.now, lambda: self.tell(event))
        if self.chance("duplicated"):
            again_s = at_s - self.now + self.random.uniform(0, LATE_S)
            self.after(again_s, lambda: self.tell(event))

    def tell(self, event: ev.Event) -> None:
        """Hand an event over, check what is decided, and let it happen. While the server is away
        it waits."""
        if not self.serving:
            if not isinstance(event, ev.Tick):
                self._deferred.append(event)
            return
        decisions = self.scheduler.handle(event, self.now)
        self.story.append((self.now, event, decisions))
        ended = self.book.saw(event, decisions, self.now)
        if isinstance(event, ev.NodeUp) or any(isinstance(d, Grant | Resize) for d in decisions):
            check_chunks(self.scheduler, self.book)
        self._ask_why()
        for decision in decisions:
            self._follow(decision)
        for name in ended:
            self._go_on(name)

    # Walks

    def begin(self, progress: Progress) -> None:
        trajectory = progress.walk.trajectory
        if not self.serving:
            self.after(1.0, lambda: self.begin(progress))
            return
        if trajectory is not None:
            self.tell(ev.TrajectoryOpened(trajectory))
        for _ in range(progress.walk.width):
            self._foresee(progress)

    def _foresee(self, progress: Progress) -> None:
        works = progress.walk.works
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
        self._works[work.action.id] = (progress, work)
        if not self.knows(progress.walk):
            # Its trajectory ended before the server was restarted.
            progress.under_way -= 1
            self._foresee(progress)
            return
        self.tell(ev.Submitted(work.action))

    def knows(self, walk: Walk) -> bool:
        """The walk's trajectory is known to the scheduler that runs now, or it needs none."""
        return walk.trajectory is None or walk.trajectory.id in self.book.homes

    def _go_on(self, action: str) -> None:
        progress, _ = self._works[action]
        progress.under_way -= 1
        self._foresee(progress)

    def close(self, progress: Progress) -> None:
        """No more actions of this trajectory; its sandbox goes."""
        trajectory = progress.walk.trajectory
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

    # What was decided

    def _follow(self, decision: Decision) -> None:
        match decision:
            case Grant(action, node):
                self._command(node, action, lambda site: self._grant(site, decision))
            case Place(trajectory, node, token):
                self._command(node, trajectory, lambda site: self._place(site, trajectory, token))
            case Kill(action, node, token):
                self._command(node, action, lambda site: self._kill(site, action, token))
            case Resize(action, node):
                self._command(node, action, lambda site: self._resize(site, decision))
            case _:
                pass

    def _command(self, node: str, lane: str, what: Callable[[Site], None]) -> None:
        """On its way to a node; lost if the node breaks off before."""
        site = self.sites[node]
        epoch = site.epoch

        def arrive() -> None:
            if site.up and site.epoch == epoch:
                what(site)

        lane = f"to {lane}"
        delay_s = self.random.uniform(0, LATE_S if self.chance("late") else SOON_S)
        at_s = self._lanes[lane] = max(self.now + delay_s, self._lanes.get(lane, 0.0))
        self.after(at_s - self.now, arrive)

    def _place(self, site: Site, name: str, token: int) -> None:
        site.sandboxes[name] = token
        if self.chance("sandbox_fails"):
            del site.sandboxes[name]
            reason = EndReason.SANDBOX_FAILED
            self.send(name, ev.SandboxLost(name, token, reason, "it could not be started"), site)
            self.send(name, ev.TrajectoryReleased(name, token), site)
        else:
            self.send(name, ev.SandboxReady(name, token), site)

    def _grant(self, site: Site, grant: Grant) -> None:
        _, work = self._works[grant.action]
        lease = SiteLease(work.action, grant.token, grant.amounts, self.now)
        site.take(lease)
        if self.chance("action_fails"):
            self._finish(site, lease, failed=True)
            return
        self.send(grant.action, ev.Started(grant.action, grant.token), site)
        self.after(self._run_s(work, grant.amounts), lambda: self._finish(site, lease))

    def _run_s(self, work: Work, amounts: Mapping[ResourceId, int]) -> float:
        key = work.action.demand.key
        units = next((n for r, n in amounts.items() if r.kind == key), 1)
        run_s = work.run_s / units
        timeout_s = work.action.timeout_s
        return run_s if timeout_s is None else min(run_s, timeout_s)

    def _finish(self, site: Site, lease: SiteLease, failed: bool = False) -> None:
        if lease.over or lease.token not in site.leases:
            return
        lease.over = True
        run_s = None if failed else self.now - lease.started_s
        name = lease.action.id
        self.send(name, ev.ActionEnded(name, lease.token, failed, run_s), site)
        self.after(self.kill_s(), lambda: self._release(site, lease))

    def _kill(self, site: Site, name: str, token: int) -> None:
        lease = site.leases.get(token)
        if lease is None:
            # Whoever asks to kill what is gone wants to know that it is gone.
            self.send(name, ev.LeaseReleased(name, token), site)
        elif not lease.killed:
            lease.over = lease.killed = True
            self.after(self.kill_s(), lambda: self._release(site, lease))

    def _release(self, site: Site, lease: SiteLease) -> None:
        if site.leases.pop(lease.token, None) is not None:
            self.send(lease.action.id, ev.LeaseReleased(lease.action.id, lease.token), site)

    def _resize(self, site: Site, resize: Resize) -> None:
        lease = site.leases.get(resize.token)
        if lease is None:
            return
        if not lease.over and not self.chance("resize_refused"):
            site.resize(lease, resize.amounts)
        name = resize.action
        self.send(name, ev.Resized(name, resize.token, dict(lease.amounts), resize.change), site)

    # Nodes

    def join(self, site: Site, lost: Container[int] = ()) -> None:
        """It is there (again) and tells what it holds, without the leases that are `lost`."""
        if not self.serving:
            self.after(1.0, lambda: self.join(site))
            return
        if site.up:
            return
        site.epoch += 1
        site.up, site.told_epoch = True, site.epoch
        records = [record for record in self._records(site) if record.token not in lost]
        for token in [token for token in site.leases if token in lost]:
            del site.leases[token]
        self.tell(ev.NodeUp(site.name, site.epoch, site.capacities, tuple(records)))

    def _records(self, site: Site) -> list[LeaseRecord]:
        """What a node holds. The cluster's own resources are also taken by leases of nodes."""
        records = list(site.records())
        for other in self.sites.values() if site.name == CLUSTER else ():
            if other is not site and other.up:
                held = (r for r in other.records() if any(not k.node for k in r.amounts))
                records.extend(held)
        return records

    def tokens(self, site: Site) -> list[int]:
        """Of all leases that the node would tell of."""
        return [record.token for record in self._records(site)]

    def leave(self, site: Site) -> None:
        """The server notices that it broke off, unless it is back by then."""
        if not site.up and site.told_epoch is not None and self.serving:
            epoch, site.told_epoch = site.told_epoch, None
            self.tell(ev.NodeDown(site.name, epoch))

    def restart(self) -> None:
        """The server stops. Nodes go on; what was on its way to them is lost."""
        self.serving = False
        self.restarts += 1
        back = [site for site in self.sites.values() if site.up]
        for site in self.sites.values():
            site.break_off()
            site.told_epoch = None
        self.after(self.random.uniform(0, 4), lambda: self._start_again(back))

    def _start_again(self, back: list[Site]) -> None:
        """A restarted server tells first of the nodes, with the leases that they hold, then of the
        trajectories that are open, those that hold leases first, then of the actions that have no
        end."""
        homes = [home.trajectory for home in self.book.homes.values() if not home.over]
        self.scheduler = self._make(self.book.last_token)
        self.book.restarted()
        self.serving = True
        for site in back:
            self.join(site)
        jobs = self.book.jobs
        holding = {
            job.action.trajectory
            for job in jobs.values()
            if job.lease is not None and job.lease.node != CLUSTER
        }
        for trajectory in sorted(homes, key=lambda trajectory: trajectory.id not in holding):
            self.tell(ev.TrajectoryOpened(trajectory))
        for name, job in list(jobs.items()):
            if job.end is not None and job.lease is not None:
                self.tell(ev.CancelRequested(name))
            elif job.end is None and job.lease is None:
                self.tell(ev.Submitted(job.action))
        deferred, self._deferred = self._deferred, []
        for event in deferred:
            self.tell(event)
