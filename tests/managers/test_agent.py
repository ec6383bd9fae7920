"""The agent against real processes: as a plain child, and as process 1 of a pid namespace."""

from __future__ import annotations

import ast
import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tangram.managers.base import ExecSpec, Outcome
from tangram.managers.cpu.sandbox.agent import programs
from tangram.managers.cpu.sandbox.interpreter import AGENT
from tangram.managers.cpu.sandbox.listener import AgentListener
from tangram.managers.errors import PermanentError, SandboxDied
from tests.managers.agents import (
    DEADLINE_S,
    STARTERS,
    Output,
    Running,
    agent_command,
    eventually,
    is_alive,
    kill_all,
    running,
    start_child,
    start_init,
)

# --- The file itself. ---


def test_the_agent_is_written_for_python_3_6() -> None:
    sources = list(AGENT.glob("*.py"))
    assert len(sources) > 1
    for source in sources:
        ast.parse(source.read_text(), feature_version=(3, 6))


def test_the_agent_imports_nothing_heavy() -> None:
    script = (
        f"import sys; sys.path.append({str(AGENT.parent)!r}); import agent.main;"
        "print(' '.join(sys.modules))"
    )
    command = [sys.executable, "-I", "-S", "-c", script]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"os", "asyncio", "subprocess", "json", "typing", "socket", "ctypes", "struct", "re"}
    assert not heavy & set(modules)


# --- Commands. ---


async def test_a_command_reports_its_streams_and_exit_code(sandbox: Running) -> None:
    result, output = await sandbox.run("echo out; echo err >&2; exit 3")
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.FINISHED, 3, None)
    assert (output.stdout, output.stderr) == (b"out\n", b"err\n")
    assert (result.stdout_bytes, result.stderr_bytes, result.survivors) == (4, 4, 0)
    assert 0 < result.run_s < DEADLINE_S
    assert result.peak_memory_bytes > 1 << 18
    assert not result.sandbox_reset


async def test_a_signal_is_a_negative_exit_code(child: Running) -> None:
    result, _ = await child.run("kill -TERM $$")
    assert (result.exit_code, result.signal) == (-15, 15)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["no-such-program"], 127, b"no-such-program: command not found"),
        (["/no/such/program"], 127, b"no such file"),
        (["/etc/passwd"], 126, b"permission denied"),
        (["/tmp"], 126, b"permission denied"),
    ],
)
async def test_what_cannot_be_executed_ends_as_in_a_shell(
    child: Running, argv: list[str], code: int, said: bytes
) -> None:
    result, output = await child.run(argv)
    assert result.exit_code == code
    assert said in output.stderr


async def test_commands_run_where_python_has_no_posix_spawn(folder: Path) -> None:
    listener = AgentListener(folder / "agent.sock")
    command = agent_command(folder)
    script = command.index("-c") + 1
    command[script] = f"import posix; del posix.posix_spawn; {command[script]}"
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    channel = await listener.accept(process.pid, DEADLINE_S)
    sandbox = Running(channel, process, process.pid, folder)
    _, output = await sandbox.run("grep -E 'SigBlk|SigIgn' /proc/self/status; cat", stdin=b"x")
    agents = sum(1 << (number - 1) for number in programs.IGNORED_SIGNALS)
    _, blocked, _, ignored, echo = output.stdout.split()
    assert (int(blocked, 16), int(ignored, 16) & agents, echo) == (0, 0, b"x")
    assert (await sandbox.run(["no-such-program"]))[0].exit_code == 127
    assert (await sandbox.run(["/etc/passwd"]))[0].exit_code == 126
    await kill_all(process, process.pid)
    await channel.aclose()


async def test_a_script_without_its_first_line_runs_in_sh(child: Running) -> None:
    script = child.folder / "script"
    script.write_text("echo from the script $1\n")
    script.chmod(0o755)
    _, output = await child.run([str(script), "one"])
    assert output.stdout == b"from the script one\n"


async def test_the_environment_is_the_configured_one_and_nothing_of_the_agents(
    child: Running,
) -> None:
    _, output = await child.run(["env"], env={"MINE": "yes", "LANG": "de"})
    env = dict(line.split("=", 1) for line in output.stdout.decode().splitlines())
    assert env.pop("PATH") == programs.DEFAULT_PATH.decode()
    assert env.pop("MINE") == "yes"
    assert env.pop("LANG") == "de"
    assert set(env) <= {"HOME", "USER", "LOGNAME"}


