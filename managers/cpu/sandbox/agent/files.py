"""File calls, done as whoever the process is at that moment; `transfers` answers requests with them.

No call follows a symlink where it writes, opens what is no regular file, or waits for a reader.
"""

import _stat
import errno
import posix

from .wire import CHUNK, MAX_FRAME, MIB

MAX_ENTRIES = 10000
"""Entries of a folder in one answer: they fit a message with the longest names."""
TEMPORARY_PREFIX = b".tangram-"


class Write:
    """A file being written: into a temporary file beside it, renamed over it at the end."""

    def __init__(
        self, folder: int, name: bytes, mode: int, modified: "float | None" = None
    ) -> None:
        """`folder` is an open descriptor, which is closed with the file."""
        self._mode = mode
        self._modified = modified
        self._folder, self._name = folder, name
        self._temporary = temporary_name()
        self._size = 0
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        try:
            self._fd = posix.open(self._temporary, flags, 0o600, dir_fd=self._folder)
        except OSError:
            posix.close(self._folder)
            raise

    def add(self, data: bytes, last: bool) -> "dict[str, object]":
        view = memoryview(data)
        while view:
            written = posix.write(self._fd, view)
            self._size += written
            view = view[written:]
        if last:
            posix.fchmod(self._fd, self._mode)
            if self._modified is not None:
                posix.utime(self._fd, (self._modified, self._modified))
            folder = self._folder
            posix.rename(self._temporary, self._name, src_dir_fd=folder, dst_dir_fd=folder)
            self._temporary = b""
        return {"size": self._size}

    def close(self) -> None:
        """Removes the temporary file unless it was renamed."""
        posix.close(self._fd)
        try:
            if self._temporary:
                posix.unlink(self._temporary, dir_fd=self._folder)
        except FileNotFoundError:
            return
        finally:
            posix.close(self._folder)


class Read:
    """A regular file being read, one chunk per request of the server. `limit` 0 is all."""

    def __init__(self, path: bytes, offset: int, limit: int) -> None:
        self._fd = open_regular(path, offset)
        self._left = limit or 1 << 62

    def chunk(self) -> "dict[str, object]":
        data = posix.read(self._fd, min(CHUNK, self._left))
        self._left -= len(data)
        size = posix.fstat(self._fd).st_size
        # Files of /proc have size 0 whatever they hold: only an empty read ends those.
        at_end = 0 < size <= posix.lseek(self._fd, 0, 1)
        return {"data": data, "size": size, "last": not data or self._left == 0 or at_end}

    def close(self) -> None:
        posix.close(self._fd)


def temporary_name() -> bytes:
    """Of something that is renamed at once when it is whole."""
    return TEMPORARY_PREFIX + posix.urandom(8).hex().encode()


def stat_file(path: bytes) -> "dict[str, object]":
    name = path.rstrip(b"/").rpartition(b"/")[2] or b"/"
    return describe(name, path, posix.lstat(path))


def list_folder(path: bytes) -> "dict[str, object]":
    entries: "list[dict[str, object]]" = []
    left = MAX_FRAME - MIB  # For names and targets; the rest is the numbers'.
    with posix.scandir(path) as folder:
        for entry in folder:
            if len(entries) == MAX_ENTRIES or left < 0:
                message = f"more than {MAX_ENTRIES} entries, or very long names: run find instead"
                raise OSError(errno.EOVERFLOW, message)
            try:
                status = entry.stat(follow_symlinks=False)
                described = describe(entry.name, entry.path, status)
            except FileNotFoundError:  # Removed since the folder was read.
                continue
            entries.append(described)
            left -= len(entry.name) + len(described["target"])  # type: ignore[arg-type]
    entries.sort(key=lambda entry: entry["name"])  # type: ignore[arg-type,return-value]
    return {"entries": entries}


def describe(name: bytes, path: bytes, status: "posix.stat_result") -> "dict[str, object]":
    kind, target = "other", b""
    if _stat.S_ISREG(status.st_mode):
        kind = "file"
    elif _stat.S_ISDIR(status.st_mode):
        kind = "directory"
    elif _stat.S_ISLNK(status.st_mode):
        kind, target = "symlink", posix.readlink(path)
    return {
        "name": name,
        "kind": kind,
        "size": status.st_size,
        "mode": _stat.S_IMODE(status.st_mode),
        "modified": status.st_mtime,
        "target": target,
    }


def open_regular(path: bytes, offset: int = 0, flags: int = 0) -> int:
    """A regular file opened for reading: a FIFO or a device would not end, or never open."""
    flags |= posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY
    fd = posix.open(path, flags)
    try:
        mode = posix.fstat(fd).st_mode
        if _stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, posix.strerror(errno.EISDIR))
        if not _stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        posix.lseek(fd, offset, 0)
    except OSError:
        posix.close(fd)
        raise
    return fd


def open_parent(path: bytes) -> "tuple[int, bytes]":
    """The file's folder, made with its parents if missing, and the file's name in it. A symlink
    that stands there is replaced itself, as a rename does; its target stays what it was."""
    folder, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        raise IsADirectoryError(errno.EISDIR, "the path names a folder")
    made = b""
    for part in folder.split(b"/"):
        made += part + b"/"
        try:
            posix.mkdir(made, 0o777)
        except FileExistsError:
            continue
        except OSError:  # A read-only or foreign parent may well be there: opening it decides.
            if not _stat.S_ISDIR(posix.stat(made).st_mode):
                raise
    if _is_folder(path):
        raise IsADirectoryError(errno.EISDIR, posix.strerror(errno.EISDIR))
    return posix.open(folder or b"/", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC), name


def _is_folder(path: bytes) -> bool:
    try:
        return _stat.S_ISDIR(posix.lstat(path).st_mode)
    except FileNotFoundError:
        return False
