"""The parts between a solution and its score: the ledger, the records from inside, their end."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tangram.client import AsyncClient
from tangram.errors import InvalidRequest, Lost
from tangram.scoring import (
    AllOrNothing,
    Difficulty,
    Fraction,
    FunctionCase,
    FunctionSuite,
    PytestSuite,
    StdioCase,
    StdioSuite,
    Suite,
    link,
)
from tangram.scoring.link import Ended, Reader, Record, program
from tangram.scoring.pytests import PytestRun, names_of, outcome_of
from tangram.scoring.results import Ledger

NONCE = "4f1d"
INSIDE_S = 30


# -- the ledger ----------------------------------------------------------------------------------


def test_a_ledger_takes_nothing_after_the_decision() -> None:
    ledger = Ledger(AllOrNothing(), True, ("a", "b", "c"))
    ledger.write("a", "passed")
    assert not ledger.is_decided
    ledger.write("b", "wrong", 0.5, "  the answer  ")
    assert ledger.is_decided
    ledger.write("c", "passed")
    score = ledger.close("outside", 1.0, [])
    assert (score.value, score.passed, score.not_run) == (0, 1, ("c",))
    assert (score.tests[1].seconds, score.tests[1].message) == (0.5, "the answer")


def test_without_early_stop_every_test_is_written() -> None:
    ledger = Ledger(AllOrNothing(), False, ("a", "b"))
    ledger.write("a", "wrong")
    ledger.write("b", "passed")
    assert ledger.is_decided
    assert ledger.close("outside", 1.0, []).not_run == ()


def test_the_first_result_of_a_test_stands_and_unknown_tests_do_not_count() -> None:
    ledger = Ledger(Fraction(), True, ("a", "b"))
    ledger.write("a", "wrong")
    ledger.write("a", "passed")
    ledger.write("x", "passed")
    assert (ledger.value, ledger.left) == (0, ["b"])


def test_what_is_left_comes_in_the_order_of_the_scheme() -> None:
    ledger = Ledger(Difficulty((("c",), ("a", "b"))), True, ("a", "b", "c"))
    assert ledger.left == ["c", "a", "b"]
    ledger.write("c", "failed")
    assert ledger.is_decided


def test_distrust_takes_everything_back() -> None:
    ledger = Ledger(Fraction(), True, ("a", "b"))
    ledger.write("a", "passed")
    ledger.distrust("it lies")
    score = ledger.close("in_process", 1.0, [])
    assert (score.value, score.message) == (0, "it lies")
    assert {test.outcome for test in score.tests} == {"tampered"}


# -- records -------------------------------------------------------------------------------------


def test_only_whole_lines_with_the_nonce_are_records() -> None:
    heard: list[Record] = []
    reader = Reader(NONCE, heard.append)
    reader.feed(b'{"event": "bare"}\n4f1e {"event": "other"}\nx4f1d {"event": "inside"}\n4f1d {"ev')
    assert heard == []
    reader.feed(b'ent": "real"}\n4f1d [1]\n4f1d {"event\n4f1d ' + b"[" * 100_000 + b"\n4f1d {}")
    assert [record.event for record in heard] == ["real"]


def test_fields_of_another_kind_read_as_nothing() -> None:
    record = Record({"event": 1, "index": True, "seconds": float("nan"), "tests": ["a", 1]})
    assert (record.event, record.number("index"), record.seconds("seconds")) == ("", -1, 0.0)
    assert record.texts("tests") == ["a"]
    assert not record.is_true("gone")
    assert Record({"seconds": -1}).seconds("seconds") == 0.0


# -- the program inside --------------------------------------------------------------------------


def inside(folder: Path, order: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Its records and its log, without a sandbox around it."""
    request = {"nonce": NONCE, "silence_s": 5.0, "output_bytes_max": 1 << 20, "workers": 2, **order}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program()],
        input=json.dumps(request).encode(),
        capture_output=True,
        cwd=folder,
        timeout=INSIDE_S,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    assert all(line.startswith(f"{NONCE} ") for line in lines)
    return [json.loads(line.partition(" ")[2]) for line in lines], done.stderr.decode()


