"""One seed from its drawing to its verdict, and the smallest world in which it still fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random

from ...core import Scheduler
from ...decisions import Decision
from ...events import Event
from ...order import DEFAULT as FIRST_COME
from ...pool import ViewFactory
from .checkers import Rules, Violation
from .drawn import FAULTS_END_S, World, draw
from .host import HostileHost
from .mischief import unleash
from .nodes import join
from .restart import restore

CALLERS_MAX = 14
"""Trajectories of one run, at most."""

CALM_S = 2_000.0
"""Once faults have stopped, everything ends within this: far more than all actions of a run need
one after the other, at their least amounts."""

_RIGID = ("fcfs", "fixed", "unlimited")
"""Policies that choose no amounts and let nobody pass."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one seed did. `violation` is None if all promises were kept."""

    seed: int
    policy: str
    callers: tuple[int, ...]
    """Which of the drawn trajectories took part."""
    steps: int
    restarts: int
    faults: frozenset[str]
    """Those that happened."""
    violation: Exception | None
    told: tuple[tuple[float, Event, list[Decision]], ...]
    """The last events and what was decided on each."""

    @property
    def story(self) -> str:
        """The same for people, one a line."""
        return "\n".join(_told(*told) for told in self.told)


def run_seed(
    seed: int,
    views: Mapping[str, ViewFactory] | None = None,
    *,
    policy: str | None = None,
    callers: Collection[int] | None = None,
    overtaken_max: int | None = None,
    inside: bool = True,
) -> Verdict:
    """`views` as for `Scheduler`: with "quota" and "chunks" there are quotas with periods and GPUs.
    `policy` in place of the one that the seed draws, `callers` to take only some of the drawn
    trajectories; `overtaken_max` bounds overtaking; without `inside` the scheduler's own invariants
    are not looked at. Nothing is raised: see `Verdict.violation`."""
    views = views or {}
    world = draw(Random(seed), views, CALLERS_MAX, policy)
    taking_part = tuple(range(len(world.callers)) if callers is None else callers)
    world.callers = [world.callers[index] for index in taking_part]
    host = _host(seed, world, views, overtaken_max)
    host.inside = inside
    violation: Exception | None = None
    try:
        _live(host)
    except Exception as error:  # noqa: BLE001 - whatever the scheduler raises is a broken promise
        violation = error
    return Verdict(
        seed,
        world.policy,
        taking_part,
        host.steps,
        host.restarts,
        frozenset(host.faults),
        violation,
        tuple(host.story),
    )


def shrink(verdict: Verdict, run: Callable[[int, Collection[int]], Verdict]) -> Verdict:
    """Leave out trajectories one by one, as long as the same promise is broken. `run` repeats a
    seed with some of them."""
    smallest, rule = verdict, _rule(verdict.violation)
    for index in verdict.callers:
        fewer = [caller for caller in smallest.callers if caller != index]
        if fewer and _rule((tried := run(verdict.seed, fewer)).violation) == rule:
            smallest = tried
    return smallest


def _rule(violation: Exception | None) -> str:
    return violation.rule if isinstance(violation, Violation) else type(violation).__name__


def _host(
    seed: int,
    world: World,
    views: Mapping[str, ViewFactory],
    overtaken_max: int | None,
) -> HostileHost:
    name = world.policy.partition(":")[0]
    rules = Rules(
        in_order=name in _RIGID and world.order == FIRST_COME and not world.limits,
        overtaken_max=None if name == "backfill" else overtaken_max,
        reserves=name != "backfill",
        chooses=name not in (*_RIGID, "backfill"),
        limits=world.limits,
    )

    def anew(last_token: int) -> Scheduler:
        return Scheduler(
            views, world.policy, world.order, limits=world.limits, last_token=last_token
        )

    return HostileHost(world, rules, anew, Random(~seed))


def _live(host: HostileHost) -> None:
    """Faults for a while, then peace, in which everything has to come to its end."""
    for site in host.sites.values():
        host.after(host.random.choice((0.0, 0.0, 5.0)), partial(join, host, site))
    for progress in host.callers:
        host.after(progress.caller.start_s, partial(host.begin, progress))
    unleash(host)
    host.run_until(FAULTS_END_S)
    host.calm = True
    host.after(0.0, partial(restore, host))
    over = host.run_until(FAULTS_END_S + CALM_S)
    host.check_over(over)


def _told(at_s: float, event: Event, decisions: list[Decision]) -> str:
    lines = [f"{at_s:9.3f} {event}", *(f"{'':9} -> {decision}" for decision in decisions)]
    return "\n".join(lines)
