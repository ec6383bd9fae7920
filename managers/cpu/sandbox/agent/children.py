"""Reaping: as process 1 the agent is the parent of every orphan, and of commands whose spawner was
killed from inside. What can still be known of such a command is found out here."""

import _signal  # type: ignore[import-not-found]
import posix
import time

from .kernel import PIPE_READ
from .loop import Loop
from .orders import Ended
from .processes import Process, descendants, processes
from .spawner import used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .action import Action
    from .pool import Pool, Spawner
    from .shells import Shell


class Children:
    """`on_lost` is called for each action without a spawner whenever a child has ended;
    `on_shell_lost` once for a session's shell without one."""

    def __init__(
        self,
        loop: Loop,
        pool: "Pool",
        actions: "dict[str, Action]",
        on_lost: "Callable[[Action], None]",
        on_shell_lost: "Callable[[Shell], None]",
    ) -> None:
        self._pool = pool
        self._actions = actions
        self._on_lost = on_lost
        self._on_shell_lost = on_shell_lost
        self._ends: "dict[int, tuple[float, Ended]]" = {}
        """Of orphans by pid, with the time of reaping; its `run_s` is not known."""
        wake, tell = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.signal(_signal.SIGCHLD, lambda number, stack: None)
        _signal.set_wakeup_fd(tell)
        loop.watch(wake, lambda: self._reap(wake))

    def _reap(self, wake: int) -> None:
        """Collect ended spawners, commands whose spawner is lost, and everybody's orphans."""
        posix.read(wake, PIPE_READ)
        lost = []
        while True:
            try:
                pid, status, usage = posix.wait4(-1, posix.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._pool.spawners:
                lost.append(self._pool.spawners.pop(pid))
            else:
                end = Ended(status, 0.0, *used(usage), False)
                self._ends[pid] = (time.monotonic(), end)
        for spawner in lost:
            self._lose(spawner)
        for action in list(self._actions.values()):
            if action.spawner_lost and action.end is None:
                self._on_lost(action)
        # A command may be reaped just before its spawner: keep those of actions that run.
        running = {action.pid for action in self._actions.values() if action.end is None}
        if 0 not in running:
            self._ends = {pid: end for pid, end in self._ends.items() if pid in running}

    def _lose(self, spawner: "Spawner") -> None:
        self._pool.lose(spawner)
        if spawner.shell is not None:
            self._on_shell_lost(spawner.shell)
        elif spawner.action is not None:
            spawner.action.spawner_lost = True

    def has_ended(self, pid: int) -> bool:
        """Of a command without its spawner, which is our child if it lives."""
        if pid in self._ends:
            return True
        try:
            posix.waitid(posix.P_PID, pid, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        except ChildProcessError:  # Its spawner had seen its end, and died before it could tell.
            return True
        return False

    def end_of(self, action: "Action") -> Ended:
        """The end of a command that only we saw, or that nobody did (taken as killed)."""
        unseen = Ended(int(_signal.SIGKILL), 0.0, 0.0, 0, False)
        _, end = self._ends.pop(action.pid, (0.0, unseen))
        end.run_s = time.monotonic() - action.started
        return end

    def below(self, action: "Action") -> "list[int]":
        """The live processes of an action. Without its spawner they are ours, known by their age."""
        try:
            table = processes()
        except OSError:
            return [action.pid] if action.pid and action.end is None else []
        shell, spawner = action.shell, action.spawner
        if shell is not None:
            found = _since(action, table, descendants(table, {shell.spawner.pid}))
            found = [pid for pid in found if pid != shell.pid]
            return found if action.spares_shell or not shell.pid else [*found, shell.pid]
        if spawner is not None and not action.spawner_lost:
            return _since(action, table, descendants(table, {spawner.pid}))
        orphans = self._orphans(table, action)
        alive = [process.pid for process in orphans if not process.is_dead]
        return descendants(table, {process.pid for process in orphans}) + alive

    def find_command(self, action: "Action") -> int:
        """The pid that a spawner took with it when it was killed before it could report: of the
        first session leader that became ours, or of the first orphan that ended meanwhile; else 0."""
        known = {other.pid for other in self._actions.values()}
        try:
            orphans = self._orphans(processes(), action)
        except OSError:
            orphans = []
        leaders = [process.pid for process in orphans if process.session == process.pid]
        ended = [pid for pid, (at, _) in self._ends.items() if at >= action.started]
        for pid in sorted(leaders) + sorted(ended):
            if pid not in known:
                return pid
        return 0

    def _orphans(self, table: "list[Process]", action: "Action") -> "list[Process]":
        """Children of ours that no spawner holds any more, no older than the action."""
        own = posix.getpid()
        return [
            process
            for process in table
            if process.parent == own
            and process.pid not in self._pool.spawners
            and process.start_ticks >= action.start_ticks
        ]


def _since(action: "Action", table: "list[Process]", pids: "list[int]") -> "list[int]":
    """Of a session's action those that are not older than it: they are of its earlier ones."""
    if not action.session:
        return pids
    older = {process.pid for process in table if process.start_ticks < action.start_ticks}
    return [pid for pid in pids if pid not in older]
