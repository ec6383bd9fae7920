"""Bad input ends in an error that names the field and what would be right, and harms nobody else.

Every test here has the neighbour looked after: a trajectory of another task, which works on. What
breaks while it runs is `test_faults`'s, what attacks from inside `test_isolation`'s.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from tangram import AsyncClient, errors
from tangram.client import AsyncTrajectory
from tangram.managers.cpu.sandbox.interpreter import CODE, MOUNT_POINT
from tangram.v1 import actions_pb2, trajectories_pb2, types_pb2
from tests.e2e.conftest import SETTINGS, Serve
from tests.e2e.servers import ServerProcess, refusal
from tests.e2e.wire import Wire, refused
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("neighbour")

MIB = 1 << 20
AGENT_PROGRAM = f"{MOUNT_POINT}/{CODE}"
AT_ONCE_S = 5.0
"""A refusal comes without waiting for resources; the slack is for a busy machine."""


@pytest.fixture
async def trajectory(client: AsyncClient) -> Any:
    async with client.trajectory() as trajectory:
        yield trajectory


# Things that are not there


async def test_an_unknown_image_is_named_with_the_way_to_get_it(client: AsyncClient) -> None:
    with pytest.raises((errors.NotFound, errors.Unsupported)) as caught:
        await client.trajectory("no/such:image").open()
    assert "docker" in str(caught.value)


@pytest.mark.docker
async def test_an_unknown_image_is_its_fields_fault(client: AsyncClient) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await client.trajectory("no/such:image").open()
    assert caught.value.reason is errors.Reason.UNKNOWN_IMAGE
    assert caught.value.field == "image"
    assert "'no/such:image'" in str(caught.value)
    assert "docker pull no/such:image" in str(caught.value)


async def test_an_unknown_quota_is_named_with_those_that_are_known(client: AsyncClient) -> None:
    with pytest.raises(errors.NotFound) as permit:
        await client.quota("serch").acquire()
    with pytest.raises(errors.NotFound) as call:
        await client.call("serch", "http://127.0.0.1:1/")
    for caught in (permit, call):
        assert caught.value.reason is errors.Reason.UNKNOWN_QUOTA
        assert caught.value.field == "quota"
        assert "serch" in str(caught.value)
        assert "known: search" in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda client: client.get("nobody"), "id"),
        (lambda client: client.explain("nobody"), "id"),
        (lambda client: client.cancel("nobody"), "id"),
        (lambda client: client.attach("nobody").wait_ready(), "trajectory"),
        (lambda client: client.attach("nobody").exec("true"), "trajectory"),
        (lambda client: client.attach("nobody").read_file("/etc/passwd"), "trajectory"),
        (lambda client: client.attach("nobody").write_file("file", "text"), "trajectory"),
        (lambda client: client.attach("nobody").list_files(), "trajectory"),
    ],
    ids=["get", "explain", "cancel", "attach", "exec", "read", "write", "list"],
)
async def test_an_unknown_id_is_told_as_such(
    client: AsyncClient, ask: Callable[[AsyncClient], Awaitable[Any]], field: str
) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await ask(client)
    assert caught.value.reason is errors.Reason.NOT_FOUND
    assert caught.value.field == field
    assert "'nobody'" in str(caught.value)


async def test_an_unknown_id_is_told_by_the_calls_behind_the_sdk(wire: Wire) -> None:
    for call in (
        wire.actions.Wait(actions_pb2.WaitRequest(id="nobody", timeout_s=0.0)),
        wire.actions.Release(actions_pb2.ReleaseRequest(id="nobody")),
        wire.trajectories.Close(trajectories_pb2.CloseRequest(id="nobody")),
        wire.trajectories.Stat(trajectories_pb2.StatRequest(trajectory="nobody", path="x")),
        wire.run(id="a", trajectory="nobody", timeout_s=1.0),
    ):
        said = await refused(call)
        assert (said.reason, "'nobody'" in said.message) == ("not-found", True), said


# Demands that no node can ever meet


async def test_more_cores_than_any_node_has_are_refused_with_the_most_there_is(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    total = (await client.status()).nodes[0].cores.total
    for cores in (4096, (4096, 8192), {4096, 8192}):
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(errors.Infeasible) as caught:
                await trajectory.exec("true", cores=cores)
        assert caught.value.field == "cores"
        assert "4096 cores" in str(caught.value)
        assert f" {total} cores" in str(caught.value)


async def test_an_amount_above_a_quota_is_refused_with_the_most_there_is(
    client: AsyncClient,
) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(errors.Infeasible) as caught:
            await client.quota("search", 5).acquire()
    assert caught.value.field == "amount"
    assert "5 units" in str(caught.value)
    assert "2 units" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "right"),
    [
        ({"memory": "900Ti"}, "the largest node has"),
        ({"disk": "900Ti"}, "at most"),
        ({"shm": "900Ti"}, "at most 256Mi"),
        ({"memory": 1}, "16Mi or more"),
    ],
    ids=["memory", "disk", "shm", "too-little"],
)
async def test_a_sandbox_that_fits_nowhere_is_refused_with_what_would_fit(
    client: AsyncClient, size: dict[str, Any], right: str
) -> None:
    sizes = {"memory": "256Mi", "disk": "64Mi", **size}
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises((errors.Infeasible, errors.FailedPrecondition)) as caught:
            await client.trajectory(**sizes).open()
    assert caught.value.field == next(iter(size))
    assert str(caught.value).startswith(f"{caught.value.field}: ")
    assert right in str(caught.value)


# Numbers and texts that are none


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("memory", value) for value in (-1, 0, math.nan, "1Zi", "-5Mi", True)),
        *(("disk", value) for value in (-1, 0, math.inf, "lots")),
        *(("shm", value) for value in (-1, 0, "1e99")),
        *(("ttl", value) for value in (-1, 0, math.nan, math.inf, 1e300)),
        *(("concurrency", value) for value in (0, -1, 1_000_000, 1.5)),
        *(("priority", value) for value in (10**12, math.nan)),
        *(("step", value) for value in (-1, 1 << 60)),
        *(("id", value) for value in ("", "a/b", "../x", "x" * 65, "\0")),
        ("network", "host"),
        ("user", "a b"),
        ("workdir", "relative"),
        ("group", "x" * 1000),
        ("env", {"A=B": "x"}),
        ("labels", {"": "x"}),
    ],
)
async def test_a_trajectory_with_an_absurd_setting_is_refused_by_its_name(
    client: AsyncClient, field: str, value: Any
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await client.trajectory(**{field: value}).open()
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("cores", value) for value in (0, -1, 1.5, math.nan, "2", True, 10**30, set(), {0})),
        *(("cores", value) for value in ((2, 1), (0, 2), (-4, -1))),
        *(("timeout", value) for value in (0, -1, math.nan, math.inf, 1e10)),
        *(("deadline", value) for value in (0, -1, math.nan, math.inf, 1e10)),
        *(("duration", value) for value in (-1, math.nan, math.inf)),
        *(("max_output", value) for value in (-1, 0, "1Ti", math.nan)),
        *(("elasticity", value) for value in ({1: 2.0}, {1: -1.0}, {1: math.nan}, {0: 1.0})),
        *(("id", value) for value in ("", "a b", "x" * 65)),
        *(("elasticity", value) for value in (-0.01, 1.01, math.nan, "0.5", {1: 0.5})),
        *(("malleable", value) for value in (1, "yes", None)),
        ("priority", 10**12),
        ("env", {"": "1"}),
        ("env", {"A": "\0"}),
    ],
)
async def test_an_action_with_an_absurd_setting_is_refused_by_its_name(
    trajectory: AsyncTrajectory, field: str, value: Any
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await trajectory.exec("true", **{field: value})
    assert field in caught.value.field
    assert field in str(caught.value)


@pytest.mark.parametrize("amount", [0, -1, 1.5, math.nan, 1 << 62])
async def test_an_absurd_amount_of_a_quota_is_refused_by_its_name(
    client: AsyncClient, amount: Any
) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"^amount") as caught:
        await client.quota("search", amount).acquire()
    assert caught.value.field == "amount"


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout_s": -1.0},
        {"timeout_s": math.nan},
        {"timeout_s": math.inf},
        {"deadline_s": -0.5},
        {"deadline_s": math.nan},
        {"cores": types_pb2.Amounts(values=[-1])},
        {"cores": types_pb2.Amounts(min=3, max=1)},
        {"cores": types_pb2.Amounts(min=-3, max=1 << 62)},
        {"cores": types_pb2.Amounts(values=range(1, 5000))},
        {"profile": types_pb2.Profile(duration_s=math.nan)},
        {"profile": types_pb2.Profile(duration_s=1.0, elasticity={2: math.inf})},
        {"profile": types_pb2.Profile(duration_s=-1.0)},
        {"profile": types_pb2.Profile(duration_s=1.0, serial=math.nan)},
        {"profile": types_pb2.Profile(duration_s=1.0, serial=0.1, elasticity={2: 0.9})},
        {"priority": -(1 << 31)},
        {"id": ""},
        {"id": "x" * 65},
        {"task": "a/b"},
        {"labels": {str(number): "" for number in range(1000)}},
        {"exec": types_pb2.Exec()},
        {"exec": types_pb2.Exec(argv=[""])},
        {"exec": types_pb2.Exec(argv=["true", "\0"])},
        {"exec": types_pb2.Exec(argv=["true"], max_output_bytes=-1)},
        {"exec": types_pb2.Exec(argv=["true"], max_output_bytes=1 << 40)},
        {"exec": types_pb2.Exec(argv=["true"], cwd="\0")},
        {"permit": types_pb2.PermitSpec(quota="search", amount=-1)},
        {"call": types_pb2.Call(quota="search", amount=1, url="file:///etc/passwd")},
        {"call": types_pb2.Call(quota="search", amount=1, url="http://x/", method="A B")},
    ],
    ids=str,
)
async def test_the_server_refuses_absurd_actions_by_itself(
    wire: Wire, fields: dict[str, Any]
) -> None:
    spec = {"id": "absurd", "trajectory": "t", "timeout_s": 1.0, **fields}
    if {"permit", "call"} & set(fields):
        del spec["trajectory"]
    said = await refused(wire.run(**spec))
    assert said.reason in ("invalid", "too-large"), said
    assert next(iter(fields)).removesuffix("_s") in said.field, said
    assert said.field.partition("[")[0] in said.message or said.message.startswith("body"), said


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_bytes": -1},
        {"disk_bytes": -(1 << 62)},
        {"shm_bytes": 1 << 62},
        {"ttl_s": math.nan},
        {"concurrency": -1},
        {"network": "host"},
        {"workdir": "a/../../b"},
        {"shell": [""]},
        {"image": "../../etc"},
        {"env": {"\0": ""}},
    ],
    ids=str,
)
async def test_the_server_refuses_absurd_trajectories_by_itself(
    wire: Wire, fields: dict[str, Any]
) -> None:
    said = await refused(wire.open(id="absurd", **fields))
    (name,) = fields
    assert said.reason == "invalid", said
    assert name.rpartition("_")[0] or name in said.field, said
    assert said.field.partition("[")[0] in said.message, said


@pytest.mark.parametrize("command", [[], "", [""], ["true", "\0"], ["true", 5], [b"true"]])
async def test_an_empty_command_or_one_that_is_no_text_is_refused(
    trajectory: AsyncTrajectory, command: Any
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await trajectory.exec(command)
    assert caught.value.field.startswith("command")
    assert str(caught.value).startswith("command")


async def test_a_folder_or_a_user_that_is_not_in_the_sandbox_is_named(
    trajectory: AsyncTrajectory,
) -> None:
    with pytest.raises(errors.FailedPrecondition, match="/not/there: No such file"):
        await trajectory.exec("true", cwd="/not/there")
    with pytest.raises(errors.FailedPrecondition, match="no user nobody-here"):
        await trajectory.exec("true", user="nobody-here")
    assert (await trajectory.exec("true")).ok


# Too much


async def test_output_that_is_no_text_comes_through_byte_by_byte(
    client: AsyncClient, image: str | None
) -> None:
    every_byte = bytes(range(256))
    octal = "".join(f"\\{byte:03o}" for byte in every_byte)
    async with client.trajectory(image) as trajectory:
        result = await trajectory.exec(["printf", octal])
        await trajectory.write_file("raw", every_byte)
        assert await trajectory.read_file("raw") == every_byte
    assert result.ok
    assert result.stdout_bytes == every_byte
    assert "\ufffd" in result.stdout
    assert not result.truncated


async def test_ten_megabytes_of_output_keep_head_and_tail_and_say_so(
    client: AsyncClient, image: str | None
) -> None:
    flood = "echo first; yes middle | head -n 1500000; echo last"
    async with client.trajectory(image) as trajectory:
        result = await trajectory.exec(f"{flood}; ({flood}) >&2; exit 3")
        assert (result.outcome, result.exit_code, result.truncated) == ("finished", 3, True)
        for kept in (result.stdout_bytes, result.stderr_bytes):
            assert kept.startswith(b"first\nmiddle\n")
            assert kept.endswith(b"middle\nlast\n")
            assert len(kept) <= MIB + 100
        streamed = [piece async for piece in client.output(result.action_id)]
        assert sum(len(data) for _, data in streamed) <= 2 * MIB + 200
        assert (await trajectory.exec("echo next")).stdout == "next\n"


async def test_a_message_above_the_limit_is_refused_and_the_next_one_is_taken(
    trajectory: AsyncTrajectory, shared_server: ServerProcess
) -> None:
    with pytest.raises(errors.TooLarge, match="the limit is 2 MiB: write a file") as caught:
        await trajectory.exec("cat", stdin=bytes(17 * MIB))
    assert caught.value.field == "stdin"
    async with Wire(shared_server.address) as wire:
        huge = types_pb2.Exec(argv=["cat"], stdin=bytes(17 * MIB))
        with pytest.raises(grpc.aio.AioRpcError) as refusal_of_grpc:
            await wire.run(id="huge", trajectory=trajectory.id, timeout_s=1.0, exec=huge)
        assert refusal_of_grpc.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (refusal_of_grpc.value.details() or "")
    too_much = types_pb2.Exec(argv=["cat"], stdin=bytes(3 * MIB))
    async with Wire(shared_server.address) as wire:
        said = await refused(
            wire.run(id="much", trajectory=trajectory.id, timeout_s=1.0, exec=too_much)
        )
    assert (said.reason, said.field) == ("too-large", "exec.stdin")
    large = bytes(2 * MIB)
    assert (await trajectory.exec("wc -c", stdin=large)).stdout.strip() == str(len(large))


async def test_a_file_larger_than_a_message_is_written_and_read_whole(
    trajectory: AsyncTrajectory,
) -> None:
    large = os.urandom(MIB) * 20
    await trajectory.write_file("large", large)
    assert await trajectory.read_file("large") == large


async def test_a_list_that_does_not_fit_in_a_message_comes_in_pages(client: AsyncClient) -> None:
    labels = {f"label-{number}": "x" * 1000 for number in range(60)}
    async with client.trajectory(concurrency=256, labels=labels) as trajectory:
        await asyncio.gather(*(trajectory.exec(["true"]) for _ in range(300)))
    listed = await client.list()
    assert len({action.id for action in listed}) == len(listed) == 300
    assert all(action.labels == labels for action in listed)


async def test_an_argument_that_no_linux_takes_is_refused_with_the_way_round(
    trajectory: AsyncTrajectory,
) -> None:
    with pytest.raises(errors.TooLarge, match="pass it by stdin or in a file"):
        await trajectory.exec(["true", "x" * 200_000])
    with pytest.raises(errors.TooLarge, match="by stdin or in a file"):
        await trajectory.exec(["true", *["x" * 1000] * 3000])


# Files that are not the sandbox's


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host, readable by all there."""
    file = tmp_path / "secret"
    file.write_text("the host's")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    return file


