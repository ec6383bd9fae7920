"""The policy `elastic`: a price on units, waiting where it pays, running actions that change."""

from __future__ import annotations

from typing import Any

import pytest

from tangram.scheduler import (
    Amounts,
    Decision,
    Grant,
    Profile,
    Resize,
    Resized,
    Tick,
    WaitReason,
)
from tangram.scheduler.choices import Choices
from tangram.scheduler.elastic import cheapest

from .dialogue import CORES, Dialogue, granted, machine, only

WIDE = Amounts.between(1, 16)


def pool(cores: int = 16, trajectories: int = 12, policy: str = "elastic") -> Dialogue:
    talk = Dialogue(policy=policy)
    talk.join(capacities=machine(cores, 1000))
    talk.settle(*(f"t{index}" for index in range(trajectories)))
    return talk


def suite(talk: Dialogue, index: int, seconds: float, **fields: Any) -> list[Decision]:
    """A test suite that scales well, in a trajectory of its own."""
    profile = Profile(seconds, serial=0.03)
    return talk.exec(f"e{index}", f"t{index}", WIDE, profile=profile, **fields)


def units(decisions: list[Decision]) -> int:
    return only(decisions, Grant).amounts[CORES]


def answer(talk: Dialogue, resize: Resize) -> list[Decision]:
    return talk.tell(Resized(resize.action, resize.token, resize.amounts, resize.change))


def obey(talk: Dialogue, decided: list[Decision]) -> list[Decision]:
    """The same, and what is decided once their resizes are made."""
    decisions = list(decided)
    for decision in decisions:
        if isinstance(decision, Resize):
            decisions += answer(talk, decision)
    return decisions


def tick_until(talk: Dialogue, end: float) -> list[Decision]:
    """What is decided by the mere passing of time."""
    decisions: list[Decision] = []
    while (wake := talk.scheduler.next_wakeup(talk.now)) is not None and wake <= end:
        decisions += obey(talk, talk.tell(Tick(), at=wake))
    talk.now = max(talk.now, end)
    return decisions


def test_alone_on_an_idle_machine_an_action_gets_much() -> None:
    assert units(suite(pool(), 0, 6.0)) >= 12


def test_the_more_wait_behind_the_less_each_gets() -> None:
    talk = pool()
    talk.exec("all", "t11", 16)
    for index in range(10):
        suite(talk, index, 60.0)
    talk.now = 60.0  # nothing is kept any more for actions like the one that held all
    grants = [d for d in talk.finish("all") + tick_until(talk, 300.0) if isinstance(d, Grant)]
    amounts = [grant.amounts[CORES] for grant in grants]
    assert amounts[0] < 12 and sum(amounts[:2]) <= 16


def test_the_shortest_goes_first() -> None:
    talk = pool(cores=1)
    talk.exec("all", "t11", 1)
    for index, seconds in enumerate((30.0, 10.0, 20.0)):
        talk.exec(f"e{index}", f"t{index}", WIDE, profile=Profile(seconds, serial=0.03))
    order = granted(talk.finish("all"))
    while len(order) < 3:
        order += granted(talk.finish(order[-1]))
    assert order == ["e1", "e2", "e0"]


def test_who_waited_many_times_its_length_goes_before_shorter_ones() -> None:
    talk = pool(cores=1)
    talk.exec("all", "t11", 1)
    suite(talk, 0, 10.0)
    talk.now = 50.0
    suite(talk, 1, 5.0)
    assert granted(talk.finish("all")) == ["e0"]


def test_an_action_waits_for_units_that_come_soon_rather_than_start_starved() -> None:
    talk = pool()
    talk.exec("e0", "t0", Amounts.between(11, 12), profile=Profile(4.0, serial=0.03))
    talk.exec("others", "t11", talk.free() - 1)
    assert suite(talk, 1, 600.0) == []
    assert talk.reason("e1") is WaitReason.FOR_MORE
    talk.now = 0.4
    assert units(talk.finish("e0")) > 1


def test_it_starts_with_what_is_there_if_nothing_is_known_to_come() -> None:
    talk = pool()
    talk.exec("others", "t11", 15)
    assert units(suite(talk, 1, 600.0)) == 1


def test_without_waiting_it_starts_with_what_is_there() -> None:
    talk = pool(policy="elastic:waits=0")
    talk.exec("e0", "t0", Amounts.between(11, 12), profile=Profile(4.0, serial=0.03))
    talk.exec("others", "t11", talk.free() - 1)
    assert units(suite(talk, 1, 600.0)) == 1


def test_units_kept_for_settled_actions_that_stay_away_are_given_out_in_time() -> None:
    talk = pool()
    talk.exec("burst", "t11", 16)
    suite(talk, 0, 100.0)
    suite(talk, 1, 100.0)
    talk.now = 30.0
    talk.finish("burst")
    tick_until(talk, 120.0)
    assert talk.reason("e0") is None and talk.reason("e1") is None


