"""What all parts share: writing to pipes, and a short line for an exception."""

import json
import os
import site
import sys
from typing import Any, List

CHUNK_BYTES = 1 << 16
MESSAGE_CHARACTERS_MAX = 400


class Records:
    """The worker's way to tell: one JSON object a line, into the relay's pipe."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def say(self, event: str, **fields: Any) -> None:
        line = json.dumps(dict(fields, event=event))
        write_all(self.descriptor, line.encode("utf-8", "replace") + b"\n")


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def described(error: BaseException) -> str:
    """An exception in one short line, whatever its `__str__` does."""
    try:
        text = "%s: %s" % (type(error).__name__, error)
    except Exception:  # noqa: BLE001 - it is the solution's
        text = type(error).__name__
    return text.strip()[:MESSAGE_CHARACTERS_MAX]


def pythonpath() -> List[str]:
    """Where the image or its caller keeps modules: the isolated interpreter did not look there."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def open_paths(folders: List[str]) -> None:
    """Let modules of the solution be imported from these folders, and from wherever an interpreter
    that is not isolated would find them."""
    first = list(dict.fromkeys(folders + pythonpath()))
    sys.path[:0] = first
    sys.path.append(site.getusersitepackages())
    sys.dont_write_bytecode = True
