"""What is remembered of actions alike: their recent run times, how they scale, how wrong we were.

Bounded bookkeeping of `profile`, which decides what is alike and whom to ask. Durations are kept as
logs, since they span microseconds to hours and vary by factors.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from .elasticity import fit_serial, log_time
from .model import Profile
from .quantile import RecentQuantiles

DURATIONS_KEPT = 64
"""Run times of a pattern (or of a task and kind, or of a kind) that its quantiles are made of.
After a shift the median is the new one's within 33 observations, a rise of the 90th percentile shows
within 8; the price is a standard error of the median of 0.16 of the spread."""

EVIDENCE_KEPT = 256
"""Run times of a pattern, with their amounts, that its elasticity is fitted to. Longer than for
durations: how a program scales changes less often than how long it takes."""

ERRORS_KEPT = 512
"""Prediction errors of a kind that its error statistics are made of."""

REFIT_SHARE = 4
"""The elasticity is fitted again after this share (a quarter) of the evidence has changed: a fit
costs half a millisecond at worst, which is spread over 64 observations then."""

_NORMAL_P90 = 1.2816
"""90th percentile of the standard normal distribution."""


class Source(StrEnum):
    """Where a predicted duration comes from."""

    GIVEN = "given"  # the user's profile says it
    LEARNED = "learned"  # from actions of the same task, kind and signature
    TASK = "task"  # from actions of the same task and kind
    KIND = "kind"  # from actions of the same kind
    NOTHING = "nothing"  # nothing is known


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of an action. Durations are with one unit of its key resource."""

    profile: Profile
    """To schedule with. It scales only if the user or enough evidence says how."""
    source: Source
    """Of the profile's duration."""
    observations: int = 0
    """Finished actions behind the quantiles, at most `DURATIONS_KEPT`."""
    p50_s: float | None = None
    """What was observed, whatever the user gave; None if nothing was."""
    p90_s: float | None = None
    spread: float | None = None
    """Sigma of the log, from the 10th and 90th percentile; None below two observations."""
    amounts_seen: int = 0
    """Distinct amounts among the evidence of the action's pattern: below two, nobody can learn how
    it scales."""
    turn: int = 0
    """Run times of the pattern since its elasticity was last looked for."""


@dataclass(frozen=True, slots=True)
class PredictionError:
    """How wrong the predictions of one kind of action were: log(actual / predicted)."""

    predicted: int
    """Finished actions for which there was a prediction, since the beginning."""
    unpredicted: int
    """Those for which there was none."""
    p50: float | None
    """Median of the error's absolute value, of the last `ERRORS_KEPT`: 0.69 is a factor of two.
    None, as the other two, if nothing was predicted."""
    p90: float | None
    bias: float | None
    """Median of the error itself: above zero, actions run longer than predicted."""


class Durations:
    """The most recent run times of some actions, as logs, set against one unit."""

    __slots__ = ("_logs", "_prediction", "_source")

    def __init__(self, source: Source, logs: Iterable[float] = ()) -> None:
        self._source = source
        self._logs = deque(logs, DURATIONS_KEPT)
        self._prediction: Prediction | None = None

    def add(self, log_s: float) -> None:
        self._logs.append(log_s)
        self._prediction = None

    def prediction(self) -> Prediction:
        """Sorted only now: it is asked for while a pattern is new, and added to for ever."""
        if self._prediction is None:
            self._prediction = _predict(RecentQuantiles(DURATIONS_KEPT, self._logs), self._source)
        return self._prediction

    def state(self) -> list[float]:
        return list(self._logs)