def calls(*numbers: int, **order: Any) -> dict[str, Any]:
    cases = [
        {"index": index, "function": "f", "args": [number], "kwargs": {}, "timeout_s": 5.0}
        for index, number in enumerate(numbers)
    ]
    limits = {"result_bytes_max": 1000, "budget_bytes": 10_000}
    return {"kind": "calls", "file": "solution.py", "cases": cases, **limits, **order}


def test_the_program_inside_returns_what_functions_return(tmp_path: Path) -> None:
    (tmp_path / "solution.py").write_text("print('loaded')\ndef f(n):\n    return [n, n + 1]\n")
    records, log = inside(tmp_path, calls(1, 5))
    loaded, *results, ended = records
    assert loaded == {"event": "loaded"}
    answers = {record["index"]: json.loads(record["answer"]) for record in results}
    assert answers == {0: {"value": [1, 2]}, 1: {"value": [5, 6]}}
    assert ended == {"event": "ended", "code": 0, "reason": ""}
    assert log.startswith("loaded")


def test_the_program_inside_stops_when_its_room_is_used_up(tmp_path: Path) -> None:
    (tmp_path / "solution.py").write_text("def f(n):\n    return 'x' * 900\n")
    records, _ = inside(tmp_path, calls(1, 2, 3, 4, budget_bytes=1000, workers=1))
    assert [record["event"] for record in records] == ["loaded", "case", "case", "ended"]


def test_the_program_inside_ends_a_worker_that_is_silent(tmp_path: Path) -> None:
    (tmp_path / "solution.py").write_text("import time\ntime.sleep(600)\n")
    records, _ = inside(tmp_path, calls(1, silence_s=0.3))
    assert records == [{"event": "ended", "code": -9, "reason": "silent"}]


@pytest.mark.parametrize("line", ["b'{}' + b' ' * 1000 + b'\\n'", "b'x' * 65536"])
def test_the_program_inside_ends_a_worker_that_says_too_much(tmp_path: Path, line: str) -> None:
    scribble = f"""
import os, stat
while True:
    for descriptor in range(3, 16):
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, {line})
        except OSError:
            pass
"""
    (tmp_path / "solution.py").write_text(scribble)
    records, _ = inside(tmp_path, calls(1))
    assert records[-1] == {"event": "ended", "code": -9, "reason": "flooded"}
    assert len(records) <= 1100


def test_the_program_inside_keeps_both_ends_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "solution.py").write_text("print('begin' + 'x' * 10 ** 6 + 'end')\nf = abs\n")
    _, log = inside(tmp_path, calls(1))
    assert (log[:5], log[-4:], len(log)) == ("begin", "end\n", 1 << 16)


def test_the_program_inside_keeps_to_the_language_of_old_images() -> None:
    folder = Path(inspect.getfile(link)).with_name("inside")
    texts = [path.read_text() for path in folder.glob("*.py")]
    assert len(texts) == len(link.PARTS) + 1
    for text in texts:
        ast.parse(text, feature_version=(3, 6))


def test_the_program_inside_is_small_enough_for_one_argument() -> None:
    assert len(program().encode()) < 100_000
    assert "{cores}" not in program()


# -- reports of pytest ---------------------------------------------------------------------------


def report(when: str, outcome: str = "passed", **fields: Any) -> Record:
    return Record({"event": "report", "test": "t", "when": when, "outcome": outcome, **fields})


