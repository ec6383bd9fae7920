"""The way to the server: a channel per event loop, errors as Tangram's own, and the one retry loop.

Everything above speaks of requests and answers; everything about gRPC channels, statuses and
lost connections stands here and in `forking`. No request is built and no answer is read here.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from .. import __version__, versions
from ..errors import (
    ERROR_METADATA_KEY,
    Cancelled,
    InvalidRequest,
    Overloaded,
    TangramError,
    TooLarge,
    Unavailable,
    from_reason,
    from_status,
)
from ..limits import DEFAULT_SERVER, KEEPALIVE_MS, MESSAGE_BYTES_MAX, SERVER_VARIABLE
from ..v1 import actions_pb2, types_pb2
from ..versions import CLIENT_VERSION_KEY, SERVER_VERSION_KEY
from . import forking
from .methods import RUN, RUN_MANY, Answer, Method, Request
from .run_stream import REQUEST_BYTES_MAX, RunStream

PATIENCE_S = 30.0
"""How long a call asks again without any progress: a server restarts within it."""
PROGRESS_S = 1.0
"""A call that a reached server kept this long was served: a later drop is a new failure."""
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
STREAM_FROM = 3
"""Actions in flight from which they share a stream: opening one pays from the second action on."""
TELL_TIMEOUT_S = 5.0
"""Who has interrupted a call does not want to wait."""
OVERLOAD_RETRIES_MAX = 8
"""A full queue names its own delay; who is sent away this often has to slow down himself."""
OVERLOAD_PAUSE_MAX_S = 30.0

_METADATA = ((CLIENT_VERSION_KEY, __version__),)
_FIRST_METADATA = (*_METADATA, (SERVER_VERSION_KEY, "?"))
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # gRPC's own backoff would leave a restarted server unseen for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Channels of one process share connections otherwise, and a forked child is another process.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # A server whose machine vanished says nothing: a call that waits for its action would for ever.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 3),
    ("grpc.http2.max_pings_without_data", 0),
)
# Statuses of a lost connection when they come without our own error beside them.
_LOST_CONNECTION = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def resolve_server(server: str | None) -> str:
    """`HOST:PORT` of the argument, else of $TANGRAM_SERVER, else the default.

    Raises InvalidRequest, naming where the bad address came from.
    """
    source = "server" if server is not None else SERVER_VARIABLE
    address = server if server is not None else os.environ.get(SERVER_VARIABLE, DEFAULT_SERVER)
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536) or (
        ":" in host and not bracketed
    ):
        raise InvalidRequest(
            f"{source} must be HOST:PORT, such as {DEFAULT_SERVER}, not {address!r}", field=source
        )
    return address


class Channel:
    """One gRPC channel on one event loop, and its callables by method."""

    def __init__(self, address: str) -> None:
        self._grpc: grpc.aio.Channel | None = grpc.aio.insecure_channel(
            address, options=_CHANNEL_OPTIONS
        )
        self._callables: dict[str, Any] = {}
        self._stream: RunStream | None = None
        self._running = 0
        self.calls = 0
        """In flight now: a fork waits until they have let go of the channel."""
        self.met = False
        """Whether the server behind it has named its version, or was asked for it."""

    @property
    def ready(self) -> bool:
        grpc_channel = self._grpc
        return grpc_channel is not None and (
            grpc_channel.get_state() is grpc.ChannelConnectivity.READY
        )

    def callable(self, kind: str, method: Method[Request, Answer]) -> Any:
        """gRPC's callable of `kind` (unary_unary, ...), made once."""
        known = self._callables.get(method.path)
        if known is None:
            known = self._callables[method.path] = getattr(self._grpc, kind)(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
        return known

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of the next call."""
        return _METADATA if self.met else _FIRST_METADATA

    def meet(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """Check the server by the initial metadata of a call. Raises FailedPrecondition for one
        that is too far apart."""
        for key, value in metadata or ():
            if key == SERVER_VERSION_KEY:
                server = value if isinstance(value, str) else value.decode()
                versions.check(__version__, server, key)
        self.met = True

    async def run(self, spec: types_pb2.ActionSpec) -> types_pb2.Action:
        """One action to its end: over the stream if several are in flight, else by a call of its own.
        Raises what gRPC raises, and the TangramError that a message of the stream tells."""
        self._running += 1
        try:
            stream = self._stream_for(spec)
            if stream is None:
                request = actions_pb2.RunRequest(action=spec)
                call = self.callable("unary_unary", RUN)(request, metadata=self.metadata)
                answer: actions_pb2.RunResponse = await call
                if not self.met:
                    self.meet(await call.initial_metadata())
                return answer.action
            response = await stream.run(spec)
            if response.HasField("error"):
                raise error_from_message(response.error)
            return response.action
        finally:
            self._running -= 1

    def _stream_for(self, spec: types_pb2.ActionSpec) -> RunStream | None:
        """None where it has to have a call of its own."""
        if spec.ByteSize() > REQUEST_BYTES_MAX:
            return None
        stream = self._stream
        if stream is None or stream.ended:
            if self._running < STREAM_FROM or not self.met:
                return None
            call = self.callable("stream_stream", RUN_MANY)(metadata=self.metadata)
            stream = self._stream = RunStream(call)
        return stream if stream.takes(spec) else None

    async def aclose(self) -> None:
        """Close it; calls in flight see that and ask again on another one. Idempotent."""
        self._callables.clear()
        self._stream = None
        grpc_channel, self._grpc = self._grpc, None
        if grpc_channel is not None:
            await grpc_channel.close()


class Connection:
    """To one server, from whichever process and event loop it is used in.

    Opens its channel at first use there; nothing is sent before.
    """

    def __init__(self, address: str, *, patience_s: float = PATIENCE_S) -> None:
        self.address = address
        self.patience_s = patience_s
        self.closed = False
        self._channels: dict[asyncio.AbstractEventLoop, Channel] = {}
        forking.register(self)

    async def unary(
        self,
        method: Method[Request, Answer],
        request: Request,
        *,
        timeout_s: float | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """Ask until there is an answer or an error that asking again cannot mend.

        The request must be one that may arrive twice: ids make it so. `timeout_s` is per attempt,
        `patience_s` instead of the connection's.
        """
        retries = self.retries() if patience_s is None else Retries(patience_s)
        return await self._ask("unary_unary", method, lambda: request, retries, timeout_s)

    async def run(self, spec: types_pb2.ActionSpec) -> types_pb2.Action:
        """An action to its end, asked for as `unary` asks."""
        retries = self.retries()
        while True:
            channel = await self._channel()
            attempt = Attempt(self, channel)
            try:
                with attempt:
                    return await channel.run(spec)
            except TangramError as error:
                await retries.pause(error, served=attempt.served)

    async def client_stream(
        self, method: Method[Request, Answer], requests: Callable[[], AsyncIterator[Request]]
    ) -> Answer:
        """As `unary`; every attempt sends a fresh stream of `requests()`."""
        return await self._ask("stream_unary", method, requests, self.retries())

    async def _ask(
        self,
        kind: str,
        method: Method[Request, Answer],
        request: Callable[[], object],
        retries: Retries,
        timeout_s: float | None = None,
    ) -> Answer:
        while True:
            channel = await self._channel()
            attempt = Attempt(self, channel)
            try:
                with attempt:
                    call = channel.callable(kind, method)(
                        request(), timeout=timeout_s, metadata=channel.metadata
                    )
                    answer: Answer = await call
                    if not channel.met:
                        channel.meet(await call.initial_metadata())
                    return answer
            except TangramError as error:
                await retries.pause(error, served=attempt.served)

    async def server_stream(
        self, method: Method[Request, Answer], request: Request
    ) -> AsyncGenerator[Answer, None]:
        """The answers of one attempt: whoever reads knows from where to ask again (`Retries`)."""
        channel = await self._channel()
        call = channel.callable("unary_stream", method)(request, metadata=channel.metadata)
        try:
            while True:
                with Attempt(self, channel):
                    answer = await call.read()
                    if not channel.met:
                        channel.meet(await call.initial_metadata())
                if answer is grpc.aio.EOF:
                    return
                yield answer
        finally:
            call.cancel()

    def retries(self) -> Retries:
        """For one call that is asked attempt by attempt."""
        return Retries(self.patience_s)

    async def aclose(self) -> None:
        """Close this loop's channel and answer nothing more. Idempotent."""
        self.closed = True
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.aclose()

    async def _channel(self) -> Channel:
        if self.closed:
            raise Cancelled("this client is closed: make a new one")
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is not None:
            return channel
        await forking.passed()
        for gone in [known for known in self._channels if known.is_closed()]:
            del self._channels[gone]
        # Two tasks may both have waited: the second takes what the first has made.
        channel = self._channels.get(loop)
        if channel is None:
            channel = self._channels[loop] = Channel(self.address)
        return channel

    def channels(self) -> dict[asyncio.AbstractEventLoop, Channel]:
        """What is open now, for `forking`: emptied by `forget`."""
        return dict(self._channels)

    def forget(self) -> None:
        """Open new channels from here on: the old ones belong to another process, or are closed."""
        self._channels.clear()


class Attempt:
    """One attempt of a call: counts as in flight, and turns what gRPC raises into our errors."""

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel
        self._began_ready = channel.ready
        self._began = time.monotonic()
        self.served = False
        """Whether it failed only after a server that was reached had held it for a while."""

    def __enter__(self) -> None:
        self._channel.calls += 1

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._channel.calls -= 1
        if error is None:
            return
        self.served = self._began_ready and time.monotonic() - self._began >= PROGRESS_S
        if isinstance(error, grpc.aio.AioRpcError):
            ours = _error_of(error, self._connection.address)
            if isinstance(ours, Unavailable):
                self._channel.met = False  # Another server may come back.
            elif not self._channel.met:
                self._channel.meet(error.initial_metadata())
            raise ours from None
        if isinstance(error, asyncio.CancelledError | grpc.aio.UsageError) and not _is_cancelled():
            # Nobody cancelled the task: the channel was closed under the call. Its frames would
            # keep gRPC alive for as long as our error is, and a fork waits for gRPC's end.
            error.with_traceback(None)
            if self._connection.closed:
                raise Cancelled("the client was closed while this call was in flight") from None
            raise _unreachable(self._connection.address, "the channel was closed") from None


class Retries:
    """The one place that decides whether to ask again, and when. Used on the failure path alone."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._give_up_at: float | None = None
        self._pause_s = PAUSE_FIRST_S
        self._overloads = 0

    def progress(self) -> None:
        """The server has answered something: patience starts anew."""
        self._give_up_at = None
        self._pause_s = PAUSE_FIRST_S

    async def pause(self, error: TangramError, *, served: bool = False) -> None:
        """Return when it is time to ask again; raise `error` if there is no point in it."""
        if served:
            self.progress()
        if isinstance(error, Unavailable):
            await asyncio.sleep(self._pause_unavailable(error))
        elif isinstance(error, Overloaded) and error.retry_after is not None:
            self._overloads += 1
            if self._overloads > OVERLOAD_RETRIES_MAX or self._patience_s == 0:
                raise error
            # Spread over half of the delay again: the whole fleet was refused at once.
            wait_s = min(error.retry_after, OVERLOAD_PAUSE_MAX_S)
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.5))
        else:
            raise error

    def _pause_unavailable(self, error: Unavailable) -> float:
        now = time.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + self._patience_s
        if now >= self._give_up_at:
            raise error
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return min(pause_s, self._give_up_at - now)


async def tell(connection: Connection, method: Method[Request, Answer], request: Request) -> None:
    """What a cancelled caller leaves to be said: bounded in time, goes on if the caller is
    cancelled again, and silent about what the server says, to which it may be no news."""

    async def ask() -> None:
        with suppress(TangramError):
            await connection.unary(method, request, timeout_s=TELL_TIMEOUT_S, patience_s=0)

    await asyncio.shield(asyncio.create_task(ask()))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


_BROKEN_SEND = "Internal error from Core"
"""What grpcio says when a call ended while it was sending: the answer that ended it is lost."""


def _error_of(error: grpc.aio.AioRpcError, address: str) -> TangramError:
    """Our error of the trailing metadata, else what the bare status amounts to."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            return error_from_message(types_pb2.Error.FromString(value))
    details = error.details() or ""
    if error.code() in _LOST_CONNECTION or details == _BROKEN_SEND:
        return _unreachable(address, details)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return TooLarge(
            f"a message is above the limit of {MESSAGE_BYTES_MAX >> 20} MiB ({details}): "
            "pass less, or use a file",
            field="message",
        )
    return from_status(error.code().name, details)


def _unreachable(address: str, details: str) -> Unavailable:
    return Unavailable(
        f"no server answers at {address} ({details or 'connection lost'}): is `tangram serve` "
        f"running there? Name another with server=HOST:PORT or ${SERVER_VARIABLE}"
    )


def error_from_message(message: types_pb2.Error) -> TangramError:
    """The exception for a `tangram.v1.Error`."""
    return from_reason(
        message.reason,
        message.message,
        field=message.field,
        action_id=message.action_id,
        retry_after=message.retry_after_s if message.HasField("retry_after_s") else None,
    )
