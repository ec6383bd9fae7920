"""The commands that look at a server, and the one that cancels: status, top, explain, logs, cancel."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..limits import DEFAULT_SERVER
from .connect import connected
from .options import ActionId, Json, Server
from .terminal import (
    EXIT_FAILURE,
    complain,
    console,
    give_up,
    print_json,
    run_until_done,
    write_output,
)

if TYPE_CHECKING:
    from rich.live import Live

    from ..client import AsyncClient, ClusterStatus, Explanation

TOP_INTERVAL_S = 1.0


def status(as_json: Json = False, server: Server = DEFAULT_SERVER) -> None:
    """Show nodes, quotas, queues with their reasons, and tasks."""
    pool = run_until_done(_status(server))
    if as_json:
        from .documents import status_json

        print_json(status_json(pool))
        return
    from . import render

    console().print(render.status(pool))


async def _status(server: str) -> ClusterStatus:
    async with connected(server) as client:
        return await client.status()


def top(server: Server = DEFAULT_SERVER) -> None:
    """Watch the pool live; leave with q or Ctrl-C. Prints once where stdout is no terminal."""
    run_until_done(_top(server))


async def _top(server: str) -> None:
    from rich.live import Live

    from . import render

    screen = console()
    async with connected(server) as client:
        pool = await client.status()
        if not screen.is_terminal:
            screen.print(render.top(pool))
            return
        first = render.top(pool)
        leave: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with _key("q", leave), Live(first, console=screen, screen=True, auto_refresh=False) as live:
            follow = asyncio.create_task(_follow(client, live))
            try:
                await asyncio.wait({follow, leave}, return_when=asyncio.FIRST_COMPLETED)
                if follow.done():
                    follow.result()
            finally:
                follow.cancel()


async def _follow(client: AsyncClient, live: Live) -> None:
    from . import render

    async for pool in client.watch(TOP_INTERVAL_S):
        live.update(render.top(pool), refresh=True)


@contextmanager
def _key(key: str, pressed: asyncio.Future[None]) -> Iterator[None]:
    """Set `pressed` when the user presses `key`; without a terminal to read from, never."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        if key in sys.stdin.read(1) and not pressed.done():
            pressed.set_result(None)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def explain(action: ActionId, as_json: Json = False, server: Server = DEFAULT_SERVER) -> None:
    """Say where an action stands and why: its waits with their reasons, its run, its history."""
    explained = run_until_done(_explain(server, action))
    if as_json:
        from .documents import explanation_json

        print_json(explanation_json(explained))
        return
    from . import render

    console().print(render.explanation(explained))


async def _explain(server: str, action: str) -> Explanation:
    async with connected(server) as client:
        return await client.explain(action)


def logs(
    action: ActionId,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the action ends.")
    ] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Print what an action wrote: its stdout on ours, its stderr on ours, byte for byte."""
    run_until_done(_logs(server, action, follow))


async def _logs(server: str, action: str, follow: bool) -> None:
    async with connected(server) as client:
        async for stream, data in client.output(action, follow=follow):
            write_output(stream, data)


def cancel(
    action: Annotated[
        str | None, typer.Argument(metavar="ACTION", help="The id of one action.")
    ] = None,
    trajectory: Annotated[
        str | None, typer.Option(metavar="ID", help="All actions of a trajectory.")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="G", help="All actions of a group.")] = None,
    step: Annotated[int | None, typer.Option(metavar="S", help="All actions of a step.")] = None,
    task: Annotated[str | None, typer.Option(metavar="T", help="All actions of a task.")] = None,
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Cancel one action, or all that match every given option; their processes die.

    Exits with 1 if nothing matched.
    """
    if action is None and trajectory is None and group is None and step is None and task is None:
        give_up("cancel what? Name an ACTION, or --trajectory, --group, --step or --task")
    cancelled = run_until_done(
        _cancel(server, action=action, trajectory=trajectory, group=group, step=step, task=task)
    )
    if as_json:
        print_json({"cancelled": cancelled})
    else:
        for name in cancelled:
            print(name)
    if not cancelled:
        complain("nothing to cancel: no action that has not ended matches")
        raise typer.Exit(EXIT_FAILURE)


async def _cancel(
    server: str,
    *,
    action: str | None,
    trajectory: str | None,
    group: str | None,
    step: int | None,
    task: str | None,
) -> list[str]:
    async with connected(server) as client:
        return await client.cancel(
            action, trajectory, group, step, "cancelled by `tangram cancel`", task=task
        )
