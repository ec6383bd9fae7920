"""The progress bar of commands that simulate: actions that have ended, of all. On stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

UPDATE_EVERY = 64
"""Ends of actions: a simulation makes thousands of them a second, and an eye sees ten steps."""


@dataclass(slots=True)
class Ends:
    """Counts the ends of one simulation after the other."""

    label: str
    actions: int
    """Of one simulation."""
    runs: int | None
    """Simulations in all: the bar is of all of them. None if nobody knows: it is of each."""
    bar: Progress
    _count: int = 0
    _begun: int = 0
    _total: int = field(init=False)
    _task: TaskID = field(init=False)

    def __post_init__(self) -> None:
        self._total = self.actions * (self.runs or 1)
        self._task = self.bar.add_task(self.label, total=self._total)

    def begin(self, what: str) -> None:
        """The next simulation, and what it is of."""
        done = self._begun * self.actions if self.runs is not None else 0
        self._begun += 1
        self._count = done
        self._show(f"{self.label} {what}")

    @property
    def on_end(self) -> Callable[[], None] | None:
        """To be called for each action that has ended; None if nobody would see it."""
        return None if self.bar.disable else self._ended

    def _ended(self) -> None:
        self._count += 1
        if not self._count % UPDATE_EVERY or self._count == self._total:
            self._show()

    def _show(self, description: str | None = None) -> None:
        self.bar.update(self._task, completed=self._count, description=description)


@contextmanager
def progress(label: str, actions: int, runs: int | None, *, quiet: bool) -> Iterator[Ends]:
    """A bar while something is simulated, if stderr is a terminal and it may not be `quiet`."""
    screen = Console(stderr=True, highlight=False)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} actions"),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        disable=quiet or not screen.is_terminal,
    )
    with bar:
        yield Ends(label, actions, runs, bar)
