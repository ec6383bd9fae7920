"""How well the serial share is recovered from noisy run times, and when nothing is claimed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from tangram.scheduler.elasticity import SERIAL_MIN, fit_serial, log_time
from tangram.scheduler.model import Profile

Points = list[tuple[int, float]]


def observations(
    serial: float,
    amounts: Sequence[int],
    count: int,
    sigma: float = 0.3,
    seed: int = 0,
    one_unit_s: float = 20.0,
) -> Points:
    random_source = random.Random(seed)
    profile = Profile(one_unit_s, serial=serial)
    points = []
    for index in range(count):
        units = amounts[index % len(amounts)]
        run_s = profile.run_s(units)
        assert run_s is not None
        points.append((units, math.log(run_s) + random_source.gauss(0, sigma)))
    return points


def relative_run_s(serial: float, units: int) -> float:
    return math.exp(log_time(serial, units))


@pytest.mark.parametrize("serial", [0.03, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("amounts", [(1, 8), (1, 2, 4, 8, 16), tuple(range(1, 33))])
def test_run_times_are_recovered_within_a_fifth_despite_noise(
    serial: float, amounts: tuple[int, ...]
) -> None:
    for seed in range(5):
        fitted = fit_serial(observations(serial, amounts, 256, seed=seed))
        assert fitted is not None
        for units in amounts:
            truth, learned = relative_run_s(serial, units), relative_run_s(fitted, units)
            assert learned == pytest.approx(truth, rel=0.2)


def test_without_noise_the_share_is_exact_to_two_digits() -> None:
    for serial in (0.004, 0.03, 0.27, 1.0):
        fitted = fit_serial(observations(serial, (1, 3, 8), 24, sigma=0))
        assert fitted == pytest.approx(serial, rel=0.04)


def test_perfect_scaling_is_never_claimed() -> None:
    fitted = fit_serial(observations(0.0, (1, 8), 64, sigma=0))
    assert fitted is not None
    assert SERIAL_MIN <= fitted < 0.004


def test_work_that_slows_down_with_more_units_counts_as_serial() -> None:
    points = [(units, 0.1 * units) for units in (1, 2, 4, 8) for _ in range(8)]
    assert fit_serial(points) == 1.0


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([], "nothing"),
        (observations(0.03, (4,), 200), "a single amount"),
        (observations(0.03, (1, 8), 7), "too few"),
        (observations(0.03, (1,), 50) + observations(0.03, (8,), 3), "too few elsewhere"),
        (observations(0.03, (1, 2), 12, sigma=1.0), "amounts too close for the noise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_thin_evidence_claims_nothing(points: Points, why: str) -> None:
    assert fit_serial(points) is None, why


def test_outliers_count_for_their_direction_not_for_their_size() -> None:
    points = observations(0.1, (1, 4, 16), 120)
    clean = fit_serial(points)
    hung = [
        (units, log_s + 7) if i % 20 == 0 else (units, log_s)
        for i, (units, log_s) in enumerate(points)
    ]
    absurd = [
        (units, log_s + 70) if i % 20 == 0 else (units, log_s)
        for i, (units, log_s) in enumerate(points)
    ]
    assert clean is not None
    fitted = fit_serial(hung)
    assert fitted is not None
    assert fitted == fit_serial(absurd)
    assert relative_run_s(fitted, 16) == pytest.approx(relative_run_s(clean, 16), rel=0.1)
