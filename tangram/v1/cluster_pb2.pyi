from tangram.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("interval_s",)
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    interval_s: float
    def __init__(self, interval_s: _Optional[float] = ...) -> None: ...

class Units(_message.Message):
    __slots__ = ("total", "granted", "free")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    total: int
    granted: int
    free: int
    def __init__(self, total: _Optional[int] = ..., granted: _Optional[int] = ..., free: _Optional[int] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("name", "launcher", "cores", "memory", "limits", "sandboxes", "warm")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SandboxesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    name: str
    launcher: str
    cores: Units
    memory: Units
    limits: _containers.ScalarMap[str, str]
    sandboxes: _containers.ScalarMap[str, int]
    warm: _containers.RepeatedCompositeFieldContainer[WarmStatus]
    def __init__(self, name: _Optional[str] = ..., launcher: _Optional[str] = ..., cores: _Optional[_Union[Units, _Mapping]] = ..., memory: _Optional[_Union[Units, _Mapping]] = ..., limits: _Optional[_Mapping[str, str]] = ..., sandboxes: _Optional[_Mapping[str, int]] = ..., warm: _Optional[_Iterable[_Union[WarmStatus, _Mapping]]] = ...) -> None: ...

class WarmStatus(_message.Message):
    __slots__ = ("launcher", "image", "ready", "starting", "wanted", "start_s", "problem", "retry_s", "hits", "misses", "started", "start_seconds", "failed")
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    STARTING_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    RETRY_S_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    START_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    launcher: str
    image: str
    ready: int
    starting: int
    wanted: int
    start_s: float
    problem: str
    retry_s: float
    hits: int
    misses: int
    started: int
    start_seconds: float
    failed: int
    def __init__(self, launcher: _Optional[str] = ..., image: _Optional[str] = ..., ready: _Optional[int] = ..., starting: _Optional[int] = ..., wanted: _Optional[int] = ..., start_s: _Optional[float] = ..., problem: _Optional[str] = ..., retry_s: _Optional[float] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., started: _Optional[int] = ..., start_seconds: _Optional[float] = ..., failed: _Optional[int] = ...) -> None: ...

class QuotaStatus(_message.Message):
    __slots__ = ("name", "limit", "in_use", "description", "closed_for_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FOR_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    limit: int
    in_use: int
    description: str
    closed_for_s: float
    def __init__(self, name: _Optional[str] = ..., limit: _Optional[int] = ..., in_use: _Optional[int] = ..., description: _Optional[str] = ..., closed_for_s: _Optional[float] = ...) -> None: ...

class QueueStatus(_message.Message):
    __slots__ = ("resource", "waiting", "reason", "waiting_units")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAITING_UNITS_FIELD_NUMBER: _ClassVar[int]
    resource: str
    waiting: int
    reason: str
    waiting_units: int
    def __init__(self, resource: _Optional[str] = ..., waiting: _Optional[int] = ..., reason: _Optional[str] = ..., waiting_units: _Optional[int] = ...) -> None: ...

class TaskStatus(_message.Message):
    __slots__ = ("name", "waiting", "running", "ended", "trajectories", "mean")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    name: str
    waiting: int
    running: int
    ended: int
    trajectories: int
    mean: _types_pb2.Timing
    def __init__(self, name: _Optional[str] = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., ended: _Optional[int] = ..., trajectories: _Optional[int] = ..., mean: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "nodes", "quotas", "queues", "tasks", "uptime_s", "running")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    version: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    quotas: _containers.RepeatedCompositeFieldContainer[QuotaStatus]
    queues: _containers.RepeatedCompositeFieldContainer[QueueStatus]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStatus]
    uptime_s: float
    running: _containers.RepeatedCompositeFieldContainer[_types_pb2.Action]
    def __init__(self, version: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., quotas: _Optional[_Iterable[_Union[QuotaStatus, _Mapping]]] = ..., queues: _Optional[_Iterable[_Union[QueueStatus, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[TaskStatus, _Mapping]]] = ..., uptime_s: _Optional[float] = ..., running: _Optional[_Iterable[_Union[_types_pb2.Action, _Mapping]]] = ...) -> None: ...

class ImagesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class PrefetchRequest(_message.Message):
    __slots__ = ("task", "images")
    TASK_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    task: str
    images: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task: _Optional[str] = ..., images: _Optional[_Iterable[str]] = ...) -> None: ...

class PrefetchResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("name", "node", "digest", "state", "size_bytes", "in_use", "pinned", "pulled", "last_used_unix_s", "fraction", "message")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PULLED_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    digest: str
    state: str
    size_bytes: int
    in_use: int
    pinned: bool
    pulled: bool
    last_used_unix_s: float
    fraction: float
    message: str
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., digest: _Optional[str] = ..., state: _Optional[str] = ..., size_bytes: _Optional[int] = ..., in_use: _Optional[int] = ..., pinned: bool = ..., pulled: bool = ..., last_used_unix_s: _Optional[float] = ..., fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...
