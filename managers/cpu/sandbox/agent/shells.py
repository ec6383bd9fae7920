"""Sessions: shells that live on between actions, each on a terminal of its own.

An action of a session is a command that its shell evaluates. That it has ended, and how, the shell
says over a pipe of its own (`dialects`); its output is what came out of the terminal meanwhile. What is
written there between two actions is dropped. A shell that ends takes its action with it, and the
session's next action starts another one.
"""

import _signal  # type: ignore[import-not-found]
import posix
import select
import time

from .action import Action
from .dialects import GRANTED, Dialect, change_of
from .kernel import PIPE_READ, kill, log
from .loop import Loop
from .orders import Ended, Order, Refused, Started
from .pool import Pool, Spawner
from .processes import cpu_seconds
from .terminal import Terminal, window_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SHELLS = 16
"""Sessions of a sandbox at once."""
MAX_REPORT = 4096
"""Bytes of reports that are no whole line: no shell of ours writes as much."""
MAX_CORES = 1024


class Shell:
    """A session's shell, alive."""

    def __init__(
        self,
        name: str,
        spawner: Spawner,
        terminal: Terminal,
        dialect: Dialect,
        fds: "tuple[int, int]",
    ) -> None:
        self.name = name
        self.spawner = spawner
        self.terminal = terminal
        self.dialect = dialect
        self.action: "Action | None" = None
        """What runs in it now."""
        self.pid = 0
        """Known a little after its start."""
        self.number = 0
        """Of its last command."""
        self.control_fd, self.report_fd = fds
        """Where commands go in, and where their ends come out."""
        self.unsent = b""
        self.reported = b""
        self.granted: "dict[bytes, bytes]" = {}
        self.affinity: "list[int] | None" = None
        self.cpu_before_s = 0.0