async def test_no_file_call_follows_a_link_or_a_path_out_of_the_sandbox(
    client: AsyncClient, image: str | None, secret: Path
) -> None:
    host = secret.parent
    dots = "/".join([".."] * 30)
    links = f"ln -s {secret} file; ln -s {host} folder; ln -s {dots}{host} dots; ln -s loop loop"
    async with client.trajectory(image) as trajectory:
        await trajectory.exec(f"{links}; mkfifo fifo 2>/dev/null; true", check=True)
        for path in (
            *("file", "folder/secret", "dots/secret", str(secret), f"{dots}{secret}", "loop"),
            *(f"/proc/1/root{secret}", f"/proc/self/cwd/{dots}{secret}", "folder/../secret"),
        ):
            with pytest.raises(errors.FileError) as caught:
                await trajectory.read_file(path)
            assert caught.value.field == "path"
            assert "the host's" not in str(caught.value)
        for path in ("folder", "dots", str(host), f"{dots}{host}"):
            with pytest.raises(errors.FileError):
                await trajectory.list_files(path)
        assert (await trajectory.stat("file")).target == str(secret)
        for path in ("file", "folder/new", "dots/new", f"{dots}{host}/new", str(secret)):
            try:
                await trajectory.write_file(path, "the sandbox's")
            except errors.FileError:
                continue
            # It was written, to a path of that name inside.
            assert await trajectory.read_file(path) == b"the sandbox's"
    _assert_untouched(secret)
    assert os.listdir(host) == ["secret"]


