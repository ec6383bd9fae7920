"""Sessions of the agent against real shells: bash, and the sh of images that have no bash."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tangram.managers.base import Outcome
from tangram.managers.cpu.sandbox.agent import dialects
from tangram.managers.cpu.sandbox.listener import AgentListener
from tangram.managers.cpu.sandbox.messages import AgentResult
from tangram.managers.errors import PermanentError
from tests.managers.agents import (
    DEADLINE_S,
    Output,
    Running,
    agent_command,
    eventually,
    is_alive,
    kill_all,
    open_folder,
    running,
)


class Sh:
    """One session of an agent."""

    def __init__(self, agent: Running, env: dict[str, str]) -> None:
        self.agent = agent
        self._env = env

    def start(
        self, command: str, *, timeout_s: float | None = DEADLINE_S, **fields: object
    ) -> tuple[Output, asyncio.Task[AgentResult]]:
        given: dict[str, Any] = {"session": "main", "env": self._env, **fields}
        _, output, task = self.agent.start(command, timeout_s=timeout_s, **given)
        return output, task

    async def run(self, command: str, **settings: object) -> tuple[AgentResult, bytes]:
        output, task = self.start(command, **settings)  # type: ignore[arg-type]
        return await task, output.stdout

    async def type(self, data: bytes) -> None:
        await self.agent.channel.session_input("main", data)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(params=["child", "init"])
async def agent(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Running]:
    async with running(request.param, folder) as started:
        yield started


@pytest.fixture
def bash(agent: Running) -> Sh:
    return Sh(agent, {})


@pytest.fixture(params=["bash", "sh"])
def shell(request: pytest.FixtureRequest, agent: Running) -> Sh:
    """`sh` sees a PATH on which there is no bash."""
    if request.param == "bash":
        return Sh(agent, {})
    programs = agent.folder / "programs"
    programs.mkdir()
    for name in ("sh", "sleep", "cat", "seq", "sort", "stty", "mkdir"):
        found = shutil.which("dash" if name == "sh" else name)
        if found is None:
            pytest.skip(f"there is no {name} here")
        (programs / name).symlink_to(found)
    return Sh(agent, {"PATH": str(programs)})


# What stays, and what a run gives


async def test_a_shell_keeps_folder_variables_functions_and_status(shell: Sh) -> None:
    await shell.run("mkdir -p a && cd a; x=1; export Y=2; f() { echo $x $Y $1; }")
    _, said = await shell.run("f 3; echo ${PWD##*/}")
    assert said == b"1 2 3\na\n"
    result, _ = await shell.run("(exit 9)")
    assert result.exit_code == 9
    _, said = await shell.run("echo $?")
    assert said == b"9\n"


async def test_commands_of_several_lines_and_any_characters_are_taken_whole(shell: Sh) -> None:
    text = "cat <<'E'\n  two  'quoted' \"lines\" \\n $x\n\n\ttab é\nE\necho last"
    result, said = await shell.run(text)
    assert (result.exit_code, said) == (
        0,
        "  two  'quoted' \"lines\" \\n $x\n\n\ttab é\nlast\n".encode(),
    )
    long = "x" * 100_000
    _, said = await shell.run(f"long={long}; echo ${{#long}}")
    assert said == b"100000\n"


async def test_output_is_whole_when_the_command_has_ended(shell: Sh) -> None:
    """Whatever the kernel still had in hand when the shell said that it has."""
    for count in (1, 700, 20_000):
        _, said = await shell.run(f"seq {count}")
        assert said == "".join(f"{number}\n" for number in range(1, count + 1)).encode()


async def test_much_output_keeps_head_and_tail(shell: Sh) -> None:
    result, said = await shell.run("seq 300000", max_output_bytes=2000)
    assert result.stdout_bytes == sum(len(f"{n}\n") for n in range(1, 300_001))
    assert said.startswith(b"1\n2\n")
    assert said.endswith(b"300000\n")


async def test_a_mistake_in_the_syntax_is_the_commands(bash: Sh) -> None:
    await bash.run("x=still")
    result, said = await bash.run("if true; then")
    assert result.exit_code == 2
    assert b"syntax error: unexpected end of file" in said
    assert (await bash.run("echo $x"))[1] == b"still\n"


async def test_no_prompt_and_no_echo_is_seen(shell: Sh) -> None:
    output, task = shell.start("read -r line; echo got $line")
    await eventually(lambda: task.done() or shell.agent.count, "it was sent")
    while True:
        try:
            await shell.type(b"typed\n")
            break
        except PermanentError:
            assert not task.done()
    assert (await task).exit_code == 0
    assert output.stdout == b"got typed\n"


async def test_jobs_stay_and_are_listed_until_they_end(bash: Sh) -> None:
    await bash.run("true; sleep 1000 &")
    _, said = await bash.run("jobs; kill %sleep")
    assert said.startswith(b"[1]+  Running")
    result, _ = await bash.run("wait")
    assert result.exit_code == 0
    assert (await bash.run("jobs"))[1] == b""


async def test_the_cores_of_each_run_are_told_unless_the_user_says_otherwise(shell: Sh) -> None:
    told = "echo $TANGRAM_CORES $OMP_NUM_THREADS"
    for cores in ("1", "4"):
        env = {**shell._env, "TANGRAM_CORES": cores, "OMP_NUM_THREADS": cores}
        assert (await shell.run(told, env=env))[1] == f"{cores} {cores}\n".encode()
    await shell.run("export OMP_NUM_THREADS=1")
    env = {**shell._env, "TANGRAM_CORES": "2", "OMP_NUM_THREADS": "2"}
    assert (await shell.run(told, env=env))[1] == b"2 1\n"


async def test_what_its_terminal_was_left_as_lasts_for_one_run(shell: Sh) -> None:
    assert (await shell.run("stty -icanon -isig echo; stty size"))[1] == b"24 80\n"
    _, said = await shell.run("stty -a")
    words = said.replace(b";", b"").split()
    assert {b"icanon", b"isig", b"-echo"} <= set(words)


async def test_what_nobody_reads_is_not_read_by_the_next_command(shell: Sh) -> None:
    output, task = shell.start("echo up; read -r line; echo $line")
    await eventually(lambda: output.stdout == b"up\n", "it runs")
    await shell.type(b"one\ntwo\n")
    await task
    output, task = shell.start("echo up; read -r line; echo $line")
    await eventually(lambda: output.stdout == b"up\n", "it runs")
    await shell.type(b"three\n")
    await task
    assert output.stdout == b"up\nthree\n"


async def test_what_is_written_between_two_runs_is_dropped(bash: Sh) -> None:
    await bash.run("{ until test -e go; do sleep 0.01; done; echo noise; echo > done; } &")
    (bash.agent.folder / "go").touch()
    await eventually((bash.agent.folder / "done").exists, "the job has written")
    assert (await bash.run("echo mine"))[1] == b"mine\n"


async def test_sixty_four_kib_may_wait_unread_and_no_more(bash: Sh) -> None:
    output, task = bash.start("stty raw; echo up; exec sleep 1000", timeout_s=None)
    await eventually(lambda: b"up\n" in output.stdout, "it runs")
    await bash.type(b"x" * 60_000)
    with pytest.raises(PermanentError, match="65536 bytes would wait"):
        await bash.type(b"x" * 60_000)
    await bash.agent.channel.session_input("main", interrupt=True)
    await bash.agent.channel.session_input("main", close=True)
    # The interrupt may end it before the close does.
    assert (await task).outcome in (Outcome.KILLED, Outcome.FINISHED)


# How it ends


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("exec sh -c 'exit 4'", 4)])
async def test_a_shell_that_ends_is_followed_by_another(shell: Sh, command: str, code: int) -> None:
    await shell.run("x=1")
    result, _ = await shell.run(command)
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.FINISHED, code, None)
    assert (await shell.run("echo ${x-new}"))[1] == b"new\n"


async def test_a_shell_killed_from_inside_is_followed_by_another(shell: Sh) -> None:
    result, _ = await shell.run("x=1; kill -9 $$")
    assert (result.outcome, result.signal) == (Outcome.FINISHED, 9)
    assert (await shell.run("echo ${x-new}"))[1] == b"new\n"


async def test_set_e_ends_the_shell_at_the_first_failure(bash: Sh) -> None:
    assert (await bash.run("set -e; true"))[0].exit_code == 0
    result, said = await bash.run("echo before; (exit 5); echo after")
    assert (result.exit_code, said) == (5, b"before\n")
    assert (await bash.run("echo on"))[1] == b"on\n"


async def test_a_shell_whose_spawner_was_killed_is_followed_by_another(bash: Sh) -> None:
    output, task = bash.start("echo $$; sleep 1000")
    await eventually(lambda: output.stdout.endswith(b"\n"), "it runs")
    tree = psutil.Process(bash.agent.pid).children(recursive=True)
    spawners = [process for process in tree if "sleep" in [c.name() for c in _below(process)]]
    os.kill(spawners[0].pid, signal.SIGKILL)
    result = await task
    assert result.signal == 9
    assert (await bash.run("echo on"))[1] == b"on\n"


def _below(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


async def test_a_forged_report_ends_nothing_but_its_own_run(bash: Sh) -> None:
    """The shell is its user's: he may lie about its own exit code, and the agent stands it."""
    junk = r"printf '%s\n' '1 0 0' x '7 0' '99999999999999999999 0' '1' >&251"
    result, said = await bash.run(f"{junk}; printf '%0100000d' 7 >&251; echo said")
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 0)
    assert said == b"said\n"
    assert (await bash.run("echo on"))[1] == b"on\n"


