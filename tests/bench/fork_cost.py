"""What a fork costs until its sandbox is ready, at the SDK: of a tree of 100 MB with 1 MB changed.

The tree is 400 files that the trajectory wrote itself. The first fork has to copy it; later ones find
it unchanged but for one file, and a fork's own fork stands on what its parent stands on. For scale: a
trajectory without any files to share, opened until it is ready.
"""

from __future__ import annotations

import time

from tangram import AsyncClient
from tangram.client import AsyncTrajectory

from .measure import Row, Spread, Table, ratio
from .servers import IMAGE, tangram_server

FILES = 400
FILE_BYTES = 250_000
CHANGE_BYTES = 1_000_000
TREE = f"for i in $(seq {FILES}); do head -c {FILE_BYTES} /dev/urandom > f$i; done"
CHANGE = f"head -c {CHANGE_BYTES} /dev/urandom > changed"
SETTLE = "sleep 0.1"
"""What changed a moment before a fork is copied again by the next one."""
LAUNCHERS: dict[str, tuple[str | None, int]] = {"bubblewrap": (None, 150), "Docker": (IMAGE, 400)}
"""The image, and what is to be reached in milliseconds."""


async def measure(runs: int) -> Table:
    rows: list[Row] = []
    with tangram_server() as address:
        async with AsyncClient(address) as client:
            for name, (image, most_ms) in LAUNCHERS.items():
                rows += _rows(name, await _forks(client, image, runs), most_ms)
    return Table(
        "Forking a trajectory",
        f"{FILES} files of {FILE_BYTES // 1000} kB, {CHANGE_BYTES // 1_000_000} MB changed before "
        f"each fork; until the fork's sandbox is ready, at the SDK; {runs} runs, median "
        "(min - max).",
        tuple(rows),
    )


async def _forks(client: AsyncClient, image: str | None, runs: int) -> dict[str, Spread]:
    found: dict[str, list[float]] = {"open": [], "first": [], "again": [], "child": []}
    async with client.trajectory(image) as warm:  # The interpreter, the image's pages.
        await warm.wait_ready()
    for _ in range(runs):
        start = time.perf_counter()
        async with client.trajectory(image) as parent:
            await parent.wait_ready()
            found["open"].append((time.perf_counter() - start) * 1000)
            await parent.exec(f"{TREE}; {SETTLE}", check=True)
            first = await _fork_ms(parent, found["first"])
            again = await _fork_ms(parent, found["again"])
            child = await _fork_ms(again, found["child"])
            for fork in (first, again, child):
                await fork.close()
    return {name: Spread(tuple(values)) for name, values in found.items()}


async def _fork_ms(parent: AsyncTrajectory, samples: list[float]) -> AsyncTrajectory:
    await parent.exec(CHANGE, check=True)
    start = time.perf_counter()
    (fork,) = await parent.fork()
    await fork.wait_ready()
    samples.append((time.perf_counter() - start) * 1000)
    return fork


def _rows(name: str, found: dict[str, Spread], most_ms: int) -> list[Row]:
    target = f"<= {most_ms} ms"
    return [
        Row(f"{name}: fork of a trajectory that was forked before", _ms(found["again"]), target),
        Row(f"{name}: fork of a fork", _ms(found["child"]), target),
        Row(f"{name}: first fork, which copies the tree", _ms(found["first"])),
        Row(f"{name}: a trajectory without files, opened", _ms(found["open"])),
        Row(f"{name}: fork again over opening", ratio(found["again"], found["open"]).text("x")),
    ]


def _ms(spread: Spread) -> str:
    return spread.text("ms", 0)
