"""Connections, clients and servers that die: results still arrive, and nothing is left behind.

Each server that is killed here is a test's own. Bad requests are `test_bad_input`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from tangram import AsyncClient, errors
from tests.e2e.conftest import SETTINGS, Serve
from tests.e2e.marks import running
from tests.e2e.servers import ServerProcess
from tests.waiting import until

SOON_S = 20.0


class Proxy:
    """Between a client and a server; it can drop every connection at once."""

    def __init__(self, server: str) -> None:
        self._host, _, self._port = server.rpartition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ahead, back = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(_copy(reader, back), _copy(ahead, writer))
        finally:
            for end in (writer, back):
                self._writers.discard(end)
                end.close()

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass  # Dropped on purpose: the other direction learns it from its own end.
    finally:
        sink.close()


@asynccontextmanager
async def proxy_to(server: str) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(server)
    listening = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy, f"127.0.0.1:{port}"
    finally:
        listening.close()
        proxy.drop()


# Connections


async def test_a_client_whose_connection_drops_gets_its_results(
    shared_server: ServerProcess, mark: str
) -> None:
    async with (
        proxy_to(shared_server.address) as (proxy, address),
        AsyncClient(address, task=f"dropped-{mark}") as client,
        client.trajectory(memory="64Mi") as trajectory,
    ):
        wait = (
            f"echo begun; until test -e go; do sleep 0.0{mark}; done; echo ended >> ends; cat ends"
        )
        seen: list[bytes] = []
        run = asyncio.ensure_future(
            trajectory.exec(wait, on_output=lambda _, data: seen.append(data))
        )
        plain = asyncio.ensure_future(trajectory.exec("echo second"))
        await until(lambda: seen)
        before = proxy.connections
        proxy.drop()
        await trajectory.write_file("go", "")
        result = await run
        assert result.stdout == "begun\nended\n"
        assert b"".join(seen) == b"begun\nended\n"
        assert (await plain).stdout == "second\n"
        assert proxy.connections > before


async def test_a_dropped_connection_in_the_middle_of_a_file_loses_none_of_it(
    shared_server: ServerProcess, mark: str
) -> None:
    content = os.urandom(1 << 20) * 24
    async with (
        proxy_to(shared_server.address) as (proxy, address),
        AsyncClient(address, task=f"files-{mark}") as client,
        client.trajectory() as trajectory,
    ):
        for call in (trajectory.write_file("file", content), trajectory.read_file("file")):
            task = asyncio.ensure_future(call)
            await asyncio.wait({task}, timeout=0.02)
            proxy.drop()
            answer = await task
        assert answer == content


async def test_five_hundred_actions_in_flight_all_finish(
    client: AsyncClient, image: str | None
) -> None:
    trajectories = [client.trajectory(image, memory="64Mi", concurrency=256) for _ in range(4)]
    for trajectory in trajectories:
        await trajectory.open()
    try:
        results = await asyncio.gather(
            *(trajectories[n % 4].exec(["echo", str(n)], timeout=30) for n in range(500))
        )
    finally:
        for trajectory in trajectories:
            await trajectory.close()
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(500)]
    assert all(result.ok for result in results)
    cores = (await client.status()).nodes[0].cores
    assert (cores.granted, cores.free) == (0, cores.total)


# Clients


CLIENT = """
import sys
from tangram import Client
client = Client(sys.argv[1], task=sys.argv[2], lease=1.0)
trajectory = client.trajectory(memory="64Mi")
trajectory.exec(f"sleep {sys.argv[3]} & echo started")
print("ready", flush=True)
trajectory.exec(["sleep", sys.argv[3]], timeout=600)
"""


async def test_a_killed_clients_trajectories_are_reaped_after_its_lease(
    serve: Serve, mark: str
) -> None:
    server = await asyncio.to_thread(lambda: serve({"lease": 1.0, "detach_grace": 1.0}))
    arguments = [sys.executable, "-c", CLIENT, server.address, f"task-{mark}", mark]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

        def both_run() -> bool:
            return sum("python" not in " ".join(_words(pid)) for pid in running(mark)) >= 2

        await until(both_run)
        async with AsyncClient(server.address, task="other") as other, other.trajectory() as own:
            process.kill()
            await process.wait()
            await until(lambda: not running(mark), within_s=SOON_S)
            assert (await own.exec("echo served")).stdout == "served\n"

            async def is_reaped() -> bool:
                tasks = {task.name: task.trajectories for task in (await other.status()).tasks}
                return not tasks[f"task-{mark}"]

            await until(is_reaped, within_s=SOON_S)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _words(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []


async def test_a_task_that_keeps_its_lease_keeps_its_sandboxes(serve: Serve) -> None:
    server = await asyncio.to_thread(lambda: serve({"lease": 1.0}))
    async with (
        AsyncClient(server.address, task="kept", lease=1.0) as client,
        client.trajectory() as trajectory,
    ):
        await trajectory.exec("echo kept > file")
        # Three leases long, in which only the renewals tell that the client lives.
        assert (await trajectory.exec("sleep 3; cat file")).stdout == "kept\n"


async def test_a_cancelled_action_ends_as_cancelled_and_its_processes_die(
    client: AsyncClient, image: str | None, mark: str
) -> None:
    async with client.trajectory(image, group=f"group-{mark}") as trajectory:
        run = asyncio.ensure_future(trajectory.exec(f"sleep {mark} & sleep {mark}"))
        await until(lambda: len(running(mark)) >= 2)
        cancelled = await client.cancel(group=f"group-{mark}", reason="no longer needed")
        with pytest.raises(errors.Cancelled, match="no longer needed") as caught:
            await run
        assert cancelled == [caught.value.action_id]
        await until(lambda: not running(mark))
        assert (await trajectory.exec("echo served")).stdout == "served\n"


# Servers


async def test_a_server_that_is_told_to_stop_leaves_nothing(
    serve: Serve, docker_or_none: str | None, mark: str
) -> None:
    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.address) as client:
        runs = []
        for image in {None, docker_or_none}:
            trajectory = client.trajectory(image)
            await trajectory.open()
            runs.append(asyncio.ensure_future(trajectory.exec(f"sleep {mark} & sleep {mark}")))
        await until(lambda: len(running(mark)) >= 2 * len(runs))
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        assert running(mark) == []
        assert server.leftovers() == []
        assert f"tangram-{server.port}" not in os.listdir("/run")
        for run in runs:
            run.cancel()
        ended = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(end, (errors.TangramError, asyncio.CancelledError)) for end in ended)
    assert "Traceback" not in server.messages()


@pytest.fixture(params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)])
def docker_or_none(request: pytest.FixtureRequest) -> str | None:
    """The test image where Docker takes part beside bubblewrap."""
    if request.param == "bubblewrap":
        return None
    name: str = request.getfixturevalue("docker_image")
    return name


async def test_sandboxes_of_a_killed_server_end_by_themselves(
    serve: Serve, docker_or_none: str | None, mark: str
) -> None:
    server = await asyncio.to_thread(lambda: serve({"orphan_after": 1.0}))
    await _start_and_kill(server, docker_or_none, mark)
    await until(lambda: not running(mark), within_s=SOON_S)
    await until(lambda: not server.processes(), within_s=SOON_S)
    await _reap(serve, server)


async def test_the_next_server_reaps_what_a_killed_one_left(
    serve: Serve, docker_or_none: str | None, mark: str
) -> None:
    server = await asyncio.to_thread(lambda: serve({"orphan_after": 300.0}))
    await _start_and_kill(server, docker_or_none, mark)
    assert len(running(mark)) >= 2
    await _reap(serve, server)
    assert running(mark) == []


async def _start_and_kill(server: ServerProcess, image: str | None, mark: str) -> None:
    """Leave a running command and a daemon in each launcher's sandbox."""
    async with AsyncClient(server.address) as client:
        images = {None, image}
        runs = [
            asyncio.ensure_future(client.trajectory(name).exec(f"sleep {mark} & sleep {mark}"))
            for name in images
        ]
        await until(lambda: len(running(mark)) >= 2 * len(images))
        server.signal(signal.SIGKILL)
        await asyncio.to_thread(server.wait)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


async def _reap(serve: Serve, dead: ServerProcess) -> None:
    """Start the next life of a server, which finds and removes what is left of the last one."""
    settings = {"listen": dead.address, "orphan_after": SETTINGS["orphan_after"]}
    next_life = await asyncio.to_thread(lambda: serve(settings, folder=dead.state.parent))
    assert next_life.address == dead.address
    assert next_life.leftovers() == []
    async with AsyncClient(next_life.address) as client, client.trajectory() as trajectory:
        assert (await trajectory.exec("echo served")).stdout == "served\n"
