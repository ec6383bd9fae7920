"""Processes of one test told from all others: they sleep for a number of seconds that is theirs."""

from __future__ import annotations

import itertools
import os

import psutil

_MARKS = itertools.count(800_000 + os.getpid() * 10)


def new_mark() -> str:
    """Seconds to sleep, as a word of a command line."""
    return str(next(_MARKS))


def running(mark: str) -> list[int]:
    """The processes of this machine that sleep for `mark`, seen from outside."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if mark in (process.info["cmdline"] or ())
    ]
