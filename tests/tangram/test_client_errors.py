"""What the SDK makes of errors, full queues and lost connections.

Most tests speak to a scripted server over loopback gRPC, which answers what it is told and keeps
what it was asked.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import pytest
from google.protobuf.message import Message

from tangram import __version__, errors, versions
from tangram.client import AsyncClient, AsyncPermit, methods
from tangram.client.connection import OVERLOAD_RETRIES_MAX
from tangram.errors import (
    FailedPrecondition,
    Internal,
    InvalidRequest,
    Overloaded,
    Reason,
    TangramError,
    TooLarge,
    Unavailable,
)
from tangram.managers.fake import FakeManager
from tangram.testing import serve_fake
from tangram.v1 import actions_pb2, cluster_pb2, trajectories_pb2, types_pb2
from tests.waiting import until

WAIT_S = 10.0
"""Longest that a test waits for a condition; reached only when it fails."""

METHODS = {
    method.path: method for method in vars(methods).values() if isinstance(method, methods.Method)
}
Status = tuple[grpc.StatusCode, str, types_pb2.Error | None]


class ScriptedServer(grpc.GenericRpcHandler):
    """Answers unary calls: per method what the script says next, else an empty answer."""

    def __init__(self) -> None:
        self.script: dict[str, deque[Message | Status | asyncio.Event]] = defaultdict(deque)
        self.asked: dict[str, list[Any]] = defaultdict(list)
        self.metadata: dict[str, str | bytes] = {}
        self.version: str | None = None
        """That it names when asked."""
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop(None)

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = METHODS[call.method]
        self.metadata = dict(call.invocation_metadata)

        async def answer(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
            self.asked[method.name].append(request)
            if self.version is not None and versions.SERVER_VERSION_KEY in self.metadata:
                await context.send_initial_metadata(((versions.SERVER_VERSION_KEY, self.version),))
            script = self.script[method.name]
            said: Any = script.popleft() if script else method.answer()
            if isinstance(said, asyncio.Event):
                await said.wait()
                said = method.answer()
            if isinstance(said, Message):
                return said
            code, details, error = said
            metadata = ((errors.ERROR_METADATA_KEY, error.SerializeToString()),) if error else ()
            await context.abort(code, details, metadata)

        return grpc.unary_unary_rpc_method_handler(
            answer, method.request.FromString, lambda message: message.SerializeToString()
        )


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client(scripted: ScriptedServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(scripted.address, task="job") as client:
        yield client


class Proxy:
    """A TCP proxy in front of the server whose connections a test can cut."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        ends = {writer, upstream_writer}
        self._writers |= ends
        await asyncio.gather(
            self._copy(reader, upstream_writer), self._copy(upstream_reader, writer)
        )
        self._writers -= ends

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # cut
        finally:
            writer.close()


def finished(**fields: Any) -> actions_pb2.RunResponse:
    result = types_pb2.Result(outcome=types_pb2.OUTCOME_FINISHED, exit_code=0)
    action = types_pb2.Action(state=types_pb2.STATE_FINISHED, result=result, **fields)
    return actions_pb2.RunResponse(action=action)


def test_every_method_is_one_of_the_wire_with_its_messages() -> None:
    files = [actions_pb2.DESCRIPTOR, trajectories_pb2.DESCRIPTOR, cluster_pb2.DESCRIPTOR]
    for method in METHODS.values():
        (service,) = [
            file.services_by_name[method.service]
            for file in files
            if method.service in file.services_by_name
        ]
        descriptor = service.methods_by_name[method.name]
        assert method.path == f"/{service.full_name}/{descriptor.name}"
        assert descriptor.input_type is method.request.DESCRIPTOR
        assert descriptor.output_type is method.answer.DESCRIPTOR


# Errors of the server


