"""Suites of pytest: their reports, cross-checked, and what is believed of them.

The tests share a process with the solution, so that code can lie: a score from here is labelled
`in_process`. What can be known is not believed: reports without an end, an exit code that does not
fit, tests that disappear, functions of pytest that were replaced, configuration that was planted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import Unsupported
from .cases import PytestSuite, defined_tests
from .clock import Clock
from .link import Ended, Record, run_inside
from .results import Ledger
from .solution import SolutionFailed

if TYPE_CHECKING:
    from ..client.requests import Cores
    from ..client.trajectories import AsyncTrajectory

STARTS_MAX = 20
"""Of pytest for one suite: each further one goes on after a test that ended the whole process."""
START_S = 20.0
"""For starting pytest and importing the tests, beside the timeout of one test."""
TESTS_FAILED = 1
"""pytest's exit code when some tests failed."""


class PytestRun:
    """What one start of pytest reported."""

    def __init__(self, suite: PytestSuite, ledger: Ledger, *, own_conftest: bool) -> None:
        self.problem = ""
        """Why nothing of it is to be believed."""
        self.no_pytest = ""
        self.session: int | None = None
        self.running: dict[str, None] = {}
        """Tests that have begun and not ended, in order."""
        self.failures = 0
        self.collected: list[str] = []
        self._is_collected = False
        self._session_count = -1
        self._suite = suite
        self._ledger = ledger
        self._own_conftest = own_conftest
        self._phases: dict[str, list[Record]] = {}
        self._broken: dict[str, str] = {}

    def take(self, record: Record) -> None:
        test = record.text("test")
        if record.event == "started" and test:
            self.running[test] = None
        elif record.event == "report" and test:
            self._on_report(test, record)
        elif record.event == "collected":
            self._on_collected(record)
        elif record.event == "not_collected":
            self._broken[record.text("where")] = record.text("message")
            self.failures += record.text("outcome") == "failed"
        elif record.event == "conftest":
            self._on_conftest(record.text("path"))
        elif record.event == "tampered":
            self.problem = (
                f"the solution replaced parts of the test framework: {record.texts('what')}"
            )
        elif record.event == "no_pytest":
            self.no_pytest = record.text("message") or "python"
        elif record.event == "session":
            self.session, self._session_count = record.number("code"), record.number("collected")

    def _on_collected(self, record: Record) -> None:
        self.collected += record.texts("tests")
        if not record.is_true("last") or self._is_collected:
            return
        self._is_collected = True
        if not self._ledger.names:
            self._ledger.names = tuple(names_of(self._suite, self.collected))
        found = set(self.collected)
        for name in self._ledger.left:
            if name not in found:
                broken = self._broken_at(name)
                self._ledger.write(
                    name, "error" if broken else "missing", 0.0, broken or "pytest did not find it"
                )

    def _broken_at(self, test: str) -> str:
        return next((why for where, why in self._broken.items() if where and where in test), "")

    def _on_conftest(self, path: str) -> None:
        ours = {str(PurePosixPath(file)) for file in self._suite.files}
        if not self._own_conftest and str(PurePosixPath(path)) not in ours:
            self.problem = f"{path} was loaded, which is not the suite's"

    def _on_report(self, test: str, record: Record) -> None:
        phases = self._phases.setdefault(test, [])
        if any(one.text("when") == record.text("when") for one in phases):
            self.problem = f"the {record.text('when')} of {test} was reported twice"
        phases.append(record)
        if record.text("outcome") == "failed":
            self.failures += 1
        if record.text("when") == "teardown":
            self.running.pop(test, None)
            outcome, message = outcome_of(phases)
            self._ledger.write(
                test, outcome, sum(one.seconds("seconds") for one in phases), message
            )

    def check(self, ended: Ended) -> None:
        """Fill in `problem` where reports, session and exit code do not agree."""
        if self.problem or self.session is None:
            return
        if ended.code != self.session:
            self.problem = (
                f"pytest said exit code {self.session}, and its process ended with {ended.code}"
            )
        elif self.session == TESTS_FAILED and not self.failures:
            self.problem = "pytest counted failures that were not reported"
        elif self._session_count != len(self.collected):
            self.problem = (
                f"pytest found {len(self.collected)} tests and then said {self._session_count}"
            )


