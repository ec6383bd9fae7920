"""How long actions run and how they scale, learned online from those that finished.

Actions alike in task, kind and signature form a pattern. Each pattern keeps its most recent run
times; what is not known of a pattern yet is taken from its task and kind, then from its kind. What
the user gave always wins. No clock and no randomness: the same observations in the same order give
the same predictions, and `state` is plain data from which a profiler goes on as if it had never
stopped. What is kept of each pattern stands in `pattern`, the arithmetic in `quantile` and
`elasticity`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from .model import DURATION_MIN_S, Action, Profile
from .pattern import Durations, Errors, Pattern, Prediction, PredictionError, Source

__all__ = ["Prediction", "PredictionError", "Profiler", "Source"]

PATTERNS_MAX = 1024
"""Patterns remembered (20 KB each when full); beyond, the one not seen for longest is forgotten."""

PRIORS_MAX = 1024
"""The same for pairs of task and kind, and for kinds (3 KB each)."""

_STATE_VERSION = 1

_NOTHING = Prediction(Profile(), Source.NOTHING)


class Profiler:
    """Learns from `observe`, answers `predict`.

    A run time is set against one unit before its quantile is taken: by the elasticity that the user
    gave, else by what was learned, else as if work scaled perfectly, which is exact for actions
    that always get the same amount. Actions that came with a duration teach nothing about
    elasticity, since they get their amounts because of their length.
    """

    def __init__(self) -> None:
        self._patterns: _Recent[tuple[str, str, str], Pattern] = _Recent(PATTERNS_MAX)
        self._tasks: _Recent[tuple[str, str], Durations] = _Recent(PRIORS_MAX)
        self._kinds: _Recent[str, Durations] = _Recent(PRIORS_MAX)
        self._errors: _Recent[str, Errors] = _Recent(PRIORS_MAX)

    def __len__(self) -> int:
        """Patterns remembered."""
        return len(self._patterns)

    def observe(self, action: Action, units: int, run_s: float) -> None:
        """The action finished by itself after running `run_s` with `units` of its key resource
        (1 if it has none). If its amount changed, `observe_changing` is the one to tell.

        Raises ValueError for units below one and for run times that are negative or not finite.
        """
        if units < 1:
            raise ValueError(f"units must be at least 1, not {units}")
        if not 0 <= run_s < math.inf:
            raise ValueError(f"run_s must be finite and not negative, not {run_s}")
        run_s = max(run_s, DURATION_MIN_S)
        predicted_s = self.predict(action).profile.run_s(units)
        self._errors.touch(action.kind, Errors).add(run_s, predicted_s)
        pattern = self._patterns.touch(_pattern_key(action), Pattern)
        given = action.profile
        if given.elasticity or given.serial is not None:
            one_unit = pattern.add_one_unit(math.log(run_s * given.efficiency(units) * units))
        else:
            one_unit = pattern.add(units, math.log(run_s), evidence=given.duration_s is None)
        self._note_one_unit(action, one_unit)

    def observe_changing(self, action: Action, held_s: Mapping[int, float], run_s: float) -> None:
        """The action ran `run_s`, in which it had `held_s`, units -> seconds, by a clock that need
        not be the one of `run_s`.

        It counts with what one unit would have taken, the sum of s E(m) m over its amounts m: in s
        seconds it did the share s E(m) m / T1 of its work. E is the one given, else the one learned;
        nothing is learned while neither is known. Its amounts are no evidence of E. Raises
        ValueError as `observe`.
        """
        if not 0 <= run_s < math.inf:
            raise ValueError(f"run_s must be finite and not negative, not {run_s}")
        if min(held_s, default=0) < 1:
            raise ValueError(f"units must be at least 1, not {min(held_s, default=0)}")
        predicted = self.predict(action).profile
        whole_s = sum(held_s.values())
        if (predicted.serial is None and not predicted.elasticity) or whole_s <= 0:
            return
        work_s = sum(s * predicted.efficiency(m) * m for m, s in held_s.items())
        one_unit_s = max(work_s * run_s / whole_s, DURATION_MIN_S)
        self._errors.touch(action.kind, Errors).add(one_unit_s, predicted.run_s(1))
        pattern = self._patterns.touch(_pattern_key(action), Pattern)
        self._note_one_unit(action, pattern.add_one_unit(math.log(one_unit_s)))

    def _note_one_unit(self, action: Action, log_s: float) -> None:
        self._tasks.touch((action.task, action.kind), _of_task).add(log_s)
        self._kinds.touch(action.kind, _of_kind).add(log_s)

    def predict(self, action: Action) -> Prediction:
        """What is known of it now. Asking changes nothing."""
        learned = self._learned(action)
        given = action.profile
        scales = bool(given.elasticity) or given.serial is not None
        if given.duration_s is None and not scales:
            return learned
        if given.duration_s is None:
            duration_s, source = learned.profile.duration_s, learned.source
            profile = Profile(duration_s, given.elasticity, given.serial)
        elif scales:
            profile, source = given, Source.GIVEN
        else:
            profile = Profile(given.duration_s, serial=learned.profile.serial)
            source = Source.GIVEN
        return Prediction(
            profile,
            source,
            learned.observations,
            learned.p50_s,
            learned.p90_s,
            learned.spread,
            learned.amounts_seen,
            learned.turn,
        )

    def errors(self) -> dict[str, PredictionError]:
        """Per kind of action, how wrong `predict` was right before each observation."""
        return {kind: errors.summary() for kind, errors in self._errors.items()}

    def state(self) -> dict[str, Any]:
        """All that was learned, as lists, numbers and texts; the least recently seen first."""
        return {
            "version": _STATE_VERSION,
            "patterns": [[*key, *pattern.state()] for key, pattern in self._patterns.items()],
            "tasks": [[*key, known.state()] for key, known in self._tasks.items()],
            "kinds": [[kind, known.state()] for kind, known in self._kinds.items()],
            "errors": [[kind, *errors.state()] for kind, errors in self._errors.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Profiler:
        """The profiler that `state` was taken of. Raises ValueError for another version's."""
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"version of the profiler's state must be {_STATE_VERSION}, "
                f"not {state.get('version')!r}"
            )
        profiler = cls()
        for task, kind, signature, *pattern in state["patterns"]:
            profiler._patterns.put((task, kind, signature), Pattern(*pattern))
        for task, kind, logs in state["tasks"]:
            profiler._tasks.put((task, kind), Durations(Source.TASK, logs))
        for kind, logs in state["kinds"]:
            profiler._kinds.put(kind, Durations(Source.KIND, logs))
        for kind, *errors in state["errors"]:
            profiler._errors.put(kind, Errors(*errors))
        return profiler

    def _learned(self, action: Action) -> Prediction:
        pattern = self._patterns.get(_pattern_key(action))
        if pattern is not None:
            return pattern.prediction()
        task = self._tasks.get((action.task, action.kind))
        if task is not None:
            return task.prediction()
        kind = self._kinds.get(action.kind)
        return _NOTHING if kind is None else kind.prediction()


def _pattern_key(action: Action) -> tuple[str, str, str]:
    """Actions without a signature are told apart by what they may get: a suite that may use 1-32
    cores is no sibling of a command that takes one."""
    demand = action.demand
    if action.signature or demand.key is None:
        return action.task, action.kind, action.signature
    amounts = demand.per_node.get(demand.key) or demand.cluster[demand.key]
    return action.task, action.kind, f"\0{amounts}"


def _of_task() -> Durations:
    return Durations(Source.TASK)


def _of_kind() -> Durations:
    return Durations(Source.KIND)


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """A mapping that forgets the entry not touched for longest once there are too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.get = self._entries.get
        self.items = self._entries.items

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def touch(self, key: K, make: Callable[[], V]) -> V:
        """The entry of this key, made empty if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            entry = make()
            self.put(key, entry)
            return entry
        self._entries.move_to_end(key)
        return entry
