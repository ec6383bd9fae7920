"""What a simulation runs on: nodes with cores and memory, GPUs, quotas; and the texts that say so."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..model import EMPTY, UNITS_MAX, Amounts

NODES_MAX = 10_000
CORES_MAX = 1 << 16
"""Of one node."""

GPU_NODES_MAX = 4096
GPUS_PER_NODE_MAX = 64
"""What the view of chunks counts, which the simulator is handed."""

UNNAMED_MEMORY_BYTES = UNITS_MAX
"""Memory of a node whose memory is not given: more than anything reserves, so that it limits
nothing and still tells which node has most free."""

_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE_UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_NODES = re.compile(r"(?:(\d{1,9})x)?(\d{1,9})")
_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,6})?)([kmgt]i?)?b?", re.IGNORECASE)


class NodeSpec(NamedTuple):
    name: str
    cores: int
    memory_bytes: int | None
    """None: not given, and no limit."""


class GpuSpec(NamedTuple):
    nodes: int
    per_node: int

    @property
    def total(self) -> int:
        return self.nodes * self.per_node


@dataclass(frozen=True, slots=True)
class QuotaSpec:
    """The limits of one API quota; at least one of the two is given."""

    name: str
    concurrency: int | None = None
    windows: tuple[tuple[int, float], ...] = ()
    """(rate, period_s): at most `rate` units in any stretch of `period_s` seconds."""


@dataclass(frozen=True, slots=True)
class Service:
    """A model on GPUs that scores ask. Raises ValueError for GPUs that its replicas cannot split."""

    amounts: Amounts
    """GPUs that a replica of it can run on."""
    restore_s: Mapping[int, float]
    """Per amount, seconds to bring it back to GPUs from host memory when it is not there."""
    dedicated_gpus: int
    """GPUs that it has to itself, all replicas together, where nothing is shared."""
    replicas: int = 1
    """Replicas among which the dedicated GPUs are split."""
    room: Mapping[int, float] = field(default_factory=lambda: EMPTY)
    """Per amount, the share of each of these GPUs that it takes while it stays there unused; all of
    it if nothing is said, so that no other stays beside it."""

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.dedicated_gpus < 1 or self.dedicated_gpus % self.replicas:
            raise ValueError(
                f"{self.dedicated_gpus} GPUs cannot be split among {self.replicas} replicas"
            )

    @property
    def degree(self) -> int:
        """GPUs of one dedicated replica."""
        return self.dedicated_gpus // self.replicas


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Quotas that a trace names and the cluster does not are without a limit; services, if they are
    not named here, are restored in no time."""

    nodes: tuple[NodeSpec, ...]
    gpus: GpuSpec | None = None
    quotas: tuple[QuotaSpec, ...] = ()
    services: Mapping[str, Service] = field(default_factory=lambda: EMPTY)
    """By name, what runs on the GPUs."""

    @property
    def cores(self) -> int:
        return sum(node.cores for node in self.nodes)


def parse_nodes(text: str) -> ClusterSpec:
    """ "5x256x2400Gi" is five nodes of 256 cores and 2400 GiB each, "2x64" two without a limit of
    memory, "256" one. Raises ValueError."""
    right = "nodes are written NODESxCORES[xMEMORY], as 5x256x2400Gi, or CORES, as 256"
    head, memory = text.strip(), ""
    if head.count("x") == 2:
        head, _, memory = head.rpartition("x")
    match = _NODES.fullmatch(head)
    if match is None or (memory and match[1] is None):
        raise ValueError(f"{right}, not {text!r}")
    count, cores = int(match[1] or 1), int(match[2])
    if not 1 <= count <= NODES_MAX:
        raise ValueError(f"nodes: 1 to {NODES_MAX} are possible, not {count} as in {text!r}")
    if not 1 <= cores <= CORES_MAX:
        raise ValueError(f"cores: 1 to {CORES_MAX} of a node are possible, not {cores}")
    memory_bytes = _parse_size(memory, text) if text.strip().count("x") == 2 else None
    return ClusterSpec(tuple(NodeSpec(f"node{i}", cores, memory_bytes) for i in range(count)))


def _parse_size(size: str, text: str) -> int:
    match = _SIZE.fullmatch(size)
    size_bytes = float(match[1]) * _SIZE_UNITS[(match[2] or "").lower()] if match else math.nan
    if not 1 <= size_bytes <= UNITS_MAX:
        raise ValueError(f"memory is a size from 1 to 1024Ti, as 2400Gi, not {size!r} in {text!r}")
    return int(size_bytes)


def parse_gpus(text: str) -> GpuSpec:
    """ "5x8" is five nodes of eight GPUs, "8" one. A node has a power of two, since a grant is one
    aligned chunk of it. Raises ValueError."""
    match = _NODES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"GPUs are written NODESxGPUS, as 5x8, or GPUS, as 8, not {text!r}")
    count, per_node = int(match[1] or 1), int(match[2])
    if not (1 <= count <= GPU_NODES_MAX and 1 <= per_node <= GPUS_PER_NODE_MAX):
        raise ValueError(
            f"GPUs: 1 to {GPU_NODES_MAX} nodes of 1 to {GPUS_PER_NODE_MAX}, not {text!r}"
        )
    if per_node & (per_node - 1):
        raise ValueError(f"GPUs of a node are a power of two, such as 4 or 8, not {per_node}")
    return GpuSpec(count, per_node)
