"""Trees as tar streams: what travels between a client and a sandbox, and the pieces it is made of.

Standard library alone: the SDK imports it too. Which names may be written where is for those to say
who write.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from .errors import PermanentError

PIECE_BYTES = 1 << 20
"""Of a file's bytes in one piece, and about as many in the pieces that are handed over together."""
PIECE_COST_BYTES = 512
"""What an entry counts for besides its bytes: a tar header, so that many small files go in portions."""
MORE = "more"
"""The kind of a piece with further bytes of the file before it."""
_TYPES = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry with the first bytes of its file, or further bytes of the file before."""

    name: str
    """Below the tree's folder; bytes that are no UTF-8 are surrogates."""
    kind: str
    """file, directory, symlink, other (what cannot be copied) or MORE."""
    size: int = 0
    """Of the whole file, in bytes."""
    mode: int = 0o644
    modified_unix_s: float = 0.0
    target: str = ""
    """Of a symlink."""
    data: bytes = b""
    last: bool = True
    """No more bytes of this file follow."""


def to_tar(piece: Piece) -> bytes:
    """A piece's part of a tar stream."""
    padding = bytes(-piece.size % tarfile.BLOCKSIZE) if piece.last else b""
    if piece.kind == MORE:
        return piece.data + padding
    header = tarfile.TarInfo(piece.name)
    header.type = _TYPES.get(piece.kind, tarfile.FIFOTYPE)
    header.mode, header.mtime = piece.mode, int(piece.modified_unix_s)
    header.linkname = piece.target
    header.size = piece.size if piece.kind == "file" else 0
    head = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return head + piece.data + padding if piece.kind == "file" else head


TAR_END = bytes(2 * tarfile.BLOCKSIZE)
"""What a tar stream ends with."""


async def from_tar(chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[Piece], None]:
    """The pieces of a tar stream, in portions of about PIECE_BYTES.

    Raises PermanentError for what is no tar stream or breaks off, and what `chunks` raises.
    """
    feed = _Feed(chunks, asyncio.get_running_loop())
    try:
        archive = await asyncio.to_thread(_open, feed)
        pieces = _pieces(archive)
        while portion := await asyncio.to_thread(_portion, pieces):
            yield portion
    except tarfile.TarError as error:
        if feed.problem is not None:
            raise feed.problem from None
        raise PermanentError(f"this is no tar stream: {error}") from error
    finally:
        feed.close()


class _Feed:
    """What tarfile reads from, in a thread, while the chunks come in on the event loop."""

    def __init__(self, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.problem: BaseException | None = None
        """What the chunks raised."""
        self._chunks = chunks
        self._loop = loop
        self._buffer = bytearray()
        self._waiting: Future[bytes | None] | None = None

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._waiting = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            chunk = self._waiting.result()
            if chunk is None:
                break
            self._buffer += chunk
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def close(self) -> None:
        """Whoever still waits in a thread is let go."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except BaseException as problem:
            self.problem = problem
            raise tarfile.ReadError("the stream broke off") from problem


def _open(feed: _Feed) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=cast(BinaryIO, feed),
        mode="r|",
        bufsize=PIECE_BYTES,
        encoding="utf-8",
        errors="surrogateescape",
    )


def _portion(pieces: Iterator[Piece]) -> list[Piece]:
    """The next pieces; none at the end."""
    portion: list[Piece] = []
    size = 0
    for piece in pieces:
        portion.append(piece)
        size += PIECE_COST_BYTES + len(piece.data)
        if size >= PIECE_BYTES:
            break
    return portion


def _pieces(archive: tarfile.TarFile) -> Iterator[Piece]:
    while (member := archive.next()) is not None:
        # Else the archive remembers all of them.
        archive.members = []  # type: ignore[attr-defined]
        piece = Piece(
            member.name,
            _KINDS.get(member.type, "other"),
            member.size,
            member.mode,
            float(member.mtime),
            member.linkname if member.issym() else "",
        )
        if piece.kind != "file":
            yield replace(piece, size=0)
            continue
        content = archive.extractfile(member)
        assert content is not None
        left = member.size
        while True:
            data = content.read(min(PIECE_BYTES, left))
            left -= len(data)
            if left and not data:
                raise tarfile.ReadError(f"{member.name} is cut off")
            yield replace(piece, data=data, last=not left)
            if not left:
                break
            piece = replace(piece, kind=MORE)
