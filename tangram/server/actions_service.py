"""tangram.v1.Actions: run, follow, cancel and explain actions; acquire and release permits.

The end of an RPC never ends an action, with one exception: a passed deadline of a call that runs or
acquires. Whatever else ends a call leaves its action detached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress

from ..errors import InvalidRequest, NotFound
from ..limits import PAGE_ACTIONS_MAX, SIZE_BYTES_MAX
from ..managers.base import Stream
from ..scheduler import State
from ..v1 import actions_pb2, types_pb2
from ..v1.actions_pb2_grpc import ActionsServicer
from . import validate
from .answers import action_message, error_message, explanation_message, output_message
from .convert import action_request, domain_state
from .dispatcher import Dispatcher
from .records import ActionRecord
from .service import CallDeadline, Context, method, public_error

STREAM_IN_FLIGHT_MAX = 4096
"""Actions of one RunMany stream at a time: beyond it the stream is not read, and the client waits."""

OUTPUT_CHUNK_BYTES = 256 << 10
"""Of one message of Output: small enough to be live, large enough to be cheap."""

PAGE_SIZE_DEFAULT = 100

PAGE_BYTES_MAX = 4 << 20
"""Of one page of List, which ends early: actions with many labels would not fit in one message."""


class ActionsService(ActionsServicer):
    """Stateless: all it knows is the dispatcher."""

    def __init__(
        self, dispatcher: Dispatcher, *, output_limit_bytes: int, tenants: Mapping[str, str]
    ) -> None:
        """`output_limit_bytes` is kept of each stream of an action that does not say; `tenants` maps
        tasks to whose they are."""
        self._dispatcher = dispatcher
        self._tenants = tenants
        self._output_limit_bytes = output_limit_bytes

    # -- running -----------------------------------------------------------------------------

    @method
    async def Run(
        self, request: actions_pb2.RunRequest, context: Context
    ) -> actions_pb2.RunResponse:
        deadline = CallDeadline(context)
        in_flight: set[str] = set()
        try:
            record = await self.run(request.action, in_flight)
        except asyncio.CancelledError:
            await self._cancel_if_passed(deadline, in_flight)
            raise
        return actions_pb2.RunResponse(action=self.answer(record))

    @method
    async def RunMany(
        self, requests: AsyncIterator[actions_pb2.RunRequest], context: Context
    ) -> None:
        deadline = CallDeadline(context)
        stream = _RunManyStream(self)
        try:
            await stream.serve(requests, context)
        except asyncio.CancelledError:
            await self._cancel_if_passed(deadline, stream.in_flight)
            raise

    @method
    async def Submit(
        self, request: actions_pb2.SubmitRequest, context: Context
    ) -> actions_pb2.SubmitResponse:
        record = await self._submit(request.action)
        return actions_pb2.SubmitResponse(action=self.answer(record))

    @method
    async def Wait(
        self, request: actions_pb2.WaitRequest, context: Context
    ) -> actions_pb2.WaitResponse:
        timeout_s = None
        if request.HasField("timeout_s"):
            timeout_s = validate.seconds_or_zero(request.timeout_s, "timeout_s")
        record = await self._dispatcher.wait(validate.identifier(request.id, "id"), timeout_s)
        return actions_pb2.WaitResponse(action=self._answer_with_reason(record))

    @method
    async def Output(self, request: actions_pb2.OutputRequest, context: Context) -> None:
        offsets = {
            Stream.STDOUT: _offset(request.stdout_offset, "stdout_offset"),
            Stream.STDERR: _offset(request.stderr_offset, "stderr_offset"),
        }
        record = self._dispatcher.ask(validate.identifier(request.id, "id"))
        if not request.follow:
            await _write_output(record, offsets, context)
            return
        # Following is asking for the action: while somebody does, it is not detached.
        asking = asyncio.ensure_future(self._dispatcher.wait(record.id))
        try:
            while True:
                closed = record.output.closed
                if not await _write_output(record, offsets, context):
                    if closed:
                        return
                    await record.output.changed()
        finally:
            asking.cancel()

    # -- asking ------------------------------------------------------------------------------

    @method
    async def Get(
        self, request: actions_pb2.GetRequest, context: Context
    ) -> actions_pb2.GetResponse:
        record = self._dispatcher.ask(validate.identifier(request.id, "id"))
        return actions_pb2.GetResponse(action=self._answer_with_reason(record))

    @method
    async def List(
        self, request: actions_pb2.ListRequest, context: Context
    ) -> actions_pb2.ListResponse:
        size = validate.integer(request.page_size, "page_size", 0, PAGE_ACTIONS_MAX)
        size = size or PAGE_SIZE_DEFAULT
        states = {domain_state(state) for state in request.states}
        records = _after(self._dispatcher.records(), request.page_token)
        matching = (record for record in records if _matches(record, request, states))
        answer = actions_pb2.ListResponse()
        size_bytes, now = 0, self._dispatcher.now()
        last: ActionRecord | None = None
        for record in matching:
            if last is not None and (len(answer.actions) == size or size_bytes > PAGE_BYTES_MAX):
                answer.next_page_token = _page_token(last)
                break
            action = action_message(record, now, output=False)
            answer.actions.append(action)
            size_bytes += action.ByteSize()
            last = record
        return answer

    @method
    async def Explain(
        self, request: actions_pb2.ExplainRequest, context: Context
    ) -> actions_pb2.ExplainResponse:
        explanation = self._dispatcher.explain(validate.identifier(request.id, "id"))
        return explanation_message(explanation, self._dispatcher.now())

    # -- ending ------------------------------------------------------------------------------

    @method
    async def Cancel(
        self, request: actions_pb2.CancelRequest, context: Context
    ) -> actions_pb2.CancelResponse:
        if request.action:
            validate.identifier(request.action, "action")
        cancelled = await self._dispatcher.cancel(
            action=request.action,
            trajectory=request.trajectory,
            group=request.group,
            step=request.step if request.HasField("step") else None,
            task=request.task,
            reason=validate.text(request.reason, "reason", validate.LABEL_VALUE_CHARACTERS_MAX),
        )
        return actions_pb2.CancelResponse(cancelled=cancelled)

    # -- permits -----------------------------------------------------------------------------

    @method
    async def Acquire(
        self, request: actions_pb2.AcquireRequest, context: Context
    ) -> actions_pb2.AcquireResponse:
        if request.action.WhichOneof("body") != "permit":
            raise InvalidRequest(
                "body must be a permit: Run takes exec and call", field="action.permit"
            )
        deadline = CallDeadline(context)
        record = await self._submit(request.action)
        try:
            await self._dispatcher.wait_running(record.id)
        except asyncio.CancelledError:
            await self._cancel_if_passed(deadline, [record.id])
            raise
        if record.error is not None:
            raise record.error
        return actions_pb2.AcquireResponse(action=self.answer(record))

    @method
    async def Release(
        self, request: actions_pb2.ReleaseRequest, context: Context
    ) -> actions_pb2.ReleaseResponse:
        retry_after_s = None
        if request.HasField("retry_after_s"):
            retry_after_s = validate.seconds_or_zero(request.retry_after_s, "retry_after_s")
        identifier = validate.identifier(request.id, "id")
        record = await self._dispatcher.release_permit(identifier, retry_after_s)
        return actions_pb2.ReleaseResponse(action=self.answer(record))

    # -- shared ------------------------------------------------------------------------------

    async def run(self, spec: types_pb2.ActionSpec, in_flight: set[str]) -> ActionRecord:
        """Submit and wait; its id is in `in_flight` from acceptance to its end."""
        record = await self._submit(spec)
        in_flight.add(record.id)
        await self._dispatcher.wait(record.id)
        in_flight.discard(record.id)
        return record

    async def _submit(self, spec: types_pb2.ActionSpec) -> ActionRecord:
        request = action_request(
            spec,
            now=self._dispatcher.now(),
            output_limit_bytes=self._output_limit_bytes,
            tenants=self._tenants,
        )
        return await self._dispatcher.submit(request)

    def answer(self, record: ActionRecord) -> types_pb2.Action:
        return action_message(record, self._dispatcher.now())

    def _answer_with_reason(self, record: ActionRecord) -> types_pb2.Action:
        """As it stands, with why it does not run yet."""
        reason = wait_reason(self._dispatcher, record)
        return action_message(record, self._dispatcher.now(), wait_reason=reason)

    async def _cancel_if_passed(self, deadline: CallDeadline, action_ids: Iterable[str]) -> None:
        if not deadline.passed():
            return
        for action_id in action_ids:
            with suppress(NotFound):
                await self._dispatcher.cancel(
                    action=action_id, reason="the deadline of the call that ran it passed"
                )


def wait_reason(dispatcher: Dispatcher, record: ActionRecord) -> str:
    """Why an action does not run yet: a value of WaitReason; empty when it does not wait."""
    if record.state is not State.WAITING:
        return ""
    spans = dispatcher.explain(record.id).spans
    return spans[-1].reason if spans else ""


class _RunManyStream:
    """One RunMany call: a reader, a task per action, and a writer, since a call has one at a time."""

    def __init__(self, service: ActionsService) -> None:
        self.in_flight: set[str] = set()
        self._service = service
        self._slots = asyncio.Semaphore(STREAM_IN_FLIGHT_MAX)
        self._answers: asyncio.Queue[actions_pb2.RunManyResponse | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(
        self, requests: AsyncIterator[actions_pb2.RunRequest], context: Context
    ) -> None:
        """Until the client has sent all and every action has ended. Cancelled, it waits for none:
        the actions stay in `in_flight`."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (answer := await self._answers.get()) is not None:
                await context.write(answer)
                self._slots.release()
            await reader
        finally:
            tasks = [reader, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[actions_pb2.RunRequest]) -> None:
        try:
            async for request in requests:
                await self._slots.acquire()
                task = asyncio.create_task(self._run(request.action))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._answers.put_nowait(None)

    async def _run(self, spec: types_pb2.ActionSpec) -> None:
        try:
            record = await self._service.run(spec, self.in_flight)
            answer = actions_pb2.RunManyResponse(id=spec.id, action=self._service.answer(record))
        except Exception as error:  # noqa: BLE001 - one bad action must not end the stream
            refusal = error_message(public_error(error))
            answer = actions_pb2.RunManyResponse(id=spec.id, error=refusal)
        self._answers.put_nowait(answer)


