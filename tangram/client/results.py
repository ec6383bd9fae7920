"""What the client answers: plain frozen data, made from the wire's messages. Nothing is asked here.

Times are float seconds, sizes are bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import CommandFailed, Internal, TangramError
from ..v1 import actions_pb2, trajectories_pb2, types_pb2
from .connection import error_from_message

_STATE_NAMES = {
    number: name.removeprefix("STATE_").lower() for name, number in types_pb2.State.items()
}
_OUTCOME_NAMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in types_pb2.Outcome.items()
}
_TRAJECTORY_STATE_NAMES = {
    number: name.removeprefix("TRAJECTORY_STATE_").lower()
    for name, number in trajectories_pb2.TrajectoryState.items()
}


def outcome_of(outcome: int) -> str:
    """The name of an outcome on the wire."""
    return _OUTCOME_NAMES[outcome]


STREAM_NAMES = {
    actions_pb2.OutputResponse.STREAM_STDOUT: "stdout",
    actions_pb2.OutputResponse.STREAM_STDERR: "stderr",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Where an action's completion time went; queue + prepare + run + overhead = act."""

    queue: float
    """Waiting for a grant."""
    prepare: float
    """Sandbox start and resize."""
    run: float
    """The command or the request itself."""
    overhead: float
    """All else: transport, journal, scheduling."""
    act: float
    """In a result: from the call of the SDK to its answer. Elsewhere as the server saw it."""


@dataclass(frozen=True, slots=True)
class Usage:
    cpu_seconds: float
    peak_memory: int
    """Bytes."""


@dataclass(frozen=True)
class Result:
    """What a command did. How it ended is never an exception, unless `check=True` asks for it."""

    outcome: str
    """finished, timed_out, out_of_memory, out_of_disk or too_many_processes."""
    exit_code: int | None
    """None if it has none; -N on signal N."""
    stdout_bytes: bytes
    stderr_bytes: bytes
    truncated: bool
    """Output was above the limit: its head and tail are kept."""
    signal: int | None
    cores: int
    """How many were granted."""
    node: str
    action_id: str
    timing: Timing
    usage: Usage
    cached: bool = False
    """The command did not run: another action's answer was given again."""

    @property
    def ok(self) -> bool:
        """It finished with exit code 0."""
        return self.outcome == "finished" and self.exit_code == 0

    @cached_property
    def stdout(self) -> str:
        """As UTF-8; what is not, is replaced."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @cached_property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("utf-8", "replace")

    def check(self) -> Result:
        """Itself if it is ok. Raises CommandFailed with the end of stderr."""
        if self.ok:
            return self
        how = f"exit code {self.exit_code}" if self.outcome == "finished" else self.outcome
        last_line = self.stderr.strip().rpartition("\n")[2][:200]
        raise CommandFailed(
            f"the command ended with {how}" + (f": {last_line}" if last_line else ""),
            result=self,
            action_id=self.action_id,
        )


@dataclass(frozen=True)
class CallResult:
    """What the server was answered to an HTTP request. Any status is a result; no answer
    raises ProviderUnavailable."""

    outcome: str
    """finished or timed_out."""
    status: int | None
    """Of HTTP; None without an answer."""
    headers: Mapping[str, str]
    body: bytes
    node: str
    action_id: str
    timing: Timing

    @property
    def ok(self) -> bool:
        """It was answered with a status of 200-299."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body's JSON. Raises ValueError if it is none."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class ActionInfo:
    """An action as it stands at the server."""

    id: str
    task: str
    trajectory: str
    kind: str
    """exec, call or permit."""
    state: str
    """waiting, preparing, running, finished, failed, cancelled or expired."""
    wait_reason: str
    """Why it waits; empty if it does not."""
    cores: int
    node: str
    timing: Timing
    priority: int
    group: str
    step: int | None
    labels: Mapping[str, str]
    submitted_unix: float
    summary: str
    """The command or the URL, cut to one line."""
    outcome: str
    """Once finished; else empty."""
    exit_code: int | None
    error: TangramError | None
    """Once failed, cancelled or expired."""

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an action's life. Seconds since its submission."""

    part: str
    """queue, prepare or run."""
    reason: str
    resource: str
    sentence: str
    start: float
    end: float | None
    """None while it lasts."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    at: float
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Considered:
    """One of the amounts that an action could get."""

    cores: int
    run: float
    """Predicted, in seconds."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an action stands, and why."""

    action: ActionInfo
    sentence: str
    ahead: int
    """Older actions in the same queue."""
    predicted_run: float | None
    """Seconds, with the cores that it got, or else with the least that it takes."""
    predicted_from: str
    """Where that comes from: given (by the caller), learned (from actions of its task that run the
    same command), task, kind (from others of its task and kind, of its kind), or nothing."""
    considered: tuple[Considered, ...]
    """What its cores are chosen from; empty if it has no choice, or nothing is known of how it
    scales."""
    spans: tuple[Span, ...]
    history: tuple[HistoryEntry, ...]


