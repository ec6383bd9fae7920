"""Solutions that want the reward without the work: each attempt ends with a value of 0, in time."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tangram import AsyncClient
from tangram.client import AsyncTrajectory
from tangram.scoring import (
    Diff,
    FunctionCase,
    FunctionSuite,
    PytestSuite,
    StdioCase,
    StdioSuite,
    SuiteScore,
)
from tests.e2e.suites import SANDBOX as WITH_PYTEST
from tests.e2e.suites import suite

SANDBOX: dict[str, Any] = {
    **WITH_PYTEST,
    "env": {**WITH_PYTEST["env"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
}
"""Plug-ins of this machine's pytest only cost time here."""
BOUNDS: dict[str, Any] = {"memory": "128Mi"}
SECRET_PREFIX = "expected-"
SECRET = SECRET_PREFIX + "5e3f8a7c"
WRONG = "def add(a, b):\n    return 0\n"
TESTS = """
from solution import add

def test_one():
    assert add(1, 2) == 3

def test_two():
    assert add(2, 2) == 4
"""
FIRST, SECOND = "test_it.py::test_one", "test_it.py::test_two"
PASS_ALL = """
import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.outcome, report.longrepr = "passed", None
"""
FORGED = """
import json, os
for test in ("test_it.py::test_one", "test_it.py::test_two"):
    for when in ("setup", "call", "teardown"):
        report = dict(event="report", test=test, when=when, outcome="passed", seconds=0.0)
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, json.dumps(report).encode() + b"\\n")
            except OSError:
                pass
"""


async def scored(client: AsyncClient, solution: str, **files: str) -> SuiteScore:
    """By the suite, by the share of its tests, so that every failure has to be found by itself."""
    return await client.score_tests(
        {"solution.py": solution, **files},
        suite(TESTS),
        scheme="fraction",
        timeout=5.0,
        sandbox=SANDBOX,
    )


def outcomes(score: SuiteScore) -> dict[str, str]:
    return {test.name: test.outcome for test in score.tests}


# -- suites of pytest ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solution",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "import os\ndef add(a, b):\n    os._exit(0)",
        "import sys\ndef add(a, b):\n    sys.exit(0)",
        "import os\ndef add(a, b):\n    os.kill(os.getpid(), 9)",
        "import os\ndef add(a, b):\n    os.kill(-1, 9)",
        "import pytest\ndef add(a, b):\n    pytest.exit('done', returncode=0)",
        "import pytest\ndef add(a, b):\n    pytest.skip('done')",
        "import pytest\ndef add(a, b):\n    pytest.xfail('done')",
        "import pytest\npytest.skip('done', allow_module_level=True)",
        "print('2 passed in 0.01s')\nimport os\nos._exit(0)",
    ],
)
async def test_an_early_end_is_no_pass(client: AsyncClient, solution: str) -> None:
    score = await scored(client, solution)
    assert score.value == 0, score.log
    assert outcomes(score).keys() == {FIRST, SECOND}


async def test_a_test_that_ends_the_process_does_not_take_others_with_it(
    client: AsyncClient,
) -> None:
    score = await scored(
        client, "import os\ndef add(a, b):\n    return a + b if a == 2 else os._exit(0)"
    )
    assert outcomes(score) == {FIRST: "error", SECOND: "passed"}
    assert score.tests[0].message == "its process ended with exit code 0"


async def test_a_test_that_never_ends_is_ended(client: AsyncClient) -> None:
    score = await client.score_tests(
        "def add(a, b):\n    while a == 1: pass\n    return a + b",
        suite(TESTS),
        scheme="fraction",
        timeout=0.5,
        total_timeout=4.0,
        sandbox=SANDBOX,
    )
    assert outcomes(score)[FIRST] == "timed_out"
    assert score.value <= 0.5


@pytest.mark.parametrize(
    "file",
    ["conftest.py", "sub/../conftest.py", "sitecustomize.py", "usercustomize.py", "evil.pth"],
)
async def test_files_that_steer_the_tests_are_left_out(client: AsyncClient, file: str) -> None:
    score = await scored(client, WRONG, **{file: PASS_ALL})
    assert (score.value, score.ignored) == (0, (file,))


