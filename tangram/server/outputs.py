"""Output of actions, by stream and offset, in bounded memory.

Output is not in the event path: a run writes here, readers come with an offset and read at their
own pace, so that a slow reader, a reconnect and a finished action are one mechanism. Per stream the
head and the tail are kept, up to a limit; what lies between is cut. Stores of ended actions go to
the archive, which moves the oldest to disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path

from ..limits import OUTPUT_BYTES_MAX
from ..managers.base import Stream

log = logging.getLogger(__name__)

_SUFFIX = ".out"


@dataclass(slots=True)
class _Kept:
    """What is kept of one stream: a head, then tail pieces in order of offset, gaps between."""

    limit: int
    head: bytearray = field(default_factory=bytearray)
    tail: deque[tuple[int, bytes]] = field(default_factory=deque)
    tail_bytes: int = 0
    produced: int = 0

    def add(self, offset: int, data: bytes) -> None:
        if offset < self.produced:  # seen before: a resend after a reconnect
            data = data[self.produced - offset :]
            offset = self.produced
        if not data:
            return
        self.produced = offset + len(data)
        if offset == len(self.head) and not self.tail:
            room = self.limit - self.limit // 2 - len(self.head)
            self.head += data[:room]
            data, offset = data[room:], offset + len(data[:room])
        if data:
            self.tail.append((offset, data))
            self.tail_bytes += len(data)
            self._trim()

    def _trim(self) -> None:
        keep = self.limit // 2
        while self.tail_bytes > keep:
            offset, data = self.tail[0]
            surplus = self.tail_bytes - keep
            if surplus >= len(data):
                self.tail.popleft()
                self.tail_bytes -= len(data)
            else:
                self.tail[0] = (offset + surplus, data[surplus:])
                self.tail_bytes -= surplus

    def pieces(self) -> list[tuple[int, bytes]]:
        head = [(0, bytes(self.head))] if self.head else []
        return head + list(self.tail)


def _read(pieces: list[tuple[int, bytes]], offset: int) -> tuple[int, bytes]:
    for start, data in pieces:
        if start + len(data) > offset:
            skip = max(0, offset - start)
            return start + skip, data[skip:]
    return offset, b""


def _join(pieces: list[tuple[int, bytes]], produced: int) -> bytes:
    parts: list[bytes] = []
    end = 0
    for start, data in pieces:
        if start > end:
            parts.append(_marker(start - end))
        parts.append(data)
        end = start + len(data)
    if produced > end:
        parts.append(_marker(produced - end))
    return b"".join(parts)


def _marker(cut_bytes: int) -> bytes:
    return f"\n[... {cut_bytes} bytes cut ...]\n".encode()


class OutputStore:
    """The output of one action. Implements `managers.base.OutputSink`."""

    def __init__(self, limit_bytes: int) -> None:
        """Keeps `limit_bytes` of each stream: half from the head, half from the tail."""
        limit = min(limit_bytes, OUTPUT_BYTES_MAX)
        self._kept = {stream: _Kept(limit) for stream in Stream}
        self._spilled: Path | None = None
        self._index: dict[Stream, list[tuple[int, int, int]]] = {}
        self._changed: asyncio.Event | None = None
        self.closed = False
        self.forgotten = False

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        if self.closed:
            return
        self._kept[stream].add(offset, data)
        self._notify()

    def finish(self, stdout_bytes: int = 0, stderr_bytes: int = 0) -> None:
        """The action has ended, having produced so much: nothing more comes. Idempotent."""
        for stream, produced in ((Stream.STDOUT, stdout_bytes), (Stream.STDERR, stderr_bytes)):
            self._kept[stream].produced = max(self._kept[stream].produced, produced)
        self.closed = True
        self._notify()

    async def changed(self) -> None:
        """Returns when there is more than at the time of the call, or the store is closed."""
        if self.closed:
            return
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def produced(self, stream: Stream) -> int:
        """Bytes that the stream has produced so far, kept or not."""
        return self._kept[stream].produced

    def read(self, stream: Stream, offset: int) -> tuple[int, bytes]:
        """The next kept bytes at or after `offset`, with the offset of the first; empty if none
        are there yet. An offset that jumps means that bytes were cut."""
        return _read(self._pieces(stream), offset)

    def pieces(self, stream: Stream) -> list[tuple[int, bytes]]:
        """All that is kept, with the offset of each."""
        return self._pieces(stream)

    def joined(self, stream: Stream) -> bytes:
        """Head and tail in one, with a line that tells how much was cut between."""
        return _join(self._pieces(stream), self._kept[stream].produced)

    @property
    def truncated(self) -> bool:
        """Whether bytes of either stream were cut."""
        return any(
            kept.produced > sum(len(data) for _, data in self._pieces(stream))
            for stream, kept in self._kept.items()
        )

    @property
    def memory_bytes(self) -> int:
        return sum(len(kept.head) + kept.tail_bytes for kept in self._kept.values())

    async def spill(self, path: Path) -> None:
        """Move what is kept to a file; reading goes on from there. Raises OSError: all is still
        in memory then, and no file is left."""
        index = await asyncio.to_thread(self._write_to, path)
        self._index, self._spilled = index, path
        self._empty()

    def forget(self) -> Path | None:
        """Keep nothing any more; returns the file that held it, which is the caller's to remove."""
        path, self._spilled, self._index = self._spilled, None, {}
        self.forgotten = True
        self._empty()
        return path

    def _empty(self) -> None:
        for kept in self._kept.values():
            kept.head, kept.tail, kept.tail_bytes = bytearray(), deque(), 0

    def _write_to(self, path: Path) -> dict[Stream, list[tuple[int, int, int]]]:
        """Blocks: for a thread."""
        pieces = {stream: kept.pieces() for stream, kept in self._kept.items()}
        index: dict[Stream, list[tuple[int, int, int]]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                for stream, parts in pieces.items():
                    index[stream] = []
                    for offset, data in parts:
                        index[stream].append((offset, file.tell(), len(data)))
                        file.write(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return index

    def _pieces(self, stream: Stream) -> list[tuple[int, bytes]]:
        if self._spilled is None:
            return self._kept[stream].pieces()
        with self._spilled.open("rb") as file:
            return [
                (offset, os.pread(file.fileno(), length, position))
                for offset, position, length in self._index[stream]
            ]

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class OutputArchive:
    """Stores of ended actions: at most `memory_bytes_max` in memory, the oldest move to disk."""

    def __init__(self, folder: Path, memory_bytes_max: int) -> None:
        """Nobody else may write into `folder`; it is made when the first store moves there."""
        self._folder = folder
        self._memory_bytes_max = memory_bytes_max
        self._in_memory: OrderedDict[OutputStore, int] = OrderedDict()
        self._memory_bytes = 0
        self._number = 0
        # One move at a time: a store that is discarded must not be half-way to its file.
        self._moving = asyncio.Lock()

    @property
    def memory_bytes(self) -> int:
        """What its stores hold in memory."""
        return self._memory_bytes

    async def clear(self) -> None:
        """Remove the files that an earlier life left; for the start, before anything is added."""
        await asyncio.to_thread(self._clear)

    async def add(self, store: OutputStore) -> None:
        """Take a store on, once its action has ended. Output that can not be moved to disk is lost,
        and the log says so: the memory is not there to wait for room on a disk."""
        if store.forgotten:
            return
        self._in_memory[store] = store.memory_bytes
        self._memory_bytes += self._in_memory[store]
        async with self._moving:
            while self._memory_bytes > self._memory_bytes_max:
                oldest, size_bytes = self._in_memory.popitem(last=False)
                try:
                    await self._move(oldest)
                finally:
                    self._memory_bytes -= size_bytes

    async def discard(self, store: OutputStore) -> None:
        """Forget a store, in memory and on disk, wherever it is by now. Idempotent."""
        self._memory_bytes -= self._in_memory.pop(store, 0)
        async with self._moving:
            path = store.forget()
        if path is not None:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _move(self, store: OutputStore) -> None:
        self._number += 1
        path = self._folder / f"{self._number}{_SUFFIX}"
        try:
            await store.spill(path)
        except OSError as error:
            log.error("output of an ended action is lost: it cannot move to %s: %s", path, error)
            store.forget()

    def _clear(self) -> None:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            path.unlink(missing_ok=True)
