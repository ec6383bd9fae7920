"""The connection to the server: made from inside, made again when it is lost, for a limited time."""

import _socket
import _struct
import posix
import time

from .fields import Fields
from .kernel import log
from .killing import leave
from .loop import NEVER, Loop
from .wire import MAX_FRAME, FrameReader, frame, marshalled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_S = 0.1
"""Between two attempts to reach the server."""
RECEIVE = 256 * 1024
"""Bytes taken at once."""


class Connection:
    """`greeting` makes the first message; `on_lost` is called when a server is gone. `handlers`
    names every kind of message that a server may send."""

    def __init__(
        self,
        loop: Loop,
        path: bytes,
        orphan_after_s: float,
        greeting: "Callable[[], dict[str, object]]",
        on_lost: "Callable[[], None]",
    ) -> None:
        self.handlers: "dict[str, Callable[[Fields], None]]" = {}
        self._loop = loop
        self._path = path
        self._orphan_after_s = orphan_after_s
        self._greeting = greeting
        self._on_lost = on_lost
        self._server: "_socket.socket | None" = None
        self._reader = FrameReader(marshalled)
        self._unsent = bytearray()
        self._waits_for_room = False
        self._detached_at = self._retry_at = time.monotonic()

    def tick(self, now: float) -> float:
        """Send what came together; look for a server if there is none."""
        self._flush()
        if self._server is None and now >= self._detached_at + self._orphan_after_s:
            leave(f"no server came for {self._orphan_after_s:g} s")
        if self._server is None and now >= self._retry_at:
            self._connect(now)
            self._flush()
        if self._server is not None:
            return NEVER
        return min(self._retry_at, self._detached_at + self._orphan_after_s)

    def send(self, kind: str, fields: "dict[str, object]") -> None:
        """Queue a message. Without a server it is lost, as it would be with one that just went."""
        if self._server is not None:
            self._unsent += frame(kind, fields)

    @property
    def is_slow(self) -> bool:
        """The server takes less than comes."""
        return len(self._unsent) > MAX_FRAME

    def fail(self, number: int, code: str, path: bytes, message: str) -> None:
        """Answer a request with an error."""
        self.send("failed", {"id": number, "code": code, "path": path, "message": message})

    def _connect(self, now: float) -> None:
        """Try once; who answers must stand outside of this pid namespace."""
        self._retry_at = now + RETRY_S
        server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        server.setblocking(False)
        try:
            server.connect(self._path)
        except OSError:  # Nobody listens (yet), or the backlog is full.
            server.close()
            return
        peer = server.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if posix.getpid() == 1 and _struct.unpack("3i", peer)[0] != 0:
            server.close()
            return
        self._server = server
        self._reader = FrameReader(marshalled)
        self._unsent = bytearray()
        self._waits_for_room = False
        self._loop.watch(server.fileno(), self._on_event)
        self.send("hello", self._greeting())

    def _disconnect(self) -> None:
        if self._server is None:
            return
        self._loop.unwatch(self._server.fileno())
        self._server.close()
        self._server = None
        self._detached_at = time.monotonic()
        self._retry_at = self._detached_at + RETRY_S
        self._on_lost()

    def _on_event(self) -> None:
        if self._server is None:
            return
        try:
            data = self._server.recv(RECEIVE)
        except BlockingIOError:  # There is room: the next tick sends.
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
            return
        try:
            for kind, fields in self._reader.feed(data):
                if kind not in self.handlers:
                    raise ValueError(f"unknown kind {kind!r}")
                self.handlers[kind](Fields(fields))
        except ValueError as error:
            log(f"a malformed message, the server is dropped: {error}")
            self._disconnect()

    def _flush(self) -> None:
        if not self._unsent or self._server is None:
            return
        try:
            sent = self._server.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._disconnect()
            return
        del self._unsent[:sent]
        if bool(self._unsent) != self._waits_for_room:
            self._waits_for_room = bool(self._unsent)
            self._loop.want_room(self._server.fileno(), self._waits_for_room)
