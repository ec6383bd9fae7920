"""The contract of every manager that holds sandboxes, continued: what lives on between actions, which
is sessions and background processes. The nodes are those of `test_contract`."""

from __future__ import annotations

import asyncio

import pytest

from tangram.managers.base import ExecSpec, Lease, Outcome, RunResult, Stream
from tangram.managers.errors import PermanentError, SandboxClosed, SandboxDied
from tests.managers.contract.commands import Argv
from tests.managers.contract.node import Node, Ran, Recorder
from tests.managers.test_contract import (  # noqa: F401 - fixtures
    SOON_S,
    mark,
    node,
    shared_node,
    trajectory,
)
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
# ruff: noqa: F811 - a fixture's name is that of the argument.

PORT = 8123


async def said(node: Node, trajectory: str, command: Argv, session: str = "main") -> Ran:
    return await node.execute(trajectory, ExecSpec(argv=command, session=session))


async def begin(
    node: Node, trajectory: str, command: Argv, session: str = "main"
) -> tuple[Lease, Recorder, asyncio.Task[RunResult]]:
    lease, output = await node.acquire(trajectory), Recorder()
    spec = ExecSpec(argv=command, session=session)
    return lease, output, asyncio.create_task(node.run(lease, spec, output=output))


# Sessions


async def test_a_session_keeps_its_folder_and_its_variables(node: Node, trajectory: str) -> None:
    await said(node, trajectory, node.commands.enters("/tmp"))
    await said(node, trajectory, node.commands.sets("FLAVOUR", "sweet"))
    assert (await said(node, trajectory, node.commands.pwd())).stdout == b"/tmp\n"
    assert (await said(node, trajectory, node.commands.printenv("FLAVOUR"))).stdout == b"sweet\n"
    assert (await node.execute(trajectory, node.commands.pwd())).stdout == b"/workspace\n"


async def test_sessions_of_different_names_are_apart(node: Node, trajectory: str) -> None:
    await said(node, trajectory, node.commands.enters("/tmp"), "one")
    ran = await said(node, trajectory, node.commands.pwd(), "two")
    assert ran.stdout == b"/workspace\n"


async def test_a_session_starts_as_its_first_run_says(node: Node, trajectory: str) -> None:
    spec = ExecSpec(
        argv=node.commands.printenv("COLOUR"), session="own", cwd="/tmp", env={"COLOUR": "red"}
    )
    assert (await node.execute(trajectory, spec)).stdout == b"red\n"
    assert (await said(node, trajectory, node.commands.pwd(), "own")).stdout == b"/tmp\n"


async def test_a_session_has_one_stream_for_both(node: Node, trajectory: str) -> None:
    ran = await said(node, trajectory, node.commands.both("one", "two"))
    assert (ran.stdout, ran.stderr) == (b"one\ntwo\n", b"")
    assert (ran.result.stdout_bytes, ran.result.stderr_bytes) == (8, 0)


async def test_a_sessions_command_ends_with_its_exit_code(node: Node, trajectory: str) -> None:
    for code in (0, 3, 255):
        ran = await said(node, trajectory, ("sh", "-c", f"exit {code}"), f"s{code}")
        assert (ran.result.outcome, ran.result.exit_code) == (Outcome.FINISHED, code)


async def test_exit_ends_the_session_and_the_next_run_starts_another(
    node: Node, trajectory: str
) -> None:
    await said(node, trajectory, node.commands.enters("/tmp"))
    ran = await said(node, trajectory, ("exit", "3"))
    assert (ran.result.outcome, ran.result.exit_code) == (Outcome.FINISHED, 3)
    assert (await said(node, trajectory, node.commands.pwd())).stdout == b"/workspace\n"


async def test_a_session_tells_each_run_its_own_cores(node: Node, trajectory: str) -> None:
    for cores in (1, node.cores):
        spec = ExecSpec(argv=node.commands.printenv("TANGRAM_CORES"), session="main")
        ran = await node.execute(trajectory, spec, cores=cores)
        assert ran.stdout == f"{cores}\n".encode()


async def test_what_is_typed_reaches_the_command_that_waits_for_it(
    node: Node, trajectory: str
) -> None:
    lease, output, running = await begin(node, trajectory, node.commands.asks("name?"))
    await until(lambda: output.kept(Stream.STDOUT) == b"name?")
    await node.host.session_input(trajectory, "main", b"bob\n")
    assert (await running).exit_code == 0
    assert output.kept(Stream.STDOUT) == b"name?bob\n"
    await node.manager.release(lease)


async def test_ctrl_c_ends_the_command_and_not_the_session(
    node: Node, trajectory: str, mark: str
) -> None:
    await said(node, trajectory, node.commands.enters("/tmp"))
    lease, _, running = await begin(node, trajectory, node.commands.sleeps(mark))
    await until(lambda: node.commands.runs(mark))
    await node.host.session_input(trajectory, "main", interrupt=True)
    result = await running
    await node.manager.release(lease)
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 130)
    assert not node.commands.runs(mark)
    assert (await said(node, trajectory, node.commands.pwd())).stdout == b"/tmp\n"


