"""No-op commands per second over sixteen Docker sandboxes, Tangram and SWE-ReX in turns.

Server, client and sandboxes share the machine, as in the floor: bare spawns from one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from tangram import AsyncClient

from .measure import Row, Spread, Table, rate_per_s, ratio
from .servers import IMAGE, build_swerex_image, swerex_runtimes, tangram_server

SANDBOXES = 16
SECONDS = 5.0
BARE_AT_ONCE = 32

Call = Callable[[], Awaitable[object]]


async def measure(runs: int) -> Table:
    build_swerex_image()
    with tangram_server() as address:
        async with AsyncClient(address) as client, swerex_runtimes(SANDBOXES) as runtimes:
            from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest

            trajectories = [client.trajectory(IMAGE, memory="256Mi") for _ in range(SANDBOXES)]
            await asyncio.gather(*(t.__aenter__() for t in trajectories))
            await asyncio.gather(*(t.exec(["true"]) for t in trajectories))
            await asyncio.gather(*(r.create_session(CreateBashSessionRequest()) for r in runtimes))
            callers: dict[str, list[Call]] = {
                "tangram": [partial(t.exec, ["true"]) for t in trajectories],
                "one-shot": [partial(r.execute, Command(command=["true"])) for r in runtimes],
                "session": [
                    partial(r.run_in_session, BashAction(command="true")) for r in runtimes
                ],
                "bare": [_bare_spawn] * BARE_AT_ONCE,
            }
            found: dict[str, list[float]] = {name: [] for name in callers}
            for _ in range(runs):
                for name, calls in callers.items():
                    rates = await asyncio.gather(*(rate_per_s(call, SECONDS) for call in calls))
                    found[name].append(sum(rates))
            await asyncio.gather(*(t.close() for t in trajectories))
    rates_of = {name: Spread(tuple(rates)) for name, rates in found.items()}
    ours, theirs, bare = rates_of["tangram"], rates_of["one-shot"], rates_of["bare"]
    return Table(
        "No-op commands per second, 16 Docker sandboxes",
        f"`true`, 1 in flight per sandbox, everything on this machine; {runs} runs of {SECONDS:g} s.",
        (
            Row("Tangram", ours.text("/s", 0), ">= 600 /s"),
            Row("SWE-ReX in Docker, one-shot command", theirs.text("/s", 0)),
            Row("Tangram over SWE-ReX's one-shot", ratio(ours, theirs).text("x"), "> 1 x"),
            Row("SWE-ReX in Docker, session action", rates_of["session"].text("/s", 0)),
            Row(f"floor: bare spawns, {BARE_AT_ONCE} at a time", bare.text("/s", 0)),
            Row("Tangram over bare spawns", ratio(ours, bare).text("x")),
        ),
    )


async def _bare_spawn() -> None:
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()
