"""What callers hand in: filled in where it may be left out, refused by name where it is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tangram.errors import InvalidRequest, TooLarge
from tangram.scoring import (
    AllOrNothing,
    Comparison,
    Diff,
    FunctionCase,
    FunctionSuite,
    PytestSuite,
    StdioCase,
    StdioSuite,
    Suite,
)
from tangram.scoring.calls import batched
from tangram.scoring.cases import (
    CALL_BYTES_MAX,
    CASES_MAX,
    EXPECTED_BYTES_MAX,
    call_runs,
    checked_pytest,
    defined_tests,
    stdio_runs,
)
from tangram.scoring.scoring import plan


def test_what_a_case_leaves_out_is_filled_in() -> None:
    suite = StdioSuite([StdioCase("1"), {"expected": "2", "name": "two", "timeout": 3}], "./run")
    one, two = stdio_runs(suite, 10.0)
    assert (one.name, one.timeout_s, one.comparison) == ("case-1", 10.0, Comparison("lines"))
    assert (two.name, two.timeout_s) == ("two", 3.0)
    [call] = call_runs(FunctionSuite([FunctionCase((1, 2), ((3, 4),))], "f"), 1.0)
    assert (call.function, call.args, call.expected) == ("f", [[3, 4]], [1, 2])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (7, r"cases\[1\] must be a StdioCase or a dictionary of one, not 7"),
        ({"name": "x"}, r"cases\[1\] \(x\) must say what is expected"),
        ({"expected": "1", "output": ""}, r"cases\[1\] has an unknown key 'output': known are exp"),
        ({"expected": 1}, r"cases\[1\] \(case-2\)\.expected must be text, not 1"),
        ({"expected": "", "stdin": b""}, r"cases\[1\] \(case-2\)\.stdin must be text"),
        (
            {"expected": "\udcff"},
            r"cases\[1\] \(case-2\)\.expected must be text that can be written as UTF-8",
        ),
        (
            {"expected": "", "argv": "a b"},
            r"cases\[1\] \(case-2\)\.argv must be a list of words, not 'a b'",
        ),
        (
            {"expected": "", "timeout": 0},
            r"cases\[1\] \(case-2\)\.timeout must be seconds above 0, not 0",
        ),
        (
            {"expected": "", "comparison": "like"},
            r"cases\[1\] \(case-2\): comparison must be one of",
        ),
        ({"expected": "", "name": "first"}, r"name must be another than that of cases\[0\]"),
        ({"expected": "", "name": 5}, r"cases\[1\]\.name must be text"),
        (
            {"expected": "x" * (EXPECTED_BYTES_MAX + 1)},
            r"cases\[1\] \(case-2\)\.expected is larger than",
        ),
        (
            {"expected": "", "stdin": "x" * (3 << 20)},
            r"cases\[1\] \(case-2\)\.stdin is larger than 2048 KiB",
        ),
    ],
)
def test_a_malformed_case_of_a_program_is_named(case: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        stdio_runs(StdioSuite([StdioCase("", name="first"), case]), 1.0)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            {"expected": 1, "args": "ab"},
            r"cases\[0\] \(case-1\)\.args must be a list of JSON values",
        ),
        (
            {"expected": 1, "args": [{1}]},
            r"cases\[0\] \(case-1\)\.args must be JSON \(Object of type set",
        ),
        ({"expected": {1}}, r"cases\[0\] \(case-1\)\.expected must be JSON"),
        ({"expected": 1, "kwargs": [1]}, r"cases\[0\] \(case-1\)\.kwargs must be a dictionary"),
        (
            {"expected": 1, "function": "os.system('x')"},
            r"cases\[0\] \(case-1\)\.function must be a name",
        ),
        ({"expected": 1, "args": ["x" * (2 << 20)]}, r"cases\[0\] \(case-1\)\.args is larger than"),
    ],
)
def test_a_malformed_call_is_named(case: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        call_runs(FunctionSuite([case], "f"), 1.0)


def test_a_suite_needs_cases_and_not_too_many() -> None:
    with pytest.raises(InvalidRequest, match="cases must be a list of one or more"):
        stdio_runs(StdioSuite([]), 1.0)
    with pytest.raises(TooLarge, match=f"at most {CASES_MAX}"):
        stdio_runs(StdioSuite([StdioCase("")] * (CASES_MAX + 1)), 1.0)
    with pytest.raises(InvalidRequest, match="function must be a name"):
        call_runs(FunctionSuite([FunctionCase(1)]), 1.0)
    with pytest.raises(InvalidRequest, match="command must"):
        stdio_runs(StdioSuite([StdioCase("")], ""), 1.0)


def test_calls_are_packed_into_starts_by_their_size() -> None:
    cases = [FunctionCase(0, ("x" * (CALL_BYTES_MAX // 3),)) for _ in range(5)]
    runs = call_runs(FunctionSuite(cases, "f"), 1.0)
    assert batched(runs) == runs[:2]
    assert batched(runs[4:]) == runs[4:]


def test_a_suite_of_pytest_knows_what_to_run() -> None:
    files: dict[str, str | bytes] = {
        "test_a.py": "",
        "tests/b_test.py": "",
        "data.txt": b"\0",
        "conftest.py": "",
    }
    assert checked_pytest(PytestSuite(files)).paths == ("test_a.py", "tests/b_test.py")
    named = PytestSuite(files, tests=("x.py::a", "x.py::b[1]", "y.py::C::d"))
    assert checked_pytest(named).paths == ("x.py", "y.py")
    assert checked_pytest(PytestSuite({})).paths == (".",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"files": ["test_a.py"]}, "files must be a dictionary"),
        ({"files": {"test_a.py": 1}}, r"files\['test_a.py'\] must be text or bytes"),
        ({"files": {}, "tests": ["test_a.py"]}, "tests must be ids such as"),
        ({"files": {}, "tests": ["a::b", "a::b"]}, "must not name a test twice"),
        ({"files": {}, "arguments": "-x"}, "arguments must be a list of words"),
    ],
)
def test_a_malformed_suite_of_pytest_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        checked_pytest(PytestSuite(**fields))


def test_the_functions_that_a_test_file_defines_are_known_without_running_it() -> None:
    source = """
