"""One real server for all end-to-end tests, and a neighbour that nothing may harm."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tangram import AsyncClient, Client
from tangram.client import Trajectory
from tests.e2e.marks import new_mark
from tests.e2e.servers import ServerProcess
from tests.e2e.wire import Wire

SETTINGS: Mapping[str, Any] = {
    "quotas": {"search": {"concurrency": 2}},
    "sandbox": {"memory": "256Mi", "disk": "256Mi", "pids": 64},
    "orphan_after": 5.0,
    "pulls": {"policy": "never"},  # no test asks a registry beyond this machine
}
SECRET = "a secret of the server's environment"
NEIGHBOUR_ALIVE = 'kill -0 "$(cat pid)" && cat note'
_NUMBERS = itertools.count(1)

Serve = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Bubblewrap for trajectories without an image, Docker for those with one."""
    server = ServerProcess(
        tmp_path_factory.mktemp("server"), SETTINGS, {"TANGRAM_TEST_SECRET": SECRET}
    )
    try:
        yield server
        assert server.alive, server.messages()
    finally:
        server.stop()
    assert "Traceback" not in server.messages(), server.messages()
    assert server.leftovers() == []


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers of a test's own: `serve(settings, folder=..., environment=...)`."""
    started: list[ServerProcess] = []

    def start(
        settings: Mapping[str, Any] | None = None,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        own = folder or tmp_path / f"server-{len(started)}"
        started.append(ServerProcess(own, {**SETTINGS, **(settings or {})}, environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()
    # Not one by one: the next life of a server has its address, and sandboxes that stand ready.
    assert [left for server in started for left in server.leftovers()] == []


@pytest.fixture
async def client(shared_server: ServerProcess) -> AsyncIterator[AsyncClient]:
    """A client with a task of its own."""
    async with AsyncClient(
        shared_server.address, task=f"test-{os.getpid()}-{next(_NUMBERS)}"
    ) as client:
        yield client


@pytest.fixture
async def wire(shared_server: ServerProcess) -> AsyncIterator[Wire]:
    """The same server without the SDK, for what the SDK would refuse to send."""
    async with Wire(shared_server.address) as wire:
        yield wire


@pytest.fixture(
    params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)], ids=lambda name: name
)
def image(request: pytest.FixtureRequest) -> str | None:
    """None, for bubblewrap, or the test image, for Docker."""
    if request.param == "bubblewrap":
        return None
    name: str = request.getfixturevalue("docker_image")
    return name


@pytest.fixture(scope="session")
def _neighbour(shared_server: ServerProcess) -> Iterator[Trajectory]:
    client = Client(shared_server.address, task="neighbour")
    with client.trajectory(memory="64Mi") as trajectory:
        trajectory.write_file("note", "untouched")
        trajectory.exec("sleep 100000 & echo $! > pid", check=True)
        yield trajectory
    client.close()


@pytest.fixture
def neighbour(_neighbour: Trajectory) -> Iterator[Trajectory]:
    """Somebody else's trajectory, with a file and a process, which must be as before afterwards."""
    yield _neighbour
    assert _neighbour.exec(NEIGHBOUR_ALIVE, check=True).stdout == "untouched"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Where unix sockets fit."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        yield Path(folder)


@pytest.fixture
def mark() -> str:
    """A number of seconds to sleep that tells this test's processes from all others."""
    return new_mark()
