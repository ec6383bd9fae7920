"""Sandboxes that stand ready, in a real server: who finds one waits for none, whatever happens to the
server nothing of them is left, and an image that does not start says so wherever one looks.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tangram import AsyncClient, errors
from tangram.client import WarmStatus
from tests.e2e.conftest import SETTINGS, Serve
from tests.e2e.servers import ServerProcess
from tests.waiting import until

SOON_S = 30.0
NEAR_ZERO = 0.3
"""Of what a start takes, for the quickest of three hand-overs: a busy machine slows any of them."""


async def _status(client: AsyncClient, image: str | None) -> WarmStatus | None:
    found = (w for node in (await client.status()).nodes for w in node.warm)
    return next((w for w in found if w.image == (image or "")), None)


async def _until_ready(client: AsyncClient, image: str | None) -> WarmStatus:
    async def ready() -> WarmStatus | None:
        status = await _status(client, image)
        return status if status and status.ready and not status.starting else None

    found = await until(ready, within_s=SOON_S)
    assert isinstance(found, WarmStatus)
    return found


async def test_the_first_action_of_a_trajectory_pays_no_start_when_a_sandbox_stands_ready(
    serve: Serve, image: str | None
) -> None:
    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.address) as client:
        async with client.trajectory(image) as first:
            started = (await first.exec("echo started > file; cat file")).timing.prepare
        prepared = []
        for n in range(1, 4):
            before = await _until_ready(client, image)
            async with client.trajectory(image, env={"N": str(n)}, workdir="/tmp") as trajectory:
                result = await trajectory.exec('pwd; echo "$N"; ls /workspace')
                assert result.stdout == f"/tmp\n{n}\n"
                prepared.append(result.timing.prepare)
            after = await _status(client, image)
            assert after is not None
            assert (before.hits, after.hits, after.misses) == (n - 1, n, 1)
        assert min(prepared) < NEAR_ZERO * started


async def test_warm_sandboxes_can_be_switched_off(serve: Serve) -> None:
    server = await asyncio.to_thread(lambda: serve({"warm": {"max": 0}}))
    async with AsyncClient(server.address) as client:
        for _ in range(2):
            async with client.trajectory() as trajectory:
                await trajectory.exec("true")
        status = await _status(client, None)
        assert status is not None
        assert (status.hits, status.misses, status.ready, status.wanted) == (0, 2, 0, 0)
    assert server.leftovers() == []


async def test_the_metrics_tell_hits_and_sizes(serve: Serve) -> None:
    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.address) as client:
        async with client.trajectory() as trajectory:
            await trajectory.exec("true")
        await _until_ready(client, None)
        reader, writer = await asyncio.open_connection(*server.http.split(":"))
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
    where = 'image="",launcher="bubblewrap",node="node0"'
    assert f'tangram_warm_sandboxes{{{where},state="ready"}} 1.0' in text
    assert f'tangram_warm_opens_total{{{where},result="miss"}} 1.0' in text


# Ends


async def test_what_stands_ready_ends_with_a_server_that_is_told_to_stop(
    serve: Serve, image: str | None
) -> None:
    server = await asyncio.to_thread(serve)
    await _leave_one_ready(server, image)
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait) == 0
    assert server.leftovers() == []


async def test_what_stands_ready_ends_by_itself_when_its_server_is_killed(
    serve: Serve, image: str | None
) -> None:
    server = await asyncio.to_thread(lambda: serve({"orphan_after": 1.0}))
    await _leave_one_ready(server, image)
    await _kill(server)
    assert server.processes()
    await until(lambda: not server.processes(), within_s=SOON_S)
    await _next_life(serve, server)


async def test_the_next_server_reaps_what_stood_ready(serve: Serve, image: str | None) -> None:
    server = await asyncio.to_thread(lambda: serve({"orphan_after": 300.0}))
    await _leave_one_ready(server, image)
    await _kill(server)
    assert server.processes()
    await _next_life(serve, server)


async def _leave_one_ready(server: ServerProcess, image: str | None) -> None:
    async with AsyncClient(server.address) as client:
        async with client.trajectory(image) as trajectory:
            await trajectory.exec("true")
        await _until_ready(client, image)


async def _kill(server: ServerProcess) -> None:
    server.signal(signal.SIGKILL)
    await asyncio.to_thread(server.wait)


async def _next_life(serve: Serve, dead: ServerProcess) -> None:
    settings = {"listen": dead.address, "orphan_after": SETTINGS["orphan_after"]}
    next_life = await asyncio.to_thread(lambda: serve(settings, folder=dead.state.parent))
    assert next_life.leftovers() == []


# An image that does not start


@pytest.fixture
def broken_image(tmp_path: Path) -> Path:
    """A root file system with a file where a folder is needed."""
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "tmp").write_text("not a folder")
    tmp_path.chmod(0o711)
    return folder


@pytest.mark.root
async def test_an_image_that_does_not_start_says_so_backs_off_and_works_when_it_is_mended(
    serve: Serve, broken_image: Path
) -> None:
    server = await asyncio.to_thread(lambda: serve({"images": {"mine": str(broken_image)}}))
    async with AsyncClient(server.address) as client:
        trajectory = client.trajectory("mine")
        waiting = asyncio.ensure_future(trajectory.exec("true", id="waiting"))

        async def explained() -> bool:
            try:
                sentence = (await client.explain("waiting")).sentence
            except errors.NotFound:
                return False
            return "tried again in" in sentence and "/tmp" in sentence

        await until(explained, within_s=SOON_S)
        with pytest.raises(errors.SandboxFailed, match="/tmp"):
            await waiting
        status = await _status(client, "mine")
        assert status is not None
        assert "times in a row" in status.problem
        assert (status.ready, status.hits) == (0, 0)
        with pytest.raises(
            errors.SandboxFailed, match="image 'mine': starting it failed"
        ) as raised:
            await client.trajectory("mine").open()
        assert raised.value.retry_after is not None
        assert 0 < raised.value.retry_after <= status.retry + 0.1
        # Others are unharmed.
        async with client.trajectory() as other:
            assert (await other.exec("echo well")).stdout == "well\n"

        (broken_image / "tmp").unlink()

        async def opens() -> bool:
            try:
                async with client.trajectory("mine") as mended:
                    await mended.wait_ready()
                    return True
            except errors.SandboxFailed:
                return False

        await until(opens, within_s=60.0)
        mended = await _status(client, "mine")
        assert mended is not None
        assert mended.problem == ""
