"""Files of a trajectory's sandbox: single ones, and trees copied file by file.

The sandbox is not trusted: a name from it never leads out of the target folder, and no link is
ever followed on this machine. File calls take no cores and are not actions.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import FileError, InvalidRequest, TangramError
from ..limits import FILE_CHUNK_BYTES
from ..v1 import trajectories_pb2 as pb
from .connection import Connection
from .methods import LIST_FILES, READ_FILE, STAT, WRITE_FILE
from .results import Copied, FileStat, file_stat

DEPTH_MAX = 128
"""Folders within folders of one copy; deeper trees are made to be endless."""


class Files:
    """The file calls of one trajectory."""

    def __init__(self, connection: Connection, trajectory: str) -> None:
        self._connection = connection
        self._trajectory = trajectory

    async def read(self, path: str) -> bytes:
        """The whole file. Raises FileError."""
        buffer = io.BytesIO()
        await self._receive(path, buffer)
        return buffer.getvalue()

    async def write(self, path: str, data: bytes, mode: int) -> None:
        """Write a whole file at once, making missing folders. Raises FileError."""
        await self._send(path, mode, lambda: _slices(data))

    async def list(self, path: str) -> list[FileStat]:
        """The entries of a folder, sorted by name."""
        request = pb.ListFilesRequest(trajectory=self._trajectory, path=path)
        answer = await self._connection.unary(LIST_FILES, request)
        return [file_stat(file) for file in answer.files]

    async def stat(self, path: str) -> FileStat:
        request = pb.StatRequest(trajectory=self._trajectory, path=path)
        return file_stat((await self._connection.unary(STAT, request)).file)

    async def upload(self, source: Path, target: str) -> Copied:
        """A file to `target`, or the contents of a folder into the folder `target`."""
        mode = await asyncio.to_thread(_mode_of, source)
        if stat.S_ISREG(mode):
            place = target + source.name if target.endswith("/") else target
            return Copied(1, await self._upload_file(source, place), ())
        if not stat.S_ISDIR(mode):
            raise InvalidRequest(
                f"src must be a file or a folder, and {source} is neither (links are not followed)",
                field="src",
            )
        files = size = 0
        skipped = []
        for path, relative, is_file in await asyncio.to_thread(lambda: list(_walk(source))):
            if is_file:
                size += await self._upload_file(path, str(PurePosixPath(target, relative)))
                files += 1
            else:
                skipped.append(str(relative))
        return Copied(files, size, tuple(skipped))

    async def download(self, source: str, target: Path) -> Copied:
        """A file to `target`, or the contents of a folder into the folder `target`."""
        found = await self.stat(source)
        if found.kind == "file":
            if await asyncio.to_thread(target.is_dir):
                target = target / _safe_name(PurePosixPath(source).name)
            return Copied(1, await self._download_file(source, target, found.mode), ())
        if found.kind != "directory":
            raise FileError(
                f"{source} is neither a file nor a folder but a {found.kind}: links are not followed"
            )
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        return await self._download_folder(source, target, depth=0)

    async def _download_folder(self, source: str, target: Path, depth: int) -> Copied:
        if depth > DEPTH_MAX:
            raise FileError(f"{source} is more than {DEPTH_MAX} folders deep")
        files = size = 0
        skipped: list[str] = []
        for entry in await self.list(source):
            path = str(PurePosixPath(source, entry.name))
            place = target / _safe_name(entry.name)
            if entry.kind == "file":
                size += await self._download_file(path, place, entry.mode)
                files += 1
            elif entry.kind == "directory":
                _make_folder(place)
                inner = await self._download_folder(path, place, depth + 1)
                files, size = files + inner.files, size + inner.size
                skipped.extend(inner.skipped)
            else:
                skipped.append(path)
        return Copied(files, size, tuple(skipped))

    async def _upload_file(self, source: Path, path: str) -> int:
        mode = await asyncio.to_thread(_mode_of, source)
        return await self._send(path, mode & 0o777, lambda: _file_slices(source))

    async def _download_file(self, path: str, target: Path, mode: int) -> int:
        """Beside its place first, then moved there: what stands there, a link too, is replaced."""
        descriptor, beside = await asyncio.to_thread(
            tempfile.mkstemp, dir=target.parent, prefix=f".{target.name[:64]}."
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                await self._receive(path, file)
                size = file.tell()
            os.chmod(beside, mode & 0o777)
            os.replace(beside, target)
        except BaseException:
            os.unlink(beside)
            raise
        return size

    async def _receive(self, path: str, sink: BinaryIO) -> None:
        """The file's bytes into `sink`. A lost connection begins anew: the file may be another."""
        request = pb.ReadFileRequest(trajectory=self._trajectory, path=path)
        retries = self._connection.retries()
        while True:
            try:
                async with aclosing(self._connection.server_stream(READ_FILE, request)) as answers:
                    async for answer in answers:
                        retries.progress()
                        sink.write(answer.data)
                    return
            except TangramError as error:
                await retries.pause(error)
            sink.seek(0)
            sink.truncate()

    async def _send(self, path: str, mode: int, slices: Callable[[], AsyncIterator[bytes]]) -> int:
        async def requests() -> AsyncIterator[pb.WriteFileRequest]:
            # The first message names the file, and is alone where the file is empty.
            yield pb.WriteFileRequest(trajectory=self._trajectory, path=path, mode=mode)
            async for data in slices():
                yield pb.WriteFileRequest(data=data)

        return (await self._connection.client_stream(WRITE_FILE, requests)).size


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), FILE_CHUNK_BYTES):
        yield data[start : start + FILE_CHUNK_BYTES]


async def _file_slices(path: Path) -> AsyncIterator[bytes]:
    """The bytes of a file of this machine, which is opened as what it is and not as a link."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        while data := await asyncio.to_thread(file.read, FILE_CHUNK_BYTES):
            yield data


def _mode_of(path: Path) -> int:
    return path.lstat().st_mode


def _walk(folder: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Everything below `folder` but folders: path, path from `folder`, and if it is a file."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted(names) + links:
            path = Path(place, name)
            yield path, path.relative_to(folder), stat.S_ISREG(_mode_of(path))


def _make_folder(path: Path) -> None:
    """A real folder at `path`. Raises FileError if a link or a file stands there."""
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise FileError(f"{path} is a link to a folder: downloads do not follow links")


def _safe_name(name: str) -> str:
    """A name that stays in its folder. Raises FileError for `..`, a slash and the like."""
    if name in ("", ".", "..") or "\0" in name or "/" in name or os.sep in name:
        raise FileError(f"the sandbox has a file named {name!r}, which could leave the target")
    return name
