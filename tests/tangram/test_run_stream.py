"""Actions that share a stream: each gets its own answer or error, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tangram.client import AsyncClient
from tangram.client.connection import STREAM_FROM
from tangram.client.run_stream import IN_FLIGHT_MAX, REQUEST_BYTES_MAX
from tangram.errors import AlreadyExists, Cancelled, NotFound
from tangram.managers.fake import FakeManager
from tangram.server.actions_service import ActionsService
from tangram.testing import serve_fake
from tests.tangram.test_client_errors import Proxy
from tests.waiting import until

BUSY = STREAM_FROM + 5
RPCS = ("Run", "RunMany")


@pytest.fixture
def node() -> FakeManager:
    return FakeManager(cores=2 * IN_FLIGHT_MAX)


@pytest.fixture
def rpcs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the two was called."""
    counts: Counter[str] = Counter()
    for name in RPCS:
        served = getattr(ActionsService, name)

        async def counted(
            self: ActionsService,
            request: object,
            context: object,
            name: str = name,
            served: object = served,
        ) -> object:
            counts[name] += 1
            return await served(self, request, context)  # type: ignore[operator]

        monkeypatch.setattr(ActionsService, name, counted)
    return counts


@pytest.fixture
async def server(rpcs: Counter[str], node: FakeManager) -> AsyncIterator[str]:
    async with serve_fake(manager=node) as address:
        yield address


@pytest.fixture
async def client(server: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server, task="job") as client:
        yield client


async def test_actions_one_after_another_have_calls_of_their_own(
    client: AsyncClient, rpcs: Counter[str]
) -> None:
    async with client.trajectory() as trajectory:
        for number in range(BUSY):
            assert (await trajectory.exec(["echo", str(number)])).stdout == f"{number}\n"
    assert rpcs == {"Run": BUSY}


async def test_many_at_once_share_a_stream_and_each_gets_its_own_answer(
    client: AsyncClient, rpcs: Counter[str]
) -> None:
    async with client.trajectory(concurrency=256) as trajectory:
        results = await asyncio.gather(
            *(trajectory.exec(["echo", str(number)]) for number in range(100))
        )
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(100)]
    assert rpcs["RunMany"] >= 1
    assert rpcs["Run"] + rpcs["RunMany"] < 50


async def test_no_stream_outlives_its_last_answer(client: AsyncClient, rpcs: Counter[str]) -> None:
    async with client.trajectory(concurrency=256) as trajectory:
        for _ in range(2):
            await asyncio.gather(*(trajectory.exec(["true"]) for _ in range(BUSY)))
            names = {str(task.get_coro()) for task in asyncio.all_tasks()}
            assert not [name for name in names if "RunStream" in name]
    assert rpcs["RunMany"] >= 2


async def test_a_refused_action_disturbs_no_other(client: AsyncClient) -> None:
    gone = client.attach("nowhere")
    gone._open = True  # Else it would ask for the trajectory first.
    async with client.trajectory(concurrency=256) as trajectory:
        ran = [trajectory.exec(["echo", str(number)]) for number in range(BUSY)]
        *results, refused = await asyncio.gather(*ran, gone.exec(["true"]), return_exceptions=True)
    assert isinstance(refused, NotFound)
    assert all(not isinstance(result, BaseException) and result.ok for result in results)


async def test_a_cut_stream_is_made_again_and_nothing_runs_twice(
    server: str, node: FakeManager
) -> None:
    async with (
        Proxy(server) as proxy,
        AsyncClient(proxy.address) as client,
        client.trajectory(concurrency=256) as trajectory,
    ):
        running = [
            asyncio.create_task(trajectory.exec(f"gate g; echo {number}", id=f"cut{number}"))
            for number in range(BUSY)
        ]
        await until(lambda: node.running == BUSY)
        proxy.cut()
        await until(lambda: proxy.connections == 2)
        node.gate("g").set()
        results = await asyncio.gather(*running)
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(BUSY)]
    assert all(node.calls.count(("run", f"cut{number}")) == 1 for number in range(BUSY))


async def test_cancelling_one_cancels_that_one_alone(
    client: AsyncClient, node: FakeManager
) -> None:
    async with client.trajectory(concurrency=256) as trajectory:
        running = [
            asyncio.create_task(trajectory.exec("gate g", id=f"many{number}"))
            for number in range(BUSY)
        ]
        await until(lambda: node.running == BUSY)
        running[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await running[-1]
        await until(lambda: node.running == BUSY - 1)
        assert (await client.get(f"many{BUSY - 1}")).state == "cancelled"
        node.gate("g").set()
        assert all(result.ok for result in await asyncio.gather(*running[:-1]))


async def test_an_id_that_is_in_flight_has_a_call_of_its_own(
    client: AsyncClient, node: FakeManager
) -> None:
    async with client.trajectory(concurrency=256) as trajectory:
        fill = [asyncio.create_task(trajectory.exec("gate g")) for _ in range(BUSY)]
        first = asyncio.create_task(trajectory.exec("gate g; echo same", id="same"))
        await until(lambda: node.running == BUSY + 1)
        again = asyncio.create_task(trajectory.exec("gate g; echo same", id="same"))
        with pytest.raises(AlreadyExists):
            await trajectory.exec("echo other", id="same")
        node.gate("g").set()
        assert [(await first).stdout, (await again).stdout] == ["same\n", "same\n"]
        await asyncio.gather(*fill)
    assert node.calls.count(("run", "same")) == 1


async def test_a_large_request_keeps_nobody_waiting(
    client: AsyncClient, rpcs: Counter[str], node: FakeManager
) -> None:
    async with client.trajectory(concurrency=256) as trajectory:
        fill = [asyncio.create_task(trajectory.exec("gate g")) for _ in range(BUSY)]
        await until(lambda: node.running == BUSY)
        calls = rpcs["Run"]
        await trajectory.exec(["true"], stdin=b"x" * REQUEST_BYTES_MAX)
        assert rpcs["Run"] == calls + 1
        node.gate("g").set()
        await asyncio.gather(*fill)


async def test_a_client_that_is_closed_tells_all_that_wait(server: str, node: FakeManager) -> None:
    client = AsyncClient(server)
    trajectory = client.trajectory(concurrency=256)
    running = [asyncio.create_task(trajectory.exec("gate g")) for _ in range(BUSY)]
    await until(lambda: node.running == BUSY)
    await client.close()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Cancelled}
    node.gate("g").set()
