"""What is learned of durations and elasticity, how fast, and what does not disturb it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable

import pytest

from tangram.scheduler import Action, Amounts, Demand, Profile
from tangram.scheduler.pattern import DURATIONS_KEPT, ERRORS_KEPT
from tangram.scheduler.profile import PATTERNS_MAX, PRIORS_MAX, Profiler, Source

SUITE = Amounts.between(1, 32)


def action(
    signature: str = "pytest",
    *,
    task: str = "coding",
    kind: str = "exec",
    cores: Amounts = SUITE,
    profile: Profile | None = None,
) -> Action:
    demand = Demand({"cores": cores}, key="cores")
    return Action(
        "a", task, demand, "t", kind=kind, signature=signature, profile=profile or Profile()
    )


def after(observations: Iterable[tuple[Action, int, float]]) -> Profiler:
    profiler = Profiler()
    for seen, units, run_s in observations:
        profiler.observe(seen, units, run_s)
    return profiler


def lognormal(count: int, median_s: float, sigma: float, seed: int = 0) -> list[float]:
    random_source = random.Random(seed)
    return [median_s * math.exp(random_source.gauss(0, sigma)) for _ in range(count)]


def suite_runs(
    count: int, serial: float = 0.1, one_unit_s: float = 20.0, seed: int = 0
) -> list[tuple[Action, int, float]]:
    """A suite at varied amounts, with a noise of lognormal sigma 0.3."""
    random_source = random.Random(seed)
    noise = lognormal(count, 1.0, 0.3, seed)
    runs = []
    for factor in noise:
        units = random_source.choice((1, 2, 4, 8, 16))
        run_s = one_unit_s * (1 + serial * (units - 1)) / units
        runs.append((action(), units, run_s * factor))
    return runs


# Cold start


def test_nothing_is_known_at_first() -> None:
    prediction = Profiler().predict(action())
    assert prediction.profile == Profile()
    assert (prediction.source, prediction.observations) == (Source.NOTHING, 0)
    assert prediction.p50_s is prediction.p90_s is prediction.spread is None


def test_an_unseen_pattern_is_taken_for_its_task_and_kind_then_for_its_kind() -> None:
    profiler = after(
        [(action("ls"), 1, 0.1)] * 3
        + [(action("make", task="other"), 1, 50.0)] * 9
        + [(action("", kind="call"), 1, 7.0)]
    )
    known = profiler.predict(action("ls"))
    assert known.source is Source.LEARNED
    assert known.profile.duration_s == pytest.approx(0.1)
    sibling = profiler.predict(action("cat"))
    assert sibling.source is Source.TASK
    assert sibling.profile.duration_s == pytest.approx(0.1)
    stranger = profiler.predict(action("cat", task="third"))
    assert stranger.source is Source.KIND
    assert stranger.profile.duration_s == pytest.approx(50.0)
    assert profiler.predict(action(kind="score")).source is Source.NOTHING


def test_a_prior_never_says_how_an_action_scales() -> None:
    profiler = after(suite_runs(100))
    assert profiler.predict(action()).profile.scales
    prior = profiler.predict(action("make test"))
    assert prior.source is Source.TASK
    assert not prior.profile.scales
    # Its duration is with one unit, although the suite ran on up to 16.
    assert prior.profile.duration_s == pytest.approx(20.0, rel=0.25)


def test_without_a_signature_actions_are_told_apart_by_what_they_may_get() -> None:
    pinned = action("", cores=Amounts.exactly(1))
    profiler = after([(pinned, 1, 0.2)] * 10 + [(action(""), 8, 10.0)] * 10)
    assert profiler.predict(pinned).profile.run_s(1) == pytest.approx(0.2)
    assert profiler.predict(action("")).profile.run_s(8) == pytest.approx(10.0)
    assert len(profiler) == 2


# Durations


def test_quantiles_are_those_of_the_last_observations() -> None:
    runs = lognormal(300, 3.0, 1.2)
    prediction = after((action(), 1, run_s) for run_s in runs).predict(action())
    kept = sorted(runs[-DURATIONS_KEPT:])
    assert prediction.observations == DURATIONS_KEPT
    assert prediction.p50_s is not None and prediction.p90_s is not None
    # Between the two middle values, and between the two around nine tenths.
    assert kept[31] <= prediction.p50_s <= kept[32]
    assert kept[56] <= prediction.p90_s <= kept[57]
    assert prediction.spread == pytest.approx(1.2, rel=0.25)
    assert prediction.profile.duration_s == prediction.p50_s


def test_an_amount_that_is_always_the_same_is_predicted_as_it_ran() -> None:
    pinned = action(cores=Amounts.exactly(4))
    prediction = after([(pinned, 4, 10.0)] * 5).predict(pinned)
    assert prediction.profile.run_s(4) == pytest.approx(10.0)
    assert not prediction.profile.scales
    assert prediction.amounts_seen == 1


def test_after_a_shift_the_prediction_follows_within_33_observations() -> None:
    profiler = after((action(), 1, run_s) for run_s in lognormal(500, 1.0, 0.1))
    for count, run_s in enumerate(lognormal(33, 10.0, 0.1, seed=1), start=1):
        duration_s = profiler.predict(action()).profile.duration_s
        if count <= 28:
            assert duration_s == pytest.approx(1.0, rel=0.35), count
        profiler.observe(action(), 1, run_s)
    assert profiler.predict(action()).profile.duration_s == pytest.approx(10.0, rel=0.35)


def test_the_slow_decile_shows_within_eight_observations_of_a_shift() -> None:
    profiler = after([(action(), 1, 1.0)] * 100 + [(action(), 1, 10.0)] * 8)
    prediction = profiler.predict(action())
    assert prediction.p90_s == pytest.approx(10.0, rel=0.01)
    assert prediction.p50_s == pytest.approx(1.0)


def test_one_outlier_does_not_move_the_prediction() -> None:
    runs = lognormal(9, 2.0, 0.2)
    profiler = after((action(), 1, run_s) for run_s in runs)
    before = profiler.predict(action()).profile.duration_s
    profiler.observe(action(), 1, 2e6)
    assert before is not None
    assert profiler.predict(action()).profile.duration_s == pytest.approx(before, rel=0.1)


def test_a_heavy_tail_leaves_the_median_where_it_is() -> None:
    random_source = random.Random(3)
    profiler = after((action(), 1, random_source.paretovariate(0.9)) for _ in range(500))
    # Its mean is infinite; its median is 2 ** (1 / 0.9) = 2.16, known to 3 * 0.16 of a spread.
    assert profiler.predict(action()).p50_s == pytest.approx(2.16, rel=0.5)


def test_a_run_time_of_zero_counts_as_a_microsecond() -> None:
    assert after([(action(), 1, 0.0)]).predict(action()).p50_s == pytest.approx(1e-6)


@pytest.mark.parametrize("run_s", [-1.0, math.nan, math.inf])
def test_an_impossible_run_time_is_refused(run_s: float) -> None:
    with pytest.raises(ValueError, match="run_s must be finite and not negative"):
        Profiler().observe(action(), 1, run_s)


def test_an_impossible_amount_is_refused() -> None:
    with pytest.raises(ValueError, match="units must be at least 1, not 0"):
        Profiler().observe(action(), 0, 1.0)


# Elasticity


def test_elasticity_is_learned_from_varied_amounts_despite_noise() -> None:
    for seed in range(5):
        prediction = after(suite_runs(200, serial=0.1, seed=seed)).predict(action())
        assert prediction.profile.scales
        assert prediction.amounts_seen == 5
        for units in (1, 4, 16):
            truth_s = 20.0 * (1 + 0.1 * (units - 1)) / units
            assert prediction.profile.run_s(units) == pytest.approx(truth_s, rel=0.3)


def test_without_evidence_nothing_scales() -> None:
    assert not after([(action(), 1, 20.0)] * 300).predict(action()).profile.scales
    assert not after(suite_runs(6)).predict(action()).profile.scales


def test_what_was_learned_of_elasticity_outlives_a_time_of_single_cores() -> None:
    profiler = after(suite_runs(200))
    for run_s in lognormal(400, 60.0, 0.3):
        profiler.observe(action(), 1, run_s)
    prediction = profiler.predict(action())
    assert prediction.amounts_seen == 1
    assert prediction.profile.scales
    assert prediction.profile.duration_s == pytest.approx(60.0, rel=0.15)


def test_a_program_that_comes_to_scale_otherwise_is_learned_anew() -> None:
    profiler = after(suite_runs(400, serial=0.02) + suite_runs(320, serial=1.0, seed=1))
    assert profiler.predict(action()).profile.serial == pytest.approx(1.0, abs=0.15)


# What the user gave


def test_the_profile_that_the_user_gave_wins_even_if_it_is_wrong_and_the_error_tells() -> None:
    wrong = action(profile=Profile(5.0, serial=0.0))
    profiler = after([(wrong, 4, 50.0)] * 20)
    prediction = profiler.predict(wrong)
    assert (prediction.profile, prediction.source) == (wrong.profile, Source.GIVEN)
    # 50 s on four cores that scale perfectly, as was said: 200 s on one, against 5.
    assert prediction.p50_s == pytest.approx(200.0)
    error = profiler.errors()["exec"]
    assert (error.predicted, error.unpredicted) == (20, 0)
    assert error.p50 == error.p90 == error.bias == pytest.approx(math.log(40))


def test_what_the_user_left_out_is_filled_in() -> None:
    profiler = after(suite_runs(200))
    learned = profiler.predict(action()).profile
    duration = profiler.predict(action(profile=Profile(7.0)))
    assert duration.profile == Profile(7.0, serial=learned.serial)
    assert duration.source is Source.GIVEN
    table = profiler.predict(action(profile=Profile(None, {4: 0.9})))
    assert table.profile == Profile(learned.duration_s, {4: 0.9})
    assert table.source is Source.LEARNED


def test_a_given_elasticity_sets_run_times_against_one_unit() -> None:
    given = action(profile=Profile(None, serial=0.5))
    # 12 s on four units are 12 * 4 / (1 + 0.5 * 3) on one.
    prediction = after([(given, 4, 12.0)] * 4).predict(given)
    assert prediction.profile.duration_s == pytest.approx(19.2)
    assert prediction.profile.run_s(4) == pytest.approx(12.0)


def test_amounts_given_for_a_known_length_are_no_evidence_of_scaling() -> None:
    # The long ones got eight cores because they were known to be long.
    long, short = action(profile=Profile(160.0)), action(profile=Profile(10.0))
    profiler = after([(long, 8, 20.0), (short, 1, 10.0)] * 100)
    assert not profiler.predict(action()).profile.scales


# The error


def test_the_error_is_measured_before_the_observation_is_learned() -> None:
    profiler = after([(action(), 1, 2.0), (action(), 1, 2.0 * math.e)])
    error = profiler.errors()["exec"]
    assert (error.predicted, error.unpredicted) == (1, 1)
    assert error.p50 == error.bias == pytest.approx(1.0)


def test_errors_of_a_known_spread_are_reported_as_such() -> None:
    profiler = after((action(), 1, run_s) for run_s in lognormal(2000, 5.0, 0.5))
    error = profiler.errors()["exec"]
    assert error.predicted == 1999
    # |N(0, 0.5)| has median 0.337 and 90th percentile 0.822; the prediction's own error adds 1 %.
    assert error.p50 == pytest.approx(0.337, rel=0.15)
    assert error.p90 == pytest.approx(0.822, rel=0.15)
    assert error.bias == pytest.approx(0.0, abs=0.1)


def test_a_kind_never_predicted_has_no_error() -> None:
    error = after([(action(), 1, 2.0)]).errors()["exec"]
    assert (error.predicted, error.unpredicted, error.p50) == (0, 1, None)


# Memory and state


def test_memory_is_bounded_and_the_pattern_not_seen_for_longest_goes_first() -> None:
    profiler = after([(action("kept"), 1, 3.0), (action("gone"), 1, 4.0)])
    for number in range(PATTERNS_MAX):
        profiler.observe(action(f"new {number}", task=f"task {number}"), 1, 1.0)
        if number == 10:
            profiler.observe(action("kept"), 1, 3.0)
    assert len(profiler) == PATTERNS_MAX
    assert profiler.predict(action("kept")).source is Source.LEARNED
    assert profiler.predict(action("gone")).source is not Source.LEARNED
    state = profiler.state()
    assert len(state["tasks"]) == PRIORS_MAX
    for _ in range(2 * ERRORS_KEPT):
        profiler.observe(action("kept"), 1, 3.0)
    (kinds,) = profiler.state()["errors"]
    assert len(kinds[3]) == ERRORS_KEPT


def test_asking_changes_nothing() -> None:
    profiler = after(suite_runs(30))
    before = profiler.state()
    for signature in ("pytest", "never seen", ""):
        profiler.predict(action(signature))
    assert profiler.state() == before


def test_a_profiler_goes_on_from_its_state_as_if_it_had_never_stopped() -> None:
    runs = suite_runs(300) + [(action("ls", profile=Profile(1.0)), 1, 0.1)] * 5
    random.Random(4).shuffle(runs)
    whole = after(runs)
    resumed = Profiler.from_state(json.loads(json.dumps(after(runs[:170]).state())))
    for run in runs[170:]:
        resumed.observe(*run)
    assert resumed.state() == whole.state()
    for asked in (action(), action("ls"), action("new"), action("new", task="new")):
        assert resumed.predict(asked) == whole.predict(asked)
    assert resumed.errors() == whole.errors()


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version of the profiler's state must be 1, not None"):
        Profiler.from_state({})


# Amounts that change


def test_a_resized_action_counts_with_what_one_unit_would_have_taken() -> None:
    """Half of the work with one unit, the other half with four: 10 s and 3.25 s at serial 0.1."""
    known = Profile(serial=0.1)
    profiler = Profiler()
    profiler.observe_changing(action(profile=known), {1: 10.0, 4: 3.25}, 13.25)
    assert profiler.predict(action(profile=known)).profile.run_s(1) == pytest.approx(20.0)


def test_a_resized_action_is_measured_by_the_clock_of_who_ran_it() -> None:
    known = Profile(serial=0.0)
    profiler = Profiler()
    profiler.observe_changing(action(profile=known), {1: 2.0, 2: 2.0}, 2.0)
    assert profiler.predict(action(profile=known)).p50_s == pytest.approx(3.0)


def test_a_resized_action_counts_with_the_elasticity_that_was_learned() -> None:
    profiler = after(suite_runs(64))
    learned = profiler.predict(action()).profile
    assert learned.serial is not None
    held_s = {units: (learned.run_s(units) or 0.0) / 2 for units in (2, 8)}
    for _ in range(DURATIONS_KEPT):
        profiler.observe_changing(action(), held_s, sum(held_s.values()))
    after_s, before_s = profiler.predict(action()).p50_s, learned.duration_s
    assert after_s == pytest.approx(before_s, rel=1e-6)
    assert profiler.predict(action()).amounts_seen == 5


def test_nothing_is_learned_of_a_resized_action_while_nobody_knows_how_it_scales() -> None:
    profiler = Profiler()
    profiler.observe_changing(action(), {1: 2.0, 2: 2.0}, 4.0)
    assert profiler.predict(action()).source is Source.NOTHING
    assert profiler.errors() == {}


@pytest.mark.parametrize(
    ("held_s", "run_s", "wrong"),
    [({0: 1.0}, 1.0, "units"), ({}, 1.0, "units"), ({1: 1.0}, -1.0, "run_s")],
)
def test_a_resized_action_that_cannot_be_is_refused(
    held_s: dict[int, float], run_s: float, wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        Profiler().observe_changing(action(profile=Profile(serial=0.1)), held_s, run_s)
