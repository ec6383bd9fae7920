"""A no-op command in a warm Docker sandbox, end to end at the SDK, against floors and peers.

Floors: an empty unary RPC to the same server, and a bare spawn of `true`. Peers: `docker exec`
through the Docker SDK, SWE-ReX's one-shot command and its session action, each in its own container
of the same image. All take turns in every run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tangram import AsyncClient

from .measure import Row, Spread, Table, latencies_ms, percentile, ratio
from .servers import IMAGE, build_swerex_image, docker_container, swerex_runtimes, tangram_server

CALLS = 300
SLOW_CALLS = 15
"""Of what takes tens of milliseconds."""


async def measure(runs: int) -> Table:
    build_swerex_image()
    found: dict[str, list[list[float]]] = {}
    with tangram_server() as address:
        async with (
            grpc.aio.insecure_channel(address) as channel,
            AsyncClient(address) as client,
            client.trajectory(IMAGE) as trajectory,
            docker_container() as container,
            swerex_runtimes(1) as (runtime,),
        ):
            from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest

            await runtime.create_session(CreateBashSessionRequest())
            await trajectory.exec(["true"])
            shell = trajectory.session()
            await shell.run("true")
            health = health_pb2_grpc.HealthStub(channel)
            calls: dict[str, tuple[Callable[[], Awaitable[object]], int]] = {
                "rpc": (lambda: health.Check(health_pb2.HealthCheckRequest()), CALLS),
                "spawn": (_spawn, CALLS),
                "tangram": (lambda: trajectory.exec(["true"]), CALLS),
                "kept": (lambda: shell.run("/bin/true"), CALLS),
                "docker": (lambda: asyncio.to_thread(container.exec_run, ["true"]), SLOW_CALLS),
                "one-shot": (lambda: runtime.execute(Command(command=["true"])), CALLS),
                "session": (
                    lambda: runtime.run_in_session(BashAction(command="true")),
                    SLOW_CALLS,
                ),
            }
            for _ in range(runs):
                for name, (call, count) in calls.items():
                    found.setdefault(name, []).append(await latencies_ms(call, count))
    return _table(found, runs)


async def _spawn() -> None:
    """Blocks the loop on purpose: nothing but the spawn is to be measured."""
    pid = os.posix_spawn("/bin/true", ["true"], {})  # noqa: ASYNC221
    os.waitpid(pid, 0)  # noqa: ASYNC222


def _table(found: dict[str, list[list[float]]], runs: int) -> Table:
    p50 = {
        name: Spread(tuple(percentile(run, 0.5) for run in all_)) for name, all_ in found.items()
    }
    p99 = Spread(tuple(percentile(run, 0.99) for run in found["tangram"]))
    floor = Spread(
        tuple(a + b for a, b in zip(p50["rpc"].values, p50["spawn"].values, strict=True))
    )

    def faster(peer: str) -> str:
        return ratio(p50[peer], p50["tangram"]).text("x", 1)

    return Table(
        "A no-op `exec` in a warm Docker sandbox",
        f"`true`, 1 in flight, {runs} runs of {CALLS} calls ({SLOW_CALLS} of the slow peers); "
        "median of the runs' p50 (min - max).",
        (
            Row("Tangram, at the SDK, p50", p50["tangram"].text("ms"), "<= 2.0 ms"),
            Row("Tangram, at the SDK, p99", p99.text("ms"), "<= 6 ms"),
            Row("Tangram, `/bin/true` in a session, p50", p50["kept"].text("ms")),
            Row("floor: empty unary RPC + bare spawn", floor.text("ms")),
            Row("`docker exec` through the Docker SDK", p50["docker"].text("ms", 1)),
            Row("Tangram faster than `docker exec` by", faster("docker"), ">= 20 x"),
            Row("SWE-ReX in Docker, one-shot command", p50["one-shot"].text("ms")),
            Row("Tangram faster than SWE-ReX's one-shot by", faster("one-shot"), "> 1 x"),
            Row("SWE-ReX in Docker, session action", p50["session"].text("ms", 1)),
            Row("Tangram faster than SWE-ReX's session by", faster("session"), ">= 50 x"),
        ),
    )