def _assert_untouched(secret: Path) -> None:
    assert secret.read_text() == "the host's"


@pytest.mark.parametrize(
    "path",
    ["/dev/zero", "/.tangram/run/agent.sock", "/proc/1/mem", "/proc/kcore", "/", "", "a\0b"],
)
async def test_what_is_no_file_of_the_sandboxs_user_cannot_be_read(
    client: AsyncClient, image: str | None, path: str
) -> None:
    async with client.trajectory(image) as trajectory:
        with pytest.raises((errors.FileError, errors.InvalidRequest)) as caught:
            await trajectory.read_file(path)
    assert caught.value.field == "path"


@pytest.mark.parametrize(
    "path", ["/sys/devices/system/cpu/online", AGENT_PROGRAM, "/proc/sys/kernel/hostname"]
)
async def test_what_the_sandbox_stands_on_cannot_be_written(
    client: AsyncClient, image: str | None, path: str
) -> None:
    async with client.trajectory(image) as trajectory:
        assert (await trajectory.exec(["test", "-f", path])).exit_code == 0
        with pytest.raises(errors.FileError):
            await trajectory.write_file(path, "0-255\n")
        assert (await trajectory.exec("nproc")).stdout == "1\n"


async def test_an_upload_follows_no_links_of_this_machine(
    trajectory: AsyncTrajectory, secret: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("source")
    (source / "file").write_text("mine")
    (source / "link").symlink_to(secret)
    (source / "folder").symlink_to(secret.parent)
    copied = await trajectory.upload(source, "taken")
    assert (copied.files, copied.skipped) == (1, ())
    kinds = {entry.name: entry.kind for entry in await trajectory.list_files("taken")}
    assert kinds == {"file": "file", "folder": "symlink", "link": "symlink"}
    with pytest.raises(errors.FileError, match="ENOENT"):
        await trajectory.read_file("taken/link")
    with pytest.raises(errors.InvalidRequest, match="links are not followed") as caught:
        await trajectory.upload(source / "link", "taken/link")
    assert caught.value.field == "src"


async def test_a_download_writes_nowhere_but_below_its_target(
    trajectory: AsyncTrajectory, secret: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("target")
    (target / "same").symlink_to(secret)
    (target / "folder").symlink_to(secret.parent)
    await trajectory.exec(
        f"mkdir -p out && echo inside > out/same && ln -s {secret} out/link && ln -s / out/root"
    )
    copied = await trajectory.download("out", target)
    assert sorted(copied.skipped) == ["link", "root"]
    assert (target / "same").read_text() == "inside\n"
    assert not (target / "same").is_symlink()
    await trajectory.exec("mkdir -p deep/folder && echo inside > deep/folder/secret")
    with pytest.raises(errors.FileError, match="link"):
        await trajectory.download("deep", target)
    with pytest.raises(errors.FileError, match="links are not followed"):
        await trajectory.download("out/link", target / "copy")
    _assert_untouched(secret)


# The same id, and the end


async def test_the_same_id_gives_the_same_answer_and_another_body_is_refused(
    trajectory: AsyncTrajectory,
) -> None:
    first = await trajectory.exec("echo once >> file; cat file", id="again")
    again = await trajectory.exec("echo once >> file; cat file", id="again")
    assert again.stdout == first.stdout == "once\n"
    for other in ({"command": "echo other"}, {"command": "echo once", "timeout": 2.0}):
        with pytest.raises(errors.AlreadyExists, match="use another id") as caught:
            await trajectory.exec(**other, id="again")
        assert (caught.value.field, caught.value.action_id) == ("id", "again")


async def test_a_trajectory_opened_again_with_other_settings_is_refused(
    client: AsyncClient,
) -> None:
    async with client.trajectory(id="twice", memory="64Mi") as trajectory:
        await trajectory.exec("echo kept > file")
        same = client.trajectory(id="twice", memory="64Mi")
        assert (await same.exec("cat file")).stdout == "kept\n"
        with pytest.raises(errors.AlreadyExists, match="use another id") as caught:
            await client.trajectory(id="twice", memory="65Mi").open()
        assert caught.value.field == "id"


async def test_another_tasks_trajectory_takes_no_actions(
    shared_server: ServerProcess, trajectory: AsyncTrajectory
) -> None:
    async with AsyncClient(shared_server.address, task="stranger") as stranger:
        with pytest.raises(errors.InvalidRequest, match="belongs to task") as caught:
            await stranger.attach(trajectory.id).exec("true")
    assert caught.value.field == "task"


async def test_a_closed_trajectory_says_so_to_every_call(
    client: AsyncClient, wire: Wire, image: str | None
) -> None:
    trajectory = client.trajectory(image)
    assert (await trajectory.exec("true")).ok
    await trajectory.close()
    await trajectory.close()
    other = client.attach(trajectory.id)
    for call in (
        trajectory.exec("true"),
        trajectory.read_file("x"),
        other.exec("true"),
        other.read_file("x"),
        other.write_file("x", "y"),
        other.list_files(),
        other.wait_ready(),
    ):
        with pytest.raises(errors.TrajectoryClosed, match=r"closed.*open a new one"):
            await call
    said = await refused(
        wire.run(id="late", task=client.task, trajectory=trajectory.id, timeout_s=1.0)
    )
    assert (said.reason, said.field) == ("trajectory-closed", "trajectory")


def _first_process_of(command: str) -> psutil.Process:
    """Process 1 of the sandbox in which a command runs."""
    process = next(
        p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == command.split()
    )
    while (
        not Path(f"/proc/{process.pid}/status")
        .read_text()
        .split("NSpid:")[1]
        .split("\n")[0]
        .endswith("\t1")
    ):
        process = process.parent() or process
    return process


async def test_a_sandbox_whose_agent_dies_is_lost_with_the_reason(
    client: AsyncClient, image: str | None
) -> None:
    command = f"sleep {300_000 + os.getpid()}"
    trajectory = client.trajectory(image)
    running = asyncio.ensure_future(trajectory.exec(command.split(), timeout=30))
    await until(lambda: command in _commands())
    _first_process_of(command).kill()
    with pytest.raises(errors.Lost) as caught:
        await running
    assert (caught.value.reason, caught.value.infra) == (errors.Reason.LOST, True)
    assert str(caught.value) == "the sandbox's agent ended"
    info = await client.get(caught.value.action_id)
    assert info.state == "failed"
    assert isinstance(info.error, errors.Lost)

    async def is_lost() -> bool:
        return (await trajectory.open()).state == "lost"

    await until(is_lost)
    assert (await trajectory.open()).message
    gone = f"the sandbox of trajectory {trajectory.id!r} is gone: .+"
    for call in (trajectory.exec("true"), trajectory.read_file("x"), trajectory.list_files()):
        with pytest.raises(errors.Lost, match=gone):
            await call
    assert command not in _commands()
    await trajectory.close()


def _commands() -> set[str]:
    return {" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}


# Servers that cannot start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes disks of a size, such as "16k"."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        subprocess.run(mount, check=True)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root  # Who may mount a small disk.
@pytest.mark.parametrize("size", ["16k", "1m"])
async def test_a_full_disk_at_start_is_told_with_the_way_out(
    small_disk: Callable[[str], Path], tmp_path: Path, size: str
) -> None:
    state = small_disk(size) / "state"
    said = await asyncio.to_thread(refusal, tmp_path / "server", {"state": str(state)})
    assert str(state) in said
    assert "No space left on device; make room for 64 MiB" in said
    assert "--state" in said


async def test_a_missing_docker_engine_at_start_names_the_launcher_that_would_work(
    tmp_path: Path,
) -> None:
    dead = {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
    said = await asyncio.to_thread(refusal, tmp_path / "server", {"launcher": "docker"}, dead)
    assert f"{tmp_path}/docker.sock" in said
    assert "docker" in said
    assert "launcher bubblewrap would work here" in said


async def test_a_missing_docker_engine_fails_the_open_of_an_image_alone(
    serve: Serve, short_folder: Path
) -> None:
    dead = {"DOCKER_HOST": f"unix://{short_folder}/docker.sock"}
    server = await asyncio.to_thread(lambda: serve(environment=dead))
    async with AsyncClient(server.address) as client, client.trajectory() as trajectory:
        assert (await trajectory.exec("true")).ok
        with pytest.raises(errors.Unsupported) as caught:
            await client.trajectory("python:3.12").open()
        assert "launcher docker does not work here" in str(caught.value)
        assert f"{short_folder}/docker.sock" in str(caught.value)
        assert "install" in str(caught.value)
        assert (await trajectory.exec("true")).ok


async def test_a_second_server_on_the_same_ports_or_state_is_refused(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    taken: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("listen", {"listen": shared_server.address}, f"port {shared_server.port} is in use"),
        ("http", {"http": shared_server.http}, "--http HOST:PORT"),
        ("state", {"state": str(shared_server.state)}, f"(pid {shared_server.pid})"),
    )
    answers = await asyncio.gather(
        *(
            asyncio.to_thread(refusal, tmp_path / name, {**SETTINGS, **settings})
            for name, settings, _ in taken
        )
    )
    for said, (name, _, right) in zip(answers, taken, strict=True):
        assert right in said
        assert f"--{name}" in said
