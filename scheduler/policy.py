"""The table of policies: how many units an action gets, by name.

A policy is data: a fixed degree of parallelism, or an arranger that chooses the amounts of the
actions whose duration depends on them. Who comes first is the order's, not the policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .elastic import Elastic
from .model import UNITS_MAX
from .published import Published
from .situation import Arranger

DEFAULT = "elastic"
"""What a server and the simulator use if nothing is said."""

WEIGHT_MAX = 1e6
"""No weight of `elastic` is larger: far above any that was ever found good, and sums stay finite."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`name` as it was written, so that results can be told apart."""

    name: str
    degree: int = 1
    """Units of the key resource for an action whose amount nobody chooses: the largest feasible
    amount that is not above it, or the least feasible one."""
    overtakes: bool = False
    """An action that does not fit lets those behind it pass."""
    unlimited: bool = False
    """Means resources without a limit: a host that can pretend so (the simulator) does."""
    arranger: Arranger | None = None
    explores: bool = False
    """It tries other amounts of actions of which nobody knows how they scale."""


def parse_policy(text: str) -> Policy:
    """`fcfs`, `fixed:4`, ... Raises ValueError that says what would be right."""
    name, _, argument = text.partition(":")
    if name not in _POLICIES:
        raise ValueError(f"unknown policy {text!r}; known are {', '.join(USAGES)}")
    return _POLICIES[name](text, argument)


def _plain(text: str, argument: str) -> Policy:
    _refuse_argument(text, argument)
    return Policy(text)


def _fixed(text: str, argument: str) -> Policy:
    return Policy(text, _degree(text, argument))


def _backfill(text: str, argument: str) -> Policy:
    return Policy(text, _degree(text, argument), overtakes=True)


def _unlimited(text: str, argument: str) -> Policy:
    return Policy(text, _degree(text, argument) if argument else UNITS_MAX, unlimited=True)


def _elastic(text: str, argument: str) -> Policy:
    """With other weights than the found ones: `elastic:behind=0,waits=0`, for ablations."""
    known = [weight.name for weight in fields(Elastic)]
    weights: dict[str, Any] = {}
    for part in filter(None, argument.split(",")):
        name, _, value = part.partition("=")
        if name not in known:
            raise ValueError(
                f"policy {text!r}: elastic has no weight {name!r}, but {', '.join(known)}"
            )
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise ValueError(f"policy {text!r}: {name} needs a number, not {value!r}") from error
        right = _range_of(name, weights[name])
        if right is not None:
            raise ValueError(f"policy {text!r}: {name} is {right}, not {value}")
    return Policy(text, arranger=Elastic(**weights), explores=True)


def _range_of(name: str, value: float) -> str | None:
    """Which values the weight may have, in words; None if this is one of them."""
    if isinstance(getattr(Elastic(), name), bool):
        return None if value in (0.0, 1.0) else "0 or 1"
    if name == "load_max":
        # Prices grow with 1 / (1 - load): at a load of 1 they have no end.
        return None if 0 <= value < 1 else "from 0 to below 1"
    return None if 0 <= value <= WEIGHT_MAX else f"from 0 to {WEIGHT_MAX:g}"


def _published(text: str, argument: str) -> Policy:
    _refuse_argument(text, argument)
    return Policy(text, arranger=Published())


def _degree(text: str, argument: str) -> int:
    if not argument.isascii() or not argument.isdecimal() or not 0 < int(argument) <= UNITS_MAX:
        raise ValueError(f"policy {text!r} needs a whole number of units of at least 1, as fixed:4")
    return int(argument)


def _refuse_argument(text: str, argument: str) -> None:
    if argument:
        raise ValueError(f"policy {text!r}: {text.partition(':')[0]} takes no argument")


_POLICIES: Mapping[str, Callable[[str, str], Policy]] = {
    "fcfs": _plain,
    "fixed": _fixed,
    "backfill": _backfill,
    "unlimited": _unlimited,
    "arl-tangram": _published,
    "elastic": _elastic,
}
USAGES = ("fcfs", "fixed:N", "backfill:N", "unlimited[:N]", "arl-tangram", "elastic")
