"""The agent's spawners: forked ahead of need, given one order at a time, used again when clean."""

import _socket
import _struct
import posix
import time

from .kernel import PIPE_READ, kill, log
from .loop import NEVER, Loop
from .orders import Ended, Order, Refused, Started, unpack_reports
from .spawner import become_spawner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .accounts import Account
    from .action import Action
    from .shells import Shell

MAX_IDLE = 4
SPARE_DELAY_S = 0.02
"""A spare spawner is forked this long after the last was taken: not while its command starts."""
OOM_SCORE = b"500"
"""Of spawners and commands: the kernel's out-of-memory killer takes them before the agent."""


class Spawner:
    """A spawner process as the agent sees it."""

    def __init__(self, pid: int, channel: _socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.unsent = b""
        self.account: "tuple[int, ...]" = ()
        """The key of the account that it has become; empty while it is the agent's."""
        self.action: "Action | None" = None
        self.shell: "Shell | None" = None
        """Of a session, instead of one action's command."""
        self.alive = True

    def is_ready(self) -> bool:
        """False if somebody inside killed or stopped it; the loop hears of that only later."""
        events = posix.WEXITED | posix.WSTOPPED | posix.WNOHANG | posix.WNOWAIT
        if posix.waitid(posix.P_PID, self.pid, events) is None:
            return True
        kill(self.pid)
        return False


class Pool:
    """`spawners` by pid are all that have not been reaped."""

    def __init__(
        self,
        loop: Loop,
        oom_fd: int,
        on_report: "Callable[[Spawner, Started | Ended | Refused], None]",
    ) -> None:
        self.spawners: "dict[int, Spawner]" = {}
        self._loop = loop
        self._oom_fd = oom_fd
        self._on_report = on_report
        self._idle: "list[Spawner]" = []
        self._spare_at = time.monotonic()

    def tick(self, now: float) -> float:
        if now >= self._spare_at:
            self._spare_at = NEVER
            self._fork_spare()
        return self._spare_at

    def take(self, account: "Account | None") -> Spawner:
        """An idle spawner that is this account already, or one that can become it. May fork:
        raises OSError then."""
        wanted = () if account is None else account.key()
        for key in (wanted, ()):
            for spawner in self._idle[::-1]:  # The last used one's memory is in the caches.
                if spawner.account == key and spawner.is_ready():
                    self._idle.remove(spawner)
                    if not self._idle:
                        self._spare_at = time.monotonic() + SPARE_DELAY_S
                    return spawner
        return self._fork()

    def release(self, spawner: Spawner, reusable: bool) -> None:
        """Keep it for the next command, or let it go: survivors become the agent's."""
        spawner.action = None
        if reusable and spawner.alive and len(self._idle) < MAX_IDLE:
            self._idle.append(spawner)
        elif spawner.alive:
            kill(spawner.pid)

    def send(self, spawner: Spawner, order: Order, pipes: "list[int]") -> None:
        account = order.account
        become = account is not None and spawner.account != account.key()
        if become and account is not None:
            spawner.account = account.key()
        data = order.pack(become)
        rights = _struct.pack(f"={len(pipes)}i", *pipes)
        try:
            sent = spawner.channel.sendmsg(
                [data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
            )
        except OSError:  # Somebody killed it; its death is being reported.
            kill(spawner.pid)
            return
        spawner.unsent = data[sent:]
        if spawner.unsent:
            self._loop.want_room(spawner.channel.fileno(), True)

    def lose(self, spawner: Spawner) -> None:
        """It was reaped: killed from inside, or let go. What it ran is the agent's now."""
        self._on_event(spawner)  # It may have reported before it died.
        spawner.alive = False
        self._loop.unwatch(spawner.channel.fileno())
        spawner.channel.close()
        if spawner in self._idle:
            self._idle.remove(spawner)

    def _on_event(self, spawner: Spawner) -> None:
        """It reports, or has room for the rest of a long order."""
        try:
            if spawner.unsent:
                spawner.unsent = spawner.unsent[spawner.channel.send(spawner.unsent) :]
                if not spawner.unsent:
                    self._loop.want_room(spawner.channel.fileno(), False)
            data = spawner.channel.recv(PIPE_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # It ended; SIGCHLD says the rest.
            self._loop.unwatch(spawner.channel.fileno())
            return
        try:
            reports = unpack_reports(data)
        except ValueError as error:
            log(f"a spawner that is not itself: {error}")
            kill(spawner.pid)
            return
        for report in reports:
            self._on_report(spawner, report)

    def _fork_spare(self) -> None:
        if any(spawner.account == () for spawner in self._idle):
            return
        try:
            self._idle.append(self._fork())
        except OSError as error:  # The next command tries again, and its user is told.
            log(f"no spare spawner: {error}")

    def _fork(self) -> Spawner:
        ours, theirs = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0
        )
        self._set_oom_score(OOM_SCORE)  # Inherited; the agent takes its own back.
        try:
            pid = posix.fork()
            if pid == 0:
                become_spawner(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            self._set_oom_score(b"0")
        ours.setblocking(False)
        spawner = self.spawners[pid] = Spawner(pid, ours)
        self._loop.watch(ours.fileno(), lambda: self._on_event(spawner))
        return spawner

    def _set_oom_score(self, score: bytes) -> None:
        """Best effort: the order in which the kernel kills is a courtesy, not a guarantee."""
        if self._oom_fd < 0:
            return
        try:
            posix.pwrite(self._oom_fd, score, 0)
        except OSError as error:
            log(f"oom_score_adj: {error}")
