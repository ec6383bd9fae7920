"""`serve --record`: what ran here becomes a trace that `tangram simulate` reads, a trajectory a line.

A line is written when its trajectory has ended, or the server stops. Only actions with a result are
part of it; others are time between two actions. Recording never harms an action: what cannot be
kept or written is counted and said once. What the fields mean stands in `scheduler.simulator.trace`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import FailedPrecondition
from ..scheduler import Action, Amounts, Profile
from ..scheduler.model import CORES, DURATION_MIN_S, MEMORY, QUOTA_PREFIX
from ..scheduler.simulator.trace import (
    ACTIONS_MAX,
    CALL,
    EXEC,
    TRAJECTORIES_MAX,
    TraceAction,
    TraceTrajectory,
    write_line,
)
from .records import ActionRecord, TrajectoryRecord

log = logging.getLogger(__name__)

HELD_MAX = 500_000
"""Actions of open trajectories that are remembered, some 400 bytes each; more are left out."""

WAITING_MAX = 1_000
"""Lines that wait for the disk; more are left out: a disk that stands still must not fill memory."""

TRACE_BYTES_MAX = 4 << 30
"""Of one file: about ten million actions. Beyond, nothing more is written."""

NAMES_MAX = 10_000
"""Traces beside each other, each with the next number."""

DIGITS = 6
"""Of times in seconds: a microsecond, the least duration of a trace."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Step:
    """One action that has a result. Times on the server's clock."""

    submitted: float
    ended: float
    action: TraceAction
    """With its gap still to be filled in."""


@dataclass(slots=True)
class _Line:
    """A trajectory's line while it grows. A call without a trajectory has one of its own."""

    start: float
    trajectory: TraceTrajectory
    record: TrajectoryRecord | None = None
    steps: list[_Step] = field(default_factory=list)


class TraceRecorder:
    """Writes one trace file. All methods belong to one event loop."""

    def __init__(
        self, path: Path, *, predict: Callable[[Action], Profile], clock: Callable[[], float]
    ) -> None:
        """Where `path` has a trace already, the next free number goes into the name. `predict` tells
        how an action scales. Raises FailedPrecondition if no file can be written there."""
        self.path, self._file = _create(path)
        self.written = 0
        """Actions in the file."""
        self.dropped = 0
        """Actions that should be there: the disk failed, or a limit was reached."""
        self._predict = predict
        self._began = clock()
        self._open: dict[str, _Line] = {}
        self._held = 0
        self._names: set[str] = set()
        self._waiting: deque[tuple[str, int]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._bytes = 0

    def opened(self, record: TrajectoryRecord) -> None:
        """A trajectory was accepted."""
        owner = record.request.trajectory
        trajectory = TraceTrajectory(
            id=record.id,
            task=owner.task,
            start_s=self._since_began(record.opened),
            actions=(),
            group=owner.group,
            step=owner.step,
            priority=owner.priority,
            tenant=owner.tenant,
            reserved_mib=owner.reserve.get(MEMORY, 0) / MIB,
        )
        self._open[record.id] = _Line(record.opened, trajectory, record)

    def released(self, record: ActionRecord) -> None:
        """What an action was granted is free again: the last that happens to it."""
        try:
            self._keep(record)
        except Exception:  # no action may fail for the trace's sake
            log.exception("recording action %s failed", record.id)

    def over(self, trajectory: str) -> None:
        """It ended, and all its actions are released. Silent if it is unknown."""
        if (line := self._open.pop(trajectory, None)) is None:
            return
        try:
            self._write(line)
        except Exception:
            log.exception("recording trajectory %s failed", trajectory)

    def _keep(self, record: ActionRecord) -> None:
        if record.result is None or record.ended is None or record.granted is None:
            return
        name = record.request.action.trajectory
        line = self._open.get(name) if name is not None else self._line_of_its_own(record)
        if line is None or self._held >= HELD_MAX or len(line.steps) >= ACTIONS_MAX:
            self._drop(1, "too many actions of open trajectories are remembered")
            return
        line.steps.append(_step(record, self._predict))
        self._held += 1
        if name is None:
            self._write(line)

    async def aclose(self) -> None:
        """Write what is open and all that waits. Idempotent."""
        for name in list(self._open):
            self.over(name)
        if self._writing is not None:
            await self._writing
        if self._file >= 0:
            file, self._file = self._file, -1
            await asyncio.to_thread(os.close, file)

    def _line_of_its_own(self, record: ActionRecord) -> _Line:
        action = record.request.action
        trajectory = TraceTrajectory(
            id=action.id,
            task=action.task,
            start_s=self._since_began(record.submitted),
            actions=(),
            group=action.group,
            step=action.step,
            tenant=action.tenant,
        )
        return _Line(record.submitted, trajectory)

    def _since_began(self, at: float) -> float:
        return round(max(0.0, at - self._began), DIGITS)

    def _write(self, line: _Line) -> None:
        self._held -= len(line.steps)
        if not line.steps:
            return
        if len(self._waiting) >= WAITING_MAX or len(self._names) >= TRAJECTORIES_MAX:
            self._drop(len(line.steps), "the disk is too slow, or the trace has too many lines")
            return
        image, digest = _image(line.record)
        trajectory = replace(
            line.trajectory,
            id=self._unique(line.trajectory.id),
            actions=tuple(_with_gaps(line.start, line.steps)),
            image=image,
            image_digest=digest,
        )
        self._waiting.append((write_line(trajectory) + "\n", len(line.steps)))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._drain(), name="record trace")

    def _unique(self, name: str) -> str:
        """An id may come back once the server has forgotten it; in a trace it may not."""
        number, found = 1, name
        while found in self._names:
            number += 1
            found = f"{name}~{number}"
        self._names.add(found)
        return found

    async def _drain(self) -> None:
        while self._waiting:
            line, actions = self._waiting[0]
            data = line.encode()
            try:
                if self._bytes + len(data) > TRACE_BYTES_MAX:
                    raise OSError(f"the trace has {TRACE_BYTES_MAX >> 30} GiB, the limit")
                await asyncio.to_thread(_append, self._file, data)
            except OSError as error:
                self._drop(actions, str(error))
            else:
                self.written += actions
                self._bytes += len(data)
            self._waiting.popleft()

    def _drop(self, actions: int, why: str) -> None:
        if not self.dropped:
            log.error("the trace %s is not whole from now on: %s", self.path, why)
        self.dropped += actions


