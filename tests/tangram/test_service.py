"""The gRPC services over loopback: what each call answers, and what it refuses and how."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tangram import __version__
from tangram.limits import MESSAGE_BYTES_MAX
from tangram.managers.errors import TemporaryError
from tangram.v1 import actions_pb2, cluster_pb2, trajectories_pb2, types_pb2
from tangram.versions import SERVER_VERSION_KEY

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


# Running


async def test_run_answers_with_the_result_when_the_action_has_ended(wire: Any) -> None:
    await wire.open()
    action = await wire.run(wire.exec("echo", "hello", labels={"a": "b"}, step=3, group="g"))
    assert action.state == types_pb2.STATE_FINISHED
    assert action.result.outcome == types_pb2.OUTCOME_FINISHED
    assert (action.result.exit_code, action.result.stdout) == (0, b"hello\n")
    assert (action.kind, action.cores, action.node, action.summary) == (
        *("exec", 1, "node0"),
        "echo hello",
    )
    assert (dict(action.labels), action.step, action.group) == ({"a": "b"}, 3, "g")
    timing = action.timing
    parts = timing.queue_s + timing.prepare_s + timing.run_s + timing.overhead_s
    assert timing.act_s == pytest.approx(parts) and timing.act_s > 0


async def test_what_a_command_did_is_a_result_not_an_error(wire: Any) -> None:
    await wire.open()
    assert (await wire.run(wire.exec("false"))).result.exit_code == 1
    died = (await wire.run(wire.exec("signal", "11"))).result
    assert (died.exit_code, died.signal) == (-11, 11)
    memory = await wire.run(wire.exec("exceed", "memory"))
    assert memory.result.outcome == types_pb2.OUTCOME_OUT_OF_MEMORY
    late = await wire.run(wire.exec("spin", timeout_s=0.01))
    assert late.result.outcome == types_pb2.OUTCOME_TIMED_OUT


async def test_output_that_is_not_utf8_comes_back_as_it_is(wire: Any) -> None:
    await wire.open()
    assert (await wire.run(wire.exec("bytes", "fffe00"))).result.stdout == b"\xff\xfe\x00"


async def test_ten_megabytes_of_output_are_cut_in_the_middle(wire: Any) -> None:
    await wire.open()
    result = (await wire.run(wire.exec("emit", "10000000"))).result
    assert result.truncated and b"bytes cut" in result.stdout
    assert 1 << 20 <= len(result.stdout) < (1 << 20) + 100


async def test_both_streams_at_their_limit_fit_one_answer(wire: Any) -> None:
    await wire.open()
    limit = 8 << 20
    command = types_pb2.Exec(argv=["emit", str(limit)], max_output_bytes=limit)
    result = (await wire.run(wire.exec(exec=command))).result
    assert len(result.stdout) == limit and not result.truncated


async def test_the_same_id_again_gives_the_same_answer(wire: Any) -> None:
    await wire.open()
    spec = wire.exec("echo", "once", id="same")
    first, second = await wire.run(spec), await wire.run(spec)
    assert first == second
    assert [call for call in wire.fake.calls if call[0] == "run"] == [("run", "same")]


async def test_the_same_id_with_another_body_is_refused(wire: Any) -> None:
    await wire.open()
    await wire.run(wire.exec("true", id="same"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec("false", id="same"))
    assert raised.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert wire.error(raised.value).reason == "already-exists"


async def test_run_many_answers_each_as_it_ends_and_refuses_only_the_bad(wire: Any) -> None:
    await wire.open("t1")
    await wire.open("t2")
    specs = [
        wire.exec("gate", "g", trajectory="t1", id="slow"),
        wire.exec("echo", "x", trajectory="t2", id="fast"),
        wire.exec("true", trajectory="nowhere", id="lost"),
        wire.exec(trajectory="t2", id="empty"),
        wire.permit("nothing", id="unknown-quota"),
    ]
    stream = wire.actions.RunMany()
    for spec in specs:
        await stream.write(actions_pb2.RunRequest(action=spec))
    answers: dict[str, Any] = {}
    while len(answers) < 4:
        answer = await stream.read()
        answers[answer.id] = answer
    assert "slow" not in answers
    wire.fake.gate("g").set()
    await stream.done_writing()
    answers["slow"] = await stream.read()
    assert await stream.read() is grpc.aio.EOF
    assert answers["slow"].action.result.exit_code == 0
    assert answers["fast"].action.result.stdout == b"x\n"
    assert answers["lost"].error.reason == "not-found"
    assert (answers["empty"].error.reason, answers["empty"].error.field) == ("invalid", "exec.argv")
    assert answers["unknown-quota"].error.reason == "unknown-quota"


async def test_run_many_takes_thousands_on_one_stream(wire: Any) -> None:
    await wire.open(concurrency=256)

    async def requests() -> Any:
        for number in range(2000):
            yield actions_pb2.RunRequest(action=wire.exec("true", id=f"m{number}"))

    codes = {
        answer.id: answer.action.result.exit_code
        async for answer in wire.actions.RunMany(requests())
    }
    assert codes == {f"m{number}": 0 for number in range(2000)}


async def test_a_run_that_is_left_is_detached_and_wait_gets_its_result(wire: Any) -> None:
    await wire.open()
    call = wire.actions.Run(actions_pb2.RunRequest(action=wire.exec("gate", "g", id="left")))
    await wire.until(lambda: wire.fake.running == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    dispatcher = wire.server.dispatcher
    await wire.until(lambda: dispatcher.record("left").watchers == 0)
    assert (await wire.wait("left", 0)).state == types_pb2.STATE_RUNNING
    wire.fake.gate("g").set()
    assert (await wire.wait("left")).result.exit_code == 0


async def test_a_passed_deadline_of_run_cancels_the_action(wire: Any) -> None:
    await wire.open()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec("spin", id="late"), timeout=0.1)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    action = await wire.wait("late")
    assert action.state == types_pb2.STATE_CANCELLED
    assert "deadline" in action.error.message
    await wire.until(lambda: wire.fake.running == 0)


async def test_a_passed_deadline_of_run_many_cancels_what_is_in_flight(wire: Any) -> None:
    await wire.open()
    stream = wire.actions.RunMany(timeout=0.2)
    await stream.write(actions_pb2.RunRequest(action=wire.exec("spin", id="late")))
    with pytest.raises(grpc.aio.AioRpcError):
        await stream.read()
    assert (await wire.wait("late")).state == types_pb2.STATE_CANCELLED


async def test_submit_answers_at_once_and_wait_with_a_timeout_as_it_stands(wire: Any) -> None:
    await wire.open()
    await wire.submit(wire.exec("gate", "g", id="one"))
    assert (await wire.submit(wire.exec("true", id="two"))).state == types_pb2.STATE_WAITING
    waiting = await wire.wait("two", 0)
    assert (waiting.state, waiting.wait_reason) == (types_pb2.STATE_WAITING, "trajectory-busy")
    wire.fake.gate("g").set()
    assert (await wire.wait("two")).state == types_pb2.STATE_FINISHED


async def test_cores_are_substituted_for_a_range(wire: Any) -> None:
    await wire.open()
    spec = wire.exec("echo", "-j{cores}", cores=types_pb2.Amounts(min=1, max=2))
    assert (await wire.run(spec)).result.stdout in (b"-j1\n", b"-j2\n")
    assert (await wire.run(wire.exec("echo", "-j{cores}"))).result.stdout == b"-j{cores}\n"


async def test_an_action_whose_deadline_passes_while_it_waits_expires(wire: Any) -> None:
    await wire.open()
    await wire.submit(wire.exec("spin", id="first"))
    action = await wire.run(wire.exec("true", deadline_s=0.01))
    assert action.state == types_pb2.STATE_EXPIRED
    assert action.error.reason == "expired"


async def test_a_lost_sandbox_fails_its_action_as_lost_and_says_so(wire: Any) -> None:
    await wire.open()
    run = asyncio.ensure_future(wire.run(wire.exec("spin")))
    await wire.until(lambda: wire.fake.running == 1)
    wire.fake.lose_sandbox("t", "its agent died")
    action = await run
    assert action.state == types_pb2.STATE_FAILED
    assert (action.error.reason, action.error.infra) == ("lost", True)
    trajectory = (await wire.trajectories.Attach(trajectories_pb2.AttachRequest(id="t"))).trajectory
    assert trajectory.state == trajectories_pb2.TRAJECTORY_STATE_LOST
    assert "agent died" in trajectory.message


# Output


async def read_output(call: Any) -> dict[int, bytes]:
    streams: dict[int, bytes] = {}
    async for answer in call:
        streams[answer.stream] = streams.get(answer.stream, b"") + answer.data
    return streams


async def test_output_follows_live_until_the_action_ends(wire: Any) -> None:
    await wire.open()
    await wire.submit(wire.exec("sh", "-c", "echo one; gate g; warn two", id="a"))
    call = wire.actions.Output(actions_pb2.OutputRequest(id="a", follow=True))
    first = await call.read()
    assert (first.stream, first.offset, first.data) == (
        actions_pb2.OutputResponse.STREAM_STDOUT,
        0,
        b"one\n",
    )
    wire.fake.gate("g").set()
    second = await call.read()
    assert (second.stream, second.data) == (actions_pb2.OutputResponse.STREAM_STDERR, b"two\n")
    assert await call.read() is grpc.aio.EOF


async def test_output_starts_at_the_offsets_and_comes_in_chunks(wire: Any) -> None:
    await wire.open()
    size = 600_000
    command = types_pb2.Exec(argv=["emit", str(size)], max_output_bytes=2 * size)
    await wire.run(wire.exec(exec=command, id="a"))
    answers = [
        answer
        async for answer in wire.actions.Output(
            actions_pb2.OutputRequest(id="a", stdout_offset=100_003)
        )
    ]
    assert answers[0].offset == 100_003 and answers[0].data.startswith(b"345")
    assert max(len(answer.data) for answer in answers) <= 256 << 10
    assert sum(len(answer.data) for answer in answers) == size - 100_003


async def test_output_without_follow_ends_with_what_there_is(wire: Any) -> None:
    await wire.open()
    await wire.submit(wire.exec("sh", "-c", "echo one; gate g", id="a"))
    await wire.until(lambda: wire.server.dispatcher.record("a").output.produced("stdout") > 0)
    streams = await read_output(wire.actions.Output(actions_pb2.OutputRequest(id="a")))
    assert streams == {actions_pb2.OutputResponse.STREAM_STDOUT: b"one\n"}


async def test_following_output_is_asking_for_the_action(wire: Any) -> None:
    await wire.open()
    await wire.submit(wire.exec("spin", id="a"))
    call = wire.actions.Output(actions_pb2.OutputRequest(id="a", follow=True))
    record = wire.server.dispatcher.record("a")
    await wire.until(lambda: record.watchers == 1)
    call.cancel()
    await wire.until(lambda: record.watchers == 0)


# Asking and cancelling


async def test_list_filters_and_pages_newest_first(wire: Any) -> None:
    await wire.open()
    for number in range(5):
        labels = {"parity": "even" if number % 2 == 0 else "odd"}
        await wire.run(wire.exec("echo", "x", id=f"a{number}", step=number, labels=labels))

    async def ids(**filters: Any) -> tuple[list[str], str]:
        answer = await wire.actions.List(actions_pb2.ListRequest(**filters))
        assert all(not action.result.stdout for action in answer.actions)
        return [action.id for action in answer.actions], answer.next_page_token

    assert await ids(trajectory="t") == (["a4", "a3", "a2", "a1", "a0"], "")
    first, token = await ids(page_size=2)
    assert first == ["a4", "a3"]
    second, token = await ids(page_size=2, page_token=token)
    assert second == ["a2", "a1"]
    assert await ids(page_size=2, page_token=token) == (["a0"], "")
    assert (await ids(labels={"parity": "odd"}))[0] == ["a3", "a1"]
    assert (await ids(step=2))[0] == ["a2"]
    assert (await ids(states=[types_pb2.STATE_RUNNING]))[0] == []
    assert (await ids(task="another"))[0] == []


async def test_explain_tells_the_wait_and_who_is_ahead(wire: Any) -> None:
    await wire.open("t1")
    await wire.open("t2")
    await wire.submit(wire.exec("spin", trajectory="t1", cores=types_pb2.Amounts(values=[2])))
    await wire.submit(wire.exec("true", trajectory="t2", id="waits"))
    answer = await wire.actions.Explain(actions_pb2.ExplainRequest(id="waits"))
    assert answer.action.wait_reason == "cores" == answer.spans[-1].reason
    assert not answer.spans[-1].HasField("end_s")
    assert answer.sentence and answer.history[0].name == "Submitted"


async def test_cancel_kills_what_runs_and_names_it(wire: Any) -> None:
    await wire.open()
    await wire.submit(wire.exec("spin", id="a", group="g"))
    await wire.submit(wire.exec("true", id="b", group="g"))
    await wire.until(lambda: wire.fake.running == 1)
    request = actions_pb2.CancelRequest(group="g", reason="not needed")
    cancelled = (await wire.actions.Cancel(request)).cancelled
    assert sorted(cancelled) == ["a", "b"]
    action = await wire.wait("a")
    assert action.state == types_pb2.STATE_CANCELLED
    assert "not needed" in action.error.message
    await wire.until(lambda: wire.fake.running == 0)


async def test_status_shows_nodes_quotas_queues_and_tasks(wire: Any) -> None:
    await wire.open(task="train")
    await wire.submit(wire.exec("spin", id="a", task="train"))
    await wire.until(lambda: wire.fake.running == 1)
    status = await wire.cluster.Status(cluster_pb2.StatusRequest())
    assert status.version == __version__
    node = status.nodes[0]
    assert (node.name, node.launcher, node.cores.total, node.cores.granted) == (
        *("node0", "fake"),
        *(2, 1),
    )
    assert node.limits["memory"] == "hard"
    assert {quota.name for quota in status.quotas} == {"search", "wide", "slow"}
    assert [(task.name, task.running) for task in status.tasks] == [("train", 1)]
    assert [action.id for action in status.running] == ["a"]


async def test_watch_answers_again_and_again(wire: Any) -> None:
    call = wire.cluster.Watch(cluster_pb2.WatchRequest(interval_s=0.1))
    first, second = await call.read(), await call.read()
    assert second.uptime_s > first.uptime_s
    call.cancel()


# Permits


async def test_acquire_answers_when_the_permit_is_held_and_release_hands_it_on(wire: Any) -> None:
    first = await wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.permit(id="one")))
    assert first.action.state == types_pb2.STATE_RUNNING
    second = asyncio.ensure_future(
        wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.permit(id="two")))
    )
    dispatcher = wire.server.dispatcher
    await wire.until(lambda: any(record.id == "two" for record in dispatcher.records()))
    assert (await wire.get("two")).wait_reason == "quota"
    released = await wire.actions.Release(actions_pb2.ReleaseRequest(id="one"))
    assert released.action.state == types_pb2.STATE_FINISHED
    assert (await second).action.state == types_pb2.STATE_RUNNING


async def test_a_permit_released_with_retry_after_closes_its_quota(wire: Any) -> None:
    await wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.permit(id="one")))
    await wire.actions.Release(actions_pb2.ReleaseRequest(id="one", retry_after_s=1000.0))
    await wire.submit(wire.permit(id="two"))
    assert (await wire.get("two")).wait_reason == "quota-closed"


async def test_acquire_of_a_permit_that_is_cancelled_is_an_error(wire: Any) -> None:
    await wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.permit(id="one")))
    second = asyncio.ensure_future(
        wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.permit(id="two")))
    )
    dispatcher = wire.server.dispatcher
    await wire.until(lambda: any(record.id == "two" for record in dispatcher.records()))
    await wire.actions.Cancel(actions_pb2.CancelRequest(action="two"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await second
    assert raised.value.code() == grpc.StatusCode.CANCELLED
    assert wire.error(raised.value).action_id == "two"


async def test_a_passed_deadline_of_acquire_cancels_the_permit(wire: Any) -> None:
    await wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.permit(id="one")))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        request = actions_pb2.AcquireRequest(action=wire.permit(id="two"))
        await wire.actions.Acquire(request, timeout=0.1)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await wire.wait("two")).state == types_pb2.STATE_CANCELLED


async def test_acquire_takes_permits_only(wire: Any) -> None:
    await wire.open()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.actions.Acquire(actions_pb2.AcquireRequest(action=wire.exec("true")))
    assert (raised.value.code(), wire.error(raised.value).field) == (INVALID, "action.permit")


# Trajectories and files


async def test_a_trajectory_opens_attaches_and_closes(wire: Any) -> None:
    trajectory = await wire.open(task="train", image="python", workdir="/testbed")
    assert trajectory.state == trajectories_pb2.TRAJECTORY_STATE_READY
    assert (trajectory.task, trajectory.image, trajectory.workdir, trajectory.launcher) == (
        *("train", "python"),
        *("/testbed", "fake"),
    )
    await wire.trajectories.KeepAlive(trajectories_pb2.KeepAliveRequest(task="train", lease_s=60))
    await wire.trajectories.Close(trajectories_pb2.CloseRequest(id="t"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec("true"))
    assert raised.value.code() == PRECONDITION
    assert wire.error(raised.value).reason == "trajectory-closed"


async def test_attach_that_passes_its_time_answers_as_it_stands(wire: Any) -> None:
    held = wire.fake.faults.hold("open")
    spec = trajectories_pb2.TrajectorySpec(id="t")
    await wire.trajectories.Open(trajectories_pb2.OpenRequest(trajectory=spec))
    request = trajectories_pb2.AttachRequest(id="t", wait_ready_s=0.01)
    trajectory = (await wire.trajectories.Attach(request)).trajectory
    assert trajectory.state == trajectories_pb2.TRAJECTORY_STATE_STARTING
    held.set()


async def write_file(wire: Any, path: str, *chunks: bytes, **first: Any) -> Any:
    async def requests() -> Any:
        yield trajectories_pb2.WriteFileRequest(trajectory="t", path=path, **first)
        for chunk in chunks:
            yield trajectories_pb2.WriteFileRequest(data=chunk)

    return await wire.trajectories.WriteFile(requests())


async def read_file(wire: Any, path: str, **fields: Any) -> tuple[bytes, int]:
    request = trajectories_pb2.ReadFileRequest(trajectory="t", path=path, **fields)
    answers = [answer async for answer in wire.trajectories.ReadFile(request)]
    return b"".join(answer.data for answer in answers), answers[0].size


async def test_files_are_written_read_listed_and_described(wire: Any) -> None:
    await wire.open()
    data = bytes(range(256)) * 12_000
    written = await write_file(wire, "src/data.bin", data[:100], data[100:], mode=0o600)
    assert written.size == len(data)
    assert await read_file(wire, "src/data.bin") == (data, len(data))
    assert await read_file(wire, "src/data.bin", offset=5, limit=3) == (b"\5\6\7", len(data))
    await write_file(wire, "empty")
    assert await read_file(wire, "empty") == (b"", 0)
    listing = await wire.trajectories.ListFiles(trajectories_pb2.ListFilesRequest(trajectory="t"))
    assert [(info.name, info.kind) for info in listing.files] == [
        ("empty", "file"),
        ("src", "directory"),
    ]
    request = trajectories_pb2.StatRequest(trajectory="t", path="src/data.bin")
    info = (await wire.trajectories.Stat(request)).file
    assert (info.name, info.size, info.mode & 0o777) == ("data.bin", len(data), 0o600)


async def test_a_file_call_that_the_sandbox_refuses_is_a_file_error_with_its_code(
    wire: Any,
) -> None:
    await wire.open()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await read_file(wire, "missing.txt")
    error = wire.error(raised.value)
    assert (raised.value.code(), error.reason, error.field) == (PRECONDITION, "file", "path")
    assert "ENOENT" in error.message and "missing.txt" in error.message


async def test_write_file_names_its_file_once(wire: Any) -> None:
    await wire.open()

    async def requests() -> Any:
        yield trajectories_pb2.WriteFileRequest(trajectory="t", path="a")
        yield trajectories_pb2.WriteFileRequest(trajectory="t", path="b")

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.trajectories.WriteFile(requests())
    assert (raised.value.code(), wire.error(raised.value).field) == (INVALID, "path")


# Bad input: one of each class; test_convert has the fields one by one


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"id": ""}, INVALID, "invalid", "id"),
        ({"timeout_s": -1.0}, INVALID, "invalid", "timeout_s"),
        ({"timeout_s": float("nan")}, INVALID, "invalid", "timeout_s"),
        ({"cores": types_pb2.Amounts(values=[0])}, INVALID, "invalid", "cores.values"),
        ({"trajectory": "nowhere"}, grpc.StatusCode.NOT_FOUND, "not-found", "trajectory"),
        ({"cores": types_pb2.Amounts(values=[3])}, PRECONDITION, "infeasible", "cores"),
    ],
)
async def test_a_refused_action_names_the_field_and_harms_nothing(
    wire: Any, fields: dict[str, Any], code: grpc.StatusCode, reason: str, field: str
) -> None:
    await wire.open()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec("true", **fields))
    error = wire.error(raised.value)
    assert (raised.value.code(), error.reason, error.field) == (code, reason, field)
    assert error.message == raised.value.details() != ""
    assert (await wire.run(wire.exec("true"))).state == types_pb2.STATE_FINISHED


async def test_unknown_image_quota_and_memory_are_refused_at_once(wire: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.open(image="nothing")
    assert wire.error(raised.value).reason == "unknown-image"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.submit(wire.permit("nothing"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert wire.error(raised.value).reason == "unknown-quota"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.open(memory_bytes=1 << 40)
    assert wire.error(raised.value).reason == "infeasible"
    assert "8Gi" in str(raised.value.details())


@pytest.mark.parametrize("method", ["Get", "Wait", "Explain", "Output", "Release", "Cancel"])
async def test_an_unknown_id_is_not_found_by_every_method(wire: Any, method: str) -> None:
    key = "action" if method == "Cancel" else "id"
    call = getattr(wire.actions, method)(getattr(actions_pb2, f"{method}Request")(**{key: "x"}))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call.read() if method == "Output" else call)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert "'x'" in str(raised.value.details())


async def test_cancel_without_a_selector_is_refused(wire: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.actions.Cancel(actions_pb2.CancelRequest(reason="all of it"))
    assert raised.value.code() == INVALID


@pytest.mark.parametrize(
    "request_",
    [
        actions_pb2.ListRequest(page_size=-1),
        actions_pb2.ListRequest(page_size=1001),
        actions_pb2.ListRequest(page_token="nonsense"),
        actions_pb2.ListRequest(states=[types_pb2.STATE_UNSPECIFIED]),
    ],
)
async def test_list_refuses_what_it_cannot_page_or_filter(wire: Any, request_: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.actions.List(request_)
    assert raised.value.code() == INVALID


async def test_watch_refuses_an_interval_that_would_be_felt(wire: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.cluster.Watch(cluster_pb2.WatchRequest(interval_s=0.01)).read()
    assert (raised.value.code(), wire.error(raised.value).field) == (INVALID, "interval_s")


async def test_a_message_above_the_limit_is_refused_and_harms_nothing(wire: Any) -> None:
    await wire.open()
    command = types_pb2.Exec(argv=["cat"], stdin=bytes(MESSAGE_BYTES_MAX + 1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec(exec=command))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await wire.run(wire.exec("true"))).state == types_pb2.STATE_FINISHED


async def test_a_manager_that_fails_for_now_is_unavailable_with_a_delay(wire: Any) -> None:
    wire.fake.faults.fail("check_open", TemporaryError("the engine restarts", delay_s=3.0))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.open()
    error = wire.error(raised.value)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert (error.retry_after_s, error.retryable, error.infra) == (3.0, True, True)


async def test_a_bug_is_internal_with_the_id_of_its_log_entry(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.fake.faults.fail("check_open", RuntimeError("a bug"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.open()
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    log_id = str(raised.value.details()).partition(" as ")[2].partition(":")[0]
    assert log_id and log_id in caplog.text and "a bug" in caplog.text


# Versions, health, reflection


@pytest.mark.parametrize(
    ("version", "upgrade"), [("9.0.0", "server"), ("0.9.0", "server"), ("0.2.7", None)]
)
async def test_clients_work_one_minor_version_apart(
    wire: Any, version: str, upgrade: str | None
) -> None:
    await wire.open()
    metadata = (("tangram-client-version", version),)
    if upgrade is None:
        action = await wire.run(wire.exec("true"), metadata=metadata)
        assert action.state == types_pb2.STATE_FINISHED
        return
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec("true"), metadata=metadata)
    assert raised.value.code() == PRECONDITION
    assert f"upgrade the {upgrade}" in str(raised.value.details())


async def test_who_asks_for_the_servers_version_is_told_with_every_kind_of_call(wire: Any) -> None:
    await wire.open()
    asks = {"metadata": ((SERVER_VERSION_KEY, "?"),)}
    unary = wire.cluster.Status(cluster_pb2.StatusRequest(), **asks)
    stream = wire.cluster.Watch(cluster_pb2.WatchRequest(), **asks)
    refused = wire.actions.Get(actions_pb2.GetRequest(id="unknown"), **asks)
    silent = wire.cluster.Status(cluster_pb2.StatusRequest())
    for call in (unary, stream, refused):
        assert dict(await call.initial_metadata()).get(SERVER_VERSION_KEY) == __version__
    assert SERVER_VERSION_KEY not in dict(await silent.initial_metadata())
    stream.cancel()
    with pytest.raises(grpc.aio.AioRpcError):
        await refused


async def test_a_client_that_is_too_old_is_refused_by_every_method(wire: Any) -> None:
    old = (("tangram-client-version", "0.9.0"),)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.cluster.Status(cluster_pb2.StatusRequest(), metadata=old)
    assert raised.value.code() == PRECONDITION


async def test_what_is_no_version_is_invalid(wire: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.run(wire.exec("true"), metadata=(("tangram-client-version", "new"),))
    assert raised.value.code() == INVALID


async def test_health_and_reflection_answer(wire: Any) -> None:
    health: Any = health_pb2_grpc.HealthStub(wire.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="tangram.v1.Actions"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(wire.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = (await call.read()).list_services_response.service
    await call.done_writing()
    assert {"tangram.v1.Actions", "tangram.v1.Trajectories", "tangram.v1.Cluster"} <= {
        service.name for service in listed
    }


async def test_a_closing_server_ends_what_runs_and_answers_those_who_wait(wire: Any) -> None:
    await wire.open()
    run = asyncio.ensure_future(wire.run(wire.exec("spin")))
    await wire.until(lambda: wire.fake.running == 1)
    await wire.server.aclose()
    assert (await run).state == types_pb2.STATE_CANCELLED
    await wire.server.aclose()
