"""`client.score_tests`: checks what it is given, prepares a sandbox, and has the tests run there.

What the solution does ends in its score. What raises is ours, or the caller's: TangramError.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest
from ..limits import CONCURRENCY_MAX, TIME_S_MAX
from .calls import LOAD_S, run_calls
from .cases import (
    CallRun,
    FunctionSuite,
    PytestSuite,
    StdioRun,
    StdioSuite,
    Suite,
    call_runs,
    checked_pytest,
    stdio_runs,
)
from .clock import Clock
from .pytests import names_of, run_pytest
from .results import Ledger, SuiteScore, Trust
from .sandbox import Place, bring, build, end_processes, place_tests, scoring_sandbox
from .schemes import Scheme, check_names, scheme
from .solution import Solution, SolutionFailed, checked
from .stdio import run_stdio

if TYPE_CHECKING:
    from ..client.aio import AsyncClient
    from ..client.requests import Command, Cores
    from ..client.trajectories import AsyncTrajectory

PYTEST_TOTAL_S = 600.0
"""For a suite whose number of tests is not known before: most take a minute."""
SETUP_S = 600.0
"""For building a solution, which is no part of the time of its tests."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be scored how, checked."""

    solution: Any
    suite: Suite
    runs: Mapping[str, StdioRun | CallRun]
    scheme: Scheme
    place: Place
    setup: Command | None
    cores: Cores
    timeout_s: float
    total_s: float
    early_stop: bool

    @property
    def image_is_known(self) -> bool:
        """What is missing in the sandbox was missing in its image: the solution had no say."""
        return self.place.fresh and self.setup is None


def plan(
    solution: Solution,
    tests: Suite,
    *,
    image: str | None,
    trajectory: AsyncTrajectory | None,
    fresh: bool,
    scheme_given: Scheme | str,
    setup: Command | None,
    cores: Cores,
    timeout_s: float,
    total_s: float | None,
    early_stop: bool,
    sandbox: Mapping[str, Any] | None,
) -> Plan:
    """Check all arguments before anything is opened. Raises InvalidRequest."""
    chosen = scheme(scheme_given)
    runs: dict[str, StdioRun | CallRun] = {}
    if isinstance(tests, StdioSuite):
        runs = {run.name: run for run in stdio_runs(tests, timeout_s)}
    elif isinstance(tests, FunctionSuite):
        runs = {run.name: run for run in call_runs(tests, timeout_s)}
    elif isinstance(tests, PytestSuite):
        tests = checked_pytest(
            replace(tests, tests=tests.tests or chosen.named()) if chosen.named() else tests
        )
    else:
        raise InvalidRequest(
            "tests must be a StdioSuite, a FunctionSuite or a PytestSuite, "
            f"not a {type(tests).__name__}",
            field="tests",
        )
    names = list(runs) or list(tests.tests if isinstance(tests, PytestSuite) else ())
    check_names(chosen, names)
    if not fresh and (image is not None or sandbox):
        raise InvalidRequest(
            "fresh=False scores in the trajectory as it is: image and sandbox have no place",
            field="image" if image is not None else "sandbox",
        )
    width = min(at_most(cores), CONCURRENCY_MAX) if isinstance(tests, StdioSuite) else 1
    spent_s = LOAD_S + sum(run.timeout_s for run in runs.values()) if runs else PYTEST_TOTAL_S
    return Plan(
        solution=checked(solution, has_trajectory=trajectory is not None, fresh=fresh),
        suite=tests,
        runs=runs,
        scheme=chosen,
        place=Place(image, trajectory, fresh, dict(sandbox or {}), width),
        setup=setup,
        cores=cores,
        timeout_s=timeout_s,
        total_s=min(spent_s, TIME_S_MAX) if total_s is None else total_s,
        early_stop=early_stop,
    )


def at_most(cores: Cores) -> int:
    """The largest of the amounts that are asked for. Raises InvalidRequest."""
    amounts = [cores] if isinstance(cores, int) else list(cores)
    if not amounts or not all(isinstance(amount, int) and amount > 0 for amount in amounts):
        raise InvalidRequest(
            f"cores must be a number, a range (low, high) or a set such as {{1, 2, 4}}, "
            f"not {cores!r}",
            field="cores",
        )
    return max(amounts)


async def score(client: AsyncClient, todo: Plan) -> SuiteScore:
    """Do what was planned. Raises what opening a trajectory and running actions raise."""
    began = time.perf_counter()
    ledger = Ledger(todo.scheme, todo.early_stop, tuple(todo.runs))
    ignored: list[str] = []
    async with scoring_sandbox(client, todo.place) as sandbox:
        clock = Clock(todo.total_s)
        try:
            written = await _bring(sandbox, todo, ignored)
            if todo.setup is not None:
                await build(sandbox, todo.setup, SETUP_S)
            await _run(sandbox, todo, ledger, clock, written)
        except SolutionFailed as failure:
            ledger.message = f"the solution cannot be tested: {failure}"
            if isinstance(todo.suite, PytestSuite):
                ledger.names = ledger.names or tuple(names_of(todo.suite, []))
            ledger.write_left("error", ledger.message)
    trust: Trust = "in_process" if isinstance(todo.suite, PytestSuite) else "outside"
    return ledger.close(trust, time.perf_counter() - began, ignored)


async def _bring(sandbox: AsyncTrajectory, todo: Plan, ignored: list[str]) -> list[str] | None:
    """The solution comes in. Returns the files that are the solution's, or None if any may be."""
    guarded = None
    if isinstance(todo.suite, PytestSuite):
        guarded = [path for path in (todo.suite.config,) if path]
    left_out, written = await bring(
        sandbox, todo.solution, source=todo.place.trajectory, guarded=guarded
    )
    ignored += left_out
    return written if todo.image_is_known else None


async def _run(
    sandbox: AsyncTrajectory, todo: Plan, ledger: Ledger, clock: Clock, written: list[str] | None
) -> None:
    suite = todo.suite
    if isinstance(suite, StdioSuite):
        stdio = {name: run for name, run in todo.runs.items() if isinstance(run, StdioRun)}
        await run_stdio(sandbox, suite, stdio, ledger, clock, at_most(todo.cores))
        return
    known = todo.image_is_known
    if isinstance(suite, FunctionSuite):
        calls = {name: run for name, run in todo.runs.items() if isinstance(run, CallRun)}
        await run_calls(sandbox, suite, calls, ledger, clock, todo.cores, image_is_known=known)
        return
    if not known and not await end_processes(sandbox, suite.python):
        raise SolutionFailed(f"its processes could not be ended: no {suite.python} runs there")
    await place_tests(sandbox, suite.files, written)
    await run_pytest(
        sandbox,
        suite,
        ledger,
        clock,
        todo.cores,
        timeout_s=todo.timeout_s,
        own_conftest=suite.conftest or known,
        image_is_known=known,
    )