def _image(record: TrajectoryRecord | None) -> tuple[str, str]:
    """What ran, and its digest, which is known once it has started."""
    if record is None or record.info is None or not record.info.image_digest:
        return "", ""
    return record.request.spec.image, record.info.image_digest


def _create(path: Path) -> tuple[Path, int]:
    """A file of this name, or of a numbered one, that is empty, and its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    for number in range(1, NAMES_MAX):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            file = os.open(name, flags, 0o644)
        except OSError as error:
            raise FailedPrecondition(
                f"the trace {name} cannot be written: {error.strerror}; use --record FILE in a"
                " folder that exists",
                field="record",
            ) from error
        if not os.fstat(file).st_size:
            return name, file
        os.close(file)
    raise FailedPrecondition(
        f"{NAMES_MAX} traces stand beside {path}: use another name", field="record"
    )


def _append(file: int, data: bytes) -> None:
    """All of it or, if the disk fails, nothing. Raises OSError."""
    size_bytes = os.fstat(file).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
    except OSError:
        os.ftruncate(file, size_bytes)
        raise


def _with_gaps(start: float, steps: Sequence[_Step]) -> Iterator[TraceAction]:
    """In the order of their submission, each after the latest end before it: actions that ran at
    the same time come one after the other."""
    latest = start
    for step in sorted(steps, key=lambda step: step.submitted):
        gap_s = round(max(0.0, step.submitted - latest), DIGITS)
        yield replace(step.action, gap_s=gap_s)
        latest = max(latest, step.ended)


def _step(record: ActionRecord, predict: Callable[[Action], Profile]) -> _Step:
    """`record` has a result."""
    result, granted, ended = record.result, record.granted, record.ended
    assert result is not None
    assert granted is not None
    assert ended is not None
    action = record.request.action
    released = record.released if record.released is not None else ended
    timed = TraceAction(
        kind=EXEC if action.kind == EXEC else CALL,
        gap_s=0.0,
        duration_s=round(max(result.run_s, DURATION_MIN_S), DIGITS),
        memory_mib=round(result.peak_memory_bytes / MIB, 1),
        timeout_s=action.timeout_s,
        priority=action.priority,
        overhead_s=round(record.sandbox_wait_s, DIGITS),
        prepare_s=round(max(0.0, ended - granted - result.run_s), DIGITS),
        release_s=round(max(0.0, released - ended), DIGITS),
    )
    if action.kind == EXEC:
        return _Step(record.submitted, ended, _with_cores(timed, record, predict))
    ((kind, amounts),) = action.demand.cluster.items()
    quota = kind.removeprefix(QUOTA_PREFIX)
    call = replace(timed, quota=quota, quota_amount=amounts.minimum)
    return _Step(record.submitted, ended, call)


def _with_cores(
    timed: TraceAction, record: ActionRecord, predict: Callable[[Action], Profile]
) -> TraceAction:
    """With its demand, and its duration with one core. A choice of cores of which nobody knows how
    the action scales is written as the amount that it got: nothing is known of others."""
    action = record.request.action
    amounts, profile = action.demand.of(CORES), Profile()
    malleable = False
    if amounts.elastic:
        known = predict(action)
        if known.serial is not None or known.elasticity:
            profile, malleable = known, action.malleable
        else:
            amounts = Amounts.exactly(record.cores)
    held_s: Mapping[int, float] = {record.cores: timed.duration_s}
    if record.stretches is not None:
        held_s = record.stretches.until(record.ended or record.submitted)
    work_s = sum(s * profile.efficiency(m) * m for m, s in held_s.items())
    one_core_s = timed.duration_s * work_s / (sum(held_s.values()) or 1.0)
    return replace(
        timed,
        amounts=amounts,
        duration_s=round(max(one_core_s, DURATION_MIN_S), DIGITS),
        serial=profile.serial,
        elasticity=profile.elasticity,
        malleable=malleable,
    )
