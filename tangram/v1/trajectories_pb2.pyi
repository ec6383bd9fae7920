from tangram.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrajectoryState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRAJECTORY_STATE_UNSPECIFIED: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_WAITING: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_STARTING: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_READY: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_LOST: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_CLOSED: _ClassVar[TrajectoryState]
TRAJECTORY_STATE_UNSPECIFIED: TrajectoryState
TRAJECTORY_STATE_WAITING: TrajectoryState
TRAJECTORY_STATE_STARTING: TrajectoryState
TRAJECTORY_STATE_READY: TrajectoryState
TRAJECTORY_STATE_LOST: TrajectoryState
TRAJECTORY_STATE_CLOSED: TrajectoryState

class TrajectorySpec(_message.Message):
    __slots__ = ("id", "task", "image", "group", "step", "priority", "labels", "memory_bytes", "disk_bytes", "shm_bytes", "network", "user", "workdir", "env", "shell", "concurrency", "ttl_s", "pull", "snapshot")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    SHELL_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    image: str
    group: str
    step: int
    priority: int
    labels: _containers.ScalarMap[str, str]
    memory_bytes: int
    disk_bytes: int
    shm_bytes: int
    network: str
    user: str
    workdir: str
    env: _containers.ScalarMap[str, str]
    shell: _containers.RepeatedScalarFieldContainer[str]
    concurrency: int
    ttl_s: float
    pull: str
    snapshot: str
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., image: _Optional[str] = ..., group: _Optional[str] = ..., step: _Optional[int] = ..., priority: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., memory_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., shm_bytes: _Optional[int] = ..., network: _Optional[str] = ..., user: _Optional[str] = ..., workdir: _Optional[str] = ..., env: _Optional[_Mapping[str, str]] = ..., shell: _Optional[_Iterable[str]] = ..., concurrency: _Optional[int] = ..., ttl_s: _Optional[float] = ..., pull: _Optional[str] = ..., snapshot: _Optional[str] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("id", "task", "state", "node", "launcher", "image", "message", "limits", "workdir", "error", "forked_from", "image_digest", "preparing")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREPARING_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    state: TrajectoryState
    node: str
    launcher: str
    image: str
    message: str
    limits: _containers.ScalarMap[str, str]
    workdir: str
    error: _types_pb2.Error
    forked_from: str
    image_digest: str
    preparing: str
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., state: _Optional[_Union[TrajectoryState, str]] = ..., node: _Optional[str] = ..., launcher: _Optional[str] = ..., image: _Optional[str] = ..., message: _Optional[str] = ..., limits: _Optional[_Mapping[str, str]] = ..., workdir: _Optional[str] = ..., error: _Optional[_Union[_types_pb2.Error, _Mapping]] = ..., forked_from: _Optional[str] = ..., image_digest: _Optional[str] = ..., preparing: _Optional[str] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("trajectory",)
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    trajectory: TrajectorySpec
    def __init__(self, trajectory: _Optional[_Union[TrajectorySpec, _Mapping]] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("trajectory",)
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    trajectory: Trajectory
    def __init__(self, trajectory: _Optional[_Union[Trajectory, _Mapping]] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("id", "wait_ready_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_READY_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    wait_ready_s: float
    def __init__(self, id: _Optional[str] = ..., wait_ready_s: _Optional[float] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("trajectory",)
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    trajectory: Trajectory
    def __init__(self, trajectory: _Optional[_Union[Trajectory, _Mapping]] = ...) -> None: ...

class KeepAliveRequest(_message.Message):
    __slots__ = ("task", "lease_s")
    TASK_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    task: str
    lease_s: float
    def __init__(self, task: _Optional[str] = ..., lease_s: _Optional[float] = ...) -> None: ...

class KeepAliveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("trajectory", "ids")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, trajectory: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("trajectories", "skipped")
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    trajectories: _containers.RepeatedCompositeFieldContainer[Trajectory]
    skipped: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, trajectories: _Optional[_Iterable[_Union[Trajectory, _Mapping]]] = ..., skipped: _Optional[_Iterable[str]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("trajectory", "name", "ttl_s")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    name: str
    ttl_s: float
    def __init__(self, trajectory: _Optional[str] = ..., name: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("name", "task", "trajectory", "node", "image", "size_bytes", "skipped")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    name: str
    task: str
    trajectory: str
    node: str
    image: str
    size_bytes: int
    skipped: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., task: _Optional[str] = ..., trajectory: _Optional[str] = ..., node: _Optional[str] = ..., image: _Optional[str] = ..., size_bytes: _Optional[int] = ..., skipped: _Optional[_Iterable[str]] = ...) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("trajectory", "name")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    name: str
    def __init__(self, trajectory: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DropSnapshotRequest(_message.Message):
    __slots__ = ("task", "name")
    TASK_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    task: str
    name: str
    def __init__(self, task: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DropSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ...) -> None: ...

class ReadFileRequest(_message.Message):
    __slots__ = ("trajectory", "path", "offset", "limit")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    path: str
    offset: int
    limit: int
    def __init__(self, trajectory: _Optional[str] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ReadFileResponse(_message.Message):
    __slots__ = ("data", "size")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    size: int
    def __init__(self, data: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class WriteFileRequest(_message.Message):
    __slots__ = ("trajectory", "path", "mode", "data")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    path: str
    mode: int
    data: bytes
    def __init__(self, trajectory: _Optional[str] = ..., path: _Optional[str] = ..., mode: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteFileResponse(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class ReadTreeRequest(_message.Message):
    __slots__ = ("trajectory", "path")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    path: str
    def __init__(self, trajectory: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ReadTreeResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class WriteTreeRequest(_message.Message):
    __slots__ = ("trajectory", "path", "data")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    path: str
    data: bytes
    def __init__(self, trajectory: _Optional[str] = ..., path: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteTreeResponse(_message.Message):
    __slots__ = ("files", "size")
    FILES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    files: int
    size: int
    def __init__(self, files: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class FileInfo(_message.Message):
    __slots__ = ("name", "kind", "size", "mode", "modified_unix_s", "target")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    size: int
    mode: int
    modified_unix_s: float
    target: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., size: _Optional[int] = ..., mode: _Optional[int] = ..., modified_unix_s: _Optional[float] = ..., target: _Optional[str] = ...) -> None: ...

class ListFilesRequest(_message.Message):
    __slots__ = ("trajectory", "path")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    path: str
    def __init__(self, trajectory: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ListFilesResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[FileInfo]
    def __init__(self, files: _Optional[_Iterable[_Union[FileInfo, _Mapping]]] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("trajectory", "path")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    path: str
    def __init__(self, trajectory: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class StatResponse(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: FileInfo
    def __init__(self, file: _Optional[_Union[FileInfo, _Mapping]] = ...) -> None: ...

class SessionInputRequest(_message.Message):
    __slots__ = ("trajectory", "session", "data", "interrupt", "close")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    INTERRUPT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    session: str
    data: bytes
    interrupt: bool
    close: bool
    def __init__(self, trajectory: _Optional[str] = ..., session: _Optional[str] = ..., data: _Optional[bytes] = ..., interrupt: bool = ..., close: bool = ...) -> None: ...

class SessionInputResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Process(_message.Message):
    __slots__ = ("id", "running", "result", "error", "output_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    running: bool
    result: _types_pb2.Result
    error: _types_pb2.Error
    output_bytes: int
    def __init__(self, id: _Optional[str] = ..., running: bool = ..., result: _Optional[_Union[_types_pb2.Result, _Mapping]] = ..., error: _Optional[_Union[_types_pb2.Error, _Mapping]] = ..., output_bytes: _Optional[int] = ...) -> None: ...

class StartProcessRequest(_message.Message):
    __slots__ = ("trajectory", "id", "exec")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    id: str
    exec: _types_pb2.Exec
    def __init__(self, trajectory: _Optional[str] = ..., id: _Optional[str] = ..., exec: _Optional[_Union[_types_pb2.Exec, _Mapping]] = ...) -> None: ...

class StartProcessResponse(_message.Message):
    __slots__ = ("process",)
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    process: Process
    def __init__(self, process: _Optional[_Union[Process, _Mapping]] = ...) -> None: ...

class WaitProcessRequest(_message.Message):
    __slots__ = ("trajectory", "id", "offset", "wait_s")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    id: str
    offset: int
    wait_s: float
    def __init__(self, trajectory: _Optional[str] = ..., id: _Optional[str] = ..., offset: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class WaitProcessResponse(_message.Message):
    __slots__ = ("process", "offset", "data")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    process: Process
    offset: int
    data: bytes
    def __init__(self, process: _Optional[_Union[Process, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StopProcessRequest(_message.Message):
    __slots__ = ("trajectory", "id", "grace_s")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    id: str
    grace_s: float
    def __init__(self, trajectory: _Optional[str] = ..., id: _Optional[str] = ..., grace_s: _Optional[float] = ...) -> None: ...

class StopProcessResponse(_message.Message):
    __slots__ = ("process",)
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    process: Process
    def __init__(self, process: _Optional[_Union[Process, _Mapping]] = ...) -> None: ...

class WaitPortRequest(_message.Message):
    __slots__ = ("trajectory", "port", "timeout_s")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    trajectory: str
    port: int
    timeout_s: float
    def __init__(self, trajectory: _Optional[str] = ..., port: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class WaitPortResponse(_message.Message):
    __slots__ = ("open",)
    OPEN_FIELD_NUMBER: _ClassVar[int]
    open: bool
    def __init__(self, open: bool = ...) -> None: ...
