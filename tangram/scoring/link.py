"""From here to the program inside the sandbox (`inside`) and back: its start, its records, its end.

Records come from where the solution runs, so every field is checked when it is read.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..client.requests import Cores
    from ..client.results import Result
    from ..client.trajectories import AsyncTrajectory

MAX_OUTPUT = "8Mi"
RECORDS_BYTES_MAX = 7 << 20
"""Of one start: the output of an action holds all of it."""
PARTS = ("records", "calls", "suites", "relay")
START = """
import sys, types
package = sys.modules["inside"] = types.ModuleType("inside")
package.__path__ = []
for name, text in {parts!r}:
    module = sys.modules["inside." + name] = types.ModuleType("inside." + name)
    module.__package__ = "inside"
    exec(compile(text, "<inside." + name + ">", "exec"), module.__dict__)
module.main()
"""
EXIT_NOT_FOUND = (126, 127)
"""Exit codes of a command that could not be started."""


class Record:
    """One line of the program inside. Fields that are missing or of another kind read as nothing."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    @property
    def event(self) -> str:
        return self.text("event")

    def text(self, name: str) -> str:
        value = self._data.get(name)
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        value = self._data.get(name)
        return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

    def number(self, name: str) -> int:
        value = self._data.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else -1

    def seconds(self, name: str) -> float:
        value = self._data.get(name)
        good = isinstance(value, int | float) and 0 <= value < math.inf
        return float(value) if good else 0.0  # type: ignore[arg-type]

    def is_true(self, name: str) -> bool:
        return self._data.get(name) is True


@dataclass(frozen=True, slots=True)
class Ended:
    """How one start of the program ended."""

    result: Result | None
    """None if it was stopped from here, since nothing more was wanted."""
    code: int | None
    """Of the process that ran the solution; None if nobody was left to tell."""
    reason: str
    """Why that process was ended: silent, flooded, or empty."""

    @property
    def log(self) -> str:
        return "" if self.result is None else self.result.stderr

    @property
    def is_missing(self) -> bool:
        """There is no such interpreter."""
        return (
            self.result is not None
            and self.code is None
            and self.result.exit_code in EXIT_NOT_FOUND
        )

    @property
    def how(self) -> tuple[str, str]:
        """Outcome and message for the test that ran at its end."""
        if self.result is not None and self.result.outcome != "finished":
            return self.result.outcome, f"the sandbox says {self.result.outcome}"
        if self.reason == "silent":
            return "timed_out", "it did not end in time"
        if self.reason == "flooded":
            return "error", "it reported more than can be true"
        if self.code is None:
            return "error", "every process of the run was killed"
        if self.code < 0:
            return "error", f"its process was ended by signal {-self.code}"
        return "error", f"its process ended with exit code {self.code}"


class Reader:
    """Finds records in what a process prints: lines that begin with the nonce."""

    def __init__(self, nonce: str, on_record: Callable[[Record], None]) -> None:
        self._prefix = nonce.encode() + b" "
        self._on_record = on_record
        self._pending = b""

    def feed(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            if line.startswith(self._prefix):
                self._read(line.removeprefix(self._prefix))

    def _read(self, line: bytes) -> None:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(data, dict):
            self._on_record(Record(data))


async def run_inside(
    trajectory: AsyncTrajectory,
    order: Mapping[str, Any],
    on_record: Callable[[Record], None],
    *,
    python: str,
    cores: Cores,
    timeout_s: float,
    silence_s: float,
    is_over: Callable[[], bool] | None,
) -> Ended:
    """Start the program inside with `order` and hand each of its records to `on_record`.

    It is stopped as soon as `is_over()` after a record; None if that can never be. Raises what
    `AsyncTrajectory.exec` raises.
    """
    nonce = secrets.token_hex(16)
    last: list[Record] = []

    def take(record: Record) -> None:
        if record.event == "ended":
            last.append(record)
        else:
            on_record(record)

    reader = Reader(nonce, take)
    request = {
        **order,
        "nonce": nonce,
        "silence_s": silence_s,
        "output_bytes_max": RECORDS_BYTES_MAX,
    }
    command = [python, "-I", "-c", program()]
    stdin = json.dumps(request)
    if is_over is None:
        result = await trajectory.exec(
            command, cores=cores, timeout=timeout_s, stdin=stdin, max_output=MAX_OUTPUT
        )
        reader.feed(result.stdout_bytes)
        return _ended(result, last)
    stopped = False

    def on_output(stream: str, data: bytes) -> None:
        nonlocal stopped
        if stream == "stdout" and not stopped:
            reader.feed(data)
            if is_over():
                stopped = True
                running.cancel()

    running = asyncio.create_task(
        trajectory.exec(
            command,
            cores=cores,
            timeout=timeout_s,
            stdin=stdin,
            max_output=MAX_OUTPUT,
            on_output=on_output,
        )
    )
    try:
        return _ended(await running, last)
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if not stopped or (this is not None and this.cancelling()):
            raise
        return _ended(None, last)


def _ended(result: Result | None, last: list[Record]) -> Ended:
    if not last:
        return Ended(result, None, "")
    return Ended(result, last[-1].number("code"), last[-1].text("reason"))


@cache
def program() -> str:
    """The text of `inside` for any Python of a sandbox: its files as modules, in the order in which
    they import each other, and the call of its main function."""
    folder = resources.files(__package__) / "inside"
    texts = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in PARTS}
    return START.format(parts=list(texts.items()))
