"""`tangram run`: one command in a sandbox of its own, as if it ran here.

Its output arrives live on our stdout and stderr, byte for byte; its exit code is ours. Ctrl-C and
SIGTERM cancel the action and close the sandbox before we end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidRequest, TangramError
from ..limits import DEFAULT_SERVER, STDIN_BYTES_MAX, TIMEOUT_S_DEFAULT
from .connect import connected
from .documents import failure_json, result_json
from .options import (
    Json,
    Network,
    Server,
    parse_cores,
    parse_environment,
    parse_uploads,
)
from .terminal import (
    EXIT_TANGRAM_FAILED,
    EXIT_TIMED_OUT,
    complain,
    give_up,
    print_json,
    run_until_done,
    write_output,
)

if TYPE_CHECKING:
    from ..client import AsyncTrajectory, Result

EXIT_KILLED = 128 + 9
"""Of a command that a limit killed before it had an exit code."""


EXAMPLES = """Examples:

tangram run -- python3 -c 'print(6 * 7)'

tangram run --cores 1-8 --upload .:/workspace -- make -j{cores} test

tangram run --image python:3.12 --network egress -- pip install rich"""


@dataclass(frozen=True, slots=True)
class Order:
    """What the options ask for, read and checked."""

    command: list[str]
    trajectory: dict[str, Any]
    action: dict[str, Any]
    uploads: Sequence[tuple[str, str]]


def run(
    command: Annotated[list[str], typer.Argument(metavar="CMD", help="Command and arguments.")],
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="Container image; without it the server's own programs."
        ),
    ] = None,
    cores: Annotated[
        str,
        typer.Option(
            metavar="N|A-B|A,B",
            help="Cores: a number, a range or a set; of the last two the scheduler picks, and {cores} in CMD is replaced.",
        ),
    ] = "1",
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of the sandbox; else the server's default."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="How long the command may run; waiting does not count."
        ),
    ] = TIMEOUT_S_DEFAULT,
    task: Annotated[str, typer.Option(metavar="T", help="The task that it counts to.")] = "default",
    env: Annotated[
        list[str] | None,
        typer.Option(
            "-e", "--env", metavar="K=V", help="Set an environment variable; may be repeated."
        ),
    ] = None,
    workdir: Annotated[
        str | None,
        typer.Option("-w", "--workdir", metavar="DIR", help="Working directory in the sandbox."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("-u", "--user", metavar="USER", help="User in the sandbox.")
    ] = None,
    network: Annotated[
        Network | None,
        typer.Option(help="Whether it may connect to the outside; else the server's default."),
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Hand our standard input to the command.")
    ] = False,
    upload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SRC:DST",
            help="Copy a local file or folder into the sandbox first; may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Run one command in a sandbox of its own and exit with its code.

    Other codes: 124 it timed out, 125 Tangram failed, 126 and 127 as a shell, 130 Ctrl-C.
    """
    order = Order(
        command=command,
        trajectory={
            "image": image,
            "memory": memory,
            "network": None if network is None else network.value,
            "user": user,
            "workdir": workdir,
            "env": parse_environment(env or []),
        },
        action={
            "cores": parse_cores(cores),
            "timeout": timeout,
            "stdin": _standard_input() if stdin else None,
        },
        uploads=parse_uploads(upload or []),
    )
    try:
        _check_sources(order.uploads)
        result = run_until_done(execute(order, server, task, live=not as_json))
    except TangramError as error:
        if as_json:
            print_json(failure_json(error))
        give_up(error, EXIT_TANGRAM_FAILED)
    if as_json:
        print_json(result_json(result))
    code, remark = verdict(result, timeout)
    if remark:
        complain(remark)
    raise typer.Exit(code)


def _check_sources(uploads: Sequence[tuple[str, str]]) -> None:
    """Before a sandbox is started for nothing. Raises InvalidRequest."""
    for source, _ in uploads:
        if not os.path.lexists(source):
            raise InvalidRequest(
                f"--upload: {source} does not exist here; write SOURCE:TARGET with a SOURCE of"
                " this machine",
                field="upload",
            )


async def execute(order: Order, server: str, task: str, *, live: bool) -> Result:
    """Open a sandbox, upload into it, run the command. Raises TangramError."""
    async with (
        connected(server, task) as client,
        client.trajectory(**order.trajectory) as sandbox,
    ):
        for source, target in order.uploads:
            await _upload(sandbox, source, target)
        on_output = write_output if live else None
        return await sandbox.exec(order.command, on_output=on_output, **order.action)


async def _upload(sandbox: AsyncTrajectory, source: str, target: str) -> None:
    """With a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("uploading {task.description}"), BarColumn(), DownloadColumn())
    screen = Console(stderr=True)
    try:
        with Progress(
            *columns, console=screen, transient=True, disable=not screen.is_terminal
        ) as bar:
            shown = bar.add_task(source, total=None)
            await sandbox.upload(
                source,
                target,
                on_progress=lambda size, total: bar.update(shown, completed=size, total=total),
            )
    except TangramError:
        raise  # a FileError is an OSError too, and says itself what the sandbox refused
    except OSError as error:
        raise InvalidRequest(f"--upload: cannot read {source}: {error}", field="upload") from error


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        give_up(
            f"standard input is larger than {STDIN_BYTES_MAX >> 20} MiB: put it in a file and use"
            " --upload",
            EXIT_TANGRAM_FAILED,
        )
    return data


def verdict(result: Result, timeout_s: float) -> tuple[int, str]:
    """Our exit code for a result, and what to remark on stderr, if anything."""
    if result.outcome == "timed_out":
        return EXIT_TIMED_OUT, f"timed out after {timeout_s:g} s; --timeout allows more"
    code = result.exit_code
    if code is None:
        code = EXIT_KILLED
    elif code < 0:
        code = 128 - code
    if result.outcome == "finished":
        return code, ""
    return code or EXIT_KILLED, f"the command ran {result.outcome.replace('_', ' ')}"
