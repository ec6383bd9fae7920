"""The domain's data to wire messages: what clients are told of actions, trajectories and the pool.

Converts only. The way in is `convert`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from .. import __version__
from ..errors import TangramError
from ..limits import MESSAGE_BYTES_MAX
from ..managers.base import FileInfo, ImageInfo, Outcome, RunResult, Stream
from ..scheduler import State
from ..v1 import actions_pb2, cluster_pb2, trajectories_pb2, types_pb2
from .processes import Process
from .records import (
    ActionExplanation,
    ActionRecord,
    PoolStatus,
    Timing,
    TrajectoryRecord,
    TrajectoryState,
    Units,
)
from .snapshots import Snapshot
from .trajectories import loss_of

ANSWER_OUTPUT_BYTES_MAX = MESSAGE_BYTES_MAX - (1 << 20)
"""Both streams in one answer, below the message limit; `Output` has all that is kept."""


def _wire_values(enum: Any, prefix: str, values: Iterable[str]) -> dict[str, Any]:
    """value -> the wire enum's value of the same name."""
    return {str(value): enum.Value(f"{prefix}_{value.upper()}") for value in values}


_STATES = _wire_values(types_pb2.State, "STATE", State)
_OUTCOMES = _wire_values(
    types_pb2.Outcome, "OUTCOME", (outcome for outcome in Outcome if outcome is not Outcome.KILLED)
)
_STREAMS = _wire_values(actions_pb2.OutputResponse.Stream, "STREAM", Stream)
_TRAJECTORY_STATES = _wire_values(
    trajectories_pb2.TrajectoryState,
    "TRAJECTORY_STATE",
    TrajectoryState,
)


def error_message(error: TangramError) -> types_pb2.Error:
    return types_pb2.Error(
        reason=str(error.reason),
        message=_utf8(str(error)),
        field=error.field,
        infra=error.infra,
        retryable=error.retryable,
        retry_after_s=error.retry_after,
        action_id=error.action_id,
    )


def action_message(
    record: ActionRecord, now: float, *, wait_reason: str = "", output: bool = True
) -> types_pb2.Action:
    """An action as it stands. Without `output` the result has neither stdout nor stderr nor the
    body of an HTTP answer: for lists."""
    request = record.request
    action = request.action
    message = types_pb2.Action(
        id=action.id,
        task=action.task,
        trajectory=action.trajectory,
        kind=action.kind,
        state=_STATES[record.state],
        wait_reason=wait_reason,
        cores=record.cores,
        node=record.node,
        timing=timing_message(record.timing(now)),
        priority=action.priority,
        group=action.group,
        step=action.step,
        submitted_unix_s=record.submitted_unix_s,
        summary=request.summary,
    )
    if request.labels:
        message.labels.update(request.labels)
    if record.result is not None and record.state is State.FINISHED:
        _fill_result(message.result, record, output)
    if record.error is not None:
        message.error.CopyFrom(error_message(record.error))
    return message


def timing_message(timing: Timing) -> types_pb2.Timing:
    return types_pb2.Timing(
        queue_s=timing.queue_s,
        prepare_s=timing.prepare_s,
        run_s=timing.run_s,
        overhead_s=timing.overhead_s,
        act_s=timing.act_s,
    )


def process_message(process: Process) -> trajectories_pb2.Process:
    """A background process as it stands, without its output."""
    message = trajectories_pb2.Process(
        id=process.id,
        running=process.running,
        output_bytes=process.output.produced(Stream.STDOUT),
    )
    if process.result is not None:
        _fill_end(message.result, process.result)
    if process.error is not None:
        message.error.CopyFrom(error_message(process.error))
    return message


