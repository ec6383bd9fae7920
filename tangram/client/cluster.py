"""What `status` answers: the pool as plain frozen data, made from the wire's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..v1 import cluster_pb2
from .results import ActionInfo, Timing, action_info, timing_from


@dataclass(frozen=True, slots=True)
class Units:
    total: int
    granted: int
    free: int


@dataclass(frozen=True, slots=True)
class WarmStatus:
    """Sandboxes of one image that are started ahead of need, and how starting them goes."""

    launcher: str
    image: str
    """"" without an image."""
    ready: int
    starting: int
    """For trajectories that wait, and ahead of need."""
    wanted: int
    """How many are to stand ready."""
    start: float
    """Seconds that a start takes."""
    problem: str
    """Why starts fail, and when the next try is; "" if they do not."""
    retry: float
    """Seconds for which its trajectories are refused; 0 if they are not."""
    hits: int
    """Trajectories that got one that stood ready."""
    misses: int
    """Those that waited for one."""
    failed: int
    """Starts that failed, and sandboxes that died before anybody had them."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    launcher: str
    """The default one, for actions without an image."""
    cores: Units
    memory: Units
    """Bytes."""
    limits: Mapping[str, str]
    """memory, disk, pids, shm, cores -> hard or soft."""
    sandboxes: Mapping[str, int]
    """State -> number."""
    warm: tuple[WarmStatus, ...] = ()
    """Of the sandboxes that nobody has yet: one for each image, failing ones first."""


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    name: str
    limit: int
    """Concurrency, or units per period: see the description."""
    in_use: int
    description: str
    closed_for: float | None
    """Seconds, if a Retry-After has closed it."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    resource: str
    waiting: int
    """Actions."""
    reason: str
    """The commonest of theirs."""
    waiting_units: int


@dataclass(frozen=True, slots=True)
class TaskStatus:
    name: str
    waiting: int
    running: int
    ended: int
    trajectories: int
    mean: Timing | None
    """Over its ended actions."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    version: str
    nodes: tuple[NodeStatus, ...]
    quotas: tuple[QuotaStatus, ...]
    queues: tuple[QueueStatus, ...]
    tasks: tuple[TaskStatus, ...]
    uptime: float
    """Seconds."""
    actions: tuple[ActionInfo, ...]
    """The longest running and waiting now, at most 50."""


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """An image on a node, or one that is to come."""

    name: str
    node: str
    digest: str
    """Of its manifest, or the id of one that came from no registry; "" until it is known."""
    state: str
    """present, queued, pulling, backing-off or failed."""
    size: int | None
    """Bytes, with layers that it shares with others; None until it is there."""
    in_use: int
    """Sandboxes that have it."""
    pinned: bool
    """It is not evicted when the disk is full."""
    pulled: bool
    """Tangram pulled it, and so may evict it."""
    last_used_unix: float | None
    fraction: float | None
    """Of the pull, 0 to 1."""
    message: str
    """Why the pull pauses or failed."""


def cluster_status(message: cluster_pb2.StatusResponse) -> ClusterStatus:
    return ClusterStatus(
        version=message.version,
        nodes=tuple(
            NodeStatus(
                name=node.name,
                launcher=node.launcher,
                cores=_units(node.cores),
                memory=_units(node.memory),
                limits=dict(node.limits),
                sandboxes=dict(node.sandboxes),
                warm=tuple(
                    WarmStatus(
                        launcher=warm.launcher,
                        image=warm.image,
                        ready=warm.ready,
                        starting=warm.starting,
                        wanted=warm.wanted,
                        start=warm.start_s,
                        problem=warm.problem,
                        retry=warm.retry_s,
                        hits=warm.hits,
                        misses=warm.misses,
                        failed=warm.failed,
                    )
                    for warm in node.warm
                ),
            )
            for node in message.nodes
        ),
        quotas=tuple(
            QuotaStatus(
                name=quota.name,
                limit=quota.limit,
                in_use=quota.in_use,
                description=quota.description,
                closed_for=quota.closed_for_s if quota.HasField("closed_for_s") else None,
            )
            for quota in message.quotas
        ),
        queues=tuple(
            QueueStatus(
                resource=queue.resource,
                waiting=queue.waiting,
                reason=queue.reason,
                waiting_units=queue.waiting_units,
            )
            for queue in message.queues
        ),
        tasks=tuple(
            TaskStatus(
                name=task.name,
                waiting=task.waiting,
                running=task.running,
                ended=task.ended,
                trajectories=task.trajectories,
                mean=timing_from(task.mean) if task.HasField("mean") else None,
            )
            for task in message.tasks
        ),
        uptime=message.uptime_s,
        actions=tuple(action_info(action) for action in message.running),
    )


def image_status(message: cluster_pb2.Image) -> ImageStatus:
    return ImageStatus(
        name=message.name,
        node=message.node,
        digest=message.digest,
        state=message.state,
        size=message.size_bytes if message.HasField("size_bytes") else None,
        in_use=message.in_use,
        pinned=message.pinned,
        pulled=message.pulled,
        last_used_unix=message.last_used_unix_s if message.HasField("last_used_unix_s") else None,
        fraction=message.fraction if message.HasField("fraction") else None,
        message=message.message,
    )


def _units(message: cluster_pb2.Units) -> Units:
    return Units(message.total, message.granted, message.free)
