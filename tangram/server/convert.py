"""Wire messages to the domain's data: checks and converts, decides nothing, waits for nothing.

`action_request` and `trajectory_request` refuse what no server could mean to do; what depends on
this server (its images, quotas, capacity) is refused behind them. The way back is `answers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from ..errors import InvalidRequest
from ..limits import (
    CONCURRENCY_MAX,
    CORES_MAX,
    OUTPUT_BYTES_MAX,
    PRIORITY_MAX,
    PULL_POLICIES,
    QUOTA_AMOUNT_MAX,
    STEP_MAX,
    TIMEOUT_S_DEFAULT,
)
from ..managers.base import CallSpec, ExecSpec, Payload, SandboxSpec
from ..managers.base import PermitSpec as Permit
from ..scheduler import Action, Amounts, Demand, Profile, State, Trajectory
from ..scheduler.model import CORES, EMPTY, MEMORY, QUOTA_PREFIX
from ..v1 import trajectories_pb2, types_pb2
from . import validate
from .records import ActionRequest, TrajectoryRequest
from .signatures import SIGNATURE_CHARACTERS_MAX, signature_of

SUMMARY_CHARACTERS_MAX = 120
"""One line of `status` and `top`."""

REQUEST_OVERHEAD_BYTES = 2048
"""What a queued action takes beside its own bytes: its records and its place in queues."""


_STATES = {types_pb2.State.Value(f"STATE_{state.upper()}"): state for state in State}


def action_request(
    spec: types_pb2.ActionSpec,
    *,
    now: float,
    output_limit_bytes: int,
    tenants: Mapping[str, str] = EMPTY,
) -> ActionRequest:
    """What a client asked for. Raises InvalidRequest with the field to blame.

    `now` is the server's monotonic clock, from which the deadline counts; `output_limit_bytes` is
    kept of each stream where the request does not say; `tenants` maps tasks to whose they are.
    """
    body = spec.WhichOneof("body")
    if body is None:
        raise InvalidRequest("body is missing: set exec, call or permit", field="body")
    identifier = validate.identifier(spec.id, "id")
    payload: Payload
    if body == "exec":
        validate.identifier(spec.trajectory, "trajectory")
        cores = _cores(spec.cores)
        demand = _EXACTLY_ONE_CORE if cores is None else Demand({CORES: cores}, key=CORES)
        payload = _exec(spec.exec, _offers_choice(spec.cores), output_limit_bytes)
    else:
        if spec.HasField("cores"):
            raise InvalidRequest(f"cores are for exec only: a {body} takes none", field="cores")
        if spec.malleable:
            raise InvalidRequest(
                f"malleable is for exec only: a {body} has no cores that could change",
                field="malleable",
            )
        if spec.trajectory:
            validate.identifier(spec.trajectory, "trajectory")
        demand, payload = _call(spec.call) if body == "call" else _permit(spec.permit)
    serialised = spec.SerializeToString(deterministic=True)
    task = validate.task_name(spec.task)
    return ActionRequest(
        action=Action(
            id=identifier,
            task=task,
            demand=demand,
            trajectory=spec.trajectory or None,
            kind=body,
            priority=_priority(spec.priority),
            deadline=(
                now + validate.seconds(spec.deadline_s, "deadline_s")
                if spec.HasField("deadline_s")
                else None
            ),
            timeout_s=_timeout_s(spec.timeout_s, body),
            profile=_profile(spec.profile) if spec.HasField("profile") else _UNKNOWN_PROFILE,
            group=validate.text(spec.group, "group"),
            step=_step(spec),
            tenant=tenants.get(task, ""),
            signature=_signature(payload, spec),
            malleable=spec.malleable,
        ),
        payload=payload,
        labels=validate.labels(spec.labels),
        summary=_summary(payload, spec),
        fingerprint=blake2b(serialised, digest_size=16).digest(),
        size=len(serialised) + REQUEST_OVERHEAD_BYTES,
        deterministic=_deterministic(spec, body),
    )


def _deterministic(spec: types_pb2.ActionSpec, body: str) -> bytes:
    if not spec.deterministic:
        return b""
    if body != "exec":
        raise InvalidRequest(
            f"deterministic is for exec only: what a {body} says may change any time",
            field="deterministic",
        )
    if spec.exec.session:
        raise InvalidRequest(
            "deterministic is for commands without a session: what one in a session says depends on "
            "those before it",
            field="deterministic",
        )
    command = types_pb2.ActionSpec(exec=spec.exec, cores=spec.cores, timeout_s=spec.timeout_s)
    return blake2b(command.SerializeToString(deterministic=True), digest_size=16).digest()


def trajectory_request(
    spec: trajectories_pb2.TrajectorySpec, tenants: Mapping[str, str] = EMPTY
) -> TrajectoryRequest:
    """What a client wants opened. Raises InvalidRequest with the field to blame.

    `tenants` maps tasks to whose they are. Sizes that are not set stay None; what a node reserves is
    known once it has filled them in.
    """
    identifier = validate.identifier(spec.id, "id")
    task = validate.task_name(spec.task)
    labels = validate.labels(spec.labels)
    memory = validate.size(spec.memory_bytes, "memory_bytes")
    if spec.network not in ("", "none", "egress"):
        raise InvalidRequest(
            f"network must be none or egress, not {spec.network!r}", field="network"
        )
    if spec.pull not in ("", *PULL_POLICIES):
        raise InvalidRequest(
            f"pull must be missing, always or never, not {spec.pull!r}", field="pull"
        )
    if len(spec.shell) > validate.SHELL_WORDS_MAX:
        raise InvalidRequest(
            f"shell has {len(spec.shell)} words, the limit is {validate.SHELL_WORDS_MAX}",
            field="shell",
        )
    env = validate.environment(spec.env, "env")
    validate.command_size((), env, "env")
    concurrency = validate.integer(spec.concurrency or 1, "concurrency", 1, CONCURRENCY_MAX)
    return TrajectoryRequest(
        trajectory=Trajectory(
            id=identifier,
            task=task,
            reserve={MEMORY: memory} if memory else EMPTY,
            concurrency=concurrency,
            priority=_priority(spec.priority),
            group=validate.text(spec.group, "group"),
            step=_step(spec),
            tenant=tenants.get(task, ""),
        ),
        spec=SandboxSpec(
            trajectory=identifier,
            task=task,
            image=validate.image(spec.image, "image"),
            memory_bytes=memory,
            disk_bytes=validate.size(spec.disk_bytes, "disk_bytes"),
            shm_bytes=validate.size(spec.shm_bytes, "shm_bytes"),
            network=spec.network,
            user=validate.user(spec.user, "user"),
            workdir=validate.path(spec.workdir, "workdir", absolute=True),
            env=env,
            shell=validate.argv(spec.shell, "shell"),
            concurrency=concurrency,
            labels=labels,
            pull=spec.pull,
        ),
        labels=labels,
        snapshot=validate.identifier(spec.snapshot, "snapshot") if spec.snapshot else "",
        ttl_s=validate.seconds(spec.ttl_s, "ttl_s") if spec.HasField("ttl_s") else None,
        fingerprint=blake2b(spec.SerializeToString(deterministic=True), digest_size=16).digest(),
    )


def domain_state(state: int) -> State:
    """The state that a filter names. Raises InvalidRequest for one that is unset or unknown."""
    known = _STATES.get(state)
    if known is None:
        raise InvalidRequest(
            f"states has {state}, which is no state: leave it out to get all", field="states"
        )
    return known


_EXACTLY_ONE_CORE = Demand({CORES: Amounts.exactly(1)}, key=CORES)
_UNKNOWN_PROFILE = Profile()


def _cores(message: types_pb2.Amounts) -> Amounts | None:
    """The feasible amounts; None where the request leaves them open."""
    values, low, high = message.values, message.min, message.max
    if not values:
        if not low and not high:
            return None
        validate.integer(low, "cores.min", 1, CORES_MAX)
        validate.integer(high, "cores.max", low, CORES_MAX)
        return Amounts.between(low, high)
    if low or high:
        raise InvalidRequest("cores has values and a range: give one of them", field="cores")
    if len(values) > validate.AMOUNT_VALUES_MAX:
        raise InvalidRequest(
            f"cores.values has {len(values)} entries, the limit is {validate.AMOUNT_VALUES_MAX}: "
            "use a range",
            field="cores.values",
        )
    for value in values:
        validate.integer(value, "cores.values", 1, CORES_MAX)
    return Amounts.among(tuple(values))


def _offers_choice(cores: types_pb2.Amounts) -> bool:
    """Whether it is a range (even one of a single amount) or a set: only then `{cores}` is
    replaced."""
    return bool(cores.min) or len(cores.values) > 1


def background_request(message: types_pb2.Exec) -> ExecSpec:
    """The command of a background process. Raises InvalidRequest with the field to blame."""
    if message.session:
        raise InvalidRequest(
            "exec.session is for actions: a background process has a place of its own",
            field="exec.session",
        )
    return _exec(message, False, 0)


def _exec(message: types_pb2.Exec, substitute_cores: bool, output_limit_bytes: int) -> ExecSpec:
    argv = validate.argv(message.argv, "exec.argv")
    shell_command = validate.no_nul(message.shell_command, "exec.shell_command")
    if argv and shell_command:
        raise InvalidRequest(
            "exec.argv and exec.shell_command are both given: give one of them", field="exec.argv"
        )
    if not argv and not shell_command.strip():
        raise InvalidRequest(
            "exec.argv is missing: give a command, such as ['ls', '-l'], or exec.shell_command",
            field="exec.argv",
        )
    env = validate.environment(message.env, "exec.env") if message.env else EMPTY
    if message.ByteSize() - len(message.stdin) > validate.ARGUMENT_BYTES_MAX:
        validate.command_size(argv or (shell_command,), env, "exec")
    limit = validate.integer(
        message.max_output_bytes, "exec.max_output_bytes", 0, OUTPUT_BYTES_MAX, "bytes"
    )
    return ExecSpec(
        argv=argv,
        shell_command=shell_command,
        cwd=validate.path(message.cwd, "exec.cwd"),
        env=env,
        stdin=validate.stdin(message.stdin, "exec.stdin"),
        user=validate.user(message.user, "exec.user"),
        max_output_bytes=limit or output_limit_bytes,
        substitute_cores=substitute_cores,
        session=_session(message),
    )


def _session(message: types_pb2.Exec) -> str:
    if not message.session:
        return ""
    if message.stdin:
        raise InvalidRequest(
            "exec.stdin is for commands without a session: a session's read its terminal, to which "
            "SessionInput types",
            field="exec.stdin",
        )
    return validate.identifier(message.session, "exec.session")


def _call(message: types_pb2.Call) -> tuple[Demand, CallSpec]:
    payload = CallSpec(
        url=validate.url(message.url, "call.url"),
        method=validate.method(message.method, "call.method"),
        headers=validate.headers(message.headers, "call.headers") if message.headers else EMPTY,
        body=message.body,
    )
    return _quota_demand(message.quota, message.amount, "call"), payload


def _permit(message: types_pb2.PermitSpec) -> tuple[Demand, Permit]:
    return _quota_demand(message.quota, message.amount, "permit"), Permit()


def _quota_demand(quota: str, amount: int, body: str) -> Demand:
    if not quota:
        raise InvalidRequest(f"{body}.quota is missing: name one", field=f"{body}.quota")
    validate.text(quota, f"{body}.quota")
    validate.integer(amount, f"{body}.amount", 1, QUOTA_AMOUNT_MAX)
    return Demand(cluster={f"{QUOTA_PREFIX}{quota}": Amounts.exactly(amount)})


def _profile(message: types_pb2.Profile) -> Profile:
    duration_s = None
    if message.HasField("duration_s"):
        duration_s = validate.seconds_or_zero(message.duration_s, "profile.duration_s")
    if len(message.elasticity) > validate.AMOUNT_VALUES_MAX:
        raise InvalidRequest(
            f"profile.elasticity has {len(message.elasticity)} entries, the limit is "
            f"{validate.AMOUNT_VALUES_MAX}: amounts between entries are interpolated",
            field="profile.elasticity",
        )
    for units, efficiency in message.elasticity.items():
        validate.integer(units, "profile.elasticity", 1, CORES_MAX, "units")
        validate.efficiency(efficiency, f"profile.elasticity[{units}]")
        if units == 1 and efficiency != 1:
            raise InvalidRequest(
                f"profile.elasticity[1] must be 1, since duration_s is with one unit, not"
                f" {efficiency:g}",
                field="profile.elasticity[1]",
            )
    return Profile(duration_s, dict(message.elasticity) or EMPTY, _serial(message))


def _serial(message: types_pb2.Profile) -> float | None:
    if not message.HasField("serial"):
        return None
    if message.elasticity:
        raise InvalidRequest(
            "profile.serial and profile.elasticity say the same thing: give one of them",
            field="profile.serial",
        )
    return validate.share(message.serial, "profile.serial")


def _priority(priority: int) -> int:
    return validate.integer(priority, "priority", -PRIORITY_MAX, PRIORITY_MAX)


def _step(spec: types_pb2.ActionSpec | trajectories_pb2.TrajectorySpec) -> int | None:
    if not spec.HasField("step"):
        return None
    return validate.integer(spec.step, "step", 0, STEP_MAX)


def _timeout_s(timeout_s: float, body: str) -> float | None:
    """None for a permit: it is held until it is released or its task is gone."""
    if body == "permit":
        if timeout_s:
            raise InvalidRequest(
                "timeout_s is for exec and call: a permit is held until it is released; "
                "deadline_s limits its wait",
                field="timeout_s",
            )
        return None
    if timeout_s == 0:
        return TIMEOUT_S_DEFAULT
    return validate.seconds(timeout_s, "timeout_s")


def _signature(payload: Payload, spec: types_pb2.ActionSpec) -> str:
    """What it is like: its command, or the quota that it goes through."""
    if isinstance(payload, ExecSpec):
        return signature_of(payload.argv, payload.shell_command)
    quota = spec.call.quota if isinstance(payload, CallSpec) else spec.permit.quota
    return quota[:SIGNATURE_CHARACTERS_MAX]


def _summary(payload: Payload, spec: types_pb2.ActionSpec) -> str:
    if isinstance(payload, ExecSpec):
        # Only as much as can be shown is joined: an argument may have 128 KiB.
        words = (
            word[: 2 * SUMMARY_CHARACTERS_MAX] for word in payload.argv[:SUMMARY_CHARACTERS_MAX]
        )
        text = payload.shell_command[: 4 * SUMMARY_CHARACTERS_MAX] or " ".join(words)
    elif isinstance(payload, CallSpec):
        # A query may carry a key, which has no place in a list.
        text = f"{payload.method} {payload.url.partition('?')[0]}"
    else:
        text = f"permit {spec.permit.quota} x {spec.permit.amount}"
    line = " ".join(text.split())
    if len(line) <= SUMMARY_CHARACTERS_MAX:
        return line
    return line[: SUMMARY_CHARACTERS_MAX - 3] + "..."
