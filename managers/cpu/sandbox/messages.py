"""What is said to an agent and by it, between the server's types and the fields of messages.

Pure: no connection here. Text becomes bytes as the sandbox's kernel wants them, and back.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...base import ExecSpec, FileInfo, Outcome
from ...errors import FileProblem, PermanentError
from ...tar_stream import Piece
from .agent import wire

CORES_PLACEHOLDER = "{cores}"


@dataclass(frozen=True, slots=True)
class AgentResult:
    """How a command ended, as its agent measured it."""

    outcome: Outcome
    """FINISHED, TIMED_OUT or KILLED: the agent knows no other."""
    exit_code: int
    """-N on signal N."""
    signal: int | None
    run_s: float
    """From spawn to exit."""
    cpu_seconds: float
    peak_memory_bytes: int
    """The largest resident process of the command."""
    stdout_bytes: int
    """Produced, kept or not."""
    stderr_bytes: int
    survivors: int
    """Processes that the command left behind."""
    sandbox_reset: bool
    """Every process of the sandbox had to be killed to end this or another command."""


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def as_text(data: bytes) -> str:
    """File names need not be UTF-8; what shows them must be."""
    return data.decode("utf-8", "replace")


def sentence_of(problem: FileProblem) -> str:
    return str(problem).removeprefix(f"{problem.path}: ")


def frame_of(kind: str, fields: dict[str, Any], what: str) -> bytes:
    try:
        return wire.request(kind, fields)
    except ValueError as error:
        raise PermanentError(f"{what} cannot be sent to the sandbox: {error}") from error


def exec_fields(
    action: str,
    token: int,
    spec: ExecSpec,
    cores: tuple[int, ...] | None,
    affinity: tuple[int, ...] | None,
    timeout_s: float | None,
) -> dict[str, Any]:
    argv, command, env = spec.argv, spec.shell_command, dict(spec.env)
    if cores is not None:
        number = str(len(cores))
        env = {"TANGRAM_CORES": number, "OMP_NUM_THREADS": number, **env}
        if spec.substitute_cores:
            argv = tuple(word.replace(CORES_PLACEHOLDER, number) for word in argv)
            command = command.replace(CORES_PLACEHOLDER, number)
    if spec.session:
        argv, command = (), command or shlex.join(argv)
    fields = {
        "action": action,
        "token": token,
        "argv": [_argument(f"argv[{index}]", word) for index, word in enumerate(argv)],
        "command": _argument("command", command),
        "cwd": _argument("cwd", spec.cwd),
        "env": {_variable(name): _argument(f"env {name}", value) for name, value in env.items()},
        "stdin": spec.stdin,
        "user": _argument("user", spec.user),
        "timeout_s": timeout_s,
        "max_output": min(spec.max_output_bytes, wire.MAX_OUTPUT),
        "affinity": None if affinity is None else list(affinity),
    }
    if spec.session:
        fields["session"] = spec.session
    if spec.merged:
        fields["merged"] = True
    return fields


def _argument(field: str, text: str) -> bytes:
    if "\0" in text:
        raise PermanentError(f"{field} holds a NUL byte, which no process can be given")
    return as_bytes(text)


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise PermanentError(f"env: {name!r} cannot be the name of a variable")
    as_bytes(name)  # Raises for half a surrogate pair, as its value would.
    return name


def result_of(fields: Mapping[str, Any]) -> AgentResult:
    """Raises KeyError, TypeError, ValueError for what is no result."""
    figures = wire.unpack_figures(fields["figures"])
    exit_code, signal, run_s, cpu_s, rss, stdout, stderr, survivors, reset = figures
    return AgentResult(
        outcome=Outcome(fields["outcome"]),
        exit_code=exit_code,
        signal=signal,
        run_s=run_s,
        cpu_seconds=cpu_s,
        peak_memory_bytes=rss,
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        survivors=survivors,
        sandbox_reset=reset,
    )


def file_info(fields: Mapping[str, Any]) -> FileInfo:
    return FileInfo(
        name=as_text(fields["name"]),
        kind=fields["kind"],
        size=fields["size"],
        mode=fields["mode"],
        modified_unix_s=fields["modified"],
        target=as_text(fields["target"]),
    )


def piece_of(fields: Mapping[str, Any]) -> Piece:
    """Raises KeyError, TypeError for what is no piece of a tree."""
    return Piece(
        name=fields["name"].decode("utf-8", "surrogateescape"),
        kind=fields["kind"],
        size=fields["size"],
        mode=fields["mode"],
        modified_unix_s=fields["modified"],
        target=fields["target"].decode("utf-8", "surrogateescape"),
        data=fields["data"],
        last=fields["last"],
    )


def piece_fields(piece: Piece) -> dict[str, Any]:
    return {
        "name": as_bytes(piece.name),
        "kind": piece.kind,
        "mode": piece.mode,
        "modified": piece.modified_unix_s,
        "target": as_bytes(piece.target),
        "data": piece.data,
        "last": piece.last,
    }
