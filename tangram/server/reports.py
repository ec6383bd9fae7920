"""What the dispatcher tells about itself: the pool's status, and one action's explanation.

Reads the scheduler, the managers and the records; changes nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..managers.base import Manager, QuotaHost, SandboxHost
from ..scheduler import CLUSTER, Explanation, Grant, Resized, ResourceId, Scheduler, WaitSpan
from ..scheduler.model import CORES, MEMORY, QUOTA_PREFIX, WaitReason
from ..scheduler.sentences import amount_of
from .log import LogItem
from .records import (
    ActionExplanation,
    ActionRecord,
    HistoryEntry,
    NodeStatus,
    PoolStatus,
    QueueStatus,
    QuotaStatus,
    Span,
    TaskStatus,
    Timing,
    TrajectoryRecord,
    TrajectoryState,
    Units,
)

TASKS_MAX = 1000
"""Tasks whose totals are kept; of more, those that were idle longest are dropped."""

CHANGES_SHOWN_MAX = 8
"""Changes of a running action's amounts that the sentence about its run tells of."""

IMAGE_PULL = "image-pull"
"""The reason of a stretch in which an image came."""

IMAGE_WAIT_SHOWN_S = 0.05
"""Looking at an image that is there takes less, and is part of the start."""

BUSIEST_MAX = 50
"""Actions listed in a status, longest-lived first."""

_SENTENCES = {
    WaitReason.NO_NODE: "waited for a node to join",
    WaitReason.MEMORY: "its trajectory waited for memory on a node",
    WaitReason.SANDBOX_STARTING: "its sandbox was starting",
    WaitReason.TRAJECTORY_BUSY: "another action of its trajectory ran",
    WaitReason.CORES: "too few cores were free",
    WaitReason.GPUS: "no chunk of GPUs that was free was large enough",
    WaitReason.QUOTA: "the quota's concurrency was used up",
    WaitReason.RATE: "the quota's rate was used up",
    WaitReason.QUOTA_CLOSED: "the provider had asked to wait",
    WaitReason.BEHIND: "others that go first waited for the same",
    WaitReason.RESERVED: "the units were kept for an older action",
    WaitReason.FOR_MORE: "it ends sooner with more units than were free",
    WaitReason.TASK_LIMIT: "its task held as many units as it may",
}


@dataclass(slots=True)
class _Totals:
    ended: int = 0
    queue_s: float = 0.0
    prepare_s: float = 0.0
    run_s: float = 0.0
    overhead_s: float = 0.0

    def add(self, timing: Timing) -> None:
        self.ended += 1
        self.queue_s += timing.queue_s
        self.prepare_s += timing.prepare_s
        self.run_s += timing.run_s
        self.overhead_s += timing.overhead_s

    def mean(self) -> Timing | None:
        if not self.ended:
            return None
        queue_s, prepare_s = self.queue_s / self.ended, self.prepare_s / self.ended
        run_s, overhead_s = self.run_s / self.ended, self.overhead_s / self.ended
        act_s = queue_s + prepare_s + run_s + overhead_s
        return Timing(queue_s, prepare_s, run_s, overhead_s, act_s)


