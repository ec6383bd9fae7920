"""Waiting for descriptors, and for the next moment at which something is due."""

import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NEVER = float("inf")


class Loop:
    """Single-threaded: no handler waits for anything but the next event."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: "dict[int, Callable[[], object]]" = {}

    def run(self, ticks: "list[Callable[[float], float]]") -> None:
        """For ever. Each tick does what is due at a time, and says when it is due again."""
        while True:
            now = time.monotonic()
            due = NEVER
            for tick in ticks:
                due = min(due, tick(now))
            pause_s = -1.0 if due == NEVER else max(0.0, due - time.monotonic())
            for fd, _ in self._epoll.poll(pause_s):
                handler = self._handlers.get(fd)
                if handler is not None:  # An earlier event of this round may have closed it.
                    handler()

    def watch(self, fd: int, handler: "Callable[[], object]", events: int = select.EPOLLIN) -> None:
        """Call it for each event, until `unwatch`."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def is_watched(self, fd: int) -> bool:
        return fd in self._handlers

    def want_room(self, fd: int, wanted: bool) -> None:
        """Whether a watched descriptor that can be written to is an event too."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self, fd: int) -> None:
        self.unwatch(fd)
        posix.close(fd)