def _fill_result(message: types_pb2.Result, record: ActionRecord, output: bool) -> None:
    result = record.result
    assert result is not None
    _fill_end(message, result)
    message.cached = record.cached
    if result.stdout_bytes or result.stderr_bytes:
        message.truncated = record.output.truncated
    if output and (result.stdout_bytes or result.stderr_bytes):
        stdout = record.output.joined(Stream.STDOUT)
        stderr = record.output.joined(Stream.STDERR)
        if len(stdout) + len(stderr) > ANSWER_OUTPUT_BYTES_MAX:
            stdout, stderr = (_cut(data, ANSWER_OUTPUT_BYTES_MAX // 2) for data in (stdout, stderr))
            message.truncated = True
        message.stdout, message.stderr = stdout, stderr
    if result.http is not None:
        message.http.status = result.http.status
        message.http.headers.update(
            {_utf8(name): _utf8(value) for name, value in result.http.headers.items()}
        )
        if output:
            message.http.body = result.http.body


def _cut(data: bytes, limit: int) -> bytes:
    """Head and tail of what does not fit an answer; `limit` in bytes, the marker comes on top."""
    if len(data) <= limit:
        return data
    marker = f"\n[... {len(data) - limit} bytes cut ...]\n".encode()
    return data[: limit // 2] + marker + data[len(data) - limit // 2 :]


def explanation_message(explanation: ActionExplanation, now: float) -> actions_pb2.ExplainResponse:
    record = explanation.record
    spans = explanation.spans
    waits = spans[-1].reason if spans and spans[-1].end_s is None else ""
    return actions_pb2.ExplainResponse(
        action=action_message(record, now, wait_reason=waits, output=False),
        spans=[
            actions_pb2.Span(
                part=span.part,
                reason=span.reason,
                resource=span.resource,
                sentence=span.sentence,
                start_s=span.start_s,
                end_s=span.end_s,
            )
            for span in spans
        ],
        sentence=explanation.sentence,
        ahead=explanation.ahead,
        predicted_run_s=explanation.predicted_run_s,
        predicted_from=explanation.predicted_from,
        considered=[
            actions_pb2.ConsideredAmount(amount=amount, run_s=run_s)
            for amount, run_s in explanation.considered
        ],
        history=[
            actions_pb2.HistoryEntry(at_s=entry.at_s, name=entry.name, detail=entry.detail)
            for entry in explanation.history
        ],
    )


def output_message(stream: Stream, offset: int, data: bytes) -> actions_pb2.OutputResponse:
    return actions_pb2.OutputResponse(stream=_STREAMS[stream], offset=offset, data=data)


def trajectory_message(record: TrajectoryRecord) -> trajectories_pb2.Trajectory:
    request, info = record.request, record.info
    message = trajectories_pb2.Trajectory(
        id=record.id,
        task=request.trajectory.task,
        state=_TRAJECTORY_STATES[record.state],
        node=record.node,
        image=request.spec.image,
        message=record.message,
        forked_from=request.forked_from,
    )
    if record.state == TrajectoryState.LOST:
        message.error.CopyFrom(error_message(loss_of(record)))
    if info is not None:
        message.launcher = info.launcher
        message.workdir = info.workdir
        message.limits.update(info.limits)
        message.image_digest = info.image_digest
    if (preparing := record.preparing()) is not None:
        message.preparing = f"{preparing.reason}: {preparing.sentence}"
    return message


def snapshot_message(snapshot: Snapshot) -> trajectories_pb2.Snapshot:
    return trajectories_pb2.Snapshot(
        name=snapshot.name,
        task=snapshot.task,
        trajectory=snapshot.trajectory,
        node=snapshot.kept.node,
        image=snapshot.kept.image,
        size_bytes=snapshot.kept.size_bytes,
        skipped=map(_utf8, snapshot.kept.skipped),
    )


def image_message(node: str, info: ImageInfo) -> cluster_pb2.Image:
    return cluster_pb2.Image(
        name=info.name,
        node=node,
        digest=info.digest,
        state=info.state,
        size_bytes=info.size_bytes,
        in_use=info.in_use,
        pinned=info.pinned,
        pulled=info.pulled,
        last_used_unix_s=info.last_used_unix_s,
        fraction=info.fraction,
        message=info.message,
    )


def file_message(info: FileInfo) -> trajectories_pb2.FileInfo:
    return trajectories_pb2.FileInfo(
        name=_utf8(info.name),
        kind=info.kind,
        size=info.size,
        mode=info.mode,
        modified_unix_s=info.modified_unix_s,
        target=_utf8(info.target),
    )


def status_message(
    status: PoolStatus, now: float, wait_reasons: Mapping[str, str]
) -> cluster_pb2.StatusResponse:
    """The pool now; `wait_reasons` are those of the busiest actions, by id."""
    return cluster_pb2.StatusResponse(
        version=__version__,
        nodes=[
            cluster_pb2.NodeStatus(
                name=node.name,
                launcher=node.launcher,
                cores=_units(node.cores),
                memory=_units(node.memory),
                limits=node.limits,
                sandboxes=node.sandboxes,
                warm=[cluster_pb2.WarmStatus(**asdict(warm)) for warm in node.warm],
            )
            for node in status.nodes
        ],
        quotas=[
            cluster_pb2.QuotaStatus(
                name=quota.name,
                limit=quota.limit,
                in_use=quota.in_use,
                description=quota.description,
                closed_for_s=quota.closed_for_s,
            )
            for quota in status.quotas
        ],
        queues=[
            cluster_pb2.QueueStatus(
                resource=str(queue.resource),
                waiting=queue.waiting,
                reason=queue.reason,
                waiting_units=queue.waiting_units,
            )
            for queue in status.queues
        ],
        tasks=[
            cluster_pb2.TaskStatus(
                name=task.name,
                waiting=task.waiting,
                running=task.running,
                ended=task.ended,
                trajectories=task.trajectories,
                mean=timing_message(task.mean) if task.mean is not None else None,
            )
            for task in status.tasks
        ],
        uptime_s=status.uptime_s,
        running=[
            action_message(record, now, wait_reason=wait_reasons.get(record.id, ""), output=False)
            for record in status.busiest
        ],
    )


def _units(units: Units) -> cluster_pb2.Units:
    return cluster_pb2.Units(total=units.total, granted=units.granted, free=units.free)


def _utf8(text: str) -> str:
    """Text that can travel: names of files and header values need not be UTF-8, and reach us with
    surrogates in place of their odd bytes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _fill_end(message: types_pb2.Result, result: RunResult) -> None:
    """How it ended, and what it used."""
    message.outcome = _OUTCOMES[result.outcome]
    if result.exit_code is not None:
        message.exit_code = result.exit_code
    if result.signal is not None:
        message.signal = result.signal
    if result.cpu_seconds or result.peak_memory_bytes:
        message.usage.cpu_seconds = result.cpu_seconds
        message.usage.peak_memory_bytes = result.peak_memory_bytes
