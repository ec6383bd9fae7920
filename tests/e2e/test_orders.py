"""Who is served first, and who is told to stop: a real server with tenants, groups and steps."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest

from tangram import AsyncClient, errors
from tests.e2e.conftest import Serve
from tests.waiting import until

SHARED = {
    "quotas": {"search": {"concurrency": 1}},
    "scheduler": {"order": "fair-share", "weights": {"guests": 3}},
    "tenants": {"lab": {"tasks": ["a", "b"]}, "guests": {"tasks": ["c"]}},
}


async def waiting(client: AsyncClient) -> int:
    """Actions in queues."""
    return sum(queue.waiting for queue in (await client.status()).queues)


async def test_tenants_share_by_their_weights_and_divide_that_among_their_tasks(
    serve: Serve,
) -> None:
    """All wait for one permit. Of four turns three are the guests', one is the lab's, of which each
    task has half; only the first of `a` counted alone in its tenant."""
    server = await asyncio.to_thread(serve, SHARED)
    served: list[str] = []

    async def take(client: AsyncClient) -> None:
        async with client.quota("search"):
            served.append(client.task)

    async with AsyncExitStack() as stack:
        clients = {
            task: await stack.enter_async_context(AsyncClient(server.address, task=task))
            for task in ("holder", "a", "b", "c")
        }
        takes = []
        async with clients["holder"].quota("search"):
            for number, task in enumerate("abcabcabcccccc", 1):
                takes.append(asyncio.create_task(take(clients[task])))

                async def arrived(number: int = number) -> bool:
                    return await waiting(clients["holder"]) == number

                await until(arrived)
        await asyncio.gather(*takes)
    assert [served[:9].count(task) for task in "abc"] == [2, 1, 6]
    assert len(served) == len(takes)


@pytest.mark.parametrize("selector", [("--group", "g"), ("--step", "7")], ids=lambda s: s[0])
async def test_what_is_left_of_a_group_or_a_step_ends_at_once_and_others_go_on(
    serve: Serve, selector: tuple[str, str]
) -> None:
    """On one core one of the group runs, one waits, and one of another group waits behind them."""
    server = await asyncio.to_thread(serve, {"cores": "0"})
    async with (
        AsyncClient(server.address, task="train") as client,
        client.trajectory(group="g", step=7) as first,
        client.trajectory(group="g", step=7) as second,
        client.trajectory(group="other", step=8) as other,
    ):
        runs = [asyncio.create_task(first.exec("sleep 1000", id="runs"))]
        await until(lambda: _state(client, "runs", "running"))
        runs.append(asyncio.create_task(second.exec("sleep 1000", id="waits")))
        await until(lambda: _state(client, "waits", "waiting"))
        behind = asyncio.create_task(other.exec("echo served", id="other"))
        await until(lambda: _state(client, "other", "waiting"))
        command = [sys.executable, "-m", "tangram.cli", "cancel", "--server", server.address]
        done = await asyncio.to_thread(
            subprocess.run, [*command, *selector], check=True, capture_output=True, text=True
        )
        assert set(done.stdout.split()) == {"runs", "waits"}
        for ended in await asyncio.gather(*runs, return_exceptions=True):
            assert isinstance(ended, errors.Cancelled)
        assert (await behind).stdout == "served\n"
        assert (await first.exec("echo alive")).stdout == "alive\n", "its sandbox is kept"


async def _state(client: AsyncClient, action: str, state: str) -> bool:
    try:
        return (await client.get(action)).state == state
    except errors.NotFound:
        return False
