"""What to do: the only output of the scheduler. Serialisable data; the dispatcher makes each one a
task against a manager, and the outcome of that task comes back as the next event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .model import EndReason, ResourceId, State


@dataclass(frozen=True, slots=True)
class Place:
    """Start this trajectory's sandbox on this node. Answered by SandboxReady or SandboxLost."""

    trajectory: str
    node: str
    token: int


class Grant(NamedTuple):
    """These units, on this node, for this action: all or nothing. The node's manager chooses which
    cores; answered by Started, then ActionEnded, then LeaseReleased. One pass makes thousands, and
    a tuple is made in half the time of a frozen dataclass."""

    action: str
    node: str
    token: int
    amounts: Mapping[ResourceId, int]


@dataclass(frozen=True, slots=True)
class Resize:
    """Change a running action's units to these. Growing units are taken already; shrinking ones
    are free when Resized confirms. `change` is a token of its own, which the answer repeats."""

    action: str
    node: str
    token: int
    amounts: Mapping[ResourceId, int]
    change: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop a granted action and confirm with LeaseReleased. Its end is decided already."""

    action: str
    node: str
    token: int


@dataclass(frozen=True, slots=True)
class End:
    """The action ends without a result."""

    action: str
    state: State
    reason: EndReason
    message: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """From now on nothing younger takes these units before this action: it was overtaken often
    enough. Told once per action; `explain` shows it."""

    action: str
    resources: tuple[ResourceId, ...]


Decision = Place | Grant | Resize | Kill | End | Reserve
