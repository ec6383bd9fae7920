"""The contract of every manager that holds sandboxes, over the fake and over real sandboxes.

One node per kind serves all tests; each opens sandboxes of its own and must leave the node as it
was. What one kind does beyond the contract is tested in its own file.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tangram.managers.base import CallSpec, ExecSpec, Outcome, RunRequest, SandboxSpec, Stream
from tangram.managers.config import NodeConfig, WarmConfig
from tangram.managers.errors import (
    FileProblem,
    LeaseLost,
    PermanentError,
    SandboxClosed,
    SandboxDied,
)
from tangram.managers.fake import FakeManager
from tangram.managers.opening import open_cpu_manager
from tests.image import variants
from tests.managers.contract.commands import BusyboxCommands, FakeCommands, RealCommands
from tests.managers.contract.node import Node, Recorder, unique
from tests.managers.sandboxes import short_folder
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = [
    "fake",
    "bubblewrap",
    "warm-bubblewrap",
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("warm-docker", marks=pytest.mark.docker),
    pytest.param("docker-alpine", marks=pytest.mark.docker),
]
"""The warm ones pass all of it with sandboxes that stood ready before their trajectory came. The last
is Docker with an image of busybox alone: no Python, no bash, no glibc."""
SOON_S = 3.0
"""A kill must have ended everything by then; alone it takes some milliseconds."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def shared_node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    if request.param == "fake":
        fake = FakeManager()
        yield Node("fake", fake, FakeCommands(fake), "", lambda: fake.free_cores)
        await fake.aclose()
        assert fake.violations == []
        return
    warm = request.param.startswith("warm-")
    launcher, _, alpine = request.param.removeprefix("warm-").partition("-")
    image, commands = "", RealCommands()
    if alpine:
        request.getfixturevalue("docker_variants")
        image, commands = variants.ALPINE, BusyboxCommands()
    elif launcher == "docker":
        image = request.getfixturevalue("docker_image")
    folder = short_folder()
    config = NodeConfig(
        launcher=launcher,
        warm=WarmConfig(max=2 if warm else 0),
        instance=f"contract-{request.param}-{os.getpid()}",
        state=folder / "state",
        runtime=folder / "run",
    )
    manager = await open_cpu_manager(config)
    try:
        pool = manager._claim.pool
        node = Node(launcher, manager, commands, image, lambda: pool.free)
        if warm:
            await node.warm_up()
        yield node
        hits = sum(status.hits for status in manager.warm())
        if not warm:
            assert hits == 0
        else:  # Files that are put back may take one that stands ready too.
            assert hits >= node.opens > 0
    finally:
        await manager.aclose()
        shutil.rmtree(folder)


@pytest_asyncio.fixture(loop_scope="module")
async def node(shared_node: Node) -> AsyncIterator[Node]:
    yield shared_node
    await asyncio.gather(*(shared_node.host.close(t) for t in shared_node.opened))
    shared_node.opened.clear()
    assert not any(shared_node.host.sandboxes().values())
    assert shared_node.free_cores() == shared_node.cores


@pytest_asyncio.fixture(loop_scope="module")
async def trajectory(node: Node) -> str:
    return await node.open()


@pytest.fixture
def mark() -> str:
    """As an argument of `sleep` it is about a day."""
    return f"86400.{os.getpid()}{unique('0')}"


# What a command does, and what is told of it


async def test_a_command_ends_with_its_exit_code(node: Node, trajectory: str) -> None:
    for code in (0, 3, 255):
        ran = await node.execute(trajectory, node.commands.exits(code))
        assert (ran.result.outcome, ran.result.exit_code) == (Outcome.FINISHED, code)
        assert ran.result.signal is None


async def test_death_by_a_signal_is_told_as_such(node: Node, trajectory: str) -> None:
    ran = await node.execute(trajectory, node.commands.dies_of(9))
    assert (ran.result.exit_code, ran.result.signal) == (-9, 9)
    assert ran.result.outcome is Outcome.FINISHED


async def test_stdout_and_stderr_arrive_apart(node: Node, trajectory: str) -> None:
    ran = await node.execute(trajectory, node.commands.both("one", "two"))
    assert (ran.stdout, ran.stderr) == (b"one\n", b"two\n")
    assert (ran.result.stdout_bytes, ran.result.stderr_bytes) == (4, 4)


