"""Run the benchmarks: `python -m tests.bench [NAME ...] [--runs 5] [--write]`."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from tangram import __version__

from . import exec_latency, exec_rate, pass_cost, resizing, reward_gpus, simulated
from .measure import Table

BENCHMARKS: dict[str, Callable[[int], Coroutine[Any, Any, Table]]] = {
    "exec-latency": exec_latency.measure,
    "exec-rate": exec_rate.measure,
    "resizing": resizing.measure,
    "pass-cost": pass_cost.measure,
    "reward-gpus": reward_gpus.measure,
    "simulated": simulated.measure,
}
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each figure")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    arguments = parser.parse_args()
    build_image = [sys.executable, "tests/image/build.py"]
    subprocess.run(build_image, check=True, cwd=PAGE.parents[1])
    tables = []
    for name in arguments.names or BENCHMARKS:
        table = asyncio.run(BENCHMARKS[name](arguments.runs))
        show(table)
        tables.append(table)
    if arguments.write:
        write(tables, arguments.runs)


def show(table: Table) -> None:
    shown = RichTable("what", "found", "to reach", title=table.title, caption=table.conditions)
    for row in table.rows:
        shown.add_row(row.what, row.found, row.to_reach)
    Console().print(shown)


def write(tables: list[Table], runs: int) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    made = (
        f"Made on {datetime.date.today()} with `make bench`"
        f"{'' if runs == 5 else f' ({runs} runs)'}, Tangram {__version__}: {_machine()}.\n"
    )
    body = "\n".join([START, made, *(table.markdown() for table in tables), END])
    PAGE.write_text(before + body + after)


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
