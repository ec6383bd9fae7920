"""The manager of one node's cores, memory and sandboxes.

Makes grants real: chooses exclusive cores, confines the trajectory's sandbox to them, runs the
command through the sandbox's agent, and parks the sandbox again before its cores are free. Which
action gets how many cores, and when, is the scheduler's; how a sandbox isolates, the launcher's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...scheduler.model import CORES, MEMORY, Capacity, ResourceId
from ..base import (
    ExecSpec,
    ImageInfo,
    KeptFiles,
    Lease,
    Manager,
    NodeDescription,
    Outcome,
    OutputSink,
    Preparation,
    RunRequest,
    RunResult,
    SandboxInfo,
    SandboxSpec,
    WarmStatus,
)
from ..config import NodeConfig
from ..errors import (
    LeaseLost,
    ManagerError,
    PermanentError,
    SandboxClosed,
    TemporaryError,
)
from .assemble import LauncherBuilder
from .claim import Claim, make_claim
from .drift import DriftWatch
from .held import ENDS_WHOLE, HeldSandbox, Run, judge
from .inside import InsideCalls, as_result
from .launchers import Launchers, is_rootfs
from .sandbox.base import Sandbox
from .sandbox.messages import AgentResult
from .snapshots import Snapshots
from .spec import check_sizes, pool_limits, with_defaults
from .warm.pool import WarmPool
from .watch import DiskWatch, MemoryWatch

log = logging.getLogger(__name__)

KILL_WAIT_S = 10.0
"""For a killed run to end. The agent escalates by itself within seconds; if it does not answer,
the whole sandbox is ended."""


class CpuManager(InsideCalls, Manager):
    """One node. Also a SandboxHost, a trajectory having one sandbox here, and an ImageHost."""

    def __init__(self, config: NodeConfig, claim: Claim, launchers: Launchers) -> None:
        """For `open_node`, and for tests with launchers of their own."""
        self.node = config.name
        self._config = config
        self._claim = claim
        self._launchers = launchers
        self._cores = ResourceId(CORES, config.name)
        self._memory = ResourceId(MEMORY, config.name)
        self._held: dict[str, HeldSandbox] = {}
        limits = pool_limits(config, claim.memory_bytes, claim.pool.total)
        self._pool = WarmPool(launchers, limits, self._room_bytes)
        watched = (self._held.values, self.kill, self._destroy)
        self._drift = DriftWatch(self._held.values)

        self._snapshots = Snapshots(launchers, claim.disk_bytes)
        self._disk = DiskWatch(
            *watched, cap_bytes=claim.disk_bytes, kept_bytes=self._snapshots.size_bytes
        )
        self._watches = (self._disk, MemoryWatch(*watched))
        self._closing = False

    @classmethod
    async def open_node(cls, config: NodeConfig) -> CpuManager:
        """Find what the node has, a launcher that works, and remove what an earlier life left.

        Raises PermanentError, Unsupported naming what would mend it.
        """
        claim = await asyncio.to_thread(make_claim, config)
        builder = await asyncio.to_thread(LauncherBuilder, config, claim.parking)
        launchers = Launchers(config, builder)
        try:
            await launchers.settle()
            if reaped := await launchers.reap():
                log.info("%s sandboxes of an earlier life were removed", reaped)
        except BaseException:
            await launchers.aclose()
            raise
        return cls(config, claim, launchers)

    # Manager

    def capacities(self) -> tuple[Capacity, ...]:
        return (
            Capacity(self._cores, self._claim.pool.total),
            Capacity(self._memory, self._claim.memory_bytes),
        )

    async def acquire(
        self, action: str, trajectory: str | None, token: int, amounts: Mapping[ResourceId, int]
    ) -> Lease:
        held = self._find(trajectory)
        async with held.lock:
            held.live()
            cores = self._claim.pool.take(amounts[self._cores])
            lease = Lease(action, trajectory, self.node, token, dict(amounts), cores)
            held.leases[token] = lease
            try:
                await self._confine(held)
            except BaseException:
                await self._take_back(held, lease)
                raise
            return lease

    async def run(self, lease: Lease, request: RunRequest, output: OutputSink) -> RunResult:
        held = self._find(lease.trajectory)
        sandbox = held.live()
        current = held.leases.get(lease.token)
        if current is None:
            raise LeaseLost(f"the lease of action {lease.action!r} was released")
        if not isinstance(request.payload, ExecSpec):
            raise PermanentError("a sandbox runs commands alone")
        run = held.runs[lease.token] = Run(request.action, lease.token)

        def judged(result: AgentResult) -> RunResult:
            if result.exit_code == 0 or run.before is None:
                return as_result(result)
            return judge(as_result(result), run.verdict, run.before, sandbox.events())

        # Read once the request is on its way, while the command is being spawned.
        asyncio.get_running_loop().call_soon(_count_before, run, sandbox)
        try:
            result = await sandbox.channel.exec(
                request.action,
                lease.token,
                request.payload,
                cores=current.cores,
                # Where no cpuset confines the sandbox, the command is at least bound to them.
                affinity=current.cores if sandbox.limits["cores"] == "soft" else None,
                timeout_s=request.timeout_s,
                output=output,
                sweeps=lambda result: judged(result).outcome in ENDS_WHOLE,
            )
            if result.sandbox_reset:
                _note_reset(held, request.action, result)
            return judged(result)
        except SandboxClosed as closed:
            raise LeaseLost(f"action {lease.action!r} ran when its sandbox was closed") from closed
        finally:
            del held.runs[lease.token]
            if lease.token in held.leases:
                held.ended.add(lease.token)
            run.ended.set()

    async def kill(self, lease: Lease) -> None:
        held = self._held.get(lease.trajectory or "")
        run = held.runs.get(lease.token) if held is not None else None
        if held is None or run is None or held.sandbox is None:
            return
        try:
            async with asyncio.timeout(KILL_WAIT_S):
                await held.sandbox.channel.kill(run.action)
                await run.ended.wait()
        except LeaseLost:
            await run.ended.wait()
        except TimeoutError:
            await self._destroy(held, f"action {run.action!r} could not be killed")

    async def resize(self, lease: Lease, amounts: Mapping[ResourceId, int]) -> Lease:
        held = self._find(lease.trajectory)
        async with held.lock:
            sandbox = held.live()
            current = held.leases.get(lease.token)
            if current is None:
                raise LeaseLost(f"the lease of action {lease.action!r} was released")
            if lease.token in held.runs and sandbox.limits["cores"] == "soft":
                # Its command was bound to its cores when it started, and stays on all of them.
                return current
            wanted = amounts.get(self._cores, len(current.cores))
            kept, surplus = current.cores[:wanted], current.cores[wanted:]
            more = wanted - len(kept)
            added = self._claim.pool.take(more) if more else ()
            changed = replace(
                current,
                amounts={**current.amounts, **amounts},
                cores=tuple(sorted(kept + added)),
            )
            held.leases[lease.token] = changed
            try:
                await self._confine(held)
            except BaseException:
                await self._put_back(held, current, added)
                raise
            self._claim.pool.give(surplus)
            return changed

    async def release(self, lease: Lease) -> None:
        await self.kill(lease)
        held = self._held.get(lease.trajectory or "")
        if held is None:
            return
        async with held.lock:
            current = held.leases.get(lease.token)
            if current is not None and held.closing is None:
                await self._take_back(held, current)
        if held.closing is not None:
            await asyncio.shield(held.closing)

    async def aclose(self) -> None:
        self._closing = True
        for watch in (*self._watches, self._drift):
            await watch.aclose()
        closings = [self.close(trajectory) for trajectory in list(self._held)]
        outcomes = await asyncio.gather(*closings, self._pool.aclose(), return_exceptions=True)
        await self._launchers.aclose()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    # SandboxHost

    async def check_open(self, spec: SandboxSpec) -> SandboxSpec:
        filled = self._with_defaults(spec)
        check_sizes(filled, self.node, self._claim.disk_bytes)
        launcher = await self._launchers.working(self._launchers.choose(filled))
        await launcher.check_image(filled)
        self._pool.check(filled)
        return filled

    async def open(
        self, spec: SandboxSpec, token: int, on_lost: Callable[[str], None]
    ) -> SandboxInfo:
        if self._closing:
            raise PermanentError(f"node {self.node} is closing")
        if spec.trajectory in self._held:
            raise PermanentError(f"trajectory {spec.trajectory!r} has a sandbox already")
        held = HeldSandbox(self._with_defaults(spec), on_lost)
        self._held[spec.trajectory] = held
        held.start = asyncio.create_task(
            self._start(held, spec.snapshot), name=f"start the sandbox of {spec.trajectory}"
        )
        try:
            await asyncio.wait({held.start})
            sandbox = self._started(held)
        except BaseException:
            await asyncio.shield(self._close(held))
            raise
        for watch in self._watches:
            watch.wake(sandbox)
        self._drift.wake()
        digest, wait_s = "", 0.0
        for store in self._launchers.image_stores():
            digest = digest or store.digest(spec.trajectory)
            wait_s += store.wait_s(spec.trajectory)
        return SandboxInfo(
            spec.trajectory, sandbox.launcher, sandbox.workdir, sandbox.limits, digest, wait_s
        )

    async def close(self, trajectory: str) -> None:
        held = self._held.get(trajectory)
        if held is not None:
            await asyncio.shield(self._close(held))

    async def keep_files(self, trajectory: str, snapshot: str, limit_bytes: int) -> KeptFiles:
        held = self._find(trajectory)
        others_bytes = self._disk.total_bytes()
        return await self._snapshots.keep(held, snapshot, limit_bytes, others_bytes)

    async def discard_files(self, snapshot: str) -> None:
        await self._snapshots.discard(snapshot)

    async def restore_files(self, trajectory: str, snapshot: str) -> None:
        held = self._find(trajectory)
        # A caller that goes away must not leave it between two sandboxes.
        await asyncio.shield(self._snapshots.restore(held, snapshot, self._start))

    def sandboxes(self) -> Mapping[str, int]:
        counts = {"starting": 0, "idle": 0, "running": 0}
        for held in self._held.values():
            counts[held.state] += 1
        return counts

    def corrections(self) -> Mapping[str, int]:
        return self._drift.corrected

    def warm(self) -> tuple[WarmStatus, ...]:
        return self._pool.statuses()

    def describe(self) -> NodeDescription:
        default = self._launchers.default
        return NodeDescription(default, self._launchers.get(default).limits())

    def preparing(self, trajectory: str) -> Preparation | None:
        found = (s.preparing(trajectory) for s in self._launchers.image_stores())
        return next((preparation for preparation in found if preparation is not None), None)

    # ImageHost

    async def images(self) -> list[ImageInfo]:
        return await (await self._launchers.image_store()).images()

    async def prefetch(self, task: str, names: Sequence[str]) -> list[ImageInfo]:
        store = await self._launchers.image_store()
        # What is a folder on this node needs no bringing.
        wanted = [n for n in names if not is_rootfs(self._config.images.get(n, ""))]
        return await store.prefetch(task, wanted)

    # The life of a sandbox

    async def _start(self, held: HeldSandbox, snapshot: str) -> Sandbox:
        """A sandbox for the trajectory, whose files are those that were kept, if any."""
        current: list[Sandbox] = []

        def lost(message: str) -> None:
            # Once another one has taken its place, its end is none of the trajectory's.
            if held.sandbox is None or held.sandbox in current:
                self._on_lost(held, message)

        spec = replace(held.spec, snapshot=snapshot)
        current.append(await self._pool.open(spec, lost))
        return current[0]

    def _started(self, held: HeldSandbox) -> Sandbox:
        """What came out of the start. Raises what it raised; SandboxClosed if it was closed."""
        assert held.start is not None
        if held.closing is not None or held.start.cancelled():
            raise SandboxClosed(f"trajectory {held.spec.trajectory!r} was closed while it started")
        sandbox = held.start.result()
        if held.lost:
            raise TemporaryError(f"the sandbox died while it started: {held.lost}")
        held.sandbox = sandbox
        return sandbox

    def _on_lost(self, held: HeldSandbox, message: str) -> None:
        if held.lost or held.closing is not None:
            return
        held.lost = message
        if held.sandbox is not None:
            held.on_lost(message)

    async def _destroy(self, held: HeldSandbox, message: str) -> None:
        """End a sandbox that no longer obeys; its runs raise SandboxDied."""
        self._on_lost(held, message)
        await asyncio.shield(self._close(held))

    def _close(self, held: HeldSandbox) -> asyncio.Task[None]:
        """One closing for all who ask for it, so that each returns when it is done."""
        if held.closing is None:
            held.closing = asyncio.create_task(
                self._end(held), name=f"close the sandbox of {held.spec.trajectory}"
            )
        return held.closing

    async def _end(self, held: HeldSandbox) -> None:
        try:
            if held.start is not None:
                held.start.cancel()
                await asyncio.wait({held.start})
                if not held.start.cancelled() and held.start.exception() is None:
                    await held.start.result().aclose()
        finally:
            # Whoever changes its cores now finds it closing and leaves them to us.
            async with held.lock:
                for lease in held.leases.values():
                    self._claim.pool.give(lease.cores)
                held.leases.clear()
            self._held.pop(held.spec.trajectory, None)

    # Cores

    async def _confine(self, held: HeldSandbox) -> None:
        try:
            await held.confine()
        except OSError as problem:
            held.live()
            raise TemporaryError(f"the sandbox's cores could not be set: {problem}") from problem

    async def _take_back(self, held: HeldSandbox, lease: Lease) -> None:
        """Take a lease's cores off the sandbox, then free them. A sandbox that cannot be moved off
        them is ended: a free core must be free."""
        del held.leases[lease.token]
        held.ended.discard(lease.token)
        try:
            await held.confine()
        except (ManagerError, OSError) as problem:
            held.leases[lease.token] = lease  # `_end` gives its cores back
            self._end_for(held, f"its cores could not be taken back: {problem}")
        else:
            self._claim.pool.give(lease.cores)

    async def _put_back(self, held: HeldSandbox, lease: Lease, added: tuple[int, ...]) -> None:
        """After a change that failed: the lease as it was before it got `added`. Where that cannot
        be, nobody knows which cores the sandbox sits on, and it is ended."""
        held.leases[lease.token] = lease
        try:
            await held.confine()
        except (ManagerError, OSError) as problem:
            held.leases[lease.token] = replace(lease, cores=lease.cores + added)
            self._end_for(held, f"its cores could be changed neither there nor back: {problem}")
        else:
            self._claim.pool.give(added)

    def _end_for(self, held: HeldSandbox, why: str) -> None:
        if not held.lost:
            log.warning("sandbox of %s ended: %s", held.spec.trajectory, why)
            self._on_lost(held, why)
        self._close(held)

    # Looking things up

    def _room_bytes(self) -> int:
        """Memory that no trajectory has reserved."""
        reserved = sum(held.spec.memory_bytes or 0 for held in self._held.values())
        return self._claim.memory_bytes - reserved

    def _with_defaults(self, spec: SandboxSpec) -> SandboxSpec:
        return with_defaults(spec, self._config.sandbox, self._claim.disk_bytes)

    def _find(self, trajectory: str | None) -> HeldSandbox:
        held = self._held.get(trajectory or "")
        if held is None:
            raise SandboxClosed(f"trajectory {trajectory!r} has no sandbox on node {self.node}")
        return held


def _count_before(run: Run, sandbox: Sandbox) -> None:
    run.before = sandbox.events()


def _note_reset(held: HeldSandbox, action: str, result: AgentResult) -> None:
    """Every process of the sandbox was killed while this action ran, to end it or another one.
    Raises LeaseLost if it died of another's end."""
    if result.outcome is not Outcome.FINISHED:
        log.warning(
            "sandbox of %s: all its processes were killed, since action %s multiplied faster than"
            " it could be ended",
            held.spec.trajectory,
            action,
        )
    elif result.signal == signal.SIGKILL:
        raise LeaseLost(
            f"action {action!r} was killed with all processes of its sandbox, since another action "
            "there multiplied faster than it could be ended"
        )
