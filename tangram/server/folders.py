"""The two folders of a server: its state, locked while it runs, and one for sockets.

State holds the sandboxes' files and may be large; sockets need a short path that a reboot empties.
Everything here blocks: it is called before anything is served, and after.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import platformdirs

from ..errors import FailedPrecondition

LOCK_NAME = "lock"

RUN = Path("/run")

PROBE_BYTES = 64 << 20
"""Reserved and given back at the start: room for the sandboxes' interpreter and a little more, so
that a full disk is told then, not by the first sandbox."""

RUNTIME_PATH_BYTES_MAX = 60
"""The paths of unix sockets end at 107 bytes; a sandbox's id and names come behind this."""


class StateFolder:
    """A server's state folder, held by a lock that ends with the process at the latest."""

    def __init__(self, path: Path, descriptor: int, *, temporary: bool) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._temporary = temporary

    @classmethod
    def hold(cls, wanted: Path | None, port: int, *, temporary: bool) -> StateFolder:
        """Make and lock it: the wanted one, else `tangram/PORT` in the user's state directory, or a
        new temporary one. Raises FailedPrecondition if it is in use or cannot be written."""
        temporary = temporary and wanted is None
        path = wanted or Path(platformdirs.user_state_path("tangram")) / str(port)
        descriptor = -1
        try:
            if temporary:
                path = Path(tempfile.mkdtemp(prefix="tangram-state-"))
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            path = path.resolve()
            descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _probe(path)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise FailedPrecondition(
                f"state {path} is in use by another tangram serve (pid {holder or 'unknown'}): "
                "stop it, or use --state or --listen",
                field="state",
            ) from error
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise FailedPrecondition(
                f"state {path} cannot be written: {error.strerror}; make room for "
                f"{PROBE_BYTES >> 20} MiB or name another folder with --state",
                field="state",
            ) from error
        return cls(path, descriptor, temporary=temporary)

    def release(self) -> None:
        """Unlock it; a temporary one is removed. Idempotent."""
        if self._descriptor is None:
            return
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)
        self._descriptor = None


def _probe(path: Path) -> None:
    with tempfile.TemporaryFile(dir=path, buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, PROBE_BYTES)


def runtime_folder(port: int) -> Path:
    """A short folder for sockets, ours alone: in /run, the user's runtime directory, or /tmp.

    Raises FailedPrecondition if none of them can be had.
    """
    name = f"tangram-{port}"
    candidates = [RUN / name]
    if user_folder := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(user_folder) / name)
    candidates.append(Path("/tmp") / f"tangram-{os.getuid()}-{port}")
    for folder in candidates:
        if len(os.fsencode(folder)) <= RUNTIME_PATH_BYTES_MAX and _own(folder):
            return folder
    raise FailedPrecondition(
        f"no folder for sockets: none of {', '.join(map(str, candidates))} can be used; "
        "set XDG_RUNTIME_DIR to a folder of yours",
        field="runtime",
    )


def _own(folder: Path) -> bool:
    """Make it, private. Somebody else's, or a link that somebody left there, is not taken."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    mine = found.st_uid == os.getuid() and not found.st_mode & 0o022
    return stat.S_ISDIR(found.st_mode) and mine and os.access(folder, os.W_OK)