async def test_output_may_be_any_bytes(node: Node, trajectory: str) -> None:
    data = b"\xff\xfe\x00\x80caf\xe9\n"
    assert (await node.execute(trajectory, node.commands.bytes(data))).stdout == data


async def test_stdin_reaches_the_command_whole(node: Node, trajectory: str) -> None:
    data = bytes(range(256)) * 2048
    spec = ExecSpec(argv=node.commands.cat(), stdin=data, max_output_bytes=2 * len(data))
    assert (await node.execute(trajectory, spec)).stdout == data


async def test_without_stdin_a_command_reads_nothing(node: Node, trajectory: str) -> None:
    assert (await node.execute(trajectory, node.commands.cat())).stdout == b""


async def test_the_actions_environment_wins_over_the_sandboxs(node: Node) -> None:
    trajectory = await node.open(env={"FLAVOUR": "sweet", "COLOUR": "red"})
    spec = ExecSpec(argv=node.commands.printenv("FLAVOUR"), env={"FLAVOUR": "sour"})
    assert (await node.execute(trajectory, spec)).stdout == b"sour\n"
    ran = await node.execute(trajectory, node.commands.printenv("COLOUR"))
    assert ran.stdout == b"red\n"


async def test_the_servers_environment_is_not_seen_inside(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hidden")
    trajectory = await node.open()
    ran = await node.execute(trajectory, node.commands.printenv("SERVER_SECRET"))
    assert (ran.stdout, ran.result.exit_code) == (b"", 1)


async def test_a_command_runs_in_its_working_folder(node: Node, trajectory: str) -> None:
    assert (await node.execute(trajectory, node.commands.pwd())).stdout == b"/workspace\n"
    spec = ExecSpec(argv=node.commands.pwd(), cwd="/tmp")
    assert (await node.execute(trajectory, spec)).stdout == b"/tmp\n"


async def test_a_shell_command_is_run_by_a_shell(node: Node, trajectory: str) -> None:
    ran = await node.execute(trajectory, ExecSpec(shell_command="echo 'a  b' && exit 4"))
    assert (ran.stdout, ran.result.exit_code) == (b"a  b\n", 4)


async def test_an_unknown_program_is_the_commands_failure(node: Node, trajectory: str) -> None:
    ran = await node.execute(trajectory, ("no-such-program",))
    assert (ran.result.outcome, ran.result.exit_code) == (Outcome.FINISHED, 127)
    assert b"no-such-program" in ran.stderr


async def test_output_above_the_limit_keeps_head_and_tail(node: Node, trajectory: str) -> None:
    count, limit = 10_000_000, 1 << 16
    spec = ExecSpec(argv=node.commands.emit(count), max_output_bytes=limit)
    ran = await node.execute(trajectory, spec)
    assert ran.result.exit_code == 0
    assert ran.result.stdout_bytes == count
    head, tail = ran.output.until_gap(Stream.STDOUT)
    whole = node.commands.emitted * (limit // 10 + 1)
    assert head.startswith(whole[: limit // 2])
    assert whole.startswith(head)
    assert tail.endswith(node.commands.emitted)
    assert limit // 4 <= len(tail)
    last_offset, last = ran.output.pieces[Stream.STDOUT][-1]
    assert last_offset + len(last) == count


async def test_output_is_seen_while_the_command_runs(node: Node, trajectory: str) -> None:
    lease, output = await node.acquire(trajectory), Recorder()
    line = "echo first; spin" if node.kind == "fake" else "echo first; sleep 1000"
    running = asyncio.create_task(node.run(lease, ExecSpec(shell_command=line), output=output))
    await until(lambda: output.kept(Stream.STDOUT) == b"first\n")
    assert not running.done()
    await node.manager.kill(lease)
    await running
    await node.manager.release(lease)


# How a command is ended


async def test_a_timeout_ends_the_whole_tree(node: Node, trajectory: str, mark: str) -> None:
    ran = await node.execute(trajectory, node.commands.endless_tree(mark), timeout_s=0.3)
    assert ran.result.outcome is Outcome.TIMED_OUT
    assert 0.3 <= ran.result.run_s < 0.3 + SOON_S
    assert not node.commands.runs(mark)
    assert (await node.execute(trajectory, node.commands.exits(0))).result.exit_code == 0


async def test_a_kill_ends_the_whole_tree_soon(node: Node, trajectory: str, mark: str) -> None:
    lease = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(lease, node.commands.endless_tree(mark), timeout_s=None))
    await until(lambda: node.commands.runs(mark))
    async with asyncio.timeout(SOON_S):
        await node.manager.kill(lease)
        result = await running
    assert result.outcome is Outcome.KILLED
    assert not node.commands.runs(mark)
    await node.manager.kill(lease)
    await node.manager.release(lease)


async def test_releasing_a_lease_ends_what_still_runs_on_it(
    node: Node, trajectory: str, mark: str
) -> None:
    lease = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(lease, node.commands.endless_tree(mark)))
    await until(lambda: node.commands.runs(mark))
    await node.manager.release(lease)
    assert not node.commands.runs(mark)
    assert (await running).outcome is Outcome.KILLED


async def test_a_background_process_outlives_its_action_and_dies_with_its_sandbox(
    node: Node, trajectory: str, mark: str
) -> None:
    assert (await node.execute(trajectory, node.commands.leaves(mark))).result.exit_code == 0
    assert (await node.execute(trajectory, node.commands.finds(mark))).result.exit_code == 0
    await node.host.close(trajectory)
    assert not node.commands.runs(mark)


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [("memory", Outcome.OUT_OF_MEMORY), ("processes", Outcome.TOO_MANY_PROCESSES)],
)
async def test_a_command_above_a_limit_is_told_which(
    node: Node, trajectory: str, limit: str, outcome: Outcome, mark: str
) -> None:
    ran = await node.execute(trajectory, node.commands.exceeds(limit, mark))
    assert ran.result.exit_code != 0
    if limit == "processes" and node.limits["pids"] == "soft":
        return  # The kernel refuses them all the same, but nobody counts.
    assert ran.result.outcome is outcome
    # What it left running would keep what was too much: the sandbox is usable again.
    assert not node.commands.runs(mark)
    assert (await node.execute(trajectory, node.commands.finds(mark))).result.exit_code == 1


async def test_a_command_that_fills_the_disk_is_ended(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangram.managers.cpu.watch.WATCH_PERIOD_S", 0.05)
    trajectory = await node.open(disk_bytes=1 << 20)
    ran = await node.execute(trajectory, node.commands.exceeds("disk"))
    assert ran.result.outcome is Outcome.OUT_OF_DISK


# Cores


async def test_two_leases_never_share_a_core(node: Node) -> None:
    first, second = await node.open(), await node.open()
    one, other = await node.acquire(first), await node.acquire(second)
    assert len(one.cores) == len(other.cores) == 1
    assert not set(one.cores) & set(other.cores)
    for lease in (one, other):
        output = Recorder()
        await node.run(lease, node.commands.cores(), output=output)
        assert set(output.kept(Stream.STDOUT).split()) == {b"1"}
        await node.manager.release(lease)


async def test_a_command_sees_as_many_cores_as_it_was_granted(node: Node, trajectory: str) -> None:
    for granted in range(1, min(node.cores, 4) + 1):
        ran = await node.execute(trajectory, node.commands.cores(), cores=granted)
        assert set(ran.stdout.split()) == {str(granted).encode()}
        spec = ExecSpec(argv=node.commands.printenv("TANGRAM_CORES"))
        ran = await node.execute(trajectory, spec, cores=granted)
        assert ran.stdout == f"{granted}\n".encode()


async def test_the_granted_number_replaces_cores_in_braces(node: Node, trajectory: str) -> None:
    spec = ExecSpec(argv=node.commands.echo("-j{cores} {x}"), substitute_cores=True)
    assert (await node.execute(trajectory, spec)).stdout == b"-j1 {x}\n"
    plain = ExecSpec(argv=node.commands.echo("{cores}"))
    assert (await node.execute(trajectory, plain)).stdout == b"{cores}\n"


async def test_a_resized_lease_has_its_new_cores_and_frees_the_others(
    node: Node, trajectory: str
) -> None:
    if node.cores < 2:
        pytest.skip("this machine has one core")
    lease = await node.acquire(trajectory, 1)
    grown = await node.manager.resize(lease, node.amounts(2))
    assert len(grown.cores) == 2
    assert set(lease.cores) < set(grown.cores)
    assert node.free_cores() == node.cores - 2
    output = Recorder()
    await node.run(grown, node.commands.cores(), output=output)
    assert set(output.kept(Stream.STDOUT).split()) == {b"2"}
    shrunk = await node.manager.resize(grown, node.amounts(1))
    assert len(shrunk.cores) == 1
    assert node.free_cores() == node.cores - 1
    await node.manager.release(shrunk)
    with pytest.raises(LeaseLost):
        await node.manager.resize(shrunk, node.amounts(2))


async def test_two_actions_of_one_sandbox_may_run_at_once(
    node: Node, trajectory: str, mark: str
) -> None:
    first = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(first, node.commands.endless_tree(mark)))
    await until(lambda: node.commands.runs(mark))
    ran = await node.execute(trajectory, node.commands.echo("beside"))
    assert ran.stdout == b"beside\n"
    assert not set(ran.lease.cores) & set(first.cores)
    assert not running.done()
    await node.manager.release(first)
    await running


async def test_a_released_lease_is_gone_and_releasing_it_again_is_nothing(
    node: Node, trajectory: str
) -> None:
    lease = await node.acquire(trajectory)
    await node.manager.release(lease)
    await node.manager.release(lease)
    assert node.free_cores() == node.cores
    with pytest.raises(LeaseLost):
        await node.run(lease, node.commands.exits(0))


# Files


async def test_a_written_file_is_read_back_and_seen_by_commands(
    node: Node, trajectory: str
) -> None:
    data = os.urandom(3 << 20)
    assert await node.write(trajectory, "deep/er/data.bin", data, 0o640) == len(data)
    assert await node.read(trajectory, "/workspace/deep/er/data.bin") == data
    assert await node.read(trajectory, "deep/er/data.bin", 5, 10) == data[5:15]
    info = await node.host.stat(trajectory, "deep/er/data.bin")
    assert (info.name, info.kind, info.size) == ("data.bin", "file", len(data))
    assert info.mode & 0o777 == 0o640
    await node.write(trajectory, "note", b"hello\n")
    ran = await node.execute(trajectory, (*node.commands.cat(), "note"))
    assert ran.stdout == b"hello\n"


async def test_an_empty_file_is_one_empty_chunk(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "empty", b"")
    chunks = [chunk async for chunk in node.host.read_file(trajectory, "empty", 0, 0)]
    assert chunks == [(b"", 0)]


async def test_a_folder_lists_its_entries_by_name(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "d/b", b"12")
    await node.write(trajectory, "d/a/x", b"")
    await node.execute(trajectory, node.commands.link("b", "d/c"))
    entries = await node.host.list_files(trajectory, "d")
    assert [(e.name, e.kind) for e in entries] == [
        ("a", "directory"),
        ("b", "file"),
        ("c", "symlink"),
    ]
    assert (entries[1].size, entries[2].target) == (2, "b")
    assert (await node.host.stat(trajectory, "d/c")).kind == "symlink"
    assert await node.read(trajectory, "d/c") == b"12"


@pytest.mark.parametrize(
    ("path", "code"), [("missing", "ENOENT"), ("file/below", "ENOTDIR"), (".", "EISDIR")]
)
async def test_a_file_that_cannot_be_read_says_why(
    node: Node, trajectory: str, path: str, code: str
) -> None:
    await node.write(trajectory, "file", b"x")
    with pytest.raises(FileProblem) as problem:
        await node.read(trajectory, path)
    assert problem.value.code == code
    assert hasattr(errno, code)


async def test_a_missing_folder_and_a_loop_of_links_say_so(node: Node, trajectory: str) -> None:
    with pytest.raises(FileProblem) as missing:
        await node.host.list_files(trajectory, "nowhere")
    assert missing.value.code == "ENOENT"
    await node.execute(trajectory, node.commands.link("loop", "loop"))
    with pytest.raises(FileProblem) as loop:
        await node.read(trajectory, "loop")
    assert loop.value.code == "ELOOP"


async def test_readers_see_the_old_file_until_the_new_one_is_whole(
    node: Node, trajectory: str
) -> None:
    await node.write(trajectory, "config", b"old")
    half_written, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"new "
        half_written.set()
        await go_on.wait()
        yield b"and whole"

    writing = asyncio.create_task(node.host.write_file(trajectory, "config", 0o644, slowly()))
    await half_written.wait()
    assert await node.read(trajectory, "config") == b"old"
    go_on.set()
    await writing
    assert await node.read(trajectory, "config") == b"new and whole"


async def test_a_write_that_breaks_off_changes_nothing(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "d/kept", b"old")

    async def breaking() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        await node.host.write_file(trajectory, "d/kept", 0o644, breaking())
    assert await node.read(trajectory, "d/kept") == b"old"
    assert [entry.name for entry in await node.host.list_files(trajectory, "d")] == ["kept"]


async def test_no_path_and_no_link_leads_out_of_the_sandbox(
    node: Node, trajectory: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    climbing = "../" * 30 + str(secret)
    await node.execute(trajectory, node.commands.link(str(secret), "to-file"))
    await node.execute(trajectory, node.commands.link(str(tmp_path), "to-folder"))
    await node.execute(trajectory, node.commands.link(climbing, "climbing"))
    for path in (str(secret), climbing, "to-file", "to-folder/secret", "climbing"):
        with pytest.raises(FileProblem) as problem:
            await node.read(trajectory, path)
        assert problem.value.code == "ENOENT", path
    for path in ("to-folder/made", str(tmp_path / "made"), "../" * 30 + str(tmp_path / "made")):
        try:
            await node.write(trajectory, path, b"inside")
        except FileProblem:
            continue
        assert await node.read(trajectory, path) == b"inside"
    assert os.listdir(tmp_path) == ["secret"]
    assert secret.read_text() == "of the host"


async def test_files_stay_between_actions_and_are_nobody_elses(node: Node) -> None:
    mine, others = await node.open(), await node.open()
    await node.write(mine, "kept", b"mine")
    await node.execute(mine, node.commands.exits(0))
    assert await node.read(mine, "kept") == b"mine"
    with pytest.raises(FileProblem):
        await node.read(others, "kept")


# The end of a sandbox


async def test_closing_twice_and_closing_the_unknown_is_nothing(node: Node) -> None:
    trajectory = await node.open()
    await asyncio.gather(node.host.close(trajectory), node.host.close(trajectory))
    await node.host.close(trajectory)
    await node.host.close("never-opened")


async def test_after_close_every_call_says_closed_and_ends_say_nothing(node: Node) -> None:
    lost: list[str] = []
    trajectory = await node.open(lost.append)
    lease = await node.acquire(trajectory)
    await node.host.close(trajectory)
    assert node.free_cores() == node.cores
    with pytest.raises(SandboxClosed):
        await node.acquire(trajectory)
    with pytest.raises(SandboxClosed):
        await node.run(lease, node.commands.exits(0))
    with pytest.raises(SandboxClosed):
        await node.read(trajectory, "file")
    with pytest.raises(SandboxClosed):
        await node.write(trajectory, "file", b"")
    await node.manager.kill(lease)
    await node.manager.release(lease)
    assert lost == []


async def test_closing_under_a_running_action_ends_it_as_lost(
    node: Node, trajectory: str, mark: str
) -> None:
    lease = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(lease, node.commands.endless_tree(mark)))
    await until(lambda: node.commands.runs(mark))
    await node.host.close(trajectory)
    with pytest.raises(LeaseLost):
        await running
    assert not node.commands.runs(mark)


async def test_a_trajectory_has_one_sandbox_and_may_be_opened_anew_after_close(
    node: Node,
) -> None:
    trajectory = await node.open()
    spec = await node.host.check_open(SandboxSpec(trajectory, image=node.image))
    with pytest.raises(PermanentError, match="already"):
        await node.host.open(spec, 1, lambda message: None)
    await node.host.close(trajectory)
    info = await node.host.open(spec, 2, lambda message: None)
    assert (info.trajectory, info.workdir) == (trajectory, "/workspace")
    assert set(info.limits) >= {"memory", "disk", "pids", "shm", "cores"}


async def test_a_sandbox_that_dies_loses_its_actions_and_tells_once(node: Node, mark: str) -> None:
    lost: list[str] = []
    trajectory, neighbour = await node.open(lost.append), await node.open()
    lease = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(lease, node.commands.endless_tree(mark)))
    await until(lambda: node.commands.runs(mark))
    node.commands.kill_sandbox(trajectory, mark)
    with pytest.raises(SandboxDied):
        await running
    await until(lambda: bool(lost))
    await until(lambda: not node.commands.runs(mark))
    with pytest.raises(SandboxDied):
        await node.acquire(trajectory)
    with pytest.raises(SandboxDied):
        await node.read(trajectory, "file")
    await node.manager.release(lease)
    await node.host.close(trajectory)
    assert len(lost) == 1
    ran = await node.execute(neighbour, node.commands.echo("unharmed"), cores=node.cores)
    assert ran.stdout == b"unharmed\n"


