"""One grant on its way: acquire its leases, tell that it starts, run it, release.

Knows managers and events; the pump decides in which order events become facts. Every path ends in
exactly one LeaseReleased, after its managers took everything back, so that no unit stays taken and none
is free too early.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..errors import Cancelled, Internal, Reason, TangramError
from ..managers.base import Lease, Manager, Outcome, PermitSpec, RunRequest, RunResult
from ..managers.errors import LeaseLost, ManagerError
from ..scheduler import (
    CLUSTER,
    ActionEnded,
    Event,
    Grant,
    LeaseReleased,
    QuotaClosed,
    Resize,
    Resized,
    ResourceId,
    Started,
    State,
)
from ..scheduler.model import CORES, QUOTA_PREFIX
from .failures import from_manager
from .records import ActionRecord

log = logging.getLogger(__name__)

Post = Callable[[Event], Awaitable[None]]
Owners = Sequence[tuple[Manager, Mapping[ResourceId, int]]]


class GrantRun:
    """A granted action from its grant to the return of its units."""

    def __init__(
        self,
        record: ActionRecord,
        grant: Grant,
        owners: Owners,
        *,
        post: Post,
        clock: Callable[[], float],
        ended: Callable[[ActionRecord], None],
    ) -> None:
        """`owners` are the managers of the granted resources, the one that runs it first; `ended`
        is told once its end is written."""
        self.record = record
        self.grant = grant
        self._owners = owners
        self._post = post
        self._clock = clock
        self._ended = ended
        self._leases: list[Lease] = []
        self._killed = False
        self._permit_returned = asyncio.Event()
        self.retry_after_s: float | None = None

    async def drive(self) -> None:
        """The whole life. Raises nothing but cancellation; failures become the action's end."""
        try:
            await self._acquire()
            if not self._killed:
                await self._start_and_run()
        except ManagerError as error:
            kind = self.record.request.action.kind
            await self._fail(from_manager(error, action_id=self.record.id, kind=kind))
        except Exception:
            log.exception("running action %s failed", self.record.id)
            message = "the server failed at running it; its log says why"
            await self._fail(Internal(message, action_id=self.record.id))
        finally:
            await self._release()

    async def kill(self) -> None:
        """Make it end soon. Before its start it will not start."""
        self._killed = True
        self._permit_returned.set()
        for (manager, _), lease in zip(self._owners, self._leases, strict=False):
            await manager.kill(lease)

    def return_permit(self, retry_after_s: float | None) -> None:
        """The client gives its permit back, with the provider's wish if it had one."""
        self.retry_after_s = retry_after_s
        self._permit_returned.set()

    async def carry_out(self, decision: Resize) -> None:
        """Give the live leases other amounts, and answer with what they then have."""
        before = cores_of(self.amounts)
        try:
            await self._resize(decision.amounts)
        except LeaseLost:
            log.debug("action %s ended before it was resized", decision.action)
        except ManagerError as error:
            log.warning("resizing action %s failed: %s", decision.action, error)
        except Exception:  # without an answer it would never be resized again
            log.exception("resizing action %s failed", decision.action)
        self.record.note_resize(before, cores_of(self.amounts), self._clock())
        await self._post(Resized(decision.action, decision.token, self.amounts, decision.change))

    async def _resize(self, amounts: Mapping[ResourceId, int]) -> None:
        """`self.amounts` says what came of it, also where one of several could not be changed.
        Raises ManagerError."""
        for index, (manager, owned) in enumerate(self._owners):
            lease = self._leases[index]
            wanted = {r: amounts.get(r, lease.amounts[r]) for r in owned}
            if wanted != lease.amounts:
                self._leases[index] = await manager.resize(lease, wanted)

    @property
    def amounts(self) -> Mapping[ResourceId, int]:
        """What its leases have."""
        return {r: amount for lease in self._leases for r, amount in lease.amounts.items()}

    async def _acquire(self) -> None:
        action = self.record.request.action
        for manager, amounts in self._owners:
            if self._killed:
                return
            self._leases.append(
                await manager.acquire(action.id, action.trajectory, self.grant.token, amounts)
            )

    async def _start_and_run(self) -> None:
        # Started is a fact before anything runs, so that nothing ever runs twice unasked.
        await self._post(Started(self.record.id, self.grant.token))
        if self._killed:
            return
        self.record.start(self._clock())
        result = await self._run()
        if result.retry_after_s is not None:
            await self._close_quotas(result.retry_after_s)
        run_s = result.run_s if result.outcome is Outcome.FINISHED else None
        await self._post(ActionEnded(self.record.id, self.grant.token, run_s=run_s))
        if result.outcome is Outcome.KILLED:
            # The scheduler wrote the end that led to the kill; without one the server shuts down.
            error = Cancelled("it was killed", reason=Reason.CANCELLED, action_id=self.record.id)
            self._finish(State.CANCELLED, error=error)
        else:
            self._finish(State.FINISHED, result=result)

    async def _run(self) -> RunResult:
        request = self.record.request
        if isinstance(request.payload, PermitSpec):
            began = self._clock()
            await self._permit_returned.wait()
            outcome = Outcome.KILLED if self._killed else Outcome.FINISHED
            run_s = self._clock() - began
            return RunResult(outcome, run_s=run_s, retry_after_s=self.retry_after_s)
        manager, _ = self._owners[0]
        run = RunRequest(request.action.id, request.payload, request.action.timeout_s)
        return await manager.run(self._leases[0], run, self.record.output)

    async def _close_quotas(self, retry_after_s: float) -> None:
        until = self._clock() + retry_after_s
        for resource in self.grant.amounts:
            if resource.kind.startswith(QUOTA_PREFIX):
                await self._post(QuotaClosed(resource, until))

    async def _fail(self, error: TangramError) -> None:
        await self._post(ActionEnded(self.record.id, self.grant.token, failed=True))
        self._finish(State.FAILED, error=error)

    def _finish(
        self, state: State, *, result: RunResult | None = None, error: TangramError | None = None
    ) -> None:
        if self.record.finish(self._clock(), state, result=result, error=error):
            # After whoever waits for the end was woken.
            asyncio.get_running_loop().call_soon(self._ended, self.record)

    async def _release(self) -> None:
        await asyncio.sleep(0)  # Whoever waits for the end is answered first.
        for (manager, _), lease in zip(self._owners, self._leases, strict=False):
            try:
                await manager.release(lease)
            except Exception:
                # The units come back all the same: a manager that cannot release has lost them.
                log.exception("releasing %s of action %s failed", lease, self.record.id)
        await self._post(LeaseReleased(self.record.id, self.grant.token))


def cores_of(amounts: Mapping[ResourceId, int]) -> int:
    return sum(amount for resource, amount in amounts.items() if resource.kind == CORES)


def owners_of(
    grant: Grant, owners: Mapping[ResourceId, Manager]
) -> list[tuple[Manager, Mapping[ResourceId, int]]]:
    """What each manager is to lease of it. The node's manager runs an exec and comes first; a quota
    beside it is only held."""
    by_manager: dict[Manager, dict[ResourceId, int]] = {}
    for resource, amount in grant.amounts.items():
        by_manager.setdefault(owners[resource], {})[resource] = amount
    return sorted(by_manager.items(), key=lambda owner: owner[0].node == CLUSTER)
