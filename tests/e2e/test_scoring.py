"""`score_tests` against a real server: programs, functions and suites, right ones and wrong ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tangram import AsyncClient, Client
from tangram.client import AsyncTrajectory
from tangram.demo.workload import Problem, load_problems
from tangram.errors import FileError, InvalidRequest, NotFound, Unsupported
from tangram.scoring import (
    Comparison,
    Diff,
    Difficulty,
    FunctionCase,
    FunctionSuite,
    PytestSuite,
    StdioCase,
    StdioSuite,
    SuiteScore,
)
from tests.e2e.servers import ServerProcess
from tests.e2e.suites import SANDBOX, suite

DOUBLE = "print(2 * int(input()))\n"
ADD = "def add(a, b):\n    return a + b\n"
TESTS = """
import pytest
from solution import add

def test_small():
    assert add(1, 2) == 3

@pytest.mark.parametrize("number", [10, 20])
def test_with_itself(number):
    assert add(number, number) == 2 * number

class TestText:
    def test_words(self):
        assert add("a", "b") == "ab"
"""
IDS = (
    "test_it.py::test_small",
    "test_it.py::test_with_itself[10]",
    "test_it.py::test_with_itself[20]",
    "test_it.py::TestText::test_words",
)
PATCH = """\
diff --git a/solution.py b/solution.py
--- a/solution.py
+++ b/solution.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""
BOUNDS: dict[str, Any] = {"memory": "128Mi"}


def outcomes(score: SuiteScore) -> list[str]:
    return [test.outcome for test in score.tests]


def doubles(*numbers: int, **fields: Any) -> StdioSuite:
    return StdioSuite([StdioCase(f"{2 * n}\n", stdin=f"{n}\n") for n in numbers], **fields)


def sums(*pairs: tuple[Any, Any], **fields: Any) -> FunctionSuite:
    return FunctionSuite([FunctionCase(a + b, (a, b)) for a, b in pairs], "add", **fields)


# -- programs ------------------------------------------------------------------------------------


async def test_a_right_program_scores_one(client: AsyncClient, image: str | None) -> None:
    score = await client.score_tests(DOUBLE, doubles(1, -7, 10**30), image=image, sandbox=BOUNDS)
    assert (score.value, score.trust, score.message) == (1.0, "outside", "")
    assert outcomes(score) == ["passed"] * 3
    assert all(test.seconds > 0 for test in score.tests)
    assert [test.name for test in score.tests] == ["case-1", "case-2", "case-3"]
    explained = await client.explain(score.actions[0])
    assert explained.action.state == "finished"


async def test_what_a_program_does_wrong_is_told_per_case(client: AsyncClient) -> None:
    program = """
import os, sys, time
word = input()
if word == "exit": sys.exit(3)
if word == "sleep": time.sleep(60)
if word == "raise": raise ValueError("no")
print(word.upper())
"""
    cases: list[dict[str, Any]] = [
        {"stdin": "a", "expected": "A", "name": "right"},
        {"stdin": "b", "expected": "C", "name": "wrong"},
        {"stdin": "exit", "expected": "", "name": "exit"},
        {"stdin": "raise", "expected": "RAISE", "name": "raise"},
        {"stdin": "sleep", "expected": "SLEEP", "name": "sleep", "timeout": 0.3},
        {"stdin": "z", "expected": "Z", "name": "after"},
    ]
    score = await client.score_tests(
        program, StdioSuite(cases), scheme="fraction", cores=2, sandbox=BOUNDS
    )
    assert score.value == pytest.approx(2 / 6)
    assert {test.name: test.outcome for test in score.tests} == {
        "right": "passed",
        "wrong": "wrong",
        "exit": "failed",
        "raise": "failed",
        "sleep": "timed_out",
        "after": "passed",
    }
    messages = {test.name: test.message for test in score.tests}
    assert messages["wrong"] == "line 1 is 'B', expected 'C'"
    assert messages["raise"] == "exit code 1: ValueError: no"


