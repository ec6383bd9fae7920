"""tangram.v1.Trajectories: open, attach, close, fork; the files, sessions and background processes of
their sandboxes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from hashlib import blake2b
from typing import Self, TypeVar

from ..errors import InvalidRequest, TooLarge
from ..limits import (
    FILE_CHUNK_BYTES,
    FILE_MODE_DEFAULT,
    FILE_MODE_MAX,
    FORKS_MAX,
    PORT_MAX,
    SESSION_INPUT_BYTES_MAX,
    SIZE_BYTES_MAX,
)
from ..v1 import trajectories_pb2 as pb
from ..v1.trajectories_pb2_grpc import TrajectoriesServicer
from . import validate
from .answers import file_message, process_message, snapshot_message, trajectory_message
from .convert import background_request, trajectory_request
from .dispatcher import Dispatcher
from .known_files import DIGEST_BYTES, KnownFiles
from .processes import OUTPUT_BYTES, Process, Processes, ended_within
from .service import Context, method

Part = TypeVar("Part", pb.WriteFileRequest, pb.WriteTreeRequest)


class TrajectoriesService(TrajectoriesServicer):
    """Converts and calls: actions are the dispatcher's, background processes `Processes`'."""

    def __init__(self, dispatcher: Dispatcher, tenants: Mapping[str, str]) -> None:
        """`tenants` maps tasks to whose they are."""
        self._dispatcher = dispatcher
        self._tenants = tenants
        self._processes = Processes(dispatcher.sandbox_host)

    # -- life --------------------------------------------------------------------------------

    @method
    async def Open(self, request: pb.OpenRequest, context: Context) -> pb.OpenResponse:
        wanted = trajectory_request(request.trajectory, self._tenants)
        opener = self._dispatcher.snapshots.open if wanted.snapshot else None
        record = await (opener or self._dispatcher.open_trajectory)(wanted)
        return pb.OpenResponse(trajectory=trajectory_message(record))

    @method
    async def Attach(self, request: pb.AttachRequest, context: Context) -> pb.AttachResponse:
        identifier = validate.identifier(request.id, "id")
        if request.HasField("wait_ready_s"):
            wait_ready_s = validate.seconds_or_zero(request.wait_ready_s, "wait_ready_s")
            record = await self._dispatcher.wait_ready(identifier, wait_ready_s)
        else:
            record = self._dispatcher.trajectory(identifier)
        return pb.AttachResponse(trajectory=trajectory_message(record))

    @method
    async def KeepAlive(
        self, request: pb.KeepAliveRequest, context: Context
    ) -> pb.KeepAliveResponse:
        lease_s = validate.seconds(request.lease_s, "lease_s")
        self._dispatcher.keep_alive(validate.task_name(request.task), lease_s)
        return pb.KeepAliveResponse()

    @method
    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseResponse:
        await self._dispatcher.close_trajectory(validate.identifier(request.id, "id"))
        return pb.CloseResponse()

    # -- forks and snapshots -----------------------------------------------------------------

    @method
    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.ForkResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        validate.integer(len(request.ids), "ids", 1, FORKS_MAX)
        ids = [validate.identifier(identifier, "ids") for identifier in request.ids]
        if len(set(ids)) < len(ids):
            raise InvalidRequest("ids must differ from each other", field="ids")
        forked = await self._dispatcher.snapshots.fork(trajectory, ids)
        messages = map(trajectory_message, forked.records)
        return pb.ForkResponse(trajectories=messages, skipped=forked.skipped)

    @method
    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> pb.SnapshotResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        name = validate.identifier(request.name, "name")
        ttl_s = validate.seconds(request.ttl_s, "ttl_s") if request.HasField("ttl_s") else None
        snapshot = await self._dispatcher.snapshots.make(trajectory, name, ttl_s)
        return pb.SnapshotResponse(snapshot=snapshot_message(snapshot))

    @method
    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        name = validate.identifier(request.name, "name")
        await self._dispatcher.snapshots.restore(trajectory, name)
        return pb.RestoreResponse()

    @method
    async def DropSnapshot(
        self, request: pb.DropSnapshotRequest, context: Context
    ) -> pb.DropSnapshotResponse:
        name = validate.identifier(request.name, "name")
        await self._dispatcher.snapshots.drop(validate.task_name(request.task), name)
        return pb.DropSnapshotResponse()

    @method
    async def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        found = self._dispatcher.snapshots.of_task(validate.task_name(request.task))
        return pb.ListSnapshotsResponse(snapshots=map(snapshot_message, found))

    # -- files -------------------------------------------------------------------------------

    @method
    async def ReadFile(self, request: pb.ReadFileRequest, context: Context) -> None:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        path = _file_path(request.path)
        offset = validate.integer(request.offset, "offset", 0, SIZE_BYTES_MAX, "bytes")
        limit = validate.integer(request.limit, "limit", 0, SIZE_BYTES_MAX, "bytes")
        host = await self._dispatcher.sandbox_host(trajectory)
        chunks = host.read_file(trajectory, path, offset, limit)
        try:
            async for data, size in chunks:
                await context.write(pb.ReadFileResponse(data=data, size=size))
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    @method
    async def WriteFile(
        self, requests: AsyncIterator[pb.WriteFileRequest], context: Context
    ) -> pb.WriteFileResponse:
        first = await _first(requests)
        trajectory = validate.identifier(first.trajectory, "trajectory")
        path = _file_path(first.path)
        mode = validate.integer(first.mode, "mode", 0, FILE_MODE_MAX) or FILE_MODE_DEFAULT
        host = await self._dispatcher.sandbox_host(trajectory)
        chunks = _Hashed(_chunks(first, requests))
        with self._writing(trajectory) as files:
            size = await host.write_file(trajectory, path, mode, chunks)
        if files is not None:
            files.wrote(path, mode, chunks.digest())
        return pb.WriteFileResponse(size=size)

    @method
    async def ReadTree(self, request: pb.ReadTreeRequest, context: Context) -> None:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        path = validate.path(request.path, "path") or "."
        host = await self._dispatcher.sandbox_host(trajectory)
        chunks = host.read_tree(trajectory, path)
        try:
            async for data in chunks:
                for start in range(0, len(data), FILE_CHUNK_BYTES):
                    part = data[start : start + FILE_CHUNK_BYTES]
                    await context.write(pb.ReadTreeResponse(data=part))
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    @method
    async def WriteTree(
        self, requests: AsyncIterator[pb.WriteTreeRequest], context: Context
    ) -> pb.WriteTreeResponse:
        first = await _first(requests)
        trajectory = validate.identifier(first.trajectory, "trajectory")
        path = validate.path(first.path, "path") or "."
        host = await self._dispatcher.sandbox_host(trajectory)
        chunks = _Hashed(_chunks(first, requests))
        with self._writing(trajectory) as known:
            files, size = await host.write_tree(trajectory, path, chunks)
        if known is not None:
            known.wrote_tree(path, chunks.digest())
        return pb.WriteTreeResponse(files=files, size=size)

    @contextmanager
    def _writing(self, trajectory: str) -> Iterator[KnownFiles | None]:
        """While a file call changes files; what is known of them, if anybody wants that."""
        files = self._dispatcher.trajectory(trajectory).files
        with files.writing() if files is not None else nullcontext():
            yield files

    @method
    async def ListFiles(
        self, request: pb.ListFilesRequest, context: Context
    ) -> pb.ListFilesResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        path = validate.path(request.path, "path") or "."
        host = await self._dispatcher.sandbox_host(trajectory)
        files = await host.list_files(trajectory, path)
        return pb.ListFilesResponse(files=[file_message(info) for info in files])

    @method
    async def Stat(self, request: pb.StatRequest, context: Context) -> pb.StatResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        path = validate.path(request.path, "path") or "."
        host = await self._dispatcher.sandbox_host(trajectory)
        return pb.StatResponse(file=file_message(await host.stat(trajectory, path)))

    # -- sessions and background processes ---------------------------------------------------

    @method
    async def SessionInput(
        self, request: pb.SessionInputRequest, context: Context
    ) -> pb.SessionInputResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        session = validate.identifier(request.session, "session")
        if len(request.data) > SESSION_INPUT_BYTES_MAX:
            raise TooLarge(
                f"data has {len(request.data)} bytes, the limit is {SESSION_INPUT_BYTES_MAX}: nobody "
                "types so much; write a file",
                field="data",
            )
        if not (request.data or request.interrupt or request.close):
            raise InvalidRequest("data is missing: give it, interrupt or close", field="data")
        host = await self._dispatcher.sandbox_host(trajectory)
        await host.session_input(
            trajectory,
            session,
            request.data,
            interrupt=request.interrupt,
            close=request.close,
        )
        return pb.SessionInputResponse()

    @method
    async def StartProcess(
        self, request: pb.StartProcessRequest, context: Context
    ) -> pb.StartProcessResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        identifier = validate.identifier(request.id, "id")
        spec = replace(background_request(request.exec), max_output_bytes=OUTPUT_BYTES)
        files = self._dispatcher.trajectory(trajectory).files
        process = await self._processes.start(trajectory, identifier, spec, files)
        return pb.StartProcessResponse(process=process_message(process))

    @method
    async def WaitProcess(
        self, request: pb.WaitProcessRequest, context: Context
    ) -> pb.WaitProcessResponse:
        wait_s = validate.seconds_or_zero(request.wait_s, "wait_s")
        offset = validate.integer(request.offset, "offset", 0, SIZE_BYTES_MAX, "bytes")
        process = await self._find_process(request.trajectory, request.id)
        if not request.HasField("offset"):
            await ended_within(process, wait_s)
            return pb.WaitProcessResponse(process=process_message(process))
        start, data = await self._processes.read(process, offset, wait_s)
        data = data[:FILE_CHUNK_BYTES]
        return pb.WaitProcessResponse(process=process_message(process), offset=start, data=data)

    @method
    async def StopProcess(
        self, request: pb.StopProcessRequest, context: Context
    ) -> pb.StopProcessResponse:
        grace_s = validate.seconds_or_zero(request.grace_s, "grace_s")
        process = await self._find_process(request.trajectory, request.id)
        await self._processes.stop(process, grace_s)
        return pb.StopProcessResponse(process=process_message(process))

    @method
    async def WaitPort(self, request: pb.WaitPortRequest, context: Context) -> pb.WaitPortResponse:
        trajectory = validate.identifier(request.trajectory, "trajectory")
        port = validate.integer(request.port, "port", 1, PORT_MAX)
        timeout_s = validate.seconds_or_zero(request.timeout_s, "timeout_s")
        host = await self._dispatcher.sandbox_host(trajectory)
        return pb.WaitPortResponse(open=await host.wait_port(trajectory, port, timeout_s))

    async def _find_process(self, trajectory: str, identifier: str) -> Process:
        return await self._processes.find(
            validate.identifier(trajectory, "trajectory"), validate.identifier(identifier, "id")
        )


class _Hashed:
    """Chunks on their way, and the digest of those that went."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._content = blake2b(digest_size=DIGEST_BYTES)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self._content.update(chunk)
        return chunk

    def digest(self) -> bytes:
        return self._content.digest()


def _file_path(path: str) -> str:
    if not path:
        raise InvalidRequest(
            "path is missing: name a file, absolute or relative to the workdir", field="path"
        )
    return validate.path(path, "path")


async def _first(requests: AsyncIterator[Part]) -> Part:
    first = await anext(aiter(requests), None)
    if first is None:
        raise InvalidRequest(
            "the first message is missing: it names trajectory and path", field="path"
        )
    return first


async def _chunks(first: Part, rest: AsyncIterator[Part]) -> AsyncGenerator[bytes, None]:
    # A client's messages may be larger than what a manager is handed at a time.
    for start in range(0, len(first.data), FILE_CHUNK_BYTES):
        yield first.data[start : start + FILE_CHUNK_BYTES]
    async for request in rest:
        if request.path or request.trajectory:
            raise InvalidRequest(
                "only the first message names trajectory and path: one call writes one of them",
                field="path",
            )
        for start in range(0, len(request.data), FILE_CHUNK_BYTES):
            yield request.data[start : start + FILE_CHUNK_BYTES]
