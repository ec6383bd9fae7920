"""Arguments of the SDK to wire messages, checked before anything is sent.

Only what can be judged without the server is judged here, with the argument's name in the error;
images, quotas and capacities are the server's to know.
"""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn

from ..errors import InvalidRequest, TooLarge
from ..limits import (
    CONCURRENCY_MAX,
    CORES_MAX,
    FILE_MODE_MAX,
    FORKS_MAX,
    ID_PATTERN,
    ID_RULE,
    MESSAGE_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    PORT_MAX,
    PREFETCH_IMAGES_MAX,
    PRIORITY_MAX,
    PULL_POLICIES,
    QUOTA_AMOUNT_MAX,
    SESSION_INPUT_BYTES_MAX,
    SIZE_BYTES_MAX,
    STDIN_BYTES_MAX,
    STEP_MAX,
    TERMINAL_SIDE_MAX,
    TIME_S_MAX,
)
from ..managers.sizes import format_size, parse_size
from ..v1 import cluster_pb2, trajectories_pb2, types_pb2
from .ids import new_id

Cores = int | tuple[int, int] | AbstractSet[int]
"""A number, an inclusive range (low, high), or a set of exactly these."""
Elasticity = Mapping[int, float] | float
"""Cores -> E, or the share of the work that does not scale."""
Command = str | Sequence[str]
"""A line for the trajectory's shell, or an argv."""

ACTION_BYTES_MAX = MESSAGE_BYTES_MAX - 4096
"""A little is left for the message around the action."""

STATES = {
    "waiting": types_pb2.STATE_WAITING,
    "preparing": types_pb2.STATE_PREPARING,
    "running": types_pb2.STATE_RUNNING,
    "finished": types_pb2.STATE_FINISHED,
    "failed": types_pb2.STATE_FAILED,
    "cancelled": types_pb2.STATE_CANCELLED,
    "expired": types_pb2.STATE_EXPIRED,
}


def identifier(value: object, field: str) -> str:
    """An id or a task's name (`limits.ID_RULE`)."""
    if isinstance(value, str) and ID_PATTERN.fullmatch(value):
        return value
    _refuse(field, ID_RULE, value)


def new_or(id: str | None, field: str = "id") -> str:
    """The id, checked, or a new one."""
    return new_id() if id is None else identifier(id, field)


def seconds(value: object, field: str) -> float:
    """A time span above 0 and at most 30 days."""
    number = _number(value, field, "seconds as a number above 0")
    if 0 < number <= TIME_S_MAX:
        return number
    _refuse(field, f"seconds above 0 and at most {TIME_S_MAX:.0f} (30 days)", value)


def seconds_or_zero(value: object, field: str) -> float:
    return 0.0 if value == 0 else seconds(value, field)


def size(value: int | str, field: str, limit_bytes: int = SIZE_BYTES_MAX) -> int:
    """Bytes above 0, from an int or from text such as 512Mi."""
    try:
        size_bytes = parse_size(value)
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from None
    if size_bytes == 0:
        _refuse(field, "a size above 0, such as 512Mi", value)
    if size_bytes > limit_bytes:
        _refuse(field, f"at most {format_size(limit_bytes)}", value)
    return size_bytes


def _size_or_default(value: int | str | None, field: str) -> int:
    """On the wire 0 is the server's default."""
    return 0 if value is None else size(value, field)


def file_mode(mode: int) -> int:
    return _integer(mode, "mode", 0, FILE_MODE_MAX)


def state(name: str) -> types_pb2.State:
    """The wire's value of a state's name."""
    if name not in STATES:
        _refuse("states", f"of {', '.join(STATES)}", name)
    return STATES[name]


