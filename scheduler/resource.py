"""What the scheduler asks of a resource, and the linear view that serves cores and memory.

A view counts; it does not queue and does not decide. Views with their own topology (GPU chunks) or
windows (quotas) live with their managers and are handed to the scheduler by name, so that the live
server and the simulator count alike.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .model import Capacity, WaitReason
from .operators import LinearUnits, Operator


class ResourceView(Protocol):
    """The free and taken units of one resource. Tokens are the scheduler's fencing tokens."""

    @property
    def total(self) -> int: ...

    @property
    def taken(self) -> int:
        """Units held by grants now."""
        ...

    def largest(self) -> int:
        """The most that a single grant could ever get."""
        ...

    def free(self, now: float) -> int:
        """The most that a single grant could get at `now`; 0 while closed."""
        ...

    def operator(self, now: float) -> Operator:
        """What is free at `now`, for arithmetic: which amounts could be granted together."""
        ...

    def take(self, token: int, amount: int, now: float, tag: str = "") -> None:
        """`tag` says what the grant is for, such as a service's name; units that differ by what
        they last served are chosen by it. Raises ValueError if `amount` is more than `free(now)` or
        the token is known."""
        ...

    def could_resize(self, token: int, amount: int, now: float) -> bool:
        """Whether `resize` would do it."""
        ...

    def resize(self, token: int, amount: int, now: float) -> None:
        """Change what a token holds. Raises ValueError if it does not fit or is unknown."""
        ...

    def give(self, token: int, now: float) -> None:
        """Return what the token holds; an unknown token is nothing to return."""
        ...

    def next_change(self, now: float) -> float | None:
        """When `free` grows by the mere passing of time; None if it never does."""
        ...

    def why_short(self, amount: int, now: float) -> WaitReason:
        """Why `amount` is not free now."""
        ...

    def adjust(self, capacity: Capacity, now: float) -> None:
        """The capacity changed. Held units stay held, even above a smaller total."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """A view whose units have to be made ready for some grants before these can run on them. Tags
    are those of `take`."""

    def prepare_s(self, tag: str, amount: int, now: float) -> float:
        """How long a grant of `amount` made at `now` would have to be prepared; if so much is not
        free, as `restore_s`."""
        ...

    def restore_s(self, tag: str, amount: int) -> float:
        """How long it takes where nothing is ready."""
        ...

    def prepare_after_s(self, tag: str, amount: int, token: int) -> float:
        """How long a grant of `amount` made of what this token holds would have to be prepared."""
        ...

    def preparing_s(self, token: int) -> float:
        """How long the grant under this token had to be prepared; 0 for an unknown token."""
        ...


class LinearView:
    """Units that are all alike: cores of a node, bytes of memory."""

    def __init__(self, capacity: Capacity) -> None:
        self._kind = capacity.resource.kind
        self._total = capacity.total
        self._held: dict[int, int] = {}
        self._taken = 0

    @property
    def total(self) -> int:
        return self._total

    @property
    def taken(self) -> int:
        return self._taken

    def largest(self) -> int:
        return self._total

    def free(self, now: float) -> int:
        return max(0, self._total - self._taken)

    def operator(self, now: float) -> LinearUnits:
        return LinearUnits(self.free(now))

    def take(self, token: int, amount: int, now: float, tag: str = "") -> None:
        if token in self._held:
            raise ValueError(f"token {token} already holds {self._held[token]} {self._kind}")
        if amount > self._total - self._taken:
            raise ValueError(f"{amount} {self._kind} asked for, {self.free(now)} free")
        self._held[token] = amount
        self._taken += amount

    def could_resize(self, token: int, amount: int, now: float) -> bool:
        return token in self._held and amount - self._held[token] <= self.free(now)

    def resize(self, token: int, amount: int, now: float) -> None:
        if token not in self._held:
            raise ValueError(f"token {token} holds no {self._kind}")
        if amount - self._held[token] > self.free(now):
            raise ValueError(f"{amount} {self._kind} asked for, {self.free(now)} more are free")
        self._taken += amount - self._held[token]
        self._held[token] = amount

    def give(self, token: int, now: float) -> None:
        self._taken -= self._held.pop(token, 0)

    def next_change(self, now: float) -> float | None:
        return None

    def why_short(self, amount: int, now: float) -> WaitReason:
        return WaitReason.MEMORY if self._kind == "memory" else WaitReason.CORES

    def adjust(self, capacity: Capacity, now: float) -> None:
        self._total = capacity.total
