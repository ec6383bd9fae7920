"""The options that several commands share, and the reading of their values. No IO."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from ..limits import SERVER_VARIABLE

Server = Annotated[
    str,
    typer.Option(
        envvar=SERVER_VARIABLE,
        metavar="HOST:PORT",
        help="The server's gRPC address.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")]
ActionId = Annotated[str, typer.Argument(metavar="ACTION", help="The id of an action.")]

# Of a simulation

POLICY_DEFAULT = "elastic"
POLICIES = (
    "fcfs, fixed:N, backfill:N, unlimited[:N], arl-tangram, elastic,"
    " pod:request=CORES,limit=CORES, dedicated"
)
"""Written out, as are the workloads, since help has to be quick: the simulator is not loaded."""
WORKLOADS = (
    "coding64, coding236, open, agentcgroup-like, ai-coding, mopd, deepsearch, mopd-deepsearch"
)
ORDER_DEFAULT = "first-come"
ORDERS = "first-come, priority[:ageing=60], fair-share, group[:ageing=10]"
Source = Annotated[
    str,
    typer.Argument(
        metavar="TRACE|WORKLOAD",
        help=f"A trace (JSON lines, also gzipped, - for stdin), or a workload: {WORKLOADS}.",
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        metavar="NODESxGPUS", help="GPUs, such as 5x8 or 8.", show_default="the workload's, or none"
    ),
]
Quotas = Annotated[
    list[str] | None,
    typer.Option(
        "--quota",
        metavar="NAME:KEY=N,...",
        help="Limits of a quota: concurrency, or rate and period, or all three."
        " Quotas that only the trace names have no limit.",
    ),
]
Order = Annotated[
    str,
    typer.Option(metavar="O", help=f"Who is served first: {ORDERS}."),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        metavar="NAME=W",
        help="Of a task or a tenant under the order fair-share; 1 where nothing is said.",
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="TASK:KIND=N,...",
        help="What a task's actions hold at most at once, such as coding:cores=64,quota:search=4;"
        " the task * is every one without a limit of its own.",
    ),
]
Count = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Trajectories of a workload.", show_default="its own"),
]
Replicate = Annotated[
    int | None,
    typer.Option(
        "--replicate",
        min=1,
        metavar="N",
        help="N trajectories: the trace's, shuffled, over and over, cut at N.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="S", help="Of the workload and of the shuffle.")]
Elastic = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=AMOUNTS:SERIAL",
        help="Make a kind of actions elastic, such as test=1-32:0.03.",
    ),
]


class Network(StrEnum):
    """What a sandbox may reach."""

    NONE = "none"
    EGRESS = "egress"


_RANGE = re.compile(r"(\d+)-(\d+)")


def parse_cores(text: str) -> int | tuple[int, int] | set[int]:
    """`4`, an inclusive range `1-8`, or a set `1,2,4`. Raises typer.BadParameter."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    bounds = _RANGE.fullmatch(text)
    if bounds is not None:
        low, high = int(bounds[1]), int(bounds[2])
        if 0 < low <= high:
            return low, high
    values = text.split(",")
    if len(values) > 1 and all(value.isdecimal() and int(value) > 0 for value in values):
        return {int(value) for value in values}
    raise typer.BadParameter(
        f"{text!r} is not a number of cores: write 4, a range 1-8, or a set 1,2,4"
    )


def parse_environment(pairs: list[str]) -> dict[str, str]:
    """`K=V` each. Raises typer.BadParameter."""
    for pair in pairs:
        if "=" not in pair or pair.startswith("="):
            raise typer.BadParameter(f"{pair!r} is not a variable: write NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def parse_uploads(pairs: list[str]) -> list[tuple[str, str]]:
    """`SRC:DST` each, split at the last colon. Raises typer.BadParameter."""
    uploads = []
    for pair in pairs:
        source, separator, target = pair.rpartition(":")
        if not (separator and source and target):
            raise typer.BadParameter(f"{pair!r} is not an upload: write SOURCE:TARGET")
        uploads.append((source, target))
    return uploads
