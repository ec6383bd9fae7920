"""How long an action ran with which amount, and what the scheduler learns of it."""

from __future__ import annotations

import pytest

from tangram.scheduler import Action, Amounts, Demand, Profile, ResourceId
from tangram.scheduler.events import ActionEnded, Resized, ResizeRequested, Started, Submitted
from tangram.scheduler.stretches import Stretches

from .dialogue import Dialogue

CORES = ResourceId("cores", "node0")


def test_times_with_the_same_amount_add_up() -> None:
    stretches = Stretches(1, 10.0)
    stretches.change(1, 11.0)
    assert stretches.constant
    stretches.change(4, 12.0)
    stretches.change(1, 15.0)
    assert not stretches.constant
    assert stretches.until(16.0) == {1: 3.0, 4: 3.0}


def test_what_a_resized_action_teaches_is_its_work_with_one_unit(node: Dialogue) -> None:
    """12 s of work: 4 s with one core, then 2 s with four; the units that it grows by count from
    the node's word on, not from the decision."""
    node.settle("t")
    demand = Demand({"cores": Amounts.between(1, 4)}, key="cores")
    known = Profile(serial=0.0)
    action = Action("a", "task", demand, "t", signature="make", profile=known, malleable=True)
    node.tell(Submitted(action))
    token = node.tokens["a"]
    node.tell(Started("a", token))
    assert "1 core" in node.scheduler.explain("a", node.now).sentence
    node.tell(ResizeRequested("a", {CORES: 4}), at=3.0)
    node.tell(Resized("a", token, {CORES: 4}, node.changes["a"]), at=4.0)
    node.tell(ActionEnded("a", token, run_s=6.0), at=6.0)
    assert node.scheduler.profiler.predict(action).p50_s == pytest.approx(12.0)
