"""Samples, percentiles, ratios and tables. Knows nothing of what is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


def percentile(samples: Sequence[float], share: float) -> float:
    """Linear interpolation between the closest ranks, `share` in 0..1."""
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several runs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, unit: str = "", digits: int = 2) -> str:
        """`median (min - max) unit`."""
        low, high = min(self.values), max(self.values)
        span = f" ({low:.{digits}f} - {high:.{digits}f})" if len(self.values) > 1 else ""
        return f"{self.median:.{digits}f}{span}{' ' + unit if unit else ''}"


def ratio(over: Spread, under: Spread) -> Spread:
    """Run by run, so that a drift of the machine's speed cancels."""
    return Spread(tuple(a / b for a, b in zip(over.values, under.values, strict=True)))


async def latencies_ms(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of `count` calls, one after the other."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        await call()
        samples.append((time.perf_counter() - start) * 1000)
    return samples


async def rate_per_s(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Calls per second of one caller that calls again as soon as it is answered."""
    done, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        await call()
        done += 1
    return done / (now - start)


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing that belongs to a table: the file beside the page, and what it shows in words."""

    file: str
    words: str
    svg: bytes


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as it is printed."""

    title: str
    conditions: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    picture: Picture | None = None

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.conditions, ""]
        lines += [_line(self.columns), _line(["---"] * len(self.columns))]
        lines += map(_line, self.rows)
        if self.picture is not None:
            lines += ["", f"![{self.picture.words}]({self.picture.file})"]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: what was measured, what was found, what was to be reached."""

    what: str
    found: str
    to_reach: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    conditions: str
    rows: tuple[Row, ...]
    picture: Picture | None = None

    def sheet(self) -> Sheet:
        rows = tuple((row.what, row.found, row.to_reach) for row in self.rows)
        columns = ("what", "found", "to reach")
        return Sheet(self.title, self.conditions, columns, rows, self.picture)
