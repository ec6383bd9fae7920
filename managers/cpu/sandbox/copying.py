"""Copies of a sandbox's files: whole trees, exact, and without copying unchanged data twice.

A copy keeps owners, modes, times, hard links, holes, extended attributes, and what an overlay says
about the layers below it (whiteouts, opaque folders). What did not change since an earlier copy of
the same tree is taken over from that one as a hard link: copies are never written to. Whoever calls
sees to it that nothing writes to the tree meanwhile. Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

SETTLED_NS = 50_000_000
"""A file that changed less than this before a copy may change once more with the same time on it:
the kernel stamps files by its tick, of 10 ms at most."""
SKIPPED_MAX = 20
"""Names of what could not be kept; more are counted only."""
INDEX_FILES_MAX = 500_000
"""Of one copy that a later one can be compared with: 200 bytes of memory each."""
FILES_MAX = 1_000_000
"""Of one copy: a minute's work, for which the sandbox stands still; trees of usual repositories with
their environment are a tenth of that."""
_BLOCK_BYTES = 512
_PIECE_BYTES = 8 << 20
_FICLONE = 0x40049409
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_NOT_HERE = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL)
OVERLAY = ("trusted.overlay.", "user.overlay.")
"""Begin the names of attributes in which overlays keep their own."""
_OVERLAY_KEPT = ("opaque", "redirect", "metacopy", "whiteout")
"""What an upper folder says of the layers below it; the rest is about the one mount it was in."""


class TooMuch(Exception):
    """The tree takes more than the limit. Nothing of the copy is to be used."""


class TooMany(Exception):
    """The tree has more than `FILES_MAX` files and folders."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the same: no process can set the time of its last change."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


