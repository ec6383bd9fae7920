"""Commands: from the server's requests to their results. What ends them early is `killing`'s, what
becomes of them without their spawner is `children`'s.

A short command costs two wake-ups: its request, and its end, with which its output is read from the
pipes. Only one that runs on is watched.
"""

import posix
import select
import time

from .action import Action
from .children import Children
from .connection import Connection
from .fields import Fields
from .kernel import log
from .killing import Killer
from .loop import NEVER, Loop
from .orders import Ended, Refused, Started
from .output import Abandoned, Stream
from .pool import Pool, Spawner
from .session import Session
from .shells import Shell, Shells
from .spawner import NOT_EXECUTABLE, complaint
from .terminal import MAX_INPUT
from .wire import MAX_OUTPUT

MAX_ACTIONS = 256
"""Commands running at once, and finished results kept for a server that comes back."""
MAX_ATTEMPTS = 3
"""Spawners that may be killed under a command before it has started."""
DRAIN_S = 0.1
"""How long output may come after the command ended, while descendants hold its pipes."""
FINAL_READS = 16
"""Pieces taken from a pipe when the command has ended: a survivor may write forever."""


class Commands:
    """`actions` by id are those that run and those whose results were not taken yet."""

    def __init__(self, loop: Loop, connection: Connection, session: Session, oom_fd: int) -> None:
        self.actions: "dict[str, Action]" = {}
        self._loop = loop
        self._connection = connection
        self._session = session
        self._abandoned = Abandoned(loop)
        self.pool = Pool(loop, oom_fd, self._on_report)
        self._shells = Shells(
            loop, self.pool, self._on_session_output, self._on_end, self._on_refused
        )
        self._closing: "list[Action]" = []
        """One for each session that is being closed, with what is left of it."""
        self._children = Children(loop, self.pool, self.actions, self._on_lost, self._shells.lose)
        self._killer = Killer(self._children, self.actions, self._on_end, self._settle)
        connection.handlers.update(
            {
                "exec": self._on_exec,
                "kill": self._on_kill,
                "sweep": self._on_sweep,
                "taken": self._on_taken,
                "signal": self._on_signal,
                "input": self._on_input,
            }
        )

    def tick(self, now: float) -> float:
        """Do what is due for each action."""
        due = NEVER
        for action in [*self.actions.values(), *self._closing]:
            if action.due <= now:
                self._tick_action(action, now)
            due = min(due, action.due)
        return due

    def _tick_action(self, action: Action, now: float) -> None:
        if action.end is None and now >= action.deadline:
            self._killer.begin(action, "timed_out")
        if now >= action.kill_at:
            self._killer.round(action, now)
        if action.result is not None:
            return
        if now >= action.end_at:
            self._finish(action, now)
            return
        for stream in action.streams:
            if now >= stream.tail_due:
                self._send_output(action, stream, now, False)

    def detach(self) -> None:
        """The server is gone: commands go on."""
        for action in self.actions.values():
            action.attached = False
        self._drop_oldest_results()

    # --- Requests. ---

    def _on_exec(self, fields: Fields) -> None:
        name, token = fields.text("action"), fields.integer("token")
        known = self.actions.get(name)
        if known is not None:
            self._reattach(known, token)
            return
        try:
            max_output = fields.integer("max_output")
            if max_output > MAX_OUTPUT:
                raise Refused("max_output", f"at most {MAX_OUTPUT} bytes of output are kept")
            if sum(other.result is None for other in self.actions.values()) >= MAX_ACTIONS:
                raise Refused("action", f"{MAX_ACTIONS} commands run in it already")
            timeout_s, stdin = fields.seconds("timeout_s"), fields.data("stdin")
            order = self._session.order(fields)
            now = time.monotonic()
            action = Action(name, token, timeout_s, order, stdin, max_output, now)
            action.merges = fields.flag_or_false("merged")
            action.session = fields.text_or_empty("session")
            if action.session:
                action.command = fields.data("command")
                self._start_in_session(action)
            else:
                self._start(action)
        except Refused as refusal:
            self._refuse(name, token, refusal)

    def _on_kill(self, fields: Fields) -> None:
        action = self.actions.get(fields.text("action"))
        if action is not None:
            self._killer.begin(action, "killed")

    def _on_signal(self, fields: Fields) -> None:
        """To a command and what is still in its process group: an offer to end by itself."""
        action, number = self.actions.get(fields.text("action")), fields.integer("signal")
        if action is not None and action.pid and action.end is None:
            try:
                posix.kill(-action.pid, number)
            except OSError as error:
                log(f"signal {number} to {action.name}: {error}")

    def _on_input(self, fields: Fields) -> None:
        """Of a session's user: keys, Ctrl-C, or the end."""
        number, name = fields.integer("id"), fields.text("session")
        shell, problem = self._shells.find(name), ""
        if fields.flag("close"):
            if shell is not None:
                self._close_session(shell, number)
                return
        elif shell is None or shell.action is None:
            problem = "nothing runs in it: only a command that runs can be typed to or interrupted"
        elif fields.flag("interrupt"):
            shell.terminal.interrupt()
        elif not shell.terminal.type(fields.data("data")):
            problem = f"more than {MAX_INPUT} bytes would wait to be read by what runs in it"
        if problem:
            self._connection.fail(number, "EINVAL", name.encode("utf-8", "replace"), problem)
        else:
            self._connection.send("reply", {"id": number})

    def _close_session(self, shell: Shell, number: int) -> None:
        """Hang up and kill all that is below; the reply says that nothing of it is left."""
        action = shell.action
        self._shells.forget(shell)
        if action is None:  # Stands for what earlier ones have left.
            action = Action("", 0, None, None, b"", 0, 0.0)
            action.end, action.result = Ended(0, 0.0, 0.0, 0, True), {}
            self._closing.append(action)
        else:
            shell.spawner.action = action
        action.shell, action.spawner, action.sweep = None, shell.spawner, number
        action.start_ticks = 0  # Nothing below is older.
        if action.result is not None:
            self._killer.sweep(action)
        elif action.is_killed:
            action.kill_at = time.monotonic()
        else:
            self._killer.begin(action, "killed")

    def _reattach(self, action: Action, token: int) -> None:
        """Send a server all that is kept of an action, from the beginning."""
        if token != action.token:
            refusal = Refused("token", "the action is known with another token")
            self._refuse(action.name, token, refusal)
            return
        action.attached = True
        for stream in action.streams:
            stream.rewind()
            self._send_output(action, stream, time.monotonic(), True)
        if action.result is not None:
            self._connection.send("result", action.result)

    def _on_sweep(self, fields: Fields) -> None:
        """Kill what a finished command left behind; the reply says that nothing of it is left."""
        number, action = fields.integer("id"), self.actions.get(fields.text("action"))
        if action is None or action.result is None or action.token != fields.integer("token"):
            self._connection.send("reply", {"id": number})
        else:
            action.sweep = number
            self._killer.sweep(action)

    def _on_taken(self, fields: Fields) -> None:
        action = self.actions.get(fields.text("action"))
        if action is not None and action.result is not None:
            if action.token == fields.integer("token"):
                self._forget(action)

    def _forget(self, action: Action) -> None:
        del self.actions[action.name]
        if action.spawner is not None:  # Kept for what the command left below it.
            self.pool.release(action.spawner, False)
            action.spawner = None

    def _refuse(self, name: str, token: int, refusal: Refused) -> None:
        message = {"action": name, "token": token, "code": refusal.code, "message": str(refusal)}
        self._connection.send("refused", message)

    # --- Starting. ---

    def _start(self, action: Action) -> None:
        """Give the command to a spawner. Raises Refused if that cannot be."""
        order = action.order
        assert order is not None
        account = order.account
        action.attempts += 1
        self.actions[action.name] = action
        try:
            spawner = self.pool.take(account)
        except OSError as error:  # The sandbox is full of its own processes: the command's end.
            action.streams = [Stream(name, -1, action.max_output) for name in ("stdout", "stderr")]
            action.streams[1].add(complaint(b"the command", error))
            self._on_end(action, Ended(NOT_EXECUTABLE << 8, 0.0, 0.0, 0, True))
            return
        theirs: "list[int]" = []
        ours: "list[int]" = []
        try:
            for feeds in (True, False, False) if action.stdin else (False, False):
                reading, writing = posix.pipe2(posix.O_CLOEXEC)
                theirs.append(reading if feeds else writing)
                ours.append(writing if feeds else reading)
                posix.set_blocking(ours[-1], False)
                if account is not None:  # Else the command could not reopen /dev/stdout.
                    posix.fchown(theirs[-1], account.uid, account.gid)
            if action.merges:
                for fd in (ours.pop(), theirs.pop()):
                    posix.close(fd)
                theirs.append(posix.dup(theirs[-1]))
        except OSError as error:
            for fd in theirs + ours:
                posix.close(fd)
            self.pool.release(spawner, True)
            del self.actions[action.name]
            raise Refused("start", f"the command cannot be started: {error}") from error
        action.spawner, spawner.action = spawner, action
        action.feed_fd = ours.pop(0) if action.stdin else -1
        action.unfed = memoryview(action.stdin)
        action.streams = [
            Stream("stdout", ours[0], action.max_output),
            Stream("stderr", -1 if action.merges else ours[1], action.max_output),
        ]
        self.pool.send(spawner, order, theirs)
        for fd in theirs:
            posix.close(fd)
        self._feed(action)

    def _start_in_session(self, action: Action) -> None:
        """As `_start`; a shell is started if the session has none. Raises Refused alike."""
        self._shells.check(action.session)
        action.streams = [Stream(name, -1, action.max_output) for name in ("stdout", "stderr")]
        self.actions[action.name] = action
        try:
            self._shells.start(action)
        except OSError as error:
            action.streams[1].add(complaint(b"the session's shell", error))
            self._on_end(action, Ended(NOT_EXECUTABLE << 8, 0.0, 0.0, 0, True))
        except Refused:
            del self.actions[action.name]
            raise

    def _feed(self, action: Action) -> None:
        """Write what fits of the command's input; the rest when there is room."""
        if action.feed_fd < 0:
            return
        try:
            written = posix.write(action.feed_fd, action.unfed)
        except BlockingIOError:
            written = 0
        except OSError:  # It does not read its input: its right.
            written = len(action.unfed)
        action.unfed = action.unfed[written:]
        if not action.unfed:
            self._loop.close(action.feed_fd)
            action.feed_fd = -1
        elif not self._loop.is_watched(action.feed_fd):
            self._loop.watch(action.feed_fd, lambda: self._feed(action), select.EPOLLOUT)

    def _on_report(self, spawner: Spawner, report: "Started | Ended | Refused") -> None:
        if spawner.shell is not None:
            self._shells.on_report(spawner.shell, report)
            return
        action = spawner.action
        if action is None or action.end is not None:
            return
        if isinstance(report, Started):
            action.pid = report.pid
            action.started = time.monotonic() - report.ago_s
            if action.timeout_s is not None:
                action.deadline = action.started + action.timeout_s
            self._watch_output(action)
        elif isinstance(report, Ended):
            self._on_end(action, report)
        else:
            self._close_pipes(action)
            self.pool.release(spawner, report.code != "user")
            self._on_refused(action, report)

    def _on_refused(self, action: Action, refusal: Refused) -> None:
        del self.actions[action.name]
        self._refuse(action.name, action.token, refusal)

    def _on_lost(self, action: Action) -> None:
        """A command without its spawner: it ended, it runs on as ours, or it never started."""
        self._watch_output(action)
        action.pid = action.pid or self._children.find_command(action)
        if not action.pid and not action.is_killed and action.attempts < MAX_ATTEMPTS:
            self._start_again(action)
        elif not action.pid or self._children.has_ended(action.pid):
            self._on_end(action, self._children.end_of(action))

    def _start_again(self, action: Action) -> None:
        """Its spawner was killed before the command had started: take another one."""
        self._close_pipes(action)
        action.spawner_lost = action.watched = False
        try:
            self._start(action)
        except Refused as refusal:
            self._refuse(action.name, action.token, refusal)

    # --- Output. ---

    def _watch_output(self, action: Action) -> None:
        """From now on take output as it comes."""
        if action.watched:
            return
        action.watched = True
        for stream in action.streams:
            if stream.fd >= 0:
                self._watch_stream(action, stream)

    def _watch_stream(self, action: Action, stream: Stream) -> None:
        self._loop.watch(stream.fd, lambda: self._on_output(action, stream))

    def _on_output(self, action: Action, stream: Stream) -> bool:
        """Take one piece from a pipe. Returns whether there may be more now."""
        data = stream.read()
        if data is None:
            return False
        if data:
            self._send_output(action, stream, time.monotonic(), False)
            return True
        self._loop.close(stream.fd)
        stream.fd = -1
        self._settle(action)
        return False

    def _send_output(self, action: Action, stream: Stream, now: float, final: bool) -> None:
        if not action.attached:
            return
        for offset, data in stream.pieces(now, final, self._connection.is_slow):
            self._connection.send(
                "output",
                {"action": action.name, "stream": stream.name, "offset": offset, "data": data},
            )

    def _on_session_output(self, action: Action) -> None:
        self._send_output(action, action.streams[0], time.monotonic(), False)

    def _close_pipes(self, action: Action) -> None:
        if action.feed_fd >= 0:
            self._loop.close(action.feed_fd)
            action.feed_fd = -1
        for stream in action.streams:
            if stream.fd >= 0:
                self._abandoned.add(stream.fd)
                stream.fd = -1

    # --- Ending. ---

    def _on_end(self, action: Action, end: Ended) -> None:
        """The command itself has ended: take what it left in the pipes, then end the action."""
        action.end = end
        action.order, action.stdin, action.command = None, b"", b""
        if (
            action.shell is not None and action.shell.action is action
        ):  # It did not end when killed.
            self._shells.forget(action.shell)
            action.shell = None
        if action.is_killed:
            action.kill_at = time.monotonic()  # Look at once whether anything is left.
        for stream in action.streams:
            for _ in range(FINAL_READS):
                if stream.fd < 0 or not self._on_output(action, stream):
                    break
        self._settle(action)
        if action.result is None:
            self._watch_output(action)

    def _settle(self, action: Action) -> None:
        """End the action if its command and its output have ended and nothing is to be killed."""
        if action.sweep and not action.is_killed:
            self._connection.send("reply", {"id": action.sweep})
            action.sweep = 0
            if action in self._closing and action.spawner is not None:
                self._closing.remove(action)
                self.pool.release(action.spawner, False)
        if action.end is None or action.is_killed or action.result is not None:
            return
        now = time.monotonic()
        if all(stream.fd < 0 for stream in action.streams):
            self._finish(action, now)
        elif action.end_at == NEVER:
            action.end_at = now + DRAIN_S

    def _finish(self, action: Action, now: float) -> None:
        """Give the result. What the command left behind stays; it belongs to no action any more
        once the result is taken."""
        end, spawner = action.end, action.spawner
        assert end is not None
        idle = end.idle and not action.spawner_lost
        survivors = 0 if idle else len(self._children.below(action))
        self._close_pipes(action)
        for stream in action.streams:
            self._send_output(action, stream, now, True)
        result = action.conclude(end, survivors)
        if spawner is not None and not survivors:
            action.spawner = None
            self.pool.release(spawner, idle)
        if action.attached:
            self._connection.send("result", result)
        self._drop_oldest_results()

    def _drop_oldest_results(self) -> None:
        if len(self.actions) <= MAX_ACTIONS:
            return
        finished = [action for action in self.actions.values() if action.result is not None]
        for action in finished[:-MAX_ACTIONS]:
            self._forget(action)
