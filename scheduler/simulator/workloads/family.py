"""What a reference workload is, and the text that names one: `open:load=0.5,cores=64`.

A family makes workloads of one shape; its parameters are numbers within limits. Which families
there are stands in the package itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...model import EMPTY
from ..cluster import ClusterSpec, Service
from ..trace import TRAJECTORIES_MAX, TraceTrajectory


@dataclass(frozen=True, slots=True)
class Workload:
    """Trajectories, and what they are meant to run on."""

    name: str
    trajectories: Sequence[TraceTrajectory]
    cluster: ClusterSpec
    """Its services are all that the trajectories' scores ask."""

    @property
    def services(self) -> Mapping[str, Service]:
        return self.cluster.services


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number of a family that a name may set."""

    default: float
    low: float
    high: float
    meaning: str
    whole: bool = False


Make = Callable[[str, int, int, Mapping[str, float]], Workload]
"""(name, count, seed, parameters) -> workload; every parameter is there, within its limits. Fewer
trajectories of the same seed are the first of more."""


@dataclass(frozen=True, slots=True)
class Family:
    """How to make the workloads of one shape."""

    name: str
    meaning: str
    count: int
    """Trajectories unless it is said how many: the paper's batch, where there is one."""
    make: Make
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: EMPTY)

    def workload(self, name: str, settings: str, count: int | None, seed: int) -> Workload:
        """The workload with these settings, as "load=0.5,cores=64" or empty. Raises ValueError."""
        count = self.count if count is None else count
        if not 1 <= count <= TRAJECTORIES_MAX:
            raise ValueError(f"{name}: count is from 1 to {TRAJECTORIES_MAX}, not {count}")
        return self.make(name, count, seed, self._values(settings))

    def _values(self, settings: str) -> dict[str, float]:
        values = {key: parameter.default for key, parameter in self.parameters.items()}
        given: set[str] = set()
        for setting in settings.split(",") if settings else []:
            key, equals, text = setting.partition("=")
            key = key.strip()
            if key not in values:
                raise ValueError(f"{self.name} has no parameter {key[:40]!r}: {self._known()}")
            if not equals or key in given:
                raise ValueError(f"{self.name}: {key} is set once, as {key}={values[key]:g}")
            given.add(key)
            values[key] = self._value(key, text)
        return values

    def _value(self, key: str, text: str) -> float:
        parameter = self.parameters[key]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        whole = not parameter.whole or value == int(value) if math.isfinite(value) else False
        if not whole or not parameter.low <= value <= parameter.high:
            number = "a whole number" if parameter.whole else "a number"
            raise ValueError(
                f"{self.name}: {key} ({parameter.meaning}) is {number} from {parameter.low:g} to"
                f" {parameter.high:g}, not {text[:40]!r}"
            )
        return value

    def _known(self) -> str:
        if not self.parameters:
            return "it takes none"
        known = (
            f"{key} ({parameter.meaning}, {parameter.default:g})"
            for key, parameter in self.parameters.items()
        )
        return "it knows " + ", ".join(known)
