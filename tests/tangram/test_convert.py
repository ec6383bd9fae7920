"""Requests become the domain's data, or are refused with the field to blame and what is right."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.errors import InvalidRequest, Lost, Overloaded, TooLarge
from tangram.managers.base import (
    CallSpec,
    ExecSpec,
    FileInfo,
    HttpReply,
    Outcome,
    PermitSpec,
    RunResult,
    Stream,
)
from tangram.scheduler import Amounts, Demand, Profile, State
from tangram.scheduler.model import DURATION_MIN_S
from tangram.server import answers
from tangram.server.convert import action_request, background_request, trajectory_request
from tangram.server.outputs import OutputStore
from tangram.server.records import ActionRecord, ActionRequest
from tangram.v1 import trajectories_pb2, types_pb2

LIMIT = 1 << 20


def exec_spec(**fields: Any) -> types_pb2.ActionSpec:
    fields.setdefault("id", "a")
    fields.setdefault("trajectory", "t")
    command = fields.pop("exec", types_pb2.Exec(argv=["true"]))
    return types_pb2.ActionSpec(exec=command, **fields)


def call_spec(**fields: Any) -> types_pb2.ActionSpec:
    call = {"quota": "q", "amount": 1, "url": "https://example.org/x", **fields}
    return types_pb2.ActionSpec(id="a", call=types_pb2.Call(**call))


def convert(spec: types_pb2.ActionSpec, now: float = 100.0) -> ActionRequest:
    return action_request(spec, now=now, output_limit_bytes=LIMIT)


def test_an_exec_asks_for_one_core_unless_it_says_otherwise() -> None:
    request = convert(exec_spec(deadline_s=5.0, priority=-3, step=0, group="g"))
    action = request.action
    assert action.demand == Demand({"cores": Amounts.exactly(1)}, key="cores")
    assert (action.id, action.task, action.trajectory, action.kind) == ("a", "default", "t", "exec")
    assert (action.deadline, action.timeout_s, action.priority) == (105.0, 60.0, -3)
    assert (action.step, action.group) == (0, "g")
    assert request.payload == ExecSpec(argv=("true",), max_output_bytes=LIMIT)


@pytest.mark.parametrize(
    ("cores", "amounts", "substitutes"),
    [
        (types_pb2.Amounts(values=[4]), Amounts.among({4}), False),
        (types_pb2.Amounts(values=[8, 2, 4, 2]), Amounts.among({2, 4, 8}), True),
        (types_pb2.Amounts(min=1, max=8), Amounts.between(1, 8), True),
        (types_pb2.Amounts(min=3, max=3), Amounts.exactly(3), True),
        (types_pb2.Amounts(), Amounts.exactly(1), False),
    ],
)
def test_cores_are_one_amount_a_range_or_a_set(
    cores: types_pb2.Amounts, amounts: Amounts, substitutes: bool
) -> None:
    request = convert(exec_spec(cores=cores))
    assert request.action.demand == Demand({"cores": amounts}, key="cores")
    assert isinstance(request.payload, ExecSpec)
    assert request.payload.substitute_cores is substitutes


def test_a_call_and_a_permit_demand_their_quota() -> None:
    call = convert(call_spec(amount=7, headers={"X-A": "b"}, body=b"{}"))
    assert call.action.demand == Demand(cluster={"quota:q": Amounts.exactly(7)})
    assert call.payload == CallSpec("https://example.org/x", "POST", {"X-A": "b"}, b"{}")
    spec = types_pb2.ActionSpec(id="p", permit=types_pb2.PermitSpec(quota="q", amount=2))
    permit = convert(spec)
    assert (permit.payload, permit.action.timeout_s) == (PermitSpec(), None)


def test_the_signature_tells_what_an_action_is_like() -> None:
    command = types_pb2.Exec(shell_command="cd /testbed && python -m pytest -x tests/a.py")
    assert convert(exec_spec(exec=command)).action.signature == "pytest"
    program = types_pb2.Exec(argv=["git", "-C", "/testbed", "status"])
    assert convert(exec_spec(exec=program)).action.signature == "git status"
    assert convert(call_spec(quota="search")).action.signature == "search"


def test_a_sessions_command_reads_its_terminal_and_no_stdin() -> None:
    body = types_pb2.Exec(shell_command="cat", session="main")
    request = action_request(exec_spec(exec=body), now=0.0, output_limit_bytes=1)
    assert isinstance(request.payload, ExecSpec)
    assert request.payload.session == "main"
    for body, field in (
        (types_pb2.Exec(shell_command="cat", session="main", stdin=b"x"), "exec.stdin"),
        (types_pb2.Exec(shell_command="cat", session="a b"), "exec.session"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            action_request(exec_spec(exec=body), now=0.0, output_limit_bytes=1)
        assert refused.value.field == field
    body = types_pb2.Exec(shell_command="cat", session="main")
    with pytest.raises(InvalidRequest, match="without a session"):
        convert(exec_spec(exec=body, deterministic=True))
    with pytest.raises(InvalidRequest, match="for actions"):
        background_request(types_pb2.Exec(shell_command="cat", session="main"))


def test_a_permit_takes_no_timeout() -> None:
    permit = types_pb2.PermitSpec(quota="q", amount=1)
    with pytest.raises(InvalidRequest, match="held until it is released") as raised:
        convert(types_pb2.ActionSpec(id="p", permit=permit, timeout_s=5.0))
    assert raised.value.field == "timeout_s"


def test_a_profile_keeps_its_table() -> None:
    profile = types_pb2.Profile(duration_s=10.0, elasticity={2: 0.9, 4: 0.5})
    converted = convert(exec_spec(profile=profile)).action.profile
    assert converted.run_s(4) == pytest.approx(10.0 / (0.5 * 4))


def test_a_profile_keeps_its_serial_share() -> None:
    converted = convert(exec_spec(profile=types_pb2.Profile(duration_s=10.0, serial=0.0)))
    assert converted.action.profile == Profile(10.0, serial=0.0)
    assert converted.action.profile.scales


def test_a_duration_of_zero_counts_as_a_microsecond() -> None:
    profile = convert(exec_spec(profile=types_pb2.Profile(duration_s=0.0))).action.profile
    assert profile.run_s(1) == DURATION_MIN_S


@pytest.mark.parametrize("malleable", [True, False])
def test_whether_an_action_is_malleable_is_kept(malleable: bool) -> None:
    assert convert(exec_spec(malleable=malleable)).action.malleable is malleable


def test_only_an_exec_can_be_malleable() -> None:
    spec = call_spec()
    spec.malleable = True
    with pytest.raises(InvalidRequest, match="exec only") as raised:
        convert(spec)
    assert raised.value.field == "malleable"


def test_the_fingerprint_tells_bodies_apart_but_not_the_order_of_maps() -> None:
    first = convert(exec_spec(labels={"a": "1", "b": "2"}))
    second = convert(exec_spec(labels={"b": "2", "a": "1"}))
    other = convert(exec_spec(labels={"a": "1", "b": "3"}))
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("spec", "summary"),
    [
        (exec_spec(exec=types_pb2.Exec(argv=["ls", "-l"])), "ls -l"),
        (exec_spec(exec=types_pb2.Exec(shell_command="set -e\nmake\n")), "set -e make"),
        (exec_spec(exec=types_pb2.Exec(argv=["x" * 500])), "x" * 117 + "..."),
        (call_spec(url="https://example.org/x?key=secret"), "POST https://example.org/x"),
    ],
)
def test_the_summary_is_one_line_without_secrets(spec: types_pb2.ActionSpec, summary: str) -> None:
    assert convert(spec).summary == summary


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"task": "a b"}, "task"),
        ({"trajectory": ""}, "trajectory"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"timeout_s": math.inf}, "timeout_s"),
        ({"timeout_s": math.nan}, "timeout_s"),
        ({"timeout_s": 31 * 86400.0}, "timeout_s"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"priority": 1_000_001}, "priority"),
        ({"step": -1}, "step"),
        ({"group": "g" * 257}, "group"),
        ({"group": "a\nb"}, "group"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"k": "v" * 1025}}, "labels['k']"),
        ({"cores": types_pb2.Amounts(values=[0])}, "cores.values"),
        ({"cores": types_pb2.Amounts(values=[-2])}, "cores.values"),
        ({"cores": types_pb2.Amounts(values=[65_537])}, "cores.values"),
        ({"cores": types_pb2.Amounts(values=list(range(1, 1026)))}, "cores.values"),
        ({"cores": types_pb2.Amounts(min=4, max=2)}, "cores.max"),
        ({"cores": types_pb2.Amounts(max=2)}, "cores.min"),
        ({"cores": types_pb2.Amounts(values=[1], max=2)}, "cores"),
        ({"profile": types_pb2.Profile(duration_s=math.nan)}, "profile.duration_s"),
        ({"profile": types_pb2.Profile(elasticity={2: 1.5})}, "profile.elasticity[2]"),
        ({"profile": types_pb2.Profile(elasticity={2: 0.0})}, "profile.elasticity[2]"),
        ({"profile": types_pb2.Profile(elasticity={2: 1e-323})}, "profile.elasticity[2]"),
        ({"profile": types_pb2.Profile(elasticity={0: 0.5})}, "profile.elasticity"),
        ({"profile": types_pb2.Profile(elasticity={1: 0.5})}, "profile.elasticity[1]"),
        ({"profile": types_pb2.Profile(duration_s=-1e-9)}, "profile.duration_s"),
        ({"profile": types_pb2.Profile(serial=-0.1)}, "profile.serial"),
        ({"profile": types_pb2.Profile(serial=1.1)}, "profile.serial"),
        ({"profile": types_pb2.Profile(serial=math.nan)}, "profile.serial"),
        ({"profile": types_pb2.Profile(serial=0.1, elasticity={2: 0.9})}, "profile.serial"),
        ({"exec": types_pb2.Exec()}, "exec.argv"),
        ({"exec": types_pb2.Exec(shell_command="  ")}, "exec.argv"),
        ({"exec": types_pb2.Exec(argv=["a"], shell_command="a")}, "exec.argv"),
        ({"exec": types_pb2.Exec(argv=["", "a"])}, "exec.argv[0]"),
        ({"exec": types_pb2.Exec(argv=["a", "b\0"])}, "exec.argv[1]"),
        ({"exec": types_pb2.Exec(shell_command="a\0b")}, "exec.shell_command"),
        ({"exec": types_pb2.Exec(argv=["a"], cwd="x\0")}, "exec.cwd"),
        ({"exec": types_pb2.Exec(argv=["a"], cwd="x" * 4096)}, "exec.cwd"),
        ({"exec": types_pb2.Exec(argv=["a"], env={"A=B": "x"})}, "exec.env"),
        ({"exec": types_pb2.Exec(argv=["a"], env={"": "x"})}, "exec.env"),
        ({"exec": types_pb2.Exec(argv=["a"], env={"A": "\0"})}, "exec.env['A']"),
        ({"exec": types_pb2.Exec(argv=["a"], user="root; rm")}, "exec.user"),
        ({"exec": types_pb2.Exec(argv=["a"], max_output_bytes=-1)}, "exec.max_output_bytes"),
        (
            {"exec": types_pb2.Exec(argv=["a"], max_output_bytes=(8 << 20) + 1)},
            "exec.max_output_bytes",
        ),
    ],
)
def test_a_bad_exec_is_refused_with_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        convert(exec_spec(**fields))
    assert raised.value.field == field
    assert field.partition("[")[0] in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"quota": ""}, "call.quota"),
        ({"amount": 0}, "call.amount"),
        ({"url": ""}, "call.url"),
        ({"url": "ftp://example.org"}, "call.url"),
        ({"url": "http://"}, "call.url"),
        ({"url": "http://example.org:port"}, "call.url"),
        ({"url": "http://example.org/a b"}, "call.url"),
        ({"url": "file:///etc/passwd"}, "call.url"),
        ({"method": "PO ST"}, "call.method"),
        ({"headers": {"A B": "x"}}, "call.headers"),
        ({"headers": {"A": "x\r\nB: y"}}, "call.headers"),
    ],
)
def test_a_bad_call_is_refused_with_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        convert(call_spec(**fields))
    assert raised.value.field == field


def test_a_request_needs_a_body_and_cores_belong_to_exec() -> None:
    with pytest.raises(InvalidRequest) as raised:
        convert(types_pb2.ActionSpec(id="a"))
    assert raised.value.field == "body"
    spec = call_spec()
    spec.cores.values.append(1)
    with pytest.raises(InvalidRequest) as raised:
        convert(spec)
    assert raised.value.field == "cores"


@pytest.mark.parametrize(
    "command",
    [
        types_pb2.Exec(argv=["a", "x" * 131_072]),
        types_pb2.Exec(argv=["a"], env={"A": "x" * 131_072}),
        types_pb2.Exec(argv=["a", *["x" * 100_000] * 20]),
    ],
)
def test_a_command_that_linux_could_not_start_is_too_large(command: types_pb2.Exec) -> None:
    with pytest.raises(TooLarge, match="stdin"):
        convert(exec_spec(exec=command))


def test_large_input_is_no_large_command() -> None:
    command = types_pb2.Exec(argv=["cat"], stdin=bytes(2 << 20))
    assert convert(exec_spec(exec=command)).size > 2 << 20
    command = types_pb2.Exec(argv=["cat"], stdin=bytes((2 << 20) + 1))
    with pytest.raises(TooLarge, match=r"exec\.stdin has 2097153 bytes, the limit is 2 MiB"):
        convert(exec_spec(exec=command))


def test_a_task_belongs_to_its_tenant_and_others_to_none() -> None:
    tenants = {"train": "lab", "default": "guests"}
    for task, tenant in (("train", "lab"), ("", "guests"), ("other", "")):
        spec = exec_spec(task=task)
        request = action_request(spec, now=0.0, output_limit_bytes=LIMIT, tenants=tenants)
        assert request.action.tenant == tenant
        opening = trajectories_pb2.TrajectorySpec(id="t", task=task)
        assert trajectory_request(opening, tenants).trajectory.tenant == tenant
    assert convert(exec_spec(task="train")).action.tenant == ""


def test_a_trajectory_leaves_to_the_node_what_it_does_not_say() -> None:
    request = trajectory_request(trajectories_pb2.TrajectorySpec(id="t"))
    assert request.trajectory.concurrency == 1 and request.trajectory.sandboxed
    spec = request.spec
    assert (spec.memory_bytes, spec.disk_bytes, spec.shm_bytes) == (None, None, None)
    assert (request.ttl_s, request.trajectory.task) == (None, "default")
    full = trajectory_request(
        trajectories_pb2.TrajectorySpec(
            id="t",
            task="train",
            image="registry:5000/a/b@sha256:0f",
            memory_bytes=1 << 30,
            network="egress",
            user="1000:100",
            workdir="/testbed",
            env={"A": "b"},
            shell=["bash", "-lc"],
            concurrency=4,
            ttl_s=60.0,
        )
    )
    assert full.trajectory.reserve == {"memory": 1 << 30}
    assert (full.spec.network, full.spec.shell, full.ttl_s) == ("egress", ("bash", "-lc"), 60.0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"id": ""}, "id"),
        ({"image": "-v"}, "image"),
        ({"image": "a b"}, "image"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"disk_bytes": (1 << 50) + 1}, "disk_bytes"),
        ({"shm_bytes": -5}, "shm_bytes"),
        ({"network": "host"}, "network"),
        ({"user": "a b"}, "user"),
        ({"workdir": "relative"}, "workdir"),
        ({"workdir": "/a\0"}, "workdir"),
        ({"env": {"=": ""}}, "env"),
        ({"shell": ["", "-c"]}, "shell[0]"),
        ({"shell": ["x"] * 17}, "shell"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 257}, "concurrency"),
        ({"ttl_s": 0.0}, "ttl_s"),
        ({"priority": -(1 << 31)}, "priority"),
    ],
)
def test_a_bad_trajectory_is_refused_with_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        trajectory_request(trajectories_pb2.TrajectorySpec(**{"id": "t", **fields}))
    assert raised.value.field == field


SCALARS = {
    "id": st.text(max_size=70),
    "task": st.text(max_size=70),
    "trajectory": st.text(max_size=70),
    "priority": st.integers(-(1 << 31), (1 << 31) - 1),
    "group": st.text(max_size=300),
    "step": st.integers(-(1 << 63), (1 << 63) - 1),
    "timeout_s": st.floats(),
    "deadline_s": st.floats(),
    "labels": st.dictionaries(st.text(), st.text(), max_size=3),
    "cores": st.builds(
        types_pb2.Amounts,
        values=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=3),
        min=st.integers(-(1 << 63), (1 << 63) - 1),
        max=st.integers(-(1 << 63), (1 << 63) - 1),
    ),
    "profile": st.builds(
        types_pb2.Profile,
        duration_s=st.floats(),
        elasticity=st.dictionaries(st.integers(-5, 100), st.floats(), max_size=3),
        serial=st.none() | st.floats(),
    ),
}
BODIES = st.one_of(
    st.fixed_dictionaries(
        {
            "exec": st.builds(
                types_pb2.Exec,
                argv=st.lists(st.text(), max_size=3),
                shell_command=st.text(),
                cwd=st.text(),
                env=st.dictionaries(st.text(), st.text(), max_size=2),
                user=st.text(),
                max_output_bytes=st.integers(-(1 << 63), (1 << 63) - 1),
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "call": st.builds(
                types_pb2.Call,
                quota=st.text(),
                amount=st.integers(-(1 << 63), (1 << 63) - 1),
                url=st.text() | st.text().map("http://{}".format),
                method=st.text(),
                headers=st.dictionaries(st.text(), st.text(), max_size=2),
            )
        }
    ),
)


@given(fields=st.fixed_dictionaries({}, optional=SCALARS), body=BODIES)
def test_any_request_is_accepted_or_refused_with_a_field(
    fields: dict[str, Any], body: dict[str, Any]
) -> None:
    spec = types_pb2.ActionSpec(**fields, **body)
    try:
        request = convert(spec)
    except InvalidRequest as error:
        assert error.field and str(error)
    else:
        assert 1 <= len(request.action.id) <= 64
        assert len(request.summary) <= 120 and request.summary.isprintable()


# Answers


def ended(result: RunResult | None, state: State = State.FINISHED, **fields: Any) -> ActionRecord:
    record = ActionRecord(convert(exec_spec()), 1.0, 2.0, OutputStore(16 << 20), **fields)
    record.finish(3.0, state, result=result, error=fields.get("error"))
    return record


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.KILLED])
def test_every_outcome_has_its_value_on_the_wire(outcome: Outcome) -> None:
    message = answers.action_message(ended(RunResult(outcome)), 3.0)
    assert types_pb2.Outcome.Name(message.result.outcome) == f"OUTCOME_{outcome.name}"
    assert not message.result.HasField("exit_code") and not message.result.HasField("signal")


def test_output_beyond_what_one_message_takes_is_cut_and_marked() -> None:
    size = 8 << 20
    record = ActionRecord(convert(exec_spec()), 1.0, 2.0, OutputStore(size))
    record.output.write(Stream.STDOUT, 0, b"a" * size)
    record.output.write(Stream.STDERR, 0, b"b" * size)
    result = RunResult(Outcome.FINISHED, 0, stdout_bytes=size, stderr_bytes=size)
    record.finish(3.0, State.FINISHED, result=result)
    message = answers.action_message(record, 3.0)
    assert message.result.truncated and b"bytes cut" in message.result.stdout
    assert message.ByteSize() < 16 << 20


def test_names_and_headers_that_are_not_utf8_can_travel() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    info = answers.file_message(FileInfo(name, "file", 1, 0o644, 0.0))
    assert info.name == "caf\ufffd" and info.SerializeToString()
    reply = HttpReply(200, {"X": name}, b"")
    message = answers.action_message(ended(RunResult(Outcome.FINISHED, http=reply)), 3.0)
    assert message.result.http.headers["X"] == "caf\ufffd"


def test_an_error_says_whose_fault_it_is_and_when_to_retry() -> None:
    lost = answers.error_message(Lost("gone", action_id="a"))
    assert (lost.reason, lost.infra, lost.retryable, lost.action_id) == ("lost", True, True, "a")
    assert not lost.HasField("retry_after_s")
    assert answers.error_message(Overloaded("full", retry_after=2.0)).retry_after_s == 2.0
