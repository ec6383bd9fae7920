"""What scoring answers, and the ledger that becomes it. No IO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .schemes import Scheme, decided

MESSAGE_CHARACTERS_MAX = 400
Trust = Literal["outside", "in_process"]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test."""

    name: str
    passed: bool
    outcome: str
    """passed; wrong (another answer); failed (an assertion, an exception, an exit code); error (its
    surroundings: the build, the import, the end of its process); timed_out, out_of_memory,
    out_of_disk, too_many_processes; skipped; missing (not among those that were found); tampered
    (the reports of its run are not to be believed); not_run (the score was decided without it)."""
    seconds: float = 0.0
    message: str = ""
    """Short. It may quote expected values: not for the policy's eyes."""


@dataclass(frozen=True, slots=True)
class SuiteScore:
    """The score of one solution."""

    value: float
    """0..1, by the scheme."""
    tests: tuple[CaseResult, ...]
    """In the order in which they were given or found."""
    trust: Trust
    """`outside`: expected values and verdicts never were where the solution runs. `in_process`: the
    tests ran in one process with the solution, which can lie to them."""
    message: str = ""
    """Why nothing could run, or is not believed; empty if the tests say it all."""
    ignored: tuple[str, ...] = ()
    """Files of the solution that would steer the tests, and were left out."""
    log: str = ""
    """What the tests printed: beginning and end."""
    seconds: float = 0.0
    """From the call to its answer, waiting included."""
    actions: tuple[str, ...] = ()
    """Ids of the actions that ran it, for `client.explain`."""

    @property
    def passed(self) -> int:
        return sum(test.passed for test in self.tests)

    @property
    def not_run(self) -> tuple[str, ...]:
        """The tests that were not run, because the score could not change any more."""
        return tuple(test.name for test in self.tests if test.outcome == "not_run")

    @property
    def outcomes(self) -> dict[str, bool]:
        """Passed or not, by name, of the tests that ran: what `pass_rates` takes."""
        return {test.name: test.passed for test in self.tests if test.outcome != "not_run"}


@dataclass
class Ledger:
    """The results so far. Once the score is decided nothing is written any more, so that what is
    declared as not run does not depend on what had been started."""

    scheme: Scheme
    early_stop: bool
    names: tuple[str, ...] = ()
    results: dict[str, CaseResult] = field(default_factory=dict)
    log: str = ""
    message: str = ""
    actions: list[str] = field(default_factory=list)
    is_decided: bool = False
    """Every test has a result, or those that have none cannot change the value."""

    @property
    def order(self) -> list[str]:
        return self.scheme.order(self.names)

    @property
    def left(self) -> list[str]:
        """Without a result, in the order of running."""
        return [name for name in self.order if name not in self.results]

    @property
    def is_lost(self) -> bool:
        """Decided, at nothing: true of few schemes before the end, and safe to believe."""
        return self.is_decided and self.value == 0

    @property
    def value(self) -> float:
        passed = {name for name, result in self.results.items() if result.passed}
        return self.scheme.value(passed, self.names)

    def write(self, name: str, outcome: str, seconds: float = 0.0, message: str = "") -> None:
        if name in self.results or name not in self.names or self.is_decided:
            return
        short = message.strip()[:MESSAGE_CHARACTERS_MAX]
        self.results[name] = CaseResult(name, outcome == "passed", outcome, seconds, short)
        if len(self.results) == len(self.names):
            self.is_decided = True
        elif self.early_stop and outcome != "passed" and self.scheme.stops_early:
            passed = {name for name, result in self.results.items() if result.passed}
            failed = self.results.keys() - passed
            self.is_decided = decided(self.scheme, passed, failed, self.names)

    def write_left(self, outcome: str, message: str) -> None:
        """The same for all that have none."""
        for name in self.left:
            self.write(name, outcome, message=message)

    def distrust(self, why: str) -> None:
        """Nothing that was reported counts."""
        self.message = why
        self.results = {name: CaseResult(name, False, "tampered", 0.0, why) for name in self.names}

    def close(self, trust: Trust, seconds: float, ignored: Sequence[str]) -> SuiteScore:
        tests = tuple(
            self.results.get(name, CaseResult(name, False, "not_run")) for name in self.names
        )
        return SuiteScore(
            value=self.value,
            tests=tests,
            trust=trust,
            message=self.message,
            ignored=tuple(ignored),
            log=self.log,
            seconds=seconds,
            actions=tuple(self.actions),
        )
