"""What one scheduling pass costs, against how many wait and how many units are free.

The scheduler itself, in this process: all units are held by one action while the others queue up,
and the event that frees them is timed. No server, no sandboxes.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

from tangram.scheduler import (
    Action,
    ActionEnded,
    Amounts,
    Capacity,
    Decision,
    Demand,
    Event,
    Grant,
    LeaseReleased,
    NodeUp,
    Profile,
    ResourceId,
    Scheduler,
    Started,
    Submitted,
    Trajectory,
    TrajectoryOpened,
)
from tangram.scheduler.arrange import tabulate
from tangram.scheduler.choices import choices_of
from tangram.scheduler.operators import LinearUnits

from . import growth
from .measure import Picture, Row, Spread, Table

POLICY = "elastic"
"""The one whose growth is measured; the published one stands beside it at the size to reach."""

SIZES = ((1_000, 1_280), (10_000, 160), (10_000, 1_280))
"""Waiting actions and free cores."""

TARGET = (10_000, 1_280)
CROWD = (100_000, 1_280)
"""Measured once: to queue up takes far longer than the pass."""

WAITING = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
FREE = (160, 320, 640, 1_280, 2_560, 5_120, 10_240)
"""Of the picture: with TARGET's free cores, and with TARGET's waiting actions."""

PICTURE_RUNS = 3
"""At most, of which the median is drawn: to queue up a crowd takes far longer than its pass."""

RANGE = Amounts.between(1, 32)
SET = Amounts.among([1, 2, 4, 8])
CANDIDATES = 1_280
"""Of a table of best amounts: as many as ever fit on as many cores."""

NODE = "node0"
CORES = ResourceId("cores", NODE)


async def measure(runs: int) -> Table:
    found: dict[str, list[float]] = {}

    def note(what: str, took_ms: float) -> None:
        found.setdefault(what, []).append(took_ms)

    for run in range(runs):
        for waiting, free in SIZES:
            what = f"{waiting:,} waiting, {free:,} free, all with a choice"
            note(what, pass_ms(run, waiting, free))
        note("a quarter of 10,000 with a choice", pass_ms(run, *TARGET, choosing_share=0.25))
        note("all with a choice, policy `arl-tangram`", pass_ms(run, *TARGET, policy="arl-tangram"))
        note(f"table of best amounts, {CANDIDATES:,} candidates, 1-32", table_ms(run, RANGE))
        note("the same, amounts 1, 2, 4, 8", table_ms(run, SET))
    note(f"{CROWD[0]:,} waiting, all with a choice, one run", pass_ms(0, *CROWD))
    reach = {f"{TARGET[0]:,} waiting, {TARGET[1]:,} free, all with a choice": "<= 10 ms"}
    return Table(
        "One scheduling pass",
        f"Policy `{POLICY}`, one node, {TARGET[1]:,} cores; T lognormal(64 s, 1.0), 1-32 cores with "
        f"s 0.03; processor time of the event that frees all cores, grants included, the garbage of "
        f"what came before collected; {runs} runs, median (min - max). The picture: medians of "
        f"{min(runs, PICTURE_RUNS)}.",
        tuple(
            Row(what, Spread(tuple(times)).text("ms", 1), reach.get(what, ""))
            for what, times in found.items()
        ),
        _picture(min(runs, PICTURE_RUNS)),
    )


def _picture(runs: int) -> Picture:
    """How the cost grows, with who waits and with what is free."""

    def median_ms(waiting: int, free: int) -> float:
        return Spread(tuple(pass_ms(run, waiting, free) for run in range(runs))).median

    curves = (
        growth.Curve(
            f"waiting actions, {TARGET[1]:,} cores free",
            tuple((waiting, median_ms(waiting, TARGET[1])) for waiting in WAITING),
        ),
        growth.Curve(
            f"free cores, {TARGET[0]:,} actions waiting",
            tuple((free, median_ms(TARGET[0], free)) for free in FREE),
        ),
    )
    title = "One scheduling pass, against its size"
    return Picture("pass-cost.svg", title, growth.draw(curves, title))


def pass_ms(
    seed: int, waiting: int, free: int, *, choosing_share: float = 1.0, policy: str = POLICY
) -> float:
    """Milliseconds of the one pass that finds `waiting` actions and `free` cores."""
    scheduler, event = crowd(seed, waiting, free, choosing_share=choosing_share, policy=policy)
    decisions: list[Decision] = []
    took_ms = _timed_ms(lambda: decisions.extend(_handle(scheduler, event)))
    granted = [d.amounts[CORES] for d in decisions if isinstance(d, Grant)]
    assert 0 < sum(granted) <= free, "the pass did not do what it was timed for"
    return took_ms


def crowd(
    seed: int, waiting: int, free: int, *, choosing_share: float = 1.0, policy: str = POLICY
) -> tuple[Scheduler, Event]:
    """A scheduler where so many wait, and the event that frees so many cores at once."""
    chance = random.Random(seed)
    scheduler = Scheduler(policy=policy)
    owner = Trajectory("t", "bench", concurrency=waiting + 1, sandboxed=False)
    _handle(scheduler, NodeUp(NODE, 1, (Capacity(CORES, free),)))
    _handle(scheduler, TrajectoryOpened(owner))
    (grant,) = _handle(scheduler, Submitted(_action("blocker", Amounts.exactly(free), None)))
    assert isinstance(grant, Grant)
    token = grant.token
    _handle(scheduler, Started("blocker", token))
    for index in range(waiting):
        choosing = chance.random() < choosing_share
        amounts = RANGE if choosing else Amounts.exactly(1)
        seconds = chance.lognormvariate(4.16, 1.0) if choosing else None
        _handle(scheduler, Submitted(_action(f"a{index}", amounts, seconds)))
    _handle(scheduler, ActionEnded("blocker", token))
    return scheduler, LeaseReleased("blocker", token)


def table_ms(seed: int, amounts: Amounts) -> float:
    """Milliseconds for the best amounts of the longest prefix."""
    chance = random.Random(seed)
    candidates = []
    for index in range(CANDIDATES):
        action = _action(f"a{index}", amounts, chance.lognormvariate(4.16, 1.0))
        choices = choices_of(action, action.profile, amounts.maximum)
        assert choices is not None
        candidates.append(choices)
    return _timed_ms(lambda: tabulate(candidates, LinearUnits(CANDIDATES)).amounts(CANDIDATES))


def _action(name: str, cores: Amounts, seconds: float | None) -> Action:
    profile = Profile() if seconds is None else Profile(seconds, serial=0.03)
    return Action(name, "bench", Demand({"cores": cores}, key="cores"), "t", profile=profile)


def _handle(scheduler: Scheduler, event: Event) -> list[Decision]:
    return scheduler.handle(event, 0.0)


def _timed_ms(call: Callable[[], object]) -> float:
    """Processor time: nothing here waits, and others may share the machine. What came before left
    garbage, whose collection is not this call's cost."""
    gc.collect()
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1000
