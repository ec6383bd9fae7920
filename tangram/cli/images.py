"""`tangram images`: what images the nodes have, and bringing those that will be needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..limits import DEFAULT_SERVER
from .connect import connected
from .options import Json, Server
from .terminal import EXIT_FAILURE, complain, console, give_up, print_json, run_until_done

if TYPE_CHECKING:
    from ..client import AsyncClient, ImageStatus

POLL_S = 0.5
"""Between two looks at pulls that are waited for."""

LIST_BYTES_MAX = 16 << 20
"""Of a file of names: far more than one call takes."""

EXAMPLES = """Examples:\n
tangram images\n
tangram images prefetch epoch-2.txt --wait\n
tangram images prefetch python:3.12 registry.example.com/swe:django-1234"""

app = typer.Typer(
    help="List the images of the nodes, or have more brought.",
    epilog=EXAMPLES,
    invoke_without_command=True,
)


@app.callback()
def images(context: typer.Context, as_json: Json = False, server: Server = DEFAULT_SERVER) -> None:
    """List the images of the nodes: digest, size, last use, and how far pulls are."""
    if context.invoked_subcommand is not None:
        return
    _show(run_until_done(_images(server)), as_json)


async def _images(server: str) -> list[ImageStatus]:
    async with connected(server) as client:
        return await client.images()


@app.command(epilog="Example: tangram images prefetch epoch-2.txt --wait")
def prefetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|NAME...",
            help="Images, or files with one on each line; # begins a comment.",
        ),
    ],
    task: Annotated[
        str, typer.Option(metavar="T", help="The task that will use them.")
    ] = "default",
    wait: Annotated[
        bool, typer.Option("--wait", help="Until all are there; exits with 1 if one failed.")
    ] = False,
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Have images brought to the nodes while other work goes on. Each is kept until it is used."""
    wanted = [image for name in names for image in _read(name)]
    if not wanted:
        give_up("no image is named: give names, or a file with one on each line")
    found = run_until_done(_prefetch(server, task, wanted, wait))
    _show(found, as_json)
    if failed := [image for image in found if image.state == "failed"]:
        if not as_json:
            for image in failed:
                complain(f"{image.name}: {image.message}")
        raise typer.Exit(EXIT_FAILURE)


async def _prefetch(server: str, task: str, names: list[str], wait: bool) -> list[ImageStatus]:
    async with connected(server, task) as client:
        found = await client.prefetch(names)
        return await _until_done(client, found) if wait else found


async def _until_done(client: AsyncClient, found: list[ImageStatus]) -> list[ImageStatus]:
    from rich.live import Live

    from . import render

    with Live(render.images(found), console=console(), transient=True, auto_refresh=False) as live:
        while any(image.state not in ("present", "failed") for image in found):
            await asyncio.sleep(POLL_S)
            now = {(image.node, image.name): image for image in await client.images()}
            found = [now.get((image.node, image.name), image) for image in found]
            if live.console.is_terminal:
                live.update(render.images(found), refresh=True)
    return found


def _read(name: str) -> list[str]:
    """The names in a file; what is no file is a name."""
    file = Path(name)
    try:
        if not file.is_file():
            return [name]
        if file.stat().st_size > LIST_BYTES_MAX:
            give_up(f"{name} is larger than {LIST_BYTES_MAX >> 20} MiB: no list of images")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        give_up(f"{name} cannot be read: {problem}")
    return [image for line in lines if (image := line.partition("#")[0].strip())]


def _show(found: list[ImageStatus], as_json: bool) -> None:
    if as_json:
        from .documents import images_json

        print_json(images_json(found))
        return
    from . import render

    console().print(render.images(found))