async def test_programs_take_arguments_and_shell_lines(client: AsyncClient) -> None:
    cases = [StdioCase("a b|c\n", argv=("a b", "c"))]
    program = "import sys\nprint('|'.join(sys.argv[1:]))"
    for command in ("python3 solution.py", ["python3", "solution.py"]):
        tests = StdioSuite(cases, command)
        assert (await client.score_tests(program, tests, sandbox=BOUNDS)).value == 1


async def test_numbers_may_be_compared_with_a_tolerance(client: AsyncClient) -> None:
    case = StdioCase("0.333333333 ok", comparison=Comparison("numbers", relative=1e-6))
    assert (
        await client.score_tests("print(1 / 3, 'ok')", StdioSuite([case]), sandbox=BOUNDS)
    ).value == 1
    assert (
        await client.score_tests("print(0.3334, 'ok')", StdioSuite([case]), sandbox=BOUNDS)
    ).value == 0


async def test_nothing_runs_once_the_score_is_decided(client: AsyncClient) -> None:
    program = "n = int(input())\nopen('ran', 'a').write(f'{n} ')\nprint(2 * n if n != 2 else 0)"
    async with client.trajectory(**BOUNDS) as trajectory:
        await trajectory.write_file("solution.py", program)
        score = await client.score_tests(
            None, doubles(1, 2, 3, 4), trajectory=trajectory, fresh=False
        )
        assert await trajectory.read_text("ran") == "1 2 "
    assert score.value == 0
    assert outcomes(score) == ["passed", "wrong", "not_run", "not_run"]
    assert score.not_run == ("case-3", "case-4")
    assert score.outcomes == {"case-1": True, "case-2": False}


async def test_a_setup_builds_the_program(client: AsyncClient) -> None:
    tests = StdioSuite([StdioCase("built")], ["sh", "built.sh"])
    source = {"source": "echo built"}
    score = await client.score_tests(source, tests, setup="cp source built.sh", sandbox=BOUNDS)
    assert score.value == 1
    broken = await client.score_tests(source, tests, setup="echo no >&2; exit 2", sandbox=BOUNDS)
    assert broken.value == 0
    assert broken.message == "the solution cannot be tested: its setup ended with exit code 2: no"


async def test_the_time_of_all_tests_is_bounded(client: AsyncClient) -> None:
    program = "import time\ntime.sleep(30)"
    score = await client.score_tests(
        program, doubles(1, 2, 3), scheme="fraction", total_timeout=0.5, sandbox=BOUNDS
    )
    assert (score.value, outcomes(score)) == (0, ["timed_out"] * 3)
    assert score.tests[2].message == "the 0.5 s for all tests are used up"


# -- functions -----------------------------------------------------------------------------------


async def test_a_right_function_scores_one(client: AsyncClient, image: str | None) -> None:
    pairs = [(n, -1) for n in range(40)] + [("a", "b"), ([1], [2]), (0.5, 0.25)]
    score = await client.score_tests(ADD, sums(*pairs), image=image, sandbox=BOUNDS)
    assert (score.value, score.trust) == (1.0, "outside")
    assert outcomes(score) == ["passed"] * 43


async def test_what_a_function_does_wrong_is_told_per_case(client: AsyncClient) -> None:
    solution = """
import os, sys, time
def f(word):
    if word == "raise": raise ValueError("no")
    if word == "exit": sys.exit(0)
    if word == "end": os._exit(0)
    if word == "kill": os.kill(os.getpid(), 9)
    if word == "sleep": time.sleep(60)
    if word == "set": return {1, 2}
    if word == "deep":
        value = []
        for _ in range(900): value = [value]
        return value
    if word == "long": return "x" * (2 << 20)
    return word
"""
    words = ["fine", "raise", "exit", "end", "kill", "sleep", "set", "deep", "long", "also fine"]
    cases = [FunctionCase(word, (word,), name=word, timeout=2.0) for word in words]
    score = await client.score_tests(
        solution, FunctionSuite(cases, "f"), scheme="fraction", cores={1, 2}, sandbox=BOUNDS
    )
    told = {test.name: (test.outcome, test.message) for test in score.tests}
    assert told["fine"] == told["also fine"] == ("passed", "")
    assert told["raise"] == ("failed", "ValueError: no")
    assert told["exit"] == ("failed", "SystemExit: 0")
    assert told["end"] == ("error", "its process ended with exit code 0 before the call returned")
    assert told["kill"] == ("error", "its process ended with signal 9 before the call returned")
    assert told["sleep"] == ("timed_out", "it took more than 2 s")
    assert told["set"] == ("failed", "TypeError: a set is not a JSON value")
    assert told["deep"][0] == "wrong"
    assert told["long"] == ("wrong", "it returned more than 1 MiB")
    assert score.value == pytest.approx(2 / 10)


