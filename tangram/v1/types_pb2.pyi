from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_WAITING: _ClassVar[State]
    STATE_PREPARING: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_FINISHED: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
    STATE_CANCELLED: _ClassVar[State]
    STATE_EXPIRED: _ClassVar[State]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_FINISHED: _ClassVar[Outcome]
    OUTCOME_TIMED_OUT: _ClassVar[Outcome]
    OUTCOME_OUT_OF_MEMORY: _ClassVar[Outcome]
    OUTCOME_OUT_OF_DISK: _ClassVar[Outcome]
    OUTCOME_TOO_MANY_PROCESSES: _ClassVar[Outcome]
STATE_UNSPECIFIED: State
STATE_WAITING: State
STATE_PREPARING: State
STATE_RUNNING: State
STATE_FINISHED: State
STATE_FAILED: State
STATE_CANCELLED: State
STATE_EXPIRED: State
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_FINISHED: Outcome
OUTCOME_TIMED_OUT: Outcome
OUTCOME_OUT_OF_MEMORY: Outcome
OUTCOME_OUT_OF_DISK: Outcome
OUTCOME_TOO_MANY_PROCESSES: Outcome

class Amounts(_message.Message):
    __slots__ = ("values", "min", "max")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    min: int
    max: int
    def __init__(self, values: _Optional[_Iterable[int]] = ..., min: _Optional[int] = ..., max: _Optional[int] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("duration_s", "elasticity", "serial")
    class ElasticityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    ELASTICITY_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    duration_s: float
    elasticity: _containers.ScalarMap[int, float]
    serial: float
    def __init__(self, duration_s: _Optional[float] = ..., elasticity: _Optional[_Mapping[int, float]] = ..., serial: _Optional[float] = ...) -> None: ...

class Exec(_message.Message):
    __slots__ = ("argv", "shell_command", "cwd", "env", "stdin", "user", "max_output_bytes", "session")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ARGV_FIELD_NUMBER: _ClassVar[int]
    SHELL_COMMAND_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    argv: _containers.RepeatedScalarFieldContainer[str]
    shell_command: str
    cwd: str
    env: _containers.ScalarMap[str, str]
    stdin: bytes
    user: str
    max_output_bytes: int
    session: str
    def __init__(self, argv: _Optional[_Iterable[str]] = ..., shell_command: _Optional[str] = ..., cwd: _Optional[str] = ..., env: _Optional[_Mapping[str, str]] = ..., stdin: _Optional[bytes] = ..., user: _Optional[str] = ..., max_output_bytes: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("quota", "amount", "url", "method", "headers", "body")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    quota: str
    amount: int
    url: str
    method: str
    headers: _containers.ScalarMap[str, str]
    body: bytes
    def __init__(self, quota: _Optional[str] = ..., amount: _Optional[int] = ..., url: _Optional[str] = ..., method: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., body: _Optional[bytes] = ...) -> None: ...

class PermitSpec(_message.Message):
    __slots__ = ("quota", "amount")
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    quota: str
    amount: int
    def __init__(self, quota: _Optional[str] = ..., amount: _Optional[int] = ...) -> None: ...

class ActionSpec(_message.Message):
    __slots__ = ("id", "task", "trajectory", "priority", "group", "step", "labels", "cores", "timeout_s", "deadline_s", "profile", "exec", "call", "permit", "malleable", "deterministic")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    PERMIT_FIELD_NUMBER: _ClassVar[int]
    MALLEABLE_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    trajectory: str
    priority: int
    group: str
    step: int
    labels: _containers.ScalarMap[str, str]
    cores: Amounts
    timeout_s: float
    deadline_s: float
    profile: Profile
    exec: Exec
    call: Call
    permit: PermitSpec
    malleable: bool
    deterministic: bool
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., trajectory: _Optional[str] = ..., priority: _Optional[int] = ..., group: _Optional[str] = ..., step: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., cores: _Optional[_Union[Amounts, _Mapping]] = ..., timeout_s: _Optional[float] = ..., deadline_s: _Optional[float] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ..., exec: _Optional[_Union[Exec, _Mapping]] = ..., call: _Optional[_Union[Call, _Mapping]] = ..., permit: _Optional[_Union[PermitSpec, _Mapping]] = ..., malleable: bool = ..., deterministic: bool = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_s", "prepare_s", "run_s", "overhead_s", "act_s")
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    PREPARE_S_FIELD_NUMBER: _ClassVar[int]
    RUN_S_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_S_FIELD_NUMBER: _ClassVar[int]
    ACT_S_FIELD_NUMBER: _ClassVar[int]
    queue_s: float
    prepare_s: float
    run_s: float
    overhead_s: float
    act_s: float
    def __init__(self, queue_s: _Optional[float] = ..., prepare_s: _Optional[float] = ..., run_s: _Optional[float] = ..., overhead_s: _Optional[float] = ..., act_s: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("cpu_seconds", "peak_memory_bytes")
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    cpu_seconds: float
    peak_memory_bytes: int
    def __init__(self, cpu_seconds: _Optional[float] = ..., peak_memory_bytes: _Optional[int] = ...) -> None: ...

class HttpResponse(_message.Message):
    __slots__ = ("status", "headers", "body")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    status: int
    headers: _containers.ScalarMap[str, str]
    body: bytes
    def __init__(self, status: _Optional[int] = ..., headers: _Optional[_Mapping[str, str]] = ..., body: _Optional[bytes] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("outcome", "exit_code", "stdout", "stderr", "truncated", "signal", "usage", "http", "cached")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    signal: int
    usage: Usage
    http: HttpResponse
    cached: bool
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., exit_code: _Optional[int] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., truncated: bool = ..., signal: _Optional[int] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., http: _Optional[_Union[HttpResponse, _Mapping]] = ..., cached: bool = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("reason", "message", "field", "infra", "retryable", "retry_after_s", "action_id")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    INFRA_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    field: str
    infra: bool
    retryable: bool
    retry_after_s: float
    action_id: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., infra: bool = ..., retryable: bool = ..., retry_after_s: _Optional[float] = ..., action_id: _Optional[str] = ...) -> None: ...

class Action(_message.Message):
    __slots__ = ("id", "task", "trajectory", "kind", "state", "wait_reason", "cores", "node", "result", "error", "timing", "priority", "group", "step", "labels", "submitted_unix_s", "summary")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WAIT_REASON_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    trajectory: str
    kind: str
    state: State
    wait_reason: str
    cores: int
    node: str
    result: Result
    error: Error
    timing: Timing
    priority: int
    group: str
    step: int
    labels: _containers.ScalarMap[str, str]
    submitted_unix_s: float
    summary: str
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., trajectory: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., wait_reason: _Optional[str] = ..., cores: _Optional[int] = ..., node: _Optional[str] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., priority: _Optional[int] = ..., group: _Optional[str] = ..., step: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., submitted_unix_s: _Optional[float] = ..., summary: _Optional[str] = ...) -> None: ...
