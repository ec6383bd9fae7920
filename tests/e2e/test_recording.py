"""`tangram serve --record` and then `tangram simulate`, over real sandboxes, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tangram import AsyncClient
from tests.e2e.servers import ServerProcess

Serve = Callable[..., ServerProcess]

TRAJECTORIES = 4
ACTIONS = 3


async def rollout(client: AsyncClient) -> None:
    async with client.trajectory(memory="128Mi") as trajectory:
        for _ in range(ACTIONS):
            await trajectory.exec("python3 -c 'for _ in range(10**6): pass'", check=True)


async def test_a_recorded_run_is_simulated_with_the_act_that_was_measured(
    serve: Serve, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    server = serve({"cores": "0", "record": str(trace)})
    async with AsyncClient(server.address, task="small") as client:
        await asyncio.gather(*(rollout(client) for _ in range(TRAJECTORIES)))
        async with client.quota("search"):
            pass
        [task] = [task for task in (await client.status()).tasks if task.name == "small"]
    server.stop()
    assert task.mean is not None
    figures = await asyncio.to_thread(simulated, trace)
    assert figures["actions"] == TRAJECTORIES * ACTIONS + 1
    assert figures["trajectories"] == TRAJECTORIES + 1
    assert figures["mean_act_s"] == pytest.approx(task.mean.act, rel=0.25)
    assert figures["mean_queue_s"] > 0


def simulated(trace: Path) -> Any:
    command = [
        sys.executable,
        "-m",
        "tangram.cli",
        "simulate",
        str(trace),
        "--nodes",
        "1",
        "--json",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