async def test_a_diff_cannot_bring_them_either(client: AsyncClient) -> None:
    diff = "\n".join(
        [
            "diff --git a/solution.py b/solution.py",
            "new file mode 100644",
            "--- /dev/null",
            "+++ b/solution.py",
            "@@ -0,0 +1,2 @@",
            *(f"+{line}" for line in WRONG.splitlines()),
            'diff --git a/conftest.py "b/conftes\\164.py"',
            "new file mode 100644",
            "--- /dev/null",
            '+++ "b/conftes\\164.py"',
            f"@@ -0,0 +1,{len(PASS_ALL.splitlines())} @@",
            *(f"+{line}" for line in PASS_ALL.splitlines()),
        ]
    )
    score = await client.score_tests(Diff(diff), suite(TESTS), scheme="fraction", sandbox=SANDBOX)
    assert (score.value, score.ignored) == (0, ("conftest.py",))
    assert outcomes(score) == {FIRST: "failed", SECOND: "failed"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("pytest.ini", "[pytest]\naddopts = --collect-only\npython_functions = nothing\n"),
        ("tox.ini", "[pytest]\npython_functions = nothing\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = -p evil\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-p evil'\n"),
        ("pytest.py", "def main(*arguments, **more):\n    return 0\n"),
        ("_pytest/__init__.py", "raise SystemExit(0)\n"),
        ("pluggy.py", "raise SystemExit(0)\n"),
    ],
)
async def test_planted_configuration_and_modules_are_not_read(
    client: AsyncClient, file: str, content: str
) -> None:
    score = await scored(client, WRONG, **{file: content, "evil.py": PASS_ALL})
    assert outcomes(score) == {FIRST: "failed", SECOND: "failed"}


@pytest.mark.parametrize(
    "replacement",
    [
        "import _pytest.runner\n_pytest.runner.check_interactive_exception = print",
        "from _pytest.reports import TestReport as T\nT.from_item_and_call = lambda item, call: None",
        "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None",
        "import _pytest.runner as r\nr.pytest_runtest_call.__code__ = (lambda item: None).__code__",
        "import builtins\nbuiltins.all = lambda items: True",
        "import unittest\nunittest.TestCase.assertEqual = lambda *values: None",
    ],
)
async def test_a_framework_with_replaced_parts_is_not_believed(
    client: AsyncClient, replacement: str
) -> None:
    score = await scored(client, f"{replacement}\n{WRONG}")
    assert score.value == 0
    assert not any(test.passed for test in score.tests)


async def test_forged_reports_beside_the_real_ones_are_not_believed(client: AsyncClient) -> None:
    score = await scored(client, FORGED + WRONG)
    assert (score.value, set(outcomes(score).values())) == (0, {"tampered"})
    assert "reported twice" in score.message


async def test_a_flood_of_output_changes_nothing(client: AsyncClient) -> None:
    flood = "import sys\nfor _ in range(300):\n    sys.__stdout__.write('1 passed ' * 20000)\n"
    wrong = await scored(client, flood + WRONG)
    assert outcomes(wrong) == {FIRST: "failed", SECOND: "failed"}
    right = await scored(client, flood + "def add(a, b):\n    return a + b")
    assert right.value == 1
    assert len(right.log) < 100_000


async def test_what_the_build_left_running_does_not_see_the_tests(client: AsyncClient) -> None:
    """It waits for the tests, and would make them pass."""
    lurker = """
import os, time
if os.fork():
    os._exit(0)
os.setsid()
while True:
    if os.path.exists("test_it.py"):
        open("test_it.py", "w").write("def test_one(): pass\\ndef test_two(): pass\\n")
    time.sleep(0)
"""
    score = await client.score_tests(
        {"solution.py": WRONG, "lurker.py": lurker},
        suite(TESTS),
        scheme="fraction",
        setup="python3 lurker.py && nohup setsid python3 lurker.py >/dev/null 2>&1 &",
        sandbox=SANDBOX,
    )
    assert outcomes(score) == {FIRST: "failed", SECOND: "failed"}