@pytest.mark.parametrize(
    ("phases", "outcome"),
    [
        ([("setup", "passed"), ("call", "passed"), ("teardown", "passed")], "passed"),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "passed")], "failed"),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "failed")], "error"),
        ([("setup", "failed"), ("teardown", "passed")], "error"),
        ([("setup", "skipped"), ("teardown", "passed")], "skipped"),
        ([("setup", "passed"), ("call", "skipped"), ("teardown", "passed")], "skipped"),
        ([("teardown", "passed")], "error"),
        ([("setup", "passed"), ("teardown", "passed")], "error"),
        ([("setup", "passed"), ("call", "rerun"), ("teardown", "passed")], "error"),
    ],
)
def test_a_test_has_passed_only_with_its_whole_report(
    phases: list[tuple[str, str]], outcome: str
) -> None:
    assert outcome_of([report(when, said) for when, said in phases])[0] == outcome


def heard(*records: dict[str, Any], code: int | None) -> str:
    """Why a run of pytest with these records and this exit code is not believed."""
    run = PytestRun(PytestSuite({}), Ledger(Fraction(), True), own_conftest=False)
    for record in records:
        run.take(Record(record))
    run.check(Ended(None, code, ""))
    return run.problem


COLLECTED = {"event": "collected", "tests": ["t"], "last": True}
PASSED = [
    {"event": "report", "test": "t", "when": when, "outcome": "passed"}
    for when in ("setup", "call", "teardown")
]


def session(code: int, collected: int = 1) -> dict[str, Any]:
    return {"event": "session", "code": code, "collected": collected}


def test_reports_are_believed_only_if_they_agree() -> None:
    assert heard(COLLECTED, *PASSED, session(0), code=0) == ""
    assert "exit code 0, and its process ended with 1" in heard(
        COLLECTED, *PASSED, session(0), code=1
    )
    assert "failures that were not" in heard(COLLECTED, *PASSED, session(1), code=1)
    assert "found 1 tests and then said 2" in heard(COLLECTED, *PASSED, session(0, 2), code=0)
    assert "reported twice" in heard(COLLECTED, *PASSED, PASSED[1], session(0), code=0)
    assert "replaced parts" in heard({"event": "tampered", "what": ["x"]}, session(0), code=0)
    assert "not the suite's" in heard({"event": "conftest", "path": "conftest.py"}, code=0)


def test_functions_of_the_suite_that_pytest_did_not_find_count_as_tests() -> None:
    files = {"test_a.py": "def test_one(): pass\ndef test_two(): pass\n"}
    found = ["test_a.py::test_one[1]", "test_a.py::test_one[2]"]
    assert names_of(PytestSuite(files), found) == [*found, "test_a.py::test_two"]
    assert names_of(PytestSuite(files, arguments=("-k", "one")), found) == found
    assert names_of(PytestSuite(files, tests=("test_a.py::test_two",)), found) == [
        "test_a.py::test_two"
    ]


# -- whose fault ---------------------------------------------------------------------------------


class LostSandbox:
    """A sandbox that is gone as soon as something runs in it."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *error: object) -> None:
        return None

    async def write_file(self, path: str, data: object) -> None:
        return None

    async def exec(self, command: object, **arguments: object) -> None:
        raise Lost("the node is gone")


class LosingClient(AsyncClient):
    def trajectory(self, *arguments: Any, **fields: Any) -> Any:
        return LostSandbox()


@pytest.mark.parametrize(
    "tests",
    [
        StdioSuite([StdioCase("1"), StdioCase("2")]),
        FunctionSuite([FunctionCase(1), FunctionCase(2)], "f"),
        PytestSuite({"test_a.py": ""}),
    ],
)
@pytest.mark.parametrize("scheme", ["all", "fraction"])
async def test_what_is_our_fault_is_raised_and_is_no_score(tests: Suite, scheme: str) -> None:
    client = LosingClient("127.0.0.1:1")
    with pytest.raises(Lost) as raised:
        await client.score_tests("", tests, scheme=scheme, cores=2)
    assert raised.value.infra


async def test_unknown_arguments_of_the_sandbox_are_refused() -> None:
    client = AsyncClient("127.0.0.1:1")
    with pytest.raises(InvalidRequest, match="sandbox must be arguments of"):
        await client.score_tests(
            "", StdioSuite([StdioCase("")]), sandbox=cast(Any, {"memroy": "1Gi"})
        )
