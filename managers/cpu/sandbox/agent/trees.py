"""Whole trees, read and written in pieces, done as whoever the process is at that moment.

A piece is an entry below the tree's folder, with the first bytes of its file, or, of kind "more",
further bytes of the file before. No symlink below the folder is followed, whether one reads or writes.
"""

import _stat
import errno
import posix

from .fields import Fields
from .files import Write, describe, open_parent, open_regular, temporary_name
from .wire import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    Piece = dict[str, object]

MAX_DEPTH = 128
"""Folders within folders; deeper trees are made to be endless."""
PIECE_COST = 128
"""Bytes that a piece takes in a message besides names and data, and some more."""


class ReadTree:
    """The entries below a folder, each folder before what it holds, sorted by name."""

    def __init__(self, path: bytes) -> None:
        """A symlink to a folder is followed here."""
        if not _stat.S_ISDIR(posix.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, posix.strerror(errno.ENOTDIR))
        self._pieces = _below(path, b"", _names(path), 1)

    def chunk(self) -> "dict[str, object]":
        """The next pieces: as many as fit a message."""
        pieces: "list[Piece]" = []
        left = CHUNK
        for piece in self._pieces:
            pieces.append(piece)
            sized = (piece["name"], piece["target"], piece["data"])
            left -= PIECE_COST + sum(len(data) for data in sized)  # type: ignore[arg-type,misc]
            if left <= 0:
                return {"pieces": pieces, "last": False}
        return {"pieces": pieces, "last": True}

    def close(self) -> None:
        self._pieces.close()


def _below(
    folder: bytes, relative: bytes, names: "list[bytes]", depth: int
) -> "Generator[Piece, None, None]":
    for name in names:
        path, below = folder + b"/" + name, relative + name
        try:
            piece = dict(describe(name, path, posix.lstat(path)), name=below, data=b"", last=True)
            if piece["kind"] == "directory":
                if depth == MAX_DEPTH:
                    message = "%d folders deep, and more" % MAX_DEPTH
                    raise OSError(errno.ELOOP, message)
                inner = _names(path)
                yield piece
                yield from _below(path, below + b"/", inner, depth + 1)
            elif piece["kind"] == "file":
                yield from _of_file(path, piece)
            else:
                yield piece
        except FileNotFoundError:  # Removed since the folder was read.
            continue
        except PermissionError:
            yield dict(piece, kind="other", size=0)


def _names(folder: bytes) -> "list[bytes]":
    with posix.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _of_file(path: bytes, piece: "Piece") -> "Generator[Piece, None, None]":
    """As many bytes as its size says, which is told first: one that grows meanwhile is cut, one that
    shrinks is filled up with zeros."""
    fd = open_regular(path, flags=posix.O_NOFOLLOW)
    try:
        left = posix.fstat(fd).st_size
        piece = dict(piece, size=left)
        while True:
            data = posix.read(fd, min(CHUNK, left)) or bytes(min(CHUNK, left))
            left -= len(data)
            yield dict(piece, data=data, last=not left)
            if not left:
                return
            piece = dict(piece, kind="more")
    finally:
        posix.close(fd)


class WriteTree:
    """Entries written below a folder, which is made if it is missing. What is there stays, unless an
    entry has its name. Each file appears when it is whole; folders get their modes at the end."""

    def __init__(self, path: bytes) -> None:
        self._root, _ = open_parent(path.rstrip(b"/") + b"/" + temporary_name())
        self._at: "tuple[list[bytes], int]" = ([], posix.dup(self._root))
        """The folder that was written to last."""
        self._file: "Write | None" = None
        self._folders: "list[tuple[list[bytes], int, float]]" = []
        self._files = self._size = 0

    def add(self, pieces: "list[Fields]", last: bool) -> "dict[str, object]":
        for piece in pieces:
            self._place(piece)
        if last:
            self._finish()
        return {"files": self._files, "size": self._size}

    def close(self) -> None:
        """A file that is not whole vanishes."""
        if self._file is not None:
            self._file.close()
            self._file = None
        posix.close(self._at[1])
        posix.close(self._root)

    def _place(self, piece: Fields) -> None:
        kind = piece.text("kind")
        if kind == "more":
            self._add(piece)
            return
        parts = _parts(piece.data("name"))
        mode, modified = piece.integer("mode") & 0o7777, piece.seconds("modified") or 0.0
        if kind == "directory":
            self._enter(parts)
            self._folders.append((parts, mode, modified))
        elif not parts:
            raise OSError(errno.EINVAL, "an entry has no name")
        elif kind == "file":
            folder = posix.dup(self._enter(parts[:-1]))
            self._file = Write(folder, parts[-1], mode, modified)
            self._files += 1
            self._add(piece)
        elif kind == "symlink":
            folder, beside = self._enter(parts[:-1]), temporary_name()
            posix.symlink(piece.data("target"), beside, dir_fd=folder)
            try:
                posix.rename(beside, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                posix.unlink(beside, dir_fd=folder)
                raise
        else:
            raise OSError(errno.EINVAL, "not a file, a folder or a symlink")

    def _add(self, piece: Fields) -> None:
        if self._file is None:
            raise ValueError("bytes of no file")
        data, last = piece.data("data"), piece.flag("last")
        self._file.add(data, last)
        self._size += len(data)
        if last:
            self._file.close()
            self._file = None

    def _enter(self, parts: "list[bytes]") -> int:
        """The folder, made with its parents if missing; open until the next is entered."""
        if self._at[0] == parts:
            return self._at[1]
        folder = posix.dup(self._root)
        try:
            for part in parts:
                inner = _open_folder(part, folder)
                posix.close(folder)
                folder = inner
        except OSError:
            posix.close(folder)
            raise
        posix.close(self._at[1])
        self._at = parts, folder
        return folder

    def _finish(self) -> None:
        """The inner folders first: the outer ones may then be locked."""
        for parts, mode, modified in reversed(self._folders):
            folder = self._enter(parts)
            posix.fchmod(folder, mode)
            posix.utime(folder, (modified, modified))


def _open_folder(name: bytes, parent: int) -> int:
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        return posix.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        posix.mkdir(name, 0o777, dir_fd=parent)
        return posix.open(name, flags, dir_fd=parent)
    except NotADirectoryError:
        message = "a file or a symlink stands where a folder should"
        raise OSError(errno.ENOTDIR, message) from None


def _parts(name: bytes) -> "list[bytes]":
    """Raises OSError for what would leave the folder."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in name or name.startswith(b"/"):
        raise OSError(errno.EINVAL, "an entry's name leads out of the folder")
    return parts
