"""No-op commands per second over sixteen Docker sandboxes, Tangram and SWE-ReX in turns.

Server, client and sandboxes share the machine, as in the floor: bare spawns from one process.
"""

from __future__ import annotations

import asyncio
import time

from tangram import AsyncClient

from .measure import Row, Spread, Table, rate_per_s, ratio
from .servers import IMAGE, build_swerex_image, swerex_runtimes, tangram_server

SANDBOXES = 16
SECONDS = 5.0


async def measure(runs: int) -> Table:
    build_swerex_image()
    tangram: list[float] = []
    one_shot: list[float] = []
    session: list[float] = []
    bare: list[float] = []
    with tangram_server() as address:
        async with AsyncClient(address) as client, swerex_runtimes(SANDBOXES) as runtimes:
            from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest

            trajectories = [client.trajectory(IMAGE, memory="256Mi") for _ in range(SANDBOXES)]
            await asyncio.gather(*(t.__aenter__() for t in trajectories))
            await asyncio.gather(*(t.exec(["true"]) for t in trajectories))
            await asyncio.gather(*(r.create_session(CreateBashSessionRequest()) for r in runtimes))
            for _ in range(runs):
                tangram.append(
                    await _total(
                        *(rate_per_s(lambda t=t: t.exec(["true"]), SECONDS) for t in trajectories)
                    )
                )
                one_shot.append(
                    await _total(
                        *(
                            rate_per_s(lambda r=r: r.execute(Command(command=["true"])), SECONDS)
                            for r in runtimes
                        )
                    )
                )
                session.append(
                    await _total(
                        *(
                            rate_per_s(
                                lambda r=r: r.run_in_session(BashAction(command="true")), SECONDS
                            )
                            for r in runtimes
                        )
                    )
                )
                bare.append(await _bare_spawns_per_s())
            await asyncio.gather(*(t.close() for t in trajectories))
    ours, theirs = Spread(tuple(tangram)), Spread(tuple(one_shot))
    return Table(
        "No-op commands per second, 16 Docker sandboxes",
        f"`true`, 1 in flight per sandbox, everything on this machine; {runs} runs of {SECONDS:g} s.",
        (
            Row("Tangram", ours.text("/s", 0), ">= 600 /s"),
            Row("SWE-ReX in Docker, one-shot command", theirs.text("/s", 0)),
            Row("Tangram over SWE-ReX's one-shot", ratio(ours, theirs).text("x"), "> 1 x"),
            Row("SWE-ReX in Docker, session action", Spread(tuple(session)).text("/s", 0)),
            Row("bare asyncio spawns, 32 at a time", Spread(tuple(bare)).text("/s", 0)),
        ),
    )


async def _total(*rates: object) -> float:
    return sum(await asyncio.gather(*rates))  # type: ignore[call-overload]


async def _bare_spawns_per_s() -> float:
    async def one() -> None:
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()

    start = time.perf_counter()
    total = await _total(*(rate_per_s(one, SECONDS) for _ in range(32)))
    del start
    return total
