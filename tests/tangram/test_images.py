"""Images at the server, the SDK and the trace: over the fake node, whose pulls a test lets through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tangram import AsyncClient
from tangram.config import ServerConfig
from tangram.errors import InvalidRequest, NotFound
from tangram.limits import PREFETCH_IMAGES_MAX
from tangram.managers.errors import PermanentError
from tangram.managers.fake import FakeManager
from tangram.managers.fake.images import digest_of
from tangram.server.app import Server
from tests.waiting import until

FAR = "registry.test/swe:django"


@pytest.fixture
def fake() -> FakeManager:
    return FakeManager(cores=4, images=frozenset({"python"}), registry={FAR: digest_of("one")})


@pytest.fixture
async def server(fake: FakeManager, tmp_path: Path) -> AsyncIterator[Server]:
    config = ServerConfig(
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        state=tmp_path / "state",
        record=tmp_path / "trace.jsonl",
    )
    server = Server(config, managers=[fake])
    await server.start()
    yield server
    await server.aclose()
    assert fake.violations == []


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc_address, task="coding") as client:
        yield client


async def test_an_action_whose_image_is_pulled_says_so_and_how_far(
    client: AsyncClient, fake: FakeManager
) -> None:
    go_on = fake.faults.hold("pull")
    async with client.trajectory(FAR, id="t") as trajectory:
        running = asyncio.create_task(trajectory.exec("true", id="a"))
        await until(lambda: fake.preparing("t"))
        await until(client.list)
        explained = await client.explain("a")
        assert explained.spans[-1].part == "prepare"
        assert explained.spans[-1].reason == "image-pull"
        assert f"{FAR} is being pulled" in explained.sentence
        assert (await client.get("a")).wait_reason == "image-pull"
        assert (await trajectory.open()).preparing == f"image-pull: {FAR} is being pulled"
        [image] = [i for i in await client.images() if i.name == FAR]
        assert (image.state, image.fraction, image.node) == ("pulling", 0.5, "node0")
        go_on.set()
        result = await running
        assert result.ok
        assert (await trajectory.wait_ready()).image_digest == digest_of("one")


async def test_a_tag_that_moves_stays_the_same_within_a_task(
    client: AsyncClient, server: Server, fake: FakeManager
) -> None:
    async with client.trajectory(FAR) as first:
        before = (await first.wait_ready()).image_digest
    fake.store.registry[FAR] = digest_of("two")
    async with client.trajectory(FAR, pull="always") as second:
        assert (await second.wait_ready()).image_digest == before == digest_of("one")
    async with (
        AsyncClient(server.grpc_address, task="next") as other,
        other.trajectory(FAR, pull="always") as third,
    ):
        assert (await third.wait_ready()).image_digest == digest_of("two")


async def test_an_image_that_may_not_be_pulled_is_refused_at_open(client: AsyncClient) -> None:
    with pytest.raises(NotFound) as refused:
        await client.trajectory(FAR, pull="never").open()
    assert refused.value.field == "image"


async def test_images_are_brought_ahead_and_kept_until_they_are_used(
    client: AsyncClient, fake: FakeManager
) -> None:
    go_on = fake.faults.hold("pull")
    told = await client.prefetch([FAR, "python", "registry.test/none", FAR])
    assert [(i.name, i.state) for i in told] == [
        (FAR, "queued"),
        ("python", "present"),
        ("registry.test/none", "queued"),
    ]
    go_on.set()
    await until(lambda: fake.store.pulls[FAR] and not fake.store._live)
    images = {image.name: image for image in await client.images()}
    assert images[FAR].state == "present"
    assert images[FAR].pinned
    assert images["registry.test/none"].state == "failed"
    assert "no image" in images["registry.test/none"].message
    async with client.trajectory(FAR) as trajectory:
        await trajectory.wait_ready()
        [image] = [i for i in await client.images() if i.name == FAR]
        assert (image.in_use, image.pinned) == (1, False)
    assert fake.store.pulls[FAR] == 1


async def test_a_pull_that_fails_for_good_loses_the_trajectory_with_the_reason(
    client: AsyncClient, fake: FakeManager
) -> None:
    fake.faults.fail("pull", PermanentError("image x could not be had in 8 tries: HTTP 429"))
    async with client.trajectory(FAR) as trajectory:
        with pytest.raises(Exception, match="8 tries: HTTP 429") as failed:
            await trajectory.exec("true")
        assert getattr(failed.value, "infra", None) is True


async def test_closing_a_trajectory_ends_the_pull_that_only_it_waits_for(
    client: AsyncClient, fake: FakeManager
) -> None:
    fake.faults.hold("pull")
    trajectory = client.trajectory(FAR, id="t")
    await trajectory.open()
    await until(lambda: fake.preparing("t"))
    await trajectory.close()
    assert not fake.store._live


async def test_what_cannot_be_fetched_ahead_is_named(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.prefetch(["python", "not an image"])
    assert refused.value.field == "images[1]"
    with pytest.raises(InvalidRequest) as refused:
        await client.prefetch([""])
    assert refused.value.field == "images[0]"
    with pytest.raises(InvalidRequest):
        await client.prefetch("python")
    with pytest.raises(InvalidRequest, match=str(PREFETCH_IMAGES_MAX)):
        await client.prefetch(["python"] * (PREFETCH_IMAGES_MAX + 1))


async def test_a_trace_names_what_ran(
    client: AsyncClient, server: Server, fake: FakeManager, tmp_path: Path
) -> None:
    async with client.trajectory(FAR) as trajectory:
        await trajectory.exec("true")
    recorder = server.dispatcher.recorder
    assert recorder is not None
    await until(lambda: recorder.written)
    [line] = (tmp_path / "trace.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == FAR
    assert json.loads(line)["image_digest"] == digest_of("one")