async def test_a_command_starts_with_clean_signals_descriptors_and_no_core_dumps(
    child: Running,
) -> None:
    _, output = await child.run("ulimit -c; ls /proc/self/fd; grep SigIgn /proc/self/status")
    *words, _, ignored = output.stdout.split()
    assert words == [b"0", b"0", b"1", b"2", b"3"]  # No core dumps; ls has its folder open.
    agents = sum(1 << (number - 1) for number in programs.IGNORED_SIGNALS)
    assert int(ignored, 16) & agents == 0


async def test_a_missing_cwd_is_an_error_and_a_relative_one_is_below_the_workdir(
    child: Running,
) -> None:
    (child.folder / "inner").mkdir()
    _, output = await child.run(["pwd"], cwd="inner")
    assert output.stdout == f"{child.folder}/inner\n".encode()
    with pytest.raises(PermanentError, match=r"folder .*/missing: No such file"):
        await child.run(["pwd"], cwd="missing")


async def test_an_unknown_user_is_an_error(child: Running) -> None:
    with pytest.raises(PermanentError, match="no user nosuchuser"):
        await child.run(["true"], user="nosuchuser")
    with pytest.raises(PermanentError, match="no group nosuchgroup"):
        await child.run(["true"], user="root:nosuchgroup")


@pytest.mark.root
async def test_a_command_runs_as_another_user_and_can_reopen_its_output(child: Running) -> None:
    _, output = await child.run("id -un; echo $HOME $USER > /dev/stdout", user="daemon")
    assert output.stdout == b"daemon\n/usr/sbin daemon\n"
    _, output = await child.run("id -u; id -g; id -G", user="4242:4243")
    assert output.stdout.split() == [b"4242", b"4243", b"4243"]
    _, output = await child.run("id -u")
    assert output.stdout == b"0\n"


@pytest.mark.root
async def test_an_agent_that_is_not_root_refuses_other_users(folder: Path) -> None:
    async with running("child", folder, "--uid", "4242", "--gid", "4243") as sandbox:
        _, output = await sandbox.run("id -u; id -G")
        assert output.stdout.split() == [b"4242", b"4243"]
        with pytest.raises(PermanentError, match="runs as uid 4242, not as root"):
            await sandbox.run(["true"], user="root")


async def test_input_is_fed_whole_and_empty_input_is_the_null_device(child: Running) -> None:
    data = os.urandom(1 << 20)
    _, output = await child.run(["cat"], stdin=data, max_output_bytes=2 << 20)
    assert output.stdout == data
    _, output = await child.run("readlink /proc/self/fd/0; cat")
    assert output.stdout == b"/dev/null\n"


async def test_a_command_that_does_not_read_its_input_still_ends(child: Running) -> None:
    result, _ = await child.run(["true"], stdin=b"x" * (1 << 20))
    assert result.exit_code == 0


async def test_bytes_that_are_no_text_pass_through(child: Running) -> None:
    _, output = await child.run(r"printf '\377\000\376'")
    assert output.stdout == b"\xff\0\xfe"


