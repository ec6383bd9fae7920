"""Where tests run, and what is done there before they do: the solution comes in, is built, and its
processes are ended. All IO; what may come in is decided in `solution`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import FileError, InvalidRequest, Unsupported
from ..limits import STDIN_BYTES_MAX
from .solution import Diff, SolutionFailed, diff_without_steering, without_steering

if TYPE_CHECKING:
    from ..client.aio import AsyncClient
    from ..client.requests import Command
    from ..client.trajectories import AsyncTrajectory

READ_BYTES_MAX = (8 << 20) - 1
"""Of one file of a solution that is read from its trajectory."""
STEP_S = 60.0
"""For reading a file, applying a diff, ending processes."""
NEITHER = 97
"""Exit code of the line that applies a diff where there is no program to do it."""
APPLY = f"""
if command -v git >/dev/null 2>&1; then exec git -c safe.directory='*' apply --whitespace=nowarn -
elif command -v patch >/dev/null 2>&1; then exec patch --unified -p1 --batch --forward
else exit {NEITHER}; fi
"""
END_ALL = "import os, sys\nos.kill(-1, 9)\nsys.stdout.write('ended')"
"""One call for all processes, which none of them can outrun by forking. The agent is process 1, which
it does not reach."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to score: as the caller said it."""

    image: str | None
    trajectory: AsyncTrajectory | None
    fresh: bool
    options: Mapping[str, Any]
    """Arguments of `AsyncClient.trajectory` for a fresh sandbox."""
    concurrency: int


@asynccontextmanager
async def scoring_sandbox(client: AsyncClient, place: Place) -> AsyncIterator[AsyncTrajectory]:
    """The sandbox in which the tests run: the one place that chooses it.

    A fresh one is closed at the end. Raises what opening a trajectory raises.
    """
    given = place.trajectory
    if not place.fresh:
        assert given is not None, "solution.checked refuses this"
        yield given
        return
    image = place.image
    if image is None and given is not None:
        image = (await given.open()).image or None
    try:
        sandbox = client.trajectory(image, concurrency=place.concurrency, **place.options)
    except TypeError as error:
        raise InvalidRequest(
            f"sandbox must be arguments of client.trajectory ({error})", field="sandbox"
        ) from None
    async with sandbox:
        yield sandbox


async def bring(
    sandbox: AsyncTrajectory,
    solution: dict[str, str | bytes] | Diff | tuple[str, ...],
    *,
    source: AsyncTrajectory | None,
    guarded: Sequence[str] | None,
) -> tuple[list[str], list[str] | None]:
    """Put the solution into the sandbox. With `guarded`, without the files that would steer a suite
    and those named so.

    Returns the paths that were left out, and those that were written (None if a diff did it).
    Raises SolutionFailed.
    """
    ignored: list[str] = []
    if isinstance(solution, Diff):
        text = solution.text
        if guarded is not None:
            text, ignored = diff_without_steering(text, guarded)
        await _apply(sandbox, text)
        return ignored, None
    if isinstance(solution, tuple):
        if source is sandbox:
            return [], list(solution)
        assert source is not None, "solution.checked refuses this"
        solution = {path: await _read(source, path) for path in solution}
    if guarded is not None:
        solution, ignored = without_steering(solution, guarded)
    for path, content in solution.items():
        try:
            await sandbox.write_file(path, content)
        except (FileError, UnicodeEncodeError) as error:
            raise SolutionFailed(f"its file {path} cannot be written: {error}") from None
    return ignored, list(solution)


async def build(sandbox: AsyncTrajectory, command: Command, timeout_s: float) -> None:
    """Run the build of the solution. Raises SolutionFailed."""
    result = await sandbox.exec(command, timeout=timeout_s)
    if not result.ok:
        how = f"exit code {result.exit_code}" if result.outcome == "finished" else result.outcome
        last = result.stderr.strip().rpartition("\n")[2]
        raise SolutionFailed(f"its setup ended with {how}" + (f": {last}" if last else ""))


async def end_processes(sandbox: AsyncTrajectory, python: str) -> bool:
    """Kill every process of the sandbox but the agent. False if that could not be done."""
    result = await sandbox.exec([python, "-I", "-S", "-c", END_ALL], timeout=STEP_S)
    return result.stdout.endswith("ended")


async def place_tests(
    sandbox: AsyncTrajectory, files: Mapping[str, str | bytes], written: Sequence[str] | None
) -> None:
    """Write the files of the tests. `written` are the solution's files, if nothing else of it can be
    in the way. Raises SolutionFailed, FileError (a path that is nobody's fault but the caller's)."""
    for path, content in files.items():
        try:
            await sandbox.write_file(path, content)
        except FileError as error:
            if written is not None and not any(_in_the_way(other, path) for other in written):
                raise
            raise SolutionFailed(f"the tests' file {path} cannot be written: {error}") from None


def _in_the_way(other: str, path: str) -> bool:
    one, two = PurePosixPath(other), PurePosixPath(path)
    return one == two or one in two.parents or two in one.parents


async def _apply(sandbox: AsyncTrajectory, diff: str) -> None:
    if not diff.strip():
        return
    data = (diff if diff.endswith("\n") else diff + "\n").encode("utf-8", "surrogatepass")
    if len(data) > STDIN_BYTES_MAX:
        raise SolutionFailed(f"its diff is larger than {STDIN_BYTES_MAX >> 20} MiB")
    result = await sandbox.exec(["sh", "-c", APPLY], stdin=data, timeout=STEP_S)
    if result.exit_code == NEITHER:
        raise Unsupported(
            "the sandbox has neither git nor patch to apply a diff: "
            "give the changed files, or use an image that has one of them",
            field="solution",
        )
    if not result.ok:
        said = (result.stderr or result.stdout).strip().partition("\n")[0]
        raise SolutionFailed(f"its diff does not apply: {said}")


async def _read(source: AsyncTrajectory, path: str) -> bytes:
    """A file of the trajectory, by a command with a limit: the file may grow while it is read."""
    command = ["head", "-c", str(READ_BYTES_MAX + 1), "--", path]
    result = await source.exec(command, timeout=STEP_S, max_output="8Mi")
    if not result.ok:
        raise SolutionFailed(f"it has no file {path}: {result.stderr.strip()}")
    if len(result.stdout_bytes) > READ_BYTES_MAX or result.truncated:
        raise SolutionFailed(f"its file {path} is larger than {READ_BYTES_MAX} bytes")
    return result.stdout_bytes
