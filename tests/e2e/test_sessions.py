"""Sessions and background processes with a real server, in real sandboxes."""

from __future__ import annotations

import asyncio

import pytest

from tangram import AsyncClient, Client
from tangram.errors import AlreadyExists, Expired, FailedPrecondition, InvalidRequest, NotFound
from tests.e2e.servers import ServerProcess

SERVE = """
import http.server, sys
print("about to listen", flush=True)
handler = http.server.SimpleHTTPRequestHandler
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""


class Answering:
    """An `on_output` that types an answer as soon as the question has been asked."""

    def __init__(self, question: bytes, answer: asyncio.Future[None]) -> None:
        self._question, self._answer = question, answer
        self._seen = b""

    def __call__(self, stream: str, data: bytes) -> None:
        self._seen += data
        if self._question in self._seen and not self._answer.done():
            self._answer.set_result(None)


async def test_a_session_keeps_what_a_shell_keeps(client: AsyncClient, image: str | None) -> None:
    async with client.trajectory(image) as trajectory:
        session = trajectory.session()
        await session.run("mkdir -p work && cd work", check=True)
        await session.run("export COLOUR=red; plain=blue; double() { echo $1 $1; }", check=True)
        result = await session.run("pwd; double $COLOUR $plain; false; echo $?", check=True)
        assert result.stdout == "/workspace/work\nred red\n1\n"
        assert (await session.run("exit 7")).exit_code == 7
        assert (await session.run("pwd; echo ${COLOUR-none}")).stdout == "/workspace\nnone\n"


async def test_a_sessions_run_is_an_action_like_any_other(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        result = await trajectory.session().run(
            "echo $TANGRAM_CORES {cores}", cores=(1, 2), labels={"tool": "bash"}
        )
        assert result.stdout == f"{result.cores} {result.cores}\n"
        explained = await client.explain(result.action_id)
        assert [span.part for span in explained.spans][-1] == "run"
        info = await client.get(result.action_id)
        assert (info.state, info.labels["tool"]) == ("finished", "bash")
        many = await trajectory.session().run("seq 100000", max_output="4Ki")
        assert many.truncated
        assert many.stdout.endswith("100000\n")


async def test_a_background_job_survives_and_a_closed_session_ends_it(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        session = trajectory.session()
        pid = (await session.run("sleep 1000 & echo $!", check=True)).stdout.strip()
        await session.run(f"kill -0 {pid}", check=True)
        await trajectory.exec(f"kill -0 {pid}", check=True)
        await session.close()
        assert not (await trajectory.exec(f"kill -0 {pid}")).ok
        await session.close()


async def test_a_program_that_asks_is_answered(client: AsyncClient, image: str | None) -> None:
    async with client.trajectory(image) as trajectory:
        session = trajectory.session()
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(
            session.run("python3 -qi", on_output=Answering(b">>> ", asked), timeout=30)
        )
        await asked
        await session.send("print(6 * 7)\n")
        await session.send("exit(5)\n")
        result = await running
        assert result.exit_code == 5
        assert "42\n" in result.stdout
        with pytest.raises(FailedPrecondition, match="nothing runs"):
            await session.send("too late\n")
        with pytest.raises(FailedPrecondition, match="nothing runs"):
            await session.interrupt()


async def test_ctrl_c_breaks_off_a_loop_of_the_shell_itself(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        session = trajectory.session()
        await session.run("here=still")
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = "while :; do echo begun; sleep 0.05; done"
        running = asyncio.create_task(session.run(loop, on_output=Answering(b"begun", begun)))
        await begun
        await session.interrupt()
        assert (await running).exit_code == 130
        assert (await session.run("echo $here")).stdout == "still\n"


async def test_a_timeout_leaves_the_session_and_older_jobs_alone(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        session = trajectory.session()
        older = (await session.run("here=still; sleep 1000 & echo $!")).stdout.strip()
        await trajectory.exec("sleep 0.05")  # Ages are told apart by the kernel's clock tick.
        result = await session.run("sleep 1001 & echo $!; sleep 1002", timeout=0.3)
        assert result.outcome == "timed_out"
        newer = result.stdout.split()[0]
        assert (await session.run(f"echo $here; kill -0 {older}")).ok
        assert not (await trajectory.exec(f"kill -0 {newer}")).ok


async def test_cancelling_a_run_ends_it(client: AsyncClient, image: str | None) -> None:
    async with client.trajectory(image) as trajectory:
        session = trajectory.session()
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(
            session.run("here=still; echo begun; sleep 1003", on_output=Answering(b"begun", begun))
        )
        await begun
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await session.run("echo $here")).stdout == "still\n"


async def test_a_session_out_of_memory_says_so_and_goes_on(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image, memory="64Mi") as trajectory:
        session = trajectory.session()
        hog = "python3 -c 'x = bytearray(1 << 30); x[::4096] = b\"1\" * (1 << 18)'"
        result = await session.run(hog)
        assert result.outcome == "out_of_memory"
        assert (await session.run("echo on")).stdout == "on\n"


async def test_the_terminal_is_as_asked(client: AsyncClient, image: str | None) -> None:
    async with client.trajectory(image) as trajectory:
        plain = await trajectory.session().run(
            "echo $TERM; stty size; test -t 0 -a -t 1 && echo tty"
        )
        assert plain.stdout == "dumb\n50 200\ntty\n"
        wide = trajectory.session("wide", term="xterm", columns=132, rows=43, cwd="/tmp")
        assert (await wide.run("echo $TERM; stty size; pwd")).stdout == "xterm\n43 132\n/tmp\n"


async def test_what_a_session_cannot_do_is_refused_by_name(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        with pytest.raises(InvalidRequest, match="columns must be"):
            trajectory.session(columns=0)
        with pytest.raises(InvalidRequest, match="name must be"):
            trajectory.session("two words")
        with pytest.raises(InvalidRequest, match="text must be"):
            await trajectory.session().send("")
        for number in range(16):
            await trajectory.session(f"s{number}").run("true", check=True)
        with pytest.raises(FailedPrecondition, match="16 sessions"):
            await trajectory.session("one-more").run("true")
        await trajectory.session("s0").close()
        await trajectory.session("one-more").run("true", check=True)


# Background processes


async def test_a_server_is_started_waited_for_asked_and_stopped(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        await trajectory.write_file("page", "hello")
        process = await trajectory.start(["python3", "-c", SERVE, "8000"])
        await process.wait_port(8000)
        fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/page').read())"
        result = await trajectory.exec(["python3", "-c", fetch], check=True)
        assert result.stdout == "b'hello'\n"
        assert await process.is_running()
        ended = await process.stop()
        assert (ended.running, ended.exit_code, ended.outcome) == (False, -15, "finished")
        assert await process.stop() == ended
        log = await process.logs()
        assert log.text.startswith("about to listen\n")
        assert "GET /page" in log.text
        assert (await process.logs(log.end)).data == b""


async def test_a_process_that_ends_before_it_listens_says_why(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        process = await trajectory.start("echo no such database; exit 3")
        with pytest.raises(FailedPrecondition, match=r"exit code 3 .* no such database"):
            await process.wait_port(8001, timeout=20)
        assert (await process.wait()).exit_code == 3


async def test_output_of_a_process_is_followed_and_bounded(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        process = await trajectory.start("for i in 1 2 3; do echo $i; sleep 0.05; done")
        pieces = [piece async for piece in process.follow()]
        assert b"".join(piece.data for piece in pieces) == b"1\n2\n3\n"
        much = await trajectory.start("seq 1000000; echo the end")
        info = await much.wait(30)
        assert info.output_bytes == 6_888_896 + len("the end\n")
        head = await much.logs()
        assert head.data.startswith(b"1\n2\n")
        assert len(head.data) < info.output_bytes // 4
        tail = await much.logs(head.end)
        assert tail.offset > head.end
        assert tail.data.endswith(b"1000000\nthe end\n")


async def test_processes_are_known_by_their_ids(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        process = await trajectory.start("sleep 1000", id="db")
        again = await trajectory.start("sleep 1000", id="db")
        assert (await again.info()).running
        with pytest.raises(AlreadyExists):
            await trajectory.start("sleep 1001", id="db")
        with pytest.raises(NotFound, match="no process"):
            await trajectory.process("other").info()
        with pytest.raises(Expired):
            await process.wait(0.05)
        with pytest.raises(Expired, match="port 8002"):
            await process.wait_port(8002, timeout=0.1)
        attached = client.attach(trajectory.id)
        assert (await attached.process("db").stop(grace=0)).exit_code == -9


def test_blocking_code_has_sessions_and_processes_too(shared_server: ServerProcess) -> None:
    with Client(shared_server.address) as client, client.trajectory() as trajectory:
        session = trajectory.session()
        session.run("cd /tmp", check=True)
        running = client.submit(session.run, "pwd; read -r line; echo got $line")
        while True:
            try:
                session.send("hello\n")
                break
            except FailedPrecondition:  # It does not run yet.
                assert not running.done()
        assert running.result().stdout == "/tmp\ngot hello\n"
        session.close()
        process = trajectory.start("echo up; sleep 1000")
        assert process.running
        assert next(iter(process.follow())).text == "up\n"
        assert process.logs().end == len("up\n")
        assert process.stop().exit_code == -15
        assert process.wait(1).running is False
