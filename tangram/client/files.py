"""Files of a trajectory's sandbox: single ones, and trees as streams of their entries.

What is read from and written to this machine is `trees`'. File calls take no cores and are not actions.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import FileError, InvalidRequest, TangramError
from ..limits import FILE_CHUNK_BYTES
from ..managers.errors import PermanentError
from ..managers.tar_stream import from_tar
from ..v1 import trajectories_pb2 as pb
from .connection import Connection, Retries
from .methods import LIST_FILES, READ_FILE, READ_TREE, STAT, WRITE_FILE, WRITE_TREE
from .results import Copied, FileStat, file_stat
from .trees import TreeSource, TreeTarget, safe_parts

OnProgress = Callable[[int, int | None], object]
"""Called with the bytes copied so far and those of all, None where that is not known."""


class Files:
    """The file calls of one trajectory."""

    def __init__(self, connection: Connection, trajectory: str) -> None:
        self._connection = connection
        self._trajectory = trajectory

    async def read(self, path: str) -> bytes:
        """The whole file. Raises FileError."""
        buffer = io.BytesIO()
        await self._receive(path, buffer, _Meter(None, None))
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

    async def upload(self, source: Path, target: str, on_progress: OnProgress | None) -> Copied:
        """A file to `target`, or the contents of a folder into the folder `target`."""
        status = await asyncio.to_thread(source.lstat)
        if stat.S_ISREG(status.st_mode):
            place = target + source.name if target.endswith("/") else target
            progress = _Meter(on_progress, status.st_size)
            return Copied(1, await self._upload_file(source, place, progress), ())
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidRequest(
                f"src must be a file or a folder, and {source} is neither (links are not followed)",
                field="src",
            )
        tree = await asyncio.to_thread(TreeSource, source)

        async def requests() -> AsyncIterator[pb.WriteTreeRequest]:
            progress = _Meter(on_progress, tree.total)
            tree.skipped.clear()
            yield pb.WriteTreeRequest(trajectory=self._trajectory, path=target)
            blocks = tree.blocks()
            while block := await asyncio.to_thread(next, blocks, None):
                yield pb.WriteTreeRequest(data=block)
                progress.add(len(block))

        answer = await self._connection.client_stream(WRITE_TREE, requests)
        return Copied(answer.files, answer.size, tuple(tree.skipped))

    async def download(self, source: str, target: Path, on_progress: OnProgress | None) -> Copied:
        """A file to `target`, or the contents of a folder into the folder `target`."""
        found = await self.stat(source)
        if found.kind == "file":
            if await asyncio.to_thread(target.is_dir):
                target = target.joinpath(*safe_parts(PurePosixPath(source).name))
            progress = _Meter(on_progress, found.size)
            return Copied(1, await self._download_file(source, target, found.mode, progress), ())
        if found.kind != "directory":
            raise FileError(
                f"{source} is neither a file nor a folder but a {found.kind}: links are not followed"
            )
        retries = self._connection.retries()
        while True:
            try:
                return await self._download_tree(source, target, retries, _Meter(on_progress, None))
            except TangramError as error:
                # A lost connection begins anew: what is there is written again.
                await retries.pause(error)

    async def _download_tree(
        self, source: str, target: Path, retries: Retries, progress: _Meter
    ) -> Copied:
        request = pb.ReadTreeRequest(trajectory=self._trajectory, path=source)
        tree = await asyncio.to_thread(TreeTarget, target)
        answers = self._connection.server_stream(READ_TREE, request)

        async def chunks() -> AsyncIterator[bytes]:
            async for answer in answers:
                retries.progress()
                yield answer.data

        try:
            async with aclosing(answers), aclosing(from_tar(chunks())) as portions:
                async for pieces in portions:
                    await asyncio.to_thread(tree.place, pieces)
                    progress.set(tree.size)
            await asyncio.to_thread(tree.finish)
        except PermanentError as error:
            raise FileError(f"the server sent no tree of {source}: {error}") from error
        finally:
            await asyncio.to_thread(tree.close)
        return Copied(tree.files, tree.size, tuple(tree.skipped))

    async def _upload_file(self, source: Path, path: str, progress: _Meter) -> int:
        mode = (await asyncio.to_thread(source.lstat)).st_mode
        return await self._send(path, mode & 0o777, lambda: _file_slices(source, progress))

    async def _download_file(self, path: str, target: Path, mode: int, progress: _Meter) -> int:
        """Beside its place first, then moved there: what stands there, a link too, is replaced."""
        descriptor, beside = await asyncio.to_thread(
            tempfile.mkstemp, dir=target.parent, prefix=f".{target.name[:64]}."
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                await self._receive(path, file, progress)
                size = file.tell()
            os.chmod(beside, mode & 0o777)
            os.replace(beside, target)
        except BaseException:
            os.unlink(beside)
            raise
        return size

    async def _receive(self, path: str, sink: BinaryIO, progress: _Meter) -> None:
        """The file's bytes into `sink`. A lost connection begins anew: the file may be another."""
        request = pb.ReadFileRequest(trajectory=self._trajectory, path=path)
        retries = self._connection.retries()
        while True:
            try:
                async with aclosing(self._connection.server_stream(READ_FILE, request)) as answers:
                    async for answer in answers:
                        retries.progress()
                        sink.write(answer.data)
                        progress.set(sink.tell())
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


async def _file_slices(path: Path, progress: _Meter) -> AsyncIterator[bytes]:
    """The bytes of a file of this machine, which is opened as what it is and not as a link."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    progress.set(0)
    with os.fdopen(descriptor, "rb") as file:
        while data := await asyncio.to_thread(file.read, FILE_CHUNK_BYTES):
            yield data
            progress.add(len(data))


class _Meter:
    """Bytes of one copy, told as they go. A lost connection sets them back."""

    def __init__(self, tell: OnProgress | None, total: int | None) -> None:
        self._tell = tell
        self._total = total
        self._size = 0

    def add(self, size: int) -> None:
        self.set(self._size + size)

    def set(self, size: int) -> None:
        self._size = size
        if self._tell is not None:
            # Headers travel too.
            self._tell(size if self._total is None else min(size, self._total), self._total)
