"""Small calls of the kernel that several modules need, and the agent's own messages."""

import _signal  # type: ignore[import-not-found]
import _stat
import posix

try:
    import _ctypes
except ImportError:  # A build without libffi: no prctl, see `prctl`.
    _ctypes = None  # type: ignore[assignment]

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36

PIPE_READ = 64 * 1024
"""Bytes taken from a pipe or socket at once: a whole pipe buffer."""


def prctl(option: int, value: int) -> bool:
    """Whether the kernel took it. False as well where Python has no libffi."""
    if _ctypes is None:
        return False
    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
    result: "int" = _ctypes.call_function(_ctypes.dlsym(library, "prctl"), (option, value, 0, 0, 0))
    return result == 0


def kill(pid: int) -> None:
    """SIGKILL. Silent where there is no such process, or it is not ours to signal."""
    try:
        posix.kill(pid, _signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def read_whole(path: bytes, limit: int) -> bytes:
    """At most `limit` bytes of a regular file; never waits for a FIFO that stands there."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    try:
        if not _stat.S_ISREG(posix.fstat(fd).st_mode):
            return b""
        parts = []
        while limit > 0:
            part = posix.read(fd, limit)
            if not part:
                break
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


def show(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def log(message: str) -> None:
    try:
        posix.write(2, f"tangram agent: {message}\n".encode("utf-8", "replace"))
    except OSError:  # Whoever read it is gone.
        return
