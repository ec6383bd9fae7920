"""What the server remembers of actions and trajectories: plain records, no IO, no wire format.

Only the dispatcher changes them; the service and the metrics read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from ..errors import TangramError
from ..managers.base import (
    Payload,
    Preparation,
    RunResult,
    SandboxHost,
    SandboxInfo,
    SandboxSpec,
    WarmStatus,
)
from ..scheduler import Action, EndReason, ResourceId, State, Trajectory, WaitReason
from ..scheduler.stretches import Stretches
from .known_files import KnownFiles
from .outputs import OutputStore


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """What a client asked for: the scheduler's part, the payload, and what is only remembered."""

    action: Action
    payload: Payload
    labels: Mapping[str, str]
    summary: str
    """The command or URL, cut to one line."""
    fingerprint: bytes
    """Digest of the whole body: the same id with another one is refused."""
    size: int
    """Bytes that it takes in the queue."""
    deterministic: bytes = b""
    """Digest of the command with its amounts and limits, if it is declared to say the same again."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The four parts of an action completion time, in seconds. They add up to `act_s`."""

    queue_s: float
    prepare_s: float
    run_s: float
    overhead_s: float
    act_s: float


@dataclass(slots=True)
class ActionRecord:
    """One accepted action. Times are on the server's monotonic clock."""

    request: ActionRequest
    submitted: float
    submitted_unix_s: float
    output: OutputStore
    state: State = State.WAITING
    token: int = 0
    node: str = ""
    cores: int = 0
    """Granted at its start; `grown` and `shrunk` count how often that changed while it ran."""
    grown: int = 0
    shrunk: int = 0
    stretches: Stretches | None = None
    """What it had when, if that changed."""
    granted: float | None = None
    sandbox_wait_s: float = 0.0
    """How much of the time before the grant its sandbox was starting: prepare, not queue."""
    started: float | None = None
    ended: float | None = None
    released: float | None = None
    """When all that it was granted was free again."""
    result: RunResult | None = None
    error: TangramError | None = None
    same_as: str = ""
    """The action whose answer it got, or waits for."""
    cached: bool = False
    """It got another action's answer."""
    watchers: int = 0
    """Calls that wait for its end now."""
    asked_at: float = 0.0
    """When somebody last asked for it; with no watcher it is detached since then."""
    answered: bool = False
    """Somebody was told its end: only then it may be forgotten early."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it runs, or has ended without."""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return self.request.action.id

    def told(self) -> Self:
        """For an answer to its client: once it holds the end, it need not be kept for long."""
        self.answered = self.answered or self.state.ended
        return self

    def start(self, now: float) -> None:
        """It runs from now on, unless its end was written first."""
        if self.state.ended:
            return
        self.started = now
        self.state = State.RUNNING
        self.began.set()

    def note_resize(self, before: int, cores: int, now: float) -> None:
        """Its lease has `cores` instead of `before`."""
        if self.state.ended or self.started is None or cores == before:
            return
        if self.stretches is None:
            self.stretches = Stretches(before, self.started)
        self.stretches.change(cores, now)
        self.grown += cores > before
        self.shrunk += cores < before

    def finish(
        self,
        now: float,
        state: State,
        *,
        result: RunResult | None = None,
        error: TangramError | None = None,
    ) -> bool:
        """Write its end. The first end wins: False if it had one."""
        if self.state.ended:
            return False
        self.state, self.ended, self.result, self.error = state, now, result, error
        if result is not None:
            self.output.finish(result.stdout_bytes, result.stderr_bytes)
        else:
            self.output.finish()
        self.began.set()
        self.done.set()
        return True

    def timing(self, now: float) -> Timing:
        """The parts so far; final once it has ended."""
        end = self.ended if self.ended is not None else now
        act = end - self.submitted
        granted = self.granted if self.granted is not None else end
        queue = max(0.0, granted - self.submitted - self.sandbox_wait_s)
        started = self.started if self.started is not None else end
        prepare = self.sandbox_wait_s + max(0.0, started - granted)
        run = self.result.run_s if self.result else max(0.0, end - started)
        return Timing(queue, prepare, run, max(0.0, act - queue - prepare - run), act)


@dataclass(frozen=True, slots=True)
class TrajectoryRequest:
    trajectory: Trajectory
    spec: SandboxSpec
    labels: Mapping[str, str]
    ttl_s: float | None
    fingerprint: bytes
    snapshot: str = ""
    """Of its task, to start from."""
    forked_from: str = ""


class TrajectoryState(StrEnum):
    """States of a trajectory, as in `tangram.v1.TrajectoryState`."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    LOST = "lost"
    CLOSED = "closed"


@dataclass(slots=True)
class TrajectoryRecord:
    request: TrajectoryRequest
    opened: float
    state: TrajectoryState = TrajectoryState.WAITING
    node: str = ""
    token: int = 0
    message: str = ""
    info: SandboxInfo | None = None
    placed: float | None = None
    ready_at: float | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is ready, lost or closed: nothing to wait for any more."""
    lost_because: EndReason | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once its sandbox is removed."""
    files: KnownFiles | None = None
    """What is known of its files, where answers are kept for its task."""

    host: SandboxHost | None = None
    """Who starts it, once it is placed."""

    @property
    def id(self) -> str:
        return self.request.trajectory.id

    def starting_s(self, since: float, now: float) -> float:
        """How long of this span its sandbox was starting."""
        if self.placed is None or self.ready_at is None:
            return 0.0
        return max(0.0, min(now, self.ready_at) - max(since, self.placed))

    def preparing(self) -> Preparation | None:
        """What its start waits for now, if that is something of note."""
        if self.host is None or self.state is not TrajectoryState.STARTING:
            return None
        return self.host.preparing(self.id)


@dataclass(frozen=True, slots=True)
class Units:
    total: int
    granted: int
    free: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    launcher: str
    cores: Units
    memory: Units
    limits: Mapping[str, str]
    sandboxes: Mapping[str, int]
    corrections: Mapping[str, int]
    """Control file -> how often it was put right."""
    warm: Sequence[WarmStatus]


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    name: str
    limit: int
    in_use: int
    description: str
    closed_for_s: float | None


@dataclass(frozen=True, slots=True)
class QueueStatus:
    resource: ResourceId
    waiting: int
    reason: str
    """The commonest."""
    waiting_units: int
    units_by_reason: Mapping[WaitReason, int]


@dataclass(frozen=True, slots=True)
class TaskStatus:
    name: str
    waiting: int
    running: int
    ended: int
    trajectories: int
    mean: Timing | None


@dataclass(frozen=True, slots=True)
class PoolStatus:
    nodes: tuple[NodeStatus, ...]
    quotas: tuple[QuotaStatus, ...]
    queues: tuple[QueueStatus, ...]
    tasks: tuple[TaskStatus, ...]
    uptime_s: float
    busiest: tuple[ActionRecord, ...]
    """The longest waiting and running now, at most 50."""


@dataclass(frozen=True, slots=True)
class Span:
    part: str
    reason: str
    resource: str
    sentence: str
    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    at_s: float
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class ActionExplanation:
    record: ActionRecord
    spans: tuple[Span, ...]
    sentence: str
    ahead: int
    predicted_run_s: float | None
    predicted_from: str
    """given, learned, task, kind or nothing."""
    considered: tuple[tuple[int, float], ...]
    """(amount, predicted run time in seconds) from which its amount is chosen."""
    history: tuple[HistoryEntry, ...]
