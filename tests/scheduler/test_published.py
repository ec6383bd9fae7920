"""The published algorithm: its objective by brute force, its errata one by one, cases by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.gpu.chunks import ChunkPool
from tangram.scheduler import published
from tangram.scheduler.arrange import tabulate
from tangram.scheduler.choices import Choices
from tangram.scheduler.model import Profile
from tangram.scheduler.operators import ChunkCounts, LinearUnits, Operator
from tangram.scheduler.published import End, arrange_published, estimate_s

from . import printed
from .brute import any_choices, chunk_counts, feasible, least_total_s, linear_units

EIGHTHS = st.integers(0, 800).map(lambda eighths: eighths / 8)


def scaling(seconds: float, *units: int) -> Choices:
    """Elastic without loss: twice the units, half the time."""
    return Choices.of((m, seconds / m) for m in units)


def fixed(seconds: float, units: int = 1) -> Choices:
    return Choices((units,), (seconds,))


def arranged(
    candidates: Sequence[Choices],
    operator: Operator,
    rest: Sequence[Choices] = (),
    running: Sequence[End] = (),
    depth: int = 2,
    others: Sequence[int] = (),
) -> list[tuple[int, int]]:
    return arrange_published(candidates, rest, running, operator, 100.0, depth, others)


# The objective


def simulated_s(
    ends: Sequence[End], spare: int, rest: Sequence[Choices], picks: Sequence[int], op: Operator
) -> float:
    """Ends of the rest after 0.0, by walking through all ends in the order of time."""
    pending, left, total, clock = sorted(ends), spare, 0.0, 0.0
    for choices, pick in zip(rest, picks, strict=True):
        needed = op.occupied(choices.units[pick])
        while left < needed and pending:
            clock, freed = pending.pop(0)
            left += freed
        left = max(0, left - needed)
        total += clock + choices.durations_s[pick]
        pending = sorted([*pending, (clock + choices.durations_s[pick], needed)])
    return total


@settings(max_examples=200, deadline=None)
@given(
    st.lists(any_choices(EIGHTHS), min_size=1, max_size=4),
    st.lists(any_choices(EIGHTHS), max_size=3),
    st.lists(st.tuples(EIGHTHS, st.integers(1, 4)), max_size=3),
    linear_units | chunk_counts,
    st.integers(1, 3),
)
def test_it_evicts_from_the_end_for_as_long_as_that_lowers_the_objective(
    candidates: list[Choices],
    rest: list[Choices],
    running: list[End],
    operator: Operator,
    depth: int,
) -> None:
    table = tabulate(candidates, operator)

    def objective_s(count: int) -> float:
        amounts = table.amounts(count)
        started = [
            (choices.duration_s(amount), operator.occupied(amount))
            for choices, amount in zip(candidates, amounts, strict=False)
        ]
        remaining = [*candidates[count:], *rest]
        exact_s = least_total_s(candidates[:count], operator)
        if not remaining:
            return exact_s
        spare = operator.free_units - sum(held for _, held in started)
        zeros = [0] * (len(remaining) - 1)
        return exact_s + min(
            simulated_s([*running, *started], spare, remaining, [first, *zeros], operator)
            for first in range(min(depth, len(remaining[0].units)))
        )

    got = arrange_published(candidates, rest, running, operator, 0.0, depth)
    assert [index for index, _ in got] == list(range(len(got)))
    assert feasible(operator, [units for _, units in got])
    if not any(choices.elastic for choices in candidates[: table.longest]):
        assert got == [(i, candidates[i].minimum) for i in range(table.longest)]
        return
    kept = table.longest
    while kept > 1 and objective_s(kept - 1) < objective_s(kept):
        kept -= 1
    assert [units for _, units in got] == table.amounts(kept)


# The errata


def test_erratum_1_where_no_eviction_helps_all_candidates_start() -> None:
    three = [scaling(8.0, 1, 2, 4)] * 3
    assert arranged(three, LinearUnits(12)) == [(0, 4), (1, 4), (2, 4)]
    assert printed.kept_after(three, 1) == []


def test_erratum_1_one_candidate_always_starts() -> None:
    crowd = [fixed(1.0)] * 50
    assert arranged([scaling(1000.0, 1, 2)], LinearUnits(2), rest=crowd) == [(0, 2)]


def test_erratum_2_units_that_nobody_can_use_stay_idle() -> None:
    sets = (1, 2, 4, 8)
    assert arranged([scaling(8.0, *sets)] * 2, LinearUnits(11)) == [(0, 4), (1, 4)]
    assert printed.least_with_all_units([sets, sets], lambda m: 8.0 / m, 11) == math.inf


def test_erratum_3_every_depth_starts_from_the_same_ends() -> None:
    first, second = Choices.of([(1, 10.0), (2, 1.0)]), fixed(3.0)
    rest = [first, second]
    ends = [(2.0, 1), (5.0, 1)]
    # With one unit: 12 and 8. With two, from 5 on: 6 and 9.
    assert estimate_s(ends[:], 0, rest, LinearUnits(0), 0.0, 1) == 20.0
    assert estimate_s(ends[:], 0, rest, LinearUnits(0), 0.0, 2) == 15.0
    assert printed.estimate([2.0, 5.0], first.duration_s, 1, [3.0], 2) == 20.0
    with pytest.raises(IndexError):
        printed.estimate([2.0, 5.0], first.duration_s, 1, [3.0], 3)


def test_erratum_4_the_first_choice_is_the_smallest_feasible_amount() -> None:
    profile = Profile(40.0, serial=0.0)
    choices = Choices.of([(4, 10.0), (8, 5.0)])
    assert estimate_s([(2.0, 8)], 0, [choices], LinearUnits(0), 0.0, 1) == 2.0 + 10.0
    assert printed.estimate([2.0], lambda m: profile.run_s(m) or 0.0, 4, [], 2) == 2.0 + 40.0


def test_erratum_5_a_completion_frees_the_units_that_it_held() -> None:
    eight = [fixed(5.0)] * 8
    assert estimate_s([(1.0, 8), (9.0, 1)], 0, eight, LinearUnits(0), 0.0, 2) == 8 * 6.0
    assert printed.estimate_by_completions([1.0, 9.0], [5.0] * 8) > 8 * 6.0
    wide = [fixed(5.0, units=8)]
    each = [(float(second), 1) for second in range(1, 9)]
    assert estimate_s(each, 0, wide, LinearUnits(0), 0.0, 2) == 8.0 + 5.0
    assert printed.estimate_by_completions([end for end, _ in each], [5.0]) == 1.0 + 5.0


def test_erratum_6_chunks_are_split_and_rounded_as_the_allocator_does_it() -> None:
    whole, halves, mixed = (0, 0, 0, 1), (0, 0, 2, 0), (1, 1, 1, 0)
    assert ChunkCounts(whole).after(4) == ChunkCounts((0, 0, 1, 0))
    assert printed.chunks_after(whole, 4) is None
    assert ChunkCounts(halves).after(8) is None
    assert printed.chunks_after(halves, 8) == (0, 0, 0, 0)
    assert ChunkCounts(mixed).after(3) == ChunkCounts((1, 1, 0, 0))
    assert printed.chunks_after(mixed, 3) == (0, 0, 1, 0)
    two = [scaling(8.0, 2, 4, 8)] * 2
    assert arranged(two, ChunkCounts(whole)) == [(0, 4), (1, 4)]
    assert arranged(two, ChunkCounts(halves)) == [(0, 4), (1, 4)]


def test_erratum_7_chunks_are_compared_level_by_level() -> None:
    most, pair, eight_singles = (8, 1, 1, 1), (0, 1, 0, 0), (8, 0, 0, 0)
    assert printed.linearised(pair, most) >= printed.linearised(eight_singles, most)
    assert ChunkCounts(pair).longest_prefix([1] * 8) == 2
    assert len(arranged([scaling(8.0, 1, 2)] * 8, ChunkCounts(pair), depth=1)) <= 2


def test_erratum_8_a_chunk_starts_at_a_multiple_of_its_size() -> None:
    pool = ChunkPool(1, 8)
    starts = [pool.take(2).chunk.start for _ in range(4)]
    assert starts == [0, 2, 4, 6]
    assert [printed.is_legal_chunk(start, 2) for start in starts] == [False, True, False, False]
    assert printed.is_legal_chunk(2, 4)


def test_erratum_9_what_other_groups_take_of_this_resource_is_set_aside() -> None:
    two = [scaling(8.0, *range(1, 9))] * 2
    alone, beside = arranged(two, LinearUnits(10)), arranged(two, LinearUnits(10), others=[1, 3])
    assert sum(units for _, units in beside) == 6
    assert sum(units for _, units in alone) + 4 > 10
    with pytest.raises(ValueError, match="10 units are free, 11 are asked for"):
        arranged(two, LinearUnits(10), others=[11])


# Cases by hand


def test_the_last_of_four_waits_so_that_the_first_has_two_units() -> None:
    four = [scaling(40.0, 1, 2, 4)] * 4
    # All on one unit: 160. Without the last: 20 + 40 + 40, and 20 + 20 for the last. Without the
    # last two: 20 + 20, and 40 for the third, but 60 for the fourth on one unit.
    assert arranged(four, LinearUnits(4)) == [(0, 2), (1, 1), (2, 1)]


def test_with_a_depth_of_one_waiting_for_a_second_unit_is_not_thought_of() -> None:
    four = [scaling(40.0, 1, 2, 4)] * 4
    assert arranged(four, LinearUnits(4), depth=1) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_units_that_come_free_soon_are_worth_waiting_for() -> None:
    two = [Choices.of([(1, 40.0), (2, 32.0)])] * 2
    # Both at once: 80. One after the other: 32 + 64. With two units from 1 s on: 32 + 33.
    assert arranged(two, LinearUnits(2)) == [(0, 1), (1, 1)]
    assert arranged(two, LinearUnits(2), running=[(101.0, 2)]) == [(0, 2)]


def test_what_should_have_ended_is_expected_now_not_in_the_past() -> None:
    two = [Choices.of([(1, 40.0), (2, 40.0)])] * 2
    # Both at once: 80. The second from now on, on units that should be free: 80 as well.
    assert arranged(two, LinearUnits(2), running=[(3.0, 2)]) == [(0, 1), (1, 1)]


def test_where_nothing_scales_all_start_at_their_minimum_whatever_waits_behind() -> None:
    candidates = [fixed(9.0), fixed(500.0, units=2), fixed(1.0)]
    crowd = [fixed(0.1)] * 20
    assert arranged(candidates, LinearUnits(9), rest=crowd) == [(0, 1), (1, 2), (2, 1)]


def test_beside_elastic_candidates_those_that_do_not_scale_get_their_minimum() -> None:
    candidates = [fixed(1.0), scaling(64.0, *range(1, 17)), fixed(1.0)]
    assert arranged(candidates, LinearUnits(10)) == [(0, 1), (1, 8), (2, 1)]


def test_candidates_that_do_not_fit_at_their_minimum_wait() -> None:
    candidates = [scaling(8.0, 2, 4), scaling(8.0, 2, 4), scaling(8.0, 2, 4)]
    assert arranged(candidates, LinearUnits(5)) == [(0, 2), (1, 2)]
    assert arranged(candidates, LinearUnits(1)) == []
    assert arranged([], LinearUnits(1)) == []


def test_the_estimate_looks_at_a_bounded_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def counting(ends: list[End], spare: int, rest: Sequence[Choices], *more: object) -> float:
        lengths.append(len(rest))
        return 0.0

    monkeypatch.setattr(published, "estimate_s", counting)
    monkeypatch.setattr(published, "REST_MAX", 3)
    arranged([scaling(8.0, 1, 2)] * 2, LinearUnits(2), rest=[fixed(1.0)] * 50)
    assert lengths == [3, 4]


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="depth is at least 1, not 0"):
        arranged([fixed(1.0)], LinearUnits(1), depth=0)
