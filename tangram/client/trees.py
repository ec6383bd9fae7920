"""Trees between this machine and a sandbox: tar streams made here, and unpacked here.

The sandbox is not trusted: a name from it never leads out of the target folder, no link is followed
on this machine, and one is made here only where it stays inside.
"""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import FileError
from ..managers.tar_stream import MORE, PIECE_BYTES, TAR_END, Piece, to_tar


class TreeSource:
    """A folder of this machine as a tar stream. Links are taken as links; what is neither file, folder
    nor link is left out."""

    def __init__(self, folder: Path) -> None:
        self.skipped: list[str] = []
        self._folder = folder
        self._found = list(_walk(folder, ""))
        self.total = sum(status.st_size for _, status in self._found if _is_file(status))
        """Bytes of all files, as they were found."""
        self.files = sum(_is_file(status) for _, status in self._found)

    def blocks(self) -> Iterator[bytes]:
        """The stream, in blocks of about PIECE_BYTES. Raises OSError."""
        block = bytearray()
        for relative, status in self._found:
            for piece in self._pieces(relative, status):
                block += to_tar(piece)
                if len(block) >= PIECE_BYTES:
                    yield bytes(block)
                    block.clear()
        yield bytes(block) + TAR_END

    def _pieces(self, relative: str, status: os.stat_result) -> Iterator[Piece]:
        path, mode = self._folder / relative, stat.S_IMODE(status.st_mode) & 0o777
        modified = status.st_mtime
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)
            yield Piece(relative, "symlink", 0, mode, modified, target)
        elif stat.S_ISDIR(status.st_mode):
            yield Piece(relative, "directory", 0, mode, modified)
        elif _is_file(status):
            yield from _of_file(path, Piece(relative, "file", 0, mode, modified))
        else:
            self.skipped.append(relative)


class TreeTarget:
    """A folder of this machine into which pieces of a tree are written. Blocks: for a thread."""

    def __init__(self, folder: Path) -> None:
        self.files = self.size = 0
        self.skipped: list[str] = []
        """What cannot be copied, and links that lead out of the tree."""
        self._folder = folder
        self._links: list[Piece] = []
        self._folders: list[tuple[Path, Piece]] = []
        self._file: _FileTarget | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, pieces: list[Piece]) -> None:
        """Raises FileError, OSError."""
        for piece in pieces:
            self._place(piece)

    def finish(self) -> None:
        """Links and the modes of folders come last: then nothing is written through them."""
        for link in self._links:
            self._make_link(link)
        for path, piece in reversed(self._folders):
            os.chmod(path, piece.mode & 0o777)
            os.utime(path, (piece.modified_unix_s, piece.modified_unix_s))

    def close(self) -> None:
        """A file that is not whole vanishes."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _place(self, piece: Piece) -> None:
        if piece.kind == MORE:
            self._add(piece)
            return
        parts = safe_parts(piece.name)
        if piece.kind == "directory":
            self._folders.append((self._enter(parts), piece))
        elif piece.kind == "file":
            self._file = _FileTarget(self._enter(parts[:-1]) / parts[-1], piece)
            self.files += 1
            self._add(piece)
        elif piece.kind == "symlink":
            self._links.append(piece)
        else:
            self.skipped.append(piece.name)

    def _add(self, piece: Piece) -> None:
        assert self._file is not None
        self._file.file.write(piece.data)
        self.size += len(piece.data)
        if piece.last:
            file, self._file = self._file, None
            file.keep()

    def _enter(self, parts: tuple[str, ...]) -> Path:
        folder = self._folder
        for part in parts:
            folder /= part
            make_folder(folder)
        return folder

    def _make_link(self, piece: Piece) -> None:
        parts = safe_parts(piece.name)
        place = self._enter(parts[:-1]) / parts[-1]
        is_folder = place.is_dir() and not place.is_symlink()
        if is_folder or not _stays_inside(len(parts) - 1, piece.target):
            self.skipped.append(piece.name)
            return
        beside = tempfile.mktemp(dir=place.parent, prefix=".link.")
        try:
            os.symlink(piece.target, beside)
            os.replace(beside, place)
        except (OSError, NotImplementedError):  # Not every system lets everybody make links.
            with suppress(FileNotFoundError):
                os.unlink(beside)
            self.skipped.append(piece.name)


class _FileTarget:
    """Written beside its place, then moved there: what stands there, a link too, is replaced."""

    def __init__(self, place: Path, piece: Piece) -> None:
        self._place = place
        self._piece = piece
        descriptor, self._beside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:64]}.")
        self.file: BinaryIO = os.fdopen(descriptor, "wb")

    def keep(self) -> None:
        self.file.close()
        modified = self._piece.modified_unix_s
        try:
            os.chmod(self._beside, self._piece.mode & 0o777)
            os.utime(self._beside, (modified, modified))
            os.replace(self._beside, self._place)
        except BaseException:
            os.unlink(self._beside)
            raise

    def discard(self) -> None:
        self.file.close()
        os.unlink(self._beside)


def _stays_inside(depth: int, target: str) -> bool:
    """Whether a link so many folders deep leads to a place in the tree. Steps up come first or not at
    all: after a name they would go up from wherever that one, a link as well, leads to."""
    parts = PurePosixPath(target).parts
    steps_up = sum(1 for _ in itertools.takewhile(lambda part: part == "..", parts))
    return steps_up <= depth and not {"/", ".."} & set(parts[steps_up:])


def make_folder(path: Path) -> None:
    """A real folder at `path`. Raises FileError if a link or a file stands there."""
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise FileError(f"{path} is a link to a folder: downloads do not follow links")


def safe_parts(name: str) -> tuple[str, ...]:
    """Of a path in a sandbox's tree. Raises FileError for what could leave the target."""
    parts = PurePosixPath(name).parts
    if not parts or any(
        part in ("..", "/") or "\0" in part or (os.sep != "/" and os.sep in part) for part in parts
    ):
        raise FileError(f"the sandbox has a file named {name!r}, which could leave the target")
    return parts


def _walk(folder: Path, relative: str) -> Iterator[tuple[str, os.stat_result]]:
    """All below it, each folder before what it holds."""
    for name in sorted(os.listdir(folder)):
        path, below = folder / name, f"{relative}{name}"
        status = path.lstat()
        yield below, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, f"{below}/")


def _is_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _of_file(path: Path, piece: Piece) -> Iterator[Piece]:
    """As many bytes as its size says, which is told first; opened as what it is and not as a link."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        size = left = os.fstat(descriptor).st_size
        kind = piece.kind
        while True:
            wanted = min(PIECE_BYTES, left)
            data = file.read(wanted) or bytes(wanted)
            left -= len(data)
            yield Piece(
                *(piece.name, kind, size, piece.mode, piece.modified_unix_s),
                data=data,
                last=not left,
            )
            if not left:
                return
            kind = MORE