async def test_sandboxes_are_counted_by_state(node: Node, trajectory: str) -> None:
    assert node.host.sandboxes() == {"starting": 0, "idle": 1, "running": 0}
    lease = await node.acquire(trajectory)
    assert node.host.sandboxes() == {"starting": 0, "idle": 0, "running": 1}
    await node.manager.release(lease)
    assert node.host.describe().launcher == node.kind


async def test_many_sandboxes_start_run_and_end_at_once(node: Node) -> None:
    trajectories = await asyncio.gather(*(node.open() for _ in range(6)))
    gate = asyncio.Semaphore(node.cores)

    async def one(trajectory: str) -> bytes:
        async with gate:
            return (await node.execute(trajectory, node.commands.echo(trajectory))).stdout

    outputs = await asyncio.gather(*(one(trajectory) for trajectory in trajectories))
    assert outputs == [f"{trajectory}\n".encode() for trajectory in trajectories]


async def test_what_is_no_command_is_refused(node: Node, trajectory: str) -> None:
    lease = await node.acquire(trajectory)
    request = RunRequest(lease.action, CallSpec("http://127.0.0.1/"))
    with pytest.raises(PermanentError, match="commands alone"):
        await node.manager.run(lease, request, Recorder())
    await node.manager.release(lease)


# Kept files: what forks and snapshots are made of


