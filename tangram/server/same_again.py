"""How an accepted command is served: with an answer that is kept, by joining the same one that runs, or
by the scheduler.

Which answers are kept, and what counts as the same, is `answer_cache`'s; ends and events are the
dispatcher's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from ..scheduler import End, EndReason, State
from .answer_cache import Answer, AnswerCache
from .records import ActionRecord, TrajectoryRecord


class SameAgain:
    """Serves the commands of one dispatcher. `answers` may keep none: then all are run."""

    def __init__(
        self,
        answers: AnswerCache,
        *,
        clock: Callable[[], float],
        run: Callable[[ActionRecord], Awaitable[None]],
        answered: Callable[[ActionRecord], None],
        end: Callable[[End, float], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`run` submits to the scheduler, `answered` is told of actions that ended without it, `end`
        writes an end that is not an answer."""
        self.answers = answers
        self._clock = clock
        self._run = run
        self._answered = answered
        self._end = end
        self._spawn = spawn
        self._following: dict[str, asyncio.Task[None]] = {}

    async def serve(self, record: ActionRecord, trajectory: TrajectoryRecord) -> None:
        """Returns when it is answered, or on its way. Raises what `run` raises."""
        key = self.answers.key(record, trajectory)
        if key is not None and (answer := self.answers.find(key)) is not None:
            self._give(record, answer, "hit")
        elif key is not None and (runs := self.answers.running(key)) is not None:
            record.same_as = runs.id
            follow = self._spawn(self._follow(record, trajectory, runs, key))
            self._following[record.id] = follow
        else:
            self.answers.began(record, trajectory, key)
            await self._run(record)

    def cancel(self, action_ids: Iterable[str], reason: str) -> None:
        """End those of them that only wait for another one's answer."""
        for action_id in action_ids:
            if (following := self._following.pop(action_id, None)) is not None:
                following.cancel()
                end = End(action_id, State.CANCELLED, EndReason.CANCELLED, reason)
                self._end(end, self._clock())

    async def _follow(
        self, record: ActionRecord, trajectory: TrajectoryRecord, runs: ActionRecord, key: bytes
    ) -> None:
        """Wait for the answer of the one that runs; without one, it is served by itself."""
        deadline = record.request.action.deadline
        left_s = None if deadline is None else max(0.0, deadline - self._clock())
        try:
            async with asyncio.timeout(left_s):
                await runs.done.wait()
        except TimeoutError:
            late = f"the deadline passed while it waited for action {runs.id}"
            self._end(End(record.id, State.EXPIRED, EndReason.EXPIRED, late), self._clock())
            return
        finally:
            self._following.pop(record.id, None)
        if (answer := self.answers.find(key)) is not None:
            self._give(record, answer, "joined")
        else:
            record.same_as = ""
            await self.serve(record, trajectory)

    def _give(self, record: ActionRecord, answer: Answer, served: str) -> None:
        self.answers.counts[served] += 1
        answer.give(record, self._clock())
        self._answered(record)