async def test_a_timeout_spares_the_shell_and_what_was_started_before(bash: Sh) -> None:
    _, older = await bash.run("x=still; sleep 1000 & echo $!")
    await bash.run("sleep 0.05")  # Ages are told apart by the kernel's clock tick.
    result, newer = await bash.run("sleep 1001 & echo $!; trap '' INT; sleep 1001", timeout_s=0.3)
    assert result.outcome is Outcome.TIMED_OUT
    _, said = await bash.run(
        f"echo $x; kill -0 {int(older)} && echo old; kill -0 {int(newer.split()[0])} || echo gone"
    )
    assert said.splitlines()[:2] == [b"still", b"old"]
    assert said.endswith(b"gone\n")


@pytest.mark.parametrize(
    "command", ["trap '' INT; while :; do :; done", "trap '' INT; while :; do sleep 0.01; done"]
)
async def test_a_loop_that_nothing_else_ends_costs_the_shell(shell: Sh, command: str) -> None:
    result, _ = await shell.run(f"x=1; {command}", timeout_s=0.2)
    assert result.outcome is Outcome.TIMED_OUT
    assert not result.sandbox_reset
    assert result.run_s < 3
    assert (await shell.run("echo ${x-new}"))[1] == b"new\n"


async def test_closing_kills_all_that_is_below_also_what_ignores_signals(shell: Sh) -> None:
    output, task = shell.start("trap '' HUP TERM; sleep 1000 & echo $!; sleep 1000", timeout_s=None)
    await eventually(lambda: output.stdout.endswith(b"\n"), "it runs")
    before = {p.pid for p in psutil.Process(shell.agent.pid).children(recursive=True)}
    sleeps = [pid for pid in before if psutil.Process(pid).name() == "sleep"]
    await shell.agent.channel.session_input("main", close=True)
    assert (await task).outcome is Outcome.KILLED
    assert not [pid for pid in sleeps if is_alive(pid)]
    await shell.run("sleep 1000 & true")
    await shell.agent.channel.session_input("main", close=True)
    left = psutil.Process(shell.agent.pid).children(recursive=True)
    # What is dead but not reaped yet has ended as well.
    assert not [process for process in left if process.name() == "sleep" and is_alive(process.pid)]


