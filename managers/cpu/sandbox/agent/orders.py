"""What the agent and its spawners say to each other: one order, then the reports of its command.

An order is marshalled, which is quick and which a spawner may trust: it was forked by its sender.
Reports come from where the sandbox's users can at least kill, so they are of a fixed form.
"""

import _struct
import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:  # The typing module is too heavy to import for real.
    from .accounts import Account

_LENGTH = _struct.Struct("=I")
_REPORT = _struct.Struct("=ciddq?H")
_STARTED, _ENDED, _REFUSED = b"s", b"e", b"r"


class Refused(Exception):
    """The command cannot be run as asked: `code` names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Order:
    """A command as it is to be run: the request and the sandbox's defaults together."""

    def __init__(
        self,
        argv: "list[bytes]",
        env: "dict[bytes, bytes]",
        cwd: bytes,
        affinity: "list[int] | None",
        account: "Account | None",
        terminal: bytes = b"",
        descriptors: "list[int] | None" = None,
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.affinity = affinity
        self.account = account
        """None: who the agent is."""
        self.terminal = terminal
        """The path of the one that it gets as its own, for all of its streams; empty: its streams
        are the pipes that come along."""
        self.descriptors = descriptors or []
        """With a terminal: which numbers the pipes have in the command."""

    def pack(self, become: bool) -> bytes:
        """`become`: the spawner is not that account yet."""
        account = self.account
        identity = (account.uid, account.gid, account.groups) if become and account else None
        command = (self.argv, self.env, self.cwd, self.affinity, self.terminal, self.descriptors)
        data = marshal.dumps((command, identity))
        return _LENGTH.pack(len(data)) + data


def unpack_order(data: bytes) -> "tuple[Order, tuple[int, int, list[int]] | None] | None":
    """The order and the (uid, gid, groups) to become first; None while bytes are missing."""
    if len(data) < 4 or len(data) < 4 + _LENGTH.unpack_from(data)[0]:
        return None
    (argv, env, cwd, affinity, terminal, descriptors), identity = marshal.loads(data[4:])
    return Order(argv, env, cwd, affinity, None, terminal, descriptors), identity


class Started:
    """The command runs on for a while."""

    def __init__(self, pid: int, ago_s: float) -> None:
        self.pid = pid
        self.ago_s = ago_s

    def pack(self) -> bytes:
        return _REPORT.pack(_STARTED, self.pid, self.ago_s, 0.0, 0, False, 0)


class Ended:
    """The command's own end. `rss` is in bytes; `idle`: it left nothing behind."""

    def __init__(self, status: int, run_s: float, cpu_s: float, rss: int, idle: bool) -> None:
        self.status = status
        self.run_s = run_s
        self.cpu_s = cpu_s
        self.rss = rss
        self.idle = idle

    def pack(self) -> bytes:
        return _REPORT.pack(_ENDED, self.status, self.run_s, self.cpu_s, self.rss, self.idle, 0)


def pack_refusal(refusal: Refused) -> bytes:
    text = f"{refusal.code} {refusal}".encode()[:4096]
    return _REPORT.pack(_REFUSED, 0, 0.0, 0.0, 0, False, len(text)) + text


def unpack_reports(data: bytes) -> "list[Started | Ended | Refused]":
    """The reports of whole ones. Raises ValueError for anything else."""
    found: "list[Started | Ended | Refused]" = []
    at = 0
    while at < len(data):
        try:
            kind, number, run_s, cpu_s, rss, idle, length = _REPORT.unpack_from(data, at)
        except _struct.error:  # type: ignore[attr-defined]
            raise ValueError(f"{len(data)} bytes that are no report") from None
        at += _REPORT.size + length
        if kind == _STARTED:
            found.append(Started(number, run_s))
        elif kind == _ENDED:
            found.append(Ended(number, run_s, cpu_s, rss, idle))
        elif kind == _REFUSED and at <= len(data):
            code, _, message = data[at - length : at].decode("utf-8", "replace").partition(" ")
            found.append(Refused(code, message))
        else:
            raise ValueError(f"no kind of report: {kind!r}")
    return found