async def test_a_method_of_a_class_can_be_called(client: AsyncClient) -> None:
    solution = "class Solution:\n    def twice(self, n, *, plus=0):\n        return 2 * n + plus"
    case = FunctionCase(7, (3,), {"plus": 1})
    score = await client.score_tests(
        solution, FunctionSuite([case], "Solution.twice"), sandbox=BOUNDS
    )
    assert score.value == 1


async def test_no_call_sees_what_another_left_in_memory(client: AsyncClient) -> None:
    solution = "seen = []\ndef f(n):\n    seen.append(n)\n    return seen"
    cases = [FunctionCase([n], (n,)) for n in range(5)]
    score = await client.score_tests(solution, FunctionSuite(cases, "f"), sandbox=BOUNDS)
    assert score.value == 1


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        ("def f(:", "it cannot be loaded: SyntaxError"),
        ("import nothing_of_this_name", "it cannot be loaded: ModuleNotFoundError"),
        ("import os\nos._exit(0)", "its process ended with exit code 0 while it was loaded"),
        ("raise SystemExit(0)", "it cannot be loaded: SystemExit"),
    ],
)
async def test_a_solution_that_cannot_be_loaded_scores_zero(
    client: AsyncClient, solution: str, message: str
) -> None:
    score = await client.score_tests(
        solution, sums((1, 2), (3, 4)), scheme="fraction", sandbox=BOUNDS
    )
    assert (score.value, outcomes(score)) == (0, ["error", "error"])
    assert score.tests[1].message.startswith(message)


async def test_results_beyond_one_start_are_asked_for_in_another(client: AsyncClient) -> None:
    solution = "def f(n):\n    return str(n) * 900_000"
    cases = [FunctionCase(str(n) * 900_000, (n,)) for n in range(1, 9)]
    score = await client.score_tests(
        solution, FunctionSuite(cases, "f"), scheme="fraction", sandbox=BOUNDS
    )
    assert score.value == 1
    assert len(score.actions) == 2


async def test_difficulty_gives_parts_for_the_easier_groups(client: AsyncClient) -> None:
    solution = "def add(a, b):\n    return a + b if a < 100 else 0"
    cases = [FunctionCase(a + 1, (a, 1), name=str(a)) for a in (200, 1, 2, 100)]
    groups = (("1", "2"), ("100",), ("200",))
    strict = await client.score_tests(
        solution,
        FunctionSuite(cases, "add"),
        scheme=Difficulty(groups, "strict", (1, 1, 2)),
        sandbox=BOUNDS,
    )
    assert (strict.value, strict.not_run) == (0.25, ("200",))
    assert outcomes(strict) == ["not_run", "passed", "passed", "wrong"]


# -- suites of pytest ----------------------------------------------------------------------------


async def test_a_right_solution_passes_a_suite(client: AsyncClient, image: str | None) -> None:
    score = await client.score_tests(ADD, suite(TESTS), image=image, sandbox=SANDBOX)
    assert (score.value, score.trust, score.message) == (1.0, "in_process", ""), score.log
    assert tuple(test.name for test in score.tests) == IDS
    assert "4 passed" in score.log


async def test_a_suite_tells_what_each_test_did(client: AsyncClient) -> None:
    solution = "def add(a, b):\n    return a + b if a != 10 else None"
    score = await client.score_tests(solution, suite(TESTS), scheme="fraction", sandbox=SANDBOX)
    assert score.value == 0.75
    assert outcomes(score) == ["passed", "failed", "passed", "passed"]
    assert score.tests[1].message.startswith("assert None == (2 * 10)")


