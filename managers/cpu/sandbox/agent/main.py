"""Where the agent starts: its arguments, what makes its process safe to be in, and its parts."""

import _signal  # type: ignore[import-not-found]
import gc
import posix
import resource

from .commands import Commands
from .connection import Connection
from .fields import Fields
from .kernel import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, log, prctl
from .loop import Loop
from .ports import Ports
from .programs import IGNORED_SIGNALS
from .session import Session
from .transfers import Transfers
from .wire import PROTOCOL

USAGE = "usage: agent --socket PATH --orphan-after SECONDS [--uid N --gid N]"


class Agent:
    """The parts, wired together, and what needs all of them."""

    def __init__(self, path: bytes, orphan_after_s: float, oom_fd: int) -> None:
        self._loop = Loop()
        self._session = Session()
        self._connection = Connection(
            self._loop, path, orphan_after_s, self._greeting, self._on_server_lost
        )
        self._commands = Commands(self._loop, self._connection, self._session, oom_fd)
        self._transfers = Transfers(self._connection, self._session)
        self._ports = Ports(self._connection)
        self._connection.handlers["config"] = self._on_config

    def run(self) -> None:
        """Until no server came for too long."""
        commands = self._commands
        # The connection last: it sends what the others have to say.
        self._loop.run([commands.tick, commands.pool.tick, self._ports.tick, self._connection.tick])

    def _greeting(self) -> "dict[str, object]":
        return {"protocol": list(PROTOCOL)}

    def _on_server_lost(self) -> None:
        self._transfers.end_all()
        self._ports.forget_all()
        self._commands.detach()

    def _on_config(self, fields: Fields) -> None:
        number = fields.integer("id")
        try:
            self._session.configure(fields)
        except ValueError as error:
            self._connection.fail(number, "user", fields.data("user"), str(error))
            return
        self._connection.send("reply", {"id": number})


def parse_arguments(arguments: "list[str]") -> "dict[str, str]":
    """Options by name. Raises ValueError with the usage."""
    options = dict(zip(arguments[::2], arguments[1::2]))  # noqa: B905
    unknown = set(options) - {"--socket", "--orphan-after", "--uid", "--gid"}
    if unknown or len(arguments) % 2 or not {"--socket", "--orphan-after"} <= set(options):
        raise ValueError(USAGE)
    return options


def main(arguments: "list[str]") -> None:
    options = parse_arguments(arguments)
    for fd in range(3):  # Later pipes must not become a command's streams by number.
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)
    for number in IGNORED_SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    posix.umask(0o022)
    try:  # Opened while it is ours: of a process that is not dumpable it belongs to root.
        oom_fd = posix.open("/proc/self/oom_score_adj", posix.O_RDWR | posix.O_CLOEXEC)
    except OSError:
        oom_fd = -1
    if "--uid" in options:
        posix.setgroups([])
        posix.setgid(int(options.get("--gid", options["--uid"])))
        posix.setuid(int(options["--uid"]))
    if not prctl(PR_SET_DUMPABLE, 0):
        log("no prctl: processes inside can trace the agent, and may escape a timeout")
    if posix.getpid() != 1:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    agent = Agent(
        options["--socket"].encode("utf-8", "surrogateescape"),
        float(options["--orphan-after"]),
        oom_fd,
    )
    if hasattr(gc, "freeze"):
        gc.freeze()  # Collections need not write to what spawners share with the agent.
    agent.run()
