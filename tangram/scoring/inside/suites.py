"""A suite of pytest, in one process with the solution: its events become records.

What it can do against code that cheats in its own process it does: pytest is imported before a file
of the solution can take its name, no configuration is read but the suite's, and functions that
decide whether a test passes are compared with what they were.
"""

import importlib.util
import os
import sys
import types
from typing import Any, Dict, Iterable, List, Tuple

from .records import MESSAGE_CHARACTERS_MAX, Records, open_paths, pythonpath

IDS_AT_ONCE = 500
"""Names of tests in one record."""
JUDGES = ("AssertionError", "all", "any", "isinstance", "len", "abs", "sorted", "repr", "sum")
"""Built-ins that assertions lean on. Others, such as `open` and `print`, honest code replaces too."""
FRAMEWORK = ("_pytest", "pluggy", "pytest")
NO_TESTS = 5
"""pytest's exit code where it collected none."""


def run_suite(order: Dict[str, Any], records: Records) -> int:
    """A record per event. Returns pytest's exit code."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    # Workers of xdist start as processes of their own: they must not look where a solution writes.
    os.environ.update(PYTHONNOUSERSITE="1", PYTHONSAFEPATH="1", PYTHONDONTWRITEBYTECODE="1")
    pytest = import_pytest()
    if pytest is None:
        records.say("no_pytest", message="Python %d.%d" % sys.version_info[:2])
        return 1
    paths = [path for path in order["paths"] if os.path.exists(path.partition("::")[0])]
    if not paths:
        records.say("collected", tests=[], last=True)
        records.say("session", code=NO_TESTS, collected=0)
        return NO_TESTS
    folder = os.getcwd()
    open_paths([folder])
    parallel = order["workers"] > 1 and has_plugin("xdist")
    reporter = Reporter(records, order["tests"], order["done"], parallel)
    hook = Reporter.pytest_xdist_node_collection_finished
    pytest.hookimpl(optionalhook=True)(hook)
    pytest.hookimpl(trylast=True)(Reporter.pytest_collection_modifyitems)
    arguments = arguments_of(order, folder, parallel) + paths
    code = int(pytest.main(arguments, plugins=[reporter]))
    records.say("session", code=code, collected=reporter.count)
    return code


def import_pytest() -> Any:
    """The image's pytest, or None. Isolated first, so that no file of the solution is taken for it."""
    entries: List[str]
    for entries in ([], pythonpath()):
        sys.path += entries
        try:
            import pytest

            return pytest
        except ImportError:
            continue
    return None


def has_plugin(module: str) -> bool:
    """Is it installed, and will pytest load it?"""
    loads = not os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    return loads and importlib.util.find_spec(module) is not None


def arguments_of(order: Dict[str, Any], folder: str, parallel: bool) -> List[str]:
    arguments = ["-c", order["config"] or os.devnull, "--rootdir", folder, "-q", "--color=no"]
    arguments += ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    arguments += ["-n", str(order["workers"])] if parallel else ["-p", "no:xdist"]
    if has_plugin("pytest_timeout"):
        arguments += ["--timeout", str(order["timeout_s"])]
    if not order["conftest"]:
        arguments += ["--noconftest"]
    return arguments + list(order["arguments"])


def judging_functions() -> Dict[Tuple[str, ...], Any]:
    """What decides whether a test passes: (module, name, ...) -> what stands there now."""
    import unittest.case

    found: Dict[Tuple[str, ...], Any] = {
        ("builtins", name): vars(sys.modules["builtins"])[name] for name in JUDGES
    }
    names = [name for name in sys.modules if name.partition(".")[0] in FRAMEWORK]
    for place in [unittest.case.__name__, *names]:
        for name, value in list(vars(sys.modules[place]).items()):
            if isinstance(value, types.FunctionType):
                found[(place, name)] = value
                found[(place, name, "__code__")] = value.__code__
            elif isinstance(value, type) and value.__module__ == place:
                found[(place, name)] = value
                for part, method in list(vars(value).items()):
                    if isinstance(method, (types.FunctionType, classmethod, staticmethod)):
                        found[(place, name, part)] = method
    return found


def current(name: Tuple[str, ...]) -> Any:
    """What stands now where `judging_functions` looked."""
    module = sys.modules.get(name[0])
    found = None if module is None else vars(module).get(name[1])
    if len(name) == 2:
        return found
    if name[2] == "__code__":
        return getattr(found, "__code__", None)
    return vars(found).get(name[2]) if isinstance(found, type) else None


class Reporter:
    """The plugin that tells what pytest finds and does. With xdist it lives in the process that only
    hands tests out, and which runs all that it finds."""

    def __init__(
        self, records: Records, wanted: List[str], done: List[str], parallel: bool
    ) -> None:
        self.count = 0
        """Tests that were found."""
        self._say = records.say
        self._place = {test: number for number, test in enumerate(wanted)}
        self._done = set(done)
        self._parallel = parallel
        self._originals: Dict[Tuple[str, ...], Any] = {}

    def pytest_sessionstart(self) -> None:
        # Now all plugins have made their changes, and no code of the solution is loaded yet.
        self._originals = judging_functions()

    def pytest_sessionfinish(self) -> None:
        changed = [name for name, value in self._originals.items() if current(name) is not value]
        if changed:
            self._say("tampered", what=sorted(map(".".join, changed))[:5])

    def pytest_collection_modifyitems(self, items: List[Any]) -> None:
        if not self._parallel:
            self._tell(item.nodeid for item in items)
            due = [item for item in items if self._is_due(item.nodeid)]
            items[:] = sorted(due, key=lambda item: self._place.get(item.nodeid, 0))

    def pytest_xdist_node_collection_finished(self, ids: List[str]) -> None:
        if not self.count:
            self._tell(ids)

    def _tell(self, found: Iterable[str]) -> None:
        ids = list(found)
        self.count = len(ids)
        for start in range(0, len(ids), IDS_AT_ONCE):
            self._say("collected", tests=ids[start : start + IDS_AT_ONCE], last=False)
        self._say("collected", tests=[], last=True)

    def _is_due(self, test: str) -> bool:
        return test not in self._done and (not self._place or test in self._place)

    def pytest_plugin_registered(self, plugin: Any) -> None:
        path = getattr(plugin, "__file__", None)
        if isinstance(path, str) and os.path.basename(path) == "conftest.py":
            self._say("conftest", path=os.path.relpath(path))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say("started", test=nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            text = str(report.longrepr)[-MESSAGE_CHARACTERS_MAX:]
            where, outcome = report.nodeid, report.outcome
            self._say("not_collected", where=where, outcome=outcome, message=text)

    def pytest_runtest_logreport(self, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = "" if report.longrepr is None else str(report.longrepr)[-MESSAGE_CHARACTERS_MAX:]
        self._say(
            "report",
            test=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            expected=hasattr(report, "wasxfail"),
            seconds=report.duration,
            message=str(crash.message)[:MESSAGE_CHARACTERS_MAX] if crash else text,
        )