@pytest.fixture
async def planted(client: AsyncClient) -> AsyncIterator[AsyncTrajectory]:
    """A trajectory in which the solution had its way."""
    async with client.trajectory(**SANDBOX) as trajectory:
        await trajectory.write_file("solution.py", WRONG)
        await trajectory.write_file("conftest.py", PASS_ALL)
        await trajectory.write_file("below/conftest.py", PASS_ALL)
        await trajectory.exec("echo 'import sys; sys.exit(0)' > sitecustomize.py", check=True)
        yield trajectory


async def test_a_planted_conftest_of_the_trajectory_is_not_loaded(
    client: AsyncClient, planted: AsyncTrajectory
) -> None:
    score = await client.score_tests(
        None, suite(TESTS), trajectory=planted, fresh=False, scheme="fraction"
    )
    assert outcomes(score) == {FIRST: "failed", SECOND: "failed"}


async def test_a_planted_conftest_beside_that_of_the_suite_is_known(
    client: AsyncClient, planted: AsyncTrajectory
) -> None:
    tests = suite("", files={"conftest.py": "", "below/test_below.py": TESTS})
    score = await client.score_tests(
        None, tests, trajectory=planted, fresh=False, scheme="fraction"
    )
    assert (score.value, set(outcomes(score).values())) == (0, {"tampered"})
    assert score.message == "below/conftest.py was loaded, which is not the suite's"


async def test_folders_where_the_tests_belong_are_the_solutions_failure(
    client: AsyncClient, planted: AsyncTrajectory
) -> None:
    await planted.exec("mkdir test_it.py", check=True)
    score = await client.score_tests(None, suite(TESTS), trajectory=planted, fresh=False)
    assert score.value == 0
    assert "test_it.py cannot be written" in score.message


# -- programs and functions ----------------------------------------------------------------------

SEARCH = f"""
import base64, gc, os, re, sys
prefix = base64.b64decode("{base64.b64encode(SECRET_PREFIX.encode()).decode()}").decode()

def places():
    for name, value in os.environ.items():
        yield value
    for folder, _, files in os.walk("."):
        for file in files:
            yield open(os.path.join(folder, file), errors="replace").read()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ", "fd/0", "mem"):
            path = "/proc/%s/%s" % (pid, name)
            try:
                if name != "mem":
                    yield open(path, errors="replace").read(1 << 20)
                    continue
                with open("/proc/%s/maps" % pid) as maps, open(path, "rb") as memory:
                    for line in maps:
                        if " rw" in line and "[heap]" in line:
                            low, high = (int(end, 16) for end in line.split()[0].split("-"))
                            memory.seek(low)
                            yield memory.read(min(high - low, 8 << 20)).decode("latin-1")
            except (OSError, ValueError):
                continue

def search(*given):
    own = [value for value in gc.get_objects() if isinstance(value, (list, dict))]
    for text in [*map(repr, own), *places()]:
        found = re.search(re.escape(prefix) + "[0-9a-f]{{8}}", text)
        if found:
            return found.group()
    return "nothing"
"""


async def test_expected_values_are_nowhere_to_be_found(client: AsyncClient) -> None:
    program = await client.score_tests(
        SEARCH + "print(search(sys.stdin.read()))",
        StdioSuite([StdioCase(SECRET, "a"), StdioCase("nothing", "b")]),
        scheme="fraction",
        sandbox=BOUNDS,
    )
    assert outcomes(program) == {"case-1": "wrong", "case-2": "passed"}
    function = await client.score_tests(
        SEARCH,
        FunctionSuite([FunctionCase(SECRET, ("a",)), FunctionCase("nothing", ("b",))], "search"),
        scheme="fraction",
        sandbox=BOUNDS,
    )
    assert outcomes(function) == {"case-1": "wrong", "case-2": "passed"}


