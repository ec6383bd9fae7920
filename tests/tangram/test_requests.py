"""Arguments of the SDK to wire messages: what is sent, and what is refused before it is sent."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tangram.client import AsyncClient, requests
from tangram.client.connection import resolve_server
from tangram.client.ids import new_id
from tangram.errors import InvalidRequest, TooLarge
from tangram.limits import DEFAULT_SERVER, STDIN_BYTES_MAX
from tangram.v1 import trajectories_pb2, types_pb2

EXEC: dict[str, Any] = {
    "cores": 1,
    "cwd": None,
    "env": None,
    "stdin": None,
    "user": None,
    "malleable": False,
    "duration": None,
    "elasticity": None,
    "max_output": "1Mi",
}
TRAJECTORY: dict[str, Any] = {
    "id": None,
    "task": "default",
    "image": None,
    "group": None,
    "step": None,
    "priority": 0,
    "labels": {},
    "memory": None,
    "disk": None,
    "shm": None,
    "network": None,
    "user": None,
    "workdir": None,
    "env": None,
    "shell": None,
    "pull": None,
    "concurrency": 1,
    "ttl": None,
}


def action(**changes: Any) -> types_pb2.ActionSpec:
    return requests.action(**{"id": None, "task": "default", "labels": {}, **changes})


def command(command: requests.Command = "true", **changes: Any) -> types_pb2.ActionSpec:
    spec = action()
    requests.exec_into(spec, command, **{**EXEC, **changes})
    return spec


def call(url: str = "https://example.org/", **changes: Any) -> types_pb2.ActionSpec:
    spec = action()
    arguments = {"amount": 1, "method": "POST", "headers": None, "json": None, **changes}
    requests.call_into(spec, "search", url, **arguments)
    return spec


def trajectory(**changes: Any) -> trajectories_pb2.TrajectorySpec:
    return requests.trajectory(**{**TRAJECTORY, **changes})


def test_a_str_is_a_shell_line_and_a_list_an_argv() -> None:
    assert command("make test").exec.shell_command == "make test"
    assert list(command(["make", "test"]).exec.argv) == ["make", "test"]


@pytest.mark.parametrize(
    ("cores", "amounts"),
    [
        (4, types_pb2.Amounts(values=[4])),
        ((1, 8), types_pb2.Amounts(min=1, max=8)),
        ({8, 1, 2}, types_pb2.Amounts(values=[1, 2, 8])),
        (frozenset({2}), types_pb2.Amounts(values=[2])),
    ],
)
def test_cores_are_a_number_a_range_or_a_set(
    cores: requests.Cores, amounts: types_pb2.Amounts
) -> None:
    assert command(cores=cores).cores == amounts


def test_what_is_known_of_the_duration_travels_as_the_profile() -> None:
    profile = command(duration=12.5, elasticity={2: 0.9, 4: 0.8}).profile
    assert profile.duration_s == 12.5
    assert dict(profile.elasticity) == {2: 0.9, 4: 0.8}
    assert not profile.HasField("serial")


@pytest.mark.parametrize("serial", [0, 0.03, 1])
def test_one_number_for_the_elasticity_is_the_serial_share(serial: float) -> None:
    profile = command(elasticity=serial).profile
    assert profile.HasField("serial")
    assert profile.serial == serial
    assert not profile.elasticity


def test_that_an_action_is_malleable_travels() -> None:
    assert command(malleable=True).malleable
    assert not command().malleable


def test_a_duration_of_zero_is_sent_as_it_is() -> None:
    profile = command(duration=0).profile
    assert profile.HasField("duration_s")
    assert profile.duration_s == 0
    assert not command().HasField("profile")


def test_sizes_are_bytes_or_text() -> None:
    spec = trajectory(memory="512Mi", disk=10**9, shm="1M")
    assert (spec.memory_bytes, spec.disk_bytes, spec.shm_bytes) == (512 << 20, 10**9, 10**6)


async def test_what_is_not_given_is_the_servers_to_choose() -> None:
    spec = AsyncClient().trajectory()._spec
    assert (spec.memory_bytes, spec.disk_bytes, spec.shm_bytes, spec.network) == (0, 0, 0, "")
    assert trajectory(network="egress").network == "egress"


def test_step_zero_and_no_step_differ() -> None:
    assert trajectory(step=0).HasField("step")
    assert not trajectory().HasField("step")


def test_a_json_body_names_its_type_unless_the_caller_does() -> None:
    assert call(json={"q": 1}).call.body == b'{"q": 1}'
    assert dict(call(json=[]).call.headers) == {"Content-Type": "application/json"}
    own = {"content-type": "application/x-ndjson"}
    assert dict(call(json=[], headers=own).call.headers) == own
    assert call().call.body == b"" and not call().call.headers


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cores": 0}, "cores"),
        ({"cores": -1}, "cores"),
        ({"cores": 1.5}, "cores"),
        ({"cores": True}, "cores"),
        ({"cores": 10**9}, "cores"),
        ({"cores": (4, 2)}, "cores"),
        ({"cores": (1, 2, 3)}, "cores"),
        ({"cores": set()}, "cores"),
        ({"cores": {0, 1}}, "cores"),
        ({"cores": "4"}, "cores"),
        ({"command": ""}, "command"),
        ({"command": "  "}, "command"),
        ({"command": []}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["a\0b"]}, "command[0]"),
        ({"command": ["a", 1]}, "command[1]"),
        ({"command": "\ud800"}, "command"),
        ({"env": {"A": 1}}, "env[A]"),
        ({"stdin": 7}, "stdin"),
        ({"max_output": 0}, "max_output"),
        ({"max_output": "9Mi"}, "max_output"),
        ({"max_output": "lots"}, "max_output"),
        ({"duration": -1.0}, "duration"),
        ({"elasticity": {2: 1.5}}, "elasticity[2]"),
        ({"duration": float("nan")}, "duration"),
        ({"elasticity": {0: 0.5}}, "elasticity"),
        ({"elasticity": {1: 0.5}}, "elasticity[1]"),
        ({"elasticity": -0.1}, "elasticity"),
        ({"elasticity": 1.1}, "elasticity"),
        ({"elasticity": float("nan")}, "elasticity"),
        ({"elasticity": "0.5"}, "elasticity"),
        ({"elasticity": True}, "elasticity"),
        ({"malleable": 1}, "malleable"),
    ],
)
def test_a_bad_argument_of_exec_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=r"must be|is not a size") as raised:
        command(**changes)
    assert raised.value.field == field
    assert field in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": 1e9}, "timeout"),
        ({"timeout": "60"}, "timeout"),
        ({"deadline": 0}, "deadline"),
        ({"id": ""}, "id"),
        ({"id": "a" * 65}, "id"),
        ({"id": "a/b"}, "id"),
        ({"priority": 2**31}, "priority"),
        ({"labels": {"a": 1}}, "labels[a]"),
    ],
)
def test_a_bad_argument_of_any_action_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match="must be") as raised:
        action(**changes)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"memory": 0}, "memory"),
        ({"memory": -5}, "memory"),
        ({"disk": "10 apples"}, "disk"),
        ({"network": "all"}, "network"),
        ({"shell": "bash -c"}, "shell"),
        ({"pull": "sometimes"}, "pull"),
        ({"concurrency": 0}, "concurrency"),
        ({"ttl": 0}, "ttl"),
        ({"step": -1}, "step"),
    ],
)
def test_a_bad_argument_of_a_trajectory_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        trajectory(**changes)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "example.org"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"amount": 0}, "amount"),
        ({"json": {1, 2}}, "json"),
        ({"json": float("nan")}, "json"),
    ],
)
def test_a_bad_argument_of_call_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        call(**changes)
    assert raised.value.field == field


def test_a_permit_needs_a_quota_and_an_amount() -> None:
    with pytest.raises(InvalidRequest, match="quota must be the name of a quota"):
        requests.permit_into(action(), "", 1)
    with pytest.raises(InvalidRequest, match="amount must be an integer from 1"):
        requests.permit_into(action(), "search", 0)


def test_stdin_has_its_limit_and_is_taken_up_to_it() -> None:
    assert len(command(stdin=b"x" * STDIN_BYTES_MAX).exec.stdin) == 2 << 20
    with pytest.raises(TooLarge, match="stdin has 2097153 bytes, the limit is 2 MiB") as raised:
        command(stdin=b"x" * (STDIN_BYTES_MAX + 1))
    assert raised.value.field == "stdin"


def test_a_message_above_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TooLarge, match="the limit of a message is 16 MiB"):
        command(["echo", "x" * (17 << 20)])
    with pytest.raises(TooLarge) as raised:
        call(json="x" * (17 << 20))
    assert raised.value.field == "json"


def test_new_ids_are_uuids_of_version_7_in_the_order_of_their_making() -> None:
    first, *_, last = ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all((uuid.UUID(id).version, uuid.UUID(id).variant) == (7, uuid.RFC_4122) for id in ids)
    assert first[:13] <= last[:13]


def test_the_server_is_the_argument_else_the_variable_else_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TANGRAM_SERVER", raising=False)
    assert resolve_server(None) == DEFAULT_SERVER
    monkeypatch.setenv("TANGRAM_SERVER", "cluster:7070")
    assert resolve_server(None) == "cluster:7070"
    assert resolve_server("[::1]:80") == "[::1]:80"


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":7070", "host:port", "host:0", "host:70000", "::1:7070"]
)
def test_an_address_that_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="server must be HOST:PORT") as raised:
        resolve_server(address)
    assert raised.value.field == "server"


def test_a_bad_variable_is_named_as_the_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANGRAM_SERVER", "nowhere")
    with pytest.raises(InvalidRequest, match="TANGRAM_SERVER must be HOST:PORT"):
        resolve_server(None)