async def keep(node: Node, trajectory: str, limit_bytes: int = 1 << 30) -> str:
    """The id by which the files were kept; discarded at the test's end by what it opens."""
    snapshot = unique("s")
    await node.host.keep_files(trajectory, snapshot, limit_bytes)
    return snapshot


async def test_a_sandbox_starts_from_kept_files(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "d/file", b"before")
    await node.write(trajectory, "/tmp/other", b"kept too")
    snapshot = await keep(node, trajectory)
    await node.write(trajectory, "d/file", b"after")
    fork = await node.open(snapshot=snapshot)
    await node.host.discard_files(snapshot)
    assert await node.read(fork, "d/file") == b"before"
    assert await node.read(fork, "/tmp/other") == b"kept too"


async def test_a_fork_and_its_parent_do_not_see_each_others_changes(
    node: Node, trajectory: str
) -> None:
    for name in ("stays", "changes", "goes"):
        await node.write(trajectory, f"d/{name}", b"old")
    snapshot = await keep(node, trajectory)
    forks = [await node.open(snapshot=snapshot) for _ in range(2)]
    await node.host.discard_files(snapshot)
    await node.write(forks[0], "d/changes", b"of the fork")
    await node.write(forks[0], "d/new", b"of the fork")
    await node.write(trajectory, "d/changes", b"of the parent")
    for other, expected in ((forks[1], b"old"), (trajectory, b"of the parent")):
        assert await node.read(other, "d/changes") == expected
        names = [info.name for info in await node.host.list_files(other, "d")]
        assert names == ["changes", "goes", "stays"]
    assert await node.read(forks[0], "d/changes") == b"of the fork"
    assert await node.read(forks[0], "d/stays") == b"old"


