"""The SDK: `AsyncClient`, its blocking facade `Client`, and what they answer.

Needs grpcio, protobuf and the standard library alone. Errors stand in `tangram.errors`.
"""

from .aio import AsyncClient
from .cluster import (
    ClusterStatus,
    NodeStatus,
    QueueStatus,
    QuotaStatus,
    TaskStatus,
    Units,
    WarmStatus,
)
from .permits import AsyncPermit
from .results import (
    ActionInfo,
    CallResult,
    Considered,
    Copied,
    Explanation,
    FileStat,
    HistoryEntry,
    Result,
    SnapshotInfo,
    Span,
    Timing,
    TrajectoryInfo,
    Usage,
)
from .sync import Client, Permit, Trajectory
from .trajectories import AsyncTrajectory

__all__ = [
    "ActionInfo",
    "AsyncClient",
    "AsyncPermit",
    "AsyncTrajectory",
    "CallResult",
    "Client",
    "ClusterStatus",
    "Considered",
    "Copied",
    "Explanation",
    "FileStat",
    "HistoryEntry",
    "NodeStatus",
    "Permit",
    "QueueStatus",
    "QuotaStatus",
    "Result",
    "SnapshotInfo",
    "Span",
    "TaskStatus",
    "Timing",
    "Trajectory",
    "TrajectoryInfo",
    "Units",
    "Usage",
    "WarmStatus",
]
