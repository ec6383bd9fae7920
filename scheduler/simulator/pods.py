"""The baseline: one pod per trajectory, as Kubernetes runs it, beside which ratios are claimed.

A pod is asked for at its trajectory's start. Pods queue by start time; the first goes to the node
with most free memory, ties to the first node, among those with room for its request of cores, its
memory and one more pod, and holds up the rest while there is none. It is there `delay` seconds
later, at most `rate` pods a second are created, and it is held until its trajectory ends. An action
in a pod runs at once with as many cores as it can use, at most the limit; the cores of an
overcommitted node are shared max-min fairly (`kernel_share`). What runs in no pod, calls and scores,
queues first come first at its least amount.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..model import CLUSTER, MEMORY, Capacity, State
from ..pool import ViewFactory
from ..resource import LinearView, Preparing, ResourceView
from .actions import Staged, opened
from .cluster import UNNAMED_MEMORY_BYTES, ClusterSpec
from .kernel_share import SharedNode
from .podspec import PodSpec
from .result import ActionRun, Hold
from .timeline import Timeline
from .trace import EXEC, TraceAction, TraceTrajectory


@dataclass(slots=True, eq=False)
class _Node:
    name: str
    cores: SharedNode
    slots: int
    """Pods that still fit."""
    memory_bytes: int
    """Not reserved."""
    could_hold_bytes: int
    """The largest pod that it could hold when empty; less than nothing if it holds none."""
    version: int = 0
    """Counts changes: an end that was foreseen before one never comes."""
    runs: dict[int, _Served] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Pod:
    """One trajectory and its pod."""

    trajectory: TraceTrajectory
    actions: Sequence[Staged]
    memory_bytes: int
    next: int = 0
    """Index of the action to be submitted next."""
    node: _Node | None = None
    ready: bool = False
    waiting: _Served | None = None
    """The action that waits for the pod."""
    refused: bool = False
    """No node could ever hold its pod."""


@dataclass(slots=True, eq=False)
class _Served:
    """One action from its submission to its end."""

    staged: Staged
    pod: _Pod
    submitted_s: float
    granted_s: float = 0.0
    member: int = 0
    """Of its node's sharing, or the token of what it holds of the cluster."""
    prepare_s: float = 0.0
    """Since it was served: the restore of its service."""
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Line:
    """A resource of the cluster, and those who wait for it, first come first."""

    view: ResourceView
    waiting: deque[_Served] = field(default_factory=deque)


