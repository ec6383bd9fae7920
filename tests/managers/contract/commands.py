"""The commands of the contract suite, as each kind of sandbox understands them.

A real sandbox runs programs, the fake its own small language; what a test then expects is the same.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Protocol

from tangram.managers.fake import FakeManager

Argv = tuple[str, ...]

GROW = """
import time
kept = []
while True:
    kept.append(b"x" * (1 << 20))
    time.sleep(0.001)
"""
"""Takes memory step by step, as programs do."""


LISTEN = """
import signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.pause()
"""


class Commands(Protocol):
    """`mark` is a number unique to the test: it tells its processes from all others."""

    emitted: bytes
    """What `emit` repeats."""

    def echo(self, text: str) -> Argv: ...
    def both(self, out: str, err: str) -> Argv: ...
    def exits(self, code: int) -> Argv: ...
    def dies_of(self, number: int) -> Argv: ...
    def bytes(self, data: bytes) -> Argv: ...
    def cat(self) -> Argv: ...
    def printenv(self, name: str) -> Argv: ...
    def pwd(self) -> Argv: ...
    def emit(self, count: int) -> Argv: ...
    def endless_tree(self, mark: str) -> Argv:
        """Processes that end by nothing but a kill, one of them in a session of its own."""
        ...

    def cores(self) -> Argv:
        """Prints what programs take for the number of cores, once each."""
        ...

    def leaves(self, mark: str) -> Argv:
        """Leaves a process running behind and ends."""
        ...

    def finds(self, mark: str) -> Argv:
        """Exit code 0 if that process runs."""
        ...

    def link(self, target: str, path: str) -> Argv: ...
    def exceeds(self, limit: str, mark: str = "1") -> Argv:
        """Takes more of `memory`, `processes` or `disk` than the sandbox may have, with a process
        of this mark in the background."""
        ...

    # In a session, or in the background

    def enters(self, folder: str) -> Argv: ...
    def sets(self, name: str, value: str) -> Argv: ...
    def sleeps(self, mark: str) -> Argv:
        """One process, which SIGINT and SIGTERM end."""
        ...

    def asks(self, question: str) -> Argv:
        """Prints the question, reads a line from the terminal, prints it."""
        ...

    def listens(self, port: int) -> Argv:
        """On a port of loopback, until killed."""
        ...

    # From outside of the sandbox

    def runs(self, mark: str) -> bool:
        """Whether any process of this mark exists on the machine."""
        ...

    def kill_sandbox(self, trajectory: str, mark: str) -> None:
        """End the sandbox in which a process of this mark runs, as a crash would."""
        ...


class RealCommands:
    """Programs that every sandbox has: sh, coreutils and python3."""

    emitted = b"012345678\n"

    def echo(self, text: str) -> Argv:
        return ("echo", text)

    def both(self, out: str, err: str) -> Argv:
        return ("sh", "-c", 'echo "$1"; echo "$2" >&2', "sh", out, err)

    def exits(self, code: int) -> Argv:
        return ("sh", "-c", f"exit {code}")

    def dies_of(self, number: int) -> Argv:
        return ("sh", "-c", f"kill -{number} $$")

    def bytes(self, data: bytes) -> Argv:
        return ("printf", "".join(f"\\{byte:03o}" for byte in data))

    def cat(self) -> Argv:
        return ("cat",)

    def printenv(self, name: str) -> Argv:
        return ("sh", "-c", f'[ -n "${{{name}+set}}" ] && echo "${name}"')

    def pwd(self) -> Argv:
        return ("pwd",)

    def emit(self, count: int) -> Argv:
        return ("sh", "-c", f"yes 012345678 | head -c {count}")

    def endless_tree(self, mark: str) -> Argv:
        tree = f"setsid sleep {mark} & sleep {mark} & sleep {mark}; sleep {mark}"
        return ("sh", "-c", f"trap '' TERM INT; {tree}")

    def cores(self) -> Argv:
        return ("sh", "-c", "echo $(nproc) $(python3 -c 'import os; print(os.cpu_count())')")

    def leaves(self, mark: str) -> Argv:
        return ("sh", "-c", f"sleep {mark} >/dev/null 2>&1 &")

    def finds(self, mark: str) -> Argv:
        # The brackets keep this shell's own command line from being found.
        look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q"
        return ("sh", "-c", f"{look} '[s]leep {mark}'")

    def link(self, target: str, path: str) -> Argv:
        return ("ln", "-s", target, path)

    def exceeds(self, limit: str, mark: str = "1") -> Argv:
        scripts = {
            "memory": f"exec python3 -c '{GROW}'",
            "processes": "for i in $(seq 2000); do sleep 60 & done",
            "disk": "head -c 8388608 /dev/zero > big; sleep 60",
        }
        return ("sh", "-c", f"sleep {mark} >/dev/null 2>&1 & {scripts[limit]}")

    def enters(self, folder: str) -> Argv:
        return ("cd", folder)

    def sets(self, name: str, value: str) -> Argv:
        return ("export", f"{name}={value}")

    def sleeps(self, mark: str) -> Argv:
        return ("sleep", mark)

    def asks(self, question: str) -> Argv:
        return ("eval", f'printf %s {question}; read -r line; echo "$line"')

    def listens(self, port: int) -> Argv:
        return ("python3", "-c", LISTEN, str(port))

    def runs(self, mark: str) -> bool:
        return bool(_pids_of(mark))

    def kill_sandbox(self, trajectory: str, mark: str) -> None:
        pid = _pids_of(mark)[0]
        while not _is_first_of_its_namespace(pid):
            pid = _parent(pid)
        os.kill(pid, signal.SIGKILL)


class BusyboxCommands(RealCommands):
    """The same of an image that has busybox alone."""

    def cores(self) -> Argv:
        return ("sh", "-c", "echo $(nproc) $(nproc)")

    def exceeds(self, limit: str, mark: str = "1") -> Argv:
        if limit != "memory":
            return super().exceeds(limit, mark)
        grow = 'BEGIN { for (;;) kept[i++] = sprintf("%100000s", "x") }'
        return ("sh", "-c", f"sleep {mark} >/dev/null 2>&1 & exec awk '{grow}'")

    def listens(self, port: int) -> Argv:
        return ("sh", "-c", f"while :; do nc -l -p {port} </dev/null >/dev/null; done")


class FakeCommands:
    """The same in the language of `tangram.managers.fake.commands`."""

    emitted = b"0123456789"

    def __init__(self, manager: FakeManager) -> None:
        self._manager = manager

    def echo(self, text: str) -> Argv:
        return ("echo", text)

    def both(self, out: str, err: str) -> Argv:
        return ("sh", "-c", f"echo {out}; warn {err}")

    def exits(self, code: int) -> Argv:
        return ("exit", str(code))

    def dies_of(self, number: int) -> Argv:
        return ("signal", str(number))

    def bytes(self, data: bytes) -> Argv:
        return ("bytes", data.hex())

    def cat(self) -> Argv:
        return ("cat",)

    def printenv(self, name: str) -> Argv:
        return ("printenv", name)

    def pwd(self) -> Argv:
        return ("pwd",)

    def emit(self, count: int) -> Argv:
        return ("emit", str(count))

    def endless_tree(self, mark: str) -> Argv:
        return ("spin", mark)

    def cores(self) -> Argv:
        return ("nproc",)

    def leaves(self, mark: str) -> Argv:
        return ("daemon", mark)

    def finds(self, mark: str) -> Argv:
        return ("pgrep", mark)

    def link(self, target: str, path: str) -> Argv:
        return ("link", target, path)

    def exceeds(self, limit: str, mark: str = "1") -> Argv:
        return ("exceed", limit)

    def enters(self, folder: str) -> Argv:
        return ("cd", folder)

    def sets(self, name: str, value: str) -> Argv:
        return ("export", name, value)

    def sleeps(self, mark: str) -> Argv:
        return ("spin", mark)

    def asks(self, question: str) -> Argv:
        return ("ask", question)

    def listens(self, port: int) -> Argv:
        return ("listen", str(port))

    def runs(self, mark: str) -> bool:
        return mark in self._manager.processes()

    def kill_sandbox(self, trajectory: str, mark: str) -> None:
        self._manager.lose_sandbox(trajectory)


def _pids_of(mark: str) -> list[int]:
    """Processes on this machine with the mark as an argument of their own."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # It ended while we looked.
        if mark.encode() in arguments:
            found.append(int(entry.name))
    return found


def _status(pid: int, field: str) -> list[str]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.split()
    raise LookupError(f"process {pid} has no {field}")


def _is_first_of_its_namespace(pid: int) -> bool:
    ids = _status(pid, "NSpid")
    return len(ids) > 1 and ids[-1] == "1"


def _parent(pid: int) -> int:
    return int(_status(pid, "PPid")[0])