async def test_forks_of_forks_keep_what_was_changed_on_the_way(node: Node) -> None:
    trajectory = await node.open()
    await node.write(trajectory, "first", b"0")
    for generation in range(1, 4):
        snapshot = await keep(node, trajectory)
        trajectory = await node.open(snapshot=snapshot)
        await node.host.discard_files(snapshot)
        await node.write(trajectory, "first", str(generation).encode())
        await node.write(trajectory, f"of{generation}", b"x")
    names = [info.name for info in await node.host.list_files(trajectory, ".")]
    assert names == ["first", "of1", "of2", "of3"]
    assert await node.read(trajectory, "first") == b"3"


async def test_a_closed_parent_does_not_harm_its_forks(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "file", b"data")
    snapshot = await keep(node, trajectory)
    fork = await node.open(snapshot=snapshot)
    await node.host.close(trajectory)
    await node.host.discard_files(snapshot)
    assert await node.read(fork, "file") == b"data"
    assert (await node.execute(fork, node.commands.echo("alive"))).stdout == b"alive\n"


async def test_a_fork_has_no_process_of_its_parent(node: Node, trajectory: str, mark: str) -> None:
    await node.execute(trajectory, node.commands.leaves(mark))
    snapshot = await keep(node, trajectory)
    assert node.commands.runs(mark)
    fork = await node.open(snapshot=snapshot)
    await node.host.discard_files(snapshot)
    assert (await node.execute(fork, node.commands.finds(mark))).result.exit_code != 0
    assert (await node.execute(trajectory, node.commands.finds(mark))).result.exit_code == 0


