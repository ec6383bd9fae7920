"""Forks and snapshots through the SDK, against a whole server with a fake node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tangram.client import AsyncClient, AsyncTrajectory
from tangram.client.methods import FORK, LIST_SNAPSHOTS
from tangram.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    SandboxFailed,
    TrajectoryClosed,
)
from tangram.managers.base import SandboxSpec
from tangram.managers.errors import PermanentError
from tangram.managers.fake import FakeManager
from tangram.scheduler import Scheduler, Trajectory
from tangram.server.admission import DispatcherLimits
from tangram.server.dispatcher import Dispatcher
from tangram.server.records import TrajectoryRequest, TrajectoryState
from tangram.testing import serve_fake
from tangram.v1 import trajectories_pb2 as pb
from tests.waiting import until

MIB = 1 << 20


@pytest.fixture
def node() -> FakeManager:
    return FakeManager(cores=2, memory_bytes=1 << 30)


@pytest.fixture
async def server(node: FakeManager) -> AsyncIterator[str]:
    async with serve_fake(manager=node) as address:
        yield address
    assert node.violations == []
    assert node.kept == {}, "all that was kept is discarded in the end"


@pytest.fixture
async def client(server: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server, task="job") as client:
        yield client


@pytest.fixture
async def trajectory(client: AsyncClient) -> AsyncIterator[AsyncTrajectory]:
    settings = {"memory": 100 * MIB, "group": "g", "env": {"FLAVOUR": "sweet"}}
    async with client.trajectory("python", **settings) as trajectory:  # type: ignore[arg-type]
        await trajectory.write_file("file", "old")
        yield trajectory


async def test_forks_have_the_parents_files_and_settings(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    forks = await trajectory.fork(3)
    await trajectory.write_file("file", "new")
    infos = [await fork.wait_ready() for fork in forks]
    assert len({fork.id for fork in forks}) == 3
    for fork, info in zip(forks, infos, strict=True):
        assert (info.forked_from, info.image, info.task) == (trajectory.id, "python", "job")
        assert await fork.read_text("file") == "old"
        assert (await fork.exec("printenv FLAVOUR")).stdout == "sweet\n"
        await fork.write_file("file", fork.id)
    assert await trajectory.read_text("file") == "new"
    await until(lambda: not node.kept)
    (status,) = (await client.status()).nodes
    assert status.memory.granted == 400 * MIB
    for fork in forks:
        await fork.close()


async def test_closing_the_parent_does_not_harm_a_fork(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    (fork,) = await trajectory.fork()
    async with fork:
        await trajectory.close()
        assert await fork.read_text("file") == "old"
    with pytest.raises(TrajectoryClosed):
        await trajectory.fork()


async def test_a_fork_waits_for_memory_with_a_reason_and_keeps_the_files_of_its_moment(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    async with client.trajectory(memory=900 * MIB) as other:
        await other.wait_ready()
        (fork,) = await trajectory.fork()
        assert (await fork.open()).state == "waiting"
        action = asyncio.create_task(fork.exec("cat file", id="waits"))
        await until(lambda: _reason(client, "waits"))
        explanation = await client.explain("waits")
        assert explanation.spans[-1].reason == "memory"
        await trajectory.write_file("file", "new")
        assert len(node.kept) == 1
    assert (await action).stdout == "old"
    await fork.close()
    await until(lambda: not node.kept)


async def _reason(client: AsyncClient, action: str) -> bool:
    try:
        return bool((await client.explain(action)).spans)
    except NotFound:
        return False


async def test_a_running_action_is_named_where_only_one_may_run(
    trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    await trajectory.snapshot("s")
    gate = node.gate("open")
    running = asyncio.create_task(trajectory.exec("gate open", id="the-action"))
    await until(lambda: node.running)
    for refused in (trajectory.fork(), trajectory.snapshot("s"), trajectory.restore("s")):
        with pytest.raises(FailedPrecondition, match="the-action"):
            await refused
    gate.set()
    await running
    (fork,) = await trajectory.fork()
    await fork.close()


async def test_with_concurrency_it_is_forked_under_its_actions(
    client: AsyncClient, node: FakeManager
) -> None:
    gate = node.gate("open")
    async with client.trajectory(memory=MIB, concurrency=2) as trajectory:
        running = asyncio.create_task(trajectory.exec("gate open"))
        await until(lambda: node.running)
        (fork,) = await trajectory.fork()
        assert (await fork.exec("echo fork")).stdout == "fork\n"
        gate.set()
        await running
        await fork.close()


async def test_the_same_fork_again_gives_the_same_trajectories(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    request = pb.ForkRequest(trajectory=trajectory.id, ids=["f1", "f2"])
    first = await client.connection.unary(FORK, request)
    again = await client.connection.unary(FORK, request)
    assert [t.id for t in first.trajectories] == [t.id for t in again.trajectories] == ["f1", "f2"]
    for identifier in ("f1", "f2"):
        await client.attach(identifier).wait_ready()
    with pytest.raises(AlreadyExists):
        await client.connection.unary(FORK, pb.ForkRequest(trajectory="f1", ids=["f2"]))
    for ids in ([], ["f3", "f3"], ["not an id"], [f"f{n}" for n in range(257)]):
        with pytest.raises(InvalidRequest, match="ids"):
            await client.connection.unary(FORK, pb.ForkRequest(trajectory=trajectory.id, ids=ids))
    for n in (0, 257, "2"):
        with pytest.raises(InvalidRequest, match="n"):
            await trajectory.fork(n)  # type: ignore[arg-type]


async def test_if_one_fork_cannot_be_opened_none_is(
    trajectory: AsyncTrajectory, node: FakeManager, client: AsyncClient
) -> None:
    opened = len(node.calls)
    checks = iter([None, PermanentError("no more of these")])

    async def check_open(spec: SandboxSpec) -> SandboxSpec:
        if (problem := next(checks)) is not None:
            raise problem
        return spec

    node.check_open = check_open  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition, match="no more"):
        await trajectory.fork(2)
    del node.check_open
    assert opened < len(node.calls)
    await until(lambda: not node.kept)
    assert (await client.status()).nodes[0].memory.granted == 100 * MIB


async def test_a_fork_whose_files_are_gone_says_so(
    trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    opening = node.faults.hold("open")
    (fork,) = await trajectory.fork()
    await until(lambda: ("open", fork.id) in node.calls)
    node.kept.clear()
    opening.set()
    with pytest.raises(SandboxFailed, match="not there any more"):
        await fork.wait_ready()
    await fork.close()


async def test_a_snapshot_is_restored_as_often_as_one_likes(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    made = await trajectory.snapshot("before")
    assert (made.name, made.trajectory, made.image) == ("before", trajectory.id, "python")
    assert made.size_bytes > 0
    for _ in range(2):
        await trajectory.write_file("file", "new")
        await trajectory.restore("before")
        assert await trajectory.read_text("file") == "old"
    with pytest.raises(NotFound, match="no snapshot 'other'"):
        await trajectory.restore("other")


async def test_the_same_name_again_replaces_a_snapshot(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    await trajectory.snapshot("s")
    await trajectory.write_file("file", "newer")
    await trajectory.snapshot("s")
    assert len(await client.snapshots()) == len(node.kept) == 1
    await trajectory.write_file("file", "newest")
    await trajectory.restore("s")
    assert await trajectory.read_text("file") == "newer"


async def test_a_trajectory_opens_from_a_snapshot_of_its_task(
    client: AsyncClient, trajectory: AsyncTrajectory, server: str
) -> None:
    await trajectory.snapshot("s")
    await trajectory.close()
    async with client.trajectory(snapshot="s", memory=MIB) as other:
        info = await other.open()
        assert (info.image, info.forked_from) == ("python", "")
        assert await other.read_text("file") == "old"
    with pytest.raises(InvalidRequest, match="leave the image out"):
        await client.trajectory("other", snapshot="s").open()
    with pytest.raises(NotFound, match="no snapshot"):
        await client.trajectory(snapshot="t").open()
    async with AsyncClient(server, task="another") as stranger:
        with pytest.raises(NotFound, match="task 'another' has no snapshot"):
            await stranger.trajectory(snapshot="s").open()
        assert await stranger.snapshots() == []


async def test_a_dropped_snapshot_serves_those_that_start_from_it(
    client: AsyncClient, trajectory: AsyncTrajectory, node: FakeManager
) -> None:
    await trajectory.snapshot("s")
    opening = node.faults.hold("open")
    async with client.trajectory(snapshot="s", memory=MIB) as other:
        await client.drop_snapshot("s")
        await client.drop_snapshot("s")
        assert await client.snapshots() == []
        assert len(node.kept) == 1
        opening.set()
        assert await other.read_text("file") == "old"
        await until(lambda: not node.kept)


async def test_names_of_snapshots_are_checked(trajectory: AsyncTrajectory) -> None:
    for name in ("", "a b", "x" * 65):
        with pytest.raises(InvalidRequest, match="name"):
            await trajectory.snapshot(name)
        with pytest.raises(InvalidRequest, match="name"):
            await trajectory.restore(name)
    with pytest.raises(InvalidRequest, match="ttl"):
        await trajectory.snapshot("s", ttl=0)


async def test_another_tasks_name_is_no_way_in(client: AsyncClient) -> None:
    request = pb.ListSnapshotsRequest(task="no task name")
    with pytest.raises(InvalidRequest, match="task"):
        await client.connection.unary(LIST_SNAPSHOTS, request)


# Limits and ends


@pytest.fixture
async def dispatcher(tmp_path: Path, node: FakeManager) -> AsyncIterator[Dispatcher]:
    limits = DispatcherLimits(max_snapshots=2, max_snapshot_bytes=100)
    dispatcher = Dispatcher(Scheduler(), [node], spool=tmp_path, limits=limits)
    await dispatcher.start()
    yield dispatcher
    await dispatcher.aclose()
    assert node.kept == {}


async def opened(dispatcher: Dispatcher, node: FakeManager, data: bytes = b"") -> str:
    request = TrajectoryRequest(
        Trajectory("t", "task"), SandboxSpec("t", memory_bytes=MIB), {}, None, b""
    )
    record = await dispatcher.open_trajectory(request)
    await dispatcher.wait_ready("t", 10)
    assert record.state is TrajectoryState.READY

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    await node.write_file("t", "file", 0o644, chunks())
    return record.id


async def test_a_task_keeps_so_many_snapshots(dispatcher: Dispatcher, node: FakeManager) -> None:
    name = await opened(dispatcher, node)
    for snapshot in ("a", "b", "b"):
        await dispatcher.snapshots.make(name, snapshot, None)
    with pytest.raises(FailedPrecondition, match="2 snapshots, which is the limit"):
        await dispatcher.snapshots.make(name, "c", None)
    await dispatcher.snapshots.drop("task", "a")
    await dispatcher.snapshots.make(name, "c", None)
    assert [made.name for made in dispatcher.snapshots.of_task("task")] == ["b", "c"]


async def test_two_at_once_do_not_pass_the_limit(dispatcher: Dispatcher, node: FakeManager) -> None:
    name = await opened(dispatcher, node)
    await dispatcher.snapshots.make(name, "a", None)
    keeping = node.faults.hold("keep")
    both = [asyncio.create_task(dispatcher.snapshots.make(name, n, None)) for n in ("b", "c")]
    await until(lambda: [call for call, _ in node.calls].count("keep") == 3)
    keeping.set()
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert [isinstance(o, FailedPrecondition) for o in outcomes].count(True) == 1
    assert len(node.kept) == 2


async def test_a_task_keeps_so_many_bytes(dispatcher: Dispatcher, node: FakeManager) -> None:
    name = await opened(dispatcher, node, bytes(60))
    await dispatcher.snapshots.make(name, "a", None)
    with pytest.raises(FailedPrecondition, match="than is left"):
        await dispatcher.snapshots.make(name, "b", None)
    await dispatcher.snapshots.make(name, "a", None)


async def test_snapshots_go_with_their_ttl_and_with_their_task(
    dispatcher: Dispatcher, node: FakeManager
) -> None:
    name = await opened(dispatcher, node)
    made = await dispatcher.snapshots.make(name, "short", 10.0)
    await dispatcher.snapshots.make(name, "long", None)
    await dispatcher.snapshots.drop_stale(made.made + 9.9, lambda task: True)
    assert len(node.kept) == 2
    await dispatcher.snapshots.drop_stale(made.made + 10.1, lambda task: True)
    assert [left.name for left in dispatcher.snapshots.of_task("task")] == ["long"]
    await dispatcher._housekeeping.look(dispatcher.now())
    assert len(node.kept) == 1, "its task was heard of just now"
    await dispatcher._housekeeping.look(dispatcher.now() + dispatcher.limits.lease_s + 1)
    assert node.kept == {}