def trajectory(
    *,
    id: str | None,
    task: str,
    image: str | None,
    group: str | None,
    step: int | None,
    priority: int,
    labels: Mapping[str, str],
    memory: int | str | None,
    disk: int | str | None,
    shm: int | str | None,
    network: str | None,
    user: str | None,
    workdir: str | None,
    env: Mapping[str, str] | None,
    shell: Sequence[str] | None,
    pull: str | None,
    concurrency: int,
    ttl: float | None,
    snapshot: str | None = None,
) -> trajectories_pb2.TrajectorySpec:
    """The spec of a new trajectory: sizes and network that are None are the server's to choose.
    Raises InvalidRequest with the argument to blame."""
    if network not in (None, "none", "egress"):
        _refuse("network", "none or egress", network)
    if pull not in (None, *PULL_POLICIES):
        _refuse("pull", "missing, always or never", pull)
    if isinstance(shell, str):
        _refuse("shell", "a list such as ['bash', '-c']", shell)
    return trajectories_pb2.TrajectorySpec(
        id=new_or(id),
        task=task,
        image=_text(image, "image"),
        group=_text(group, "group"),
        step=_step(step),
        priority=_integer(priority, "priority", -PRIORITY_MAX, PRIORITY_MAX),
        labels=_texts(labels, "labels"),
        memory_bytes=_size_or_default(memory, "memory"),
        disk_bytes=_size_or_default(disk, "disk"),
        shm_bytes=_size_or_default(shm, "shm"),
        network=network,
        pull=pull,
        user=_text(user, "user"),
        workdir=_text(workdir, "workdir"),
        env=_texts(env, "env"),
        shell=_words(shell or (), "shell"),
        concurrency=_integer(concurrency, "concurrency", 1, CONCURRENCY_MAX),
        ttl_s=None if ttl is None else seconds(ttl, "ttl"),
        snapshot="" if snapshot is None else identifier(snapshot, "snapshot"),
    )


def fork(trajectory: str, n: int) -> trajectories_pb2.ForkRequest:
    """For `n` new trajectories. Raises InvalidRequest."""
    count = _integer(n, "n", 1, FORKS_MAX)
    return trajectories_pb2.ForkRequest(trajectory=trajectory, ids=[new_id() for _ in range(count)])


def snapshot(trajectory: str, name: str, ttl: float | None) -> trajectories_pb2.SnapshotRequest:
    """Raises InvalidRequest."""
    return trajectories_pb2.SnapshotRequest(
        trajectory=trajectory,
        name=identifier(name, "name"),
        ttl_s=None if ttl is None else seconds(ttl, "ttl"),
    )


def prefetch(task: str, images: Iterable[str]) -> cluster_pb2.PrefetchRequest:
    """Raises InvalidRequest with the image to blame."""
    if isinstance(images, str):
        _refuse("images", "a list of names", images)
    names = [_text(name, f"images[{index}]") for index, name in enumerate(images)]
    if len(names) > PREFETCH_IMAGES_MAX:
        _refuse("images", f"at most {PREFETCH_IMAGES_MAX} names", names)
    return cluster_pb2.PrefetchRequest(task=task, images=names)


def action(
    *,
    id: str | None,
    task: str,
    trajectory: str = "",
    priority: int = 0,
    labels: Mapping[str, str],
    timeout: float | None = None,
    deadline: float | None = None,
) -> types_pb2.ActionSpec:
    """What all kinds of actions share; `exec_into`, `call_into` and `permit_into` add the rest.

    What an action has from its trajectory (group, step, more labels) the server adds.
    """
    return types_pb2.ActionSpec(
        id=new_or(id),
        task=task,
        trajectory=trajectory,
        priority=_integer(priority, "priority", -PRIORITY_MAX, PRIORITY_MAX),
        labels=_texts(labels, "labels"),
        timeout_s=0.0 if timeout is None else seconds(timeout, "timeout"),
        deadline_s=None if deadline is None else seconds(deadline, "deadline"),
    )


