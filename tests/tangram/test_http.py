"""The HTTP endpoints over loopback, and how a server starts, refuses to start, and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from tangram.config import ServerConfig
from tangram.errors import FailedPrecondition, Unsupported
from tangram.managers import errors as manager_errors
from tangram.managers.fake import FakeManager
from tangram.server import app, folders
from tangram.server.app import Server
from tangram.server.http import HttpServer
from tangram.server.metrics import Metrics
from tangram.server.records import PoolStatus

EMPTY_POOL = PoolStatus((), (), (), (), 0.0, ())


async def get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{address}{path}") as answer,
    ):
        return answer.status, await answer.text()


@pytest.fixture
async def reason() -> AsyncIterator[list[str]]:
    yield [""]


@pytest.fixture
async def address(reason: list[str]) -> AsyncIterator[str]:
    http = HttpServer(Metrics(lambda: EMPTY_POOL), lambda: reason[0])
    port = await http.start("127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    await http.aclose()
    await http.aclose()


async def test_readiness_follows_the_reason_while_health_does_not(
    address: str, reason: list[str]
) -> None:
    assert await get(address, "/readyz") == (200, "ready\n")
    reason[0] = "draining"
    assert await get(address, "/readyz") == (503, "draining\n")
    assert await get(address, "/healthz") == (200, "ok\n")


async def test_other_paths_name_those_that_are_there(address: str) -> None:
    status, text = await get(address, "/favicon.ico")
    assert status == 404 and "/metrics, /healthz, /readyz" in text
    assert (await get(address, "/metrics", "POST"))[0] == 405


async def test_the_metrics_of_a_server_count_its_actions(wire: Any) -> None:
    await wire.open()
    await wire.run(wire.exec("true"))
    status, text = await get(wire.server.http_address, "/metrics")
    assert status == 200
    assert 'tangram_actions_total{kind="exec",outcome="finished",task="default"} 1.0' in text
    assert 'tangram_units{node="node0",resource="cores",state="free"} 2.0' in text


# Starting and stopping


def config(tmp_path: Path, **settings: Any) -> ServerConfig:
    places = {"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "state": tmp_path / "state"}
    return ServerConfig.model_validate({**places, **settings})


async def test_a_second_server_on_the_same_port_is_told_so(server: Server, tmp_path: Path) -> None:
    port = server.grpc_address.rpartition(":")[2]
    second = Server(
        config(tmp_path, listen=server.grpc_address, state=tmp_path / "other"),
        managers=[FakeManager()],
    )
    with pytest.raises(FailedPrecondition, match=rf"port {port} is in use.*--listen"):
        await second.start()
    second = Server(
        config(tmp_path, http=server.http_address, state=tmp_path / "other"),
        managers=[FakeManager()],
    )
    with pytest.raises(FailedPrecondition, match=r"is in use.*--http"):
        await second.start()


async def test_a_second_server_on_the_same_state_is_told_who_has_it(
    server: Server, tmp_path: Path
) -> None:
    second = Server(config(tmp_path), managers=[FakeManager()])
    with pytest.raises(FailedPrecondition, match=rf"in use by .* \(pid {os.getpid()}\)"):
        await second.start()


async def test_a_state_folder_is_free_again_after_close(tmp_path: Path) -> None:
    for _ in range(2):
        server = Server(config(tmp_path), managers=[FakeManager()])
        await server.start()
        await server.aclose()


async def test_state_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, no folder")
    with pytest.raises(FailedPrecondition, match=r"cannot be written.*--state"):
        await Server(config(tmp_path), managers=[FakeManager()]).start()


async def test_a_full_disk_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_probe", full)
    with pytest.raises(FailedPrecondition, match="No space left on device; make room"):
        await Server(config(tmp_path), managers=[FakeManager()]).start()


async def test_a_manager_that_cannot_open_stops_the_start_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(node: Any) -> Any:
        raise manager_errors.Unsupported("no Docker engine answers", cure="install docker.io")

    monkeypatch.setattr(app, "open_cpu_manager", refuse)
    server = Server(config(tmp_path, launcher="docker"))
    with pytest.raises(Unsupported, match=r"install docker.io"):
        await server.start()
    monkeypatch.undo()
    again = Server(config(tmp_path), managers=[FakeManager()])
    await again.start()
    await again.aclose()


async def test_a_temporary_state_goes_with_its_server(tmp_path: Path) -> None:
    state = folders.StateFolder.hold(None, 0, temporary=True)
    assert state.path.is_dir()
    state.release()
    state.release()
    assert not state.path.exists()


def test_the_runtime_folder_is_short_private_and_never_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "tangram-1").symlink_to(tmp_path / "foreign")
    monkeypatch.setattr(folders, "RUN", tmp_path / "nothing")
    monkeypatch.setattr(folders, "RUNTIME_PATH_BYTES_MAX", 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert folders.runtime_folder(1).parent != tmp_path
    own = folders.runtime_folder(2)
    assert own == tmp_path / "tangram-2"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


async def test_a_closing_server_is_not_ready_and_wait_closed_returns(tmp_path: Path) -> None:
    fake = FakeManager()
    server = Server(config(tmp_path), managers=[fake])
    await server.start()
    held = fake.faults.hold("close")
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        open_trajectory: Any = channel.unary_unary("/tangram.v1.Trajectories/Open")
        await open_trajectory(b"\x0a\x03\x0a\x01t")
        await server.dispatcher.wait_ready("t", 10.0)
        closed = asyncio.create_task(server.wait_closed())
        closing = asyncio.create_task(server.aclose())
        async with asyncio.timeout(10):
            while (await get(server.http_address, "/readyz"))[0] != 503:
                pass
        assert not closed.done()
        held.set()
        await closing
    await closed


SERVE = """
import sys
from tangram.config import ServerConfig
from tangram.managers import config
from tangram.managers.fake import FakeManager
from tangram.server import app

async def fake(node):
    print("runtime", node.runtime, file=sys.stderr)
    return FakeManager()

app.open_cpu_manager = fake
sys.exit(app.run(ServerConfig(listen="127.0.0.1:0", http="127.0.0.1:0")))
"""


async def test_serve_says_first_where_it_serves_and_stops_at_a_signal() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("tangram ready grpc=127.0.0.1:")
    grpc_part, http_part = line.split()[2:]
    assert (await get(http_part.removeprefix("http="), "/readyz"))[0] == 200
    assert grpc_part.removeprefix("grpc=") != http_part.removeprefix("http=")
    process.send_signal(signal.SIGTERM)
    _, complaints = await process.communicate()
    assert (process.returncode, b"Traceback" in complaints) == (0, False)
    runtime = complaints.decode().split()[1]
    assert "tangram-" in runtime and not await asyncio.to_thread(Path(runtime).exists)


async def test_an_address_that_is_open_to_the_network_is_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app.warn_if_open(ServerConfig(listen="0.0.0.0:7070"))
    assert "0.0.0.0:7070 is open to the network" in capsys.readouterr().err
    app.warn_if_open(ServerConfig(listen="localhost:7070", http="[::1]:7071"))
    assert capsys.readouterr().err == ""