async def _write_output(record: ActionRecord, offsets: dict[Stream, int], context: Context) -> bool:
    """Write what is kept beyond `offsets` and move them; whether there was anything."""
    wrote = False
    for stream, start_offset in offsets.items():
        offset, data = record.output.read(stream, start_offset)
        while data:
            wrote = True
            for start in range(0, len(data), OUTPUT_CHUNK_BYTES):
                piece = data[start : start + OUTPUT_CHUNK_BYTES]
                await context.write(output_message(stream, offset + start, piece))
            offsets[stream] = offset + len(data)
            offset, data = record.output.read(stream, offsets[stream])
    return wrote


def _offset(value: int, field: str) -> int:
    return validate.integer(value, field, 0, SIZE_BYTES_MAX, "bytes")


def _matches(
    record: ActionRecord, request: actions_pb2.ListRequest, states: AbstractSet[State]
) -> bool:
    action, labels = record.request.action, record.request.labels
    return (
        (not request.task or action.task == request.task)
        and (not request.trajectory or action.trajectory == request.trajectory)
        and (not request.group or action.group == request.group)
        and (not request.HasField("step") or action.step == request.step)
        and (not states or record.state in states)
        and all(labels.get(key) == value for key, value in request.labels.items())
    )


def _page_token(last: ActionRecord) -> str:
    """Where the next page begins: behind this one, even if it is forgotten by then."""
    return f"{last.submitted!r}/{last.id}"


def _after(records: Iterable[ActionRecord], token: str) -> Iterator[ActionRecord]:
    """Those of `records`, newest first, that come after the one of the token."""
    if not token:
        yield from records
        return
    submitted, _, last_id = token.partition("/")
    try:
        last_submitted = float(submitted)
    except ValueError:
        raise InvalidRequest(
            "page_token must be a next_page_token of this server, or empty", field="page_token"
        ) from None
    found = False
    for record in records:
        if record.submitted > last_submitted:
            continue
        if record.submitted == last_submitted and not found:
            found = record.id == last_id
            continue
        yield record
