"""A command from its request to the moment the server has taken its result: what is known of it."""

import posix

from .loop import NEVER
from .orders import Ended, Order
from .output import Stream
from .processes import ticks_now
from .wire import pack_figures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Spawner
    from .shells import Shell


class Action:
    """Filled in by `commands`, `children` and `killing` while it runs."""

    def __init__(
        self,
        name: str,
        token: int,
        timeout_s: "float | None",
        order: "Order | None",
        stdin: bytes,
        max_output: int,
        now: float,
    ) -> None:
        self.name = name
        self.token = token
        self.timeout_s = timeout_s
        self.order = order
        """Dropped, with the input, when the command has ended."""
        self.stdin = stdin
        self.max_output = max_output

        self.merges = False
        """Stderr goes into stdout."""
        self.session = ""
        self.command = b""
        """Of a session's action: what its shell shall evaluate."""
        self.shell: "Shell | None" = None
        """That runs it; None if it is no session's, or the shell has ended."""
        self.spares_shell = True
        """The shell need not be killed with it, as far as is known."""
        self.struck: "set[int]" = set()
        """Processes that were killed already, and may not have died yet."""

        self.attached = True
        """The server that is connected follows it."""
        self.attempts = 0
        self.spawner: "Spawner | None" = None
        self.spawner_lost = False
        self.pid = 0
        """Known once it has run for a while."""
        self.started = now
        self.start_ticks = ticks_now()
        self.deadline = NEVER if timeout_s is None else now + timeout_s

        self.streams: "list[Stream]" = []
        self.watched = False
        """Its output is read as it comes, not only at its end."""
        self.feed_fd = -1
        self.unfed = memoryview(b"")

        self.outcome = "finished"
        self.kill_at = NEVER
        """The next round of its killing, if that has begun."""
        self.rounds = 0
        self.report_by: "float | None" = None
        self.reset = False

        self.end: "Ended | None" = None
        """The command's own end; its output may last longer."""
        self.end_at = NEVER
        self.result: "dict[str, object] | None" = None
        self.sweep = 0
        """The number of the request to kill what the command left, while that is being done."""

    @property
    def is_killed(self) -> bool:
        return self.kill_at != NEVER

    @property
    def due(self) -> float:
        """When something is to be done about it next."""
        if self.result is not None:
            return self.kill_at
        deadline = NEVER if self.is_killed or self.end is not None else self.deadline
        due = min(deadline, self.kill_at, self.end_at)
        if self.attached:
            for stream in self.streams:
                due = min(due, stream.tail_due)
        return due

    def conclude(self, end: Ended, survivors: int) -> "dict[str, object]":
        """Its result, as the server gets it, from now on."""
        number = posix.WTERMSIG(end.status) if posix.WIFSIGNALED(end.status) else None
        self.result = {
            "action": self.name,
            "token": self.token,
            "outcome": self.outcome,
            "figures": pack_figures(
                posix.WEXITSTATUS(end.status) if number is None else -number,
                number,
                end.run_s,
                end.cpu_s,
                end.rss,
                self.streams[0].total,
                self.streams[1].total,
                survivors,
                self.reset,
            ),
        }
        return self.result
