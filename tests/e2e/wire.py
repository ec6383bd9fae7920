"""The server without the SDK: what the SDK refuses to send must be refused behind it as well."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc.aio
import pytest

from tangram import errors
from tangram.v1 import (
    actions_pb2,
    actions_pb2_grpc,
    cluster_pb2_grpc,
    trajectories_pb2,
    trajectories_pb2_grpc,
    types_pb2,
)


class Wire:
    """The generated stubs of one server, which carry no types."""

    def __init__(self, address: str, *, send_bytes_max: int = -1) -> None:
        options = [("grpc.max_send_message_length", send_bytes_max)]
        self._channel = grpc.aio.insecure_channel(address, options)
        self.actions: Any = actions_pb2_grpc.ActionsStub(self._channel)  # type: ignore[no-untyped-call]
        self.trajectories: Any = trajectories_pb2_grpc.TrajectoriesStub(self._channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = cluster_pb2_grpc.ClusterStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def open(self, **fields: Any) -> Any:
        spec = trajectories_pb2.TrajectorySpec(**fields)
        return await self.trajectories.Open(trajectories_pb2.OpenRequest(trajectory=spec))

    async def run(self, **fields: Any) -> Any:
        """The action at its end; an exec of `true` unless the fields say otherwise."""
        if not {"exec", "call", "permit"} & set(fields):
            fields["exec"] = types_pb2.Exec(argv=["true"])
        spec = types_pb2.ActionSpec(**fields)
        return (await self.actions.Run(actions_pb2.RunRequest(action=spec))).action


async def refused(call: Any) -> types_pb2.Error:
    """What the server says of a call that it must refuse."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    for key, value in caught.value.trailing_metadata() or ():
        if key == errors.ERROR_METADATA_KEY and isinstance(value, bytes):
            return types_pb2.Error.FromString(value)
    raise AssertionError(f"refused without saying why: {caught.value}")