REFUSALS = [reason for reason in errors.TABLE if reason is not Reason.UNAVAILABLE]


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_refusal_arrives_as_the_error_that_the_server_meant(
    scripted: ScriptedServer, client: AsyncClient, reason: Reason
) -> None:
    kind, status = errors.TABLE[reason]
    message = types_pb2.Error(
        reason=reason, message="no, since", field="cores", action_id="a1", retry_after_s=None
    )
    scripted.script["Run"].append((grpc.StatusCode[status], "no, since", message))
    with pytest.raises(TangramError, match=r"^no, since$") as raised:
        await client.attach("t").exec(["true"])
    assert type(raised.value) is kind
    assert (raised.value.reason, raised.value.field) == (reason, "cores")
    assert (raised.value.action_id, raised.value.retry_after) == ("a1", None)
    assert type(pickle.loads(pickle.dumps(raised.value))) is kind
    assert len(scripted.asked["Run"]) == 1


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (types_pb2.STATE_FAILED, Reason.LOST),
        (types_pb2.STATE_FAILED, Reason.SANDBOX_FAILED),
        (types_pb2.STATE_CANCELLED, Reason.CANCELLED),
        (types_pb2.STATE_EXPIRED, Reason.EXPIRED),
    ],
)
async def test_an_action_that_did_not_finish_raises_its_error(
    scripted: ScriptedServer, client: AsyncClient, state: types_pb2.State, reason: Reason
) -> None:
    error = types_pb2.Error(reason=reason, message="so it went")
    action = types_pb2.Action(id="a1", state=state, error=error)
    scripted.script["Run"].append(actions_pb2.RunResponse(action=action))
    with pytest.raises(errors.TABLE[reason][0], match="so it went") as raised:
        await client.attach("t").exec(["true"])
    assert raised.value.action_id == "a1"


async def test_a_reason_of_a_newer_server_is_internal(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    error = types_pb2.Error(reason="on-fire", message="it burns")
    scripted.script["Status"].append((grpc.StatusCode.ABORTED, "it burns", error))
    with pytest.raises(Internal, match="it burns"):
        await client.status()


async def test_a_bare_status_is_the_nearest_error(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    scripted.script["Status"].append((grpc.StatusCode.UNIMPLEMENTED, "what?", None))
    with pytest.raises(Internal, match="UNIMPLEMENTED: what"):
        await client.status()
    scripted.script["Status"].append(
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)", None)
    )
    with pytest.raises(TooLarge, match="16 MiB"):
        await client.status()


async def test_every_call_names_the_version_of_the_client(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    await client.status()
    assert scripted.metadata["tangram-client-version"] == __version__


@pytest.mark.parametrize("version", [None, "0.0.9", "0.1.0", "0.1.7rc1", "0.2.0"])
async def test_a_server_of_a_version_that_works_with_ours_is_asked_for_it_once(
    scripted: ScriptedServer, client: AsyncClient, version: str | None
) -> None:
    assert __version__.startswith("0.1.")
    scripted.version = version
    await client.status()
    assert versions.SERVER_VERSION_KEY in scripted.metadata
    await client.status()
    assert versions.SERVER_VERSION_KEY not in scripted.metadata


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        ("0.3.0", "upgrade the client: pip install 'tangram-rl==0.3.*'"),
        ("1.1.0", "upgrade the client: pip install 'tangram-rl==1.1.*'"),
    ],
)
async def test_a_server_two_minor_versions_apart_is_refused_with_the_cure(
    scripted: ScriptedServer, client: AsyncClient, version: str, cure: str
) -> None:
    scripted.version = version
    for _ in range(2):  # Not only the first call is.
        with pytest.raises(FailedPrecondition) as raised:
            await client.status()
        assert f"client is version {__version__}, the server {version}" in str(raised.value)
        assert str(raised.value).endswith(cure)
        assert not raised.value.retryable


