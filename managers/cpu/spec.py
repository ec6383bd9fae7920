"""What a sandbox, and all of them, may be on a node: open points filled in, sizes checked.

Pure. Whether an image exists is its launcher's to say, and whether the node's memory is enough the
scheduler's, which knows all nodes.
"""

from __future__ import annotations

from dataclasses import replace

from ..base import SandboxSpec
from ..config import NodeConfig, SandboxConfig
from ..errors import PermanentError
from ..sizes import format_size
from .warm.pool import PoolLimits

MEMORY_BYTES_MIN = 16 << 20
"""A sandbox with less could not hold its agent and a shell."""

WARM_MEMORY_SHARE = 16
"""One part in so many of a node's memory may be taken by sandboxes that nobody has."""

STARTS_RANGE = (4, 16)
CORES_PER_START = 8
"""Sandboxes that start at once: one for so many cores, within this range."""


def pool_limits(config: NodeConfig, memory_bytes: int, cores: int) -> PoolLimits:
    """What the configuration, or else a node of this size, allows its pool."""
    least, most = STARTS_RANGE
    return PoolLimits(
        warm_max=config.warm.max,
        memory_bytes=config.warm.memory or memory_bytes // WARM_MEMORY_SHARE,
        idle_s=config.warm.idle_s,
        starts=config.sandbox.starts or min(most, max(least, cores // CORES_PER_START)),
    )


def with_defaults(spec: SandboxSpec, defaults: SandboxConfig, disk_bytes: int) -> SandboxSpec:
    """The spec with every size set; `disk_bytes` is all that the node has.

    A default never asks for what cannot be had: the disk is at most the node's, and /dev/shm, whose
    bytes count to the memory, at most half of it. What was asked for stays as it is.
    """
    memory = defaults.memory if spec.memory_bytes is None else spec.memory_bytes
    return replace(
        spec,
        memory_bytes=memory,
        disk_bytes=min(defaults.disk, disk_bytes) if spec.disk_bytes is None else spec.disk_bytes,
        shm_bytes=min(defaults.shm, memory // 2) if spec.shm_bytes is None else spec.shm_bytes,
        network=spec.network or defaults.network,
        env={**defaults.defaults.env, **spec.env},
    )


def check_sizes(spec: SandboxSpec, node: str, disk_bytes: int) -> None:
    """Raises PermanentError, naming the field and what would be right."""
    memory, disk, shm = spec.memory_bytes or 0, spec.disk_bytes or 0, spec.shm_bytes or 0
    if memory < MEMORY_BYTES_MIN:
        least = format_size(MEMORY_BYTES_MIN)
        raise PermanentError(
            f"memory: {format_size(memory)} is too little: ask for {least} or more",
            field="memory",
        )
    for name, size, most in (("disk", disk, disk_bytes), ("shm", shm, memory)):
        if not 0 < size <= most:
            raise PermanentError(
                f"{name}: {format_size(size)} cannot be had on node {node}: ask for more than 0 "
                f"and at most {format_size(most)}",
                field=name,
            )
    if spec.network not in ("none", "egress"):
        raise PermanentError(f"network: {spec.network!r} must be none or egress", field="network")
