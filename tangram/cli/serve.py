"""`tangram serve`: the configuration from a file and options; checks it, or runs the server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..limits import DEFAULT_HTTP, DEFAULT_SERVER
from .terminal import SERVER_EXTRA, missing_extra

EXAMPLES = """Examples:

tangram serve

tangram serve --listen 0.0.0.0:7070 --cores 0-61 --memory 400Gi

tangram serve --config tangram.yaml --check"""


class LauncherName(StrEnum):
    """What starts sandboxes."""

    AUTO = "auto"
    BUBBLEWRAP = "bubblewrap"
    DOCKER = "docker"
    PROCESS = "process"


def serve(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML configuration; the options below win over it."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the configuration and exit without serving.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where gRPC is served; port 0 picks a free one.",
            show_default=DEFAULT_SERVER,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where metrics and health are served.",
            show_default=DEFAULT_HTTP,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the sandboxes' files.",
            show_default="tangram/PORT in the user's state directory, temporary with port 0",
        ),
    ] = None,
    launcher: Annotated[
        LauncherName | None,
        typer.Option(
            help="What starts sandboxes; auto: bubblewrap, and Docker for images.",
            show_default="auto",
        ),
    ] = None,
    cores: Annotated[
        str | None,
        typer.Option(metavar="IDS", help="Cores to hand out, such as 0-63.", show_default="all"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory to hand out, such as 400Gi.",
            show_default="90 % of the machine",
        ),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Disk for all sandboxes, such as 1Ti.",
            show_default="what is free in --state",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="TRACE",
            help="Write what runs to this file, a trajectory a line, for tangram simulate.",
        ),
    ] = None,
) -> None:
    """Serve actions on this machine until Ctrl-C or SIGTERM.

    The first line says when it serves and where: tangram ready grpc=HOST:PORT http=HOST:PORT.
    """
    try:
        from ..config import load_config
        from ..server.app import run
    except ModuleNotFoundError as error:
        missing_extra("serve", SERVER_EXTRA, error.name)
    overrides = {
        "listen": listen,
        "http": http,
        "state": state,
        "launcher": launcher.value if launcher else None,
        "cores": cores,
        "memory": memory,
        "disk": disk,
        "record": record,
    }
    settings = load_config(config, overrides)
    if check:
        print("the configuration is valid")
        return
    raise typer.Exit(run(settings))
