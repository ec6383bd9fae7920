"""The file system of a fake sandbox: folders, files and symlinks in memory.

Paths behave as in a real sandbox: relative ones start at the working folder, `..` stops at the
root, symlinks are followed within this tree alone. No path ever leads to the machine's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..base import FileInfo
from ..errors import FileProblem
from ..tar_stream import MORE, Piece

LINKS_MAX = 40
"""Symlinks followed for one path, as Linux does, before it is taken for a loop."""


@dataclass(slots=True)
class _File:
    data: bytes
    mode: int
    modified: float


@dataclass(slots=True)
class _Link:
    target: str
    modified: float


@dataclass(slots=True)
class _Folder:
    modified: float
    entries: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Link | _Folder


class FakeFiles:
    """One sandbox's files. All methods raise FileProblem with an errno name."""

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir
        self._changes = 0
        self._root = _Folder(0.0)
        for folder in (workdir, "/tmp"):
            self._make_folders(folder)

    def read(self, path: str) -> bytes:
        node = self._find(path)
        if isinstance(node, _Folder):
            raise FileProblem("EISDIR", path, "is a folder")
        assert isinstance(node, _File)
        return node.data

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Replace or make a file, with the folders that it needs. A symlink at `path` itself is
        replaced, not followed, as a rename does."""
        folder_path, _, name = path.rstrip("/").rpartition("/")
        if not name or name in (".", ".."):
            raise FileProblem("EISDIR", path, "is a folder")
        folder = self._make_folders(folder_path or ("/" if path.startswith("/") else "."))
        if isinstance(folder.entries.get(name), _Folder):
            raise FileProblem("EISDIR", path, "is a folder")
        folder.entries[name] = _File(data, mode, self._tick())

    def link(self, target: str, path: str) -> None:
        folder_path, _, name = path.rpartition("/")
        folder = self._make_folders(folder_path or ("/" if path.startswith("/") else "."))
        folder.entries[name] = _Link(target, self._tick())

    def list(self, path: str) -> list[FileInfo]:
        node = self._find(path)
        if not isinstance(node, _Folder):
            raise FileProblem("ENOTDIR", path, "is not a folder")
        return [_info(name, entry) for name, entry in sorted(node.entries.items())]

    def stat(self, path: str) -> FileInfo:
        name = path.rstrip("/").rpartition("/")[2] or "/"
        return _info(name, self._find(path, follow_last=False))

    def tree(self, path: str) -> Iterator[Piece]:
        """All below a folder, as the pieces of its tree."""
        node = self._find(path)
        if not isinstance(node, _Folder):
            raise FileProblem("ENOTDIR", path, "is not a folder")
        return _below(node, "")

    def make_tree(self, path: str) -> FakeTree:
        """To write a tree below a folder, which is made if missing."""
        return FakeTree(self._make_folders(path), self._tick)

    def used_bytes(self) -> int:
        return sum(len(node.data) for node in _files(self._root))

    def _find(self, path: str, *, follow_last: bool = True, make: bool = False) -> _Node:
        """The node at `path`. With `make`, folders that are missing are made on the way."""
        if "\0" in path:
            raise FileProblem("EINVAL", path, "holds a zero byte")
        rest = _names(path if path.startswith("/") else f"{self._workdir}/{path}")
        trail: list[_Folder] = [self._root]
        links = 0
        while rest:
            name = rest.pop()
            if name == "..":
                trail = trail[:-1] or trail
                continue
            node = self._entry(trail[-1], name, path, make)
            if isinstance(node, _Link) and (follow_last or rest):
                links += 1
                if links > LINKS_MAX:
                    raise FileProblem("ELOOP", path, "too many symlinks")
                trail = [self._root] if node.target.startswith("/") else trail
                rest += _names(node.target)
            elif isinstance(node, _Folder):
                trail.append(node)
            elif rest:
                raise FileProblem("ENOTDIR", path, f"{name} is not a folder")
            else:
                return node
        return trail[-1]

    def _entry(self, folder: _Folder, name: str, path: str, make: bool) -> _Node:
        node = folder.entries.get(name)
        if node is None:
            if not make:
                raise FileProblem("ENOENT", path, "no such file or folder")
            node = folder.entries[name] = _Folder(self._tick())
        return node

    def _make_folders(self, path: str) -> _Folder:
        node = self._find(path, make=True)
        if not isinstance(node, _Folder):
            raise FileProblem("ENOTDIR", path, "is not a folder")
        return node

    def _tick(self) -> float:
        """Times of change are counted, not read from a clock, so that runs are alike."""
        self._changes += 1
        return float(self._changes)


class FakeTree:
    """A tree being written, piece by piece."""

    def __init__(self, root: _Folder, tick: Callable[[], float]) -> None:
        self.files = self.size = 0
        self._root = root
        self._tick = tick
        self._data = b""

    def place(self, piece: Piece) -> None:
        """Raises FileProblem."""
        self._data = piece.data if piece.kind != MORE else self._data + piece.data
        self.size += len(piece.data)
        names = [name for name in piece.name.split("/") if name not in ("", ".")]
        if ".." in names or piece.name.startswith("/"):
            raise FileProblem("EINVAL", piece.name, "an entry's name leads out of the folder")
        if piece.kind == "other":
            raise FileProblem("EINVAL", piece.name, "not a file, a folder or a symlink")
        if piece.kind == "directory":
            self._folder(names, piece.name).modified = piece.modified_unix_s
            return
        folder = self._folder(names[:-1], piece.name)
        if isinstance(folder.entries.get(names[-1]), _Folder):
            raise FileProblem("EISDIR", piece.name, "is a folder")
        if piece.kind == "symlink":
            folder.entries[names[-1]] = _Link(piece.target, piece.modified_unix_s)
        elif piece.last:
            folder.entries[names[-1]] = _File(self._data, piece.mode, piece.modified_unix_s)
            self.files += 1

    def _folder(self, names: list[str], path: str) -> _Folder:
        folder = self._root
        for name in names:
            inner = folder.entries.setdefault(name, _Folder(self._tick()))
            if not isinstance(inner, _Folder):
                message = "a file or a symlink stands where a folder should"
                raise FileProblem("ENOTDIR", path, message)
            folder = inner
        return folder


def _below(folder: _Folder, relative: str) -> Iterator[Piece]:
    for name, node in sorted(folder.entries.items()):
        info = _info(relative + name, node)
        data = node.data if isinstance(node, _File) else b""
        yield Piece(
            *(info.name, info.kind, len(data), info.mode, info.modified_unix_s, info.target, data)
        )
        if isinstance(node, _Folder):
            yield from _below(node, f"{relative}{name}/")


def _names(path: str) -> list[str]:
    """The names on a path, the first one last: a stack to be walked."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _info(name: str, node: _Node) -> FileInfo:
    if isinstance(node, _File):
        return FileInfo(name, "file", len(node.data), node.mode, node.modified)
    if isinstance(node, _Link):
        return FileInfo(name, "symlink", len(node.target), 0o777, node.modified, node.target)
    return FileInfo(name, "directory", 0, 0o755, node.modified)


def _files(folder: _Folder) -> Iterator[_File]:
    for node in folder.entries.values():
        if isinstance(node, _Folder):
            yield from _files(node)
        elif isinstance(node, _File):
            yield node