async def test_restoring_brings_files_back_and_ends_processes(
    node: Node, trajectory: str, mark: str
) -> None:
    await node.write(trajectory, "kept", b"old")
    snapshot = await keep(node, trajectory)
    await node.write(trajectory, "kept", b"new")
    await node.write(trajectory, "more", b"new")
    await node.execute(trajectory, node.commands.leaves(mark))
    for _ in range(2):
        await node.host.restore_files(trajectory, snapshot)
        assert not node.commands.runs(mark)
        assert await node.read(trajectory, "kept") == b"old"
        assert [info.name for info in await node.host.list_files(trajectory, ".")] == ["kept"]
        await node.write(trajectory, "kept", b"new again")
    ran = await node.execute(trajectory, node.commands.echo("goes on"))
    assert ran.stdout == b"goes on\n"
    await node.host.discard_files(snapshot)
    assert node.host.sandboxes() == {"starting": 0, "idle": 1, "running": 0}


async def test_files_are_not_kept_under_a_running_action_which_is_named(
    node: Node, trajectory: str, mark: str
) -> None:
    snapshot = await keep(node, trajectory)
    lease = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(lease, node.commands.endless_tree(mark)))
    await until(lambda: node.commands.runs(mark))
    with pytest.raises(PermanentError, match=lease.action):
        await node.host.keep_files(trajectory, unique("s"), 1 << 30)
    with pytest.raises(PermanentError, match=lease.action):
        await node.host.restore_files(trajectory, snapshot)
    await node.manager.release(lease)
    await running
    await node.host.restore_files(trajectory, snapshot)
    await node.host.discard_files(snapshot)


