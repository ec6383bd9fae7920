"""The texts that say what a simulation runs on."""

from __future__ import annotations

import pytest

from tangram.managers.gpu.view import NODES_MAX, PER_NODE_MAX
from tangram.scheduler.simulator.cluster import (
    GPU_NODES_MAX,
    GPUS_PER_NODE_MAX,
    GpuSpec,
    NodeSpec,
    parse_gpus,
    parse_nodes,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "count", "node"),
    [
        ("5x256x2400Gi", 5, NodeSpec("node0", 256, 2400 * GIB)),
        ("256", 1, NodeSpec("node0", 256, None)),
        ("2x64", 2, NodeSpec("node0", 64, None)),
        ("1x8x1.5Gi", 1, NodeSpec("node0", 8, 3 * GIB // 2)),
        ("1x8x500M", 1, NodeSpec("node0", 8, 500_000_000)),
        ("1x8x4096", 1, NodeSpec("node0", 8, 4096)),
    ],
)
def test_nodes_are_read(text: str, count: int, node: NodeSpec) -> None:
    cluster = parse_nodes(text)
    assert [other.name for other in cluster.nodes] == [f"node{i}" for i in range(count)]
    assert cluster.nodes[0] == node
    assert cluster.cores == count * node.cores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nodes are written NODESxCORES"),
        ("x", "nodes are written"),
        ("5x", "nodes are written"),
        ("-1x4", "nodes are written"),
        ("64x256Gi", "nodes are written"),
        ("1x2x3x4", "nodes are written"),
        ("0x4", "nodes: 1 to 10000 are possible, not 0"),
        ("20000x4", "nodes: 1 to 10000"),
        ("4x0", "cores: 1 to 65536 of a node"),
        ("1x99999", "cores: 1 to 65536 of a node are possible, not 99999"),
        ("1x4x", "memory is a size"),
        ("1x4x0Gi", "memory is a size .* not '0Gi'"),
        ("1x4x9Zi", "memory is a size"),
        ("1x4x9999999Ti", "memory is a size"),
    ],
)
def test_malformed_nodes_are_refused_with_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_nodes(text)


def test_gpus_are_read() -> None:
    assert parse_gpus("5x8") == GpuSpec(5, 8)
    assert parse_gpus("8") == GpuSpec(1, 8)
    assert parse_gpus("5x8").total == 40


@pytest.mark.parametrize(
    "text", ["", "8x", "0", "2x0", "a", "1x1x1", "6", "2x12", "1x128", "4097x8", "99999999x1"]
)
def test_malformed_gpus_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="GPUs"):
        parse_gpus(text)


def test_gpus_are_limited_as_the_view_that_counts_them_is() -> None:
    most = GpuSpec(NODES_MAX, PER_NODE_MAX)
    assert parse_gpus(f"{NODES_MAX}x{PER_NODE_MAX}") == most
    assert most == (GPU_NODES_MAX, GPUS_PER_NODE_MAX)
