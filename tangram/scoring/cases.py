"""The three kinds of tests and their checks: what a caller hands in. Pure.

A malformed case is refused with its number and its name, before anything runs. Cases may be given
as dictionaries, as they stand in data sets.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any, NoReturn, TypeVar

from ..errors import InvalidRequest, TooLarge
from ..limits import OUTPUT_BYTES_MAX, STDIN_BYTES_MAX, TIME_S_MAX
from .comparing import Comparison, comparison

CASES_MAX = 5000
"""Of one solution: the largest public sets of tests have some hundreds."""
NAME_CHARACTERS_MAX = 500
EXPECTED_BYTES_MAX = OUTPUT_BYTES_MAX - (64 << 10)
"""Of one program's output: what is kept of an action, less room to see that more was written."""
CALL_BYTES_MAX = STDIN_BYTES_MAX - (256 << 10)
"""Arguments of one call as JSON: they reach the sandbox as standard input of one action."""

Case = TypeVar("Case", "StdioCase", "FunctionCase")


@dataclass(frozen=True, slots=True)
class StdioCase:
    """A program gets `argv` and `stdin`, ends with exit code 0, and prints what is expected."""

    expected: str
    stdin: str = ""
    argv: tuple[str, ...] = ()
    name: str = ""
    """`case-N` unless given; unique."""
    timeout: float | None = None
    """Seconds, instead of the timeout of all."""
    comparison: Comparison | str | None = None
    """Instead of the suite's."""


@dataclass(frozen=True, slots=True)
class StdioSuite:
    """Cases for a program that reads standard input and prints."""

    cases: Sequence[StdioCase | Mapping[str, Any]]
    command: str | Sequence[str] = ("python3", "solution.py")
    """An argv, or a line for the sandbox's shell; each case's `argv` is appended."""
    comparison: Comparison | str = "lines"


@dataclass(frozen=True, slots=True)
class FunctionCase:
    """A call, and the JSON value that it must return."""

    expected: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    function: str = ""
    """Instead of the suite's."""
    name: str = ""
    """`case-N` unless given; unique."""
    timeout: float | None = None
    """Seconds, instead of the timeout of all."""


@dataclass(frozen=True, slots=True)
class FunctionSuite:
    """Cases for a function of a Python file. The file is loaded once, and each case runs in a fork
    of that process: it sees nothing that another case did, but what that wrote to files."""

    cases: Sequence[FunctionCase | Mapping[str, Any]]
    function: str = ""
    """`name`, or `Class.method` of an instance that is made without arguments."""
    file: str = "solution.py"
    relative: float = 0.0
    """How far a number may be off where a fraction is expected, relative to it."""
    absolute: float = 0.0
    python: str = "python3"
    """The interpreter of the sandbox that loads it."""


@dataclass(frozen=True, slots=True)
class PytestSuite:
    """A suite of pytest: its files come into the sandbox only when no code of the solution runs."""

    files: Mapping[str, str | bytes]
    """Path -> contents; they replace files of the solution."""
    tests: Sequence[str] = ()
    """Ids of the tests that count, as in `tests/test_a.py::test_b[1]`: one that is not found has
    failed. Without them those count that pytest finds and those functions that `files` define."""
    paths: Sequence[str] = ()
    """What pytest is given; else the files of `tests`, else the test files among `files`, else all."""
    arguments: Sequence[str] = ()
    """More arguments of pytest."""
    config: str = ""
    """A configuration file of pytest in the sandbox; without one none is read."""
    conftest: bool = False
    """Load conftest.py files of the image too, and not only those of `files`."""
    python: str = "python3"
    """The interpreter of the sandbox that has pytest (and pytest-xdist, to use more than one core)."""


Suite = StdioSuite | FunctionSuite | PytestSuite


@dataclass(frozen=True, slots=True)
class Run:
    """One case that has been checked: everything that is not given is filled in."""

    name: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class StdioRun(Run):
    stdin: str
    argv: tuple[str, ...]
    expected: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class CallRun(Run):
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    expected: Any
    size_bytes: int
    """Of the call as JSON."""