@dataclass(slots=True)
class Copy:
    """One copy, as a later one sees it: where it lies, when it began, what was where."""

    folder: Path
    began_ns: int
    size_bytes: int = 0
    """On disk, of what was copied."""
    taken_bytes: int = 0
    """On disk, of what was taken over from the earlier copy."""
    files: int = 0
    """And folders."""
    skipped: list[str] = field(default_factory=list)
    """Sentences on what could not be kept, `SKIPPED_MAX` at most."""
    skipped_count: int = 0
    stamps: dict[str, Stamp] = field(default_factory=dict)

    def skip(self, name: str, why: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < SKIPPED_MAX:
            self.skipped.append(f"{name}: {why}")


class TreeCopier:
    """Copies trees into one folder, `parts` of one sandbox."""

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        earlier: Copy | None = None,
        comparable: bool = True,
    ) -> None:
        """`earlier` is a copy of the same parts; without `comparable` no later one may rely on this
        one, as where a process could change a file without a trace."""
        self.copy = Copy(folder, time.time_ns())
        self._limit_bytes = limit_bytes
        self._earlier = earlier
        self._comparable = comparable
        self._names: dict[tuple[int, int], Path] = {}
        """Of files with several names, the first that was copied."""
        self._clones = True

    def add(self, part: str, source: Path) -> None:
        """Copy this tree as `folder/part`. Raises TooMuch, TooMany, OSError (a full disk, too long a
        path).

        Iterative: how deep folders are nested is the sandbox's choice.
        """
        pending: list[str] = [part]
        made: list[tuple[Path, os.stat_result]] = []
        while pending:
            relative = pending.pop()
            place = source / relative[len(part) + 1 :]
            target = self.copy.folder / relative
            status = os.lstat(place)
            target.mkdir(mode=0o700)
            self._count(status.st_blocks * _BLOCK_BYTES)
            made.append((target, status))
            self._attributes(place, target, status)
            for entry in self._entries(place, relative):
                name = f"{relative}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                else:
                    self._entry(Path(entry.path), name)
        for target, status in reversed(made):
            # Last, since what is put into a folder changes its time, and its mode may forbid it.
            target.chmod(stat.S_IMODE(status.st_mode))
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _entries(self, place: Path, name: str) -> list[os.DirEntry[str]]:
        """Those of a folder. Raises TooMany."""
        try:
            with os.scandir(place) as entries:
                found = list(islice(entries, FILES_MAX - self.copy.files + 1))
            self.copy.files += len(found)
            if self.copy.files > FILES_MAX:
                raise TooMany
            return found
        except PermissionError as problem:
            # A folder that its owner has locked, where we are not root.
            self.copy.skip(name, problem.strerror or "not permitted")
            return []

    def _entry(self, place: Path, name: str) -> None:
        status = os.lstat(place)
        target = self.copy.folder / name
        if status.st_nlink > 1:
            first = self._names.setdefault((status.st_dev, status.st_ino), target)
            if first is not target:
                os.link(first, target, follow_symlinks=False)
                return
        stamp = Stamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._take_over(name, stamp, target, status.st_blocks * _BLOCK_BYTES):
            return
        try:
            if stat.S_ISREG(status.st_mode):
                self._file(place, target, status)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(place), target)
            else:
                os.mknod(target, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)
        except PermissionError as problem:
            # Files that nobody but their owner may read, where we are not root; device files.
            self.copy.skip(name, problem.strerror or "not permitted")
            target.unlink(missing_ok=True)
            self._names.pop((status.st_dev, status.st_ino), None)
            return
        self._attributes(place, target, status)
        if not stat.S_ISLNK(status.st_mode):
            target.chmod(stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        self._count(os.lstat(target).st_blocks * _BLOCK_BYTES)

    def _take_over(self, name: str, stamp: Stamp, target: Path, used_bytes: int) -> bool:
        """Whether the earlier copy had the very same, and it is ours now."""
        earlier = self._earlier
        if self._comparable and len(self.copy.stamps) < INDEX_FILES_MAX:
            self.copy.stamps[name] = stamp
        if earlier is None or earlier.stamps.get(name) != stamp:
            return False
        if stamp.changed_ns >= earlier.began_ns - SETTLED_NS:
            return False
        try:
            os.link(earlier.folder / name, target, follow_symlinks=False)
        except OSError as problem:
            if problem.errno not in (errno.EMLINK, errno.ENOENT, errno.EPERM):
                raise
            return False  # One file has so many names at most; what was skipped is not there.
        self.copy.taken_bytes += used_bytes
        return True

    def _file(self, place: Path, target: Path, status: os.stat_result) -> None:
        source = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            sink = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if not self._clone(source, sink):
                    for start, end in _extents(source, status):
                        _copy_range(source, sink, start, end)
                    if os.fstat(sink).st_size != status.st_size:
                        os.ftruncate(sink, status.st_size)
            finally:
                os.close(sink)
        finally:
            os.close(source)

    def _clone(self, source: int, sink: int) -> bool:
        """Share its blocks, where the file system can (btrfs, XFS)."""
        if not self._clones:
            return False
        try:
            fcntl.ioctl(sink, _FICLONE, source)
        except OSError as problem:
            if problem.errno not in _NO_CLONE:
                raise
            self._clones = False
        return self._clones

    def _attributes(self, place: Path, target: Path, status: os.stat_result) -> None:
        """Owner, then extended attributes: changing the owner takes capabilities away."""
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            try:
                os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
            except PermissionError:
                self.copy.skip(str(target.relative_to(self.copy.folder)), "its owner is not kept")
        for name in os.listxattr(place, follow_symlinks=False):
            if not _is_kept(name):
                continue
            try:
                value = os.getxattr(place, name, follow_symlinks=False)
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as problem:
                if problem.errno not in _NOT_HERE:
                    raise
                where = target.relative_to(self.copy.folder)
                self.copy.skip(str(where), f"its attribute {name} is not kept")

    def _count(self, used_bytes: int) -> None:
        self.copy.size_bytes += used_bytes
        if self.copy.size_bytes > self._limit_bytes:
            raise TooMuch


def fill(target: Path, source: Path, limit_bytes: int | None) -> None:
    """Put a copy of `source` in the place of the empty folder `target`: for a sandbox that cannot
    stand on layers. Raises OSError; ENOSPC if it is more than the limit."""
    limit = limit_bytes if limit_bytes is not None else sys.maxsize
    copier = TreeCopier(target.parent, limit_bytes=limit, comparable=False)
    target.rmdir()
    try:
        copier.add(target.name, source)
    except TooMuch:
        raise OSError(errno.ENOSPC, "the kept files are more than its disk") from None


def _is_kept(attribute: str) -> bool:
    if not attribute.startswith(OVERLAY):
        return True
    return attribute.rpartition(".")[2] in _OVERLAY_KEPT


def _extents(fd: int, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (start, end): one extent unless it has holes."""
    size = status.st_size
    if status.st_blocks * _BLOCK_BYTES >= size:
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno != errno.ENXIO:
                raise
            return  # Nothing but a hole up to the end.
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _copy_range(source: int, sink: int, start: int, end: int) -> None:
    while start < end:
        count = min(end - start, _PIECE_BYTES)
        try:
            copied = os.copy_file_range(source, sink, count, start, start)
        except OSError as problem:
            if problem.errno not in _NO_CLONE:
                raise
            copied = os.pwrite(sink, os.pread(source, count, start), start)
        if copied == 0:
            return  # It is shorter than it says.
        start += copied
