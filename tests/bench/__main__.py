"""Run the benchmarks: `python -m tests.bench [NAME ...] [--runs 5] [--write]`."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from tangram import __version__

from . import (
    ablation,
    agents,
    coding,
    exec_latency,
    exec_rate,
    fork_cost,
    open_load,
    paper,
    pass_cost,
    profiles,
    resizing,
    reward_gpus,
    simulated,
    warm_start,
)
from .measure import Sheet, Table
from .simulations import Simulations

BENCHMARKS: dict[str, Callable[[int], Coroutine[Any, Any, Table]]] = {
    "exec-latency": exec_latency.measure,
    "exec-rate": exec_rate.measure,
    "resizing": resizing.measure,
    "fork-cost": fork_cost.measure,
    "pass-cost": pass_cost.measure,
    "warm-start": warm_start.measure,
    "simulated": simulated.measure,
}
"""On this machine, with Docker."""

SIMULATED: dict[str, Callable[[Simulations], list[Sheet]]] = {
    "coding": coding.measure,
    "paper": paper.measure,
    "open": open_load.measure,
    "profiles": profiles.measure,
    "agents": agents.measure,
    "ablation": ablation.measure,
    "reward-gpus": reward_gpus.measure,
}
"""Of policies, in virtual time."""

POLICIES = "policies"
"""Stands for all of SIMULATED."""

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
RUNS = 5
SEEDS = re.compile(r"(\d{1,6})-(\d{1,6})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = [*BENCHMARKS, *SIMULATED, POLICIES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="counted runs of each figure; seeds of a simulation"
    )
    parser.add_argument("--seeds", metavar="A-B", help="of simulations, instead of 0 to runs - 1")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="a recorded trace for `agents`")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    names = arguments.names or [*BENCHMARKS, POLICIES]
    if arguments.runs < 1:
        parser.error(f"--runs is at least 1, not {arguments.runs}")
    if measured := [name for name in BENCHMARKS if name in names]:
        build_image = [sys.executable, "tests/image/build.py"]
        subprocess.run(build_image, check=True, cwd=PAGE.parents[1])
    for name in measured:
        table = asyncio.run(BENCHMARKS[name](arguments.runs)).sheet()
        show(table)
        if arguments.write:
            write(name, [table], _runs(arguments.runs), _machine())
    simulations = Simulations(_seeds(parser, arguments.seeds, arguments.runs), arguments.trace)
    listed = f"seeds {', '.join(map(str, simulations.seeds))}"
    for name in SIMULATED if POLICIES in names else [name for name in SIMULATED if name in names]:
        tables = SIMULATED[name](simulations)
        for table in tables:
            show(table)
        if arguments.write:
            write(name, tables, "", listed)


def _runs(runs: int) -> str:
    return "" if runs == RUNS else f" ({runs} runs)"


def _seeds(parser: argparse.ArgumentParser, text: str | None, runs: int) -> Sequence[int]:
    if text is None:
        return range(runs)
    match = SEEDS.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        parser.error(f"--seeds is written A-B, as 100-104, not {text!r}")
    return range(int(match[1]), int(match[2]) + 1)


def show(table: Sheet) -> None:
    shown = RichTable(*table.columns, title=table.title, caption=table.conditions)
    for row in table.rows:
        shown.add_row(*row)
    Console().print(shown)


def write(name: str, tables: Sequence[Sheet], runs: str, where: str) -> None:
    """Put the tables between the marks of this name, at the end of the page if it has none."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    page = PAGE.read_text()
    if start not in page:
        page = f"{page.rstrip()}\n\n{start}\n{end}\n"
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    command = f"`python -m tests.bench {name}`{runs}"
    made = f"Made on {datetime.date.today()} with {command}, Tangram {__version__}: {where}.\n"
    body = "\n".join([start, made, *(table.markdown() for table in tables), end])
    PAGE.write_text(before + body + after)
    for table in tables:
        if table.picture is not None:
            (PAGE.parent / table.picture.file).write_bytes(table.picture.svg)


def _machine() -> str:
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    engine = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, Docker {engine.stdout.strip()}"
    )


if __name__ == "__main__":
    main()
