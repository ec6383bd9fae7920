"""Programs that read standard input and print: one action per case, compared on this side."""

from __future__ import annotations

import asyncio
import shlex
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..limits import OUTPUT_BYTES_MAX
from .cases import StdioRun, StdioSuite
from .clock import Clock
from .results import Ledger

if TYPE_CHECKING:
    from ..client.results import Result
    from ..client.trajectories import AsyncTrajectory

OUTPUT_ROOM_BYTES = 64 << 10
"""More than what is expected is kept, so that a wrong answer is not called too long."""


async def run_stdio(
    sandbox: AsyncTrajectory,
    suite: StdioSuite,
    runs: Mapping[str, StdioRun],
    ledger: Ledger,
    clock: Clock,
    width: int,
) -> None:
    """Run the cases, `width` at a time with one core each, and write their results in order."""
    started: deque[tuple[StdioRun, asyncio.Task[Result]]] = deque()
    waiting = deque(ledger.left)
    try:
        while (waiting or started) and not ledger.is_decided:
            if waiting and len(started) < width and not clock.is_up:
                run = runs[waiting.popleft()]
                timeout_s = min(run.timeout_s, clock.left_s)
                started.append((run, asyncio.create_task(_start(sandbox, suite, run, timeout_s))))
            elif started:
                run, task = started[0]
                result = await task
                started.popleft()
                clock.spend(result.timing.run)
                ledger.actions.append(result.action_id)
                outcome, message = judged(result, run)
                ledger.write(run.name, outcome, result.timing.run, message)
            else:
                ledger.write_left("timed_out", clock.message)
                return
    finally:
        for _, task in started:
            task.cancel()
        await asyncio.gather(*(task for _, task in started), return_exceptions=True)


async def _start(
    sandbox: AsyncTrajectory, suite: StdioSuite, run: StdioRun, timeout_s: float
) -> Result:
    if isinstance(suite.command, str):
        command: str | list[str] = " ".join([suite.command, *map(shlex.quote, run.argv)])
    else:
        command = [*suite.command, *run.argv]
    room_bytes = 2 * len(run.expected.encode()) + OUTPUT_ROOM_BYTES
    return await sandbox.exec(
        command,
        stdin=run.stdin,
        timeout=timeout_s,
        max_output=min(room_bytes, OUTPUT_BYTES_MAX),
    )


def judged(result: Result, run: StdioRun) -> tuple[str, str]:
    """Outcome and message of a case."""
    if result.outcome != "finished":
        return result.outcome, ""
    if result.exit_code != 0:
        last = result.stderr.strip().rpartition("\n")[2]
        return "failed", f"exit code {result.exit_code}" + (f": {last}" if last else "")
    difference = run.comparison.difference(result.stdout_bytes, run.expected)
    if not difference:
        return "passed", ""
    if result.truncated:
        return "wrong", "it printed far more than expected"
    return "wrong", difference