def test_a_malleable_action_gives_back_when_others_wait_and_grows_again() -> None:
    talk = pool(cores=8)
    assert units(suite(talk, 0, 600.0, malleable=True)) == 8
    talk.start("e0")
    assert talk.exec("one", "t1") == [], "it changed a moment ago"
    shrunk = only(talk.tell(Tick(), at=1.0), Resize)
    assert shrunk.amounts[CORES] < 8
    assert granted(answer(talk, shrunk)) == ["one"]
    talk.now = 2.0
    decisions = talk.finish("one")
    for resize in [d for d in decisions if isinstance(d, Resize)]:
        answer(talk, resize)
    tick_until(talk, 120.0)
    assert talk.free() == 0, "all is used again, though nothing else happened"


def test_a_malleable_action_gives_way_to_a_shorter_one_that_keeps_what_it_gets() -> None:
    talk = pool(cores=8)
    suite(talk, 0, 600.0, malleable=True)
    talk.start("e0")
    talk.now = 1.0
    assert units(obey(talk, suite(talk, 1, 1.0))[1:]) > 1
    assert talk.free() == 0, "the other keeps the rest"
    for resize in talk.finish("e1"):
        assert isinstance(resize, Resize)
        answer(talk, resize)
    tick_until(talk, 10.0)
    assert talk.free() == 0, "and gets all again"


def test_a_malleable_action_that_ends_sooner_than_another_would_is_waited_for() -> None:
    talk = pool(cores=8)
    suite(talk, 0, 60.0, malleable=True)
    talk.start("e0")
    talk.now = 1.0
    suite(talk, 1, 600.0)
    tick_until(talk, 9.0)
    assert "e1" not in talk.tokens and talk.reason("e1") is WaitReason.CORES
    assert units(talk.finish("e0")) > 1


def test_two_malleable_actions_share_what_there_is() -> None:
    talk = pool(cores=8)
    suite(talk, 0, 600.0, malleable=True)
    talk.start("e0")
    talk.now = 1.0
    decisions = suite(talk, 1, 600.0, malleable=True)
    for resize in [d for d in decisions if isinstance(d, Resize)]:
        decisions += answer(talk, resize)
    decisions += tick_until(talk, 5.0)
    assert granted(decisions) == ["e1"]
    held = talk.scheduler.view(CORES)
    assert held.taken == 8


def test_running_actions_give_units_back_for_one_that_was_overtaken_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tangram.scheduler.waiting.OVERTAKE_YOUNGER_MAX", 2)
    talk = pool(cores=8)
    suite(talk, 0, 600.0, malleable=True)
    talk.start("e0")
    talk.now = 1.0
    many = Amounts.between(6, 8)
    talk.exec("e1", "t1", many, profile=Profile(9e3, serial=0.5))
    index = 1
    while not talk.scheduler.explain("e1", talk.now).reserved:
        index += 1
        obey(talk, talk.exec(f"e{index}", f"t{index}"))
        tick_until(talk, talk.now + 1.0)
        obey(talk, talk.finish(f"e{index}"))
    tick_until(talk, talk.now + 1.0)
    assert "e1" in talk.tokens, "the running one can do with a single core, for a while"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("load_max=1", "load_max is from 0 to below 1, not 1"),
        ("load_max=5", "load_max is from 0 to below 1"),
        ("load_max=nan", "load_max is from 0 to below 1"),
        ("keep=1e308", "keep is from 0 to 1e\\+06, not 1e308"),
        ("behind=-1", "behind is from 0 to"),
        ("idle=nan", "idle is from 0 to"),
        ("waits=7", "waits is 0 or 1, not 7"),
        ("shortest=0.5", "shortest is 0 or 1"),
        ("keep=much", "keep needs a number"),
        ("hope=1", "no weight 'hope'"),
    ],
)
def test_a_weight_out_of_its_range_is_refused(weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dialogue(policy=f"elastic:{weights}")


@pytest.mark.parametrize("weights", ["load_max=0.999999,expected=1e6,to_come=1e6", "keep=1e6"])
def test_weights_at_the_ends_of_their_ranges_work(weights: str) -> None:
    talk = pool(cores=2, policy=f"elastic:{weights}")
    suite(talk, 0, 600.0, malleable=True)
    suite(talk, 1, 600.0, malleable=True)
    suite(talk, 2, 600.0)
    talk.exec("settled", "t3")
    for end_s in (1.0, 60.0):
        tick_until(talk, end_s)
    assert talk.scheduler.view(CORES).taken > 0


@pytest.mark.parametrize("price", [0.0, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("near", [0, 3, 15, 40])
def test_the_cheapest_amount_is_found_from_wherever_one_looks(price: float, near: int) -> None:
    choices = Choices.of((m, 64 * (0.05 + 0.95 / m)) for m in range(1, 33))
    costs = [d * (1 + price * m) for m, d in zip(choices.units, choices.durations_s, strict=True)]
    assert cheapest(choices, price, near) == costs.index(min(costs))
