"""The SDK: `AsyncClient`, its blocking facade `Client`, and what they answer.

Needs grpcio, protobuf and the standard library alone. Errors stand in `tangram.errors`.
"""

from .aio import AsyncClient
from .cluster import (
    ClusterStatus,
    ImageStatus,
    NodeStatus,
    QueueStatus,
    QuotaStatus,
    TaskStatus,
    Units,
    WarmStatus,
)
from .permits import AsyncPermit
from .processes import AsyncProcess, Log, ProcessInfo
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
from .sessions import AsyncSession
from .sync import Client
from .sync_background import Process, Session
from .sync_trajectories import Permit, Trajectory
from .trajectories import AsyncTrajectory

__all__ = [
    "ActionInfo",
    "AsyncClient",
    "AsyncPermit",
    "AsyncProcess",
    "AsyncSession",
    "AsyncTrajectory",
    "CallResult",
    "Client",
    "ClusterStatus",
    "Considered",
    "Copied",
    "Explanation",
    "FileStat",
    "HistoryEntry",
    "ImageStatus",
    "Log",
    "NodeStatus",
    "Permit",
    "Process",
    "ProcessInfo",
    "QueueStatus",
    "QuotaStatus",
    "Result",
    "Session",
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