import pytest
def test_a(): pass
async def test_b(): pass
def helper(): pass
class TestC:
    def test_d(self): pass
    def check(self): pass
class TestWithBase(Base):
    def test_e(self): pass
class TestOff:
    __test__ = False
    def test_f(self): pass
class TestWithInit:
    def __init__(self): pass
    def test_g(self): pass
if False:
    def test_h(): pass
"""
    files = {"test_x.py": source, "solution.py": source, "test_broken.py": "def"}
    assert defined_tests(files) == [
        "test_x.py::test_a",
        "test_x.py::test_b",
        "test_x.py::TestC::test_d",
    ]


def planned(solution: Any, tests: Suite, **fields: Any) -> Any:
    given: dict[str, Any] = {
        "image": None,
        "trajectory": None,
        "fresh": True,
        "scheme_given": AllOrNothing(),
        "setup": None,
        "cores": 1,
        "timeout_s": 1.0,
        "total_s": None,
        "early_stop": True,
        "sandbox": None,
    }
    return plan(solution, tests, **{**given, **fields})


@pytest.mark.parametrize(
    ("solution", "fields", "message"),
    [
        (None, {}, "a fresh sandbox has nothing of it"),
        (7, {}, "not a int"),
        ({}, {}, "solution must be 1 to 1000 files"),
        ({"a.py": 1}, {}, r"solution\['a.py'\] must be text or bytes, not a int"),
        ({"": ""}, {}, "solution must name files"),
        (Diff(7), {}, "a Diff of text"),  # type: ignore[arg-type]
        (["a.py"], {}, "trajectory must be given"),
        ("", {"fresh": False}, "fresh=False needs a trajectory"),
        ("", {"fresh": False, "trajectory": object(), "image": "i"}, "have no place"),
        ("", {"fresh": False, "trajectory": object(), "sandbox": {"a": 1}}, "have no place"),
        ("", {"cores": ()}, "cores must be a number, a range"),
        ("", {"cores": 0}, "cores must be a number, a range"),
        ("", {"scheme_given": "some"}, "scheme must be"),
    ],
)
def test_a_malformed_call_of_score_tests_is_refused_before_anything_is_opened(
    solution: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        planned(solution, StdioSuite([StdioCase("")]), **fields)


def test_tests_must_be_a_suite() -> None:
    with pytest.raises(InvalidRequest, match="tests must be a StdioSuite"):
        planned("", [StdioCase("")])  # type: ignore[arg-type]


def test_as_many_programs_run_at_a_time_as_cores_may_be_used() -> None:
    suite = StdioSuite([StdioCase("")])
    assert planned("", suite, cores=(2, 8)).place.concurrency == 8
    assert planned("", suite, cores={1, 4}).place.concurrency == 4
    assert planned("", FunctionSuite([FunctionCase(1)], "f"), cores=8).place.concurrency == 1
