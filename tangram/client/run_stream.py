"""Many actions over one RunMany call: a message each way instead of a call each, at half the cost.

Matches answers to askers by id, nothing else: when a stream is opened, and what a failure means, is
`connection`'s to decide.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from ..v1 import actions_pb2, types_pb2

IN_FLIGHT_MAX = 1024
"""Of one stream. The server reads 4096 ahead; beyond this an action gets a call of its own."""
REQUEST_BYTES_MAX = 64 << 10
"""Larger requests would keep all others waiting behind them."""


class RunStream:
    """One call, from its first action until none is in flight. An idle stream ends at once: a fork
    right after the last answer must find nothing of gRPC at work."""

    def __init__(self, call: Any) -> None:
        """`call` is gRPC's, just begun."""
        self._call: Any = call
        self.ended = False
        self._waiting: dict[str, asyncio.Future[actions_pb2.RunManyResponse]] = {}
        self._abandoned: set[str] = set()
        """Ids whose asker has gone, but whose answer is still to come."""
        self._outbox: asyncio.Queue[actions_pb2.RunRequest] = asyncio.Queue()
        self._tasks: tuple[asyncio.Task[None], ...] = (
            asyncio.create_task(self._write(call)),
            asyncio.create_task(self._read(call)),
        )

    def takes(self, spec: types_pb2.ActionSpec) -> bool:
        """Whether it can run this one too: answers are told apart by their ids alone."""
        return (
            len(self._waiting) < IN_FLIGHT_MAX
            and spec.id not in self._waiting
            and spec.id not in self._abandoned
        )

    async def run(self, spec: types_pb2.ActionSpec) -> actions_pb2.RunManyResponse:
        """Its answer. Raises what ended the stream: AioRpcError, or CancelledError if it was closed
        at this side."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting[spec.id] = answer
        self._outbox.put_nowait(actions_pb2.RunRequest(action=spec))
        try:
            response: actions_pb2.RunManyResponse = await answer
            return response
        except asyncio.CancelledError:
            self._abandoned.add(spec.id)
            raise
        finally:
            del self._waiting[spec.id]
            if not self._waiting:
                await self._end()

    async def _end(self) -> None:
        """Hang up, which takes no round trip, and let go of all that is gRPC's."""
        self.ended = True
        call, self._call = self._call, None
        tasks, self._tasks = self._tasks, ()
        if call is None:
            return
        call.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _write(self, call: Any) -> None:
        """A task of its own: cancelling whoever is in the middle of a write ends the whole call."""
        try:
            while True:
                await call.write(await self._outbox.get())
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return  # The call has ended; the reader says why.

    async def _read(self, call: Any) -> None:
        problem: Exception | None = None
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self._abandoned.discard(response.id)
                answer = self._waiting.get(response.id)
                if answer is not None and not answer.done():
                    answer.set_result(response)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            problem = error
        finally:
            self.ended = True
            for answer in self._waiting.values():
                if answer.done():
                    continue
                if problem is not None:
                    answer.set_exception(problem)
                else:
                    answer.cancel()
