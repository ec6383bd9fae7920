"""How tests wait: for a condition, up to a deadline, never for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

POLL_S = 0.01
"""Short beside what is waited for (processes, containers), long beside one look."""


async def until(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Wait until the condition, a function or coroutine function, is truthy; returns its value.

    Fails the test, naming the condition and what it last was, if it is not within `within_s`.
    """
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{_name(condition)} was still {value!r} after {within_s} s")
        await asyncio.sleep(POLL_S)


def until_now(condition: Callable[[], Any], *, within_s: float = 30.0) -> Any:
    """`until` for tests without an event loop."""
    return asyncio.run(until(condition, within_s=within_s))


def _name(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{getattr(condition, '__qualname__', repr(condition))}{place}"