async def test_a_session_in_which_nothing_runs_takes_no_input(node: Node, trajectory: str) -> None:
    await said(node, trajectory, node.commands.pwd())
    for session in ("main", "never-used"):
        with pytest.raises(PermanentError, match="nothing runs"):
            await node.host.session_input(trajectory, session, b"x\n")
        with pytest.raises(PermanentError, match="nothing runs"):
            await node.host.session_input(trajectory, session, interrupt=True)


async def test_a_timeout_in_a_session_ends_all_that_the_command_started(
    node: Node, trajectory: str, mark: str
) -> None:
    ran = await node.execute(
        trajectory, ExecSpec(argv=node.commands.endless_tree(mark), session="main"), timeout_s=0.3
    )
    assert ran.result.outcome is Outcome.TIMED_OUT
    assert 0.3 <= ran.result.run_s < 0.3 + SOON_S
    assert not node.commands.runs(mark)
    assert (await said(node, trajectory, node.commands.echo("on"))).stdout == b"on\n"


async def test_a_kill_in_a_session_ends_all_that_the_command_started(
    node: Node, trajectory: str, mark: str
) -> None:
    lease, _, running = await begin(node, trajectory, node.commands.endless_tree(mark))
    await until(lambda: node.commands.runs(mark))
    async with asyncio.timeout(SOON_S):
        await node.manager.kill(lease)
        assert (await running).outcome is Outcome.KILLED
    await node.manager.release(lease)
    assert not node.commands.runs(mark)
    assert (await said(node, trajectory, node.commands.echo("on"))).stdout == b"on\n"


async def test_closing_a_session_ends_what_was_started_in_it(
    node: Node, trajectory: str, mark: str
) -> None:
    lease, _, running = await begin(node, trajectory, node.commands.sleeps(mark))
    await until(lambda: node.commands.runs(mark))
    await node.host.session_input(trajectory, "main", close=True)
    assert (await running).exit_code != 0
    await node.manager.release(lease)
    assert not node.commands.runs(mark)
    await node.host.session_input(trajectory, "main", close=True)
    assert (await said(node, trajectory, node.commands.pwd())).stdout == b"/workspace\n"


async def test_a_session_runs_one_action_at_a_time(node: Node, trajectory: str, mark: str) -> None:
    if node.cores < 2:
        pytest.skip("needs two cores")
    first, _, running = await begin(node, trajectory, node.commands.sleeps(mark))
    await until(lambda: node.commands.runs(mark))
    second, _, refused = await begin(node, trajectory, node.commands.pwd())
    with pytest.raises(PermanentError, match="runs"):
        await refused
    await node.manager.release(first)
    await running
    await node.manager.release(second)


# Background processes


async def start(
    node: Node, trajectory: str, command: Argv, process: str = "p"
) -> tuple[Recorder, asyncio.Task[RunResult]]:
    output = Recorder()
    work = node.host.run_process(trajectory, process, ExecSpec(argv=command), output)
    return output, asyncio.create_task(work)


async def test_a_process_holds_no_cores_and_outlives_actions(
    node: Node, trajectory: str, mark: str
) -> None:
    _, running = await start(node, trajectory, node.commands.sleeps(mark))
    await until(lambda: node.commands.runs(mark))
    assert node.free_cores() == node.cores
    await node.execute(trajectory, node.commands.exits(0), cores=node.cores)
    assert node.commands.runs(mark)
    await node.host.end_process(trajectory, "p", force=True)
    assert (await running).outcome is Outcome.KILLED
    assert not node.commands.runs(mark)
    await node.host.end_process(trajectory, "p", force=True)


async def test_a_process_gives_its_exit_code_and_one_stream(node: Node, trajectory: str) -> None:
    output, running = await start(node, trajectory, node.commands.both("one", "two"))
    result = await running
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 0)
    assert output.kept(Stream.STDOUT) == b"one\ntwo\n"
    assert output.kept(Stream.STDERR) == b""


async def test_a_process_is_asked_to_end(node: Node, trajectory: str, mark: str) -> None:
    _, running = await start(node, trajectory, node.commands.sleeps(mark))
    await until(lambda: node.commands.runs(mark))
    async with asyncio.timeout(SOON_S):
        while not running.done():  # It may not have been reported as started yet.
            await node.host.end_process(trajectory, "p", force=False)
            await asyncio.wait({running}, timeout=0.05)
    assert (await running).exit_code in (-15, -9)
    assert not node.commands.runs(mark)


async def test_a_port_is_seen_once_a_process_listens_on_it(node: Node, trajectory: str) -> None:
    assert not await node.host.wait_port(trajectory, PORT, 0.05)
    waiting = asyncio.create_task(node.host.wait_port(trajectory, PORT, 10.0))
    _, running = await start(node, trajectory, node.commands.listens(PORT))
    assert await waiting
    await node.host.end_process(trajectory, "p", force=True)
    await running
    assert not await node.host.wait_port(trajectory, PORT, 0.0)


async def test_a_process_ends_with_its_sandbox(node: Node, mark: str) -> None:
    trajectory = await node.open()
    _, running = await start(node, trajectory, node.commands.sleeps(mark))
    await until(lambda: node.commands.runs(mark))
    await node.host.close(trajectory)
    with pytest.raises((SandboxClosed, SandboxDied)):
        await running
    assert not node.commands.runs(mark)
