"""What a pod of the baseline asks for, and the text that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass

POD_POLICY = "pod"

ROUNDING = 1e-9
"""Requests are fractions: 256 cores hold 2560 pods of 0.1."""

LEAST, MOST = 0.001, 1e9
"""Of any figure; Kubernetes counts cores in thousandths. A delay may be zero."""

_RIGHT = "pod:request=CORES,limit=CORES[,pods=N][,delay=SECONDS][,rate=PER_SECOND]"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What each trajectory's pod asks for, and how fast pods come."""

    request: float
    """Cores that its node has to have unrequested."""
    limit: float
    """The most cores that it can use."""
    pods: int | None = None
    """Of one node at most; None: as many as their requests allow. Kubernetes' default is 110."""
    delay_s: float = 0.0
    rate: float | None = None
    """Pods created per second by the whole cluster; None: all at once."""

    def slots(self, cores: int) -> int:
        """How many pods a node of so many cores holds."""
        by_request = math.floor(cores / self.request + ROUNDING)
        return by_request if self.pods is None else min(by_request, self.pods)


def parse_pod(text: str) -> PodSpec:
    """ "pod:request=0.5,limit=4,pods=110,delay=5". Raises ValueError."""
    policy, _, rest = text.partition(":")
    values: dict[str, float] = {}
    for part in rest.split(","):
        name, _, number = part.strip().partition("=")
        if name not in ("request", "limit", "pods", "delay", "rate") or name in values:
            raise ValueError(f"pods are described as {_RIGHT}, not {part.strip()!r} in {text!r}")
        values[name] = _parse_number(name, number, text)
    if policy != POD_POLICY or not {"request", "limit"} <= values.keys():
        raise ValueError(f"pods are described as {_RIGHT}, not {text!r}")
    pods = int(values["pods"]) if "pods" in values else None
    return PodSpec(
        values["request"], values["limit"], pods, values.get("delay", 0.0), values.get("rate")
    )


def _parse_number(name: str, number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (0 if name == "delay" else LEAST) <= value <= MOST:
        raise ValueError(f"{name} of a pod is a number from {LEAST} to {MOST:g}, not {number!r}")
    if name == "pods" and value != int(value):
        raise ValueError(f"pods are counted in whole numbers, not {number!r} in {text!r}")
    return value
