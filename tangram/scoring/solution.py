"""What is scored: text, files, a diff, or files of a trajectory. Pure: what of it may be applied is
decided here, applying it is `sandbox`'s.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import InvalidRequest

FILE_DEFAULT = "solution.py"
"""Where a solution goes that is only a text."""
FILES_MAX = 1000
STEERING = ("conftest.py", "sitecustomize.py", "usercustomize.py")
"""Files that Python and pytest run by themselves, before and around the tests."""
HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
NAMES = ("diff --git ", "--- ", "+++ ", "rename to ", "copy to ", "Index: ")
"""Beginnings of the lines of a diff that name a file."""


@dataclass(frozen=True, slots=True)
class Diff:
    """A unified diff, as `git diff` prints it: `a/` and `b/` stand before the paths. It is applied in
    the sandbox's working directory by `git apply`, or by `patch` where the image has no git."""

    text: str


Solution = str | Mapping[str, str | bytes] | Diff | Sequence[str] | None
"""The text of `solution.py`; path -> contents; a diff; paths of files of a trajectory; or nothing
but what is in the trajectory."""


class SolutionFailed(Exception):
    """The solution is at fault before any test of it runs: a score, not an error of ours."""


def checked(
    solution: Solution, *, has_trajectory: bool, fresh: bool
) -> dict[str, str | bytes] | Diff | tuple[str, ...]:
    """Files, a diff, or paths to be read from the trajectory. Raises InvalidRequest."""
    if not fresh and not has_trajectory:
        raise InvalidRequest("fresh=False needs a trajectory to score in", field="trajectory")
    if solution is None:
        if fresh:
            raise InvalidRequest(
                "solution must be text, files, a Diff or paths of files of the trajectory: "
                "a fresh sandbox has nothing of it",
                field="solution",
            )
        return {}
    if isinstance(solution, Diff):
        if not isinstance(solution.text, str):
            raise InvalidRequest("solution must be a Diff of text", field="solution")
        return solution
    if isinstance(solution, str):
        return {FILE_DEFAULT: solution}
    if isinstance(solution, Mapping):
        return _files(solution)
    if not isinstance(solution, Sequence) or isinstance(solution, bytes | bytearray):
        raise InvalidRequest(
            "solution must be text, a dictionary of files, a Diff or a list of paths, "
            f"not a {type(solution).__name__}",
            field="solution",
        )
    if not has_trajectory:
        raise InvalidRequest(
            "solution names files of a trajectory: trajectory must be given", field="trajectory"
        )
    _check_paths(solution)
    return tuple(solution)


def _files(given: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    _check_paths(list(given))
    for path, content in given.items():
        if not isinstance(content, str | bytes):
            raise InvalidRequest(
                f"solution[{path!r}] must be text or bytes, not a {type(content).__name__}",
                field=f"solution[{path!r}]",
            )
    return dict(given)


def _check_paths(paths: Sequence[str]) -> None:
    if not paths or len(paths) > FILES_MAX:
        raise InvalidRequest(
            f"solution must be 1 to {FILES_MAX} files, not {len(paths)}", field="solution"
        )
    for path in paths:
        if not isinstance(path, str) or not path or "\0" in path:
            raise InvalidRequest(f"solution must name files, not {path!r}", field="solution")


def is_steering(path: str, more: Sequence[str] = ()) -> bool:
    """Would this file steer the tests, had the solution brought it? `more` names others by path."""
    plain = PurePosixPath(path)
    inside = any(plain == PurePosixPath(other) for other in more)
    return plain.name in STEERING or plain.suffix == ".pth" or inside


def without_steering(
    files: Mapping[str, str | bytes], more: Sequence[str]
) -> tuple[dict[str, str | bytes], list[str]]:
    """The files that may be applied, and the paths of the others."""
    ignored = [path for path in files if is_steering(path, more)]
    return {path: content for path, content in files.items() if path not in ignored}, ignored


def diff_without_steering(diff: str, more: Sequence[str]) -> tuple[str, list[str]]:
    """The diff without its parts that touch steering files, and their paths."""
    kept, ignored = [], []
    for lines, paths in _sections(diff):
        steering = [path for path in paths if is_steering(path, more)]
        if steering:
            ignored.append(steering[-1])
        else:
            kept += lines
    return "".join(kept), ignored


def _sections(diff: str) -> list[tuple[list[str], list[str]]]:
    """The parts of a diff, one per file: its lines and the paths that they name. Lines of a hunk are
    counted, as the programs that apply it do: what they hold is contents, whatever it looks like."""
    sections: list[tuple[list[str], list[str]]] = [([], [])]
    old = new = 0
    after_hunk = False
    for line in diff.splitlines(keepends=True):
        in_hunk = old > 0 or new > 0
        if in_hunk and line[:1] in (" ", "-", "+", "\n", "\r"):
            old -= line[:1] != "+"
            new -= line[:1] != "-"
        elif in_hunk and not line.startswith("\\"):
            old = new = 0
        if not in_hunk:
            begins = line.startswith("diff --git ") or (
                after_hunk and line.startswith(("--- ", "Index: "))
            )
            if begins:
                sections.append(([], []))
                after_hunk = False
            if found := HUNK.match(line):
                old, new = (1 if count is None else int(count) for count in found.groups())
                after_hunk = True
            sections[-1][1].extend(_paths(line))
        sections[-1][0].append(line)
    return sections


def _paths(line: str) -> list[str]:
    """The paths that a line of a diff's header names, without the folder before them."""
    start = next((start for start in NAMES if line.startswith(start)), "")
    if not start:
        return []
    rest = line.removeprefix(start).rstrip("\r\n").partition("\t")[0]
    if start != "diff --git ":
        names = [_unquoted(rest)]
    else:
        # Two paths in one line; where they have spaces, the last word still tells the file's name.
        names = [_unquoted(word) for word in re.findall(r'"(?:[^"\\]|\\.)*"|\S+', rest)]
    if start in ("diff --git ", "--- ", "+++ "):
        names = [name.partition("/")[2] or name for name in names]
    return names


def _unquoted(path: str) -> str:
    """git quotes unusual names as C does."""
    if not path.startswith('"'):
        return path
    try:
        return bytes(ast.literal_eval("b" + path)).decode("utf-8", "replace")
    except (SyntaxError, ValueError):
        return path
