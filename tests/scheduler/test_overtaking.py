"""Nothing starves: whoever is the oldest is overtaken a bounded number of times at its cost.

Calls that need two quotas at once stand against calls that need one of them. A younger grant is at
the cost of an older action if it leaves less free than that one needs.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.scheduler import (
    CLUSTER,
    Action,
    Amounts,
    Capacity,
    Demand,
    Grant,
    LeaseReleased,
    NodeUp,
    ResourceId,
    Scheduler,
    Submitted,
)
from tangram.scheduler.core import OVERTAKE_MAX

LIMIT = 4
FEW = 3
"""Overtakings allowed here in place of OVERTAKE_MAX, so that short histories reach them."""

LEFT, RIGHT = ResourceId("quota:left"), ResourceId("quota:right")

needs = st.fixed_dictionaries(
    {}, optional={"quota:left": st.integers(1, LIMIT), "quota:right": st.integers(1, LIMIT)}
).filter(bool)
steps = st.lists(st.one_of(needs, st.integers(0, 7)), max_size=150)
"""A demand to submit, or which of the running ones to release (modulo how many there are)."""


def test_the_real_bound_is_the_documented_one() -> None:
    assert OVERTAKE_MAX == 64


@settings(max_examples=200, deadline=None, derandomize=True)
@given(history=steps)
def test_the_oldest_is_overtaken_at_its_cost_no_more_often_than_allowed(
    history: list[dict[str, int] | int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tangram.scheduler.waiting.OVERTAKE_MAX", FEW)
        scheduler = Scheduler()
        scheduler.handle(NodeUp(CLUSTER, 1, (Capacity(LEFT, LIMIT), Capacity(RIGHT, LIMIT))), 0.0)
        waiting: dict[str, dict[str, int]] = {}
        running: dict[str, int] = {}
        suffered: Counter[str] = Counter()
        for number, step in enumerate(history):
            if isinstance(step, dict):
                name = f"a{number:03}"
                waiting[name] = step
                demand = Demand(cluster={kind: Amounts.exactly(n) for kind, n in step.items()})
                decisions = scheduler.handle(Submitted(Action(name, "task", demand)), 0.0)
            elif running:
                name = list(running)[step % len(running)]
                decisions = scheduler.handle(LeaseReleased(name, running.pop(name)), 0.0)
            else:
                continue
            scheduler.check_invariants()
            free = {
                resource.kind: scheduler.view(resource).free(0.0)
                for resource in scheduler.resources()
            }
            grants = [decision for decision in decisions if isinstance(decision, Grant)]
            for grant in grants:
                del waiting[grant.action]
                running[grant.action] = grant.token
            oldest = next(iter(waiting), None)
            for grant in grants:
                if oldest is not None and oldest < grant.action:
                    wanted = waiting[oldest]
                    suffered[oldest] += any(
                        free[resource.kind] < wanted.get(resource.kind, 0)
                        for resource in grant.amounts
                    )
        assert max(suffered.values(), default=0) <= FEW + 1, suffered