class Shells:
    """`on_output` is told that an action's first stream has more, `on_end` that its command ended,
    `on_refused` that its shell could not be started as asked."""

    def __init__(
        self,
        loop: Loop,
        pool: Pool,
        on_output: "Callable[[Action], None]",
        on_end: "Callable[[Action, Ended], None]",
        on_refused: "Callable[[Action, Refused], None]",
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._on_output = on_output
        self._on_end = on_end
        self._on_refused = on_refused
        self._shells: "dict[str, Shell]" = {}

    def find(self, name: str) -> "Shell | None":
        return self._shells.get(name)

    def check(self, name: str) -> None:
        """Raises Refused if a command cannot be given to the session now."""
        shell = self._shells.get(name)
        if shell is None and len(self._shells) >= MAX_SHELLS:
            raise Refused("session", f"{MAX_SHELLS} sessions are open already: close one of them")
        if shell is not None and shell.action is not None:
            message = f"session {name!r} runs {shell.action.name!r}: it runs one action at a time"
            raise Refused("session", message)

    def start(self, action: Action) -> None:
        """Run an action's command in its session. Raises Refused, and OSError if there can be no
        shell."""
        order = action.order
        assert order is not None
        shell = self._shells.get(action.session)
        if shell is None:
            shell = self._open(action.session, order)
        action.shell, shell.action = shell, action
        shell.terminal.reset()
        change = change_of(shell.granted, order.env)
        shell.granted.update((name, order.env[name]) for name in GRANTED if name in order.env)
        self._bind(shell, order.affinity)
        shell.cpu_before_s = cpu_seconds(shell.pid)
        shell.number += 1
        shell.unsent += shell.dialect.message(shell.number, change, action.command)
        self._send(shell)

    def on_report(self, shell: Shell, report: "Started | Ended | Refused") -> None:
        """Of its spawner, about the shell itself."""
        if isinstance(report, Started):
            shell.pid = report.pid
        elif isinstance(report, Ended):
            self._end(shell, report)
        else:
            action = shell.action
            self.forget(shell)
            self._pool.release(shell.spawner, report.code != "user")
            if action is not None:
                action.shell = None
                self._on_refused(action, report)

    def lose(self, shell: Shell) -> None:
        """Its spawner was killed from inside: nobody would tell of its end."""
        if shell.pid:
            kill(shell.pid)
        self._end(shell, Ended(int(_signal.SIGKILL), 0.0, 0.0, 0, False))

    def forget(self, shell: Shell) -> None:
        """Hang up; the session's next action starts another shell."""
        del self._shells[shell.name]
        shell.spawner.shell = None
        shell.terminal.close()
        self._loop.close(shell.control_fd)
        self._loop.close(shell.report_fd)

    # --- Starting. ---

    def _open(self, name: str, order: Order) -> Shell:
        dialect = Dialect(order.env)
        size = window_size(order.env)
        spawner = self._pool.take(order.account)
        fds: "list[int]" = []
        try:
            fds += posix.pipe2(posix.O_CLOEXEC)
            fds += posix.pipe2(posix.O_CLOEXEC)
            terminal = Terminal(self._loop, order.account, size)
        except OSError:
            for fd in fds:
                posix.close(fd)
            self._pool.release(spawner, True)
            raise
        commands, control_fd, report_fd, reports = fds
        shell = Shell(name, spawner, terminal, dialect, (control_fd, report_fd))
        shell.granted, shell.affinity = dict(order.env), order.affinity
        spawner.shell = self._shells[name] = shell
        started = Order(dialect.argv, dialect.env, order.cwd, order.affinity, order.account)
        started.terminal, started.descriptors = terminal.path, dialect.descriptors
        self._pool.send(spawner, started, [commands, reports])
        posix.close(commands)
        posix.close(reports)
        self._loop.watch(terminal.fd, lambda: self._on_terminal(shell))
        self._loop.watch(report_fd, lambda: self._on_line(shell))
        return shell

    def _bind(self, shell: Shell, affinity: "list[int] | None") -> None:
        """What it starts from now on runs on these cores; what runs already stays on its own."""
        if affinity == shell.affinity or not shell.pid:
            return
        shell.affinity = affinity
        try:
            posix.sched_setaffinity(shell.pid, range(MAX_CORES) if affinity is None else affinity)
        except (OSError, ValueError) as error:
            log(f"session {shell.name}: other cores: {error}")

    def _send(self, shell: Shell) -> None:
        """Write what fits of the commands for it; the rest when there is room."""
        try:
            shell.unsent = shell.unsent[posix.write(shell.control_fd, shell.unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # It has ended, which its spawner reports.
            shell.unsent = b""
        if not shell.unsent:
            self._loop.unwatch(shell.control_fd)
        elif not self._loop.is_watched(shell.control_fd):
            self._loop.watch(shell.control_fd, lambda: self._send(shell), select.EPOLLOUT)

    # --- While it runs. ---

    def _on_terminal(self, shell: Shell) -> None:
        shell.terminal.on_room()
        self._take_output(shell)

    def _take_output(self, shell: Shell) -> None:
        action = shell.action
        if action is None:
            shell.terminal.take(lambda data: None)
            return
        shell.terminal.take(action.streams[0].add)
        self._on_output(action)

    def _on_line(self, shell: Shell) -> None:
        """It says that a command has ended: its number and its exit code."""
        try:
            data = posix.read(shell.report_fd, PIPE_READ)
        except BlockingIOError:
            return
        if not data:
            self._loop.unwatch(shell.report_fd)
        lines = (shell.reported + data).split(b"\n")
        shell.reported = lines.pop()[:MAX_REPORT]
        for line in lines:
            number, _, code = line.partition(b" ")
            if shell.action is not None and number == b"%d" % shell.number and code.isdigit():
                self._end_command(shell, shell.action, int(code) & 0xFF)

    def _end_command(self, shell: Shell, action: Action, code: int) -> None:
        self._take_output(shell)
        shell.action = None
        run_s = time.monotonic() - action.started
        cpu_s = max(0.0, cpu_seconds(shell.pid) - shell.cpu_before_s)
        # After a success nobody asks what was left behind, and looking costs more than most commands.
        self._on_end(action, Ended(code << 8, run_s, cpu_s, 0, code == 0))

    def _end(self, shell: Shell, end: Ended) -> None:
        """The shell itself has ended, and so has what it ran."""
        self._take_output(shell)
        action, shell.action = shell.action, None
        self.forget(shell)
        if action is None:
            self._pool.release(shell.spawner, end.idle)
            return
        action.shell = None
        action.spawner, shell.spawner.action = shell.spawner, action
        action.spawner_lost = not shell.spawner.alive
        end.run_s = time.monotonic() - action.started
        end.cpu_s = max(0.0, end.cpu_s - shell.cpu_before_s)
        self._on_end(action, end)