async def test_a_suite_stops_at_its_first_failure_if_that_decides(client: AsyncClient) -> None:
    score = await client.score_tests("def add(a, b):\n    return 3", suite(TESTS), sandbox=SANDBOX)
    assert (score.value, outcomes(score)) == (0, ["passed", "failed", "not_run", "not_run"])


async def test_xdist_uses_the_granted_cores(client: AsyncClient) -> None:
    tests = TESTS + "\ndef test_worker(worker_id):\n    assert worker_id.startswith('gw')\n"
    score = await client.score_tests(ADD, suite(tests), cores=(2, 2), sandbox=SANDBOX)
    assert (score.value, score.message) == (1.0, ""), score.log
    assert sorted(test.name for test in score.tests) == sorted([*IDS, "test_it.py::test_worker"])


async def test_only_the_tests_that_are_named_count(client: AsyncClient) -> None:
    named = suite(TESTS, tests=(IDS[3], IDS[0], "test_it.py::test_gone"))
    score = await client.score_tests(ADD, named, scheme="fraction", sandbox=SANDBOX)
    assert score.value == pytest.approx(2 / 3)
    assert [(test.name, test.outcome) for test in score.tests] == [
        (IDS[3], "passed"),
        (IDS[0], "passed"),
        ("test_it.py::test_gone", "missing"),
    ]


async def test_a_strict_scheme_runs_the_easiest_tests_of_a_suite_first(client: AsyncClient) -> None:
    scheme = Difficulty(((IDS[3],), (IDS[0], IDS[1])))
    solution = "def add(a, b):\n    return 0"
    score = await client.score_tests(solution, suite(TESTS), scheme=scheme, sandbox=SANDBOX)
    assert (score.value, score.not_run) == (0, (IDS[0], IDS[1]))


async def test_a_broken_import_fails_its_file_alone(client: AsyncClient) -> None:
    tests = suite(
        "from solution import gone\ndef test_a():\n    pass\n",
        files={
            "test_other.py": "from solution import add\ndef test_b():\n    assert add(1, 1) == 2\n"
        },
    )
    score = await client.score_tests(ADD, tests, scheme="fraction", sandbox=SANDBOX)
    assert {test.name: test.outcome for test in score.tests} == {
        "test_other.py::test_b": "passed",
        "test_it.py::test_a": "error",
    }
    assert "ImportError" in score.tests[1].message


async def test_conftest_files_of_the_suite_are_loaded(client: AsyncClient) -> None:
    tests = suite(
        "def test_a(answer):\n    assert answer == 42\n",
        files={"conftest.py": "import pytest\n@pytest.fixture\ndef answer():\n    return 42\n"},
    )
    assert (await client.score_tests(ADD, tests, sandbox=SANDBOX)).value == 1


@pytest.mark.docker
async def test_a_sandbox_without_pytest_is_nobodys_score(
    client: AsyncClient, docker_image: str
) -> None:
    with pytest.raises(Unsupported, match="has no pytest"):
        await client.score_tests(
            ADD, PytestSuite({"test_it.py": TESTS}), image=docker_image, sandbox=BOUNDS
        )


# -- where the solution comes from ---------------------------------------------------------------


@pytest.fixture
async def trajectory(client: AsyncClient) -> Any:
    async with client.trajectory(**BOUNDS) as trajectory:
        await trajectory.write_file("solution.py", ADD.replace("+", "-"))
        yield trajectory


