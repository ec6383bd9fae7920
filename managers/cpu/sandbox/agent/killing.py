"""Ending a command with all that descends from it, in rounds, until nothing is left."""

import _signal  # type: ignore[import-not-found]
import posix
import time

from .children import Children
from .kernel import kill, log
from .loop import NEVER
from .orders import Ended
from .processes import descendants, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .action import Action

REPORT_S = 0.2
"""How long a spawner may take to report a command that was killed."""
INTERRUPT_S = 0.5
"""A session's command gets Ctrl-C first: it has so long to clean up, and its shell lives on."""
SHELL_ROUNDS = 4
"""Rounds after which processes that are still being started cost the session's shell."""
RESET_ROUNDS = 12
"""Rounds over /proc before a tree that multiplies faster costs the whole sandbox."""
MAX_ROUNDS = 300
"""Rounds after which the result is given although processes are left."""
FIRST_PAUSE_S = 0.001
PAUSE_S = 0.05
"""Between two rounds, rising from the first to this."""


class Killer:
    """`on_end` is told an end that nobody reported; `on_killed` that nothing is left."""

    def __init__(
        self,
        children: Children,
        actions: "dict[str, Action]",
        on_end: "Callable[[Action, Ended], None]",
        on_killed: "Callable[[Action], None]",
    ) -> None:
        self._children = children
        self._actions = actions
        self._on_end = on_end
        self._on_killed = on_killed
        self._is_init = posix.getpid() == 1

    def begin(self, action: "Action", outcome: str) -> None:
        if action.is_killed or action.result is not None:
            return
        action.outcome = outcome
        action.end_at = NEVER
        action.kill_at = time.monotonic()
        if action.shell is not None and action.spares_shell:
            action.shell.terminal.signal()
            action.kill_at += INTERRUPT_S
        else:
            self.round(action, action.kill_at)

    def sweep(self, action: "Action") -> None:
        """Begin to kill what a command left behind when it ended."""
        self.round(action, time.monotonic())

    def round(self, action: "Action", now: float) -> None:
        """Kill what lives below the action's spawner; come back until nothing does."""
        action.rounds += 1
        victims = self._children.below(action)
        if victims and action.rounds < MAX_ROUNDS:
            if self._is_init and action.rounds % RESET_ROUNDS == 0:
                self._reset_sandbox()
            for pid in victims:
                kill(pid)
            if action.rounds > SHELL_ROUNDS and not action.struck.issuperset(victims):
                action.spares_shell = False  # It starts them anew, in a loop of its own.
            action.struck.update(victims)
            action.kill_at = now + min(FIRST_PAUSE_S * action.rounds, PAUSE_S)
        elif action.end is None:
            self._await_report(action, now)
        else:
            action.kill_at = NEVER
            self._on_killed(action)

    def _await_report(self, action: "Action", now: float) -> None:
        """Everything is dead, but the spawner has not said so: it may be stopped, or dead too."""
        if action.report_by is None:
            action.report_by = now + REPORT_S
        elif now >= action.report_by + REPORT_S or action.rounds >= MAX_ROUNDS:
            self._on_end(action, self._children.end_of(action))
        elif now >= action.report_by and action.shell is not None:
            action.spares_shell = False
        elif now >= action.report_by and action.spawner is not None:
            kill(action.spawner.pid)
        action.kill_at = now if action.end is not None else now + PAUSE_S

    def _reset_sandbox(self) -> None:
        """Kill every process but this one, in one stroke of the kernel."""
        try:
            posix.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            return
        for action in self._actions.values():
            if action.result is None:
                action.reset = True


def leave(reason: str) -> None:
    """Exit. As PID 1 that ends every process; otherwise they are killed as far as seen."""
    log(reason)
    if posix.getpid() != 1:
        for _ in range(RESET_ROUNDS):
            victims = descendants(processes(), {posix.getpid()})
            for pid in victims:
                kill(pid)
            if not victims:
                break
    posix._exit(0)
