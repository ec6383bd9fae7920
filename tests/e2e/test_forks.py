"""Forks and snapshots over real sandboxes: one moment's files, no processes, nothing left behind."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tangram import AsyncClient, Client
from tangram.errors import FailedPrecondition, Lost, TangramError
from tests.e2e.conftest import Serve
from tests.waiting import until

MIB = 1 << 20
COUNT = """
i=0
while [ ! -e stop ]; do
    i=$((i + 1)); echo $i > first; echo $i > second
done
"""

SLEEPS = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '^sleep'"
"""Says how many processes called `sleep` there are."""


async def test_a_search_branches_and_goes_on_from_its_best_branch(
    client: AsyncClient, image: str | None
) -> None:
    make = "mkdir src; seq 1000 > src/data; sleep 100000 >/dev/null 2>&1 & echo $A"
    async with client.trajectory(image, env={"A": "a"}) as root:
        assert (await root.exec(make, check=True)).stdout == "a\n"
        best = root
        for depth in range(3):
            branches = await best.fork(2)
            await asyncio.gather(
                *(
                    branch.exec(f"echo {depth}{number} >> src/data; echo $A > {depth}", check=True)
                    for number, branch in enumerate(branches)
                )
            )
            best = branches[1]
            await branches[0].close()
        assert (await root.exec(SLEEPS)).stdout == "1\n"
        tail = await best.exec(f"tail -n 3 src/data; cat 0 1 2; {SLEEPS}; pwd")
        assert tail.stdout.splitlines() == [
            *("01", "11", "21"),
            *("a", "a", "a"),
            *("0", "/workspace"),
        ]
        await best.close()
        assert (await root.exec("wc -l < src/data")).stdout == "1000\n"


async def test_a_fork_under_a_running_writer_is_of_one_moment(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image, concurrency=2) as trajectory:
        counting = asyncio.create_task(trajectory.exec(COUNT))
        await until(lambda: _exists(trajectory, "second"))
        for _ in range(5):
            (fork,) = await trajectory.fork()
            first, second = [await fork.read_text(name) for name in ("first", "second")]
            # Between two writes a file may be empty: it was cut before it is written.
            assert int(first or -1) - int(second or -1) in (0, 1) or "" in (first, second)
            await fork.close()
        before = int(await trajectory.read_text("second") or 0)
        await until(lambda: _above(trajectory, before))
        await trajectory.write_file("stop", "")
        assert (await counting).exit_code == 0


async def _exists(trajectory: Any, name: str) -> bool:
    return name in {file.name for file in await trajectory.list_files()}


async def _above(trajectory: Any, count: int) -> bool:
    return int(await trajectory.read_text("second") or 0) > count


async def test_a_fork_right_after_an_action_is_never_refused(
    client: AsyncClient, image: str | None
) -> None:
    async with client.trajectory(image) as trajectory:
        for number in range(5):
            await trajectory.exec(f"echo {number} > file", check=True)
            await trajectory.snapshot("s")
        await trajectory.exec("rm file; sleep 100000 >/dev/null 2>&1 &", check=True)
        await trajectory.restore("s")
        ran = await trajectory.exec(f"cat file; {SLEEPS}")
        assert ran.stdout == "4\n0\n"


async def test_a_running_action_is_named(client: AsyncClient, image: str | None) -> None:
    async with client.trajectory(image) as trajectory:
        running = asyncio.create_task(trajectory.exec("sleep 1000", id=f"busy-{image}"))
        await until(lambda: _runs(client, f"busy-{image}"))
        with pytest.raises(FailedPrecondition, match=f"busy-{image}"):
            await trajectory.fork()
        running.cancel()
        await asyncio.wait([running])


async def _runs(client: AsyncClient, action: str) -> bool:
    return any(a.id == action and a.state == "running" for a in await client.list())


async def test_what_a_fork_shares_does_not_count_to_its_disk(
    client: AsyncClient, image: str | None
) -> None:
    write = f"head -c {40 * MIB} /dev/zero | tr '\\0' x > "
    async with client.trajectory(image, disk="64Mi") as parent:
        await parent.exec(f"{write} one", check=True)
        (fork,) = await parent.fork()
        ran = await fork.exec(f"{write} two; sleep 5; stat -c %s one two")
        assert (ran.outcome, ran.stdout) == ("finished", f"{40 * MIB}\n" * 2)
        ran = await fork.exec(f"{write} three; sleep 60")
        assert ran.outcome == "out_of_disk"
        assert (await parent.exec("cat one | wc -c")).stdout == f"{40 * MIB}\n"
        await fork.close()


async def test_kept_files_count_to_the_disk_of_the_node(serve: Serve) -> None:
    server = serve({"disk": "64Mi", "sandbox": {"memory": "64Mi", "disk": "64Mi"}})
    async with AsyncClient(server.address) as client, client.trajectory() as trajectory:
        write = f"head -c {30 * MIB} /dev/zero | tr '\\0' x > "
        await trajectory.exec(f"{write} one", check=True)
        await trajectory.snapshot("one")
        await trajectory.exec(f"{write} two", check=True)
        with pytest.raises(FailedPrecondition, match="drop snapshots") as refused:
            await trajectory.snapshot("two")
        assert refused.value.field == "disk"
        # The sandbox and what is kept of it are too much together: it has to make room.
        ran = await trajectory.exec("sleep 60")
        assert ran.outcome == "out_of_disk"
        await client.drop_snapshot("one")


async def test_a_server_that_was_killed_leaves_no_kept_files(
    serve: Serve, image: str | None
) -> None:
    first = serve({"listen": "127.0.0.1:0"})
    client = Client(first.address)
    trajectory = client.trajectory(image)
    trajectory.write_file("file", "data")
    trajectory.snapshot("s")
    (fork,) = trajectory.fork()
    assert fork.read_text("file") == "data"
    assert kept(first)
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve({"listen": first.address}, folder=first.state.parent)
    assert kept(second) == []
    with pytest.raises((TangramError, Lost)):
        fork.read_text("file")
    client.close()


def kept(server: Any) -> list[str]:
    return [str(path) for path in server.state.glob("**/*layers/l-*")]