@dataclass(frozen=True, slots=True)
class TrajectoryInfo:
    """A trajectory as it stands at the server."""

    id: str
    task: str
    state: str
    """waiting, starting, ready, lost or closed."""
    node: str
    launcher: str
    image: str
    message: str
    """Why it is lost."""
    error: TangramError | None
    """Once lost: Lost, or SandboxFailed if it never started."""
    limits: Mapping[str, str]
    """memory, disk, pids, shm, cores -> hard or soft."""
    workdir: str
    image_digest: str = ""
    """What its task means by the image, once it has started: of the manifest, or the id of an image
    that came from no registry."""
    preparing: str = ""
    """While it starts: what it waits for, such as "image-pull: python:3.12 is being pulled"."""
    forked_from: str = ""
    """The trajectory whose files it started with."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A trajectory's files as they were, kept by a name of its task."""

    name: str
    trajectory: str
    """Of which it was made."""
    node: str
    image: str
    size_bytes: int
    """That it added on disk: what it shares with others counts once."""
    skipped: tuple[str, ...]
    """Sentences on what of the files could not be kept."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file of a sandbox; of a symlink itself, not of what it leads to."""

    name: str
    kind: str
    """file, directory, symlink or other."""
    size: int
    mode: int
    modified_unix: float
    target: str
    """Of a symlink."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What an upload or a download has copied."""

    files: int
    size: int
    """Bytes."""
    skipped: tuple[str, ...]
    """Paths of what is neither file, folder nor link, what could not be read, and, of a download, links
    that lead out of the tree."""


def timing_from(message: types_pb2.Timing, act: float | None = None) -> Timing:
    """`act` is what the SDK measured itself, if it did: overhead is then the rest of it."""
    queue, prepare, run = message.queue_s, message.prepare_s, message.run_s
    if act is None:
        return Timing(queue, prepare, run, message.overhead_s, message.act_s)
    return Timing(queue, prepare, run, max(0.0, act - queue - prepare - run), act)


def result_from(action: types_pb2.Action, act: float) -> Result:
    """The result of an ended exec. Raises its error if it has none."""
    raise_failure(action)
    result = action.result
    return Result(
        outcome=_OUTCOME_NAMES[result.outcome],
        exit_code=result.exit_code if result.HasField("exit_code") else None,
        stdout_bytes=result.stdout,
        stderr_bytes=result.stderr,
        truncated=result.truncated,
        signal=result.signal if result.HasField("signal") else None,
        cores=action.cores,
        node=action.node,
        action_id=action.id,
        timing=timing_from(action.timing, act),
        usage=Usage(result.usage.cpu_seconds, result.usage.peak_memory_bytes),
        cached=result.cached,
    )


def call_result_from(action: types_pb2.Action, act: float) -> CallResult:
    """The result of an ended call. Raises its error if it has none."""
    raise_failure(action)
    answered = action.result.HasField("http")
    http = action.result.http
    return CallResult(
        outcome=_OUTCOME_NAMES[action.result.outcome],
        status=http.status if answered else None,
        headers=dict(http.headers),
        body=http.body,
        node=action.node,
        action_id=action.id,
        timing=timing_from(action.timing, act),
    )


def raise_failure(action: types_pb2.Action) -> None:
    """Raise what Tangram failed at, or why the action was cancelled or expired."""
    if action.state == types_pb2.STATE_FINISHED:
        return
    if action.HasField("error"):
        error = error_from_message(action.error)
    else:
        error = Internal(f"the action ended as {_STATE_NAMES[action.state]}, and no error says why")
    error.action_id = error.action_id or action.id
    raise error


def action_info(message: types_pb2.Action) -> ActionInfo:
    result = message.result
    finished = message.HasField("result")
    return ActionInfo(
        id=message.id,
        task=message.task,
        trajectory=message.trajectory,
        kind=message.kind,
        state=_STATE_NAMES[message.state],
        wait_reason=message.wait_reason,
        cores=message.cores,
        node=message.node,
        timing=timing_from(message.timing),
        priority=message.priority,
        group=message.group,
        step=message.step if message.HasField("step") else None,
        labels=dict(message.labels),
        submitted_unix=message.submitted_unix_s,
        summary=message.summary,
        outcome=_OUTCOME_NAMES[result.outcome] if finished else "",
        exit_code=result.exit_code if finished and result.HasField("exit_code") else None,
        error=error_from_message(message.error) if message.HasField("error") else None,
    )


def explanation_from(message: actions_pb2.ExplainResponse) -> Explanation:
    return Explanation(
        action=action_info(message.action),
        sentence=message.sentence,
        ahead=message.ahead,
        predicted_run=message.predicted_run_s if message.HasField("predicted_run_s") else None,
        predicted_from=message.predicted_from,
        considered=tuple(Considered(one.amount, one.run_s) for one in message.considered),
        spans=tuple(
            Span(
                part=span.part,
                reason=span.reason,
                resource=span.resource,
                sentence=span.sentence,
                start=span.start_s,
                end=span.end_s if span.HasField("end_s") else None,
            )
            for span in message.spans
        ),
        history=tuple(
            HistoryEntry(entry.at_s, entry.name, entry.detail) for entry in message.history
        ),
    )


def trajectory_info(message: trajectories_pb2.Trajectory) -> TrajectoryInfo:
    return TrajectoryInfo(
        id=message.id,
        task=message.task,
        state=_TRAJECTORY_STATE_NAMES[message.state],
        node=message.node,
        launcher=message.launcher,
        image=message.image,
        message=message.message,
        error=error_from_message(message.error) if message.HasField("error") else None,
        limits=dict(message.limits),
        workdir=message.workdir,
        image_digest=message.image_digest,
        preparing=message.preparing,
        forked_from=message.forked_from,
    )


def snapshot_info(message: trajectories_pb2.Snapshot) -> SnapshotInfo:
    return SnapshotInfo(
        name=message.name,
        trajectory=message.trajectory,
        node=message.node,
        image=message.image,
        size_bytes=message.size_bytes,
        skipped=tuple(message.skipped),
    )


def file_stat(message: trajectories_pb2.FileInfo) -> FileStat:
    return FileStat(
        name=message.name,
        kind=message.kind,
        size=message.size,
        mode=message.mode,
        modified_unix=message.modified_unix_s,
        target=message.target,
    )
