"""A pass costs as much as what it grants and whom it asks, near linearly: counted in steps of the
interpreter, so that no clock and no other program matters."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from tangram.scheduler.decisions import Grant

from ..bench.pass_cost import crowd

WAITING, FREE, TIMES = 200, 100, 4
FEW = 25
"""Free cores for which so many wait that a price of one core each is all that anybody pays."""
RATIO_MAX = 5.0
"""For TIMES as many: logarithms and rounding have room, a square would be 16."""


def steps(waiting: int, free: int, policy: str) -> int:
    """Of the pass that finds so many waiting and so many cores free."""
    scheduler, event = crowd(0, waiting, free, policy=policy)
    count = 0

    def trace(frame: FrameType, what: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += what == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        decisions = scheduler.handle(event, 0.0)
    finally:
        sys.settrace(before)
    assert any(isinstance(decision, Grant) for decision in decisions)
    return count


@pytest.mark.parametrize("policy", ["elastic", "fcfs", "backfill:2"])
def test_a_pass_over_four_times_as_much_takes_about_four_times_the_steps(policy: str) -> None:
    once = steps(WAITING, FREE, policy)
    assert steps(TIMES * WAITING, FREE, policy) < RATIO_MAX * once
    assert steps(WAITING, TIMES * FREE, policy) < RATIO_MAX * once
    assert steps(TIMES * WAITING, TIMES * FREE, policy) < RATIO_MAX * once


def test_who_waits_and_is_not_served_costs_next_to_nothing() -> None:
    # All who start get one core either way: 20 or 40 wait for each that is free.
    assert steps(20 * FEW, FEW, "elastic") == steps(40 * FEW, FEW, "elastic")
