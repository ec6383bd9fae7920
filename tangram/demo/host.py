"""The demo's own server: a `tangram serve` process on free ports with a state of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO

from ..errors import InfraError

DEMO_CORES_MAX = 4
"""The demo takes no more: its problems are many small commands, and what is to be seen is how
trajectories share cores that are fewer than they are."""
START_TIMEOUT_S = 30.0
"""A server that does not serve by then never will."""
STOP_TIMEOUT_S = 20.0
"""Enough to close every sandbox; after it the server is killed."""
READY_PREFIX = "tangram ready "


class ServerFailed(Exception):
    """The server did not start, or failed; `str()` has what it said last."""


def usable_cores() -> list[int]:
    """The core ids that the demo's server manages: the first DEMO_CORES_MAX this process may use."""
    return sorted(os.sched_getaffinity(0))[:DEMO_CORES_MAX]


@asynccontextmanager
async def demo_server(cores: list[int]) -> AsyncIterator[str]:
    """Start the server, yield its gRPC address, stop it. Raises ServerFailed, also in place of an
    InfraError of the body."""
    with tempfile.TemporaryFile("w+") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tangram.cli", "serve"),
            *("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            *("--cores", ",".join(map(str, cores))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for the demo alone: it closes its trajectories, then stops the server.
            start_new_session=True,
        )
        try:
            yield await _address(process, log)
        except InfraError as error:
            raise ServerFailed(f"{error}; the server said last: {_last_words(log)}") from error
        finally:
            await asyncio.shield(_stop(process))


async def _address(process: asyncio.subprocess.Process, log: IO[str]) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        raise ServerFailed(f"the demo's server did not start in {START_TIMEOUT_S:.0f} s") from None
    if not line.startswith(READY_PREFIX):
        raise ServerFailed(f"the demo's server did not start: {_last_words(log)}")
    pairs = dict(pair.split("=", 1) for pair in line.removeprefix(READY_PREFIX).split())
    return pairs["grpc"]


def _last_words(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1].removeprefix("tangram: ") if lines else "nothing"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
