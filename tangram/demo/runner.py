"""Runs the demo's trajectories through the SDK, once with held cores and once with granted ones.

Both passes use the same server, the same cores and the same code; they differ in how many
trajectories may be open at once. With as many as there are cores, each has a core of its own from
start to end, which is what a pod with one core is; with many more, cores go to actions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ..client import AsyncClient, AsyncTrajectory
from ..client.results import Timing
from .report import ModeResult
from .workload import Episode, Step

MEMORY_BYTES = 128 << 20
"""Memory of one sandbox: a Python interpreter with room to spare, so that many are open at once."""
DISK_BYTES = 64 << 20
"""Disk of one sandbox: its files have some kilobytes, and a small node has few gigabytes."""
OPEN_MAX = 256
"""Trajectories open at once, at most, whatever the memory: more add nothing to see."""
ACTION_TIMEOUT_S = 60.0
"""The slowest command takes half a second on an idle core."""
CLOSED_TIMEOUT_S = 10.0
"""After a pass nothing may be left; the last releases are confirmed within milliseconds."""
CLOSED_POLL_S = 0.05


NOTHING = Timing(0.0, 0.0, 0.0, 0.0, 0.0)


class SomethingLeft(Exception):
    """A pass ended and the server still holds units or sandboxes of it."""


class Pass:
    """One pass over all episodes with at most `open_at_once` trajectories open.

    `on_action` is called after every action, for the progress bar.
    """

    def __init__(
        self, client: AsyncClient, open_at_once: int, on_action: Callable[[], None]
    ) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(open_at_once)
        self._on_action = on_action
        self._samples: list[Timing] = []
        self._wrong: list[str] = []
        self._held_s = 0.0
        self._started = 0.0

    async def run(self, episodes: Sequence[Episode]) -> ModeResult:
        """All of them, started at once in their order. Raises TangramError, SomethingLeft."""
        self._started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for order, episode in enumerate(episodes):
                    group.create_task(self._trajectory(episode, order))
        except ExceptionGroup as failures:
            # The first failure cancels the rest: it is the one to tell.
            raise failures.exceptions[0] from None
        makespan_s = time.monotonic() - self._started
        await self._check_closed()
        return ModeResult(
            samples=tuple(self._samples),
            right=len(episodes) - len(self._wrong),
            verdicts=len(episodes),
            wrong=tuple(self._wrong),
            makespan_s=makespan_s,
            idle_share=1 - sum(sample.run for sample in self._samples) / self._held_s,
        )

    async def _trajectory(self, episode: Episode, order: int) -> None:
        """Its first action is ready when the pass starts: what it waits for a slot, its sandbox
        and its files is part of that action's completion time."""
        async with self._slots:
            entered = time.monotonic()
            # Slots are taken in order; so are cores, by priority: neither pass may reorder.
            trajectory = self._client.trajectory(
                memory=MEMORY_BYTES, disk=DISK_BYTES, priority=-order
            )
            async with trajectory as sandbox:
                await sandbox.wait_ready()
                prepared = time.monotonic()
                for name, content in episode.files.items():
                    await sandbox.write_file(f"/workspace/{name}", content)
                written = time.monotonic()
                before = Timing(
                    queue=entered - self._started,
                    prepare=prepared - entered,
                    run=0.0,
                    overhead=written - prepared,
                    act=written - self._started,
                )
                problems = []
                for step in episode.steps:
                    await asyncio.sleep(step.think_s)
                    problem = await self._action(sandbox, step, before)
                    before = NOTHING
                    if problem:
                        problems.append(problem)
            self._held_s += time.monotonic() - entered
        if problems:
            self._wrong.append(f"{episode.name}: {'; '.join(problems)}")

    async def _action(self, sandbox: AsyncTrajectory, step: Step, before: Timing) -> str:
        """Run one step and keep its sample; returns what is wrong with it, or nothing."""
        result = await sandbox.exec(step.command, timeout=ACTION_TIMEOUT_S)
        timing = result.timing
        self._samples.append(
            Timing(
                queue=before.queue + timing.queue,
                prepare=before.prepare + timing.prepare,
                run=timing.run,
                overhead=before.overhead + timing.overhead,
                act=before.act + timing.act,
            )
        )
        self._on_action()
        if result.outcome == "finished" and step.expected.met_by(result.exit_code, result.stdout):
            return ""
        said = (result.stderr or result.stdout).strip().splitlines()
        return (
            f"`{step.command}` should {step.expected} but {result.outcome} with exit code"
            f" {result.exit_code}: {said[-1] if said else 'no output'}"
        )

    async def _check_closed(self) -> None:
        """Wait until the server holds nothing any more."""
        deadline = time.monotonic() + CLOSED_TIMEOUT_S
        while True:
            status = await self._client.status()
            left = sum(
                node.cores.granted + node.memory.granted + sum(node.sandboxes.values())
                for node in status.nodes
            )
            if not left:
                return
            if time.monotonic() > deadline:
                raise SomethingLeft(f"after the pass the server still holds: {status.nodes}")
            await asyncio.sleep(CLOSED_POLL_S)


async def open_limit(client: AsyncClient, trajectories: int) -> int:
    """How many trajectories the second pass opens at once: all, if their memory fits the node."""
    (node,) = (await client.status()).nodes
    return max(1, min(trajectories, OPEN_MAX, node.memory.free // MEMORY_BYTES))
