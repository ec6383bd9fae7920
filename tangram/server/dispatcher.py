"""The middle ring: events into the scheduler, decisions into tasks, outcomes back as events.

Knows managers, leases and the commit seam; knows no wire format and decides nothing about units.
One pump handles events in order: commit, hand to the scheduler, execute its decisions, answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import (
    FailedPrecondition,
    InvalidRequest,
    Overloaded,
    Unavailable,
)
from ..managers.base import ExecSpec, Manager, PermitSpec, SandboxHost
from ..managers.errors import ManagerError
from ..scheduler import (
    CLUSTER,
    CancelAllRequested,
    Decision,
    End,
    Grant,
    Kill,
    NodeUp,
    Place,
    Reserve,
    Resize,
    ResizeRequested,
    ResourceId,
    Scheduler,
    State,
    Submitted,
    TrajectoryOpened,
)
from .admission import (
    OVERLOAD_RETRY_S,
    DispatcherLimits,
    QueueBound,
    check_placeable,
    inherit,
    same_body,
)
from .answer_cache import AnswerCache
from .book import ActionBook
from .failures import from_end, from_manager
from .grants import GrantRun, cores_of, owners_of
from .housekeeping import Housekeeping
from .leases import TaskLeases
from .log import EventLog, MemoryLog
from .outputs import OutputArchive, OutputStore
from .pump import Pump
from .recorder import TraceRecorder
from .records import (
    ActionExplanation,
    ActionRecord,
    ActionRequest,
    PoolStatus,
    TrajectoryRecord,
    TrajectoryRequest,
)
from .reports import TaskTotals, explain, pool_status
from .same_again import SameAgain
from .snapshots import SnapshotBook
from .trajectories import TrajectoryBook

log = logging.getLogger(__name__)


class Dispatcher:
    """Runs actions: the one object that the service talks to."""

    def __init__(
        self,
        scheduler: Scheduler,
        managers: Sequence[Manager],
        *,
        spool: Path,
        limits: DispatcherLimits | None = None,
        event_log: EventLog | None = None,
        answers: AnswerCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`spool` is the folder to which the output of ended actions moves; `answers` are given to
        deterministic actions (default: to none)."""
        self.limits = limits or DispatcherLimits()
        self.draining = False
        self.observers: list[Callable[[ActionRecord], None]] = []
        self.recorder: TraceRecorder | None = None
        self._scheduler = scheduler
        self._managers = tuple(managers)
        self._log: EventLog = event_log or MemoryLog()
        self._clock = clock
        self._started_at = clock()
        self._pump = Pump(scheduler, self._log, clock=clock, execute=self._execute)
        self.answers = answers or AnswerCache((), 0)
        self._same = SameAgain(
            self.answers,
            clock=clock,
            run=self._submit,
            answered=self._note_end,
            end=self._end,
            spawn=self._spawn,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._grants: dict[str, GrantRun] = {}
        self._queue = QueueBound(self.limits.max_actions, self.limits.max_bytes)
        self._owners = {c.resource: m for m in self._managers for c in m.capacities()}
        self._book = ActionBook(
            retain_s=self.limits.retain_s, retain_actions=self.limits.retain_actions
        )
        self._archive = OutputArchive(spool, self.limits.output_memory_bytes)
        self._leases = TaskLeases(self.limits.lease_s)
        self._totals = TaskTotals()
        self._trajectories = TrajectoryBook(
            {m.node: m for m in self._managers if isinstance(m, SandboxHost)},
            post=self._pump.post,
            clock=clock,
            forget=scheduler.forget_trajectory,
            gone=self._tell_over,
        )
        self.snapshots = SnapshotBook(self._trajectories, self)
        self._housekeeping = Housekeeping(
            self._book,
            self._trajectories,
            self.snapshots,
            self._leases,
            self,
            clock=clock,
            detach_grace_s=self.limits.detach_grace_s,
        )

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Tell the scheduler what there is, and begin."""
        await self._archive.clear()
        self._pump.start()
        by_node: dict[str, list[Manager]] = {CLUSTER: []}
        for manager in self._managers:
            by_node.setdefault(manager.node, []).append(manager)
        for node, managers in by_node.items():
            capacities = tuple(c for m in managers for c in m.capacities())
            await self._pump.post(NodeUp(node, 1, capacities))
        self._spawn(self._housekeeping.run(), name="housekeeping")

    async def aclose(self) -> None:
        """Refuse new work, end what runs, close every sandbox; the managers stay open. Idempotent."""
        if self.draining:
            return
        self.draining = True
        live = [record.id for record in self._book.live()]
        await self.cancel_all(live, "the server shuts down")
        await self._trajectories.aclose()
        await self.snapshots.aclose()
        while self._grants:
            await asyncio.wait([t for t in self._tasks if t.get_name().startswith("grant")])
        await self._pump.aclose()
        for task in list(self._tasks):
            task.cancel()
            await asyncio.wait([task])

    def now(self) -> float:
        """Seconds on the server's monotonic clock, as in every record."""
        return self._clock()

    # -- trajectories ----------------------------------------------------------------------------

    async def open_trajectory(self, request: TrajectoryRequest) -> TrajectoryRecord:
        """Accept a trajectory; its sandbox starts as soon as a node has the memory for it.

        The same id with the same settings again gives the same trajectory. Raises TangramError.
        """
        self._refuse_if_draining()
        self._leases.touch(request.trajectory.task, self.now())
        if (known := self._trajectories.known(request)) is not None:
            return known
        if len(self._trajectories) >= self.limits.max_trajectories:
            raise Overloaded(
                f"{self.limits.max_trajectories} trajectories are open",
                retry_after=OVERLOAD_RETRY_S,
            )
        try:
            checked = await self._trajectories.refuse_impossible(request)
        except ManagerError as error:
            raise from_manager(error) from error
        check_placeable(self._scheduler, checked)
        if (known := self._trajectories.known(request)) is not None:  # opened while we asked
            return known
        record = TrajectoryRecord(checked, self.now())
        self.answers.opened(record)
        self._trajectories.add(record)
        if self.recorder is not None:
            self.recorder.opened(record)
        await self._pump.post(TrajectoryOpened(checked.trajectory))
        return record

    def trajectory(self, trajectory_id: str) -> TrajectoryRecord:
        """Raises NotFound."""
        return self._trajectories.get(trajectory_id)

    async def wait_ready(self, trajectory_id: str, timeout_s: float | None) -> TrajectoryRecord:
        """The trajectory once it is ready, lost or closed, or as it stands after the timeout."""
        record = self.trajectory(trajectory_id)
        await _within(timeout_s, record.settled.wait())
        return record

    async def close_trajectory(self, trajectory_id: str) -> None:
        """End it and all its actions; on return its sandbox is gone. Idempotent."""
        await asyncio.shield(self._spawn(self._trajectories.close(trajectory_id)))

    async def sandbox_host(self, trajectory_id: str) -> SandboxHost:
        """Who serves its file calls, once its sandbox is ready. Raises NotFound,
        TrajectoryClosed, Lost, SandboxFailed."""
        task = self._trajectories.get(trajectory_id).request.trajectory.task
        self._leases.touch(task, self.now())
        return await self._trajectories.host(trajectory_id)

    def keep_alive(self, task: str, lease_s: float) -> None:
        """Renew the task's lease."""
        self._leases.renew(task, self.now(), lease_s)

    # -- actions ---------------------------------------------------------------------------------

    async def submit(self, request: ActionRequest) -> ActionRecord:
        """Accept an action: on return it is committed. Raises TangramError if it is refused.

        The same id with the same body again gives the same action.
        """
        action = request.action
        self._leases.touch(action.task, self.now())
        if (known := self._book.find(action.id)) is not None:
            self._asked_for(known)
            return same_body(known, request)
        self._refuse_if_draining()
        self._book.check_age(action.id)
        if action.trajectory is not None:
            request = inherit(request, self._trajectories.usable(action.trajectory))
        self._queue.enter(request)
        record = self._accept(request)
        if isinstance(request.payload, ExecSpec) and action.trajectory is not None:
            await self._same.serve(record, self._trajectories.get(action.trajectory))
        else:
            await self._submit(record)
        if record.error is not None and record.state is State.FAILED and record.granted is None:
            self._book.remove(record.id)
            self._scheduler.forget(record.id)
            self._log.forget(record.id)
            raise record.error
        return record

    async def wait(self, action_id: str, timeout_s: float | None = None) -> ActionRecord:
        """The action once it has ended, or as it stands after the timeout. Raises NotFound."""
        record = self.ask(action_id)
        await self._watch(record, timeout_s, record.done)
        return record.told()

    async def wait_running(self, action_id: str) -> ActionRecord:
        """The action once it runs, or has ended without. Raises NotFound."""
        record = self.ask(action_id)
        await self._watch(record, None, record.began)
        return record.told()

    async def release_permit(self, action_id: str, retry_after_s: float | None) -> ActionRecord:
        """Give a permit back; `retry_after_s` closes its quota for that long. Idempotent."""
        record = self.ask(action_id)
        if not isinstance(record.request.payload, PermitSpec):
            raise FailedPrecondition(f"action {action_id!r} is no permit: cancel it instead")
        if (run := self._grants.get(action_id)) is not None:
            run.return_permit(retry_after_s)
            await record.done.wait()
        elif not record.state.ended:
            await self.cancel_all([action_id], "released before it was granted")
        return record.told()

    async def cancel(
        self,
        *,
        action: str = "",
        trajectory: str = "",
        group: str = "",
        step: int | None = None,
        task: str = "",
        reason: str = "",
    ) -> list[str]:
        """Cancel every action that matches all given selectors; returns the ids of those that had
        not ended. Raises InvalidRequest without a selector, NotFound for an unknown action id."""
        if not (action or trajectory or group or task) and step is None:
            raise InvalidRequest("name an action, trajectory, group, step or task to cancel")
        if action:
            self._book.get(action)
        chosen = [
            record.id
            for record in self._book.live()
            if (not action or record.id == action)
            and (not trajectory or record.request.action.trajectory == trajectory)
            and (not group or record.request.action.group == group)
            and (step is None or record.request.action.step == step)
            and (not task or record.request.action.task == task)
        ]
        await self.cancel_all(chosen, reason or "a client cancelled it")
        return chosen

    async def resize(self, action_id: str, amounts: Mapping[ResourceId, int]) -> None:
        """Ask for other amounts for a running action; granted if they are feasible and free."""
        self._book.get(action_id)
        await self._pump.post(ResizeRequested(action_id, amounts))

    def record(self, action_id: str) -> ActionRecord:
        """For looking at it: does not count as asking for it. Raises NotFound."""
        return self._book.get(action_id)

    def ask(self, action_id: str) -> ActionRecord:
        """On behalf of its client: it is not detached now. Raises NotFound."""
        record = self._book.get(action_id)
        self._asked_for(record)
        return record

    def records(self) -> Iterable[ActionRecord]:
        """Every retained action, newest first."""
        return self._book.newest_first()

    def explain(self, action_id: str) -> ActionExplanation:
        """Where an action stands and why. Raises NotFound."""
        record = self.record(action_id)
        known = self._scheduler.knows(action_id)
        story = self._scheduler.explain(action_id, self.now()) if known else None
        trajectory = self._trajectories.find(record.request.action.trajectory)
        return explain(record, story, self._log.about(action_id), self.now(), trajectory)

    def status(self) -> PoolStatus:
        """The pool now."""
        return pool_status(
            self._scheduler,
            self._managers,
            self._book.live(),
            self._trajectories.all(),
            self._totals,
            self.now(),
            self._started_at,
        )

    # -- decisions -------------------------------------------------------------------------------

    def _execute(self, decision: Decision, now: float) -> None:
        match decision:
            case Grant():
                self._grant(decision, now)
            case End():
                self._end(decision, now)
            case Place():
                self._trajectories.place(decision)
            case Kill():
                if (run := self._grants.get(decision.action)) is not None:
                    self._spawn(run.kill())
            case Resize():
                if (run := self._grants.get(decision.action)) is not None:
                    self._spawn(run.carry_out(decision))
            case Reserve():
                log.info("units of %s are kept for %s", decision.resources, decision.action)

    def _grant(self, grant: Grant, now: float) -> None:
        record = self._book.get(grant.action)
        record.granted, record.node, record.token = now, grant.node, grant.token
        record.cores = cores_of(grant.amounts)
        record.sandbox_wait_s = self._sandbox_wait_s(record, now)
        record.state = State.PREPARING
        run = GrantRun(
            record,
            grant,
            owners_of(grant, self._owners),
            post=self._pump.post,
            clock=self._clock,
            ended=self._note_end,
        )
        self._grants[record.id] = run
        self._spawn(self._drive(run), name=f"grant of {record.id}")

    async def _drive(self, run: GrantRun) -> None:
        try:
            await run.drive()
        finally:
            self._grants.pop(run.record.id, None)
            run.record.released = self.now()
            if self.recorder is not None:
                self.recorder.released(run.record)
                if (trajectory := run.record.request.action.trajectory) is not None:
                    self._tell_over(trajectory)

    def _tell_over(self, trajectory: str) -> None:
        """The recorder, once the trajectory is gone and nothing of it holds anything."""
        if self.recorder is None or not self._trajectories.is_gone(trajectory):
            return
        held = (run.record.request.action.trajectory for run in self._grants.values())
        if trajectory not in held:
            self.recorder.over(trajectory)

    def _end(self, end: End, now: float) -> None:
        record = self._book.get(end.action)
        if record.finish(now, end.state, error=from_end(end, record.request.action.kind)):
            self._note_end(record)

    def _sandbox_wait_s(self, record: ActionRecord, now: float) -> float:
        trajectory_id = record.request.action.trajectory
        if trajectory_id is None or not isinstance(record.request.payload, ExecSpec):
            return 0.0
        return self._trajectories.get(trajectory_id).starting_s(record.submitted, now)

    # -- acceptance and ends ---------------------------------------------------------------------

    async def _submit(self, record: ActionRecord) -> None:
        await self._pump.post(Submitted(record.request.action))

    def _accept(self, request: ActionRequest) -> ActionRecord:
        now = self.now()
        payload = request.payload
        kept = payload.max_output_bytes if isinstance(payload, ExecSpec) else 0
        record = ActionRecord(request, now, time.time(), OutputStore(kept), asked_at=now)
        self._book.add(record)
        self._totals.submitted(request.action.task)
        return record

    def _note_end(self, record: ActionRecord) -> None:
        self._queue.leave(record.request)
        self.answers.ended(record)
        self._book.note_end(record)
        self._totals.ended(record.request.action.task, record.timing(self.now()))
        if record.output.memory_bytes:
            self._spawn(self._archive.add(record.output))
        for observer in self.observers:
            observer(record)

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise Unavailable("the server shuts down", retry_after=OVERLOAD_RETRY_S)

    async def _watch(
        self, record: ActionRecord, timeout_s: float | None, event: asyncio.Event
    ) -> None:
        record.watchers += 1
        try:
            await _within(timeout_s, event.wait())
        finally:
            record.watchers -= 1
            self._asked_for(record)

    def _asked_for(self, record: ActionRecord) -> None:
        record.asked_at = self.now()
        self._leases.touch(record.request.action.task, record.asked_at)

    # -- for the housekeeping --------------------------------------------------------------------

    async def cancel_all(self, action_ids: Iterable[str], reason: str) -> None:
        """Cancel these at once, with nothing granted in between; those that have ended stay as
        they are."""
        chosen = tuple(action_ids)
        self._same.cancel(chosen, reason)
        await self._pump.post(CancelAllRequested(chosen, reason))

    def close_soon(self, trajectory_id: str) -> None:
        """Close it, without waiting for that."""
        self._spawn(self._trajectories.close(trajectory_id), name=f"close {trajectory_id}")

    def forget(self, record: ActionRecord) -> None:
        """It is retained no longer."""
        self._scheduler.forget(record.id)
        self._log.forget(record.id)
        self._spawn(self._archive.discard(record.output), name=f"discard output of {record.id}")

    def _spawn(
        self, work: Coroutine[Any, Any, Any], *, name: str | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _within(timeout_s: float | None, wait: Awaitable[Any]) -> None:
    """Wait, at most so long; passing the time is no error."""
    if timeout_s is None:
        await wait
        return
    try:
        async with asyncio.timeout(timeout_s):
            await wait
    except TimeoutError:
        return
