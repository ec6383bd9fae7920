"""Trajectories and their sandboxes: places become started sandboxes, ends become removed ones.

Turns `Place` into a started sandbox and its outcome into the next event. Decides nothing about who
is placed where.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from ..errors import (
    AlreadyExists,
    InvalidRequest,
    Lost,
    NotFound,
    SandboxFailed,
    TangramError,
    TrajectoryClosed,
)
from ..managers.base import SandboxHost, SandboxInfo
from ..managers.errors import ManagerError, TemporaryError
from ..scheduler import (
    EndReason,
    Event,
    Place,
    SandboxLost,
    SandboxReady,
    TrajectoryReleased,
)
from ..scheduler import TrajectoryClosed as TrajectoryClosedEvent
from ..scheduler.model import MEMORY
from .records import TrajectoryRecord, TrajectoryRequest, TrajectoryState

log = logging.getLogger(__name__)

START_TRIES_MAX = 3
"""Starts of one sandbox before its trajectory is lost; only temporary failures are tried again."""

REMOVE_TRIES_MAX = 3
"""Attempts to remove one sandbox: what cannot be killed now may be gone in a second."""

GONE_RETAINED_MAX = 10_000
"""Closed and lost trajectories that are remembered, so that a late call is told `closed`, not `unknown`."""


class TrajectoryBook:
    """All trajectories of this server."""

    def __init__(
        self,
        hosts: Mapping[str, SandboxHost],
        *,
        post: Callable[[Event], Awaitable[None]],
        clock: Callable[[], float],
        forget: Callable[[str], None],
        gone: Callable[[str], None],
    ) -> None:
        """`hosts` by node name; `forget` is told of trajectories that are no longer retained, `gone`
        of those that have ended and whose sandbox is removed, or cannot be."""
        self._hosts = hosts
        self._post = post
        self._clock = clock
        self._forget = forget
        self._tell_gone = gone
        self._records: dict[str, TrajectoryRecord] = {}
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._losses: set[asyncio.Task[None]] = set()
        self._gone: dict[str, None] = {}

    def __len__(self) -> int:
        """Those that are not gone."""
        return len(self._records) - len(self._gone)

    def all(self) -> list[TrajectoryRecord]:
        """Those that are retained, gone ones too, oldest first."""
        return list(self._records.values())

    def open(self) -> list[TrajectoryRecord]:
        """Those that are neither closed nor lost."""
        over = (TrajectoryState.CLOSED, TrajectoryState.LOST)
        return [record for record in self._records.values() if record.state not in over]

    def get(self, trajectory_id: str) -> TrajectoryRecord:
        """Raises NotFound."""
        record = self._records.get(trajectory_id)
        if record is None:
            raise NotFound(
                f"no trajectory {trajectory_id!r} is known: open it first", field="trajectory"
            )
        return record

    def find(self, trajectory_id: str | None) -> TrajectoryRecord | None:
        """None for one that is not known, or not any more."""
        return self._records.get(trajectory_id or "")

    def is_gone(self, trajectory_id: str) -> bool:
        """Whether it has ended and its sandbox is removed, or cannot be; also of a forgotten one."""
        record = self._records.get(trajectory_id)
        return record is None or record.gone.is_set()

    def usable(self, trajectory_id: str) -> TrajectoryRecord:
        """One that may still get actions. Raises NotFound, TrajectoryClosed, Lost."""
        record = self.get(trajectory_id)
        if record.state == TrajectoryState.CLOSED:
            raise TrajectoryClosed(
                f"trajectory {trajectory_id!r} is closed; open a new one", field="trajectory"
            )
        if record.state == TrajectoryState.LOST:
            raise loss_of(record)
        return record

    def known(self, request: TrajectoryRequest) -> TrajectoryRecord | None:
        """The record of the same request, if it was opened before. Raises AlreadyExists for
        another request under the same id."""
        record = self._records.get(request.trajectory.id)
        if record is None:
            return None
        if record.request.fingerprint != request.fingerprint:
            raise AlreadyExists(
                f"trajectory {record.id!r} is open already with other settings; use another id",
                field="id",
            )
        return record

    def add(self, record: TrajectoryRecord) -> None:
        self._records[record.id] = record

    async def refuse_impossible(self, request: TrajectoryRequest) -> TrajectoryRequest:
        """Ask the nodes whether any could start it. Raises the first node's refusal."""
        refusal: ManagerError | None = None
        for node, host in self._hosts.items():
            if request.trajectory.node not in ("", node):
                continue
            try:
                spec = await host.check_open(request.spec)
            except ManagerError as error:
                refusal = refusal or error
            else:
                reserve = {**request.trajectory.reserve, MEMORY: spec.memory_bytes or 0}
                trajectory = replace(request.trajectory, reserve=reserve)
                return replace(request, spec=spec, trajectory=trajectory)
        if refusal is None:
            raise InvalidRequest("this server has no node that holds sandboxes")
        raise refusal

    def place(self, decision: Place) -> None:
        """Start the sandbox; SandboxReady or SandboxLost follows."""
        record = self._records[decision.trajectory]
        record.node, record.token, record.placed = decision.node, decision.token, self._clock()
        if record.state == TrajectoryState.CLOSED:  # closed meanwhile: `close` removes it
            return
        record.state, record.host = TrajectoryState.STARTING, self._hosts[record.node]
        self._starts[record.id] = asyncio.create_task(
            self._start(record), name=f"start sandbox of {record.id}"
        )

    async def host(self, trajectory_id: str) -> SandboxHost:
        """Its node's host, once its sandbox is ready. Raises as `usable`."""
        record = self.usable(trajectory_id)
        await record.settled.wait()
        self.usable(trajectory_id)
        return self._hosts[record.node]

    async def close(self, trajectory_id: str) -> None:
        """End it; on return its sandbox is gone. Idempotent."""
        record = self.get(trajectory_id)
        if record.state == TrajectoryState.CLOSED:
            await record.gone.wait()
            return
        was_lost = record.state == TrajectoryState.LOST
        self._settle(record, TrajectoryState.CLOSED, record.message)
        if was_lost:
            await record.gone.wait()
            return
        await self._post(TrajectoryClosedEvent(record.id))
        if (start := self._starts.pop(record.id, None)) is not None:
            start.cancel()
            await asyncio.wait([start])
        await self._remove(record)

    async def aclose(self) -> None:
        """Close all; what cannot be closed is logged. Idempotent."""
        closings = (self.close(record.id) for record in self.all())
        for outcome in await asyncio.gather(*closings, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("closing a trajectory failed: %s", outcome)

    async def _start(self, record: TrajectoryRecord) -> None:
        try:
            info = await self._open_with_retries(record)
        except ManagerError as error:
            await self._lose(record, EndReason.SANDBOX_FAILED, str(error))
        except Exception as error:
            log.exception("starting the sandbox of %s failed", record.id)
            await self._lose(record, EndReason.SANDBOX_FAILED, f"the server failed: {error!r}")
        else:
            record.info, record.ready_at = info, self._clock()
            if record.state is not TrajectoryState.STARTING:
                return  # Closed meanwhile, by somebody who removes the sandbox too.
            self._settle(record, TrajectoryState.READY, "")
            await self._post(SandboxReady(record.id, record.token))
        finally:
            self._starts.pop(record.id, None)

    async def _open_with_retries(self, record: TrajectoryRecord) -> SandboxInfo:
        host = self._hosts[record.node]
        for _ in range(START_TRIES_MAX - 1):
            try:
                return await host.open(record.request.spec, record.token, self._on_lost(record))
            except TemporaryError as error:
                record.message = f"{error}; tried again in {error.delay_s:.1f} s"
                await asyncio.sleep(error.delay_s)
        return await host.open(record.request.spec, record.token, self._on_lost(record))

    def _on_lost(self, record: TrajectoryRecord) -> Callable[[str], None]:
        def on_lost(message: str) -> None:
            task = asyncio.create_task(self._lose(record, EndReason.LOST, message))
            self._losses.add(task)
            task.add_done_callback(self._losses.discard)

        return on_lost

    async def _lose(self, record: TrajectoryRecord, reason: EndReason, message: str) -> None:
        if record.state in (TrajectoryState.CLOSED, TrajectoryState.LOST):
            return
        record.lost_because = reason
        self._settle(record, TrajectoryState.LOST, message)
        await self._post(SandboxLost(record.id, record.token, reason, message))
        await self._remove(record)

    async def _remove(self, record: TrajectoryRecord) -> None:
        """Remove its sandbox and free its memory. If the sandbox cannot be removed, its memory stays
        reserved: it is in use."""
        try:
            if record.placed is not None:
                await self._close_with_retries(record)
                await self._post(TrajectoryReleased(record.id, record.token))
            self._retain(record)
        finally:
            record.gone.set()
            self._tell_gone(record.id)

    async def _close_with_retries(self, record: TrajectoryRecord) -> None:
        host = self._hosts[record.node]
        for _ in range(REMOVE_TRIES_MAX - 1):
            try:
                return await host.close(record.id)
            except TemporaryError as error:
                log.warning("removing the sandbox of %s: %s", record.id, error)
                await asyncio.sleep(error.delay_s)
        return await host.close(record.id)

    def _settle(self, record: TrajectoryRecord, state: TrajectoryState, message: str) -> None:
        record.state, record.message = state, message
        record.settled.set()

    def _retain(self, record: TrajectoryRecord) -> None:
        self._gone[record.id] = None
        while len(self._gone) > GONE_RETAINED_MAX:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._records.pop(oldest, None)
            self._forget(oldest)


def loss_of(record: TrajectoryRecord) -> TangramError:
    """Why a lost trajectory takes no more calls."""
    kind = SandboxFailed if record.lost_because is EndReason.SANDBOX_FAILED else Lost
    return kind(f"the sandbox of trajectory {record.id!r} is gone: {record.message}")
