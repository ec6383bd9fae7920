"""What every host of images promises, over the fake and over Docker with a real registry."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tangram.managers.base import ImageHost, ImageInfo, SandboxHost, SandboxInfo, SandboxSpec
from tangram.managers.config import NodeConfig, RegistryConfig, WarmConfig
from tangram.managers.errors import UnknownImage
from tangram.managers.fake import FakeManager
from tangram.managers.fake.images import digest_of
from tangram.managers.opening import open_cpu_manager
from tests.image import build
from tests.managers.registry.front import Front
from tests.managers.registry.process import PASSWORD, USERNAME, Registry
from tests.waiting import until

KINDS = ["fake", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.registry])]
_NUMBERS = count(1)


@dataclass
class Far:
    """A registry: the fake node's own, or a real one."""

    host: str
    fake: FakeManager | None = None
    registry: Registry | None = None
    front: Front | None = None
    names: list[str] = field(default_factory=list)

    def push(self, name: str) -> str:
        """Another image under this name; its digest."""
        if self.registry is not None:
            return self.registry.push_copy(build.BARE, name, change=f"LABEL n={next(_NUMBERS)}")
        assert self.fake is not None
        digest = digest_of(f"{name} {next(_NUMBERS)}")
        self.fake.store.registry[f"{self.host}/{name}"] = digest
        return digest

    def hold(self) -> asyncio.Event:
        """Pulls come to a stop until the returned event is set."""
        if self.front is not None:
            return self.front.hold("blobs")
        assert self.fake is not None
        return self.fake.faults.hold("pull")


@dataclass
class Bench:
    manager: SandboxHost
    images: ImageHost
    far: Far

    async def open(self, image: str, trajectory: str = "t", **spec: str) -> SandboxInfo:
        wanted = SandboxSpec(trajectory, image=image, **spec)  # type: ignore[arg-type]
        filled = await self.manager.check_open(wanted)
        return await self.manager.open(filled, 1, lambda message: None)

    async def find(self, name: str) -> ImageInfo | None:
        return next((i for i in await self.images.images() if i.name == name), None)


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "fake":
        fake = FakeManager(images=frozenset())
        yield Bench(fake, fake, Far("registry.test", fake))
        await fake.aclose()
        return
    request.getfixturevalue("docker_bare_image")
    registry = await asyncio.to_thread(Registry, tmp_path)
    front = Front(registry.host)
    await front.start()
    registry.serves_also(front.host)
    (tmp_path / "password").write_text(PASSWORD)
    account = RegistryConfig(username=USERNAME, password_file=tmp_path / "password")
    folder = Path(tempfile.mkdtemp(prefix="tangram-", dir="/tmp"))
    config = NodeConfig(
        launcher="docker",
        instance=f"images-{os.getpid()}",
        warm=WarmConfig(max=0),
        state=folder / "state",
        runtime=folder / "run",
        registries={front.host: account},
    )
    manager = await open_cpu_manager(config)
    yield Bench(manager, manager, Far(front.host, registry=registry, front=front))
    await manager.aclose()
    await front.aclose()
    await asyncio.to_thread(registry.stop)
    shutil.rmtree(folder)


async def test_a_task_means_one_digest_by_a_tag(bench: Bench) -> None:
    image = f"{bench.far.host}/swe:v1"
    first = bench.far.push("swe:v1")
    assert (await bench.open(image, "a", task="one")).image_digest == first
    second = bench.far.push("swe:v1")
    assert (await bench.open(image, "b", task="one", pull="always")).image_digest == first
    assert (await bench.open(image, "c", task="two", pull="always")).image_digest == second


async def test_what_cannot_be_had_is_refused_before_anything_is_queued(bench: Bench) -> None:
    bench.far.push("swe:v2")
    with pytest.raises(UnknownImage):
        await bench.open(f"{bench.far.host}/swe:none")
    with pytest.raises(UnknownImage):
        await bench.open(f"{bench.far.host}/swe:v2", pull="never")


async def test_a_start_that_waits_for_its_image_says_so_until_it_is_there(bench: Bench) -> None:
    image = f"{bench.far.host}/swe:v3"
    digest = bench.far.push("swe:v3")
    go_on = bench.far.hold()
    opening = [asyncio.create_task(bench.open(image, name)) for name in ("a", "b")]
    for name in ("a", "b"):
        preparing = await until(partial(bench.manager.preparing, name))
        assert preparing.reason == "image-pull"
        assert image in preparing.sentence
    coming = await bench.find(image)
    assert coming is not None
    assert coming.state == "pulling"
    go_on.set()
    assert [info.image_digest for info in await asyncio.gather(*opening)] == [digest] * 2
    assert bench.manager.preparing("a") is None
    there = await bench.find(image)
    assert there is not None
    assert (there.state, there.in_use, there.pulled, there.digest) == ("present", 2, True, digest)
    await bench.manager.close("a")
    await bench.manager.close("b")
    left = await bench.find(image)
    assert left is not None
    assert left.in_use == 0


async def test_closing_ends_the_pull_that_nobody_else_wants(bench: Bench) -> None:
    image = f"{bench.far.host}/swe:v4"
    bench.far.push("swe:v4")
    go_on = bench.far.hold()
    opening = asyncio.create_task(bench.open(image, "a"))
    await until(lambda: bench.manager.preparing("a"))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await bench.find(image) is None
    go_on.set()


async def test_what_is_brought_ahead_is_kept_until_it_is_used(bench: Bench) -> None:
    image, missing = f"{bench.far.host}/swe:v5", f"{bench.far.host}/swe:none"
    bench.far.push("swe:v5")
    told = await bench.images.prefetch("default", [image, missing, image])
    assert [info.name for info in told] == [image, missing]

    async def settled() -> dict[str, ImageInfo] | None:
        found = {info.name: info for info in await bench.images.images()}
        states = {name: found[name].state if name in found else "" for name in (image, missing)}
        done = states == {image: "present", missing: "failed"} and found[image].pinned
        return found if done else None

    found = await until(settled)
    assert found[missing].message
    await bench.open(image)
    used = await bench.find(image)
    assert used is not None
    assert (used.in_use, used.pinned) == (1, False)
