"""The server's end of an agent's socket, against a scripted agent: who is let in, what is sent,
and what every call does when the other end goes away or lies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tangram.managers.base import ExecSpec, Outcome, Stream
from tangram.managers.cpu.sandbox.agent import wire
from tangram.managers.cpu.sandbox.channel import Channel
from tangram.managers.cpu.sandbox.listener import AgentListener
from tangram.managers.cpu.sandbox.messages import AgentResult
from tangram.managers.errors import FileProblem, PermanentError, SandboxClosed, SandboxDied

HELLO: dict[str, object] = {"protocol": list(wire.PROTOCOL)}
RESULT: dict[str, object] = {
    "action": "a",
    "token": 7,
    "outcome": "finished",
    "figures": wire.pack_figures(-9, 9, 0.5, 0.25, 4096, 3, 0, 2, True),
}


class ScriptedAgent:
    """The far end of a channel, played by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._frames = wire.FrameReader(wire.marshalled)
        self._messages: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: object) -> None:
        self.writer.write(wire.frame(kind, fields))

    async def receive(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of that kind."""
        while not self._messages:
            data = await self._reader.read(1 << 16)
            assert data, f"the channel hung up before {kind}"
            self._messages += self._frames.feed(data)
        found, fields = self._messages.pop(0)
        assert found == kind
        return fields


class Output:
    def __init__(self) -> None:
        self.writes: list[tuple[Stream, int, bytes]] = []

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        self.writes.append((stream, offset, data))


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
        yield Path(folder) / "agent.sock"


def list_folder(path: Path) -> list[str]:
    return os.listdir(path.parent)


async def connect(path: Path, hello: dict[str, object] | None = None) -> ScriptedAgent:
    agent = ScriptedAgent(*await asyncio.open_unix_connection(path))
    agent.send("hello", **(HELLO if hello is None else hello))
    return agent


@pytest.fixture
async def pair(path: Path) -> AsyncIterator[tuple[Channel, ScriptedAgent]]:
    listener = AgentListener(path)
    agent = await connect(path)
    channel = await listener.accept(os.getpid(), 5.0)
    yield channel, agent
    agent.writer.close()
    await channel.aclose()


def run(
    channel: Channel,
    spec: ExecSpec,
    output: Output | None = None,
    cores: tuple[int, ...] | None = None,
    sweeps: Callable[[AgentResult], bool] = lambda result: False,
) -> asyncio.Task[AgentResult]:
    sink = output or Output()
    call = channel.exec(
        *("a", 7, spec), cores=cores, affinity=cores, timeout_s=1.5, output=sink, sweeps=sweeps
    )
    return asyncio.create_task(call)


TRUE = ExecSpec(argv=("true",))


async def test_the_expected_agent_is_accepted_and_nobody_else_may_follow(
    pair: tuple[Channel, ScriptedAgent], path: Path
) -> None:
    assert list_folder(path) == []


async def test_impostors_are_turned_away_until_the_agent_comes(path: Path) -> None:
    listener = AgentListener(path)
    program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    impostor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program + "print(s.recv(1))", str(path), stdout=subprocess.PIPE
    )

    async def own_pid() -> int:
        return os.getpid()

    accepting = asyncio.create_task(listener.accept(own_pid, 10.0))
    stdout, _ = await impostor.communicate()
    assert stdout == b"b''\n"
    assert not accepting.done()
    agent = await connect(path)
    await (await accepting).aclose()
    agent.writer.close()


async def test_nobody_coming_is_a_timeout_and_leaves_nothing(path: Path) -> None:
    listener = AgentListener(path)
    with pytest.raises(TimeoutError):
        await listener.accept(None, 0.05)
    listener.close()
    listener.close()
    assert list_folder(path) == []


async def test_an_agent_that_ends_before_its_greeting_is_an_error(path: Path) -> None:
    listener = AgentListener(path)
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()
    with pytest.raises(SandboxDied, match="agent ended"):
        await listener.accept(None, 5.0)


async def test_another_protocol_is_refused_with_both_versions(path: Path) -> None:
    listener = AgentListener(path)
    agent = await connect(path, {**HELLO, "protocol": [9, 0]})
    with pytest.raises(PermanentError, match=r"speaks protocol 9\.0, this server 2\.1"):
        await listener.accept(None, 5.0)
    agent.writer.close()


async def test_a_long_socket_path_is_refused_with_the_limit() -> None:
    with pytest.raises(PermanentError, match="shorter than 100 bytes"):
        AgentListener(Path("/tmp") / ("x" * 100))


async def test_a_command_tells_its_cores_and_its_result_is_taken(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    output = Output()
    spec = ExecSpec(shell_command="make -j{cores} {x}", env={"A": "ö"}, substitute_cores=True)
    task = run(channel, spec, output, cores=(2, 5))
    sent = await agent.receive("exec")
    assert sent["command"] == b"make -j2 {x}"
    assert sent["env"] == {"A": "ö".encode(), "TANGRAM_CORES": b"2", "OMP_NUM_THREADS": b"2"}
    assert (sent["affinity"], sent["timeout_s"], sent["token"]) == ([2, 5], 1.5, 7)
    agent.send("output", action="a", stream="stderr", offset=4, data=b"\xff")
    agent.send("result", **RESULT)
    assert await task == AgentResult(Outcome.FINISHED, -9, 9, 0.5, 0.25, 4096, 3, 0, 2, True)
    assert output.writes == [(Stream.STDERR, 4, b"\xff")]
    assert await agent.receive("taken") == {"action": "a", "token": 7}


async def test_the_commands_own_number_of_threads_wins_and_braces_stay(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    spec = ExecSpec(argv=("echo", "{cores}"), env={"OMP_NUM_THREADS": "9"})
    task = run(channel, spec, cores=(0,))
    sent = await agent.receive("exec")
    assert sent["argv"] == [b"echo", b"{cores}"]
    assert sent["env"] == {"TANGRAM_CORES": b"1", "OMP_NUM_THREADS": b"9"}
    agent.send("refused", action="a", token=7, code="cwd", message="cannot enter the folder /x")
    with pytest.raises(PermanentError, match="cannot enter the folder /x"):
        await task


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ExecSpec(argv=("cat",), stdin=b"x" * wire.MAX_FRAME), "at most 4194304"),
        (ExecSpec(argv=("echo", "a\0b")), r"argv\[1\] holds a NUL byte"),
        (ExecSpec(argv=("env",), env={"A=B": "c"}), "'A=B' cannot be the name"),
    ],
)
async def test_what_no_process_can_be_given_is_refused_before_it_is_sent(
    pair: tuple[Channel, ScriptedAgent], spec: ExecSpec, said: str
) -> None:
    channel, agent = pair
    with pytest.raises(PermanentError, match=said):
        await run(channel, spec)
    agent.send("reply", id=1, entries=[])
    assert await channel.list_files("/") == []  # The first that is sent.


async def test_a_result_with_an_old_token_is_taken_but_ends_nothing(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    task = run(channel, TRUE)
    await agent.receive("exec")
    figures = wire.pack_figures(1, None, 0.5, 0.25, 4096, 3, 0, 2, False)
    agent.send("result", **{**RESULT, "token": 6, "figures": figures})
    assert await agent.receive("taken") == {"action": "a", "token": 6}
    assert not task.done()
    agent.send("result", **RESULT)
    assert (await task).exit_code == -9


async def test_what_a_command_left_is_killed_before_its_result_is_given_where_it_must_not_stay(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    task = run(channel, TRUE, sweeps=lambda result: result.exit_code == -9)
    await agent.receive("exec")
    agent.send("result", **RESULT)
    asked = await agent.receive("sweep")
    assert (asked["action"], asked["token"], task.done()) == ("a", 7, False)
    agent.send("reply", id=asked["id"])
    assert (await task).survivors == 2
    assert await agent.receive("taken") == {"action": "a", "token": 7}


async def test_kill_and_cancellation_are_sent(pair: tuple[Channel, ScriptedAgent]) -> None:
    channel, agent = pair
    task = run(channel, TRUE)
    await agent.receive("exec")
    await channel.kill("a")
    assert await agent.receive("kill") == {"action": "a"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await agent.receive("kill") == {"action": "a"}


async def test_the_end_of_the_agent_ends_every_call_and_is_told_once(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    task = run(channel, TRUE)
    await agent.receive("exec")
    calls = [task, asyncio.create_task(channel.stat("/")), asyncio.create_task(channel.stat("/a"))]
    await agent.receive("stat")
    agent.writer.close()
    for call in calls:
        with pytest.raises(SandboxDied, match="agent ended"):
            await call
    assert await channel.lost == "the sandbox's agent ended"
    with pytest.raises(SandboxDied):
        await channel.list_files("/")


async def test_a_lying_agent_is_hung_up_on(pair: tuple[Channel, ScriptedAgent]) -> None:
    channel, agent = pair
    agent.send("result", nothing=True)
    assert "no message" in await channel.lost


async def test_a_result_whose_figures_are_none_is_hung_up_on(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    task = run(channel, TRUE)
    await agent.receive("exec")
    agent.send("result", **{**RESULT, "figures": b"short"})
    with pytest.raises(SandboxDied, match="no figures of a result"):
        await task


async def test_calls_after_closing_say_closed_and_closing_is_not_a_loss(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    task = run(channel, TRUE)
    await agent.receive("exec")
    await channel.aclose()
    await channel.aclose()
    with pytest.raises(SandboxClosed):
        await task
    with pytest.raises(SandboxClosed):
        await channel.kill("a")
    assert not channel.lost.done()


async def test_a_file_is_written_chunk_by_chunk_never_ahead_of_the_agent(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    taken = []

    async def source() -> AsyncIterator[bytes]:
        for number in range(4):
            taken.append(number)
            yield bytes([number]) * wire.CHUNK

    write = asyncio.create_task(channel.write_file("f", 0o600, source()))
    first = await agent.receive("write")
    assert (first["path"], first["mode"], first["last"]) == (b"f", 0o600, False)
    assert taken == [0, 1]
    agent.send("reply", id=first["id"], size=wire.CHUNK)
    assert (await agent.receive("chunk"))["data"] == b"\1" * wire.CHUNK
    agent.send("failed", id=first["id"], code="ENOSPC", path=b"/", message="No space left")
    with pytest.raises(FileProblem, match="f: No space left") as caught:
        await write
    assert (caught.value.code, caught.value.path) == ("ENOSPC", "f")
    assert await agent.receive("abort") == {"id": first["id"]}


async def test_names_that_are_no_text_are_shown_with_replacements(
    pair: tuple[Channel, ScriptedAgent],
) -> None:
    channel, agent = pair
    task = asyncio.create_task(channel.list_files("/"))
    number = (await agent.receive("list"))["id"]
    entry = {"kind": "symlink", "size": 1, "mode": 0o777, "modified": 2.0, "target": b"\xfe"}
    agent.send("reply", id=number, entries=[{"name": b"a\xff", **entry}])
    (info,) = await task
    assert (info.name, info.target) == ("a\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}")
