"""Nothing starves: whoever waits is overtaken a bounded number of times at its cost.

Actions that need two resources at once stand against those that need one of them, under every order
and policy that promises it. A younger grant is at the cost of an older action if it leaves less free
than that one needs. The policy `backfill` is exempt: to let others pass whoever does not fit is what
it is there for, as a baseline.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.scheduler import (
    CLUSTER,
    Action,
    Amounts,
    Capacity,
    Decision,
    Demand,
    Event,
    Grant,
    LeaseReleased,
    NodeUp,
    Place,
    Profile,
    ResourceId,
    Scheduler,
    Submitted,
    Tick,
    Trajectory,
    TrajectoryClosed,
    TrajectoryReleased,
    WaitReason,
)
from tangram.scheduler.placement import PASSED_MAX
from tangram.scheduler.queue import Ages
from tangram.scheduler.records import Seat
from tangram.scheduler.waiting import OVERTAKE_MAX, OVERTAKE_YOUNGER_MAX

from .dialogue import Dialogue

UNITS = 4
FEW, SOME = 3, 5
"""Overtakings allowed here in place of OVERTAKE_MAX and OVERTAKE_YOUNGER_MAX, so that short
histories reach them."""

BOUND = (FEW + 2) * (SOME + UNITS + 1)
"""The stated bound: a stay in a queue ends after SOME that came later and what one pass grants
besides; an action is sent on to another queue FEW times, and overtaken FEW times at its head."""

LEFT, RIGHT = ResourceId("quota:left"), ResourceId("quota:right")
ORDERS = ("first-come", "priority:ageing=20", "fair-share", "group:ageing=20")
POLICIES = ("fcfs", "fixed:4", "arl-tangram", "elastic")


@dataclass(frozen=True)
class Ask:
    """An action to submit."""

    left: int
    right: int
    more: int
    priority: int
    task: str
    duration_s: float

    def action(self, name: str) -> Action:
        least = {"quota:left": self.left, "quota:right": self.right}
        kinds = [kind for kind, n in least.items() if n]
        most = {
            kind: n if kind != kinds[0] else min(UNITS, n + self.more) for kind, n in least.items()
        }
        demand = {kind: Amounts.between(least[kind], most[kind]) for kind in kinds}
        profile = Profile(self.duration_s, serial=0.1)
        return Action(
            name,
            self.task,
            Demand(cluster=demand, key=kinds[0]),
            kind="call",
            priority=self.priority,
            profile=profile,
        )


asks = st.builds(
    Ask,
    st.integers(0, UNITS),
    st.integers(0, UNITS),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["red", "blue"]),
    st.sampled_from([0.1, 1.0, 30.0]),
).filter(lambda ask: ask.left or ask.right)
steps = st.lists(st.one_of(asks, st.integers(0, 7)), max_size=150)
"""An action to submit, or which of the running ones to release (modulo how many there are)."""


def test_the_real_bounds_are_the_documented_ones() -> None:
    assert (OVERTAKE_MAX, OVERTAKE_YOUNGER_MAX, PASSED_MAX) == (64, 4_096, 4_096)


class Race:
    """A scheduler of two quotas, and who was overtaken how often."""

    def __init__(self, **options: Any) -> None:
        self.scheduler = Scheduler(**options)
        self.now = 0.0
        self.waiting: dict[str, Action] = {}
        self.running: dict[str, int] = {}
        self.suffered: Counter[str] = Counter()
        offered = (Capacity(LEFT, UNITS), Capacity(RIGHT, UNITS))
        self.tell(NodeUp(CLUSTER, 1, offered))

    def submit(self, action: Action) -> None:
        self.waiting[action.id] = action
        self.tell(Submitted(action))

    def release(self, index: int) -> None:
        name = list(self.running)[index % len(self.running)]
        self.tell(LeaseReleased(name, self.running.pop(name)))

    def go_on(self) -> None:
        """Somebody ends; if nobody runs, time passes until the policy wants to be asked."""
        if self.running:
            self.release(0)
            return
        wakeup = self.scheduler.next_wakeup(self.now)
        assert wakeup is not None, "nothing runs any more, and somebody waits"
        self.now = wakeup
        self.tell(Tick())

    def tell(self, event: Event) -> list[Decision]:
        self.now += 1.0
        decisions = self.scheduler.handle(event, self.now)
        self.scheduler.check_invariants()
        grants = [decision for decision in decisions if isinstance(decision, Grant)]
        for grant in grants:
            del self.waiting[grant.action]
            self.running[grant.action] = grant.token
        free = {r.kind: self.scheduler.view(r).free(self.now) for r in self.scheduler.resources()}
        for name, action in self.waiting.items():
            least = {kind: a.minimum for kind, a in action.demand.cluster.items()}
            for grant in grants:
                if name < grant.action:
                    self.suffered[name] += any(
                        free[resource.kind] < least.get(resource.kind, 0)
                        for resource in grant.amounts
                    )
        return decisions


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(history=steps)
def test_nobody_is_overtaken_at_its_cost_more_often_than_allowed(
    policy: str, order: str, history: list[Ask | int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tangram.scheduler.waiting.OVERTAKE_MAX", FEW)
        patch.setattr("tangram.scheduler.waiting.OVERTAKE_YOUNGER_MAX", SOME)
        race = Race(policy=policy, order=order)
        for number, step in enumerate(history):
            if isinstance(step, Ask):
                race.submit(step.action(f"a{number:03}"))
            elif race.running:
                race.release(step)
        assert max(race.suffered.values(), default=0) <= BOUND, race.suffered
        while race.waiting:
            race.go_on()


@pytest.mark.parametrize("policy", POLICIES)
def test_an_endless_stream_of_better_ones_holds_the_oldest_up_so_often_and_no_more(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangram.scheduler.waiting.OVERTAKE_YOUNGER_MAX", SOME)
    race = Race(policy=policy)
    better = Ask(UNITS, 0, 0, priority=1, task="red", duration_s=1.0)
    race.submit(better.action("a000"))
    race.submit(Ask(UNITS, 0, 0, priority=0, task="red", duration_s=1.0).action("a001"))
    served = 0
    while "a001" in race.waiting:
        race.submit(better.action(f"a{served + 2:03}"))
        race.release(0)
        served += 1
        assert served < 100
    assert served == SOME + 2, "one more than allowed, and then itself"


def test_an_endless_stream_of_shorter_ones_holds_the_longest_up_so_often_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tangram.scheduler.waiting.OVERTAKE_YOUNGER_MAX", SOME)
    race = Race(policy="elastic")
    short = Ask(2, 0, 2, priority=0, task="red", duration_s=1.0)
    race.submit(Ask(UNITS, 0, 0, 0, "red", 1.0).action("a000"))
    race.submit(Ask(3, 0, 1, 0, "red", 1e3).action("a001"))
    served = 0
    while "a001" in race.waiting:
        race.submit(short.action(f"a{served + 2:03}"))
        race.go_on()
        served += 1
        assert served < 100
    assert SOME < race.suffered["a001"] <= SOME + UNITS


def test_those_that_came_before_are_no_overtaking() -> None:
    ages: Ages[Seat] = Ages()
    seats = [Seat(Trajectory(f"t{i}", "task"), (0.0, i, f"t{i}")) for i in range(6)]
    for seat in seats[:4]:
        ages.add(seat)
    for seat in seats[:2]:
        ages.remove(seat)
    assert ages.overdue(0) is None, "two left before it, and both had come before it"
    for seat in seats[4:]:
        ages.add(seat)
        ages.remove(seat)
    assert (ages.overdue(1), ages.overdue(2)) == (seats[2], None)
    ages.remove(seats[2])
    assert (ages.overdue(1), ages.overdue(2)) == (seats[3], None)


def test_one_whose_amount_is_chosen_is_served_though_its_units_are_reserved_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its reservation keeps all of the resource whose amount is then chosen for it."""
    monkeypatch.setattr("tangram.scheduler.waiting.OVERTAKE_MAX", FEW)
    race = Race(policy="elastic")
    race.submit(Ask(0, UNITS, 0, 0, "red", 1.0).action("a000"))
    race.submit(Ask(3, UNITS, 1, 0, "red", 1.0).action("a001"))
    number = 2
    while not race.scheduler.explain("a001", race.now).reserved:
        race.submit(Ask(UNITS, 0, 0, 0, "red", 1.0).action(f"a{number:03}"))
        race.release(list(race.running).index(f"a{number:03}"))
        number += 1
    race.submit(Ask(1, 0, 0, 0, "red", 1.0).action(f"a{number:03}"))
    assert "a001" in race.waiting
    race.release(list(race.running).index("a000"))
    while race.waiting:
        race.go_on()


def test_a_trajectory_is_passed_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangram.scheduler.placement.PASSED_MAX", SOME)
    talk = Dialogue()
    talk.join()
    talk.open("t0", memory=100)
    talk.open("patient", memory=100)
    passed = 0
    while "patient" not in talk.tokens:
        talk.open(f"t{passed + 1}", memory=100, priority=1)
        name = f"t{passed}"
        placed = talk.tell(TrajectoryClosed(name), TrajectoryReleased(name, talk.tokens[name]))
        passed += 1
        assert [type(decision) for decision in placed] == [Place] and passed < 100
    assert passed == SOME + 2


def test_within_its_task_too_one_is_passed_so_often_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tangram.scheduler.waiting.OVERTAKE_YOUNGER_MAX", SOME)
    talk = Dialogue(limits={"task": {"quota:search": 1}})
    talk.join_quota(9)
    talk.call("a0")
    talk.call("patient")
    assert talk.reason("patient") is WaitReason.TASK_LIMIT
    passed = 0
    while "patient" not in talk.tokens:
        talk.call(f"a{passed + 1}", priority=1)
        talk.finish(f"a{passed}")
        passed += 1
        assert passed < 100
    assert passed == SOME + 2
