"""What the checkers write down of actions, trajectories and resources, and the violation that they
raise. Data; what it means is `checkers`'."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...model import Action, Capacity, ResourceId, State, Trajectory


class Violation(AssertionError):
    """The scheduler broke a promise; `rule` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Rules:
    """What a policy and an order promise beside what all do."""

    in_order: bool = False
    """Of those that want one and the same resource the first goes first."""
    overtaken_max: int | None = None
    """Younger grants at the cost of an action that could run. None: not bounded."""
    reserves: bool = True
    """Nothing is taken at the cost of who is reserved."""
    chooses: bool = False
    """Amounts are chosen by predicted durations, so timeouts narrow them."""
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Task, or "*" for any that is not named -> kind -> units that it holds at most."""


@dataclass(slots=True)
class Lease:
    """What an action holds, as far as the scheduler may know."""

    token: int
    node: str
    amounts: dict[ResourceId, int]
    change: int = 0
    """Of the Resize that is not answered yet."""
    killed: bool = False


@dataclass(slots=True)
class Job:
    """One action. `end` is how it ended, the first time."""

    action: Action
    number: int
    lease: Lease | None = None
    running: bool = False
    end: State | None = None
    retold: bool = False
    """It ended before a restart, and the new scheduler may say so once more."""
    submitted: bool = True
    overtaken: int = 0
    reserved: bool = False
    settled: bool = True
    """No capacity changed since it was submitted."""


@dataclass(slots=True)
class Home:
    """One trajectory."""

    trajectory: Trajectory
    node: str | None = None
    token: int = 0
    ready: bool = False
    over: bool = False


@dataclass(slots=True)
class Counter:
    """One resource: its capacity, and what is granted of it."""

    capacity: Capacity
    taken: int = 0
    closed_until: float = 0.0
    begun: deque[tuple[float, int]] = field(default_factory=deque)
    """When how much was granted, for windows."""

    def occupied(self, amount: int) -> int:
        """A grant of three GPUs holds a chunk of four."""
        if self.capacity.view == "chunks" and amount > 0:
            return 1 << (amount - 1).bit_length()
        return amount

    def largest(self) -> int:
        """The most that one grant could ever get."""
        parameters = self.capacity.parameters
        limits: list[int] = [rate for rate, _ in parameters.get("windows", ())]
        limits.append(parameters.get("concurrency") or self.capacity.total)
        limits.append(parameters.get("per_node", self.capacity.total))
        return min(limits)

    def excess(self, now: float) -> str:
        """Which limit is passed; "" if none is."""
        windows: Iterable[tuple[int, float]] = self.capacity.parameters.get("windows", ())
        for rate, period_s in windows:
            begun = sum(n for at, n in self.begun if at + period_s > now)
            if begun > rate:
                return f"{begun} began within {period_s} s, and {rate} may"
        limit = self.capacity.total
        if "concurrency" in self.capacity.parameters:
            limit = self.capacity.parameters["concurrency"] or self.taken
        return f"{self.taken} are held, and there are {limit}" if self.taken > limit else ""


def require(right: bool, rule: str, *what: object) -> None:
    """What is put into words only if it is needed: that is slow."""
    if not right:
        raise Violation(rule, " ".join(map(str, what)))
