"""Calls of functions: the solution is loaded once, each call runs in a fork of its own."""

import importlib.util
import json
import os
import select
import signal
import sys
import time
from types import ModuleType
from typing import Any, Dict

from .records import CHUNK_BYTES, Records, described, open_paths, write_all


def run_calls(order: Dict[str, Any], records: Records) -> int:
    """As many calls at a time as there are workers; a record per call, in the order of their ends."""
    try:
        module = load(order["file"])
    except BaseException as error:  # noqa: BLE001 - the solution may raise anything
        records.say("load_failed", message=described(error))
        return 1
    records.say("loaded")
    budget_bytes, cases = order["budget_bytes"], list(order["cases"])
    running: Dict[int, Call] = {}
    while cases or running:
        while cases and len(running) < order["workers"] and budget_bytes > 0:
            call = Call(module, cases.pop(0), order["result_bytes_max"], records)
            running[call.result] = call
        if not running:
            return 0  # The room is used up: the rest is asked for again.
        due = min(call.deadline for call in running.values())
        ready, _, _ = select.select(list(running), [], [], max(0.0, due - time.monotonic()))
        for call in list(running.values()):
            if (call.result in ready and not call.read()) or time.monotonic() >= call.deadline:
                del running[call.result]
                record = call.end()
                budget_bytes -= len(record["answer"])
                records.say("case", **record)
    return 0


def load(path: str) -> ModuleType:
    """The solution as a module that is not `__main__`."""
    open_paths([os.path.dirname(os.path.abspath(path)), os.getcwd()])
    if not os.path.exists(path):
        raise FileNotFoundError("there is no file " + path)
    spec = importlib.util.spec_from_file_location("solution", path)
    if spec is None or spec.loader is None:
        raise ImportError(path + " is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["solution"] = module
    spec.loader.exec_module(module)
    return module


class Call:
    """One call in a process of its own."""

    def __init__(
        self, module: ModuleType, case: Dict[str, Any], limit_bytes: int, records: Records
    ) -> None:
        self._index = case["index"]
        self._limit_bytes = limit_bytes
        self._data = b""
        self.result, result_in = os.pipe()
        self._began = time.monotonic()
        self.deadline = self._began + case["timeout_s"]
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.setpgid(0, 0)
            os.close(records.descriptor)
            os.close(self.result)
            write_all(result_in, answer(module, case).encode("utf-8", "replace"))
            sys.stdout.flush()
            os._exit(0)
        os.close(result_in)

    def read(self) -> bool:
        """False at its end, and when it says too much."""
        data = os.read(self.result, CHUNK_BYTES)
        self._data += data
        return bool(data) and len(self._data) <= self._limit_bytes

    def end(self) -> Dict[str, Any]:
        """End its processes; the record of it."""
        now = time.monotonic()
        for target in (-self._pid, self._pid):
            try:
                os.kill(target, signal.SIGKILL)
            except OSError:
                continue  # It has ended, or made no group of its own yet.
        os.close(self.result)
        _, status = os.waitpid(self._pid, 0)
        problem, text = "", self._data.decode("utf-8", "replace")
        if len(self._data) > self._limit_bytes:
            problem, text = "too_large", ""
        elif not text:
            problem = "timed_out" if now >= self.deadline else "ended"
            text = "signal %d" % os.WTERMSIG(status)
            if os.WIFEXITED(status):
                text = "exit code %d" % os.WEXITSTATUS(status)
        seconds = now - self._began
        return {"index": self._index, "seconds": seconds, "problem": problem, "answer": text}


def answer(module: ModuleType, case: Dict[str, Any]) -> str:
    """`{"value": ...}` or `{"error": ...}` as JSON."""
    try:
        value = find(module, case["function"])(*case["args"], **case["kwargs"])
        return json.dumps({"value": value}, default=plain)
    except BaseException as error:  # noqa: BLE001 - so may the function
        return json.dumps({"error": described(error)})


def find(module: ModuleType, name: str) -> Any:
    """`function`, or `Class.method` of an instance made without arguments."""
    found: Any = module
    for part in name.split("."):
        if isinstance(found, type):
            found = found()
        found = getattr(found, part)
    return found


def plain(value: Any) -> Any:
    """Arrays and their numbers as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError("a %s is not a JSON value" % type(value).__name__)