def stdio_runs(suite: StdioSuite, timeout_s: float) -> list[StdioRun]:
    """The cases of the suite, checked. Raises InvalidRequest, TooLarge."""
    common = comparison(suite.comparison)
    if not isinstance(suite.command, str):
        _words(suite.command, "command", "command")
    if not suite.command:
        raise InvalidRequest("command must name a program", field="command")
    runs = []
    for index, case in enumerate(_cases(suite.cases, StdioCase)):
        where = _where(index, case.name)
        expected = _text(case.expected, where, "expected")
        if len(expected.encode()) > EXPECTED_BYTES_MAX:
            _too_large(where, "expected", EXPECTED_BYTES_MAX)
        stdin = _text(case.stdin, where, "stdin")
        if len(stdin.encode()) > STDIN_BYTES_MAX:
            _too_large(where, "stdin", STDIN_BYTES_MAX)
        try:
            own = common if case.comparison is None else comparison(case.comparison)
        except InvalidRequest as error:
            raise InvalidRequest(f"{where}: {error}", field=f"{where}.comparison") from None
        argv = _words(case.argv, where, "argv")
        seconds = _seconds(case.timeout, timeout_s, where)
        runs.append(StdioRun(case.name, seconds, stdin, argv, expected, own))
    return runs


def call_runs(suite: FunctionSuite, timeout_s: float) -> list[CallRun]:
    """The cases of the suite, checked. Raises InvalidRequest, TooLarge."""
    Comparison("numbers", suite.relative, suite.absolute)
    runs = []
    for index, case in enumerate(_cases(suite.cases, FunctionCase)):
        where = _where(index, case.name)
        function = _text(case.function or suite.function, where, "function")
        if not function or not all(part.isidentifier() for part in function.split(".")):
            _refuse(where, "function", "a name such as add or Solution.add", function)
        if isinstance(case.args, str) or not isinstance(case.args, Sequence):
            _refuse(where, "args", "a list of JSON values", case.args)
        named = isinstance(case.kwargs, Mapping) and all(
            isinstance(key, str) for key in case.kwargs
        )
        if not named:
            _refuse(where, "kwargs", "a dictionary of names and JSON values", case.kwargs)
        args = _json(list(case.args), where, "args")
        kwargs = _json(dict(case.kwargs), where, "kwargs")
        expected = _json(case.expected, where, "expected")
        size_bytes = len(json.dumps([function, args, kwargs]).encode()) + 200
        if size_bytes > CALL_BYTES_MAX:
            _too_large(where, "args", CALL_BYTES_MAX)
        seconds = _seconds(case.timeout, timeout_s, where)
        runs.append(CallRun(case.name, seconds, function, args, kwargs, expected, size_bytes))
    return runs


def checked_pytest(suite: PytestSuite) -> PytestSuite:
    """The suite with `paths` filled in. Raises InvalidRequest."""
    if not isinstance(suite.files, Mapping):
        raise InvalidRequest("files must be a dictionary of paths and contents", field="files")
    for path, content in suite.files.items():
        if not isinstance(path, str) or not path or not isinstance(content, str | bytes):
            raise InvalidRequest(
                f"files[{path!r}] must be text or bytes under a path", field=f"files[{path!r}]"
            )
    tests = _words(suite.tests, "tests", "tests")
    for test in tests:
        if "::" not in test:
            raise InvalidRequest(
                f"tests must be ids such as test_a.py::test_b, not {test!r}", field="tests"
            )
    if len(set(tests)) < len(tests):
        raise InvalidRequest("tests must not name a test twice", field="tests")
    paths = _words(suite.paths, "paths", "paths")
    if not paths and tests:
        paths = tuple(dict.fromkeys(test.partition("::")[0] for test in tests))
    if not paths:
        paths = tuple(path for path in suite.files if is_test_file(path)) or (".",)
    arguments = _words(suite.arguments, "arguments", "arguments")
    return replace(suite, tests=tests, paths=paths, arguments=arguments)


def is_test_file(path: str) -> bool:
    """As pytest tells them by default."""
    file = PurePosixPath(path)
    return file.suffix == ".py" and (file.stem.startswith("test_") or file.stem.endswith("_test"))