async def test_a_refused_start_leaves_no_session(bash: Sh) -> None:
    for fields, said in (
        ({"cwd": "/no/such"}, "cannot enter"),
        ({"env": {"COLUMNS": "wide"}}, "COLUMNS must be"),
        ({"user": "nobody-here"}, "no user"),
    ):
        with pytest.raises(PermanentError, match=said):
            await bash.run("true", **fields)
    assert (await bash.run("echo on"))[1] == b"on\n"


async def test_one_run_at_a_time_and_sixteen_sessions(bash: Sh) -> None:
    _, task = bash.start("sleep 1000")
    with pytest.raises(PermanentError, match="runs 'action-1': it runs one action at a time"):
        await bash.run("true")
    for number in range(15):
        await bash.run("true", session=f"s{number}")
    with pytest.raises(PermanentError, match="16 sessions are open already"):
        await bash.run("true", session="more")
    await bash.agent.channel.kill("action-1")
    assert (await task).outcome is Outcome.KILLED


async def test_a_new_server_finds_the_session_and_the_result(folder: Path) -> None:
    async with running("child", folder) as agent:
        first = Sh(agent, {})
        await first.run("x=kept")
        output, task = first.start("echo begun; read -r line; echo $line")
        await eventually(lambda: output.stdout == b"begun\n", "it runs")
        listener = AgentListener(folder / "agent.sock")
        agent.channel._protocol.transport.abort()
        with pytest.raises(Exception, match="agent ended"):
            await task
        agent.channel = await listener.accept(agent.pid, DEADLINE_S)
        listener.close()
        await first.type(b"answer\n")
        agent.count -= 1
        again, task = first.start("echo begun; read -r line; echo $line")
        assert (await task).exit_code == 0
        assert again.stdout == b"begun\nanswer\n"
        assert (await first.run("echo $x"))[1] == b"kept\n"


async def test_shells_start_where_python_has_no_posix_spawn(folder: Path) -> None:
    listener = AgentListener(folder / "agent.sock")
    command = agent_command(folder)
    script = command.index("-c") + 1
    command[script] = f"import posix; del posix.posix_spawn; {command[script]}"
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    channel = await listener.accept(process.pid, DEADLINE_S)
    shell = Sh(Running(channel, process, process.pid, folder), {})
    await shell.run("x=1")
    assert (await shell.run("test -t 0 && test -t 1 && echo $x"))[1] == b"1\n"
    await kill_all(process, process.pid)
    await channel.aclose()


def test_a_change_of_cores_is_told_only_where_there_is_one() -> None:
    one, two = {b"TANGRAM_CORES": b"1", b"X": b"$(rm)"}, {b"TANGRAM_CORES": b"2", b"X": b"other"}
    assert dialects.change_of(one, one) == b":"
    assert dialects.change_of(one, two) == (
        b':; [ "${TANGRAM_CORES-}" != "1" ] || export TANGRAM_CORES=2'
    )
    assert dialects.change_of(one, {b"TANGRAM_CORES": b"$(rm)"}) == b":"
