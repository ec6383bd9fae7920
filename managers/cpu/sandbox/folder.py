"""A sandbox's folder on the host: made, counted, and removed again, also by the next server.

Launchers that start processes by themselves keep in it what belongs to one sandbox, and a record of
its processes, so that a server that comes after a crash can end and remove what the last one left.
Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

RECORD = "record.json"
LOG = "log"
LOG_TAIL_BYTES = 2000
"""Of a launcher's messages, in the error when a start fails."""
GONE_WAIT_S = 5.0
"""For a process to vanish after SIGKILL."""
_POLL_S = 0.005
_BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the file system's own block is."""


class SandboxFolder:
    """One sandbox's folder `<state>/<id>`; `id` is the launcher's own, never a user's text."""

    def __init__(self, state: Path, sandbox_id: str) -> None:
        self.id = sandbox_id
        self.path = state / sandbox_id

    def create(self) -> None:
        """Raises FileExistsError, OSError (a full disk)."""
        self.path.mkdir(mode=0o711, parents=True)

    def record(self, pids: Iterable[int]) -> None:
        """Note the processes to end should this server not live to do it."""
        processes = {str(pid): start_ticks(pid) for pid in pids}
        (self.path / RECORD).write_text(json.dumps({"processes": processes}))

    def kill_recorded(self) -> None:
        """End the recorded processes that still are the same ones; returns when they are gone.

        Raises TimeoutError if one does not die.
        """
        try:
            processes = json.loads((self.path / RECORD).read_text())["processes"]
        except (FileNotFoundError, ValueError, KeyError):
            return  # The last server died before it had started anything, or while writing this.
        for pid, ticks in processes.items():
            kill_process(int(pid), ticks)

    def log_tail(self) -> str:
        """The end of what was written to the log, or "" without one."""
        try:
            with open(self.path / LOG, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL_BYTES))
                return log.read(LOG_TAIL_BYTES).decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def remove(self) -> None:
        """With everything in it; never follows a link. Idempotent."""
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            return
        except PermissionError:
            # A command may have locked its own folders; overlayfs makes one without any rights.
            _unlock(self.path)
            shutil.rmtree(self.path)


def leftovers(parent: Path, live: Collection[Path], prefix: str = "") -> list[SandboxFolder]:
    """The folders in `parent` whose names begin so, but for those of live sandboxes."""
    if not parent.is_dir():
        return []
    return [
        SandboxFolder(parent, entry.name)
        for entry in parent.iterdir()
        if entry.name.startswith(prefix) and entry not in live and not entry.is_symlink()
    ]


def disk_used_bytes(roots: Iterable[Path]) -> int:
    """What these files and those below these folders take on disk; what vanishes meanwhile counts
    nothing, and a file with several names one share for each that is found."""
    return sum(_used(root) for root in roots)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names one process for
    good. None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])


def kill_process(pid: int, ticks: int | None) -> None:
    """SIGKILL one process and wait until it is gone, unless the pid is another's by now.

    Raises TimeoutError if it does not die.
    """
    if ticks is None:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Compared after the pidfd is open: from here on it cannot be another process.
        if start_ticks(pid) == ticks:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_until(lambda: _is_dead(pid, ticks), f"process {pid} does not die of SIGKILL")
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def wait_until(condition: Callable[[], bool], failure: str) -> None:
    """Poll for `GONE_WAIT_S` seconds; raises TimeoutError(failure) then."""
    deadline = time.monotonic() + GONE_WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(failure)
        time.sleep(_POLL_S)


def _is_dead(pid: int, ticks: int) -> bool:
    """Gone, or a zombie that only waits for its parent to take notice."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] == b"Z" or int(fields[19]) != ticks


def _used(folder: Path) -> int:
    total = 0
    pending = [folder]
    while pending:
        place = pending.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    total += _entry_used(entry, pending)
        except NotADirectoryError:
            total += _file_used(place)
        except (FileNotFoundError, PermissionError):
            continue
    return total


def _entry_used(entry: os.DirEntry[str], pending: list[Path]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        pending.append(Path(entry.path))
        return status.st_blocks * _BLOCK_BYTES
    return _share_of(status)


def _file_used(path: Path) -> int:
    """Of a root that is a file, or of a folder that a command just replaced by one."""
    try:
        return _share_of(path.lstat())
    except FileNotFoundError:
        return 0


def _share_of(status: os.stat_result) -> int:
    return status.st_blocks * _BLOCK_BYTES // max(1, status.st_nlink)


def _unlock(path: Path) -> None:
    """Give the owner back his rights over every folder. Nothing runs in there any more."""
    path.chmod(stat.S_IRWXU)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _unlock(Path(entry.path))
