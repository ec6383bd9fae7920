"""Images from a real registry with a password, and from one that throttles, fails and hangs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tangram.managers.base import ImageInfo, SandboxSpec
from tangram.managers.config import PullConfig, RegistryConfig
from tangram.managers.cpu.images.engine import RegistryRequests
from tangram.managers.cpu.images.eviction import DiskUse
from tangram.managers.cpu.images.refusals import THROTTLED_DELAY_S
from tangram.managers.cpu.images.retrying import TRIES_MAX
from tangram.managers.cpu.images.store import SETTLE_S, ImageStore
from tangram.managers.cpu.sandbox.docker_client import DockerEngine
from tangram.managers.errors import PermanentError, UnknownImage
from tests.managers.registry.front import Front
from tests.managers.registry.process import PASSWORD, USERNAME, Registry, docker
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.registry]

MIB = 1 << 20
LARGE_BYTES = 16 * MIB
"""More than the buffers of a connection hold, so that a pull that ends is felt at the registry."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.stop()


@pytest.fixture
async def front(registry: Registry) -> AsyncIterator[Front]:
    front = Front(registry.host)
    await front.start()
    registry.serves_also(front.host)
    yield front
    await front.aclose()


@dataclass
class Bench:
    """A store, and what a test does with it. Pauses are noted and not made."""

    store: ImageStore
    engine: DockerEngine
    state: Path
    pauses: list[float] = field(default_factory=list)
    now: list[float] = field(default_factory=lambda: [1e9])
    """The wall clock of the store."""

    async def start(self, image: str, trajectory: str = "t", **spec: str) -> str:
        """The digest with which a sandbox of this image would start."""
        wanted = SandboxSpec(trajectory, image=image, **spec)  # type: ignore[arg-type]
        await self.store.check(wanted)
        async with self.store.prepared(wanted):
            facts = await self.store.facts(wanted)
            assert facts.id
        return self.store.digest(trajectory)

    async def use(self, image: str, trajectory: str = "t", **spec: str) -> str:
        """The same, to its end."""
        digest = await self.start(image, trajectory, **spec)
        self.store.leave(trajectory)
        self.now[0] += SETTLE_S
        return digest

    async def find(self, name: str) -> ImageInfo | None:
        return next((i for i in await self.store.images() if i.name == name), None)

    async def here(self, names: Sequence[str]) -> list[str]:
        listed = {info.name for info in await self.store.images() if info.state == "present"}
        return [name for name in names if name in listed]


MakeBench = Callable[..., Bench]


@pytest.fixture
async def make_bench(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeBench]:
    benches: list[Bench] = []
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    # Whoever runs the tests may be logged in somewhere.
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nobody"))

    def make(*hosts: str, **options: Any) -> Bench:
        account = RegistryConfig(username=USERNAME, password_file=tmp_path / "password")
        engine, pauses, now = DockerEngine(), list[float](), [1e9 + len(benches) * 1e6]

        async def pause(delay_s: float) -> None:
            pauses.append(delay_s)
            await asyncio.sleep(0)

        async def empty_disk() -> DiskUse:
            return DiskUse(0, 100)

        chosen: dict[str, Any] = {
            "mapped": {},
            "registries": {host: account for host in hosts},
            "config": PullConfig(),
            "measure": empty_disk,
            "unix_clock": lambda: now[0],
            "sleep": pause,
            **options,
        }
        store = ImageStore(engine, tmp_path / "state", **chosen)
        benches.append(Bench(store, engine, tmp_path / "state", pauses, now))
        return benches[-1]

    yield make
    for bench in benches:
        await bench.store.aclose()
        await bench.engine.aclose()
    await asyncio.to_thread(registry.remove_images)


# Who may have an image


async def test_an_image_behind_a_password_is_pulled_and_named(
    registry: Registry, make_bench: MakeBench
) -> None:
    digest = registry.push("team/django:v1")
    image = f"{registry.host}/team/django:v1"
    bench = make_bench(registry.host)
    assert await bench.start(image) == digest
    found = await bench.find(image)
    assert found is not None
    assert (found.digest, found.state, found.in_use, found.pulled) == (digest, "present", 1, True)
    assert found.last_used_unix_s == bench.now[0]
    bench.store.leave("t")
    again = await bench.find(image)
    assert again is not None
    assert again.in_use == 0