class Pods:
    """The simulation of pods. For one run. Two pods that start at once queue in the trace's order."""

    def __init__(
        self,
        spec: PodSpec,
        cluster: ClusterSpec,
        shared: Sequence[Capacity],
        views: Mapping[str, ViewFactory],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """`on_end` is called after each end of an action."""
        self._spec = spec
        self._on_end = on_end
        self._nodes: list[_Node] = []
        for name, cores, given_bytes in cluster.nodes:
            memory_bytes, slots = given_bytes or UNNAMED_MEMORY_BYTES, spec.slots(cores)
            could_hold_bytes = memory_bytes if slots else -1
            node = _Node(name, SharedNode(cores), slots, memory_bytes, could_hold_bytes)
            self._nodes.append(node)
        factories: dict[str, ViewFactory] = {"linear": LinearView, **views}
        self._lines = {
            capacity.resource.kind: _Line(factories[capacity.view](capacity)) for capacity in shared
        }
        self._now = 0.0
        self._timeline: Timeline[Callable[[], None]] = Timeline()
        self._last_token = 0
        self._queue: deque[_Pod] = deque()
        self._creates_from_s = 0.0
        self.ended: list[ActionRun] = []

    def run(
        self, trajectories: Sequence[TraceTrajectory], staged: Sequence[Sequence[Staged]]
    ) -> list[ActionRun]:
        """All actions in the order of their ends."""
        pods = [
            _Pod(trajectory, actions, opened(trajectory).reserve.get(MEMORY, 0))
            for trajectory, actions in zip(trajectories, staged, strict=True)
            if actions
        ]
        for pod in pods:
            self._foresee(pod.trajectory.start_s, partial(self._ask, pod))
        for pod in pods:
            self._foresee_next(pod, pod.trajectory.start_s)
        while self._timeline:
            self._now, happen = self._timeline.pop()
            happen()
        return self.ended

    def _foresee(self, at_s: float, happen: Callable[[], None]) -> None:
        self._timeline.add(at_s, happen)

    def _foresee_next(self, pod: _Pod, after_s: float) -> None:
        self._foresee(after_s + pod.actions[pod.next].trace.gap_s, partial(self._submit, pod))

    # Pods

    def _ask(self, pod: _Pod) -> None:
        pod.refused = all(pod.memory_bytes > node.could_hold_bytes for node in self._nodes)
        if not pod.refused:
            self._queue.append(pod)
            self._place()

    def _place(self) -> None:
        """In order, until the first that fits nowhere now."""
        while self._queue:
            pod = self._queue[0]
            fitting = [n for n in self._nodes if n.slots and n.memory_bytes >= pod.memory_bytes]
            if not fitting:
                return
            node = max(fitting, key=lambda node: node.memory_bytes)
            node.slots -= 1
            node.memory_bytes -= pod.memory_bytes
            pod.node = node
            self._queue.popleft()
            begins_s = max(self._now, self._creates_from_s)
            self._creates_from_s = begins_s + (1 / self._spec.rate if self._spec.rate else 0.0)
            self._foresee(begins_s + self._spec.delay_s, partial(self._ready, pod))

    def _ready(self, pod: _Pod) -> None:
        pod.ready = True
        if pod.waiting is not None:
            self._start(pod.waiting)
            pod.waiting = None

    def _close(self, pod: _Pod) -> None:
        """Its last action has ended: the pod goes, if it ever came."""
        if pod.node is not None:
            pod.node.slots += 1
            pod.node.memory_bytes += pod.memory_bytes
        elif pod in self._queue:
            self._queue.remove(pod)
        self._place()

    # Actions

    def _submit(self, pod: _Pod) -> None:
        run = _Served(pod.actions[pod.next], pod, self._now)
        pod.next += 1
        if prepare_s := _prepare_s(run.staged.trace):
            self._foresee(self._now + prepare_s, partial(self._enter, run))
        else:
            self._enter(run)

    def _enter(self, run: _Served) -> None:
        pod = run.pod
        if run.staged.trace.runs_as != EXEC:
            self._queue_up(run)
        elif pod.refused:
            self._refuse(run, "no node could ever hold the pod of its trajectory")
        elif pod.ready:
            self._start(run)
        else:
            pod.waiting = run

    def _start(self, run: _Served) -> None:
        node, trace = run.pod.node, run.staged.trace
        assert node is not None
        run.granted_s = self._now
        node.cores.advance(self._now)
        cap = min(self._spec.limit, float(trace.amounts.maximum))
        run.member = node.cores.add(cap, run.staged.truth, trace.duration_s)
        node.runs[run.member] = run
        self._changed(node)
        if trace.timeout_s is not None:
            self._foresee(self._now + trace.timeout_s, partial(self._cut, node, run))

    def _changed(self, node: _Node) -> None:
        """Foresee the next end of the node; the one foreseen before is void."""
        node.version += 1
        if (soonest := node.cores.next_end()) is not None:
            end_s, member = soonest
            self._foresee(end_s, partial(self._end, node, member, node.version))

    def _end(self, node: _Node, member: int, version: int) -> None:
        if node.version == version:
            self._finish(node, node.runs[member])

    def _cut(self, node: _Node, run: _Served) -> None:
        if not run.ended:
            self._finish(node, run, timed_out=True)

    def _finish(self, node: _Node, run: _Served, timed_out: bool = False) -> None:
        node.cores.advance(self._now)
        del node.runs[run.member]
        core_s = node.cores.remove(run.member)
        self._changed(node)
        ran_s = self._now - run.granted_s
        self._record(run, node.name, core_s / ran_s if ran_s else 0.0, timed_out=timed_out)

    # What belongs to no node

    def _queue_up(self, run: _Served) -> None:
        line = self._lines.get(run.staged.resource)
        if line is None or _least(run) > line.view.largest():
            most = line.view.largest() if line is not None else 0
            self._refuse(run, f"needs {_least(run)} of {run.staged.resource}, the most is {most}")
            return
        line.waiting.append(run)
        self._serve(line)

    def _serve(self, line: _Line) -> None:
        while line.waiting and _least(line.waiting[0]) <= line.view.free(self._now):
            run = line.waiting.popleft()
            run.granted_s = self._now
            self._last_token += 1
            run.member = self._last_token
            line.view.take(run.member, _least(run), self._now, run.staged.action.service)
            if isinstance(line.view, Preparing):
                run.prepare_s = line.view.preparing_s(run.member)
            run_s = run.staged.run_s(_least(run))
            timeout_s = run.staged.trace.timeout_s
            cut = timeout_s is not None and run_s > timeout_s
            lasts_s = timeout_s if timeout_s is not None and cut else run_s
            self._foresee(
                self._now + run.prepare_s + lasts_s, partial(self._give_back, line, run, cut)
            )
        change_s = line.view.next_change(self._now) if line.waiting else None
        if change_s is not None:
            self._foresee(change_s, partial(self._serve, line))

    def _give_back(self, line: _Line, run: _Served, cut: bool) -> None:
        line.view.give(run.member, self._now)
        self._record(run, CLUSTER, float(_least(run)), timed_out=cut)
        self._serve(line)

    # What came of it

    def _refuse(self, run: _Served, reason: str) -> None:
        self._record(run, CLUSTER, 0.0, reason=reason)

    def _record(
        self, run: _Served, node: str, units: float, *, timed_out: bool = False, reason: str = ""
    ) -> None:
        run.ended = True
        action, pod = run.staged.action, run.pod
        before_s = _prepare_s(run.staged.trace)
        held = units and self._now > run.granted_s
        self.ended.append(
            ActionRun(
                action.id,
                pod.trajectory.id,
                action.task,
                run.staged.trace.kind,
                run.staged.resource,
                node,
                run.submitted_s,
                None if reason else run.granted_s,
                self._now,
                State.FAILED if reason else State.FINISHED,
                (Hold(run.granted_s, self._now, units),) if held else (),
                prepare_s=before_s + run.prepare_s,
                sandbox_prepare_s=before_s,
                timed_out=timed_out,
                reason=reason,
                tenant=action.tenant,
            )
        )
        if self._on_end is not None:
            self._on_end()
        if pod.next < len(pod.actions):
            self._foresee_next(pod, self._now)
        else:
            self._close(pod)


def _prepare_s(trace: TraceAction) -> float:
    """In a pod there is no lease to be made: what the server needed comes all before the run."""
    return trace.sandbox_prepare_s + trace.lease_prepare_s


def _least(run: _Served) -> int:
    """What it takes of the cluster: the least amount of a score, the amount of a call."""
    demand = run.staged.action.demand.cluster
    return demand[run.staged.resource].minimum
