"""Same code again: answers of actions that are declared deterministic, kept and given once more.

A key stands for all that such a result may depend on: task, sandbox, what is known of its files, command,
amounts and limits. Two actions of one key run once: the second is answered with what the first said, or
joins it if that still runs. What a command leaves behind in its sandbox is not brought about again; who
declares it says that nobody needs it. The dispatcher asks; nothing here waits or runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from cachetools import LRUCache

from ..managers.base import Outcome, RunResult, Stream
from ..scheduler import State
from .known_files import DIGEST_BYTES, KnownFiles
from .records import ActionRecord, TrajectoryRecord, TrajectoryRequest

ANSWER_COST_BYTES = 1024
"""What an answer takes beside its output."""
ALL_TASKS = "*"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an action said. `action` is the one that ran."""

    action: str
    result: RunResult
    output: Mapping[Stream, list[tuple[int, bytes]]]
    """Kept pieces by offset."""

    @property
    def size(self) -> int:
        pieces = (data for kept in self.output.values() for _, data in kept)
        return ANSWER_COST_BYTES + sum(map(len, pieces))

    def give(self, record: ActionRecord, now: float) -> None:
        """End `record` with it. It took no time to run and used nothing."""
        for stream, pieces in self.output.items():
            for offset, data in pieces:
                record.output.write(stream, offset, data)
        record.same_as, record.cached = self.action, True
        again = replace(self.result, run_s=0.0, cpu_seconds=0.0, peak_memory_bytes=0)
        record.finish(now, State.FINISHED, result=again)


@dataclass(frozen=True, slots=True)
class _Run:
    """One that runs in a sandbox with these files."""

    files: KnownFiles
    key: bytes = b""
    """Empty: its effect on them is unknown."""
    known: bytes = b""
    """What was known of the files when it began."""


class AnswerCache:
    """At most `max_bytes` of answers, the least recently used go first."""

    def __init__(self, tasks: Collection[str], max_bytes: int) -> None:
        """`tasks` are those whose actions are answered from here; "*" stands for all."""
        self.counts: Counter[str] = Counter()
        """How deterministic actions were served: hit, joined, run."""
        self._tasks = frozenset(tasks)
        self._answers: LRUCache[bytes, Answer] = LRUCache(max_bytes, lambda answer: answer.size)
        self._running: dict[bytes, ActionRecord] = {}
        self._open: dict[str, _Run] = {}
        """Those that run, by id."""

    def opened(self, record: TrajectoryRecord) -> None:
        """From now on what happens to the files of this trajectory counts, if its task wants it."""
        task = record.request.trajectory.task
        if self._tasks & {task, ALL_TASKS}:
            record.files = KnownFiles(_sandbox_digest(record.request))

    def key(self, record: ActionRecord, trajectory: TrajectoryRecord) -> bytes | None:
        """Of an action that may be answered from here; None for any other."""
        command, info = record.request.deterministic, trajectory.info
        files = trajectory.files.digest() if trajectory.files is not None and command else None
        if files is None or (trajectory.request.spec.image and info is None):
            return None  # What the image's name means is known once its sandbox has started.
        image = info.image_digest.encode() if info is not None else b""
        task = trajectory.request.trajectory.task.encode()
        whole = b"\0".join((task, image, files, command))
        return blake2b(whole, digest_size=DIGEST_BYTES).digest()

    def find(self, key: bytes) -> Answer | None:
        answer: Answer | None = self._answers.get(key)
        return answer

    def running(self, key: bytes) -> ActionRecord | None:
        """Who runs for this key now."""
        return self._running.get(key)

    def began(self, record: ActionRecord, trajectory: TrajectoryRecord, key: bytes | None) -> None:
        """It is run: for its key, if it has one; with an unknown effect on the files, unless it is
        declared to have none."""
        files = trajectory.files
        if files is None:
            return
        if not record.request.deterministic:
            self._open[record.id] = _Run(files)
            files.begin_change()
            return
        known = files.digest()
        if key is None or known is None:
            return
        self.counts["run"] += 1
        self._running[key] = record
        self._open[record.id] = _Run(files, key, known)

    def ended(self, record: ActionRecord) -> None:
        """An action has ended; if it `began`, its answer is kept if it is one, and if nothing else
        happened to the files meanwhile."""
        run = self._open.pop(record.id, None)
        if run is None:
            return
        if not run.key:
            run.files.end_change()
            return
        del self._running[run.key]
        answer = _answer_of(record)
        if answer is None or run.files.digest() != run.known:
            return
        if answer.size <= self._answers.maxsize:
            self._answers[run.key] = answer


def _answer_of(record: ActionRecord) -> Answer | None:
    """What it said, if the command came to an end of its own."""
    result = record.result
    if record.state is not State.FINISHED or result is None:
        return None
    if result.outcome is not Outcome.FINISHED:
        return None
    return Answer(record.id, result, {s: record.output.pieces(s) for s in Stream})


def _sandbox_digest(request: TrajectoryRequest) -> bytes:
    """Equal for sandboxes that were asked for alike."""
    spec = request.spec
    own = replace(spec, trajectory="", task="", labels={}, env={})
    asked = replace(own, concurrency=1, pull="")
    text = repr((asked, sorted(spec.env.items())))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=DIGEST_BYTES).digest()