async def test_only_the_named_files_come_into_the_fresh_sandbox(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    await trajectory.write_file("right.py", ADD)
    await trajectory.write_file("helper.py", "")
    tests = sums((1, 2), file="right.py")
    score = await client.score_tests(["right.py"], tests, trajectory=trajectory, sandbox=BOUNDS)
    assert score.value == 1
    await trajectory.write_file("right.py", "import helper\n" + ADD)
    score = await client.score_tests(["right.py"], tests, trajectory=trajectory, sandbox=BOUNDS)
    assert (score.value, score.tests[0].outcome) == (0, "error")
    missing = await client.score_tests(["gone.py"], tests, trajectory=trajectory, sandbox=BOUNDS)
    assert missing.value == 0
    assert "it has no file gone.py" in missing.message


async def test_a_diff_is_applied_where_it_is_scored(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    tests = sums((1, 2))
    before = await client.score_tests(None, tests, trajectory=trajectory, fresh=False)
    assert (before.value, before.tests[0].outcome) == (0, "wrong")
    after = await client.score_tests(Diff(PATCH), tests, trajectory=trajectory, fresh=False)
    assert after.value == 1
    again = await client.score_tests(Diff(PATCH), tests, trajectory=trajectory, fresh=False)
    assert again.value == 0
    assert again.message.startswith("the solution cannot be tested: its diff does not apply")


@pytest.mark.docker
async def test_a_diff_without_a_program_to_apply_it_is_nobodys_score(
    client: AsyncClient, docker_image: str
) -> None:
    with pytest.raises(Unsupported, match="neither git nor patch"):
        await client.score_tests(Diff(PATCH), sums((1, 2)), image=docker_image, sandbox=BOUNDS)


@pytest.mark.docker
async def test_the_image_of_the_trajectory_is_the_fresh_ones(
    client: AsyncClient, docker_user_image: str
) -> None:
    tests = StdioSuite([StdioCase("/testbed hello")], ["sh", "-c", 'echo "$PWD $GREETING"'])
    async with client.trajectory(docker_user_image, **BOUNDS) as trajectory:
        score = await client.score_tests("", tests, trajectory=trajectory, sandbox=BOUNDS)
    assert score.value == 1


async def test_an_image_that_does_not_exist_is_no_score(client: AsyncClient) -> None:
    with pytest.raises(NotFound):
        await client.score_tests(ADD, sums((1, 2)), image="no-such-image:1", sandbox=BOUNDS)


async def test_a_solution_in_the_way_of_the_tests_scores_zero(client: AsyncClient) -> None:
    tests = PytestSuite({"tests/test_it.py": TESTS})
    score = await client.score_tests({"solution.py": ADD, "tests": "a file"}, tests)
    assert (score.value, set(outcomes(score))) == (0, {"error", "not_run"})
    assert "tests/test_it.py cannot be written" in score.message
    with pytest.raises(FileError):
        await client.score_tests(ADD, PytestSuite({"/proc/test_it.py": TESTS}))


async def test_a_malformed_case_is_refused_by_its_name(client: AsyncClient) -> None:
    cases: list[dict[str, Any]] = [{"expected": "1"}, {"expected": 2, "name": "second"}]
    with pytest.raises(InvalidRequest, match=r"cases\[1\] \(second\)\.expected must be text"):
        await client.score_tests(DOUBLE, StdioSuite(cases))


def test_the_blocking_client_scores_too(shared_server: ServerProcess) -> None:
    with Client(shared_server.address, task="scoring-sync") as client:
        assert client.score_tests(DOUBLE, doubles(4), sandbox=BOUNDS).value == 1
        with client.trajectory(**BOUNDS) as trajectory:
            trajectory.write_file("solution.py", DOUBLE)
            scoring = client.submit(
                client.score_tests, None, doubles(4), trajectory=trajectory, fresh=False
            )
            assert scoring.result().value == 1


@pytest.mark.parametrize("right", [True, False])
async def test_problems_of_humaneval_are_scored_by_their_own_tests(
    client: AsyncClient, right: bool
) -> None:
    """Their tests are code that asserts, so they run as suites of pytest."""
    problems = load_problems()[:3]

    async def value(problem: Problem) -> float:
        body = problem.solution if right else "    return None\n"
        tests = (
            f"from solution import *\nfrom solution import {problem.entry_point}\n{problem.tests}\n"
            f"def test_check():\n    check({problem.entry_point})\n"
        )
        score = await client.score_tests(problem.prompt + body, suite(tests), sandbox=SANDBOX)
        return score.value

    values = await asyncio.gather(*map(value, problems))
    assert values == [float(right)] * 3
