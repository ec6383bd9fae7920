"""`tangram doctor`: every launcher tried for real on this machine, and the lines that mend it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .options import Json
from .terminal import (
    EXIT_FAILURE,
    SERVER_EXTRA,
    complain,
    console,
    give_up,
    missing_extra,
    print_json,
    run_until_done,
)

if TYPE_CHECKING:
    from ..managers.cpu.doctor import Report

SAFE_LAUNCHERS = ("bubblewrap", "docker")
LIMIT_KINDS = ("hard", "soft")
LAUNCHER_WIDTH = 11


def doctor(as_json: Json = False) -> None:
    """Try every launcher on this machine: which work, why the others do not, what mends them.

    Also says which limits the kernel enforces (hard) and which are watched (soft). Exits with 1 if
    no launcher that isolates works.
    """
    try:
        reports = run_until_done(_examine())
    except ModuleNotFoundError as error:
        missing_extra("doctor", SERVER_EXTRA, error.name)
    if as_json:
        print_json(doctor_json(reports))
    else:
        console().print(render(reports))
    if not any(report.works for report in reports if report.launcher in SAFE_LAUNCHERS):
        complain("no launcher that isolates works here: see the lines that mend it")
        raise typer.Exit(EXIT_FAILURE)


async def _examine() -> list[Report]:
    from ..config import ServerConfig
    from ..managers.cpu.doctor import examine
    from ..managers.errors import ManagerError

    with tempfile.TemporaryDirectory(prefix="tangram-doctor-") as folder:
        root = Path(folder)
        state, runtime = root / "state", root / "run"
        for path in (root, state, runtime):
            path.mkdir(exist_ok=True)
            path.chmod(0o711)  # sandboxes reach their own folders below it
        try:
            return await examine(ServerConfig().node_config(os.getpid(), state, runtime))
        except ManagerError as error:
            give_up(error)


def doctor_json(reports: Sequence[Report]) -> dict[str, Any]:
    return {
        "launchers": [
            {
                "launcher": report.launcher,
                "works": report.works,
                "checks": [
                    {"name": c.name, "ok": c.ok, "detail": c.detail, "cure": c.cure}
                    for c in report.checks
                ],
                "limits": dict(report.limits),
                "cures": list(report.cures),
            }
            for report in reports
        ]
    }


def render(reports: Sequence[Report]) -> RenderableType:
    """A table of launchers, then for each one its checks."""
    parts: list[RenderableType] = [_launchers(reports)]
    for report in reports:
        parts += [Text(), _checks(report)]
    return Group(*parts)


def _launchers(reports: Sequence[Report]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("launcher", style="bold")
    table.add_column("works")
    table.add_column("hard limits")
    table.add_column("soft limits")
    for report in reports:
        works = Text("yes", style="green") if report.works else Text("no", style="bold red")
        table.add_row(report.launcher, works, *(_limits(report, kind) for kind in LIMIT_KINDS))
    return table


def _limits(report: Report, kind: str) -> str:
    return ", ".join(sorted(name for name, value in report.limits.items() if value == kind))


def _checks(report: Report) -> Table:
    """One line per thing that was tried, and under what failed the line that mends it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", width=LAUNCHER_WIDTH)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for position, check in enumerate(report.checks):
        mark = Text("✓", style="green") if check.ok else Text("✗", style="bold red")
        table.add_row("" if position else report.launcher, mark, check.name, check.detail)
        if check.cure and not check.ok:
            table.add_row("", "", Text("mend", style="cyan"), Text(check.cure, style="cyan"))
    return table
