"""A background process in asynchronous code: a program in a sandbox that lives on between actions."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Expired, FailedPrecondition, TangramError
from ..v1 import trajectories_pb2 as pb
from . import requests
from .connection import error_from_message
from .methods import STOP_PROCESS, WAIT_PORT, WAIT_PROCESS
from .results import outcome_of

if TYPE_CHECKING:
    from .aio import AsyncClient

POLL_S = 30.0
"""Of one question for output or an end: a server that restarts is asked again."""
PORT_POLL_S = 1.0
"""Of one question for a port: between two it is looked whether the process still runs."""
GRACE_S_DEFAULT = 5.0
LAST_WORDS_CHARACTERS = 500
"""Of its output, in the message that it ended before it listened."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process as it stands."""

    id: str
    running: bool
    exit_code: int | None
    """Once it has ended; -N on signal N."""
    outcome: str
    """finished, once it has ended; else empty."""
    output_bytes: int
    """Written so far, kept or not."""
    error: TangramError | None
    """Why it was lost, or could not be started."""


@dataclass(frozen=True, slots=True)
class Log:
    """A piece of what a process wrote, stdout and stderr as they came."""

    data: bytes
    offset: int
    """Of its first byte, in all that was written. Above the one that was asked for where bytes were
    cut: the head and the tail of 1 MiB are kept."""

    @property
    def end(self) -> int:
        """From where to read on."""
        return self.offset + len(self.data)

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


class AsyncProcess:
    """Runs beside the trajectory's actions without cores of its own: on the least weight of the
    machine while none runs, on the action's cores while one does. It ends with the sandbox."""

    def __init__(
        self,
        client: AsyncClient,
        trajectory: str,
        ensure_open: Callable[[], Awaitable[None]],
        id: str,
    ) -> None:
        """For `AsyncTrajectory.start` and `AsyncTrajectory.process`. Raises InvalidRequest."""
        self._client = client
        self._ensure_open = ensure_open
        self.id = requests.identifier(id, "id")
        self._trajectory = trajectory

    async def info(self) -> ProcessInfo:
        """As it stands. Raises NotFound, TrajectoryClosed."""
        return process_info((await self._ask(pb.WaitProcessRequest())).process)

    async def is_running(self) -> bool:
        return (await self.info()).running

    async def logs(self, offset: int = 0) -> Log:
        """What it has written at or after `offset`, as far as it is kept: where bytes were cut, what
        comes before the cut. Ask again from `.end`."""
        request = pb.WaitProcessRequest(offset=requests.offset(offset))
        answer = await self._ask(request)
        start, pieces = answer.offset, [answer.data]
        while answer.data:
            request.offset = answer.offset + len(answer.data)
            answer = await self._ask(request)
            if answer.offset != request.offset:  # Bytes were cut here.
                break
            pieces.append(answer.data)
        return Log(b"".join(pieces), start)

    async def follow(self, offset: int = 0) -> AsyncGenerator[Log, None]:
        """Pieces of what it writes from `offset` on, as they come, until it ends."""
        request = pb.WaitProcessRequest(offset=requests.offset(offset), wait_s=POLL_S)
        while True:
            answer = await self._ask(request)
            if answer.data:
                yield Log(answer.data, answer.offset)
                request.offset = answer.offset + len(answer.data)
            elif not answer.process.running:
                return

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the server waits, call by call
    ) -> ProcessInfo:
        """Wait for its end, `timeout` seconds at most. Raises Expired, and Lost where it was lost."""
        if timeout is not None:
            requests.seconds_or_zero(timeout, "timeout")
        give_up_at = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left_s = max(0.0, give_up_at - time.monotonic())
            answer = await self._ask(pb.WaitProcessRequest(wait_s=min(left_s, POLL_S)))
            info = process_info(answer.process)
            if info.error is not None:
                raise info.error
            if not info.running:
                return info
            if left_s == 0:
                raise Expired(f"process {self.id} still runs after {timeout:g} s")

    async def wait_port(
        self,
        port: int,
        timeout: float = 30.0,  # noqa: ASYNC109 - the server waits, call by call
    ) -> None:
        """Wait until a program in the sandbox listens on a port of 127.0.0.1 or ::1, which needs no
        network. Raises Expired, and FailedPrecondition as soon as this process has ended."""
        number = requests.port(port)
        give_up_at = time.monotonic() + requests.seconds(timeout, "timeout")
        while True:
            left_s = max(0.0, give_up_at - time.monotonic())
            request = pb.WaitPortRequest(
                trajectory=self._trajectory, port=number, timeout_s=min(left_s, PORT_POLL_S)
            )
            await self._ensure_open()
            if (await self._client.connection.unary(WAIT_PORT, request)).open:
                return
            info = await self.info()
            if not info.running:
                raise info.error or FailedPrecondition(await self._ended_early(info, number))
            if left_s == 0:
                raise Expired(f"nobody listens on port {port} after {timeout:g} s")

    async def stop(self, grace: float = GRACE_S_DEFAULT) -> ProcessInfo:
        """Ask it to end (SIGTERM), and kill it with all that it started after `grace` seconds. Returns
        when it has ended. Idempotent."""
        await self._ensure_open()
        request = pb.StopProcessRequest(
            trajectory=self._trajectory,
            id=self.id,
            grace_s=requests.seconds_or_zero(grace, "grace"),
        )
        answer = await self._client.connection.unary(STOP_PROCESS, request)
        return process_info(answer.process)

    async def _ended_early(self, info: ProcessInfo, port: int) -> str:
        said = (await self.logs(max(0, info.output_bytes - LAST_WORDS_CHARACTERS))).text.strip()
        return (
            f"process {self.id} ended with exit code {info.exit_code} before it listened on port "
            f"{port}" + (f": {said}" if said else "")
        )

    async def _ask(self, request: pb.WaitProcessRequest) -> pb.WaitProcessResponse:
        request.trajectory, request.id = self._trajectory, self.id
        await self._ensure_open()
        return await self._client.connection.unary(WAIT_PROCESS, request)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r} of {self._trajectory!r})"


def process_info(message: pb.Process) -> ProcessInfo:
    """From the wire."""
    result = message.result if message.HasField("result") else None
    has_code = result is not None and result.HasField("exit_code")
    return ProcessInfo(
        id=message.id,
        running=message.running,
        exit_code=result.exit_code if result is not None and has_code else None,
        outcome=outcome_of(result.outcome) if result is not None else "",
        output_bytes=message.output_bytes,
        error=error_from_message(message.error) if message.HasField("error") else None,
    )
