"""Reads the machine's shape from /sys: which cores are online, and the NUMA node of each.

The only reader of it; what is done with the shape is `cores.py`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from .cores import Topology, parse_cores

_NODES = Path("/sys/devices/system/node")


def read_topology(nodes: Path = _NODES) -> Topology:
    """core -> NUMA node; every core on node 0 where the kernel tells nothing."""
    node_of: dict[int, int] = {}
    for folder in sorted(nodes.glob("node[0-9]*")):
        node = int(folder.name.removeprefix("node"))
        try:
            cores = parse_cores((folder / "cpulist").read_text())
        except OSError:
            continue  # The node went offline between the listing and the reading.
        node_of.update(dict.fromkeys(cores, node))
    return Topology(node_of)


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may run on: what a server started on a part of a machine owns."""
    return tuple(sorted(os.sched_getaffinity(0)))
