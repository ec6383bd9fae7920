"""Waiting for a program inside to listen on a port, also where the sandbox has no network: loopback."""

import _socket
import errno
import time

from .connection import Connection
from .fields import Fields
from .loop import NEVER

POLL_S = 0.02
"""Between two attempts to connect."""
MAX_WAITS = 64
"""Waits at once."""
_ADDRESSES = ((_socket.AF_INET, "127.0.0.1"), (_socket.AF_INET6, "::1"))


class Ports:
    """`tick` tries all that are waited for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waits: "dict[int, tuple[int, float]]" = {}
        """By the request's number: port, and until when."""
        self._next = NEVER
        connection.handlers.update({"port": self._on_port, "port_abort": self._on_abort})

    def _on_port(self, fields: Fields) -> None:
        """Answers whether somebody listens, at once or in time."""
        number, port, timeout_s = (
            fields.integer("id"),
            fields.integer("port"),
            fields.seconds("timeout_s") or 0.0,
        )
        if len(self._waits) >= MAX_WAITS:
            message = f"{MAX_WAITS} ports are waited for already"
            self._connection.fail(number, "EAGAIN", b"port", message)
        elif is_open(port):
            self._connection.send("reply", {"id": number, "open": True})
        elif timeout_s <= 0:
            self._connection.send("reply", {"id": number, "open": False})
        else:
            now = time.monotonic()
            self._waits[number] = (port, now + timeout_s)
            self._next = min(self._next, now + POLL_S)

    def _on_abort(self, fields: Fields) -> None:
        self._waits.pop(fields.integer("id"), None)

    def forget_all(self) -> None:
        """Who asked is gone."""
        self._waits.clear()

    def tick(self, now: float) -> float:
        """Returns when to try again."""
        if now < self._next:
            return self._next
        for number, (port, until) in list(self._waits.items()):
            found = is_open(port)
            if found or now >= until:
                del self._waits[number]
                self._connection.send("reply", {"id": number, "open": found})
        self._next = now + POLL_S if self._waits else NEVER
        return self._next


def is_open(port: int) -> bool:
    """Whether a program listens on it. Over loopback that is known at once."""
    for family, address in _ADDRESSES:
        try:
            probe = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        except OSError:  # A kernel without that family.
            continue
        probe.setblocking(False)
        try:
            # The answer has come when the first call returns, but only a second one tells it.
            code = probe.connect_ex((address, port))
            if code == errno.EINPROGRESS:
                code = probe.connect_ex((address, port))
            if code == 0:
                return True
        except OverflowError:
            return False
        finally:
            probe.close()
    return False
