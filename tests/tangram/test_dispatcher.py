"""The dispatcher over a fake node and real quotas: every accepted action reaches exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import cast

import pytest

from tangram.errors import (
    AlreadyExists,
    Cancelled,
    Expired,
    IdExpired,
    Infeasible,
    InvalidRequest,
    Lost,
    NotFound,
    Overloaded,
    SandboxFailed,
    TrajectoryClosed,
)
from tangram.managers.base import ExecSpec, Manager, Outcome, PermitSpec, SandboxSpec, Stream
from tangram.managers.config import QuotaConfig
from tangram.managers.errors import PermanentError, TemporaryError
from tangram.managers.fake import FakeManager
from tangram.managers.opening import open_quota_manager
from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.managers.quota.manager import QuotaManager
from tangram.scheduler import (
    CLUSTER,
    Action,
    Amounts,
    Demand,
    NodeUp,
    QuotaClosed,
    Resized,
    ResourceId,
    Scheduler,
    State,
    Trajectory,
)
from tangram.scheduler.model import EMPTY, Capacity
from tangram.scheduler.resource import ResourceView
from tangram.server.admission import DispatcherLimits
from tangram.server.dispatcher import Dispatcher
from tangram.server.log import MemoryLog
from tangram.server.records import (
    ActionRecord,
    ActionRequest,
    QuotaStatus,
    TrajectoryRecord,
    TrajectoryRequest,
    TrajectoryState,
)
from tangram.server.reports import TaskTotals, pool_status
from tangram.v1 import trajectories_pb2

GIB = 1 << 30
CORES = ResourceId("cores", "node0")


class World:
    """One dispatcher over one fake node and one quota, with short words for what tests do."""

    def __init__(self, spool: Path, limits: DispatcherLimits, quotas: QuotaManager) -> None:
        self.node = FakeManager(cores=2, memory_bytes=8 * GIB)
        self.scheduler = Scheduler({QUOTA_VIEW: QuotaView})
        self.log = MemoryLog()
        self.dispatcher = Dispatcher(
            self.scheduler, [self.node, quotas], spool=spool, limits=limits, event_log=self.log
        )
        self._number = 0

    async def open(
        self,
        name: str = "t1",
        *,
        memory_bytes: int = GIB,
        labels: Mapping[str, str] = EMPTY,
    ) -> TrajectoryRecord:
        record = await self.dispatcher.open_trajectory(
            TrajectoryRequest(
                trajectory=Trajectory(name, "task"),
                spec=SandboxSpec(name, memory_bytes=memory_bytes),
                labels=labels,
                ttl_s=None,
                fingerprint=name.encode(),
            )
        )
        return record

    async def submit(
        self,
        command: str,
        *,
        id: str = "",
        trajectory: str = "t1",
        cores: Amounts | None = None,
        deadline_s: float | None = None,
        group: str = "",
        body: bytes = b"body",
        labels: Mapping[str, str] = EMPTY,
    ) -> ActionRecord:
        self._number += 1
        now = self.dispatcher.now()
        return await self.dispatcher.submit(
            ActionRequest(
                action=Action(
                    id=id or f"a{self._number}",
                    task="task",
                    demand=Demand({"cores": cores or Amounts.exactly(1)}, key="cores"),
                    trajectory=trajectory,
                    deadline=now + deadline_s if deadline_s is not None else None,
                    timeout_s=60.0,
                    group=group,
                ),
                payload=ExecSpec(shell_command=command),
                labels=labels,
                summary=command,
                fingerprint=body,
                size=100,
            )
        )

    async def permit(self, name: str = "search", id: str = "p1") -> ActionRecord:
        return await self.dispatcher.submit(
            ActionRequest(
                action=Action(
                    id=id,
                    task="task",
                    kind="permit",
                    demand=Demand(cluster={f"quota:{name}": Amounts.exactly(1)}),
                ),
                payload=PermitSpec(),
                labels={},
                summary=name,
                fingerprint=b"",
                size=10,
            )
        )


@pytest.fixture
def limits() -> DispatcherLimits:
    return DispatcherLimits()


@pytest.fixture
async def world(tmp_path: Path, limits: DispatcherLimits) -> AsyncIterator[World]:
    quotas = await open_quota_manager({"search": QuotaConfig(concurrency=1)})
    world = World(tmp_path, limits, quotas)
    await world.dispatcher.start()
    yield world
    world.scheduler.check_invariants()
    await world.dispatcher.aclose()
    world.scheduler.check_invariants()
    assert world.node.violations == []
    assert world.node.free_cores == 2
    assert all(record.state.ended for record in world.dispatcher.records())


async def ended(world: World, record: ActionRecord) -> ActionRecord:
    async with asyncio.timeout(10):
        return await world.dispatcher.wait(record.id)


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop run until what was set off has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells us of most conditions
            await asyncio.sleep(0)


async def test_an_action_runs_and_its_four_parts_add_up(world: World) -> None:
    await world.open()
    record = await ended(world, await world.submit("echo hello; exit 3"))
    assert record.state is State.FINISHED
    assert record.result is not None and record.result.exit_code == 3
    assert record.output.joined(Stream.STDOUT) == b"hello\n"
    timing = record.timing(world.dispatcher.now())
    parts = timing.queue_s + timing.prepare_s + timing.run_s + timing.overhead_s
    assert parts == pytest.approx(timing.act_s)


async def test_the_start_of_the_sandbox_counts_as_prepare_not_as_queue(world: World) -> None:
    opening = world.node.faults.hold("open")
    await world.open()
    record = await world.submit("true")
    explanation = world.dispatcher.explain(record.id)
    assert explanation.spans[-1].reason == "sandbox-starting"
    opening.set()
    record = await ended(world, record)
    timing = record.timing(world.dispatcher.now())
    assert timing.prepare_s >= timing.queue_s


async def test_three_actions_on_two_cores_run_two_at_a_time_in_order(world: World) -> None:
    for name in ("t1", "t2", "t3"):
        await world.open(name)
        await world.dispatcher.wait_ready(name, 10)
    records = [await world.submit("gate go", trajectory=name) for name in ("t1", "t2", "t3")]
    await world.dispatcher.wait_running(records[1].id)
    assert [record.state for record in records] == [State.RUNNING, State.RUNNING, State.WAITING]
    explanation = world.dispatcher.explain(records[2].id)
    assert explanation.spans[-1].reason == "cores"
    status = world.dispatcher.status()
    assert (status.nodes[0].cores.granted, status.nodes[0].cores.free) == (2, 0)
    assert [(q.resource, q.waiting, q.reason) for q in status.queues] == [
        (ResourceId("cores", "node0"), 1, "cores")
    ]
    world.node.gate("go").set()
    for record in records:
        assert (await ended(world, record)).state is State.FINISHED


async def test_the_same_id_and_body_again_is_the_same_action_and_runs_once(world: World) -> None:
    await world.open()
    first = await ended(world, await world.submit("echo once", id="same"))
    again = await world.submit("echo once", id="same")
    assert again is first
    await settled(lambda: world.node.free_cores == 2)
    assert [call for call, what in world.node.calls if what == "same"] == [
        "acquire",
        "run",
        "release",
    ]


async def test_the_same_id_with_another_body_is_refused(world: World) -> None:
    await world.open()
    await world.submit("true", id="same", body=b"one")
    with pytest.raises(AlreadyExists, match="another id"):
        await world.submit("true", id="same", body=b"two")


async def test_cancelling_kills_what_runs_and_frees_its_core(world: World) -> None:
    await world.open()
    record = await world.submit("spin")
    await world.dispatcher.wait_running(record.id)
    assert await world.dispatcher.cancel(action=record.id, reason="enough") == [record.id]
    record = await ended(world, record)
    assert record.state is State.CANCELLED
    assert isinstance(record.error, Cancelled) and "enough" in str(record.error)
    after = await ended(world, await world.submit("true"))
    assert after.state is State.FINISHED


async def test_cancelling_by_group_takes_the_trajectorys_group_too(world: World) -> None:
    await world.open()
    mine = await world.submit("spin", group="g")
    other = await world.submit("true")
    assert await world.dispatcher.cancel(group="g") == [mine.id]
    assert (await ended(world, other)).state is State.FINISHED


async def test_an_action_has_its_trajectorys_labels_under_its_own(world: World) -> None:
    await world.open(labels={"run": "r1", "phase": "rollout"})
    record = await world.submit("true", labels={"phase": "reward", "try": "2"})
    again = await world.submit("true", id=record.id, labels={"phase": "reward", "try": "2"})
    assert record.request.labels == {"run": "r1", "phase": "reward", "try": "2"}
    assert again is record


async def test_cancelling_needs_a_selector_and_a_known_action(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.dispatcher.cancel()
    with pytest.raises(NotFound):
        await world.dispatcher.cancel(action="nobody")


async def test_a_deadline_that_passes_in_the_queue_expires_the_action(world: World) -> None:
    await world.open()
    spinning = await world.submit("spin", cores=Amounts.exactly(2))
    await world.dispatcher.wait_running(spinning.id)
    await world.open("t2")
    record = await ended(world, await world.submit("true", trajectory="t2", deadline_s=0.01))
    assert record.state is State.EXPIRED
    assert isinstance(record.error, Expired)


async def test_more_cores_than_any_node_has_are_refused_at_once_with_the_largest(
    world: World,
) -> None:
    await world.open()
    with pytest.raises(Infeasible, match="2"):
        await world.submit("true", cores=Amounts.exactly(3), id="big")
    with pytest.raises(NotFound):
        world.dispatcher.record("big")


async def test_more_memory_than_any_node_has_is_refused_at_open(world: World) -> None:
    with pytest.raises(Infeasible, match="8Gi"):
        await world.open(memory_bytes=9 * GIB)


async def test_an_unknown_quota_is_refused_and_named(world: World) -> None:
    with pytest.raises(NotFound, match="search"):
        await world.permit("serach")


async def test_a_sandbox_that_dies_ends_its_action_as_lost_and_says_so(world: World) -> None:
    await world.open()
    record = await world.submit("spin")
    waiting = await world.submit("true")
    await world.dispatcher.wait_running(record.id)
    world.node.lose_sandbox("t1", "its agent was killed")
    for lost in (record, waiting):
        lost = await ended(world, lost)
        assert lost.state is State.FAILED
        assert isinstance(lost.error, Lost) and "agent was killed" in str(lost.error)
    assert world.dispatcher.trajectory("t1").state == TrajectoryState.LOST
    with pytest.raises(Lost, match="agent was killed"):
        await world.submit("true")


async def test_an_action_that_waits_for_the_cores_of_a_dead_sandbox_gets_them_when_they_are_back(
    world: World,
) -> None:
    for name in ("t1", "t2"):
        await world.open(name)
        await world.dispatcher.wait_ready(name, 10)
    lost = await world.submit("spin", cores=Amounts.exactly(2))
    await world.dispatcher.wait_running(lost.id)
    waiting = await world.submit("true", trajectory="t2", cores=Amounts.exactly(2))
    releasing = world.node.faults.hold("release")
    world.node.lose_sandbox("t1")
    assert isinstance((await ended(world, lost)).error, Lost)
    await settled(lambda: ("release", lost.id) in world.node.calls)
    assert waiting.state is State.WAITING
    releasing.set()
    assert (await ended(world, waiting)).state is State.FINISHED


async def test_looking_at_an_action_is_not_asking_for_it(world: World) -> None:
    await world.open()
    record = await world.submit("spin")
    asked_at = record.asked_at
    await asyncio.sleep(0)
    world.dispatcher.explain(record.id)
    world.dispatcher.status()
    world.dispatcher.record(record.id)
    assert record.asked_at == asked_at
    world.dispatcher.ask(record.id)
    assert record.asked_at > asked_at


async def test_a_start_that_fails_for_good_fails_the_waiting_actions(world: World) -> None:
    holding = world.node.faults.hold("open")
    world.node.faults.fail("open", PermanentError("no such user"))
    await world.open()
    record = await world.submit("true")
    holding.set()
    record = await ended(world, record)
    assert isinstance(record.error, SandboxFailed) and "no such user" in str(record.error)


async def test_a_start_that_fails_for_now_is_tried_again(world: World) -> None:
    world.node.faults.fail("open", TemporaryError("busy", delay_s=0.0))
    await world.open()
    assert (await ended(world, await world.submit("true"))).state is State.FINISHED


async def test_a_run_that_the_manager_refuses_fails_alone(world: World) -> None:
    await world.open()
    await world.dispatcher.wait_ready("t1", 10)
    world.node.faults.fail("acquire", PermanentError("no such user"))
    refused = await ended(world, await world.submit("true"))
    assert refused.state is State.FAILED and "no such user" in str(refused.error)
    assert (await ended(world, await world.submit("true"))).state is State.FINISHED


async def test_closing_cancels_what_waits_kills_what_runs_and_frees_the_memory(
    world: World,
) -> None:
    await world.open(memory_bytes=8 * GIB)
    running, waiting = await world.submit("spin"), await world.submit("true")
    await world.dispatcher.wait_running(running.id)
    await world.open("t2", memory_bytes=8 * GIB)
    assert world.dispatcher.trajectory("t2").state == TrajectoryState.WAITING
    await world.dispatcher.close_trajectory("t1")
    assert (await ended(world, running)).state is State.CANCELLED
    assert (await ended(world, waiting)).state is State.CANCELLED
    ready = await world.dispatcher.wait_ready("t2", 10)
    assert ready.state == TrajectoryState.READY
    with pytest.raises(TrajectoryClosed):
        await world.submit("true")


async def test_closing_while_the_sandbox_starts_leaves_nothing(world: World) -> None:
    world.node.faults.hold("open")
    await world.open()
    await world.dispatcher.close_trajectory("t1")
    assert sum(world.node.sandboxes().values()) == 0


async def test_permits_of_one_are_held_one_at_a_time(world: World) -> None:
    first, second = await world.permit(id="p1"), await world.permit(id="p2")
    await world.dispatcher.wait_running("p1")
    assert second.state is State.WAITING
    await world.dispatcher.release_permit("p1", None)
    assert first.state is State.FINISHED
    await world.dispatcher.wait_running("p2")
    await world.dispatcher.release_permit("p2", None)
    assert second.result is not None and second.result.outcome is Outcome.FINISHED


async def test_a_released_permit_need_not_be_kept_for_long(world: World) -> None:
    record = await world.permit()
    await world.dispatcher.wait_running(record.id)
    assert not record.answered
    await world.dispatcher.release_permit(record.id, None)
    assert record.answered


async def test_a_reported_retry_after_closes_the_quota_until_then(world: World) -> None:
    await world.permit(id="p1")
    await world.dispatcher.wait_running("p1")
    await world.dispatcher.release_permit("p1", 0.05)
    second = await world.permit(id="p2")
    assert world.dispatcher.explain("p2").spans[-1].reason == "quota-closed"
    assert world.dispatcher.status().quotas[0].closed_for_s is not None
    await world.dispatcher.wait_running("p2")
    assert second.timing(world.dispatcher.now()).queue_s > 0.02
    await world.dispatcher.release_permit("p2", None)


async def test_whoever_hosts_quotas_has_them_in_the_status_and_other_managers_do_not() -> None:
    quotas = await open_quota_manager({"search": QuotaConfig(concurrency=3)})

    class Lender:
        """Hosts quotas without being the quota manager."""

        def capacities(self) -> tuple[Capacity, ...]:
            return quotas.capacities()

        def views(self) -> Mapping[str, Callable[[Capacity], ResourceView]]:
            return quotas.views()

        def describe(self, name: str) -> str:
            return quotas.describe(name)

        def closed_until(self, view: ResourceView, now: float) -> float | None:
            return quotas.closed_until(view, now)

    lender = Lender()
    scheduler = Scheduler(lender.views())
    node = FakeManager(cores=1)
    scheduler.handle(NodeUp(CLUSTER, 1, lender.capacities()), 0.0)
    scheduler.handle(NodeUp(node.node, 1, node.capacities()), 0.0)
    scheduler.handle(QuotaClosed(ResourceId("quota:search"), 7.0), 0.0)
    managers = [node, cast("Manager", lender)]
    status = pool_status(scheduler, managers, [], [], TaskTotals(), 2.0, 0.0)
    assert status.quotas == (QuotaStatus("search", 3, 0, "3 at once", 5.0),)
    with pytest.raises(TypeError, match="counts no quota"):
        quotas.closed_until(scheduler.view(ResourceId("cores", node.node)), 0.0)
    await quotas.aclose()


async def test_a_quota_does_not_block_cores_nor_cores_a_quota(world: World) -> None:
    await world.open()
    spinning = await world.submit("spin", cores=Amounts.exactly(2))
    await world.permit(id="p1")
    await world.permit(id="p2")
    await world.dispatcher.wait_running("p1")
    await world.dispatcher.wait_running(spinning.id)
    await world.dispatcher.release_permit("p1", None)
    await world.dispatcher.wait_running("p2")


async def test_a_running_action_can_be_given_more_cores(world: World) -> None:
    await world.open()
    record = await world.submit("spin", cores=Amounts.between(1, 2))
    await world.dispatcher.wait_running(record.id)
    await world.dispatcher.resize(record.id, {CORES: 2})
    await settled(lambda: world.node.free_cores == 0)
    assert world.scheduler.view(CORES).free(world.dispatcher.now()) == 0


async def test_an_action_that_shrinks_lets_another_start_once_it_has_left_its_core(
    world: World,
) -> None:
    await world.open("t1")
    await world.open("t2")
    wide = await world.submit("gate go", cores=Amounts.among({2}))
    await world.dispatcher.wait_running(wide.id)
    assert world.node.free_cores == 0
    malleable = await world.submit("gate go", trajectory="t2", cores=Amounts.between(1, 2))
    world.node.gate("go").set()
    await ended(world, wide)
    await ended(world, malleable)
    world.node.gate("go").clear()
    malleable = await world.submit("gate go", trajectory="t2", cores=Amounts.between(1, 2))
    await world.dispatcher.wait_running(malleable.id)
    await world.dispatcher.resize(malleable.id, {CORES: 2})
    await settled(lambda: world.node.free_cores == 0)
    waiting = await world.submit("true")
    held = world.node.faults.hold("resize")
    await world.dispatcher.resize(malleable.id, {CORES: 1})
    await settled(lambda: ("resize", malleable.id) in world.node.calls)
    assert waiting.state is State.WAITING
    held.set()
    assert (await ended(world, waiting)).state is State.FINISHED
    world.node.gate("go").set()
    assert (await ended(world, malleable)).cores == 1


async def test_the_history_tells_when_and_to_what_the_cores_changed(world: World) -> None:
    await world.open()
    record = await world.submit("gate go", cores=Amounts.between(1, 2))
    await world.dispatcher.wait_running(record.id)
    for cores in (2, 1):
        await world.dispatcher.resize(record.id, {CORES: cores})
        await settled(lambda: world.node.free_cores == 2 - cores)  # noqa: B023
        resized = [("Resized", cores)]
        await settled(lambda: _changes(world, record)[-1:] == resized)  # noqa: B023
    world.node.gate("go").set()
    record = await ended(world, record)
    story = world.dispatcher.explain(record.id)
    details = [entry.detail for entry in story.history if entry.name == "Resized"]
    assert details == ["grew to 2 cores", "shrank to 1 core"]
    assert story.spans[-1].sentence.startswith("ran; grew to 2 cores at ")
    assert "; shrank to 1 core at " in story.spans[-1].sentence
    assert (record.cores, record.grown, record.shrunk) == (1, 1, 1)


async def test_the_time_of_resizing_is_run_and_not_preparation(world: World) -> None:
    await world.open()
    record = await world.submit("gate go", cores=Amounts.between(1, 2))
    await world.dispatcher.wait_running(record.id)
    prepare_s = record.timing(world.dispatcher.now()).prepare_s
    held = world.node.faults.hold("resize")
    await world.dispatcher.resize(record.id, {CORES: 2})
    await settled(lambda: ("resize", record.id) in world.node.calls)
    held.set()
    await settled(lambda: world.node.free_cores == 0)
    world.node.gate("go").set()
    assert (await ended(world, record)).timing(world.dispatcher.now()).prepare_s == prepare_s


@pytest.mark.parametrize("cores", [1, 2], ids=["shrinking", "growing"])
@pytest.mark.parametrize("end", ["finish", "kill", "close", "lose"])
async def test_a_resize_that_races_with_an_end_leaves_no_unit_behind(
    world: World, end: str, cores: int
) -> None:
    await world.open()
    choice = Amounts.between(1, 2)
    record = await world.submit("gate go", cores=choice)
    await world.dispatcher.wait_running(record.id)
    if cores == 1:
        await world.dispatcher.resize(record.id, {CORES: 2})
        await settled(lambda: world.node.free_cores == 0)
        await settled(lambda: _changes(world, record) == [("Resized", 2)])
    held = world.node.faults.hold("resize")
    await world.dispatcher.resize(record.id, {CORES: cores})
    await settled(lambda: world.node.calls.count(("resize", record.id)) == 3 - cores)
    if end == "finish":
        world.node.gate("go").set()
    elif end == "kill":
        await world.dispatcher.cancel(action=record.id)
    elif end == "close":
        closing = asyncio.create_task(world.dispatcher.close_trajectory("t1"))
    else:
        world.node.lose_sandbox("t1")
    await ended(world, record)
    held.set()
    if end == "close":
        await closing
    await settled(lambda: world.scheduler.view(CORES).free(world.dispatcher.now()) == 2)
    await settled(lambda: world.node.free_cores == 2)
    world.scheduler.check_invariants()


@pytest.mark.parametrize("error", [TemporaryError("busy", delay_s=0.1), ValueError("a bug")])
async def test_a_resize_that_fails_is_answered_with_what_the_lease_has(
    world: World, error: Exception
) -> None:
    await world.open()
    record = await world.submit("gate go", cores=Amounts.between(1, 2))
    await world.dispatcher.wait_running(record.id)
    world.node.faults.fail("resize", error)
    await world.dispatcher.resize(record.id, {CORES: 2})
    await settled(lambda: _changes(world, record) == [("Resized", 1)])
    assert world.scheduler.view(CORES).free(world.dispatcher.now()) == 1
    history = world.dispatcher.explain(record.id).history
    assert history[-1].detail == "its amounts stayed as they were"
    world.node.gate("go").set()
    assert (await ended(world, record)).state is State.FINISHED


def _changes(world: World, record: ActionRecord) -> list[tuple[str, int]]:
    """What the node confirmed of this action."""
    items = [item for _, item in world.log.about(record.id)]
    return [("Resized", item.amounts[CORES]) for item in items if isinstance(item, Resized)]


async def test_the_history_names_events_and_decisions_in_order(world: World) -> None:
    await world.open()
    record = await ended(world, await world.submit("true"))
    await settled(lambda: world.node.free_cores == 2)
    names = [entry.name for entry in world.dispatcher.explain(record.id).history]
    assert names[:4] == ["Submitted", "Grant", "Started", "ActionEnded"]


class TestLimits:
    @pytest.fixture
    def limits(self) -> DispatcherLimits:
        return DispatcherLimits(max_actions=2, detach_grace_s=0.01, lease_s=0.01)

    async def test_a_full_queue_refuses_with_a_delay_and_loses_nothing(self, world: World) -> None:
        await world.open()
        held = [await world.submit("gate go") for _ in range(2)]
        watching = [asyncio.ensure_future(world.dispatcher.wait(r.id)) for r in held]
        with pytest.raises(Overloaded) as refused:
            await world.submit("true")
        assert refused.value.retry_after == 1.0
        world.node.gate("go").set()
        for watch in watching:
            assert (await watch).state is State.FINISHED

    async def test_an_action_that_nobody_asks_for_is_cancelled(self, world: World) -> None:
        await world.open()
        record = await world.submit("spin")
        async with asyncio.timeout(10):
            await record.done.wait()
        assert record.state is State.CANCELLED
        assert "no client" in str(record.error)

    async def test_a_trajectory_ends_with_its_tasks_lease(self, world: World) -> None:
        record = await world.open()
        async with asyncio.timeout(10):
            await record.gone.wait()
        assert record.state == TrajectoryState.CLOSED


class TestRetention:
    @pytest.fixture
    def limits(self) -> DispatcherLimits:
        return DispatcherLimits(retain_actions=0)

    async def test_the_id_of_a_dropped_action_is_refused_and_never_runs_again(
        self, world: World
    ) -> None:
        await world.open()
        record = await world.submit("true", id="once")
        await world.dispatcher.wait(record.id)
        await settled(lambda: not list(world.dispatcher.records()))
        with pytest.raises(IdExpired, match="ended as finished"):
            await world.submit("true", id="once")
        with pytest.raises(NotFound, match="no longer kept"):
            await world.dispatcher.wait("once")
        assert not list(world.dispatcher.records())


def test_every_state_of_a_trajectory_has_its_value_on_the_wire() -> None:
    names = {f"TRAJECTORY_STATE_{state.upper()}" for state in TrajectoryState}
    assert names == set(trajectories_pb2.TrajectoryState.keys()) - {"TRAJECTORY_STATE_UNSPECIFIED"}
