"""Rewards from unit tests: what `client.score_tests` takes and answers.

Belongs to the client's side: it drives an `AsyncClient` that it is handed, and imports none of it.

    cases, comparing, schemes, solution, results   pure: what is asked, when it is right, what it is worth
    stdio, calls, pytests                          one kind of tests each: run them, judge them
    sandbox, link, clock                           where they run, how it is talked to, for how long
    inside                                         the program that runs in the sandbox
    scoring                                        all of it in order
"""

from .cases import FunctionCase, FunctionSuite, PytestSuite, StdioCase, StdioSuite, Suite
from .comparing import Comparison
from .results import CaseResult, SuiteScore
from .schemes import AllOrNothing, Difficulty, Fraction, groups_by_pass_rate, pass_rates
from .solution import Diff, Solution

__all__ = [
    "AllOrNothing",
    "CaseResult",
    "Comparison",
    "Diff",
    "Difficulty",
    "Fraction",
    "FunctionCase",
    "FunctionSuite",
    "PytestSuite",
    "Solution",
    "StdioCase",
    "StdioSuite",
    "Suite",
    "SuiteScore",
    "groups_by_pass_rate",
    "pass_rates",
]
