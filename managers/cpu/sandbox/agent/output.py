"""What is kept of a command's output, what of it is sent when, and pipes that nobody reads."""

import posix

from .kernel import PIPE_READ
from .loop import NEVER, Loop
from .wire import CHUNK

TAIL_S = 0.5
"""Between two looks at the tail of an output above its limit."""
MAX_ABANDONED = 64
"""Pipes of survivors that are still drained; of more the oldest is closed."""


class Stream:
    """Stdout or stderr: its head, and the last bytes of what follows."""

    def __init__(self, name: str, fd: int, max_output: int) -> None:
        self.name = name
        self.fd = fd
        """The pipe's end; -1 once it has ended."""
        self.total = 0
        """Bytes produced, kept or not."""
        self.tail_due = NEVER
        self._head = bytearray()
        self._head_limit = (max_output + 1) // 2
        self._tail = bytearray()
        self._tail_limit = max_output // 2
        self._tail_sent_at = -TAIL_S
        self._sent = 0

    def read(self) -> "bytes | None":
        """Take one piece from the pipe: None if there is none now, empty at its end."""
        try:
            data = posix.read(self.fd, PIPE_READ)
        except BlockingIOError:
            return None
        self.add(data)
        return data

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail += data
        if len(self._tail) > 2 * self._tail_limit:  # Cut rarely: cutting moves what is kept.
            del self._tail[: len(self._tail) - self._tail_limit]

    def rewind(self) -> None:
        """All that is kept shall be sent again."""
        self._sent = 0

    def pieces(self, now: float, final: bool, slow: bool) -> "list[tuple[int, bytes]]":
        """What was not sent yet and is due, as (offset, bytes); marks it sent. To a slow server
        the tail goes later, since it may be newer then."""
        found = []
        while self._sent < len(self._head):
            piece = bytes(self._head[self._sent : self._sent + CHUNK])
            found.append((self._sent, piece))
            self._sent += len(piece)
        self.tail_due = NEVER
        if self._sent >= self.total or not self._tail_limit:
            return found
        if not final and (slow or now < self._tail_sent_at + TAIL_S):
            self.tail_due = (now if slow else self._tail_sent_at) + TAIL_S
            return found
        self._tail_sent_at = now
        position = max(self._sent, self.total - min(len(self._tail), self._tail_limit))
        while position < self.total:
            start = len(self._tail) - (self.total - position)
            piece = bytes(self._tail[start : start + CHUNK])
            found.append((position, piece))
            position += len(piece)
        self._sent = self.total
        return found


class Abandoned:
    """Pipes into which survivors may still write: drained into nothing until they close them."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._fds: "list[int]" = []

    def add(self, fd: int) -> None:
        self._fds.append(fd)
        self._loop.unwatch(fd)
        self._loop.watch(fd, lambda: self._drain(fd))
        if len(self._fds) > MAX_ABANDONED:
            self._loop.close(self._fds.pop(0))

    def _drain(self, fd: int) -> None:
        if not posix.read(fd, PIPE_READ):
            self._fds.remove(fd)
            self._loop.close(fd)