def exec_into(
    spec: types_pb2.ActionSpec,
    command: Command,
    *,
    cores: Cores,
    cwd: str | None,
    env: Mapping[str, str] | None,
    stdin: str | bytes | None,
    user: str | None,
    malleable: bool,
    deterministic: bool,
    duration: float | None,
    elasticity: Elasticity | None,
    max_output: int | str,
    session: str = "",
) -> None:
    """Make it a command, of a session if one is named. Raises InvalidRequest with the argument to
    blame."""
    body = command_body(command, cwd=cwd, env=env, stdin=stdin, user=user)
    body.max_output_bytes = size(max_output, "max_output", OUTPUT_BYTES_MAX)
    body.session = session
    spec.exec.CopyFrom(body)
    spec.cores.CopyFrom(_amounts(cores))
    if not isinstance(malleable, bool):
        _refuse("malleable", "True or False", malleable)
    spec.malleable = malleable
    if not isinstance(deterministic, bool):
        _refuse("deterministic", "True or False", deterministic)
    spec.deterministic = deterministic
    if duration is not None:
        spec.profile.duration_s = seconds_or_zero(duration, "duration")
    if elasticity is not None:
        _elasticity_into(spec.profile, elasticity)
    _check_message(spec)


def command_body(
    command: Command,
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    stdin: str | bytes | None,
    user: str | None,
) -> types_pb2.Exec:
    """A command and what it starts with. Raises InvalidRequest with the argument to blame."""
    body = types_pb2.Exec(
        cwd=_text(cwd, "cwd"),
        env=_texts(env, "env"),
        stdin=_stdin(stdin),
        user=_text(user, "user"),
    )
    if isinstance(command, str):
        if not command.strip():
            _refuse("command", "a shell line or a list of words that is not empty", command)
        body.shell_command = _text(command, "command")
    elif not isinstance(command, Sequence):
        _refuse("command", "a shell line or a list of words", command)
    else:
        body.argv.extend(_words(command, "command"))
        if not body.argv or not body.argv[0]:
            _refuse("command", "a list whose first word names a program", list(command))
    return body


def _elasticity_into(profile: types_pb2.Profile, elasticity: Elasticity) -> None:
    if not isinstance(elasticity, Mapping):
        right = "a table such as {2: 0.95, 4: 0.9}, or one share from 0 to 1"
        serial = _number(elasticity, "elasticity", right)
        if not 0 <= serial <= 1:
            _refuse("elasticity", right, elasticity)
        profile.serial = serial
        return
    for units, efficiency in elasticity.items():
        _integer(units, "elasticity", 1, CORES_MAX)
        field = f"elasticity[{units}]"
        share = _number(efficiency, field, "a number")
        if not 0 < share <= 1:
            _refuse(field, "above 0 and at most 1", efficiency)
        if units == 1 and share != 1:
            _refuse(field, "1: `duration` is with one core", efficiency)
        profile.elasticity[units] = share


def call_into(
    spec: types_pb2.ActionSpec,
    quota: str,
    url: str,
    *,
    amount: int,
    method: str,
    headers: Mapping[str, str] | None,
    json: Any,
) -> None:
    """Make it an HTTP request under a quota; `json` other than None becomes its body."""
    if not url.startswith(("http://", "https://")):
        _refuse("url", "an absolute http:// or https:// URL", url)
    all_headers = _texts(headers, "headers")
    body = b""
    if json is not None:
        try:
            body = json_module.dumps(json, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"json cannot be written as JSON: {error}", field="json") from None
        if not any(name.lower() == "content-type" for name in all_headers):
            all_headers["Content-Type"] = "application/json"
    spec.call.quota = _quota(quota)
    spec.call.amount = _integer(amount, "amount", 1, QUOTA_AMOUNT_MAX)
    spec.call.url = _text(url, "url")
    spec.call.method = _text(method, "method")
    spec.call.headers.update(all_headers)
    spec.call.body = body
    _check_message(spec)


def permit_into(spec: types_pb2.ActionSpec, quota: str, amount: int) -> None:
    """Make it a permit of a quota."""
    spec.permit.quota = _quota(quota)
    spec.permit.amount = _integer(amount, "amount", 1, QUOTA_AMOUNT_MAX)


