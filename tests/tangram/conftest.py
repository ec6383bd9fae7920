"""A real server over loopback gRPC: the fake node, real quotas, the real dispatcher and scheduler."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tangram import errors
from tangram.config import ServerConfig
from tangram.limits import MESSAGE_BYTES_MAX
from tangram.managers.config import QuotaConfig
from tangram.managers.fake import FakeManager
from tangram.managers.opening import open_quota_manager
from tangram.server.app import Server
from tangram.v1 import (
    actions_pb2,
    actions_pb2_grpc,
    cluster_pb2_grpc,
    trajectories_pb2,
    trajectories_pb2_grpc,
    types_pb2,
)

WAIT_S = 10.0
"""Longest that a test waits for a condition; reached only when it fails."""

QUOTAS = {
    "search": QuotaConfig(concurrency=1),
    "wide": QuotaConfig(concurrency=1000),
    "slow": QuotaConfig(rate=2, period=3600.0),
}


class Wire:
    """The generated stubs of one server (they carry no types), and short ways to use them."""

    def __init__(self, server: Server, fake: FakeManager, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.fake = fake
        self.channel = channel
        self.actions: Any = actions_pb2_grpc.ActionsStub(channel)  # type: ignore[no-untyped-call]
        self.trajectories: Any = trajectories_pb2_grpc.TrajectoriesStub(channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = cluster_pb2_grpc.ClusterStub(channel)  # type: ignore[no-untyped-call]
        self._numbers = itertools.count(1)

    def exec(self, *argv: str, trajectory: str = "t", **fields: Any) -> types_pb2.ActionSpec:
        command = fields.pop("exec", None) or types_pb2.Exec(argv=argv)
        fields.setdefault("id", f"a{next(self._numbers)}")
        return types_pb2.ActionSpec(trajectory=trajectory, exec=command, **fields)

    def permit(self, quota: str = "search", amount: int = 1, **fields: Any) -> types_pb2.ActionSpec:
        fields.setdefault("id", f"p{next(self._numbers)}")
        permit = types_pb2.PermitSpec(quota=quota, amount=amount)
        return types_pb2.ActionSpec(permit=permit, **fields)

    async def open(self, trajectory: str = "t", **fields: Any) -> Any:
        spec = trajectories_pb2.TrajectorySpec(id=trajectory, **fields)
        await self.trajectories.Open(trajectories_pb2.OpenRequest(trajectory=spec))
        attach = trajectories_pb2.AttachRequest(id=trajectory, wait_ready_s=WAIT_S)
        return (await self.trajectories.Attach(attach)).trajectory

    async def submit(self, spec: types_pb2.ActionSpec) -> Any:
        request = actions_pb2.SubmitRequest(action=spec)
        return (await self.actions.Submit(request)).action

    async def run(self, spec: types_pb2.ActionSpec, **call: Any) -> Any:
        request = actions_pb2.RunRequest(action=spec)
        return (await self.actions.Run(request, **call)).action

    async def wait(self, id: str, timeout_s: float | None = WAIT_S) -> Any:
        request = actions_pb2.WaitRequest(id=id, timeout_s=timeout_s)
        return (await self.actions.Wait(request)).action

    async def get(self, id: str) -> Any:
        return (await self.actions.Get(actions_pb2.GetRequest(id=id))).action

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the server go on until the condition holds."""
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - nobody tells us of most conditions
                await asyncio.sleep(0)

    def error(self, raised: grpc.aio.AioRpcError) -> types_pb2.Error:
        """What the server said beside the status."""
        metadata = dict(raised.trailing_metadata() or ())
        return types_pb2.Error.FromString(metadata[errors.ERROR_METADATA_KEY])


@pytest.fixture
def fake() -> FakeManager:
    return FakeManager(cores=2, images=frozenset({"python"}))


@pytest.fixture
async def server(fake: FakeManager, tmp_path: Path) -> AsyncIterator[Server]:
    config = ServerConfig(listen="127.0.0.1:0", http="127.0.0.1:0", state=tmp_path / "state")
    server = Server(config, managers=[fake, await open_quota_manager(QUOTAS)])
    await server.start()
    yield server
    server.scheduler.check_invariants()
    await server.aclose()
    server.scheduler.check_invariants()
    assert fake.violations == []
    assert fake.running == 0


@pytest.fixture
async def wire(server: Server, fake: FakeManager) -> AsyncIterator[Wire]:
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    async with grpc.aio.insecure_channel(server.grpc_address, options) as channel:
        yield Wire(server, fake, channel)
