"""The pump over logs that wait and logs that do not: nothing happens before it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tangram.scheduler import (
    CLUSTER,
    Action,
    Amounts,
    CancelRequested,
    Decision,
    Demand,
    End,
    Event,
    Grant,
    NodeUp,
    ResourceId,
    Scheduler,
    State,
    Submitted,
)
from tangram.scheduler.model import Capacity
from tangram.server.log import MemoryLog
from tangram.server.pump import Pump

QUOTA = ResourceId("quota:q", CLUSTER)


class SlowLog(MemoryLog):
    """Commits when the test lets it; notes what came together."""

    waits = True

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Event]] = []
        self.asked = asyncio.Event()
        self.free = asyncio.Event()
        self.fails: Exception | None = None

    async def commit(self, at: float, events: Sequence[Event]) -> None:
        self.batches.append(list(events))
        self.asked.set()
        await self.free.wait()
        if self.fails is not None:
            raise self.fails
        await super().commit(at, events)


class World:
    def __init__(self, log: MemoryLog) -> None:
        self.now = 100.0
        self.decisions: list[Decision] = []
        self.decided = asyncio.Event()
        self.pump = Pump(Scheduler(), log, clock=lambda: self.now, execute=self._execute)
        self.pump.start()

    def _execute(self, decision: Decision, now: float) -> None:
        self.decisions.append(decision)
        self.decided.set()

    def granted(self) -> list[str]:
        return [d.action for d in self.decisions if isinstance(d, Grant)]


@pytest.fixture
async def quick() -> AsyncIterator[World]:
    world = World(MemoryLog())
    yield world
    await world.pump.aclose()


@pytest.fixture
def log() -> SlowLog:
    return SlowLog()


@pytest.fixture
async def slow(log: SlowLog) -> AsyncIterator[World]:
    world = World(log)
    yield world
    await world.pump.aclose()


def node_up(units: int = 2) -> NodeUp:
    return NodeUp(CLUSTER, 1, (Capacity(QUOTA, units),))


def submitted(name: str, deadline: float | None = None) -> Submitted:
    demand = Demand(cluster={QUOTA.kind: Amounts.exactly(1)})
    return Submitted(
        Action(id=name, task="t", demand=demand, trajectory=None, kind="permit", deadline=deadline)
    )


async def test_with_a_log_that_never_waits_an_event_is_handled_at_once(quick: World) -> None:
    posting = quick.pump.post(node_up())
    with pytest.raises(StopIteration):  # It ended without giving up the event loop.
        posting.send(None)
    await quick.pump.post(submitted("a"))
    assert quick.granted() == ["a"]


async def test_what_the_scheduler_refuses_is_told_and_harms_nothing_else(quick: World) -> None:
    await quick.pump.post(node_up())
    await quick.pump.post(submitted("a"))
    with pytest.raises(ValueError):
        await quick.pump.post(submitted("a"))
    await quick.pump.post(submitted("b"))
    assert quick.granted() == ["a", "b"]


async def test_a_deadline_passes_without_another_event(quick: World) -> None:
    await quick.pump.post(node_up(1))
    await quick.pump.post(submitted("a"))
    await quick.pump.post(submitted("late", deadline=100.001))
    quick.now = 101.0
    quick.decided.clear()
    async with asyncio.timeout(10):
        await quick.decided.wait()
    assert [d.state for d in quick.decisions if isinstance(d, End)] == [State.EXPIRED]


async def test_nothing_is_decided_before_a_slow_log_has_committed(
    slow: World, log: SlowLog
) -> None:
    posts = [asyncio.create_task(slow.pump.post(e)) for e in (node_up(), submitted("a"))]
    await log.asked.wait()
    assert not slow.decisions
    log.free.set()
    await asyncio.gather(*posts)
    assert slow.granted() == ["a"]


async def test_what_arrives_during_a_commit_is_committed_together(
    slow: World, log: SlowLog
) -> None:
    posts = [asyncio.create_task(slow.pump.post(node_up()))]
    await log.asked.wait()
    posts += [asyncio.create_task(slow.pump.post(submitted(name))) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    log.free.set()
    await asyncio.gather(*posts)
    assert [len(batch) for batch in log.batches] == [1, 3]
    assert slow.granted() == ["a", "b"]


async def test_events_whose_commit_fails_never_happened(slow: World, log: SlowLog) -> None:
    log.free.set()
    await slow.pump.post(node_up())
    log.fails = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await slow.pump.post(submitted("a"))
    log.fails = None
    await slow.pump.post(submitted("a"))
    assert slow.granted() == ["a"]


async def test_a_bad_event_of_a_batch_stops_no_other(slow: World, log: SlowLog) -> None:
    log.free.set()
    await slow.pump.post(node_up())
    events = (submitted("a"), submitted("a"), CancelRequested("a", "enough"), submitted("b"))
    posts = [slow.pump.post(event) for event in events]
    found = await asyncio.gather(*posts, return_exceptions=True)
    assert [type(outcome) for outcome in found] == [type(None), ValueError, type(None), type(None)]
    assert slow.granted() == ["a", "b"]