async def test_a_wrong_password_is_refused_at_open_and_not_repeated(
    registry: Registry, make_bench: MakeBench, tmp_path: Path
) -> None:
    registry.push("team/secret:v1")
    wrong = tmp_path / "wrong"
    wrong.write_text("a wrong guess")
    config = RegistryConfig(username=USERNAME, password_file=wrong)
    bench = make_bench(registries={registry.host: config})
    with pytest.raises(UnknownImage, match="unauthorized") as refused:
        await bench.start(f"{registry.host}/team/secret:v1")
    assert f"registries.{registry.host}" in str(refused.value)
    assert "a wrong guess" not in str(refused.value)


async def test_without_an_account_the_refusal_says_how_to_give_one(
    registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/secret:v1")
    with pytest.raises(UnknownImage, match="docker login"):
        await make_bench().start(f"{registry.host}/team/secret:v1")


async def test_an_account_may_come_from_the_environment_or_from_docker_login(
    registry: Registry, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.push("team/secret:v2")
    image = f"{registry.host}/team/secret:v2"
    account = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    monkeypatch.setenv("REGISTRY_AUTH", account)
    bench = make_bench(registries={registry.host: RegistryConfig(auth_env="REGISTRY_AUTH")})
    await bench.store.check(SandboxSpec("t", image=image))
    monkeypatch.setenv("DOCKER_CONFIG", str(registry.logins))
    assert await make_bench().start(image) == digest
    monkeypatch.setenv("REGISTRY_AUTH", "no base64!")
    bench = make_bench(registries={registry.host: RegistryConfig(auth_env="REGISTRY_AUTH")})
    with pytest.raises(PermanentError, match=r"auth_env: .* REGISTRY_AUTH must hold"):
        await bench.store.check(SandboxSpec("t", image=f"{image}-else"))


async def test_a_password_file_that_is_gone_is_named(
    registry: Registry, make_bench: MakeBench, tmp_path: Path
) -> None:
    config = RegistryConfig(username=USERNAME, password_file=tmp_path / "gone")
    bench = make_bench(registries={registry.host: config})
    with pytest.raises(PermanentError, match=r"password_file: .*gone cannot be read"):
        await bench.store.check(SandboxSpec("t", image=f"{registry.host}/team/any:v1"))


async def test_a_missing_tag_says_so_at_open(registry: Registry, make_bench: MakeBench) -> None:
    registry.push("team/django:v1")
    bench = make_bench(registry.host)
    for name in ("team/django:v99", "nobody/nothing:v1"):
        with pytest.raises(UnknownImage, match="manifest unknown") as refused:
            await bench.store.check(SandboxSpec("t", image=f"{registry.host}/{name}"))
        assert refused.value.field == "image"
    with pytest.raises(PermanentError, match="lowercase"):
        await bench.store.check(SandboxSpec("t", image=f"{registry.host}/Team/Django"))


async def test_never_takes_what_is_there_and_asks_nobody(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/django:v1")
    image = f"{front.host}/team/django:v1"
    bench = make_bench(front.host)
    with pytest.raises(UnknownImage, match="docker pull"):
        await bench.start(image, pull="never")
    assert not front.requests
    digest = await bench.start(image, task="one")
    asked = front.requests.total()
    assert await bench.start(image, "t2", task="two", pull="never") == digest
    assert await bench.start(image, "t3", task="three") == digest
    assert front.requests.total() == asked


# One digest for a task


async def test_a_tag_that_moves_stays_the_same_within_a_task(
    registry: Registry, make_bench: MakeBench
) -> None:
    first = registry.push("team/moving:latest")
    image = f"{registry.host}/team/moving"
    bench = make_bench(registry.host)
    assert await bench.use(image, task="one") == first
    second = registry.push("team/moving:latest")
    assert second != first
    assert await bench.use(image, task="one", pull="always") == first
    assert await bench.use(image, task="two", pull="missing") == first
    assert await bench.use(image, task="three", pull="always") == second
    assert await bench.use(image, task="four", pull="missing") == second
    assert await bench.use(image, task="one") == first


async def test_an_image_that_was_removed_comes_back_with_the_tasks_digest(
    registry: Registry, make_bench: MakeBench
) -> None:
    first = registry.push("team/moving:v2")
    image = f"{registry.host}/team/moving:v2"
    bench = make_bench(registry.host)
    assert await bench.use(image) == first
    registry.push("team/moving:v2")
    registry.remove_images()
    assert await bench.use(image) == first


async def test_an_image_built_here_is_known_by_its_id(
    make_bench: MakeBench, docker_bare_image: str
) -> None:
    image_id = docker("image", "inspect", "-f", "{{.Id}}", docker_bare_image).strip()
    bench = make_bench()
    digest = await bench.use(docker_bare_image)
    named = docker("image", "inspect", "-f", '{{join .RepoDigests " "}}', docker_bare_image)
    assert digest == image_id or digest in named
    with pytest.raises(UnknownImage):
        await bench.start("tangram-test-bare:none", pull="never")


async def test_a_digest_in_the_name_is_what_comes(
    registry: Registry, make_bench: MakeBench
) -> None:
    first = registry.push("team/pinned:v1")
    registry.push("team/pinned:v1")
    bench = make_bench(registry.host)
    assert await bench.use(f"{registry.host}/team/pinned@{first}") == first


# One pull for all


async def test_twenty_opens_of_one_image_are_one_pull(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    alone, many = registry.push("team/alone:v1"), registry.push("team/many:v1")
    bench = make_bench(front.host)
    assert await bench.start(f"{front.host}/team/alone:v1", "alone") == alone
    asked, front.requests = front.requests, type(front.requests)()
    image = f"{front.host}/team/many:v1"
    digests = await asyncio.gather(*(bench.start(image, f"t{number}") for number in range(20)))
    assert set(digests) == {many}
    assert front.requests == asked
    found = await bench.find(image)
    assert found is not None
    assert found.in_use == 20


async def test_pulls_wait_for_their_turn(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    names = [f"{front.host}/team/queue-{n}:v1" for n in range(3)]
    for name in names:
        registry.push(name.partition("/")[2], size_bytes=MIB)
    bench = make_bench(front.host, config=PullConfig(concurrency=1))
    go_on = front.hold("blobs")
    starts = [asyncio.create_task(bench.start(name, name[-5:])) for name in names]

    async def states() -> list[str]:
        found = [await bench.find(name) for name in names]
        return sorted(info.state for info in found if info is not None)

    await until(lambda: front.requests["blobs"])
    await until(lambda: _equal(states, ["pulling", "queued", "queued"]))
    go_on.set()
    await asyncio.gather(*starts)
    assert await states() == ["present"] * 3


async def test_a_pull_tells_how_far_it_is_and_ends_when_nobody_wants_it(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/large:v1", size_bytes=LARGE_BYTES)
    image = f"{front.host}/team/large:v1"
    bench = make_bench(front.host)
    go_on = front.hold("blobs")
    first = asyncio.create_task(bench.start(image, "t1"))
    second = asyncio.create_task(bench.start(image, "t2"))
    await until(lambda: bench.store.preparing("t1") and bench.store.preparing("t2"))

    def fraction() -> float:
        preparing = bench.store.preparing("t2")
        return (preparing and preparing.fraction) or 0.0

    await until(lambda: fraction() > 0)
    preparing = bench.store.preparing("t2")
    assert preparing is not None
    assert preparing.reason == "image-pull"
    assert image in preparing.sentence
    assert "% done" in preparing.sentence
    await _cancel(first)
    assert bench.store.preparing("t1") is None
    assert bench.store.preparing("t2") is not None
    await _cancel(second)
    go_on.set()
    await until(lambda: front.broken_off["blobs"])
    assert await bench.find(image) is None


# A registry that does not do as it should


async def test_a_registry_that_throttles_is_asked_again_later(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    digest = registry.push("team/busy:v1")
    pauses: list[float] = []

    async def pause(delay_s: float) -> None:
        pauses.append(delay_s)
        if len(pauses) == 3:
            front.allow("manifests")

    bench = make_bench(front.host, sleep=pause)
    front.refuse("manifests", 429)
    assert await bench.start(f"{front.host}/team/busy:v1") == digest
    assert len(pauses) == 3
    assert all(pause_s >= THROTTLED_DELAY_S for pause_s in pauses)


async def test_a_pause_is_told_with_its_reason(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/busy:v2")
    image = f"{front.host}/team/busy:v2"
    resume = asyncio.Event()

    async def pause(delay_s: float) -> None:
        await resume.wait()
        front.allow("manifests")

    bench = make_bench(front.host, sleep=pause)
    front.refuse("manifests", 503)
    start = asyncio.create_task(bench.start(image))
    await until(lambda: _has_state(bench, image, "backing-off"))
    found, preparing = await bench.find(image), bench.store.preparing("t")
    assert found is not None and preparing is not None
    assert "503" in found.message
    assert "tried again" in preparing.sentence
    resume.set()
    await start


async def test_a_registry_that_fails_on_is_given_up_and_the_failure_stays_visible(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/broken:v1")
    image = f"{front.host}/team/broken:v1"
    bench = make_bench(front.host)
    front.refuse("manifests", 500)
    with pytest.raises(PermanentError, match=f"in {TRIES_MAX} tries: .*500") as failed:
        await bench.start(image)
    assert failed.value.field == "image"
    assert len(bench.pauses) == TRIES_MAX - 1
    found = await bench.find(image)
    assert found is not None
    assert (found.state, "500" in found.message) == ("failed", True)
    front.allow("manifests")
    await bench.start(image)
    assert await bench.here([image])


async def test_a_registry_that_hangs_holds_up_open_for_a_moment_only(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    digest = registry.push("team/slow:v1")
    image = f"{front.host}/team/slow:v1"
    bench = make_bench(front.host, open_wait_s=0.3)
    go_on = front.hold("manifests")
    start = asyncio.create_task(bench.start(image))
    await until(lambda: bench.store.preparing("t"))
    assert not start.done()
    go_on.set()
    assert await start == digest


async def test_a_registry_that_never_answers_is_asked_again(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/slow:v2")
    front.hold("manifests")
    bench = make_bench(front.host)
    bench.store._requests._answer_wait_s = 0.1
    with pytest.raises(PermanentError, match="does not answer"):
        await bench.start(f"{front.host}/team/slow:v2")
    assert len(bench.pauses) == TRIES_MAX - 1


async def test_a_pull_without_progress_is_broken_off(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    digest = registry.push("team/stuck:v1", size_bytes=MIB)
    go_on = front.hold("blobs")
    resumed: list[float] = []

    async def pause(delay_s: float) -> None:
        resumed.append(delay_s)
        go_on.set()

    bench = make_bench(front.host, sleep=pause)
    bench.store._requests._stall_s = 0.5
    assert await bench.start(f"{front.host}/team/stuck:v1") == digest
    assert resumed


async def test_a_registry_that_is_nowhere_is_refused_at_once(make_bench: MakeBench) -> None:
    with pytest.raises(UnknownImage, match="no such host"):
        await make_bench().store.check(SandboxSpec("t", image="nowhere.invalid/team/x:v1"))


async def test_a_mirror_is_asked_first_and_the_registry_when_it_does_not_help(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    digest = registry.push("hub/team/mirrored:v1")
    account = make_bench(front.host).store._finder._credentials._registries[front.host]
    mirrors = RegistryConfig(mirrors=(f"{front.host}/hub",))
    bench = make_bench(registries={front.host: account, "far.invalid": mirrors})
    image = "far.invalid/team/mirrored:v1"
    try:
        assert await bench.start(image) == digest
        assert await bench.here([image]) == [image]
        with pytest.raises(UnknownImage, match=r"far\.invalid cannot be asked"):
            await bench.start("far.invalid/team/unknown:v1")
    finally:
        docker("rmi", image)


# Room on the disk


@dataclass
class Disk:
    """A disk on which only these images take room, a quarter each."""

    engine: DockerEngine
    names: list[str]

    async def measure(self) -> DiskUse:
        used = [name for name in self.names if await self.engine.image(name) is not None]
        return DiskUse(25 * len(used), 100)


def _full(bench: Bench, names: list[str]) -> None:
    bench.store._room._measure = Disk(bench.engine, names).measure


def _push_all(registry: Registry, *names: str) -> list[str]:
    for name in names:
        registry.push(f"{name}:v1")
    return [f"{registry.host}/{name}:v1" for name in names]


async def test_a_full_disk_evicts_the_longest_unused_first(
    registry: Registry, make_bench: MakeBench
) -> None:
    names = _push_all(registry, "disk/a", "disk/b", "disk/c", "disk/d")
    bench = make_bench(registry.host, config=PullConfig(disk_high=0.7, disk_low=0.3))
    _full(bench, names)
    for name in names[:3]:
        await bench.use(name)
    await bench.use(names[0], "again")
    await bench.use(names[3])
    await until(lambda: not bench.store._chores)
    # Before the fourth came there were three: b and c went, a had been used since.
    assert await bench.here(names) == [names[0], names[3]]
    assert await bench.use(names[1])


async def test_what_is_in_use_pinned_or_not_ours_is_not_evicted(
    registry: Registry, make_bench: MakeBench
) -> None:
    names = _push_all(registry, "keep/used", "keep/mapped", "keep/ahead", "keep/free", "keep/new")
    used, mapped, ahead, free, new = names
    docker(
        "--config", str(registry.logins), "pull", "--quiet", foreign := _push_all(registry, "f")[0]
    )
    bench = make_bench(
        registry.host,
        mapped={"swe": mapped},
        config=PullConfig(disk_high=0.3, disk_low=0.2),
    )
    for name in (free, "swe", foreign):
        await bench.use(name)
    await bench.start(used, "open")
    await bench.store.prefetch("default", [ahead])
    await until(lambda: not bench.store._prefetches)
    bench.now[0] += SETTLE_S
    _full(bench, [*names, foreign])
    await bench.start(new, "other")
    assert await bench.here([*names, foreign]) == [used, mapped, ahead, new, foreign]
    bench.store.leave("open")
    bench.store.leave("other")
    bench.now[0] += SETTLE_S
    await bench.use(ahead, "now")
    await until(lambda: not bench.store._chores)
    assert await bench.here([*names, foreign]) == [mapped, foreign]


async def test_a_container_of_somebody_else_keeps_an_image(
    registry: Registry, make_bench: MakeBench
) -> None:
    image, free = _push_all(registry, "held/used", "held/free")
    bench = make_bench(registry.host, config=PullConfig(disk_high=0.3, disk_low=0.2))
    await bench.use(image)
    container = docker("create", image, "true").strip()
    bench.now[0] += SETTLE_S
    await bench.use(free)
    try:
        _full(bench, [image, free])
        assert await bench.store._room.make() == 1
        assert await bench.here([image, free]) == [image]
    finally:
        docker("rm", container)


async def test_after_a_restart_it_still_knows_what_it_pulled(
    registry: Registry, make_bench: MakeBench
) -> None:
    names = _push_all(registry, "old/a", "old/b")
    earlier = make_bench(registry.host)
    for name in names:
        await earlier.use(name)
    await earlier.store.aclose()
    later = make_bench(registry.host, config=PullConfig(disk_high=0.3, disk_low=0.2))
    _full(later, names)
    assert await later.store._room.make() == 2
    assert await later.here(names) == []


async def test_images_are_brought_ahead_in_the_order_of_the_list(
    registry: Registry, make_bench: MakeBench
) -> None:
    names = _push_all(registry, "ahead/a", "ahead/b")
    missing = f"{registry.host}/ahead/none:v1"
    bench = make_bench(registry.host)
    told = await bench.store.prefetch("default", [*names, missing, names[0]])
    assert [info.name for info in told] == [*names, missing]
    await until(lambda: not bench.store._prefetches)
    states = {info.name: info for info in await bench.store.images()}
    assert [states[name].state for name in (*names, missing)] == ["present", "present", "failed"]
    assert all(states[name].pinned for name in names)
    assert "manifest unknown" in states[missing].message
    await bench.use(names[0])
    used = await bench.find(names[0])
    assert used is not None
    assert not used.pinned


async def test_closing_the_store_ends_what_it_pulls(
    front: Front, registry: Registry, make_bench: MakeBench
) -> None:
    registry.push("team/ending:v1", size_bytes=LARGE_BYTES)
    go_on = front.hold("blobs")
    bench = make_bench(front.host)
    await bench.store.prefetch("default", [f"{front.host}/team/ending:v1"])
    await until(lambda: front.waiting["blobs"])
    async with asyncio.timeout(5):
        await bench.store.aclose()
    go_on.set()
    await until(lambda: front.broken_off["blobs"])


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _equal(read: Callable[[], Any], wanted: object) -> bool:
    return bool(await read() == wanted)


async def _has_state(bench: Bench, name: str, state: str) -> bool:
    found = await bench.find(name)
    return found is not None and found.state == state


def test_the_requests_have_limits_by_default() -> None:
    requests = RegistryRequests(lambda: asyncio.sleep(0))  # type: ignore[arg-type, return-value]
    assert requests._answer_wait_s < requests._stall_s
