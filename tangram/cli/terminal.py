"""How commands speak and end: consoles, the one-line error, exit codes, the event loop.

Every command runs its coroutine through `run_until_done`, so that Ctrl-C and SIGTERM cancel it, its
clean-up runs, and the exit code is a shell's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console

EXIT_FAILURE = 1
EXIT_TIMED_OUT = 124
EXIT_TANGRAM_FAILED = 125
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

T = TypeVar("T")

SERVER_EXTRA = "tangram-rl[server]"
DEMO_EXTRA = "tangram-rl[demo]"


def console(piped_width: int | None = None) -> Console:
    """For tables on stdout: made when it is needed, so that a redirected stdout is seen. Commands
    and reasons are shown as they are, not read as markup. `piped_width` is for a stdout that is no
    terminal, where nothing else says how wide (COLUMNS may)."""
    made = Console(highlight=False, markup=False, emoji=False)
    if piped_width is not None and not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = piped_width
    return made


def complain(message: object) -> None:
    """On stderr, in the command's name; a message of several lines is several complaints."""
    for line in str(message).splitlines():
        print(f"tangram: {line}", file=sys.stderr, flush=True)


def give_up(message: object, code: int = EXIT_FAILURE) -> NoReturn:
    complain(message)
    raise typer.Exit(code)


def missing_extra(command: str, extra: str, missing: str | None) -> NoReturn:
    give_up(f"`tangram {command}` needs {missing}: pip install '{extra}'")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Around a command without an event loop: Ctrl-C ends it with a shell's code."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def write_output(stream: str, data: bytes) -> None:
    """A piece of an action's output, unchanged, on our stream of the same name."""
    file = sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer
    file.write(data)
    file.flush()


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2), flush=True)


def run_until_done(main: Coroutine[Any, Any, T]) -> T:
    """Run it; on Ctrl-C or SIGTERM cancel it, let it clean up, and exit as a shell expects."""
    terminated = False

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        # Windows has no such handlers: there SIGTERM ends the process at once.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await main

    try:
        return asyncio.run(guarded())
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except asyncio.CancelledError:
        if terminated:
            raise typer.Exit(EXIT_TERMINATED) from None
        raise
