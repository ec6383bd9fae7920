"""The RPCs that the client asks, as typed values: path, request and answer. Nothing else.

The generated stubs carry no types; here a request cannot meet the wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from ..v1 import actions_pb2 as actions
from ..v1 import cluster_pb2 as cluster
from ..v1 import trajectories_pb2 as trajectories

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Answer]):
    """One RPC. Whether a side streams is the caller's knowledge."""

    service: str
    name: str
    request: type[Request]
    answer: type[Answer]

    @property
    def path(self) -> str:
        return f"/tangram.v1.{self.service}/{self.name}"


RUN = Method("Actions", "Run", actions.RunRequest, actions.RunResponse)
RUN_MANY = Method("Actions", "RunMany", actions.RunRequest, actions.RunManyResponse)
SUBMIT = Method("Actions", "Submit", actions.SubmitRequest, actions.SubmitResponse)
WAIT = Method("Actions", "Wait", actions.WaitRequest, actions.WaitResponse)
OUTPUT = Method("Actions", "Output", actions.OutputRequest, actions.OutputResponse)
CANCEL = Method("Actions", "Cancel", actions.CancelRequest, actions.CancelResponse)
GET = Method("Actions", "Get", actions.GetRequest, actions.GetResponse)
LIST = Method("Actions", "List", actions.ListRequest, actions.ListResponse)
EXPLAIN = Method("Actions", "Explain", actions.ExplainRequest, actions.ExplainResponse)
ACQUIRE = Method("Actions", "Acquire", actions.AcquireRequest, actions.AcquireResponse)
RELEASE = Method("Actions", "Release", actions.ReleaseRequest, actions.ReleaseResponse)

OPEN = Method("Trajectories", "Open", trajectories.OpenRequest, trajectories.OpenResponse)
ATTACH = Method("Trajectories", "Attach", trajectories.AttachRequest, trajectories.AttachResponse)
KEEP_ALIVE = Method(
    "Trajectories", "KeepAlive", trajectories.KeepAliveRequest, trajectories.KeepAliveResponse
)
CLOSE = Method("Trajectories", "Close", trajectories.CloseRequest, trajectories.CloseResponse)
READ_FILE = Method(
    "Trajectories", "ReadFile", trajectories.ReadFileRequest, trajectories.ReadFileResponse
)
WRITE_FILE = Method(
    "Trajectories", "WriteFile", trajectories.WriteFileRequest, trajectories.WriteFileResponse
)
READ_TREE = Method(
    "Trajectories", "ReadTree", trajectories.ReadTreeRequest, trajectories.ReadTreeResponse
)
WRITE_TREE = Method(
    "Trajectories", "WriteTree", trajectories.WriteTreeRequest, trajectories.WriteTreeResponse
)
LIST_FILES = Method(
    "Trajectories", "ListFiles", trajectories.ListFilesRequest, trajectories.ListFilesResponse
)
FORK = Method("Trajectories", "Fork", trajectories.ForkRequest, trajectories.ForkResponse)
SNAPSHOT = Method(
    "Trajectories", "Snapshot", trajectories.SnapshotRequest, trajectories.SnapshotResponse
)
RESTORE = Method(
    "Trajectories", "Restore", trajectories.RestoreRequest, trajectories.RestoreResponse
)
DROP_SNAPSHOT = Method(
    "Trajectories",
    "DropSnapshot",
    trajectories.DropSnapshotRequest,
    trajectories.DropSnapshotResponse,
)
LIST_SNAPSHOTS = Method(
    "Trajectories",
    "ListSnapshots",
    trajectories.ListSnapshotsRequest,
    trajectories.ListSnapshotsResponse,
)
STAT = Method("Trajectories", "Stat", trajectories.StatRequest, trajectories.StatResponse)

SESSION_INPUT = Method(
    "Trajectories",
    "SessionInput",
    trajectories.SessionInputRequest,
    trajectories.SessionInputResponse,
)
START_PROCESS = Method(
    "Trajectories",
    "StartProcess",
    trajectories.StartProcessRequest,
    trajectories.StartProcessResponse,
)
WAIT_PROCESS = Method(
    "Trajectories",
    "WaitProcess",
    trajectories.WaitProcessRequest,
    trajectories.WaitProcessResponse,
)
STOP_PROCESS = Method(
    "Trajectories",
    "StopProcess",
    trajectories.StopProcessRequest,
    trajectories.StopProcessResponse,
)
WAIT_PORT = Method(
    "Trajectories", "WaitPort", trajectories.WaitPortRequest, trajectories.WaitPortResponse
)

STATUS = Method("Cluster", "Status", cluster.StatusRequest, cluster.StatusResponse)
IMAGES = Method("Cluster", "Images", cluster.ImagesRequest, cluster.ImagesResponse)
PREFETCH = Method("Cluster", "Prefetch", cluster.PrefetchRequest, cluster.PrefetchResponse)
WATCH = Method("Cluster", "Watch", cluster.WatchRequest, cluster.StatusResponse)