def defined_tests(files: Mapping[str, str | bytes]) -> list[str]:
    """The test functions that the test files define for certain, as ids without parameters: what
    pytest must find whatever the solution does while they are imported."""
    found = []
    for path, content in files.items():
        if not is_test_file(path):
            continue
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):
            continue  # pytest will say so.
        place = str(PurePosixPath(path))
        for node in tree.body:
            if name := _test_name(node):
                found.append(f"{place}::{name}")
            elif isinstance(node, ast.ClassDef) and _is_test_class(node):
                names = filter(None, map(_test_name, node.body))
                found += [f"{place}::{node.name}::{name}" for name in names]
    return list(dict.fromkeys(found))


def _test_name(node: ast.stmt) -> str:
    """Empty if it defines no test."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
        return node.name
    return ""


def _is_test_class(node: ast.ClassDef) -> bool:
    """One that pytest collects by its name. A base class may say otherwise, so it must have none."""
    names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    assigned = {
        target.id
        for part in node.body
        if isinstance(part, ast.Assign)
        for target in part.targets
        if isinstance(target, ast.Name)
    }
    plain = not node.bases and not {"__init__", "__new__"} & names
    return node.name.startswith("Test") and plain and "__test__" not in assigned


def _cases(given: Sequence[Any], kind: type[Case]) -> list[Case]:
    """Cases of the right kind with unique names."""
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
        raise InvalidRequest("cases must be a list of one or more cases", field="cases")
    if len(given) > CASES_MAX:
        raise TooLarge(f"cases must be at most {CASES_MAX}, not {len(given)}", field="cases")
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for index, one in enumerate(given):
        case = _case(one, kind, index)
        if not isinstance(case.name, str) or len(case.name) > NAME_CHARACTERS_MAX:
            right = f"text of at most {NAME_CHARACTERS_MAX} characters"
            _refuse(f"cases[{index}]", "name", right, case.name)
        case = replace(case, name=case.name or f"case-{index + 1}")
        if case.name in seen:
            where = _where(index, case.name)
            _refuse(where, "name", f"another than that of cases[{seen[case.name]}]", case.name)
        seen[case.name] = index
        cases.append(case)
    return cases


def _case(given: Any, kind: type[Case], index: int) -> Case:
    if isinstance(given, kind):
        return given
    where = f"cases[{index}]"
    known = [one.name for one in fields(kind)]
    if not isinstance(given, Mapping):
        raise InvalidRequest(
            f"{where} must be a {kind.__name__} or a dictionary of one, not {_shown(given)}",
            field=where,
        )
    where = _where(index, str(given.get("name", "")))
    if unknown := [key for key in given if key not in known]:
        raise InvalidRequest(
            f"{where} has an unknown key {_shown(unknown[0])}: known are {', '.join(known)}",
            field=where,
        )
    if "expected" not in given:
        raise InvalidRequest(f"{where} must say what is expected", field=f"{where}.expected")
    return kind(**given)


def _where(index: int, name: str) -> str:
    return f"cases[{index}] ({name[:60]})" if name else f"cases[{index}]"


def _text(value: object, where: str, name: str) -> str:
    if not isinstance(value, str):
        _refuse(where, name, "text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(where, name, "text that can be written as UTF-8", value)
    return value


def _words(value: object, where: str, name: str) -> tuple[str, ...]:
    good = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not good or not all(isinstance(word, str) and "\0" not in word for word in value):  # type: ignore[attr-defined]
        _refuse(where, name, "a list of words", value)
    return tuple(value)  # type: ignore[arg-type]


def _json(value: Any, where: str, name: str) -> Any:
    """The value as it comes back from JSON: tuples are lists, keys are text."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(where, name, f"JSON ({error})", value)


def _seconds(value: float | None, common_s: float, where: str) -> float:
    if value is None:
        return common_s
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= TIME_S_MAX or not math.isfinite(value):
        _refuse(where, "timeout", "seconds above 0", value)
    return float(value)


def _refuse(where: str, name: str, right: str, value: object) -> NoReturn:
    field = name if where == name else f"{where}.{name}"
    raise InvalidRequest(f"{field} must be {right}, not {_shown(value)}", field=field)


def _too_large(where: str, name: str, limit_bytes: int) -> NoReturn:
    raise TooLarge(
        f"{where}.{name} is larger than {limit_bytes >> 10} KiB, the limit of one case",
        field=f"{where}.{name}",
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