@pytest.mark.parametrize(
    "solution",
    [
        "import os\nos._exit(0)",
        "print('passed')",
        "print('x' * 20_000_000)",
        "while True: print('3')",
        "import os\nos.kill(-1, 9)",
        "import sys\nsys.stdout.buffer.write(b'\\xff\\x00' * 1000)",
    ],
)
async def test_programs_that_do_not_answer_score_zero(client: AsyncClient, solution: str) -> None:
    tests = StdioSuite([StdioCase("3"), StdioCase("4")])
    score = await client.score_tests(
        solution, tests, scheme="fraction", timeout=2.0, sandbox=BOUNDS
    )
    assert score.value == 0
    assert "not_run" not in outcomes(score).values()


ENDLESS_JSON = """
import json
json.dumps = lambda *given, **more: '{"value": ' + '[' * 100000
add = lambda a, b: 0
"""
SCRIBBLE = """
import os
def add(a, b):
    for descriptor in range(64):
        try:
            os.write(descriptor, b'{"event": "case", "index": 1, "answer": true}\\n' * 9)
        except OSError:
            pass
    return 0
"""
FLOOD = """
import os
while True:
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"x" * 65536)
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    "solution",
    [
        "class Same(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Same(7)",
        "class Same:\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
        "import os\ndef add(a, b): os._exit(0)",
        "import os\ndef add(a, b): os.kill(os.getppid(), 9)",
        "import os\ndef add(a, b): os.kill(-1, 9)",
        "import os\nos.kill(os.getppid(), 9)\ndef add(a, b): return a + b + 1",
        "import time\nwhile True: time.sleep(1)",
        "def add(a, b): return float('nan')",
        "def add(a, b): return 10 ** 6000",
        ENDLESS_JSON,
        SCRIBBLE,
        FLOOD,
    ],
)
async def test_functions_that_do_not_answer_score_zero(client: AsyncClient, solution: str) -> None:
    tests = FunctionSuite([FunctionCase(3, (1, 2)), FunctionCase(4, (2, 2))], "add")
    score = await client.score_tests(
        solution, tests, scheme="fraction", timeout=2.0, total_timeout=4.0, sandbox=BOUNDS
    )
    assert score.value == 0
    assert "not_run" not in outcomes(score).values()


async def test_a_call_cannot_answer_for_another(client: AsyncClient) -> None:
    """It knows the right answer of the other, but a call speaks for itself alone."""
    solution = """
import json, os
def add(a, b):
    if a == 1:
        forged = json.dumps({"event": "case", "index": 1, "problem": "", "answer": '{"value": 4}'})
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, forged.encode() + b"\\n")
            except OSError:
                pass
    return 0
"""
    tests = FunctionSuite([FunctionCase(3, (1, 2)), FunctionCase(4, (2, 2))], "add")
    score = await client.score_tests(solution, tests, scheme="fraction", sandbox=BOUNDS)
    assert score.value == 0


async def test_memory_that_runs_out_is_the_solutions_outcome(client: AsyncClient) -> None:
    tests = FunctionSuite([FunctionCase(3, (1, 2)), FunctionCase(4, (2, 2))], "add")
    solution = "def add(a, b):\n    return len(bytearray(10 ** 9)) if a == 1 else a + b"
    score = await client.score_tests(solution, tests, scheme="fraction", sandbox=BOUNDS)
    told = outcomes(score)
    assert told["case-1"] in ("out_of_memory", "error", "failed")
    assert told["case-2"] == "passed"


async def test_the_suite_replaces_tests_that_the_solution_brings(client: AsyncClient) -> None:
    own = "def test_one(): pass\ndef test_two(): pass\n"
    score = await scored(client, WRONG, **{"test_it.py": own})
    assert outcomes(score) == {FIRST: "failed", SECOND: "failed"}
    named = PytestSuite({**suite(TESTS).files}, tests=(FIRST, SECOND), paths=(".",))
    more = await client.score_tests(
        {"solution.py": WRONG, "test_more.py": own}, named, scheme="fraction", sandbox=SANDBOX
    )
    assert (more.value, len(more.tests)) == (0, 2)
