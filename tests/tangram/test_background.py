"""Sessions and background processes at the server, over the fake node: limits, refusals, races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tangram import AsyncClient
from tangram.client import AsyncTrajectory
from tangram.errors import (
    FailedPrecondition,
    InvalidRequest,
    Lost,
    TooLarge,
    TrajectoryClosed,
    Unavailable,
)
from tangram.managers.errors import TemporaryError
from tangram.managers.fake import FakeManager
from tangram.server.processes import PROCESSES_MAX
from tangram.testing import serve_fake
from tangram.v1 import trajectories_pb2 as pb
from tests.waiting import until

from .conftest import Wire


@pytest.fixture
def node() -> FakeManager:
    return FakeManager(cores=2)


@pytest.fixture
async def trajectory(node: FakeManager) -> AsyncIterator[AsyncTrajectory]:
    async with (
        serve_fake(manager=node) as address,
        AsyncClient(address) as client,
        client.trajectory() as opened,
    ):
        yield opened


async def test_input_is_typed_to_the_run_that_waits(trajectory: AsyncTrajectory) -> None:
    session = trajectory.session()
    asked = asyncio.Event()
    running = asyncio.create_task(
        session.run(["ask", "name?"], on_output=lambda stream, data: asked.set())
    )
    await asked.wait()
    await session.send("bob\n")
    assert (await running).stdout == "name?bob\n"
    with pytest.raises(FailedPrecondition, match="nothing runs"):
        await session.interrupt()


async def test_input_is_not_typed_twice_when_the_answer_is_lost(
    node: FakeManager, trajectory: AsyncTrajectory
) -> None:
    """A call that may have arrived is not asked again."""
    node.faults.fail("session", TemporaryError("lost on the way"))
    with pytest.raises(Unavailable, match="lost on the way"):
        await trajectory.session().send("x\n")
    assert [call for call, _ in node.calls].count("session") == 1


async def test_a_process_outlives_actions_and_is_ended_with_its_trajectory(
    node: FakeManager, trajectory: AsyncTrajectory
) -> None:
    process = await trajectory.start(["spin", "db"])
    await trajectory.exec("true", check=True)
    await until(lambda: node.processes() == ["db"])
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    await trajectory.close()
    with pytest.raises((TrajectoryClosed, Lost)):
        await waiting
    assert node.processes() == []


async def test_a_lost_sandbox_loses_its_processes(
    node: FakeManager, trajectory: AsyncTrajectory
) -> None:
    process = await trajectory.start(["spin", "db"])
    waiting = asyncio.create_task(process.wait())
    await until(lambda: node.processes() == ["db"])
    node.lose_sandbox(trajectory.id)
    with pytest.raises(Lost):
        await waiting


async def test_processes_of_a_trajectory_are_bounded(trajectory: AsyncTrajectory) -> None:
    started = [await trajectory.start(["spin"], id=f"p{n}") for n in range(PROCESSES_MAX)]
    with pytest.raises(FailedPrecondition, match="32 background processes"):
        await trajectory.start(["spin"])
    await started[0].stop(grace=0)
    await trajectory.start(["spin"])


async def test_output_is_read_on_from_any_offset(trajectory: AsyncTrajectory) -> None:
    process = await trajectory.start("echo one; warn two; echo three")
    await process.wait(10)
    log = await process.logs()
    assert (log.text, log.offset, log.end) == ("one\ntwo\nthree\n", 0, 14)
    assert (await process.logs(4)).text == "two\nthree\n"
    assert [piece.text async for piece in process.follow(8)] == ["three\n"]
    assert (await process.logs(99)).data == b""


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("SessionInput", pb.SessionInputRequest(trajectory="t", session="s"), "data"),
        ("SessionInput", pb.SessionInputRequest(trajectory="t", interrupt=True), "session"),
        (
            "SessionInput",
            pb.SessionInputRequest(trajectory="t", session="s", data=b"x" * 65_537),
            "data",
        ),
        ("StartProcess", pb.StartProcessRequest(trajectory="t", id="p"), "exec.argv"),
        ("WaitProcess", pb.WaitProcessRequest(trajectory="t", id="p", wait_s=-1), "wait_s"),
        ("WaitProcess", pb.WaitProcessRequest(trajectory="t", id="p", offset=-1), "offset"),
        ("StopProcess", pb.StopProcessRequest(trajectory="t", id="p", grace_s=-1), "grace_s"),
        ("WaitPort", pb.WaitPortRequest(trajectory="t", port=0), "port"),
        ("WaitPort", pb.WaitPortRequest(trajectory="t", port=65_536), "port"),
    ],
)
async def test_a_wrong_request_is_refused_by_its_field(
    wire: Wire, method: str, request_: object, field: str
) -> None:
    await wire.open()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(wire.trajectories, method)(request_)
    error = wire.error(refused.value)
    assert error.reason in ("invalid", "too-large")
    assert error.field == field


async def test_the_sdk_refuses_what_no_server_takes(trajectory: AsyncTrajectory) -> None:
    with pytest.raises(TooLarge, match="65536"):
        await trajectory.session().send("x" * 65_537)
    process = trajectory.process("p")
    for wrong in (process.wait_port(0), process.logs(-1), process.stop(grace=-1)):
        with pytest.raises(InvalidRequest):
            await wrong