def typed(text: str | bytes) -> bytes:
    """What is typed into a session."""
    data = text.encode() if isinstance(text, str) else text
    if not isinstance(data, bytes) or not data:
        _refuse("text", "text or bytes that are not empty", text)
    if len(data) > SESSION_INPUT_BYTES_MAX:
        raise TooLarge(
            f"text has {len(data)} bytes, the limit is {SESSION_INPUT_BYTES_MAX}: write a file with "
            "write_file and have that read",
            field="text",
        )
    return data


def port(number: int) -> int:
    return _integer(number, "port", 1, PORT_MAX)


def side(value: int, field: str) -> int:
    """Rows or columns of a terminal."""
    return _integer(value, field, 1, TERMINAL_SIDE_MAX)


def offset(value: int) -> int:
    return _integer(value, "offset", 0, SIZE_BYTES_MAX)


def _amounts(cores: Cores) -> types_pb2.Amounts:
    right = "a number, a range (low, high) or a set such as {1, 2, 4}"
    if isinstance(cores, tuple):
        if len(cores) != 2:
            _refuse("cores", right, cores)
        low, high = (_integer(bound, "cores", 1, CORES_MAX) for bound in cores)
        if low > high:
            _refuse("cores", "a range (low, high) with low <= high", cores)
        return types_pb2.Amounts(min=low, max=high)
    if isinstance(cores, AbstractSet):
        if not cores:
            _refuse("cores", right, cores)
        values = sorted(_integer(value, "cores", 1, CORES_MAX) for value in cores)
        return types_pb2.Amounts(values=values)
    return types_pb2.Amounts(values=[_integer(cores, "cores", 1, CORES_MAX)])


def _stdin(stdin: str | bytes | None) -> bytes:
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    if not isinstance(data, bytes | bytearray | memoryview):
        _refuse("stdin", "str or bytes", stdin)
    if len(data) > STDIN_BYTES_MAX:
        raise TooLarge(
            f"stdin has {len(data)} bytes, the limit is {STDIN_BYTES_MAX >> 20} MiB: "
            "write a file with write_file or upload and read that",
            field="stdin",
        )
    return bytes(data)


def _check_message(spec: types_pb2.ActionSpec) -> None:
    size_bytes = spec.ByteSize()
    if size_bytes > ACTION_BYTES_MAX:
        raise TooLarge(
            f"the action has {size_bytes} bytes, the limit of a message is "
            f"{MESSAGE_BYTES_MAX >> 20} MiB: pass less, or use a file",
            field="json" if spec.HasField("call") else "command",
        )


def _quota(name: str) -> str:
    if not name:
        _refuse("quota", "the name of a quota", name)
    return _text(name, "quota")


def _step(step: int | None) -> int | None:
    return None if step is None else _integer(step, "step", 0, STEP_MAX)


def _words(words: Sequence[str], field: str) -> list[str]:
    return [_text(word, f"{field}[{index}]") for index, word in enumerate(words)]


def _texts(values: Mapping[str, str] | None, field: str) -> dict[str, str]:
    return {
        _text(name, field): _text(value, f"{field}[{name}]")
        for name, value in (values or {}).items()
    }


def _text(value: str | None, field: str) -> str:
    """Text that can travel: UTF-8 without NUL."""
    if value is None:
        return ""
    if not isinstance(value, str):
        _refuse(field, "text", value)
    if "\0" in value:
        _refuse(field, "text without a NUL byte", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(field, "text that can be written as UTF-8", value)
    return value


def _integer(value: object, field: str, low: int, high: int) -> int:
    right = f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse(field, right, value)
    return value


def _number(value: object, field: str, right: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(field, right, value)
    return float(value)


def _refuse(field: str, right: str, value: object) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:80] + "..."
    raise InvalidRequest(f"{field} must be {right}, not {shown}", field=field)