async def test_a_server_two_minor_versions_apart_is_refused_also_where_it_refuses_the_call(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    scripted.version = "0.3.0"
    scripted.script["Get"].append((grpc.StatusCode.NOT_FOUND, "no such action", None))
    with pytest.raises(FailedPrecondition, match="upgrade the client"):
        await client.get("a1")


async def test_a_server_that_names_no_proper_version_is_refused(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    scripted.version = "new"
    with pytest.raises(InvalidRequest, match=r"such as 0.1.0, not 'new'"):
        await client.status()


async def test_after_a_lost_connection_the_server_is_asked_for_its_version_again(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    await client.status()
    scripted.script["Status"].append((grpc.StatusCode.UNAVAILABLE, "Socket closed", None))
    scripted.version = "0.3.0"
    with pytest.raises(FailedPrecondition, match="upgrade the client"):
        await client.status()


async def test_an_action_is_sent_with_its_own_labels_alone(
    scripted: ScriptedServer,
) -> None:
    async with AsyncClient(scripted.address, priority=3, labels={"run": "7"}) as client:
        scripted.script["Run"].append(finished(id="a1"))
        trajectory = client.trajectory(group="g", step=2, labels={"part": "a"})
        await trajectory.exec(["true"], labels={"kind": "test"})
    [opened] = scripted.asked["Open"]
    [sent] = scripted.asked["Run"]
    assert dict(opened.trajectory.labels) == {"run": "7", "part": "a"}
    assert opened.trajectory.priority == 3
    assert dict(sent.action.labels) == {"kind": "test"}
    assert (sent.action.group, sent.action.HasField("step"), sent.action.priority) == ("", False, 0)


# Asking again


async def test_a_call_asks_again_with_the_same_id_and_body(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    gone: Status = (grpc.StatusCode.UNAVAILABLE, "Socket closed", None)
    scripted.script["Run"].extend([gone, gone, finished(id="a1")])
    assert (await client.attach("t").exec(["true"])).ok
    first, *others = scripted.asked["Run"]
    assert others == [first, first] and first.action.id


async def test_a_full_queue_is_asked_again_after_its_own_delay(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    error = types_pb2.Error(reason=Reason.OVERLOADED, message="full", retry_after_s=0.05)
    scripted.script["Run"].extend(
        [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", error), finished(id="a1")]
    )
    began = asyncio.get_running_loop().time()
    result = await client.attach("t").exec(["true"])
    assert asyncio.get_running_loop().time() - began >= 0.05
    assert result.ok and result.timing.act >= 0.05


async def test_a_queue_that_stays_full_is_told_to_the_caller(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    error = types_pb2.Error(reason=Reason.OVERLOADED, message="full", retry_after_s=0.001)
    full: Status = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", error)
    scripted.script["Run"].extend([full] * 100)
    with pytest.raises(Overloaded, match="full") as raised:
        await client.attach("t").exec(["true"])
    assert raised.value.infra and raised.value.retryable and raised.value.retry_after == 0.001
    assert len(scripted.asked["Run"]) == OVERLOAD_RETRIES_MAX + 1


async def test_a_server_that_is_not_there_is_named_with_the_cure() -> None:
    async with ScriptedServer() as gone:
        address = gone.address
    async with AsyncClient(address) as client:
        client.connection.patience_s = 0.3
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="`tangram serve`") as raised:
            await client.status()
        assert 0.3 <= asyncio.get_running_loop().time() - began < WAIT_S
    assert address in str(raised.value)
    assert raised.value.infra and raised.value.retryable
    assert isinstance(raised.value, ConnectionError)


# Interrupted callers


async def test_a_cancelled_call_is_told_to_the_server(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    trajectory = client.attach("t")
    scripted.script["Run"].append(asyncio.Event())
    running = asyncio.create_task(trajectory.exec(["true"], id="a1"))
    await until(lambda: bool(scripted.asked["Run"]))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [request.action for request in scripted.asked["Cancel"]] == ["a1"]


async def test_an_open_that_is_cancelled_leaves_nothing_open(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    scripted.script["Open"].append(asyncio.Event())
    opening = asyncio.create_task(client.trajectory(id="t1").open())
    await until(lambda: bool(scripted.asked["Open"]))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [request.id for request in scripted.asked["Close"]] == ["t1"]


async def test_a_first_use_that_is_cancelled_leaves_the_opening_to_the_others(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    answer = asyncio.Event()
    scripted.script["Open"].append(answer)
    trajectory = client.trajectory(id="t1")
    first, second = (asyncio.create_task(trajectory.open()) for _ in range(2))
    await until(lambda: bool(scripted.asked["Open"]))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    answer.set()
    await second
    assert len(scripted.asked["Open"]) == 1 and not scripted.asked["Close"]


async def test_a_close_in_the_middle_of_the_opening_closes_it(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    answer = asyncio.Event()
    scripted.script["Open"].append(answer)
    trajectory = client.trajectory(id="t1")
    opening = asyncio.create_task(trajectory.open())
    await until(lambda: bool(scripted.asked["Open"]))
    closing = asyncio.create_task(trajectory.close())
    answer.set()
    await asyncio.gather(opening, closing)
    assert [request.id for request in scripted.asked["Close"]] == ["t1"]


async def test_a_release_goes_on_when_its_caller_is_cancelled(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    permit = await held_permit(scripted, client)
    answer = asyncio.Event()
    scripted.script["Release"].append(answer)
    releasing = asyncio.create_task(permit.release())
    await until(lambda: bool(scripted.asked["Release"]))
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    again = asyncio.create_task(permit.release())
    await client.status()
    assert not again.done()
    answer.set()
    await again
    await permit.release()
    assert [request.id for request in scripted.asked["Release"]] == [permit.action_id]


async def test_a_release_that_failed_can_be_asked_again(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    permit = await held_permit(scripted, client)
    broken = types_pb2.Error(reason=Reason.INTERNAL, message="a bug")
    scripted.script["Release"].append((grpc.StatusCode.INTERNAL, "a bug", broken))
    with pytest.raises(Internal):
        await permit.release()
    await permit.release()
    await permit.release()
    assert [request.id for request in scripted.asked["Release"]] == [permit.action_id] * 2


async def test_a_permit_that_is_over_before_it_is_held_is_an_error(
    scripted: ScriptedServer, client: AsyncClient
) -> None:
    over = types_pb2.Action(state=types_pb2.STATE_FINISHED)
    scripted.script["Acquire"].append(actions_pb2.AcquireResponse(action=over))
    with pytest.raises(FailedPrecondition, match="before it was held"):
        await client.quota("search").acquire()


async def held_permit(scripted: ScriptedServer, client: AsyncClient) -> AsyncPermit:
    held = types_pb2.Action(state=types_pb2.STATE_RUNNING)
    scripted.script["Acquire"].append(actions_pb2.AcquireResponse(action=held))
    permit = client.quota("search")
    await permit.acquire()
    return permit


# The lease


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_trajectory_whose_close_failed_renews_the_lease_no_longer(
    scripted: ScriptedServer, cancelled: bool
) -> None:
    async with AsyncClient(scripted.address, task="job", lease=0.06) as client:
        trajectory = client.trajectory(id="t1")
        await trajectory.open()
        assert client.lease.renewing
        broken = types_pb2.Error(reason=Reason.INTERNAL, message="a bug")
        scripted.script["Close"].append(
            asyncio.Event() if cancelled else (grpc.StatusCode.INTERNAL, "a bug", broken)
        )
        closing = asyncio.create_task(trajectory.close())
        await until(lambda: bool(scripted.asked["Close"]))
        if cancelled:
            closing.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else Internal):
            await closing
        await until(lambda: not client.lease.renewing)
        await trajectory.close()
        assert {request.id for request in scripted.asked["Close"]} == {"t1"}


async def test_the_lease_is_renewed_while_a_trajectory_lives_and_no_longer(
    scripted: ScriptedServer,
) -> None:
    renewals = scripted.asked["KeepAlive"]
    async with AsyncClient(scripted.address, task="job", lease=0.06) as client:
        await client.status()
        assert renewals == []
        async with client.trajectory():
            await until(lambda: len(renewals) >= 3)
        renewal = trajectories_pb2.KeepAliveRequest(task="job", lease_s=0.06)
        assert all(request == renewal for request in renewals)
        await until(lambda: not client.lease.renewing)
        assert scripted.asked["Close"]


# Lost connections


@pytest.fixture
def node() -> FakeManager:
    return FakeManager(cores=2)


@pytest.fixture
async def server(node: FakeManager) -> AsyncIterator[str]:
    async with serve_fake(manager=node) as address:
        yield address


async def test_a_dropped_connection_is_made_again_and_the_result_arrives(
    server: str, node: FakeManager
) -> None:
    async with (
        Proxy(server) as proxy,
        AsyncClient(proxy.address) as client,
        client.trajectory() as trajectory,
    ):
        running = asyncio.create_task(trajectory.exec("gate g; echo done", id="cut"))
        await until(lambda: node.running == 1)
        proxy.cut()
        await until(lambda: proxy.connections == 2)
        node.gate("g").set()
        assert (await running).stdout == "done\n"
    assert node.calls.count(("run", "cut")) == 1


async def test_live_output_goes_on_where_the_connection_was_cut(
    server: str, node: FakeManager
) -> None:
    pieces: list[bytes] = []
    async with (
        Proxy(server) as proxy,
        AsyncClient(proxy.address) as client,
        client.trajectory() as trajectory,
    ):
        running = asyncio.create_task(
            trajectory.exec(
                "echo one; gate g; echo two", on_output=lambda stream, data: pieces.append(data)
            )
        )
        await until(lambda: pieces == [b"one\n"])
        proxy.cut()
        await until(lambda: proxy.connections == 2)
        node.gate("g").set()
        assert (await running).stdout == "one\ntwo\n"
    assert pieces == [b"one\n", b"two\n"]


async def test_a_restarted_server_is_found_again() -> None:
    async with serve_fake() as address:
        client = AsyncClient(address)
        assert (await client.status()).version
    asking = asyncio.create_task(client.status())
    async with serve_fake(listen=address):
        assert (await asking).version
        await client.close()
