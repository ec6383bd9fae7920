"""How the launchers' own tests run a command in a sandbox, and look for what it left outside."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tangram.managers.base import ExecSpec, SandboxSpec, Stream
from tangram.managers.cpu.sandbox.base import Sandbox

_NUMBERS = count(1)
TIMEOUT_S = 20.0


def short_folder() -> Path:
    """Paths of sockets are short, and a sandbox's own user must be able to pass through."""
    folder = Path(tempfile.mkdtemp(prefix="tangram-", dir="/tmp"))
    folder.chmod(0o711)
    return folder


@dataclass
class Ran:
    exit_code: int = 0
    text: dict[Stream, str] = field(default_factory=lambda: dict.fromkeys(Stream, ""))

    @property
    def stdout(self) -> str:
        return self.text[Stream.STDOUT]

    @property
    def stderr(self) -> str:
        return self.text[Stream.STDERR]

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        self.text[stream] += data.decode(errors="replace")


async def run(
    sandbox: Sandbox, command: str, affinity: tuple[int, ...] | None = None, shell: bool = True
) -> Ran:
    """A shell command to its end, or with `shell` false a Python program."""
    ran = Ran()
    spec = ExecSpec(shell_command=command) if shell else ExecSpec(argv=("python3", "-c", command))
    result = await sandbox.channel.exec(
        f"action-{next(_NUMBERS)}",
        1,
        spec,
        cores=None,
        affinity=affinity,
        timeout_s=TIMEOUT_S,
        output=ran,
    )
    ran.exit_code = result.exit_code
    return ran


def spec_of(trajectory: str = "t", **changes: object) -> SandboxSpec:
    sizes: dict[str, object] = {"memory_bytes": 256 << 20, "shm_bytes": 1 << 20}
    return SandboxSpec(trajectory, **{**sizes, **changes})  # type: ignore[arg-type]


def processes_with(text: str) -> list[int]:
    """Of this machine, those whose command line holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found
