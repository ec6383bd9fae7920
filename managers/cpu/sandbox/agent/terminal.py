"""A session's terminal: the agent's end of a pseudo-terminal, and what its user may do to it."""

import _signal  # type: ignore[import-not-found]
import _struct
import fcntl
import posix
import termios

from .kernel import PIPE_READ
from .loop import Loop
from .orders import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .accounts import Account

MAX_INPUT = 64 * 1024
"""Bytes that may wait for a program to read them, beside the 4 KiB that the kernel holds."""
DEFAULT_SIZE = (24, 80)
MAX_SIDE = 10000
"""Rows or columns: more is no window."""
INTERRUPT = b"\x03"
_TIOCSIG = 0x40045436
"""Send a signal to the foreground, as Ctrl-C does, whatever the terminal's modes are."""
_READS = 64
"""Pieces of at most 4 KiB taken at once: all that the kernel holds, and an end where one writes on."""


def window_size(env: "dict[bytes, bytes]") -> "tuple[int, int]":
    """Rows and columns as LINES and COLUMNS say. Raises Refused."""
    sides = []
    for name, default in zip((b"LINES", b"COLUMNS"), DEFAULT_SIZE):  # noqa: B905
        text = env.get(name, b"%d" % default)
        if not text.isdigit() or not 0 < int(text) <= MAX_SIDE:
            raise Refused("env", f"{name.decode()} must be 1 to {MAX_SIDE}")
        sides.append(int(text))
    return sides[0], sides[1]


class Terminal:
    """No echo, and lines end as they were written; what `stty` changes in it lasts for one run."""

    def __init__(self, loop: Loop, account: "Account | None", size: "tuple[int, int]") -> None:
        """Raises OSError where the sandbox has no pseudo-terminals left, or none at all."""
        self._loop = loop
        self.fd, self._slave = posix.openpty()
        try:
            fcntl.ioctl(self.fd, termios.TIOCSWINSZ, _struct.pack("4H", *size, 0, 0))
            self.path = posix.ttyname(self._slave).encode()
            if account is not None:
                posix.fchown(self._slave, account.uid, account.gid)
            posix.set_blocking(self.fd, False)
            self._modes = termios.tcgetattr(self._slave)
            self._modes[1] &= ~termios.OPOST
            self._modes[3] &= ~termios.ECHO
        except (OSError, termios.error) as error:
            posix.close(self.fd)
            posix.close(self._slave)
            raise OSError(*error.args) from error
        self._unsent = b""

    def reset(self) -> None:
        """As it was at first: nothing left to be read or written, and its modes back."""
        self._drop_input()
        try:
            termios.tcsetattr(self._slave, termios.TCSANOW, self._modes)
            termios.tcflush(self._slave, termios.TCIFLUSH)
        except termios.error:  # Hung up: its shell is ending, and says so itself.
            return
        self.take(lambda data: None)

    def take(self, keep: "Callable[[bytes], object]") -> None:
        """Take what was written to it until now. A read that finds nothing waits for what the
        kernel still has in hand, so nothing that was written before is missed."""
        for _ in range(_READS):
            try:
                data = posix.read(self.fd, PIPE_READ)
            except OSError:  # Nothing more, or hung up.
                return
            if not data:
                return
            keep(data)

    def type(self, data: bytes) -> bool:
        """As if typed. False if too much of it waits unread already."""
        if len(self._unsent) + len(data) > MAX_INPUT:
            return False
        self._unsent += data
        self.on_room()
        return True

    def on_room(self) -> None:
        """Write on what waits."""
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[posix.write(self.fd, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # Hung up: nobody reads it any more.
            self._unsent = b""
        self._loop.want_room(self.fd, bool(self._unsent))

    def interrupt(self) -> None:
        """Ctrl-C: what waits to be read is dropped, as a terminal does."""
        self._drop_input()
        if not self.type(INTERRUPT) or self._unsent:
            self._drop_input()
            self.signal()

    def signal(self) -> None:
        """SIGINT to what runs in the foreground, also where it has switched Ctrl-C off."""
        try:
            fcntl.ioctl(self.fd, _TIOCSIG, int(_signal.SIGINT))
        except OSError:  # A kernel without it.
            self.type(INTERRUPT)

    def close(self) -> None:
        """Hang up."""
        self._loop.close(self.fd)
        posix.close(self._slave)

    def _drop_input(self) -> None:
        if self._unsent:
            self._unsent = b""
            self._loop.want_room(self.fd, False)
