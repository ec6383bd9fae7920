"""What the demo measured, summed up: pure functions from samples to numbers, JSON and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..client.results import Timing

PART_NAMES = tuple(part.name for part in fields(Timing))


@dataclass(frozen=True, slots=True)
class ModeResult:
    """One pass over all the trajectories."""

    samples: tuple[Timing, ...]
    right: int
    verdicts: int
    wrong: tuple[str, ...]
    """One line for each trajectory with a verdict that is not the expected one."""
    makespan_s: float
    idle_share: float
    """Of the time between a sandbox's request and its end, the share in which no command ran."""

    def mean(self, part: str) -> float:
        values = self._values(part)
        return sum(values) / len(values)

    def p95(self, part: str) -> float:
        return percentile(self._values(part), 0.95)

    def _values(self, part: str) -> list[float]:
        return [getattr(sample, part) for sample in self.samples]


@dataclass(frozen=True, slots=True)
class Report:
    """Both passes side by side, at equal cores."""

    trajectories: int
    seed: int
    cores: int
    open_at_once: int
    held: ModeResult
    granted: ModeResult

    @property
    def all_right(self) -> bool:
        return not (self.held.wrong or self.granted.wrong)

    @property
    def mean_act_ratio(self) -> float:
        return self.held.mean("act") / self.granted.mean("act")

    @property
    def makespan_ratio(self) -> float:
        return self.held.makespan_s / self.granted.makespan_s


def percentile(values: Sequence[float], share: float) -> float:
    """With linear interpolation between the two nearest ranks."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def as_json(report: Report) -> dict[str, Any]:
    """Times in seconds; ratios are held over granted, above 1 where Tangram is faster."""
    return {
        "trajectories": report.trajectories,
        "actions": len(report.granted.samples),
        "seed": report.seed,
        "cores": report.cores,
        "open_at_once": report.open_at_once,
        "held": _mode_json(report.held),
        "granted": _mode_json(report.granted),
        "ratio": {
            "mean_act": report.mean_act_ratio,
            "p95_act": report.held.p95("act") / report.granted.p95("act"),
            "makespan": report.makespan_ratio,
        },
    }


def _mode_json(mode: ModeResult) -> dict[str, Any]:
    return {
        "right": mode.right,
        "verdicts": mode.verdicts,
        "wrong": list(mode.wrong),
        "mean_s": {part: mode.mean(part) for part in PART_NAMES},
        "p95_s": {part: mode.p95(part) for part in PART_NAMES},
        "makespan_s": mode.makespan_s,
        "idle_share": mode.idle_share,
    }


def render(report: Report) -> RenderableType:
    """Verdicts, the table, and what was compared."""
    return Group(_verdicts(report), Text(), _table(report), Text(), _sentences(report))


def _verdicts(report: Report) -> Text:
    text = Text()
    for name, mode in (("held cores", report.held), ("granted cores", report.granted)):
        style = "bold green" if not mode.wrong else "bold red"
        text.append(f"{mode.right} of {mode.verdicts} right", style)
        text.append(f" with {name}  ")
        for line in mode.wrong:
            text.append(f"\n  {line}\n", "red")
    text.rstrip()
    return text


def _table(report: Report) -> Table:
    table = Table(title="Action completion time, in seconds", title_justify="left", expand=False)
    table.add_column("part")
    table.add_column("held\nmean", justify="right")
    table.add_column("held\np95", justify="right")
    table.add_column("granted\nmean", justify="right", style="cyan")
    table.add_column("granted\np95", justify="right", style="cyan")
    table.add_column("held /\ngranted", justify="right", style="bold")
    for part in PART_NAMES:
        whole = part == "act"
        if whole:
            table.add_section()
        table.add_row(
            "ACT" if whole else part,
            *(
                f"{value:.3f}"
                for mode in (report.held, report.granted)
                for value in (mode.mean(part), mode.p95(part))
            ),
            f"{report.mean_act_ratio:.2f} x" if whole else "",
            style="bold" if whole else None,
        )
    table.add_row(
        "makespan",
        f"{report.held.makespan_s:.1f}",
        "",
        f"{report.granted.makespan_s:.1f}",
        "",
        f"{report.makespan_ratio:.2f} x",
    )
    return table


def _sentences(report: Report) -> Text:
    cores = "1 core" if report.cores == 1 else f"{report.cores} cores"
    first = (
        f"held: each of the {report.trajectories} trajectories keeps one sandbox and one of"
        f" {cores} from start to end (idle {report.held.idle_share:.0%} of that time), so"
        f" {report.cores} run at once, and the ACT of a trajectory's first action includes its"
        " wait for the slot."
    )
    second = (
        f"granted: up to {report.open_at_once} sandboxes are open at once and the same {cores}"
        " are granted for the length of each action; commands, think times, order and server are"
        " the same."
    )
    return Text(f"{first}\n{second}")
