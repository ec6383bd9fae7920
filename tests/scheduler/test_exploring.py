"""Trying other amounts: when, how many units, and what it is good for."""

from __future__ import annotations

import pytest

from tangram.scheduler import Action, Amounts, Demand, Profile, ResourceId
from tangram.scheduler.events import ActionEnded, LeaseReleased, Started, Submitted
from tangram.scheduler.exploring import EVERY, explored
from tangram.scheduler.pattern import Prediction, Source
from tangram.scheduler.simulator.cluster import parse_nodes
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.workloads import generate

from .dialogue import Dialogue, machine

CORES = ResourceId("cores", "node0")
SUITE = Amounts.between(1, 32)


def suite(name: str = "a", cores: Amounts = SUITE, **fields: object) -> Action:
    demand = Demand({"cores": cores}, key="cores")
    return Action(name, "task", demand, "t", signature="pytest", **fields)  # type: ignore[arg-type]


def after(turn: int, source: Source = Source.LEARNED, serial: float | None = None) -> Prediction:
    return Prediction(Profile(2.0, serial=serial), source, turn=turn)


def test_at_most_a_quarter_of_the_free_units_is_spent() -> None:
    assert explored(suite(), after(2 * EVERY), free=64, largest=64) == 16
    assert explored(suite(), after(2 * EVERY), free=7, largest=64) is None
    assert explored(suite(), after(2 * EVERY), free=1000, largest=64) == 32
    assert explored(suite(), after(2 * EVERY), free=1000, largest=20) == 20
    sets = Amounts.among({1, 2, 8, 32})
    assert explored(suite(cores=sets), after(2 * EVERY), free=64, largest=64) == 8


def test_the_amounts_tried_are_far_and_near_in_turns() -> None:
    tried = [explored(suite(), after(turn * EVERY), free=64, largest=64) for turn in range(1, 5)]
    assert tried == [4, 16, 4, 16]


@pytest.mark.parametrize(
    "prediction",
    [after(1), after(0, Source.TASK), after(0, Source.NOTHING), after(EVERY, serial=0.1)],
    ids=["not its turn", "others of its task", "nothing", "known"],
)
def test_most_actions_explore_nothing(prediction: Prediction) -> None:
    assert explored(suite(), prediction, free=64, largest=64) is None


def run_through(talk: Dialogue, *actions: Action, run_s: float = 1.0) -> list[int]:
    """One after the other; the cores that each was granted."""
    cores = []
    for action in actions:
        talk.tell(Submitted(action))
        token = talk.tokens[action.id]
        before = talk.free()
        talk.tell(Started(action.id, token), ActionEnded(action.id, token, run_s=run_s))
        talk.tell(LeaseReleased(action.id, token))
        cores.append(talk.free() - before)
    return cores


def idle(cores: int = 64, **options: object) -> Dialogue:
    talk = Dialogue(**options)
    talk.join(capacities=machine(cores))
    talk.settle("t")
    return talk


def test_now_and_then_an_action_of_which_nothing_is_known_gets_another_amount() -> None:
    granted = run_through(idle(), *(suite(f"a{number}") for number in range(7)))
    assert granted[: EVERY + 1] == [1] * EVERY + [4]
    assert set(granted) == {1, 4, 16}
    assert granted.count(1) > EVERY


def test_nobody_explores_while_somebody_waits() -> None:
    talk = idle()
    run_through(talk, *(suite(f"a{number}") for number in range(EVERY)))
    talk.settle("u", "v")
    talk.exec("wide", "u", 60)
    talk.exec("waits", "v", 60)
    talk.tell(Submitted(suite("next")))
    assert talk.reason("waits") is not None
    talk.finish("wide", "waits")
    assert run_through(talk) == []
    assert talk.scheduler.explain("next", talk.now).sentence.endswith("with 1 core")


def test_an_action_whose_elasticity_or_amount_is_given_explores_nothing() -> None:
    known = [suite(f"a{n}", profile=Profile(None, serial=1.0)) for n in range(7)]
    assert run_through(idle(), *known) == [1] * 7
    fixed = [suite(f"a{n}", cores=Amounts.exactly(2)) for n in range(7)]
    assert run_through(idle(), *fixed) == [2] * 7


@pytest.mark.parametrize("policy", ["fcfs", "arl-tangram", "fixed:2"])
def test_the_baselines_explore_nothing(policy: str) -> None:
    granted = run_through(idle(policy=policy), *(suite(f"a{number}") for number in range(7)))
    assert len(set(granted)) == 1


def test_an_elastic_workload_that_nobody_profiled_comes_near_one_with_profiles() -> None:
    """Near once it is learned, by the second half of 1,500 actions; while it is learned it costs as
    much as with one core each, since nothing else is known."""
    trace = generate("open:load=0.3,cores=64", 1500, 1)
    late = {t.id for t in sorted(trace, key=lambda t: t.start_s)[len(trace) // 2 :]}
    acts = {}
    for name, policy, profiled in (
        ("given", "elastic", True),
        ("learned", "elastic", False),
        ("one core", "fcfs", False),
    ):
        runs = simulate(trace, parse_nodes("64"), policy, profiled=profiled).actions
        of_late = [run.act_s for run in runs if run.trajectory in late]
        acts[name] = sum(of_late) / len(of_late)
    assert acts["learned"] < 1.1 * acts["given"]
    assert acts["learned"] < 0.3 * acts["one core"]