async def test_a_flood_of_output_keeps_its_head_and_its_tail(child: Running) -> None:
    total, kept = 12_000_000, 100_000
    script = f"import sys; sys.stdout.write(''.join('%07d\\n' % i for i in range({total // 8})))"
    result, output = await child.run([sys.executable, "-c", script], max_output_bytes=kept)
    assert result.stdout_bytes == total
    whole = b"".join(b"%07d\n" % number for number in range(total // 8))
    covered = bytearray(total)
    for _, offset, data in output.writes:
        assert whole[offset : offset + len(data)] == data
        covered[offset : offset + len(data)] = b"\1" * len(data)
    assert all(covered[: kept // 2])
    assert all(covered[-kept // 2 :])


async def test_output_that_fits_the_limit_exactly_is_whole(child: Running) -> None:
    _, output = await child.run("printf 0123456789", max_output_bytes=10)
    assert output.stdout == b"0123456789"
    result, output = await child.run("printf 0123456789A", max_output_bytes=0)
    assert (output.writes, result.stdout_bytes) == ([], 11)


async def test_output_comes_while_the_command_runs(child: Running) -> None:
    fifo = child.folder / "gate"
    os.mkfifo(fifo)
    _, output, task = child.start(f"echo first; cat {fifo}; echo second")
    await eventually(lambda: output.stdout == b"first\n", "output of a running command")
    assert not task.done()
    await asyncio.to_thread(fifo.write_bytes, b"")
    await task
    assert output.stdout == b"first\nsecond\n"


async def test_a_background_process_outlives_its_action_without_holding_the_result(
    sandbox: Running,
) -> None:
    result, output = await sandbox.run("sleep 600 & echo $!")
    assert (result.exit_code, result.survivors) == (0, 1)
    assert result.run_s < 5
    pid = int(output.stdout)
    _, output = await sandbox.run(f"kill -0 {pid} && echo alive; kill -9 {pid}")
    assert output.stdout == b"alive\n"


async def test_a_survivor_may_go_on_writing(child: Running) -> None:
    fifo, done = child.folder / "gate", child.folder / "done"
    os.mkfifo(fifo)
    writer = "import sys; sys.stdout.write('x' * 1000000)"
    background = f'(cat {fifo}; {sys.executable} -c "{writer}" && touch {done})'
    result, output = await child.run(f"{background} & echo now")
    assert (result.survivors, output.stdout) == (2, b"now\n")
    await asyncio.to_thread(fifo.write_bytes, b"")
    await eventually(done.exists, "the survivor wrote a megabyte into its old pipe")


async def test_many_commands_run_at_once(child: Running) -> None:
    results = await asyncio.gather(*(child.run(f"echo {number}") for number in range(20)))
    assert [output.stdout for _, output in results] == [b"%d\n" % number for number in range(20)]


async def test_a_clean_spawner_is_used_again(child: Running) -> None:
    first = (await child.run("echo $PPID"))[1].stdout
    assert (await child.run("echo $PPID"))[1].stdout == first


async def test_an_action_that_runs_is_not_run_again(child: Running) -> None:
    action, output, task = child.start("echo up; sleep 600")
    await eventually(lambda: output.stdout, "the command started")
    again = ExecSpec(argv=("true",))
    with pytest.raises(PermanentError, match="runs in this sandbox already"):
        await child.channel.exec(
            action, 2, again, cores=None, affinity=None, timeout_s=None, output=Output()
        )
    await child.channel.kill(action)
    await task


# --- Ends that somebody wants. ---

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()) + " " + str(os.stat("/proc/self").st_ino))
        os.rename(sys.argv[1], sys.argv[1] + ".done")
    time.sleep(600)
time.sleep(600)
"""


async def test_a_timeout_kills_daemonised_descendants(sandbox: Running) -> None:
    marker = f"marker-{os.getpid()}"
    argv = [sys.executable, "-c", DAEMON, str(sandbox.folder / "pid"), marker]
    result, _ = await sandbox.run(argv, timeout_s=1.0)
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, -9)
    assert (result.survivors, result.sandbox_reset) == (0, False)
    assert 1.0 <= result.run_s < 5
    assert (sandbox.folder / "pid.done").exists()
    assert not processes_with(marker)


def processes_with(argument: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in found if is_alive(pid)]


async def test_kill_ends_a_command_with_its_descendants(sandbox: Running) -> None:
    marker = f"marker-{os.getpid()}"
    path = sandbox.folder / "pid"
    action, _, task = sandbox.start([sys.executable, "-c", DAEMON, str(path), marker])
    await eventually((sandbox.folder / "pid.done").exists, "the daemon started")
    await sandbox.channel.kill(action)
    assert (await task).outcome is Outcome.KILLED
    assert not processes_with(marker)
    await sandbox.channel.kill(action)
    assert (await sandbox.run(["true"]))[0].exit_code == 0


async def test_what_a_command_left_can_be_killed_with_its_result_and_nothing_else_is(
    sandbox: Running,
) -> None:
    _, output = await sandbox.run("sleep 600 & echo $!")
    spared = int(output.stdout)
    marker = f"marker-{os.getpid()}"
    path = sandbox.folder / "pid"
    daemon = f"{sys.executable} -c '{DAEMON}' {path} {marker}"
    wait = f"while [ ! -e {path}.done ]; do sleep 0.01; done"
    result, _ = await sandbox.run(f"{daemon} & {wait}; exit 3", sweeps=lambda result: True)
    assert (result.exit_code, result.survivors) == (3, 3)
    assert not processes_with(marker)
    result, _ = await sandbox.run(f"kill -9 {spared}")
    assert result.exit_code == 0


async def test_a_cancelled_exec_kills_its_command(child: Running) -> None:
    marker = f"marker-{os.getpid()}"
    _, output, task = child.start(["sh", "-c", "echo up; sleep 600; :", marker])
    await eventually(lambda: output.stdout, "the command started")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not processes_with(marker), "the command died")


async def test_survivors_of_other_actions_are_spared(sandbox: Running) -> None:
    _, output = await sandbox.run("sleep 600 & echo $!")
    survivor = int(output.stdout)
    result, _ = await sandbox.run("sleep 600", timeout_s=0.1)
    assert result.outcome is Outcome.TIMED_OUT
    result, _ = await sandbox.run(f"kill -9 {survivor}")
    assert result.exit_code == 0


async def test_killing_everything_from_inside_still_gives_the_commands_own_end(
    init: Running,
) -> None:
    result, _ = await init.run("kill -9 -1; exit 5")
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 5)
    result, _ = await init.run("kill -9 -1; sleep 600", timeout_s=0.3)
    assert result.outcome is Outcome.TIMED_OUT
    assert (await init.run("echo again"))[1].stdout == b"again\n"


@pytest.mark.parametrize("attempt", range(6))
async def test_a_command_whose_end_its_killed_spawner_took_along_has_ended(
    init: Running, attempt: int
) -> None:
    """It dies before its spawner, which is killed in the moment between seeing and telling it: often."""
    killer = "import os; os.kill(-1, 9); os._exit(0)"
    result, _ = await init.run(f"python3 -c '{killer}'; echo after", timeout_s=DEADLINE_S)
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, -9)


async def test_a_killed_spawner_does_not_lose_its_command(sandbox: Running) -> None:
    result, output = await sandbox.run("kill -9 $PPID; echo here; exit 4")
    assert (result.exit_code, output.stdout) == (4, b"here\n")
    marker = f"marker-{os.getpid()}"
    script = f"kill -9 $PPID; setsid sh -c 'sleep 600; :' {marker} & sleep 600"
    result, _ = await sandbox.run(script, timeout_s=0.5)
    assert result.outcome is Outcome.TIMED_OUT
    assert not processes_with(marker)


async def test_a_stopped_spawner_does_not_hold_the_timeout(sandbox: Running) -> None:
    result, _ = await sandbox.run("kill -STOP $PPID; sleep 600", timeout_s=0.2)
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, -9)
    assert (await sandbox.run(["true"]))[0].exit_code == 0


async def test_a_killed_or_stopped_idle_spawner_is_replaced(sandbox: Running) -> None:
    for how in ("KILL", "STOP"):
        # The last thing that the command does; its own spawner is spared, the spare is not.
        script = f"""
            agent=$(ps -o ppid= -p $PPID)
            for pid in $(ps -o pid= --ppid $agent); do [ $pid = $PPID ] || kill -{how} $pid; done
        """
        await asyncio.gather(*(sandbox.run("true") for _ in range(3)))
        await sandbox.run(script)
        results = await asyncio.gather(*(sandbox.run("true") for _ in range(4)))
        assert [result.exit_code for result, _ in results] == [0] * 4


@pytest.mark.root
async def test_a_fork_bomb_ends_with_its_timeout(folder: Path) -> None:
    # The limit of processes counts per user, so the bomb has one of its own.
    options, limit = ("--uid", "61237", "--gid", "61237"), ("prlimit", "--nproc=60")
    async with running("init", folder, *options, prefix=limit) as sandbox:
        bomb = ["perl", "-e", '$SIG{CHLD} = "IGNORE"; fork while 1']
        result, _ = await sandbox.run(bomb, timeout_s=0.5)
        assert (result.outcome, result.survivors) == (Outcome.TIMED_OUT, 0)
        # What remains: the shell, what it runs, and the agent's own.
        _, output = await sandbox.run("ls -d /proc/[0-9]* | wc -l")
        assert int(output.stdout) <= 6


@pytest.mark.root
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_full_process_table_is_the_commands_own_failure(
    folder: Path, processes: int
) -> None:
    # The agent is one process, its spawner the second.
    options, limit = ("--uid", "61238", "--gid", "61238"), ("prlimit", f"--nproc={processes}")
    async with running("init", folder, *options, prefix=limit) as sandbox:
        result, output = await sandbox.run(["true"])
        assert result.exit_code == 126
        assert b"too many processes" in output.stderr


# --- Process 1. ---


async def test_orphans_are_reaped(init: Running) -> None:
    await init.run("for i in 1 2 3; do (sleep 0.01 &) ; done")
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    for _ in range(50):
        if (await init.run(f"sleep 0.02; {zombies}"))[1].stdout == b"0\n":
            return
    pytest.fail("zombies stayed")


async def test_the_agent_can_be_neither_signalled_nor_inspected_from_inside(init: Running) -> None:
    await init.run("kill -TERM 1; kill -INT 1; kill -STOP 1; kill -KILL 1")
    for secret in ("environ", "mem", "maps"):
        result, output = await init.run(["cat", f"/proc/1/{secret}"])
        assert (result.exit_code, output.stdout) == (1, b"")
        assert b"Permission denied" in output.stderr


@pytest.mark.root
async def test_process_1_serves_nobody_inside_its_namespace(folder: Path) -> None:
    server = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "c, _ = s.accept(); c.settimeout(10); print(c.recv(100))"
    )
    process, pid = await start_init(folder)
    try:
        namespace = ["nsenter", "--pid", "--target", str(pid), sys.executable, "-c", server]
        inside = await asyncio.create_subprocess_exec(
            *namespace, str(folder / "agent.sock"), stdout=subprocess.PIPE
        )
        stdout, _ = await asyncio.wait_for(inside.communicate(), DEADLINE_S)
        assert stdout == b"b''\n"
    finally:
        process.kill()
        os.kill(pid, 9)
        await process.wait()


@pytest.mark.parametrize("mode", ["child", "init"])
async def test_the_agent_ends_with_all_processes_when_no_server_comes_back(
    mode: str, folder: Path
) -> None:
    marker = f"marker-{os.getpid()}"
    listener = AgentListener(folder / "agent.sock")
    process, pid = await STARTERS[mode](folder, orphan_after=0.3)
    channel = await listener.accept(pid, DEADLINE_S)
    await channel.configure(env={}, workdir="/", shell=(), user="")
    sandbox = Running(channel, process, pid, folder)
    await sandbox.run(["sh", "-c", f"setsid sh -c 'sleep 600; :' {marker} &"])
    assert processes_with(marker)
    await channel.aclose()
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
    await eventually(lambda: not processes_with(marker), "everything inside died")


async def test_a_server_that_comes_back_gets_finished_and_running_actions(
    sandbox: Running,
) -> None:
    gates = [sandbox.folder / "gate-1", sandbox.folder / "gate-2"]
    for gate in gates:
        os.mkfifo(gate)
    script = "echo up; cat {}; echo >&2 end; touch {}.done"
    started = [sandbox.start(script.format(gate, gate)) for gate in gates]
    await eventually(lambda: all(output.stdout for _, output, _ in started), "both commands ran")
    sandbox.channel._protocol.transport.abort()  # As a server that is killed.
    for _, _, task in started:
        with pytest.raises(SandboxDied, match="agent ended"):
            await task
    sandbox.count = 0  # The same actions are asked for again, which runs nothing twice.
    await asyncio.to_thread(gates[0].write_bytes, b"while nobody listened\n")
    await eventually(Path(f"{gates[0]}.done").exists, "the first command ended")

    listener = AgentListener(sandbox.folder / "agent.sock")
    sandbox.channel = await listener.accept(sandbox.pid, DEADLINE_S)
    spec = ExecSpec(argv=("false",))
    with pytest.raises(PermanentError, match="known with another token"):
        await sandbox.channel.exec(
            "action-1", 2, spec, cores=None, affinity=None, timeout_s=None, output=Output()
        )
    again = [sandbox.start(["false"]) for _ in gates]
    outputs = [output for _, output, _ in again]
    await eventually(lambda: outputs[1].stdout == b"up\n", "earlier output came again")
    await asyncio.to_thread(gates[1].write_bytes, b"")
    assert [(await task).exit_code for _, _, task in again] == [0, 0]
    assert outputs[0].stdout == b"up\nwhile nobody listened\n"
    assert outputs[0].stderr == outputs[1].stderr == b"end\n"


async def test_a_malformed_message_costs_the_connection_and_nothing_else(folder: Path) -> None:
    path = folder / "agent.sock"
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as server:
        server.setblocking(False)
        server.bind(str(path))
        server.listen()
        process, pid = await start_child(folder)
        connection, _ = await loop.sock_accept(server)
        with connection:
            await loop.sock_sendall(connection, b"\0\0\0\1x")
            while await loop.sock_recv(connection, 1000):
                pass  # The greeting, then the end.
    path.unlink()
    channel = await AgentListener(path).accept(pid, DEADLINE_S)
    assert (await channel.stat("/")).kind == "directory"
    await kill_all(process, pid)
    await channel.aclose()
