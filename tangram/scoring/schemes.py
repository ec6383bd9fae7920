"""From the tests that passed to one number: the schemes, and the groups of difficulty. Pure.

Every scheme grows with what passes: one more test never lowers the value. On that rests `decided`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import InvalidRequest

EDGES = (0.75, 0.5, 0.25)
"""Pass rates that part four levels of difficulty."""


class Scheme(Protocol):
    """How passed tests make a value in 0..1."""

    def value(self, passed: AbstractSet[str], names: Sequence[str]) -> float:
        """Of the tests `names`, of which `passed` passed. Without tests it is 0."""

    def order(self, names: Sequence[str]) -> list[str]:
        """In which order running them decides soonest."""

    def named(self) -> tuple[str, ...]:
        """The tests that the scheme itself names; empty if it takes any."""

    @property
    def stops_early(self) -> bool:
        """Can a failure make all tests that have not run worthless?"""


@dataclass(frozen=True, slots=True)
class AllOrNothing:
    """1 if every test passed, else 0."""

    def value(self, passed: AbstractSet[str], names: Sequence[str]) -> float:
        return float(bool(names) and all(name in passed for name in names))

    def order(self, names: Sequence[str]) -> list[str]:
        return list(names)

    def named(self) -> tuple[str, ...]:
        return ()

    @property
    def stops_early(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Fraction:
    """The share of the tests that passed."""

    def value(self, passed: AbstractSet[str], names: Sequence[str]) -> float:
        return sum(name in passed for name in names) / len(names) if names else 0.0

    def order(self, names: Sequence[str]) -> list[str]:
        return list(names)

    def named(self) -> tuple[str, ...]:
        return ()

    @property
    def stops_early(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Tests in groups of rising difficulty, each worth a part of the score.

    The test-difficulty-driven reward of MiMo-7B (arXiv 2505.07608, "Test Difficulty Driven Reward",
    after the scoring of the IOI): tests are grouped by their pass rates over many rollouts. Rule
    `strict`: a group's part is given if all its tests and all those of easier groups passed. Rule
    `soft`: a group's part is shared equally by its tests, each of which counts for itself.

    The paper prints no parts for the groups: `weights` says them, one per group; without it they
    rise as 1, 2, 3... from the easiest. They are scaled so that all tests together make 1.
    """

    groups: tuple[tuple[str, ...], ...]
    """Names of tests, the easiest group first."""
    rule: Literal["strict", "soft"] = "strict"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        weights = tuple(self.weights) or tuple(map(float, range(1, len(self.groups) + 1)))
        object.__setattr__(self, "weights", weights)
        if self.rule not in ("strict", "soft"):
            raise InvalidRequest(f"rule must be strict or soft, not {self.rule!r}", field="rule")
        if not self.groups or not all(self.groups):
            raise InvalidRequest(
                "groups must be one or more groups of names of tests, none of them empty",
                field="groups",
            )
        named = self.named()
        if len(set(named)) < len(named):
            twice = next(name for name in named if named.count(name) > 1)
            raise InvalidRequest(f"test {twice!r} is in more than one group", field="groups")
        good = all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights)
        if len(weights) != len(self.groups) or not good:
            raise InvalidRequest(
                f"weights must be {len(self.groups)} numbers above 0, one per group, "
                f"not {list(weights)!r}",
                field="weights",
            )

    def value(self, passed: AbstractSet[str], names: Sequence[str]) -> float:
        earned = 0.0
        for group, weight in zip(self.groups, self.weights, strict=True):
            right = sum(name in passed for name in group)
            if self.rule == "soft":
                earned += weight * right / len(group)
            elif right == len(group):
                earned += weight
            else:
                break
        return min(1.0, earned / sum(self.weights))

    def order(self, names: Sequence[str]) -> list[str]:
        """The easiest first: with rule strict a failure there decides most."""
        level = {name: number for number, group in enumerate(self.groups) for name in group}
        return sorted(names, key=lambda name: level.get(name, len(self.groups)))

    def named(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)

    @property
    def stops_early(self) -> bool:
        return self.rule == "strict"


def scheme(given: Scheme | str) -> Scheme:
    """A scheme from its name (`all`, `fraction`), or itself. Raises InvalidRequest."""
    if given == "all":
        return AllOrNothing()
    if given == "fraction":
        return Fraction()
    if isinstance(given, AllOrNothing | Fraction | Difficulty):
        return given
    raise InvalidRequest(
        f"scheme must be 'all', 'fraction' or a Difficulty, not {given!r}", field="scheme"
    )


def check_names(chosen: Scheme, names: Sequence[str]) -> None:
    """Raises InvalidRequest if the scheme names other tests than there are."""
    named = chosen.named()
    if not named:
        return
    if unknown := sorted(set(named) - set(names)):
        raise InvalidRequest(f"groups name a test {unknown[0]!r} that is not there", field="groups")
    if left := sorted(set(names) - set(named)):
        raise InvalidRequest(f"test {left[0]!r} is in no group", field="groups")


def decided(
    chosen: Scheme, passed: AbstractSet[str], failed: AbstractSet[str], names: Sequence[str]
) -> bool:
    """Will the value be the same whatever the tests do that have not run?"""
    low = chosen.value(passed, names)
    return low == chosen.value({name for name in names if name not in failed}, names)


def pass_rates(outcomes: Iterable[Mapping[str, bool]]) -> dict[str, float]:
    """The share of rollouts in which each test passed: `{name: passed}` per rollout, as
    `SuiteScore.outcomes` gives it. A test that did not run in a rollout does not count there."""
    runs: dict[str, list[bool]] = {}
    for rollout in outcomes:
        for name, passed in rollout.items():
            runs.setdefault(name, []).append(passed)
    return {name: sum(passes) / len(passes) for name, passes in runs.items()}


def groups_by_pass_rate(
    rates: Mapping[str, float], edges: Sequence[float] = EDGES
) -> tuple[tuple[str, ...], ...]:
    """Groups for `Difficulty`, the easiest first: tests that pass at least as often as `edges[0]`,
    those between it and `edges[1]`, and so on. Groups without a test are left out.

    Raises InvalidRequest for a rate outside 0..1 (`rates[NAME]`) or edges that do not fall.
    """
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise InvalidRequest(
                f"rates[{name}] must be from 0 to 1, not {rate!r}", field=f"rates[{name}]"
            )
    if list(edges) != sorted(set(edges), reverse=True):
        raise InvalidRequest(f"edges must fall, as in {EDGES}, not {list(edges)}", field="edges")
    levels: list[list[str]] = [[] for _ in range(len(edges) + 1)]
    for name, rate in rates.items():
        levels[sum(rate < edge for edge in edges)].append(name)
    return tuple(tuple(level) for level in levels if level)