async def run_pytest(
    sandbox: AsyncTrajectory,
    suite: PytestSuite,
    ledger: Ledger,
    clock: Clock,
    cores: Cores,
    *,
    timeout_s: float,
    own_conftest: bool,
    image_is_known: bool,
) -> None:
    """Run the suite until each of its tests has a result. `own_conftest`: no conftest.py in the
    sandbox can be the solution's. Raises SolutionFailed, Unsupported."""
    workers, stops_early = 0, ledger.early_stop and ledger.scheme.stops_early
    suite = replace(suite, tests=ledger.scheme.order(suite.tests))
    ledger.names = tuple(suite.tests)
    for _ in range(STARTS_MAX):
        if clock.is_up:
            break
        run = PytestRun(suite, ledger, own_conftest=own_conftest)
        ended = await run_inside(
            sandbox,
            order_of(suite, list(ledger.results), workers, timeout_s),
            run.take,
            python=suite.python,
            cores=cores,
            timeout_s=clock.left_s,
            silence_s=timeout_s + START_S,
            # At nothing there is nothing left to lie about; else the end is needed to believe it.
            is_over=(lambda: ledger.is_lost) if stops_early else None,
        )
        if ended.result is None:
            return
        ledger.actions.append(ended.result.action_id)
        ledger.log = ledger.log or ended.log
        clock.spend(ended.result.timing.run)
        _check_start(ended, run, suite, image_is_known)
        run.check(ended)
        if run.problem:
            ledger.names = ledger.names or tuple(names_of(suite, run.collected))
            ledger.distrust(run.problem)
            return
        if run.session is not None:
            _close(ledger, run, suite)
            return
        _blame(ledger, run, suite, ended)
        if ledger.is_decided or not run.running:
            return
        workers = 1
    ledger.write_left("timed_out" if clock.is_up else "error", _unfinished(clock))


def _unfinished(clock: Clock) -> str:
    return clock.message if clock.is_up else f"pytest was ended {STARTS_MAX} times by its tests"


def _close(ledger: Ledger, run: PytestRun, suite: PytestSuite) -> None:
    """pytest came to its end: what has no result now never will."""
    ledger.names = ledger.names or tuple(names_of(suite, run.collected))
    if not ledger.names:
        ledger.message = "pytest found no test"
    ledger.write_left("error", f"pytest ended with exit code {run.session} and no report of it")


def _blame(ledger: Ledger, run: PytestRun, suite: PytestSuite, ended: Ended) -> None:
    """The process ended before pytest did: the tests that ran then are at fault, or all that are left
    if none had begun."""
    outcome, message = ended.how
    ledger.names = ledger.names or tuple(names_of(suite, run.collected))
    if not run.running:
        ledger.message = f"pytest did not come to its end: {message}"
        ledger.write_left(outcome, message)
    for test in run.running:
        ledger.write(test, outcome, 0.0, message)


def _check_start(ended: Ended, run: PytestRun, suite: PytestSuite, image_is_known: bool) -> None:
    if not ended.is_missing and not run.no_pytest:
        return
    problem = f"the sandbox has no {suite.python}"
    if run.no_pytest:
        problem = f"{suite.python} of the sandbox ({run.no_pytest}) has no pytest"
    if image_is_known:
        raise Unsupported(f"{problem}: name another interpreter by `python`", field="python")
    raise SolutionFailed(problem)


def order_of(
    suite: PytestSuite, done: list[str], workers: int, timeout_s: float
) -> Mapping[str, Any]:
    """What the program inside is told."""
    own = any(PurePosixPath(path).name == "conftest.py" for path in suite.files)
    return {
        "kind": "pytest",
        "tests": list(suite.tests),
        "done": done,
        "paths": list(suite.paths),
        "arguments": list(suite.arguments),
        "config": suite.config,
        "conftest": suite.conftest or own,
        "workers": workers,
        "timeout_s": timeout_s,
    }


def names_of(suite: PytestSuite, collected: list[str]) -> list[str]:
    """The tests that count: those that are named; else those that were found, and the functions of
    the suite's files that were not. With a configuration or arguments of the caller's own, pytest may
    rightly leave some out."""
    if suite.tests:
        return list(suite.tests)
    names = list(dict.fromkeys(collected))
    if suite.config or suite.arguments:
        return names
    found = {name.partition("[")[0] for name in names}
    return names + [test for test in defined_tests(suite.files) if test not in found]


def outcome_of(phases: list[Record]) -> tuple[str, str]:
    """Of setup, call and teardown of one test. A skip is no pass: the solution can ask for one."""
    said = {record.text("when"): record for record in phases}
    for record in phases:
        if record.text("outcome") == "failed":
            outcome = "failed" if record.text("when") == "call" else "error"
            return outcome, record.text("message")
        if record.text("outcome") == "skipped":
            expected = "it failed as its mark expects" if record.is_true("expected") else ""
            return "skipped", expected or record.text("message")
    passed = all(
        when in said and said[when].text("outcome") == "passed"
        for when in ("setup", "call", "teardown")
    )
    return ("passed", "") if passed else ("error", "its report is not whole")