class Pattern:
    """One pattern: its run times as they were, and what follows from them.

    `units` has the amount that each of `runs`, logs of run times, was seen at. The amount is
    negative if it is no evidence of how the pattern scales, and zero if the run time is set against
    one unit.
    """

    __slots__ = ("_amounts", "_changed", "_logs", "_prediction", "_runs", "_serial", "_units")

    def __init__(
        self,
        serial: float | None = None,
        changed: int = 0,
        units: Iterable[int] = (),
        runs: Iterable[float] = (),
    ) -> None:
        self._serial = serial
        """The last that the evidence supported: kept while there is too little of it again, as
        when the node is full and everybody gets one core."""
        self._changed = changed
        self._units = deque(units, EVIDENCE_KEPT)
        self._runs = deque(runs, EVIDENCE_KEPT)
        self._amounts = Counter(amount for amount in self._units if amount > 0)
        self._logs = RecentQuantiles(DURATIONS_KEPT, self._recent())
        self._prediction: Prediction | None = None

    def add(self, units: int, log_s: float, *, evidence: bool) -> float:
        """A run time with this amount. The answer is the log of what one unit would have taken."""
        return self._append(units if evidence else -units, log_s)

    def add_one_unit(self, log_s: float) -> float:
        """A run time set against one unit by an elasticity that the user gave."""
        return self._append(0, log_s)

    def prediction(self) -> Prediction:
        if self._prediction is None:
            seen = len(self._amounts)
            self._prediction = _predict(
                self._logs, Source.LEARNED, self._serial, seen, self._changed
            )
        return self._prediction

    def state(self) -> list[Any]:
        return [self._serial, self._changed, list(self._units), list(self._runs)]

    def _append(self, units: int, log_s: float) -> float:
        if len(self._units) == EVIDENCE_KEPT:
            self._forget(self._units[0])
        self._units.append(units)
        self._runs.append(log_s)
        if units > 0:
            self._amounts[units] += 1
        one_unit = self._one_unit(units, log_s)
        self._logs.add(one_unit)
        self._prediction = None
        self._changed += 1
        if len(self._amounts) > 1 and self._changed * REFIT_SHARE >= len(self._runs):
            self._refit()
        return one_unit

    def _forget(self, units: int) -> None:
        if units <= 0:
            return
        self._amounts[units] -= 1
        if not self._amounts[units]:
            del self._amounts[units]

    def _refit(self) -> None:
        self._changed = 0
        observed = zip(self._units, self._runs, strict=True)
        serial = fit_serial((units, log_s) for units, log_s in observed if units > 0)
        if serial is None or serial == self._serial:
            return
        self._serial = serial
        self._logs = RecentQuantiles(DURATIONS_KEPT, self._recent())

    def _recent(self) -> Iterable[float]:
        """What the quantiles are made of, with the elasticity that is known now."""
        start = max(0, len(self._runs) - DURATIONS_KEPT)
        recent = islice(zip(self._units, self._runs, strict=True), start, None)
        return (self._one_unit(units, log_s) for units, log_s in recent)

    def _one_unit(self, units: int, log_s: float) -> float:
        if units == 0:
            return log_s
        return log_s - log_time(self._serial or 0.0, abs(units))


def _predict(
    logs: RecentQuantiles,
    source: Source,
    serial: float | None = None,
    amounts_seen: int = 0,
    turn: int = 0,
) -> Prediction:
    p50, p90 = logs.at(0.5), logs.at(0.9)
    p50_s = math.exp(p50)
    spread = (p90 - logs.at(0.1)) / (2 * _NORMAL_P90) if len(logs) > 1 else None
    profile = Profile(p50_s, serial=serial)
    return Prediction(profile, source, len(logs), p50_s, math.exp(p90), spread, amounts_seen, turn)


class Errors:
    """The most recent prediction errors of one kind."""

    __slots__ = ("_predicted", "_signed", "_unpredicted")

    def __init__(
        self, predicted: int = 0, unpredicted: int = 0, signed: Iterable[float] = ()
    ) -> None:
        self._predicted, self._unpredicted = predicted, unpredicted
        self._signed = deque(signed, ERRORS_KEPT)

    def add(self, run_s: float, predicted_s: float | None) -> None:
        if predicted_s is None:
            self._unpredicted += 1
            return
        self._predicted += 1
        self._signed.append(math.log(run_s / predicted_s))

    def summary(self) -> PredictionError:
        if not self._signed:
            return PredictionError(self._predicted, self._unpredicted, None, None, None)
        signed = RecentQuantiles(ERRORS_KEPT, self._signed)
        sizes = RecentQuantiles(ERRORS_KEPT, map(abs, self._signed))
        return PredictionError(
            self._predicted, self._unpredicted, sizes.at(0.5), sizes.at(0.9), signed.at(0.5)
        )

    def state(self) -> list[Any]:
        return [self._predicted, self._unpredicted, list(self._signed)]
