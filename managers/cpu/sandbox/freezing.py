"""Holding a sandbox still while its files are copied, so that the copy is of one moment.

By its control group where that can freeze, else by SIGSTOP to all of its processes; and what it could
still change without a trace once it goes on. Blocks and belongs in a thread.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import TemporaryError
from ..cgroup import SandboxCgroup

FREEZE_WAIT_S = 5.0
"""For the kernel to stop every process: microseconds, unless one waits for a slow disk."""
ROUNDS_MAX = 50
"""Of stopping what appeared meanwhile, where no control group does it at once."""
_POLL_S = 0.0005


@contextmanager
def frozen(root_pid: int, cgroup: SandboxCgroup | None) -> Iterator[set[int]]:
    """Nothing of the sandbox runs inside the block; yields its processes. What was stopped before
    stays so. Raises TemporaryError if it cannot be held."""
    if cgroup is not None and cgroup.can_freeze:
        with _frozen_group(cgroup):
            yield cgroup.members()
        return
    stopped: set[int] = set()
    try:
        yield _stop_all(root_pid, stopped)
    finally:
        for pid in stopped:
            _signal(pid, signal.SIGCONT)


def maps_files_shared(pids: Iterable[int]) -> bool:
    """Whether one of these processes may write to a file through memory: its changes may then come
    with no new time on the file."""
    return any(_maps_shared(pid) for pid in pids)


def _maps_shared(pid: int) -> bool:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # Gone, or the agent, which maps no files.
    for line in maps.splitlines():
        _, rights, _, _, inode, *path = line.split(maxsplit=5)
        shared = rights[1] == "w" and rights[3] == "s" and inode != "0"
        if shared and path and not path[0].startswith(("/dev/", "/memfd:", "/SYSV")):
            return True
    return False


@contextmanager
def _frozen_group(cgroup: SandboxCgroup) -> Iterator[None]:
    deadline = time.monotonic() + FREEZE_WAIT_S
    try:
        cgroup.freeze(True)
        while not cgroup.is_frozen():
            if time.monotonic() > deadline:
                raise TemporaryError(f"the sandbox did not stand still within {FREEZE_WAIT_S:g} s")
            time.sleep(_POLL_S)
        yield
    finally:
        cgroup.freeze(False)


def _stop_all(root_pid: int, stopped: set[int]) -> set[int]:
    """Stop the tree below a process until all that is in it stands still."""
    for _ in range(ROUNDS_MAX):
        found = {pid: state for pid, state in _tree(root_pid).items() if state not in "ZX"}
        running = {pid for pid, state in found.items() if state not in "Tt"}
        if not running:
            return set(found)
        for pid in running - stopped:
            stopped.add(pid)
            _signal(pid, signal.SIGSTOP)
        time.sleep(_POLL_S)
    raise TemporaryError("the sandbox's processes could not be held still")


def _tree(root_pid: int) -> dict[int, str]:
    """The process and all that descend from it, with their states."""
    found: dict[int, str] = {}
    pending = [root_pid]
    while pending:
        pid = pending.pop()
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            found[pid] = text.rpartition(")")[2].split()[0]
            for task in os.listdir(f"/proc/{pid}/task"):
                children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                pending += [int(child) for child in children.split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
