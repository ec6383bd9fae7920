"""The pulls of one node: each image once whoever asks, a few at a time, tried again, visible.

What one try does is the caller's; how long to pause, `retrying`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ...errors import ManagerError, PermanentError, TemporaryError
from .progress import PullProgress
from .resolutions import Resolved
from .retrying import TRIES_MAX, Sleep, retrying
from .sharing import SharedWork

FAILURES_KEPT_MAX = 1000
"""Images whose last pull failed, remembered with the reason until one succeeds."""


class PullState(StrEnum):
    QUEUED = "queued"
    PULLING = "pulling"
    BACKING_OFF = "backing-off"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Want:
    """An image that somebody wants here."""

    name: str
    """As users call it."""
    digest: str
    """Which one; "" where no registry has said yet what the name means."""
    policy: str
    """missing, always or never: whether a registry is asked at all while the digest is open."""


@dataclass(slots=True)
class Pull:
    """One pull as it stands."""

    want: Want
    state: PullState = PullState.QUEUED
    progress: PullProgress = field(default_factory=PullProgress)
    message: str = ""
    """Why it pauses or failed."""

    def describe(self) -> str:
        """For `explain`, after "its image": what happens to it."""
        if self.state is PullState.QUEUED:
            return f"{self.want.name} waits for its turn to be pulled"
        if self.state is PullState.BACKING_OFF:
            return f"{self.want.name} is tried again soon: {self.message}"
        done = self.progress.fraction
        return f"{self.want.name} is being pulled" + (f", {done:.0%} done" if done else "")


Try = Callable[[Pull], Awaitable[Resolved]]
"""Brings the image; its `image_id` is set then. Raises ManagerError."""


class Pulls:
    """All methods belong to one event loop."""

    def __init__(self, attempt: Try, *, at_once: int, sleep: Sleep = asyncio.sleep) -> None:
        self._attempt = attempt
        self._sleep = sleep
        self._slots = asyncio.Semaphore(at_once)
        self._shared: SharedWork[Resolved] = SharedWork()
        self._live: dict[Want, Pull] = {}
        self._failed: dict[str, Pull] = {}

    async def bring(self, want: Want) -> Resolved:
        """The image once it is here. Joins a pull under way; cancelled, it leaves it, and
        the last that leaves ends it. Raises UnknownImage, PermanentError."""
        return await self._shared.join(want, lambda: self._pull(want))

    def find(self, want: Want) -> Pull | None:
        """The pull under way."""
        return self._live.get(want)

    def all(self) -> list[Pull]:
        """Those under way, then those that failed last."""
        live = {want.name for want in self._live}
        failed = (pull for name, pull in self._failed.items() if name not in live)
        return [*self._live.values(), *failed]

    async def aclose(self) -> None:
        await self._shared.aclose()

    async def _pull(self, want: Want) -> Resolved:
        pull = self._live[want] = Pull(want)
        try:
            brought = await self._with_retries(pull)
        except ManagerError as problem:
            self._note_failure(pull, problem)
            if isinstance(problem, TemporaryError):
                raise PermanentError(
                    f"image {want.name} could not be had in {TRIES_MAX} tries: {problem}",
                    field="image",
                ) from problem
            raise
        finally:
            if self._live.get(want) is pull:
                del self._live[want]
        self._failed.pop(want.name, None)
        return brought

    async def _with_retries(self, pull: Pull) -> Resolved:
        def told(error: TemporaryError, delay_s: float) -> None:
            pull.state, pull.message = PullState.BACKING_OFF, str(error)

        async for attempt in retrying(self._sleep, told):
            with attempt:
                # Held for the try alone: who pauses lets others pull.
                async with self._slots:
                    pull.state = PullState.PULLING
                    return await self._attempt(pull)
        raise AssertionError("the last try returns or raises")

    def _note_failure(self, pull: Pull, problem: ManagerError) -> None:
        pull.state, pull.message = PullState.FAILED, str(problem)
        self._failed.pop(pull.want.name, None)
        self._failed[pull.want.name] = pull
        while len(self._failed) > FAILURES_KEPT_MAX:
            del self._failed[next(iter(self._failed))]
