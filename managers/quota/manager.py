"""The manager of API quotas: cluster-wide, one resource per quota, requests while a permit is held.

Who may begin when is decided by the scheduler over `view.QuotaView`; nothing is counted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...scheduler.model import CLUSTER, QUOTA_PREFIX, Capacity, ResourceId
from ...scheduler.resource import ResourceView
from ..base import CallSpec, Lease, Manager, Outcome, OutputSink, RunRequest, RunResult
from ..errors import LeaseLost, PermanentError
from .calls import HttpCaller
from .view import QUOTA_VIEW, QuotaView, quota_total


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one quota; at least one of the two is given."""

    concurrency: int | None
    windows: tuple[tuple[int, float], ...]
    """(rate, period_s): at most `rate` units in any stretch of `period_s` seconds."""

    def __str__(self) -> str:
        parts = [] if self.concurrency is None else [f"{self.concurrency} at once"]
        parts += [f"{rate} per {period_s:g} s" for rate, period_s in self.windows]
        return ", ".join(parts)


class QuotaManager(Manager):
    """Holds permits and does the HTTP requests of `call` actions: a `QuotaHost`.

    A permit needs no run: its lease is held from `acquire` until `release`.
    """

    node = CLUSTER

    def __init__(self, quotas: Mapping[str, Quota]) -> None:
        self._quotas = dict(quotas)
        self._caller = HttpCaller()
        self._leases: dict[int, Lease] = {}
        self._requests: dict[int, asyncio.Task[RunResult]] = {}
        self._closed = False

    def capacities(self) -> tuple[Capacity, ...]:
        return tuple(
            Capacity(
                ResourceId(QUOTA_PREFIX + name),
                quota_total(quota.concurrency, quota.windows),
                QUOTA_VIEW,
                {"concurrency": quota.concurrency, "windows": quota.windows},
            )
            for name, quota in self._quotas.items()
        )

    def views(self) -> Mapping[str, Callable[[Capacity], ResourceView]]:
        return {QUOTA_VIEW: QuotaView}

    def closed_until(self, view: ResourceView, now: float) -> float | None:
        if not isinstance(view, QuotaView):
            raise TypeError(f"a {type(view).__name__} counts no quota")
        return view.closed_until(now)

    def describe(self, name: str) -> str:
        """A quota's limits as a phrase for `status`. Raises KeyError if there is no such quota."""
        return str(self._quotas[name])

    async def acquire(
        self, action: str, trajectory: str | None, token: int, amounts: Mapping[ResourceId, int]
    ) -> Lease:
        if self._closed:
            raise LeaseLost("the quota manager is closed")
        for resource in amounts:
            if resource.kind.removeprefix(QUOTA_PREFIX) not in self._quotas:
                raise PermanentError(f"there is no {resource}")
        lease = Lease(action, trajectory, self.node, token, amounts)
        self._leases[token] = lease
        return lease

    async def run(self, lease: Lease, request: RunRequest, output: OutputSink) -> RunResult:
        if lease.token not in self._leases:
            raise LeaseLost(f"the permit of action {lease.action!r} was given back")
        if not isinstance(request.payload, CallSpec):
            raise PermanentError("a quota runs HTTP calls alone; a permit is held, not run")
        if lease.token in self._requests:
            raise PermanentError(f"action {lease.action!r} has a request under way")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        task = loop.create_task(self._caller.request(request.payload, request.timeout_s))
        self._requests[lease.token] = task
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            del self._requests[lease.token]
        if task.cancelled():
            return RunResult(Outcome.KILLED, run_s=loop.time() - begun)
        return task.result()

    async def kill(self, lease: Lease) -> None:
        if task := self._requests.get(lease.token):
            task.cancel()

    async def resize(self, lease: Lease, amounts: Mapping[ResourceId, int]) -> Lease:
        """A permit's amount is a number alone: the lease merely says the new one."""
        held = self._leases.get(lease.token)
        if held is None:
            raise LeaseLost(f"the permit of action {lease.action!r} was given back")
        changed = Lease(held.action, held.trajectory, held.node, held.token, amounts)
        self._leases[lease.token] = changed
        return changed

    async def release(self, lease: Lease) -> None:
        self._leases.pop(lease.token, None)
        await self.kill(lease)
        if task := self._requests.get(lease.token):
            await asyncio.wait({task})

    async def aclose(self) -> None:
        self._closed = True
        tasks = set(self._requests.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._leases.clear()
        await self._caller.aclose()
