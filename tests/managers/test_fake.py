"""The fake's knobs: what it can be told to do wrong, and that it notices a caller that does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tangram.managers.base import ExecSpec, Lease, Outcome, RunRequest, RunResult, SandboxSpec
from tangram.managers.errors import (
    FileProblem,
    LeaseLost,
    PermanentError,
    SandboxClosed,
    TemporaryError,
    UnknownImage,
)
from tangram.managers.fake import FakeManager
from tangram.managers.fake.files import FakeFiles
from tangram.scheduler.model import CORES, ResourceId
from tests.managers.contract.node import Recorder
from tests.waiting import until

ONE_CORE = {ResourceId(CORES, "node0"): 1}


@pytest.fixture
async def fake() -> AsyncIterator[FakeManager]:
    manager = FakeManager(cores=2, memory_bytes=1 << 30)
    yield manager
    await manager.aclose()


async def opened(fake: FakeManager, trajectory: str = "t1", memory_bytes: int = 1 << 20) -> None:
    spec = SandboxSpec(trajectory, memory_bytes=memory_bytes)
    await fake.open(spec, 1, lambda message: None)


async def run(
    fake: FakeManager, lease: Lease, *argv: str, timeout_s: float | None = None
) -> RunResult:
    request = RunRequest(lease.action, ExecSpec(argv=argv), timeout_s)
    return await fake.run(lease, request, Recorder())


async def test_opens_fail_as_often_as_told_and_leave_nothing(fake: FakeManager) -> None:
    fake.faults.fail("open", TemporaryError("busy"), PermanentError("broken"))
    with pytest.raises(TemporaryError, match="busy"):
        await opened(fake)
    with pytest.raises(PermanentError, match="broken"):
        await opened(fake)
    assert not any(fake.sandboxes().values())
    await opened(fake)
    assert fake.sandboxes()["idle"] == 1


async def test_a_held_call_waits_until_it_is_let_go(fake: FakeManager) -> None:
    await opened(fake)
    lease = await fake.acquire("a1", "t1", 1, ONE_CORE)
    let_go = fake.faults.hold("release")
    releasing = asyncio.create_task(fake.release(lease))
    await until(lambda: ("release", "a1") in fake.calls)
    assert fake.free_cores == 1
    let_go.set()
    await releasing
    assert fake.free_cores == 2
    await fake.release(lease)


async def test_a_held_kill_lets_the_run_go_on(fake: FakeManager) -> None:
    await opened(fake)
    lease = await fake.acquire("a1", "t1", 1, ONE_CORE)
    running = asyncio.create_task(run(fake, lease, "gate", "finish"))
    let_go = fake.faults.hold("kill")
    killing = asyncio.create_task(fake.kill(lease))
    await until(lambda: ("kill", "a1") in fake.calls)
    fake.gate("finish").set()
    assert (await running).outcome is Outcome.FINISHED
    let_go.set()
    await killing


async def test_a_lost_lease_ends_its_run_and_leaves_its_sandbox(fake: FakeManager) -> None:
    await opened(fake)
    lease = await fake.acquire("a1", "t1", 1, ONE_CORE)
    running = asyncio.create_task(run(fake, lease, "spin"))
    await until(lambda: fake.running == 1)
    fake.lose_lease("a1", "the node forgot it")
    with pytest.raises(LeaseLost, match="the node forgot it"):
        await running
    assert fake.free_cores == 2
    again = await fake.acquire("a2", "t1", 2, ONE_CORE)
    assert (await run(fake, again, "true")).exit_code == 0


async def test_a_lost_sandbox_tells_once(fake: FakeManager) -> None:
    lost: list[str] = []
    await fake.open(SandboxSpec("t1"), 1, lost.append)
    fake.lose_sandbox("t1", "out of luck")
    fake.lose_sandbox("t1", "again")
    assert lost == ["out of luck"]


async def test_a_run_that_fails_is_told_as_the_error_given(fake: FakeManager) -> None:
    await opened(fake)
    lease = await fake.acquire("a1", "t1", 1, ONE_CORE)
    fake.faults.fail("run", PermanentError("no such user"))
    with pytest.raises(PermanentError, match="no such user"):
        await run(fake, lease, "true")


async def test_closing_while_it_opens_ends_the_opening(fake: FakeManager) -> None:
    let_go = fake.faults.hold("open")
    opening = asyncio.create_task(opened(fake))
    await until(lambda: fake.sandboxes()["starting"] == 1)
    await fake.close("t1")
    let_go.set()
    with pytest.raises(SandboxClosed):
        await opening
    assert not any(fake.sandboxes().values())


async def test_granting_more_cores_than_there_are_is_a_violation(fake: FakeManager) -> None:
    await opened(fake)
    await fake.acquire("a1", "t1", 1, {ResourceId(CORES, "node0"): 2})
    with pytest.raises(RuntimeError, match="1 cores, 0 are free"):
        await fake.acquire("a2", "t1", 2, ONE_CORE)
    assert len(fake.violations) == 1


async def test_using_a_token_twice_is_a_violation(fake: FakeManager) -> None:
    await opened(fake)
    await fake.acquire("a1", "t1", 1, ONE_CORE)
    with pytest.raises(RuntimeError, match=r"token 1 .* used twice"):
        await fake.acquire("a2", "t1", 1, ONE_CORE)


async def test_reserving_more_memory_than_there_is_is_a_violation(fake: FakeManager) -> None:
    await opened(fake, "t1", 600 << 20)
    with pytest.raises(RuntimeError, match="bytes of memory are reserved"):
        await opened(fake, "t2", 600 << 20)
    await fake.close("t1")
    await opened(fake, "t2", 600 << 20)


async def test_only_its_images_can_be_had() -> None:
    fake = FakeManager(images=frozenset({"python:3.11"}))
    spec = await fake.check_open(SandboxSpec("t1", image="python:3.11"))
    assert spec.memory_bytes == 1 << 30
    with pytest.raises(UnknownImage, match="no image 'ruby'"):
        await fake.check_open(SandboxSpec("t2", image="ruby"))


async def test_a_line_of_commands_goes_on_or_stops_as_a_shell_does(fake: FakeManager) -> None:
    await opened(fake)
    lease = await fake.acquire("a1", "t1", 1, ONE_CORE)

    async def line(text: str) -> tuple[bytes, int | None]:
        output = Recorder()
        request = RunRequest("a1", ExecSpec(shell_command=text))
        result = await fake.run(lease, request, output)
        return b"".join(data for pieces in output.pieces.values() for _, data in pieces), (
            result.exit_code
        )

    assert await line("echo a && false && echo b; echo c") == (b"a\nc\n", 0)
    assert await line("exit 3; echo never") == (b"", 3)
    assert await line("write f 'a  b'; cat f") == (b"a  b", 0)
    assert await line("exit much") == (b"exit: wrong arguments: much\n", 2)


def test_a_fake_file_system_keeps_to_itself() -> None:
    files = FakeFiles("/workspace")
    files.write("/../../a", b"1", 0o644)
    assert files.read("../../../a") == b"1"
    files.link("../../..", "up")
    assert files.read("up/a") == b"1"
    with pytest.raises(FileProblem):
        files.read("up/etc/passwd")
    for path in ("nul\0", "a/b"):
        with pytest.raises(FileProblem):
            files.read(path)
    with pytest.raises(FileProblem, match="is a folder"):
        files.write("/tmp", b"", 0o644)
