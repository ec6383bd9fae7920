"""What a simulation may be served by: the scheduler's policies, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Collection

from ..policy import USAGES, parse_policy
from .dedicated import DEDICATED_POLICY
from .podspec import POD_POLICY, parse_pod

POLICIES = (*USAGES, f"{POD_POLICY}:request=CORES,limit=CORES", DEDICATED_POLICY)
"""All of them, as they are written."""

_NAMES = frozenset(usage.partition(":")[0].partition("[")[0] for usage in POLICIES)


def check_policy(policy: str, services: Collection[str]) -> None:
    """`services` are those of which is known how many GPUs each has to itself. Raises ValueError
    that says what would be right."""
    name = policy.partition(":")[0]
    if name not in _NAMES:
        raise ValueError(f"unknown policy {policy!r}; known are {', '.join(POLICIES)}")
    if name == POD_POLICY:
        parse_pod(policy)
    elif policy != DEDICATED_POLICY:
        parse_policy(policy)
    elif not services:
        raise ValueError(
            f"policy {policy!r} gives each service GPUs of its own, and nothing says how many: it is"
            " for workloads with services, such as mopd-deepsearch"
        )


def is_pod(policy: str) -> bool:
    """Whether it is the baseline without a scheduler, and so without an order of service."""
    return policy.partition(":")[0] == POD_POLICY
