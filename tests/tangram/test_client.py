"""The asynchronous SDK against a whole server with a fake node, over loopback gRPC."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator

import pytest

from tangram.client import AsyncClient, AsyncTrajectory, Result
from tangram.errors import (
    AlreadyExists,
    Cancelled,
    CommandFailed,
    Expired,
    FailedPrecondition,
    Infeasible,
    InvalidRequest,
    Lost,
    NotFound,
    ProviderUnavailable,
    Reason,
    SandboxFailed,
    TangramError,
    TrajectoryClosed,
)
from tangram.managers.config import QuotaConfig
from tangram.managers.errors import PermanentError
from tangram.managers.fake import FakeManager
from tangram.testing import serve_fake
from tests.waiting import until

WAIT_S = 10.0
"""Longest that a test waits for a condition; reached only when it fails."""


@pytest.fixture
def node() -> FakeManager:
    return FakeManager(cores=2, memory_bytes=1 << 40, images=frozenset({"python"}))


@pytest.fixture
async def server(node: FakeManager) -> AsyncIterator[str]:
    quotas = {"one": QuotaConfig(concurrency=1), "two": QuotaConfig(concurrency=2)}
    async with serve_fake(manager=node, quotas=quotas) as address:
        yield address
    assert node.violations == []


@pytest.fixture
async def client(server: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server, task="job", labels={"run": "7"}) as client:
        yield client


@pytest.fixture
async def trajectory(client: AsyncClient) -> AsyncIterator[AsyncTrajectory]:
    async with client.trajectory(concurrency=256, group="g", step=3) as trajectory:
        yield trajectory


async def until_waiting(client: AsyncClient, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while len(await client.list(states=["waiting"])) < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)


# Running


async def test_a_result_has_all_that_the_command_did(trajectory: AsyncTrajectory) -> None:
    result = await trajectory.exec(["echo", "hello"])
    assert (result.outcome, result.exit_code, result.ok) == ("finished", 0, True)
    assert (result.stdout, result.stderr, result.stdout_bytes) == ("hello\n", "", b"hello\n")
    assert (result.cores, result.node, result.signal) == (1, "node0", None)
    assert not result.truncated
    assert pickle.loads(pickle.dumps(result)) == result


async def test_the_four_parts_of_the_timing_add_up(trajectory: AsyncTrajectory) -> None:
    timing = (await trajectory.exec(["true"])).timing
    parts = timing.queue + timing.prepare + timing.run + timing.overhead
    assert timing.act == pytest.approx(parts)
    assert timing.overhead > 0


async def test_what_the_command_did_is_never_an_exception(trajectory: AsyncTrajectory) -> None:
    assert (await trajectory.exec(["false"])).exit_code == 1
    assert (await trajectory.exec(["exceed", "memory"])).outcome == "out_of_memory"
    assert (await trajectory.exec(["spin"], timeout=0.01)).outcome == "timed_out"
    died = await trajectory.exec(["signal", "11"])
    assert (died.exit_code, died.signal, died.ok) == (-11, 11, False)


async def test_output_that_is_not_utf8_is_replaced_and_kept(trajectory: AsyncTrajectory) -> None:
    result = await trajectory.exec(["bytes", "fffe41"])
    assert (result.stdout, result.stdout_bytes) == ("\ufffd\ufffdA", b"\xff\xfeA")


async def test_output_above_the_limit_is_cut_and_marked(trajectory: AsyncTrajectory) -> None:
    result = await trajectory.exec(["emit", "10000000"], max_output="64Ki")
    assert result.truncated
    assert len(result.stdout_bytes) < 70 << 10


async def test_check_raises_with_the_result(trajectory: AsyncTrajectory) -> None:
    assert (await trajectory.exec(["true"], check=True)).ok
    with pytest.raises(CommandFailed, match="exit code 1") as raised:
        await trajectory.exec(["false"], check=True)
    assert isinstance(raised.value.result, Result)
    assert raised.value.result.exit_code == 1
    assert raised.value.action_id == raised.value.result.action_id
    assert not raised.value.infra


async def test_output_arrives_while_the_action_runs(
    trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    pieces: list[tuple[str, bytes]] = []
    running = asyncio.create_task(
        trajectory.exec(
            "echo one; gate g; echo two",
            on_output=lambda stream, data: pieces.append((stream, data)),
        )
    )
    await until(lambda: bool(pieces))
    assert pieces == [("stdout", b"one\n")] and not running.done()
    node.gate("g").set()
    assert (await running).stdout == "one\ntwo\n"
    assert pieces == [("stdout", b"one\n"), ("stdout", b"two\n")]


async def test_an_on_output_that_raises_cancels_the_action(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    def on_output(stream: str, data: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await trajectory.exec("echo one; spin", on_output=on_output, id="noisy")
    assert (await client.get("noisy")).state == "cancelled"


async def test_500_actions_in_flight_from_one_client_all_get_their_own_answer(
    client: AsyncClient,
) -> None:
    async with client.trajectory(concurrency=256) as one, client.trajectory(concurrency=256) as two:
        results = await asyncio.gather(
            *((one if n % 2 else two).exec(["echo", str(n)]) for n in range(500))
        )
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(500)]


async def test_actions_carry_what_client_and_trajectory_say(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    await trajectory.exec(["true"], id="mine", labels={"kind": "test"}, priority=2)
    action = await client.get("mine")
    assert (action.task, action.group, action.step, action.priority) == ("job", "g", 3, 2)
    assert action.labels == {"run": "7", "kind": "test"}
    assert (action.trajectory, action.kind, action.state) == (trajectory.id, "exec", "finished")
    assert action.ended and action.exit_code == 0


async def test_whoever_uses_a_trajectory_its_actions_have_its_labels_group_and_step(
    server: str, trajectory: AsyncTrajectory
) -> None:
    async with AsyncClient(server, task="job", labels={"run": "8", "mine": "1"}) as other:
        await other.attach(trajectory.id).exec(["true"], id="theirs")
        action = await other.get("theirs")
    assert (action.group, action.step, action.labels) == ("g", 3, {"run": "7"})


# Ids


async def test_the_same_id_again_gives_the_same_answer_and_runs_once(
    trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    first = await trajectory.exec(["write", "once", "x"], id="same")
    again = await trajectory.exec(["write", "once", "x"], id="same")
    assert (first.action_id, first.outcome) == (again.action_id, again.outcome)
    assert node.calls.count(("run", "same")) == 1


async def test_the_same_id_with_another_body_is_refused(trajectory: AsyncTrajectory) -> None:
    await trajectory.exec(["true"], id="same")
    with pytest.raises(AlreadyExists):
        await trajectory.exec(["false"], id="same")


async def test_an_unknown_id_is_not_found(client: AsyncClient) -> None:
    for ask in (client.get, client.explain):
        with pytest.raises(NotFound, match="nobody"):
            await ask("nobody")
    with pytest.raises(NotFound):
        await client.attach("nobody").exec(["true"])


# Cancelling


async def test_cancelling_the_task_cancels_the_action(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    running = asyncio.create_task(trajectory.exec(["spin"], id="endless"))
    await until(lambda: node.running == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: node.running == 0)
    action = await client.get("endless")
    assert action.state == "cancelled"
    assert isinstance(action.error, Cancelled)


async def test_cancel_selects_by_what_is_given(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    ids = ["one", "two", "three"]
    running = [asyncio.create_task(trajectory.exec(["spin"], id=id)) for id in ids]
    await until(lambda: node.running == 2)  # the third waits for a core
    assert await client.cancel(action="one", reason="enough") == ["one"]
    assert await client.cancel(group="another") == []
    assert set(await client.cancel(group="g", step=3)) == {"two", "three"}
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(outcome, Cancelled) and not outcome.infra
    with pytest.raises(InvalidRequest, match="at least one"):
        await client.cancel()


async def test_a_group_of_another_task_is_left_alone(
    server: str, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    running = asyncio.create_task(trajectory.exec(["spin"], id="theirs"))
    await until(lambda: node.running == 1)
    async with AsyncClient(server, task="other") as other:
        assert await other.cancel(group="g") == []
        assert await other.list() == []
        assert [action.id for action in await other.list(task=None)] == ["theirs"]
        assert await other.cancel(group="g", task="job") == ["theirs"]
    with pytest.raises(Cancelled):
        await running


async def test_a_deadline_that_passes_while_it_waits_expires_the_action(
    trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    holding = asyncio.create_task(trajectory.exec(["gate", "g"], cores=2))
    await until(lambda: node.running == 1)
    with pytest.raises(Expired) as raised:
        await trajectory.exec(["true"], deadline=0.05, id="late")
    assert raised.value.action_id == "late"
    node.gate("g").set()
    assert (await holding).ok


# Trajectories


async def test_a_trajectory_keeps_its_files_and_closes_its_sandbox(
    client: AsyncClient, node: FakeManager
) -> None:
    async with client.trajectory(id="t1") as trajectory:
        info = await trajectory.wait_ready()
        assert (info.state, info.workdir, info.task) == ("ready", "/workspace", "job")
        assert info.limits["memory"] == "hard"
        await trajectory.exec(["write", "a", "text"])
        assert (await trajectory.exec(["cat", "a"])).stdout == "text"
    assert ("close", "t1") in node.calls


async def test_a_trajectory_is_of_no_use_after_close(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        handle = client.attach(trajectory.id)
        assert (await handle.exec(["true"])).ok
    for closed in (trajectory, handle):
        with pytest.raises(TrajectoryClosed):
            await closed.exec(["true"])
        with pytest.raises(TrajectoryClosed):
            await closed.read_file("a")
    await trajectory.close()


async def test_a_trajectory_opens_at_its_first_use(client: AsyncClient, node: FakeManager) -> None:
    trajectory = client.trajectory(id="lazy")
    assert not node.calls
    assert (await trajectory.exec(["true"])).ok
    await trajectory.close()


async def test_attach_gives_another_client_the_same_sandbox(
    server: str, trajectory: AsyncTrajectory
) -> None:
    await trajectory.write_file("shared", "text")
    async with AsyncClient(server, task="job") as other:
        assert await other.attach(trajectory.id).read_text("shared") == "text"


async def test_a_pickled_trajectory_is_the_same_trajectory(trajectory: AsyncTrajectory) -> None:
    await trajectory.write_file("shared", "text")
    copy: AsyncTrajectory = pickle.loads(pickle.dumps(trajectory))
    assert copy.id == trajectory.id
    assert await copy.read_text("shared") == "text"


async def test_what_no_node_can_meet_is_refused_at_once(trajectory: AsyncTrajectory) -> None:
    with pytest.raises(Infeasible, match="2"):
        await trajectory.exec(["true"], cores=3)


async def test_an_unknown_image_is_refused_at_open(client: AsyncClient) -> None:
    with pytest.raises(NotFound) as raised:
        await client.trajectory("nonesuch").open()
    assert raised.value.reason is Reason.UNKNOWN_IMAGE


async def test_a_lost_sandbox_is_an_infra_error(
    trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    running = asyncio.create_task(trajectory.exec(["spin"], id="victim"))
    await until(lambda: node.running == 1)
    node.lose_sandbox(trajectory.id, "its agent died")
    with pytest.raises(Lost, match="its agent died") as raised:
        await running
    assert raised.value.infra and raised.value.retryable and raised.value.action_id == "victim"
    with pytest.raises(Lost):
        await trajectory.wait_ready()


async def test_wait_ready_expires_while_the_sandbox_still_starts(
    client: AsyncClient, node: FakeManager
) -> None:
    opening = node.faults.hold("open")
    async with client.trajectory() as trajectory:
        with pytest.raises(Expired, match="starting"):
            await trajectory.wait_ready(timeout=0.05)
        opening.set()
        assert (await trajectory.wait_ready()).state == "ready"


async def test_uses_that_come_first_at_the_same_time_share_one_opening(
    client: AsyncClient, node: FakeManager
) -> None:
    trajectory = client.trajectory(concurrency=4)
    results = await asyncio.gather(*(trajectory.exec(["echo", str(n)]) for n in range(4)))
    assert [result.stdout for result in results] == ["0\n", "1\n", "2\n", "3\n"]
    await trajectory.close()
    assert node.calls.count(("open", trajectory.id)) == 1


async def test_a_sandbox_that_cannot_start_is_told_as_such(
    client: AsyncClient, node: FakeManager
) -> None:
    node.faults.fail("open", PermanentError("no room"))
    trajectory = client.trajectory()
    with pytest.raises(SandboxFailed, match="no room") as raised:
        await trajectory.wait_ready()
    assert raised.value.infra and raised.value.retryable
    await trajectory.close()


# Quotas


async def test_a_permit_is_held_every_time_that_it_is_used(client: AsyncClient) -> None:
    permit, ids = client.quota("one"), set()
    for _ in range(2):
        async with permit:
            ids.add(permit.action_id)
            assert (await client.get(permit.action_id)).state == "running"
            with pytest.raises(Expired):
                await client.quota("one", deadline=0.05).acquire()
        assert (await client.get(permit.action_id)).state == "finished"
    assert len(ids) == 2


async def test_a_permit_that_is_held_is_not_acquired_again(client: AsyncClient) -> None:
    async with client.quota("two") as permit:
        held = permit.action_id
        with pytest.raises(FailedPrecondition, match="held or waited for already"):
            await permit.acquire()
        assert permit.action_id == held
    assert (await client.get(held)).state == "finished"


async def test_permits_are_given_in_the_order_of_asking(client: AsyncClient) -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        async with client.quota("one") as permit:
            order.append(number)
            assert permit.timing is not None

    async with client.quota("one"):
        users = []
        for number in range(5):
            users.append(asyncio.create_task(use(number)))
            await until_waiting(client, number + 1)
        assert order == []
    await asyncio.gather(*users)
    assert order == [0, 1, 2, 3, 4]
    assert await client.list(states=["waiting", "running"]) == []


async def test_a_report_closes_the_quota_and_then_lets_the_waiters_on(client: AsyncClient) -> None:
    async with client.quota("one") as permit:
        waiting = asyncio.create_task(client.quota("one").acquire())
        await permit.report(retry_after=0.2)
    (quota,) = [quota for quota in (await client.status()).quotas if quota.name == "one"]
    assert quota.closed_for is not None and 0 < quota.closed_for <= 0.2
    await waiting


async def test_a_cancelled_waiter_leaves_the_queue(client: AsyncClient) -> None:
    async with client.quota("one"):
        waiting = asyncio.create_task(client.quota("one").acquire())
        await until_waiting(client, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await client.list(states=["waiting"]) == []
    async with client.quota("one", deadline=WAIT_S):
        pass


async def test_quotas_that_cannot_be_had_say_why(client: AsyncClient) -> None:
    with pytest.raises(NotFound) as raised:
        await client.quota("nonesuch").acquire()
    assert raised.value.reason is Reason.UNKNOWN_QUOTA
    with pytest.raises(Infeasible):
        await client.quota("two", amount=3).acquire()
    async with client.quota("one"):
        with pytest.raises(Expired):
            await client.quota("one", deadline=0.05).acquire()


async def test_a_call_answers_with_what_the_server_was_answered(client: AsyncClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(
            int(request.lower().split(b"content-length: ")[1].split()[0])
        )
        reply = b'{"you said": ' + body + b"}"
        head = f"HTTP/1.1 418 No\r\nX-A: b\r\nContent-Length: {len(reply)}\r\n\r\n"
        writer.write(head.encode() + reply)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as http:
        port = http.sockets[0].getsockname()[1]
        result = await client.call("two", f"http://127.0.0.1:{port}/x", json={"a": 1})
    assert (result.outcome, result.status, result.ok) == ("finished", 418, False)
    assert result.json() == {"you said": {"a": 1}}
    assert {key.lower(): value for key, value in result.headers.items()}["x-a"] == "b"
    assert result.timing.act >= result.timing.run > 0


async def test_a_provider_that_does_not_answer_is_not_taken_for_the_server(
    client: AsyncClient,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ProviderUnavailable, match=f"127.0.0.1:{port}") as raised:
        await client.call("two", f"http://127.0.0.1:{port}/x")
    assert raised.value.infra and raised.value.retryable
    assert isinstance(raised.value, ConnectionError)


# Looking


async def test_status_explain_and_list_tell_of_the_pool(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    running = asyncio.create_task(trajectory.exec(["gate", "g"], cores=2, id="busy"))
    await until(lambda: node.running == 1)
    waiting = asyncio.create_task(trajectory.exec(["true"], id="waiting"))
    await until_waiting(client, 1)
    status = await client.status()
    assert (status.nodes[0].cores.total, status.nodes[0].cores.granted) == (2, 2)
    assert {action.id for action in status.actions} == {"busy", "waiting"}
    explained = await client.explain("waiting")
    assert explained.action.state == "waiting" and explained.action.wait_reason
    assert "cores" in explained.sentence
    node.gate("g").set()
    await asyncio.gather(running, waiting)
    assert [action.id for action in await client.list(limit=1)] == ["waiting"]
    assert [action.id for action in await client.list(states=["finished"])] == ["waiting", "busy"]
    with pytest.raises(InvalidRequest, match="states"):
        await client.list(states=["done"])


async def test_watch_goes_on_answering(client: AsyncClient) -> None:
    seen = 0
    async for status in client.watch(0.1):
        seen += 1
        assert status.version
        if seen == 3:
            break
    assert seen == 3


async def test_a_client_pickles_to_its_address_and_task(client: AsyncClient) -> None:
    copy: AsyncClient = pickle.loads(pickle.dumps(client))
    assert (copy.server, copy.task) == (client.server, "job")
    assert (await copy.status()).version
    await copy.close()


async def test_a_closed_client_says_so(client: AsyncClient, node: FakeManager) -> None:
    trajectory = client.trajectory(id="left")
    running = asyncio.create_task(trajectory.exec(["spin"]))
    await until(lambda: node.running == 1)
    await client.close()
    with pytest.raises(TangramError, match="closed"):
        await running
    with pytest.raises(TangramError, match="closed"):
        await client.status()


async def test_an_explanation_says_what_was_predicted_and_from_what(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        await trajectory.exec("true", cores=(1, 2), duration=4.0, elasticity=0.0, id="given")
        await trajectory.exec("true", id="plain")
    told = await client.explain("given")
    assert [(one.cores, one.run) for one in told.considered] == [(1, 4.0), (2, 2.0)]
    assert told.predicted_from == "given"
    assert told.predicted_run in (2.0, 4.0)
    told = await client.explain("plain")
    assert told.considered == ()
    assert told.predicted_from == "learned"
