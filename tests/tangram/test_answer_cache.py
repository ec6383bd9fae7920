"""Deterministic actions: answered with what the same one said, joined, or run; and never wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tangram.client import AsyncClient, AsyncTrajectory, Result
from tangram.errors import Cancelled, Expired, InvalidRequest
from tangram.managers.fake import FakeManager
from tangram.testing import serve_fake
from tests.waiting import until


@pytest.fixture
def node() -> FakeManager:
    return FakeManager(cores=2, memory_bytes=1 << 40)


@pytest.fixture
async def client(node: FakeManager) -> AsyncIterator[AsyncClient]:
    async with (
        serve_fake(manager=node, cached_tasks=["job"]) as address,
        AsyncClient(address, task="job") as client,
    ):
        yield client
    assert node.violations == []


def again(trajectory: AsyncTrajectory, command: Any = "echo said", **more: Any) -> Any:
    return trajectory.exec(command, deterministic=True, **more)


def said(result: Result) -> tuple[object, ...]:
    return result.outcome, result.exit_code, result.stdout_bytes, result.stderr_bytes


async def test_the_same_command_on_the_same_files_runs_once_for_all_trajectories(
    client: AsyncClient,
) -> None:
    results = []
    for _ in range(3):
        async with client.trajectory() as trajectory:
            await trajectory.write_file("solution.py", "print(1)")
            results.append(await again(trajectory, "echo said; false"))
    assert [result.cached for result in results] == [False, True, True]
    assert len({said(result) for result in results}) == 1
    assert (results[1].timing.run, results[1].usage.cpu_seconds) == (0.0, 0.0)
    story = await client.explain(results[2].action_id)
    assert f"what action {results[0].action_id} said" in story.sentence


@pytest.mark.parametrize(
    "other",
    [
        {"command": "echo other"},
        {"env": {"A": "1"}},
        {"stdin": "x"},
        {"cwd": "/tmp"},
        {"cores": 2},
        {"timeout": 5.0},
        {"max_output": "1Ki"},
    ],
    ids=str,
)
async def test_whatever_the_answer_may_depend_on_is_looked_at(
    client: AsyncClient, other: dict[str, Any]
) -> None:
    async with client.trajectory() as trajectory:
        await again(trajectory)
        assert not (await again(trajectory, **other)).cached
        assert (await again(trajectory)).cached


async def test_other_files_and_other_sandboxes_are_other_questions(
    client: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "inner").write_text("text")
    async with client.trajectory() as first, client.trajectory() as second:
        await first.write_file("a", "1")
        await again(first)
        assert not (await again(second)).cached
        await second.write_file("a", "2")
        assert not (await again(second)).cached
        await second.write_file("a", "1", mode=0o755)
        assert not (await again(second)).cached
        await second.write_file("a", "1")
        assert (await again(second)).cached
        await second.upload(tmp_path, "tree")
        assert not (await again(second)).cached
        await first.upload(tmp_path, "tree")
        assert (await again(first)).cached
    async with client.trajectory(env={"A": "1"}) as third:
        await third.write_file("a", "1")
        assert not (await again(third)).cached


async def test_a_command_of_unknown_effect_makes_files_nobody_elses(client: AsyncClient) -> None:
    async with client.trajectory() as first, client.trajectory() as second:
        await again(first)
        await second.exec("write a text")
        assert not (await again(second)).cached
        assert (await again(second)).cached  # nothing happened there since
        await second.exec("write a text")
        assert not (await again(second)).cached


async def test_only_a_command_that_came_to_its_end_is_an_answer(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        for _ in range(2):
            late = await again(trajectory, ["spin"], timeout=0.01)
            assert (late.outcome, late.cached) == ("timed_out", False)
        for expected in (False, True):
            failed = await again(trajectory, ["false"])
            assert (failed.exit_code, failed.cached) == (1, expected)


async def test_tasks_share_no_answers_and_nobody_gets_any_unasked(
    client: AsyncClient, node: FakeManager
) -> None:
    async with client.trajectory() as trajectory:
        await again(trajectory)
        assert not (await trajectory.exec("echo said")).cached
    async with AsyncClient(client.server, task="other") as other, other.trajectory() as trajectory:
        for _ in range(2):
            assert not (await again(trajectory)).cached


async def test_who_asks_while_it_runs_joins_it(client: AsyncClient, node: FakeManager) -> None:
    async with client.trajectory() as first, client.trajectory() as second:
        runs = asyncio.create_task(again(first, "gate g; echo said"))
        await until(lambda: node.running == 1)
        joins = asyncio.create_task(again(second, "gate g; echo said", id="joins"))
        await waits_for_another(client)
        assert node.running == 1
        node.gate("g").set()
        assert not (await runs).cached
        assert (await joins).cached and (await joins).stdout == "said\n"
        assert (await joins).timing.queue > 0


async def test_who_joined_one_that_fails_is_run(client: AsyncClient, node: FakeManager) -> None:
    async with client.trajectory() as first, client.trajectory() as second:
        runs = asyncio.create_task(again(first, "gate g; echo said", id="runs"))
        await until(lambda: node.running == 1)
        joins = asyncio.create_task(again(second, "gate g; echo said", id="joins"))
        await waits_for_another(client)
        await client.cancel(action="runs")
        with pytest.raises(Cancelled):
            await runs
        await until(lambda: node.running == 1)
        node.gate("g").set()
        assert ((await joins).cached, (await joins).stdout) == (False, "said\n")


async def test_who_joined_can_be_cancelled_and_keeps_its_deadline(
    client: AsyncClient, node: FakeManager
) -> None:
    async with client.trajectory() as first, client.trajectory(concurrency=2) as second:
        runs = asyncio.create_task(again(first, "gate g; echo said"))
        await until(lambda: node.running == 1)
        joins = asyncio.create_task(again(second, "gate g; echo said", id="joins"))
        await waits_for_another(client)
        with pytest.raises(Expired, match="deadline"):
            await again(second, "gate g; echo said", deadline=0.02)
        assert await client.cancel(action="joins") == ["joins"]
        with pytest.raises(Cancelled):
            await joins
        node.gate("g").set()
        assert (await runs).stdout == "said\n"
        assert (await again(second, "gate g; echo said")).cached


async def test_what_is_no_command_cannot_be_declared(client: AsyncClient) -> None:
    async with client.trajectory() as trajectory:
        with pytest.raises(InvalidRequest, match="deterministic"):
            await trajectory.exec("true", deterministic="yes")  # type: ignore[arg-type]


async def waits_for_another(client: AsyncClient) -> None:
    """Until the action `joins` does."""
    async with asyncio.timeout(10):
        while True:
            try:
                sentence = (await client.explain("joins")).sentence
            except LookupError:
                continue
            if "runs the same command" in sentence:
                return