async def test_with_concurrency_files_are_kept_while_actions_run(node: Node, mark: str) -> None:
    trajectory = await node.open(concurrency=2)
    await node.write(trajectory, "file", b"data")
    lease = await node.acquire(trajectory)
    running = asyncio.create_task(node.run(lease, node.commands.endless_tree(mark)))
    await until(lambda: node.commands.runs(mark))
    snapshot = await keep(node, trajectory)
    assert not running.done()
    fork = await node.open(snapshot=snapshot)
    await node.host.discard_files(snapshot)
    assert await node.read(fork, "file") == b"data"
    with pytest.raises(PermanentError, match=lease.action):
        await node.host.restore_files(trajectory, snapshot := await keep(node, fork))
    await node.host.discard_files(snapshot)
    await node.manager.release(lease)
    await running


async def test_more_files_than_the_limit_are_not_kept(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "big", bytes(1 << 20))
    with pytest.raises(PermanentError, match="left for them") as refused:
        await node.host.keep_files(trajectory, unique("s"), 1 << 19)
    assert refused.value.field == "disk"
    kept = await node.host.keep_files(trajectory, snapshot := unique("s"), 1 << 22)
    assert 1 << 20 <= kept.size_bytes < 1 << 21
    await node.host.discard_files(snapshot)


async def test_what_is_not_kept_cannot_be_started_from_or_restored(
    node: Node, trajectory: str
) -> None:
    with pytest.raises(PermanentError, match="not there any more"):
        await node.open(snapshot="none")
    with pytest.raises(PermanentError, match="not there any more"):
        await node.host.restore_files(trajectory, "none")
    await node.host.discard_files("none")
    assert (await node.execute(trajectory, node.commands.echo("unharmed"))).stdout == b"unharmed\n"