class TaskTotals:
    """Per task: how many actions ended, and their times in sum."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, _Totals] = OrderedDict()

    def submitted(self, task: str) -> None:
        self._tasks.setdefault(task, _Totals())
        self._tasks.move_to_end(task)
        while len(self._tasks) > TASKS_MAX:
            self._tasks.popitem(last=False)

    def ended(self, task: str, timing: Timing) -> None:
        self._tasks.setdefault(task, _Totals()).add(timing)

    def statuses(
        self, live: Sequence[ActionRecord], trajectories: Sequence[TrajectoryRecord]
    ) -> tuple[TaskStatus, ...]:
        running = Counter(r.request.action.task for r in live if r.granted is not None)
        waiting = Counter(r.request.action.task for r in live if r.granted is None)
        open_now = Counter(
            t.request.trajectory.task
            for t in trajectories
            if t.state not in (TrajectoryState.CLOSED, TrajectoryState.LOST)
        )
        names = dict.fromkeys([*self._tasks, *open_now])
        return tuple(
            TaskStatus(
                name=name,
                waiting=waiting[name],
                running=running[name],
                ended=self._tasks[name].ended if name in self._tasks else 0,
                trajectories=open_now[name],
                mean=self._tasks[name].mean() if name in self._tasks else None,
            )
            for name in names
        )


def pool_status(
    scheduler: Scheduler,
    managers: Sequence[Manager],
    live: Sequence[ActionRecord],
    trajectories: Sequence[TrajectoryRecord],
    totals: TaskTotals,
    now: float,
    started_at: float,
) -> PoolStatus:
    """The pool at `now`."""
    return PoolStatus(
        nodes=tuple(
            _node_status(scheduler, manager, now)
            for manager in managers
            if isinstance(manager, SandboxHost)
        ),
        quotas=tuple(_quota_statuses(scheduler, managers, now)),
        queues=tuple(
            QueueStatus(resource, q.count, str(q.reason), q.units, q.units_by_reason)
            for resource, q in scheduler.waiting().items()
        ),
        tasks=totals.statuses(live, trajectories),
        uptime_s=now - started_at,
        busiest=tuple(live[:BUSIEST_MAX]),
    )


def explain(
    record: ActionRecord,
    story: Explanation | None,
    history: Sequence[tuple[float, LogItem]],
    now: float,
    trajectory: TrajectoryRecord | None = None,
) -> ActionExplanation:
    """One action's life so far, as stretches with reasons. `story` is what the scheduler tells;
    None in the moment before the action reached it. `trajectory` is its own."""
    return ActionExplanation(
        record=record,
        spans=tuple(
            _spans(record, story.spans if story else (), _changes(history), now, trajectory)
        ),
        sentence=_sentence(record, story, now, trajectory),
        ahead=story.ahead if story else 0,
        predicted_run_s=story.predicted_run_s if story else None,
        predicted_from=str(story.predicted_from) if story else "",
        considered=story.considered if story else (),
        history=tuple(_history(record, history)),
    )


def _node_status(scheduler: Scheduler, manager: Manager, now: float) -> NodeStatus:
    assert isinstance(manager, SandboxHost)
    description = manager.describe()
    return NodeStatus(
        name=manager.node,
        launcher=description.launcher,
        cores=_units(scheduler, ResourceId(CORES, manager.node), now),
        memory=_units(scheduler, ResourceId(MEMORY, manager.node), now),
        limits=description.limits,
        sandboxes=manager.sandboxes(),
        corrections=manager.corrections(),
        warm=manager.warm(),
    )


def _units(scheduler: Scheduler, resource: ResourceId, now: float) -> Units:
    view = scheduler.view(resource)
    return Units(view.total, view.taken, view.free(now))


def _quota_statuses(
    scheduler: Scheduler, managers: Sequence[Manager], now: float
) -> Iterator[QuotaStatus]:
    for manager in managers:
        if not isinstance(manager, QuotaHost):
            continue
        for capacity in manager.capacities():
            view = scheduler.view(capacity.resource)
            name = capacity.resource.kind.removeprefix(QUOTA_PREFIX)
            closed_until = manager.closed_until(view, now)
            yield QuotaStatus(
                name=name,
                limit=view.largest(),
                in_use=view.taken,
                description=manager.describe(name),
                closed_for_s=closed_until - now if closed_until is not None else None,
            )


def _spans(
    record: ActionRecord,
    waits: Sequence[WaitSpan],
    changes: Sequence[tuple[float, str]],
    now: float,
    trajectory: TrajectoryRecord | None,
) -> list[Span]:
    since = record.submitted
    spans: list[Span] = []
    for wait in waits:
        if wait.reason is WaitReason.SANDBOX_STARTING:
            spans += _start_spans(wait, since, trajectory)
            continue
        where = str(wait.resource) if wait.resource else ""
        sentence = _SENTENCES[wait.reason] + (f" ({where})" if where else "")
        end = wait.end - since if wait.end is not None else None
        spans.append(Span("queue", str(wait.reason), where, sentence, wait.start - since, end))
    if record.granted is not None:
        end_at = record.started if record.started is not None else record.ended
        end = end_at - since if end_at is not None else None
        granted = amount_of(CORES, record.cores) if record.cores else "its quota"
        where = f" on {record.node}" if record.node != CLUSTER else ""
        sentence = f"{granted}{where} granted, made ready"
        spans.append(Span("prepare", "", "", sentence, record.granted - since, end))
    if record.started is not None:
        end = record.ended - since if record.ended is not None else None
        shown = [f"{change} at {at - since:.3g} s" for at, change in changes[:CHANGES_SHOWN_MAX]]
        if (more := len(changes) - len(shown)) > 0:
            shown.append(f"and {more} changes more")
        sentence = "; ".join(["ran", *shown])
        spans.append(Span("run", "", "", sentence, record.started - since, end))
    return spans


def _start_spans(wait: WaitSpan, since: float, trajectory: TrajectoryRecord | None) -> list[Span]:
    """A wait for a sandbox that starts, and before that for its image."""
    end = wait.end - since if wait.end is not None else None
    begin, reason = wait.start - since, str(wait.reason)
    preparing = trajectory.preparing() if trajectory is not None else None
    if preparing is not None and end is None:
        sentence = f"its image {preparing.sentence}"
        return [Span("prepare", preparing.reason, "", sentence, begin, None)]
    spans = []
    if trajectory is not None and trajectory.placed is not None and trajectory.info is not None:
        wait_s = trajectory.info.image_wait_s
        pulled = trajectory.placed + wait_s - since
        pulled = min(pulled, end) if end is not None else pulled
        if wait_s >= IMAGE_WAIT_SHOWN_S and pulled > begin:
            spans = [Span("prepare", IMAGE_PULL, "", "its image was pulled", begin, pulled)]
            begin = pulled
    return [*spans, Span("prepare", reason, "", _SENTENCES[wait.reason], begin, end)]


def _sentence(
    record: ActionRecord, story: Explanation | None, now: float, trajectory: TrajectoryRecord | None
) -> str:
    act_s = record.timing(now).act_s
    if record.error is not None:
        return f"{record.state} after {act_s:.3f} s: {record.error}"
    if record.cached:
        return f"answered after {act_s:.3f} s with what action {record.same_as} said"
    if record.result is not None:
        return f"{record.result.outcome.value} after {act_s:.3f} s"
    if record.same_as:
        return f"waits for action {record.same_as}, which runs the same command on the same files"
    preparing = trajectory.preparing() if trajectory is not None else None
    if preparing is not None:
        return f"waits for the sandbox of its trajectory, whose image {preparing.sentence}"
    starting = trajectory is not None and trajectory.state is TrajectoryState.STARTING
    if starting and trajectory is not None and trajectory.message:
        return f"waits for the sandbox of its trajectory: {trajectory.message}"
    return story.sentence if story else "is being accepted"


def _history(
    record: ActionRecord, items: Sequence[tuple[float, LogItem]]
) -> Iterator[HistoryEntry]:
    changes = dict(_changes(items))
    for at, item in items:
        detail = _detail(item)
        if isinstance(item, Resized):
            detail = changes.get(at, "its amounts stayed as they were")
        yield HistoryEntry(at - record.submitted, type(item).__name__, detail)


def _changes(items: Sequence[tuple[float, LogItem]]) -> list[tuple[float, str]]:
    """When it really got other amounts while it ran, and which."""
    changes: list[tuple[float, str]] = []
    amounts: dict[ResourceId, int] = {}
    for at, item in items:
        if isinstance(item, Grant | Resized):
            words = [
                f"{'grew' if amount > amounts[resource] else 'shrank'} to"
                f" {amount_of(resource.kind, amount)}"
                for resource, amount in item.amounts.items()
                if amounts.get(resource, amount) != amount
            ]
            amounts |= item.amounts
            if words:
                changes.append((at, " and ".join(words)))
    return changes


def _detail(item: LogItem) -> str:
    shown = []
    for name in item.__match_args__:
        value = getattr(item, name)
        if name == "action" or value in ("", None):
            continue
        if name == "amounts":
            value = ", ".join(f"{amount} {resource}" for resource, amount in value.items())
        shown.append(f"{name}={value}")
    return " ".join(shown)
