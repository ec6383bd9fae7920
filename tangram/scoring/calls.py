"""Calls of functions: many in one start of the program inside, which returns what they returned;
compared on this side.

A solution can lie about what it returns and when, never about what was expected: that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Unsupported
from .cases import CALL_BYTES_MAX, CallRun, FunctionSuite
from .clock import Clock
from .comparing import value_difference
from .link import Ended, Record, run_inside
from .results import Ledger
from .solution import SolutionFailed

if TYPE_CHECKING:
    from ..client.requests import Cores
    from ..client.trajectories import AsyncTrajectory

LOAD_S = 30.0
"""For loading the solution, at least: scientific packages take long to import on a busy machine."""
SLACK_S = 5.0
"""For what is not the solution's: starting, forking, reporting."""
RESULT_BYTES_MAX = 1 << 20
"""Of what one call returns, as JSON."""
RESULTS_BYTES_MAX = 5 << 20
"""Of one start: after so much the rest is asked for in another one."""


class Batch:
    """The cases of one start, and what is known of them. Results are written in the order of the
    cases, whichever ended first."""

    def __init__(self, runs: Sequence[CallRun], suite: FunctionSuite, ledger: Ledger) -> None:
        self.runs = runs
        self.loaded = False
        self.load_problem = ""
        self._suite = suite
        self._ledger = ledger
        self._arrived: dict[int, Record] = {}
        self._next = 0

    @property
    def order(self) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "function": run.function,
                "args": run.args,
                "kwargs": run.kwargs,
                "timeout_s": run.timeout_s,
            }
            for index, run in enumerate(self.runs)
        ]

    def take(self, record: Record) -> None:
        if record.event == "loaded":
            self.loaded = True
        elif record.event == "load_failed":
            self.load_problem = record.text("message") or "it raised an exception"
        elif record.event == "case":
            self._arrived.setdefault(record.number("index"), record)
            while self._next in self._arrived:
                self._write(self._next)
                self._next += 1

    def write_rest(self) -> None:
        """What came after a case that never did."""
        for index in sorted(self._arrived):
            if index >= self._next and index < len(self.runs):
                self._write(index)

    def _write(self, index: int) -> None:
        if index < len(self.runs):
            record = self._arrived[index]
            outcome, message = judged(record, self.runs[index], self._suite)
            self._ledger.write(self.runs[index].name, outcome, record.seconds("seconds"), message)


async def run_calls(
    sandbox: AsyncTrajectory,
    suite: FunctionSuite,
    runs: Mapping[str, CallRun],
    ledger: Ledger,
    clock: Clock,
    cores: Cores,
    *,
    image_is_known: bool,
) -> None:
    """Run the cases, as many at a time as cores are granted. Raises SolutionFailed, Unsupported."""
    workers = 0  # As many as there are cores.
    while not ledger.is_decided:
        if clock.is_up:
            ledger.write_left("timed_out", clock.message)
            return
        batch = Batch(batched([runs[name] for name in ledger.left]), suite, ledger)
        before = len(ledger.results)
        slowest_s = max(run.timeout_s for run in batch.runs)
        order = {
            "kind": "calls",
            "file": suite.file,
            "cases": batch.order,
            "workers": workers,
            "result_bytes_max": RESULT_BYTES_MAX,
            "budget_bytes": RESULTS_BYTES_MAX,
        }
        stops_early = ledger.early_stop and ledger.scheme.stops_early and len(batch.runs) > 1
        ended = await run_inside(
            sandbox,
            order,
            batch.take,
            python=suite.python,
            cores=cores,
            timeout_s=clock.left_s,
            silence_s=max(LOAD_S, slowest_s) + SLACK_S,
            is_over=(lambda: ledger.is_decided) if stops_early else None,
        )
        if ended.result is None:
            return
        ledger.actions.append(ended.result.action_id)
        ledger.log = ledger.log or ended.log
        clock.spend(ended.result.timing.run)
        _check_start(ended, suite, image_is_known)
        if not batch.loaded:
            outcome, message = ended.how
            if batch.load_problem:
                outcome, message = "error", f"it cannot be loaded: {batch.load_problem}"
            elif outcome == "error":
                message = f"{message} while it was loaded"
            ledger.write_left(outcome, message)
            return
        batch.write_rest()
        went_well = ended.code == 0 and ended.result.outcome == "finished"
        if went_well and len(ledger.results) > before:
            continue
        if workers != 1:
            workers = 1  # Of several that ran, alone it shows which one ends the process.
        elif ledger.left:
            outcome, message = ended.how
            ledger.write(ledger.left[0], outcome, 0.0, message)


def _check_start(ended: Ended, suite: FunctionSuite, image_is_known: bool) -> None:
    if not ended.is_missing:
        return
    problem = f"the sandbox has no {suite.python}"
    if image_is_known:
        raise Unsupported(f"{problem}: name another interpreter by `python`", field="python")
    raise SolutionFailed(problem)


def batched(runs: Sequence[CallRun]) -> list[CallRun]:
    """The first runs that fit into one start; at least one."""
    size_bytes = 0
    batch: list[CallRun] = []
    for run in runs:
        size_bytes += run.size_bytes
        if batch and size_bytes > CALL_BYTES_MAX:
            break
        batch.append(run)
    return batch


def judged(record: Record, run: CallRun, suite: FunctionSuite) -> tuple[str, str]:
    """Outcome and message of a call."""
    problem, text = record.text("problem"), record.text("answer")
    if problem == "timed_out":
        return "timed_out", f"it took more than {run.timeout_s:g} s"
    if problem == "too_large":
        return "wrong", f"it returned more than {RESULT_BYTES_MAX >> 20} MiB"
    if problem:
        return "error", f"its process ended with {text} before the call returned"
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return "wrong", "what it returned is not JSON"
    if not isinstance(answer, dict) or "value" not in answer:
        error = answer.get("error") if isinstance(answer, dict) else None
        return "failed", error if isinstance(error, str) else "it returned nothing that is known"
    difference = value_difference(answer["value"], run.expected, suite.relative, suite.absolute)
    return ("wrong", difference) if difference else ("passed", "")
