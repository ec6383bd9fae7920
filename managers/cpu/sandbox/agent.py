"""The agent: process 1 of every sandbox. It runs commands and file calls for the server outside.

One self-contained file, because it is mounted alone into any image and run by whatever CPython >= 3.6
is there; only modules written in C are imported, because it stays resident in every sandbox (4 MiB
instead of 10). It knows nothing of actions' grants, leases or cores beyond what a request says.

    agent (PID 1) --- unix socket, connected from inside --> server
      +- spawner      a forked copy and child subreaper, one per running action, reused when clean
           +- command and all its descendants

The agent keeps running commands and finished results while no server is attached, and exits, which
ends the whole sandbox, when none came back for `--orphan-after` seconds. Nothing inside may reach
it: it is not dumpable, ignores signals, and serves only a peer outside its pid namespace.

A message is the list [kind, fields] in the codec below, behind its length in 4 bytes. `Agent.HANDLERS`
names what the server may send; `channel.py` is the other end.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import _stat
import _struct
import errno
import posix
import resource
import select
import sys
import time

try:
    import _ctypes
except ImportError:  # A build without libffi: no prctl, see `prctl`.
    _ctypes = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:  # The typing module is too heavy to import for real.
    from collections.abc import Callable

PROTOCOL = (1, 0)
"""Major, minor. Server and agent work one minor version apart."""
VERSION = "0.1.0"

KIB = 1024
MIB = 1024 * KIB
MAX_FRAME = 4 * MIB
"""Bytes of one message: what a request may hold in argv, environment and stdin together."""
MAX_DEPTH = 8
"""Levels of lists and dicts in a message; our own have three."""
CHUNK = MIB
"""Bytes of a file in one message, and the largest piece of output in one."""
PIPE_READ = 64 * KIB
"""Bytes taken from a pipe at once: a whole pipe buffer."""
MAX_OUTPUT = 64 * MIB
"""Bytes kept of one stream at most, since they are kept in the sandbox's memory."""
MAX_ACTIONS = 256
"""Commands running at once, and finished results kept for a server that comes back."""
MAX_ENTRIES = 10000
"""Entries of a folder in one answer: they fit a message with the longest names."""
MAX_TRANSFERS = 64
"""File reads and writes open at once."""
MAX_DISCARDED = 64
"""Pipes of survivors that are still drained; of more the oldest is closed."""
MAX_IDLE_SPAWNERS = 4
MAX_ACCOUNT_FILE = MIB
"""Bytes of /etc/passwd and /etc/group that are looked at."""

RETRY_S = 0.1
"""Between two attempts to reach the server."""
DRAIN_S = 0.1
"""How long output may come after the command ended, while descendants hold its pipes."""
TAIL_S = 0.5
"""Between two looks at the tail of an output above its limit."""
SPARE_DELAY_S = 0.02
"""A spare spawner is forked this long after the last was taken: not while its command starts."""
STARTED_AFTER_S = 0.005
"""A command that runs longer than this is reported as started."""
MAX_ATTEMPTS = 3
"""Spawners that may be killed under a command before it has started."""
REPORT_S = 0.2
"""How long a spawner may take to report a command that was killed."""
KILL_ROUNDS = 12
"""Rounds over /proc before a tree that multiplies faster costs the whole sandbox."""
MAX_KILL_ROUNDS = 300
"""Rounds after which the result is given although processes are left."""
KILL_PAUSE_S = 0.05
OOM_SCORE = b"500"
"""Of spawners and commands: the kernel's out-of-memory killer takes them before the agent."""

NOT_EXECUTABLE = 126
NOT_FOUND = 127
"""Exit codes of commands that could not be started, as in a shell."""
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TEMPORARY_PREFIX = b".tangram-"

TICKS_PER_S = posix.sysconf("SC_CLK_TCK")
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36


# --- Codec: None, bool, int, float, bytes, str, list and dict with str keys; nothing executable. ---

_LENGTH = _struct.Struct(">I")
_INT = _struct.Struct(">q")
_FLOAT = _struct.Struct(">d")


def encode(value: object) -> bytes:
    """The bytes of a value. Raises ValueError for one that has no encoding."""
    parts: "list[bytes]" = []
    _encode(value, parts, 0)
    return b"".join(parts)


def _encode(value: object, parts: "list[bytes]", depth: int) -> None:  # noqa: C901
    if depth > MAX_DEPTH:
        raise ValueError("nested deeper than {} levels".format(MAX_DEPTH))
    if value is None:
        parts.append(b"N")
    elif value is True:
        parts.append(b"T")
    elif value is False:
        parts.append(b"F")
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("{} does not fit 64 bits".format(value))
        parts.append(b"i" + _INT.pack(value))
    elif isinstance(value, float):
        parts.append(b"f" + _FLOAT.pack(value))
    elif isinstance(value, (bytes, bytearray)):
        parts.append(b"b" + _LENGTH.pack(len(value)))
        parts.append(bytes(value))
    elif isinstance(value, str):
        text = value.encode()
        parts.append(b"s" + _LENGTH.pack(len(text)) + text)
    elif isinstance(value, (list, tuple)):
        parts.append(b"l" + _LENGTH.pack(len(value)))
        for item in value:
            _encode(item, parts, depth + 1)
    elif isinstance(value, dict):
        parts.append(b"d" + _LENGTH.pack(len(value)))
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError("a key must be a str: {!r}".format(key))  # noqa: TRY004
            _encode(key, parts, depth + 1)
            _encode(item, parts, depth + 1)
    else:
        raise ValueError("{} has no encoding".format(type(value).__name__))


def decode(data: bytes) -> object:
    """The value of exactly these bytes. Raises ValueError, and nothing else, for any other bytes."""
    value, end = _decode(data, 0, 0)
    if end != len(data):
        raise ValueError("{} bytes follow the value".format(len(data) - end))
    return value


def _decode(data: bytes, at: int, depth: int) -> "tuple[object, int]":  # noqa: C901
    if depth > MAX_DEPTH:
        raise ValueError("nested deeper than {} levels".format(MAX_DEPTH))
    tag = data[at : at + 1]
    at += 1
    if tag == b"N":
        return None, at
    if tag == b"T":
        return True, at
    if tag == b"F":
        return False, at
    if tag == b"i" or tag == b"f":
        if at + 8 > len(data):
            raise ValueError("cut off in a number")
        return (_INT if tag == b"i" else _FLOAT).unpack_from(data, at)[0], at + 8
    if tag not in (b"b", b"s", b"l", b"d") or at + 4 > len(data):
        raise ValueError("no value at byte {}".format(at - 1))
    size: "int" = _LENGTH.unpack_from(data, at)[0]
    at += 4
    # Every item takes a byte or more: a lying count is refused before anything is built.
    if size > len(data) - at:
        raise ValueError("{} bytes or items are announced, {} left".format(size, len(data) - at))
    if tag == b"b":
        return data[at : at + size], at + size
    if tag == b"s":
        return data[at : at + size].decode(), at + size
    if tag == b"l":
        items = []
        for _ in range(size):
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        return items, at
    return _decode_dict(data, at, size, depth)


def _decode_dict(data: bytes, at: int, size: int, depth: int) -> "tuple[object, int]":
    fields: "dict[str, object]" = {}
    for _ in range(size):
        key, at = _decode(data, at, depth + 1)
        if not isinstance(key, str) or key in fields:
            raise ValueError("{!r} is no key, or there twice".format(key))
        fields[key], at = _decode(data, at, depth + 1)
    return fields, at


def frame(kind: str, fields: "dict[str, object]") -> bytes:
    """A message ready to be sent. Raises ValueError if it is above MAX_FRAME bytes."""
    body = encode([kind, fields])
    if len(body) > MAX_FRAME:
        raise ValueError("a message of {} bytes; at most {}".format(len(body), MAX_FRAME))
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> "list[tuple[str, dict[str, object]]]":
        """The messages that are whole now, as (kind, fields). Raises ValueError if the stream is
        not one of messages; it cannot be read any further then."""
        buffer = self._buffer
        buffer += data
        messages = []
        start = 0
        while len(buffer) - start >= 4:
            size: "int" = _LENGTH.unpack_from(buffer, start)[0]
            if size > MAX_FRAME:
                raise ValueError("a message of {} bytes; at most {}".format(size, MAX_FRAME))
            end = start + 4 + size
            if len(buffer) < end:
                break
            messages.append(_as_message(decode(bytes(buffer[start + 4 : end]))))
            start = end
        if start:
            del buffer[:start]
        return messages


def _as_message(value: object) -> "tuple[str, dict[str, object]]":
    if isinstance(value, list) and len(value) == 2:
        kind, fields = value
        if isinstance(kind, str) and isinstance(fields, dict):
            return kind, fields
    raise ValueError("not a message: [kind, fields] expected")


class Fields:
    """Reads a message's fields by type, so that a malformed one raises ValueError alone."""

    def __init__(self, fields: "dict[str, object]") -> None:
        self._fields = fields

    def _of(self, name: str, kinds: "tuple[type, ...]", what: str) -> object:
        value = self._fields.get(name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError("field {} must be {}".format(name, what))
        return value

    def text(self, name: str) -> str:
        return self._of(name, (str,), "a str")  # type: ignore[return-value]

    def data(self, name: str) -> bytes:
        return self._of(name, (bytes,), "bytes")  # type: ignore[return-value]

    def integer(self, name: str) -> int:
        """At least 0."""
        value: "int" = self._of(name, (int,), "an int")  # type: ignore[assignment]
        if value < 0:
            raise ValueError("field {} must not be negative".format(name))
        return value

    def number(self, name: str) -> float:
        return float(self._of(name, (int, float), "a number"))  # type: ignore[arg-type]

    def flag(self, name: str) -> bool:
        return self._of(name, (bool,), "a bool")  # type: ignore[return-value]

    def missing(self, name: str) -> bool:
        return self._fields.get(name) is None

    def strings(self, name: str) -> "list[bytes]":
        """A list of bytes that hold no NUL, as execve wants them."""
        values: "list[object]" = self._of(name, (list,), "a list")  # type: ignore[assignment]
        if not all(isinstance(value, bytes) and b"\0" not in value for value in values):
            raise ValueError("field {} must be a list of bytes without NUL".format(name))
        return values  # type: ignore[return-value]

    def integers(self, name: str) -> "list[int]":
        values: "list[object]" = self._of(name, (list,), "a list")  # type: ignore[assignment]
        if not all(isinstance(value, int) for value in values):
            raise ValueError("field {} must be a list of ints".format(name))
        return values  # type: ignore[return-value]

    def environment(self) -> "dict[bytes, bytes]":
        pairs: "dict[str, object]" = self._of("env", (dict,), "a dict")  # type: ignore[assignment]
        env = {}
        for name, value in pairs.items():
            key = name.encode()
            if not key or b"=" in key or not isinstance(value, bytes) or b"\0" in key + value:
                raise ValueError("field env: {!r} cannot be a variable".format(name))
            env[key] = value
        return env


# --- The kernel: prctl, /proc, accounts. ---


def prctl(option: int, value: int) -> bool:
    """Whether the kernel took it. False as well where Python has no libffi."""
    if _ctypes is None:
        return False
    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
    result: "int" = _ctypes.call_function(_ctypes.dlsym(library, "prctl"), (option, value, 0, 0, 0))
    return result == 0


class Process:
    """One line of the process table."""

    def __init__(self, pid: int, fields: "list[bytes]") -> None:
        self.pid = pid
        self.is_dead = fields[0] in (b"Z", b"X")
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start_ticks = int(fields[19])


def processes() -> "list[Process]":
    """All that /proc shows. Raises OSError where /proc is not mounted."""
    found = []
    for name in posix.listdir(b"/proc"):
        if not name.isdigit():
            continue
        try:
            stat = read_whole(b"/proc/" + name + b"/stat", 4 * KIB)
        except OSError:  # It ended meanwhile.
            continue
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        rest = stat.rpartition(b")")[2].split()
        if len(rest) > 19:
            found.append(Process(int(name), rest))
    return found


def descendants(table: "list[Process]", roots: "set[int]") -> "list[int]":
    """Live processes below the roots, which are not among them; zombies are dead already."""
    children: "dict[int, list[Process]]" = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found = []
    waiting = list(roots)
    while waiting:
        for process in children.get(waiting.pop(), ()):
            waiting.append(process.pid)
            if not process.is_dead and process.pid not in roots:
                found.append(process.pid)
    return found


def ticks_now() -> int:
    """Now as field 22 of /proc/PID/stat counts it: clock ticks since boot."""
    boottime_clock = 7
    return int(time.clock_gettime(boottime_clock) * TICKS_PER_S)


def signal_process(pid: int, number: int) -> None:
    """Silent where there is no such process, or it is not ours to signal."""
    try:
        posix.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def read_whole(path: bytes, limit: int) -> bytes:
    """At most `limit` bytes of a regular file; never waits for a FIFO that stands there."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    try:
        if not _stat.S_ISREG(posix.fstat(fd).st_mode):
            return b""
        parts = []
        while limit > 0:
            part = posix.read(fd, limit)
            if not part:
                break
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


class Account:
    """Who a command runs as."""

    def __init__(self, uid: int, gid: int, groups: "list[int]", name: bytes, home: bytes) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.name = name
        self.home = home

    def key(self) -> "tuple[int, ...]":
        return (self.uid, self.gid, *sorted(self.groups))


def account_lines(path: bytes) -> "list[list[bytes]]":
    try:
        lines = read_whole(path, MAX_ACCOUNT_FILE).splitlines()
    except OSError:
        return []
    return [line.split(b":") for line in lines]


def find_account(user: bytes) -> Account:
    """Of `name[:group]` or `uid[:gid]`. Raises ValueError with a sentence if there is none."""
    wanted, colon, wanted_group = user.partition(b":")
    number = int(wanted) if wanted.isdigit() else -1
    if number >= 1 << 32 or not wanted:
        raise ValueError("{} is no user".format(show(user)))
    uid, gid, name, home = number, 0, b"", b"/"
    for line in account_lines(b"/etc/passwd"):
        if len(line) < 6 or not line[2].isdigit() or not line[3].isdigit():
            continue
        if line[0] == wanted or int(line[2]) == number:
            uid, gid, name, home = int(line[2]), int(line[3]), line[0], line[5] or b"/"
            break
    if uid < 0:
        raise ValueError("no user {} in the sandbox's /etc/passwd".format(show(wanted)))
    if colon:
        gid = find_group(wanted_group)
        return Account(uid, gid, [gid], name, home)
    groups = {gid}
    for line in account_lines(b"/etc/group"):
        if len(line) >= 4 and line[2].isdigit() and name and name in line[3].split(b","):
            groups.add(int(line[2]))
    return Account(uid, gid, sorted(groups), name, home)


def find_group(group: bytes) -> int:
    for line in account_lines(b"/etc/group"):
        if len(line) >= 3 and line[0] == group and line[2].isdigit():
            return int(line[2])
    if not group.isdigit() or int(group) >= 1 << 32:
        raise ValueError("no group {} in the sandbox's /etc/group".format(show(group)))
    return int(group)


def show(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def find_program(name: bytes, search: bytes) -> bytes:
    """The path of a program as a shell finds it. Raises FileNotFoundError, PermissionError."""
    if b"/" in name:
        return name
    found_other = False
    for folder in search.split(b":"):
        path = (folder or b".") + b"/" + name
        try:
            mode = posix.stat(path).st_mode
        except OSError:
            continue
        if _stat.S_ISDIR(mode):
            continue
        if posix.access(path, posix.X_OK):
            return path
        found_other = True
    if found_other:
        raise PermissionError(errno.EACCES, "permission denied")
    raise FileNotFoundError(errno.ENOENT, "command not found")


# --- The spawner: runs below the agent, in a process of its own. ---


class Refused(Exception):
    """The command cannot be run as asked: `code` names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def spawner_main(channel: _socket.socket) -> None:
    """Run one command after another until the agent hangs up."""
    confined = False
    while True:
        fields, fds = receive_command(channel)
        try:
            confined = prepare_command(fields, fds, confined)
            run_command(channel, fields, fds)
        except Refused as refusal:
            for fd in fds:
                posix.close(fd)
            channel.sendall(frame("refused", {"code": refusal.code, "message": str(refusal)}))


def receive_command(channel: _socket.socket) -> "tuple[Fields, list[int]]":
    """The next command and its pipes. Exits when the agent has hung up."""
    fds: "list[int]" = []
    reader = FrameReader()
    while True:
        data, ancillary, _, _ = channel.recvmsg(
            PIPE_READ, _socket.CMSG_SPACE(3 * 4), _socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            posix._exit(0)
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds.extend(number for (number,) in _struct.Struct("=i").iter_unpack(payload))
        for _, fields in reader.feed(data):
            return Fields(fields), fds


def prepare_command(fields: Fields, fds: "list[int]", confined: bool) -> bool:
    """Become what the command shall be: user, folder, cores. Returns whether cores were set."""
    if not fields.missing("uid"):
        uid, gid = fields.integer("uid"), fields.integer("gid")
        try:
            if not fields.missing("groups"):
                posix.setgroups(fields.integers("groups"))
                posix.setgid(gid)
                posix.setuid(uid)
                prctl(PR_SET_DUMPABLE, 0)
        except OSError as error:
            message = "cannot run as uid {}, gid {}: {}".format(uid, gid, error.strerror)
            raise Refused("user", message) from error
    cwd = fields.data("cwd")
    try:
        posix.chdir(cwd)
    except OSError as error:
        message = "cannot enter the folder {}: {}".format(show(cwd), error.strerror)
        raise Refused("cwd", message) from error
    # The kernel cuts the set to what the sandbox may use; this one takes back an earlier choice.
    cores = range(1024) if fields.missing("affinity") else fields.integers("affinity")
    if confined or not fields.missing("affinity"):
        try:
            posix.sched_setaffinity(0, cores)
        except (OSError, ValueError) as error:
            message = "cannot use the cores {}: {}".format(list(cores), error)
            raise Refused("affinity", message) from error
    return not fields.missing("affinity")


def run_command(channel: _socket.socket, fields: Fields, fds: "list[int]") -> None:
    """Run it to its end and report `started`, `exited`."""
    argv = fields.strings("argv")
    flat = fields.strings("env")
    env = {flat[at]: flat[at + 1] for at in range(0, len(flat) - 1, 2)}
    stdio = fds if len(fds) == 3 else [open_null(), *fds]
    started = time.monotonic()
    try:
        pid = start_program(argv, env, stdio)
    except OSError as error:
        posix.write(stdio[2], complaint(argv[0], error))
        pid = 0
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        code = NOT_FOUND if missing else NOT_EXECUTABLE
        result: "dict[str, object]" = {"status": code << 8, "cpu": 0.0, "rss": 0}
    for fd in stdio:
        posix.close(fd)
    if pid:
        result = wait_for(pid, channel)
    result["run_s"] = time.monotonic() - started
    result["idle"] = reap_dead()
    channel.sendall(frame("exited", result))


def open_null() -> int:
    try:
        return posix.open(b"/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise Refused("stdin", "cannot open /dev/null: {}".format(error.strerror)) from error


def complaint(name: bytes, error: OSError) -> bytes:
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EAGAIN:
        reason = "too many processes in the sandbox"
    return b"tangram: " + name[:200] + b": " + reason.encode() + b"\n"


def wait_for(pid: int, channel: _socket.socket) -> "dict[str, object]":
    """Reap until the command itself has ended. One that runs on for a while is reported as
    started; for a short one that would only wake the agent while it runs."""
    report_at = time.monotonic() + STARTED_AFTER_S
    reported = False
    while True:
        reaped, status, usage = posix.wait4(-1, 0 if reported else posix.WNOHANG)
        if reaped == pid:
            return {
                "status": status,
                "cpu": usage.ru_utime + usage.ru_stime,
                "rss": usage.ru_maxrss * KIB,
            }
        left_s = report_at - time.monotonic()
        if not reported and left_s <= 0:
            channel.sendall(frame("started", {"pid": pid, "ago_s": STARTED_AFTER_S - left_s}))
            reported = True
        elif not reaped:
            _signal.sigtimedwait((_signal.SIGCHLD,), left_s)


def reap_dead() -> bool:
    """Reap what has ended; True if nothing is left."""
    while True:
        try:
            if posix.waitpid(-1, posix.WNOHANG)[0] == 0:
                return False
        except ChildProcessError:
            return True


def start_program(argv: "list[bytes]", env: "dict[bytes, bytes]", stdio: "list[int]") -> int:
    """Its pid, in a session of its own. Raises OSError as execve does."""
    path = find_program(argv[0], env.get(b"PATH", DEFAULT_PATH))
    try:
        return spawn(path, argv, env, stdio)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without its first line: what every shell does with it.
    return spawn(b"/bin/sh", [b"sh", path, *argv[1:]], env, stdio)


def reset_signals() -> "list[int]":
    """What the agent ignores and a command must not."""
    return [*IGNORED_SIGNALS, _signal.SIGXFSZ, _signal.SIGCHLD]


def spawn(path: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", stdio: "list[int]") -> int:
    if hasattr(posix, "posix_spawn"):
        actions = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
        try:
            return posix.posix_spawn(
                path,
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=reset_signals(),
            )
        except NotImplementedError:  # A C library whose posix_spawn cannot start a session.
            return fork_exec(path, argv, env, stdio)
    return fork_exec(path, argv, env, stdio)


def fork_exec(
    path: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", stdio: "list[int]"
) -> int:
    report, tell = posix.pipe2(posix.O_CLOEXEC)
    pid = posix.fork()
    if pid == 0:
        try:
            posix.setsid()
            for number, fd in enumerate(stdio):
                posix.dup2(fd, number)
            for number in reset_signals():
                _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            posix.execve(path, argv, env)
        except OSError as error:
            posix.write(tell, _LENGTH.pack(error.errno or errno.EIO))
        finally:
            posix._exit(127)
    posix.close(tell)
    failure = posix.read(report, 4)
    posix.close(report)
    if not failure:
        return pid
    posix.waitpid(pid, 0)
    code: "int" = _LENGTH.unpack(failure)[0]
    raise OSError(code, posix.strerror(code))


# --- The agent's side of a command. ---


class Spawner:
    """A spawner process as the agent sees it."""

    def __init__(self, pid: int, channel: _socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.reader = FrameReader()
        self.unsent = b""
        self.account: "tuple[int, ...]" = ()
        self.action: "Action | None" = None
        self.alive = True


def is_ready(spawner: Spawner) -> bool:
    """False if somebody inside killed or stopped it; the loop hears of that only later."""
    events = posix.WEXITED | posix.WSTOPPED | posix.WNOHANG | posix.WNOWAIT
    if posix.waitid(posix.P_PID, spawner.pid, events) is None:
        return True
    signal_process(spawner.pid, _signal.SIGKILL)
    return False


class Stream:
    """What is kept of stdout or stderr: its head, and the last bytes of what follows."""

    def __init__(self, name: str, fd: int, max_output: int) -> None:
        self.name = name
        self.fd = fd
        self.total = 0
        self.head = bytearray()
        self.head_limit = (max_output + 1) // 2
        self.tail = bytearray()
        self.tail_limit = max_output // 2
        self.sent = 0
        self.tail_due: "float | None" = None
        self.tail_sent_at = -TAIL_S

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.head_limit - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if not data:
            return
        self.tail += data
        if len(self.tail) > 2 * self.tail_limit:  # Cut rarely: cutting moves what is kept.
            del self.tail[: len(self.tail) - self.tail_limit]

    def pieces(self, now: float, final: bool) -> "list[tuple[int, bytes]]":
        """What was not sent yet and is due, as (offset, bytes); marks it sent."""
        found = []
        while self.sent < len(self.head):
            piece = bytes(self.head[self.sent : self.sent + CHUNK])
            found.append((self.sent, piece))
            self.sent += len(piece)
        self.tail_due = None
        if self.sent >= self.total or not self.tail_limit:
            return found
        if not final and now < self.tail_sent_at + TAIL_S:
            self.tail_due = self.tail_sent_at + TAIL_S
            return found
        self.tail_sent_at = now
        end = self.total
        position = max(self.sent, end - min(len(self.tail), self.tail_limit))
        while position < end:
            start = len(self.tail) - (end - position)
            piece = bytes(self.tail[start : start + CHUNK])
            found.append((position, piece))
            position += len(piece)
        self.sent = end
        return found


class Action:
    """A command from its request to the moment the server has taken its result."""

    def __init__(self, name: str, token: int, timeout_s: "float | None", now: float) -> None:
        self.name = name
        self.token = token
        self.timeout_s = timeout_s
        self.attached = True
        self.spawner: "Spawner | None" = None
        self.spawner_lost = False
        self.pid = 0
        self.started = now
        self.attempts = 0
        self.request: "tuple[dict[str, object], Account | None, bytes, int]" = ({}, None, b"", 0)
        self.start_ticks = ticks_now()
        self.deadline = None if timeout_s is None else now + timeout_s
        self.streams: "list[Stream]" = []
        self.stdin = -1
        self.unfed = memoryview(b"")
        self.exit: "dict[str, object] | None" = None
        self.outcome = "finished"
        self.end_at: "float | None" = None
        self.kill_at: "float | None" = None
        self.rounds = 0
        self.report_by: "float | None" = None
        self.reset = False
        self.result: "dict[str, object] | None" = None

    def wakeups(self) -> "list[float | None]":
        if self.result is not None:
            return []
        deadline = self.deadline if self.kill_at is None and self.exit is None else None
        tails = [stream.tail_due for stream in self.streams if self.attached]
        return [deadline, self.end_at, self.kill_at, *tails]


class Write:
    """A file being written: into a temporary file beside it, renamed over it at the end."""

    def __init__(self, folder: int, name: bytes, mode: int) -> None:
        self.folder = folder
        self.name = name
        self.mode = mode
        self.temporary = TEMPORARY_PREFIX + posix.urandom(8).hex().encode()
        self.size = 0
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        self.fd = posix.open(self.temporary, flags, 0o600, dir_fd=folder)

    def add(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = posix.write(self.fd, view)
            self.size += written
            view = view[written:]

    def commit(self) -> None:
        posix.fchmod(self.fd, self.mode)
        posix.rename(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.temporary = b""

    def close(self) -> None:
        """Removes the temporary file unless it was renamed."""
        posix.close(self.fd)
        try:
            if self.temporary:
                posix.unlink(self.temporary, dir_fd=self.folder)
        except FileNotFoundError:
            return
        finally:
            posix.close(self.folder)


class Read:
    """A file being read, one chunk per request of the server."""

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.left = limit or 1 << 62

    def chunk(self) -> "dict[str, object]":
        data = posix.read(self.fd, min(CHUNK, self.left))
        self.left -= len(data)
        size = posix.fstat(self.fd).st_size
        # Files of /proc have size 0 whatever they hold: only an empty read ends those.
        at_end = 0 < size <= posix.lseek(self.fd, 0, 1)
        return {"data": data, "size": size, "last": not data or self.left == 0 or at_end}

    def close(self) -> None:
        posix.close(self.fd)


def describe(name: bytes, status: "posix.stat_result", target: bytes) -> "dict[str, object]":
    kind = "other"
    if _stat.S_ISREG(status.st_mode):
        kind = "file"
    elif _stat.S_ISDIR(status.st_mode):
        kind = "directory"
    elif _stat.S_ISLNK(status.st_mode):
        kind = "symlink"
    return {
        "name": name,
        "kind": kind,
        "size": status.st_size,
        "mode": _stat.S_IMODE(status.st_mode),
        "modified": status.st_mtime,
        "target": target,
    }


class Agent:
    """The loop, single-threaded: no call in it waits for anything but the next event."""

    def __init__(self, path: bytes, orphan_after_s: float, oom_fd: int) -> None:
        self.path = path
        self.orphan_after_s = orphan_after_s
        self.oom_fd = oom_fd
        self.is_init = posix.getpid() == 1
        self.epoll = select.epoll()
        self.handlers: "dict[int, Callable[[], object]]" = {}
        self.server: "_socket.socket | None" = None
        self.reader = FrameReader()
        self.unsent = bytearray()
        self.waits_for_room = False
        self.retry_at = time.monotonic()
        self.detached_at = time.monotonic()
        self.env: "dict[bytes, bytes]" = {}
        self.workdir = b"/"
        self.shell: "list[bytes]" = []
        self.user = b""
        self.actions: "dict[str, Action]" = {}
        self.spawners: "dict[int, Spawner]" = {}
        self.idle: "list[Spawner]" = []
        self.spare_at: "float | None" = None
        self.reaped: "dict[int, tuple[float, dict[str, object]]]" = {}
        self.discarded: "list[int]" = []
        self.transfers: "dict[int, Read | Write]" = {}
        self.own_key = (posix.getuid(), posix.getgid(), *sorted(posix.getgroups()))
        self.accounts: "dict[bytes, Account]" = {}
        self.accounts_version: "list[object]" = []

    # --- The loop. ---

    def run(self) -> None:
        """Until SHUTDOWN, or until no server came for too long."""
        self.watch_children()
        self.fork_spare()
        while True:
            now = time.monotonic()
            self.tick(now)
            self.flush()
            for fd, _ in self.epoll.poll(self.pause(time.monotonic())):
                handler = self.handlers.get(fd)
                if handler is not None:  # An earlier event of this round may have closed it.
                    handler()

    def watch(self, fd: int, events: int, handler: "Callable[[], object]") -> None:
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def close_fd(self, fd: int) -> None:
        self.unwatch(fd)
        posix.close(fd)

    def pause(self, now: float) -> float:
        """Seconds until something is due; -1 for never."""
        due = [self.spare_at]
        if self.server is None:
            due += [self.retry_at, self.detached_at + self.orphan_after_s]
        for action in self.actions.values():
            due += action.wakeups()
        times = [at for at in due if at is not None]
        return max(0.0, min(times) - now) if times else -1.0

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.server is None:
            if now >= self.detached_at + self.orphan_after_s:
                leave("no server came for {:g} s".format(self.orphan_after_s))
            if now >= self.retry_at:
                self.connect(now)
        if self.spare_at is not None and now >= self.spare_at:
            self.fork_spare()
        for action in list(self.actions.values()):
            if action.result is None:
                self.tick_action(action, now)

    def tick_action(self, action: Action, now: float) -> None:
        if action.kill_at is None and action.exit is None:
            if action.deadline is not None and now >= action.deadline:
                self.begin_kill(action, "timed_out", now)
        if action.kill_at is not None and now >= action.kill_at:
            self.kill_round(action, now)
        if action.end_at is not None and now >= action.end_at:
            self.finish(action, now)
            return
        for stream in action.streams:
            if stream.tail_due is not None and now >= stream.tail_due:
                self.send_output(action, stream, now, False)

    # --- The server's connection. ---

    def connect(self, now: float) -> None:
        """Try once; who answers must stand outside of this pid namespace."""
        self.retry_at = now + RETRY_S
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        connection.setblocking(False)
        try:
            connection.connect(self.path)
        except OSError:  # Nobody listens (yet), or the backlog is full.
            connection.close()
            return
        peer = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if self.is_init and _struct.unpack("3i", peer)[0] != 0:
            connection.close()
            return
        self.server = connection
        self.reader = FrameReader()
        self.unsent = bytearray()
        self.waits_for_room = False
        self.watch(connection.fileno(), select.EPOLLIN, self.on_server)
        self.send(
            "hello",
            {
                "protocol": list(PROTOCOL),
                "version": VERSION,
                "pid": posix.getpid(),
                "python": "{}.{}.{}".format(*sys.version_info[:3]),
                "prctl": _ctypes is not None,
                "running": [a.name for a in self.actions.values() if a.result is None],
                "finished": [a.name for a in self.actions.values() if a.result is not None],
            },
        )

    def disconnect(self) -> None:
        """The server is gone: go on running, drop half-done transfers, look for the next one."""
        if self.server is None:
            return
        self.unwatch(self.server.fileno())
        self.server.close()
        self.server = None
        self.detached_at = time.monotonic()
        self.retry_at = self.detached_at + RETRY_S
        for transfer in list(self.transfers):
            self.end_transfer(transfer)
        for action in self.actions.values():
            action.attached = False
        self.drop_oldest_results()

    def on_server(self) -> None:
        if self.server is None:
            return
        try:
            data = self.server.recv(256 * KIB)
        except BlockingIOError:
            self.flush()
            return
        except OSError:
            data = b""
        if not data:
            self.disconnect()
            return
        try:
            for kind, fields in self.reader.feed(data):
                if kind not in self.HANDLERS:
                    raise ValueError("unknown kind {!r}".format(kind))
                self.HANDLERS[kind](self, Fields(fields))
        except ValueError as error:
            log("a malformed message, the server is dropped: {}".format(error))
            self.disconnect()

    def send(self, kind: str, fields: "dict[str, object]") -> None:
        """Queue a message; the loop sends what came together in one call."""
        if self.server is not None:
            self.unsent += frame(kind, fields)

    def flush(self) -> None:
        if not self.unsent or self.server is None:
            return
        try:
            sent = self.server.send(self.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.disconnect()
            return
        del self.unsent[:sent]
        if bool(self.unsent) != self.waits_for_room:
            self.waits_for_room = bool(self.unsent)
            events = select.EPOLLIN | (select.EPOLLOUT if self.unsent else 0)
            self.epoll.modify(self.server.fileno(), events)

    def on_config(self, fields: Fields) -> None:
        self.env = fields.environment()
        self.workdir = fields.data("workdir") or b"/"
        self.shell = fields.strings("shell")
        self.user = fields.data("user")
        number = fields.integer("id")
        try:
            self.account_for(self.user)
        except ValueError as error:
            self.fail(number, "user", self.user, str(error))
            return
        self.send("reply", {"id": number})

    def on_ping(self, fields: Fields) -> None:
        self.send("reply", {"id": fields.integer("id"), "version": VERSION})

    def on_shutdown(self, fields: Fields) -> None:
        leave("shut down")

    def fail(self, number: int, code: str, path: bytes, message: str) -> None:
        self.send("failed", {"id": number, "code": code, "path": path, "message": message})

    # --- Commands. ---

    def on_exec(self, fields: Fields) -> None:
        name, token = fields.text("action"), fields.integer("token")
        timeout_s = None if fields.missing("timeout_s") else fields.number("timeout_s")
        max_output = fields.integer("max_output")
        known = self.actions.get(name)
        if known is not None:
            self.reattach(known, token)
            return
        action = Action(name, token, timeout_s, time.monotonic())
        try:
            if max_output > MAX_OUTPUT:
                raise Refused(
                    "max_output", "at most {} bytes of output are kept".format(MAX_OUTPUT)
                )
            if sum(other.result is None for other in self.actions.values()) >= MAX_ACTIONS:
                raise Refused("action", "{} commands run in it already".format(MAX_ACTIONS))
            command, account = self.command_of(fields)
            action.request = (command, account, fields.data("stdin"), max_output)
            self.start(action, *action.request)
        except Refused as refusal:
            self.refuse(action, refusal.code, str(refusal))

    def refuse(self, action: Action, code: str, message: str) -> None:
        fields: "dict[str, object]" = {"action": action.name, "token": action.token}
        self.send("refused", dict(fields, code=code, message=message))

    def command_of(self, fields: Fields) -> "tuple[dict[str, object], Account | None]":
        """What the spawner is told, and who it must be (None: who the agent is)."""
        user = fields.data("user")
        try:
            account = self.account_for(user or self.user)
        except ValueError as error:
            raise Refused("user", str(error)) from error
        env = {b"PATH": DEFAULT_PATH}
        identity = {b"HOME": account.home}
        if account.name:
            identity.update({b"USER": account.name, b"LOGNAME": account.name})
        env.update(identity)
        env.update(self.env)
        if user:
            env.update(identity)
        env.update(fields.environment())
        argv = fields.strings("argv")
        if not argv:
            argv = self.shell_argv(fields.data("command"), env)
        command: "dict[str, object]" = {
            "argv": argv,
            "env": [part for pair in env.items() for part in pair],
            "cwd": join(self.workdir, fields.data("cwd")),
            "affinity": None if fields.missing("affinity") else fields.integers("affinity"),
        }
        return command, account if self.differs(account) else None

    def shell_argv(self, command: bytes, env: "dict[bytes, bytes]") -> "list[bytes]":
        if b"\0" in command:
            raise Refused("command", "the command holds a NUL byte")
        if self.shell:
            return [*self.shell, command]
        try:
            return [find_program(b"bash", env.get(b"PATH", DEFAULT_PATH)), b"-c", command]
        except OSError:
            return [b"sh", b"-c", command]

    def account_for(self, user: bytes) -> Account:
        """The account of a user, or of the agent itself. Raises ValueError with a sentence."""
        version: "list[object]" = []
        for path in (b"/etc/passwd", b"/etc/group"):
            try:
                status = posix.stat(path)
                version.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError:
                version.append(None)
        if version != self.accounts_version:
            self.accounts_version = version
            self.accounts = {}
        if user not in self.accounts:
            if len(self.accounts) >= MAX_ACTIONS:
                self.accounts = {}
            own = find_account(str(posix.getuid()).encode())
            account = find_account(user) if user else own
            if not user or (account.uid == own.uid and b":" not in user):
                account.gid = posix.getgid()
                account.groups = sorted(posix.getgroups())
            elif posix.getuid() != 0:
                message = (
                    "commands cannot run as {}: the sandbox itself runs as uid {}, not as root"
                )
                raise ValueError(message.format(show(user), own.uid))
            self.accounts[user] = account
        return self.accounts[user]

    def differs(self, account: Account) -> bool:
        """Whether running as this account means to change user or groups."""
        return account.key() != self.own_key

    def start(
        self,
        action: Action,
        command: "dict[str, object]",
        account: "Account | None",
        stdin: bytes,
        max_output: int,
    ) -> None:
        """Give the command to a spawner. Raises Refused if that cannot be."""
        try:
            spawner = self.take_spawner(account)
        except OSError as error:  # The sandbox is full of its own processes: the command's end.
            self.fail_start(action, max_output, error)
            return
        fds: "list[int]" = []  # The command's ends.
        ours: "list[int]" = []
        try:
            for index in range(3 if stdin else 2):
                ends = posix.pipe2(posix.O_CLOEXEC)
                feeds = bool(stdin) and index == 0
                fds.append(ends[0] if feeds else ends[1])
                ours.append(ends[1] if feeds else ends[0])
                posix.set_blocking(ours[-1], False)
                if account is not None:  # Else the command could not reopen /dev/stdout.
                    posix.fchown(fds[-1], account.uid, account.gid)
        except OSError as error:
            for fd in fds + ours:
                posix.close(fd)
            self.release_spawner(spawner, True)
            raise Refused("start", "the command cannot be started: {}".format(error)) from error
        action.attempts += 1
        if account is not None:
            become = None if spawner.account == account.key() else account.groups
            command = dict(command, uid=account.uid, gid=account.gid, groups=become)
            if become is not None:
                spawner.account = account.key()
        if stdin:
            action.stdin, action.unfed = ours.pop(0), memoryview(stdin)
        for index, name in enumerate(("stdout", "stderr")):
            fd = ours[index]
            stream = Stream(name, fd, max_output)
            action.streams.append(stream)
            self.watch(fd, select.EPOLLIN, self.output_handler(action, stream))
        action.spawner, spawner.action = spawner, action
        self.actions[action.name] = action
        self.send_command(spawner, frame("run", command), fds)
        for fd in fds:
            posix.close(fd)
        self.feed(action)

    def start_again(self, action: Action) -> None:
        """Its spawner was killed before the command had started: take another one."""
        self.forget_pipes(action)
        action.streams = []
        action.spawner_lost = False
        try:
            self.start(action, *action.request)
        except Refused as refusal:
            self.forget(action)
            self.refuse(action, refusal.code, str(refusal))

    def fail_start(self, action: Action, max_output: int, error: OSError) -> None:
        action.streams = [Stream(name, -1, max_output) for name in ("stdout", "stderr")]
        action.streams[1].add(complaint(b"the command", error))
        self.actions[action.name] = action
        status = NOT_EXECUTABLE << 8
        self.on_exit(action, {"status": status, "cpu": 0.0, "rss": 0, "run_s": 0.0, "idle": True})

    def send_command(self, spawner: Spawner, data: bytes, fds: "list[int]") -> None:
        rights = _struct.pack("={}i".format(len(fds)), *fds)
        try:
            sent = spawner.channel.sendmsg(
                [data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
            )
        except OSError:  # Somebody killed it; its death is being reported.
            signal_process(spawner.pid, _signal.SIGKILL)
            return
        spawner.unsent = data[sent:]
        if spawner.unsent:
            self.epoll.modify(spawner.channel.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def feed(self, action: Action) -> None:
        """Write what fits of the command's input; the rest when there is room."""
        if action.stdin < 0:
            return
        try:
            written = posix.write(action.stdin, action.unfed)
        except BlockingIOError:
            written = 0
        except OSError:  # It does not read its input: its right.
            written = len(action.unfed)
        action.unfed = action.unfed[written:]
        if not action.unfed:
            self.close_fd(action.stdin)
            action.stdin = -1
        elif action.stdin not in self.handlers:
            self.watch(action.stdin, select.EPOLLOUT, lambda: self.feed(action))

    def output_handler(self, action: Action, stream: Stream) -> "Callable[[], object]":
        return lambda: self.on_output(action, stream)

    def on_output(self, action: Action, stream: Stream) -> bool:
        """Take one piece from a pipe. Returns whether there may be more now."""
        try:
            data = posix.read(stream.fd, PIPE_READ)
        except BlockingIOError:
            return False
        if not data:
            self.close_fd(stream.fd)
            stream.fd = -1
            self.settle(action)
            return False
        stream.add(data)
        self.send_output(action, stream, time.monotonic(), False)
        return True

    def send_output(self, action: Action, stream: Stream, now: float, final: bool) -> None:
        if not action.attached:
            return
        if not final and len(self.unsent) > MAX_FRAME and stream.sent >= stream.head_limit:
            stream.tail_due = now + TAIL_S  # The server is slow: what it gets late may be newer.
            return
        for offset, data in stream.pieces(now, final):
            self.send(
                "output",
                {"action": action.name, "stream": stream.name, "offset": offset, "data": data},
            )

    def on_spawner(self, spawner: Spawner) -> None:
        """A spawner reports, or has room for the rest of a long command."""
        try:
            if spawner.unsent:
                spawner.unsent = spawner.unsent[spawner.channel.send(spawner.unsent) :]
                if not spawner.unsent:
                    self.epoll.modify(spawner.channel.fileno(), select.EPOLLIN)
            data = spawner.channel.recv(PIPE_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # It ended; SIGCHLD says the rest.
            self.unwatch(spawner.channel.fileno())
            return
        try:
            for kind, fields in spawner.reader.feed(data):
                self.on_report(spawner, kind, Fields(fields))
        except ValueError as error:
            log("a spawner that is not itself: {}".format(error))
            signal_process(spawner.pid, _signal.SIGKILL)

    def on_report(self, spawner: Spawner, kind: str, fields: Fields) -> None:
        action = spawner.action
        if action is None or action.exit is not None:
            return
        if kind == "started":
            action.pid = fields.integer("pid")
            action.started = time.monotonic() - fields.number("ago_s")
            if action.timeout_s is not None:
                action.deadline = action.started + action.timeout_s
        elif kind == "refused":
            self.forget(action)
            self.release_spawner(spawner, fields.text("code") != "user")
            self.refuse(action, fields.text("code"), fields.text("message"))
        elif kind == "exited":
            report: "dict[str, object]" = {
                "status": fields.integer("status"),
                "run_s": fields.number("run_s"),
                "cpu": fields.number("cpu"),
                "rss": fields.integer("rss"),
                "idle": fields.flag("idle"),
            }
            self.on_exit(action, report)

    def on_exit(self, action: Action, report: "dict[str, object]") -> None:
        """The command itself has ended: take what it left in the pipes, then end the action."""
        action.exit = report
        action.request = ({}, None, b"", 0)
        if action.kill_at is not None:
            action.kill_at = time.monotonic()  # Look at once whether anything is left.
        for stream in action.streams:
            for _ in range(16):  # A pipe's worth; a survivor may write forever.
                if stream.fd < 0 or not self.on_output(action, stream):
                    break
        self.settle(action)

    def settle(self, action: Action) -> None:
        """End the action if its command and its output have ended and nothing is to be killed."""
        if action.exit is None or action.kill_at is not None or action.result is not None:
            return
        now = time.monotonic()
        if all(stream.fd < 0 for stream in action.streams):
            self.finish(action, now)
        elif action.end_at is None:
            action.end_at = now + DRAIN_S

    def finish(self, action: Action, now: float) -> None:
        """Give the result; what the command left behind stays, and belongs to no action."""
        report = action.exit or {}
        idle = bool(report.get("idle")) and not action.spawner_lost
        survivors = 0 if idle else len(self.below(action))
        self.forget_pipes(action)
        for stream in action.streams:
            self.send_output(action, stream, now, True)
        status: "int" = report["status"]  # type: ignore[assignment]
        number = posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else None
        action.result = {
            "action": action.name,
            "token": action.token,
            "outcome": action.outcome,
            "exit_code": posix.WEXITSTATUS(status) if number is None else -number,
            "signal": number,
            "run_s": report["run_s"],
            "cpu_s": report["cpu"],
            "rss": report["rss"],
            "stdout": action.streams[0].total,
            "stderr": action.streams[1].total,
            "survivors": survivors,
            "reset": action.reset,
        }
        spawner, action.spawner = action.spawner, None
        if spawner is not None:
            self.release_spawner(spawner, idle)
        if action.attached:
            self.send("result", action.result)
        self.drop_oldest_results()

    def forget_pipes(self, action: Action) -> None:
        """Survivors may still write: their pipes are drained into nothing until they close them."""
        if action.stdin >= 0:
            self.close_fd(action.stdin)
            action.stdin = -1
        for stream in action.streams:
            if stream.fd >= 0:
                fd, stream.fd = stream.fd, -1
                self.unwatch(fd)
                self.discarded.append(fd)
                self.watch(fd, select.EPOLLIN, self.discard_handler(fd))
        while len(self.discarded) > MAX_DISCARDED:
            self.close_fd(self.discarded.pop(0))

    def discard_handler(self, fd: int) -> "Callable[[], object]":
        return lambda: self.discard(fd)

    def discard(self, fd: int) -> None:
        if not posix.read(fd, PIPE_READ):
            self.discarded.remove(fd)
            self.close_fd(fd)

    def forget(self, action: Action) -> None:
        self.forget_pipes(action)
        self.actions.pop(action.name, None)

    def drop_oldest_results(self) -> None:
        finished = [action for action in self.actions.values() if action.result is not None]
        for action in finished[:-MAX_ACTIONS]:
            del self.actions[action.name]

    def on_attach(self, fields: Fields) -> None:
        action = self.actions.get(fields.text("action"))
        token = fields.integer("token")
        if action is None:
            self.refuse(
                Action(fields.text("action"), token, None, 0.0), "unknown", "no such action"
            )
            return
        self.reattach(action, token)

    def reattach(self, action: Action, token: int) -> None:
        """Send a server all that is kept of an action, from the beginning."""
        if token != action.token:
            asked = Action(action.name, token, None, 0.0)
            self.refuse(asked, "token", "the action is known with another token")
            return
        action.attached = True
        for stream in action.streams:
            stream.sent = 0
            self.send_output(action, stream, time.monotonic(), True)
        if action.result is not None:
            self.send("result", action.result)

    def on_taken(self, fields: Fields) -> None:
        action = self.actions.get(fields.text("action"))
        if action is not None and action.result is not None:
            if action.token == fields.integer("token"):
                self.forget(action)

    # --- Killing. ---

    def on_kill(self, fields: Fields) -> None:
        action = self.actions.get(fields.text("action"))
        if action is not None and action.result is None and action.kill_at is None:
            self.begin_kill(action, "killed", time.monotonic())

    def begin_kill(self, action: Action, outcome: str, now: float) -> None:
        action.outcome = outcome
        action.end_at = None
        action.kill_at = now
        self.kill_round(action, now)

    def kill_round(self, action: Action, now: float) -> None:
        """Kill what lives below the action's spawner; come back until nothing does."""
        action.rounds += 1
        victims = self.below(action)
        if victims and action.rounds < MAX_KILL_ROUNDS:
            if self.is_init and action.rounds % KILL_ROUNDS == 0:
                self.reset_sandbox()
            for pid in victims:
                signal_process(pid, _signal.SIGKILL)
            action.kill_at = now + min(0.001 * action.rounds, KILL_PAUSE_S)
        elif action.exit is None:
            self.await_report(action, now)
        else:
            action.kill_at = None
            self.settle(action)

    def await_report(self, action: Action, now: float) -> None:
        """Everything is dead, but the spawner has not said so: it may be stopped, or dead too."""
        if action.report_by is None:
            action.report_by = now + REPORT_S
        elif now >= action.report_by + REPORT_S or action.rounds >= MAX_KILL_ROUNDS:
            self.on_exit(action, self.death_report(action))
        elif now >= action.report_by and action.spawner is not None:
            signal_process(action.spawner.pid, _signal.SIGKILL)
        action.kill_at = now if action.exit is not None else now + KILL_PAUSE_S

    def below(self, action: Action) -> "list[int]":
        """The live processes of an action. Without its spawner they are ours, known by their age."""
        try:
            table = processes()
        except OSError:
            return [action.pid] if action.pid and action.exit is None else []
        if action.spawner is not None and not action.spawner_lost:
            return descendants(table, {action.spawner.pid})
        orphans = self.orphans(table, action)
        alive = [process.pid for process in orphans if not process.is_dead]
        return descendants(table, {process.pid for process in orphans}) + alive

    def orphans(self, table: "list[Process]", action: Action) -> "list[Process]":
        """Children of ours that no spawner holds any more, no older than the action."""
        own = posix.getpid()
        return [
            process
            for process in table
            if process.parent == own
            and process.pid not in self.spawners
            and process.start_ticks >= action.start_ticks
        ]

    def reset_sandbox(self) -> None:
        """Kill every process but this one, in one stroke of the kernel."""
        signal_process(-1, _signal.SIGKILL)
        for action in self.actions.values():
            if action.result is None:
                action.reset = True

    # --- Children. ---

    def watch_children(self) -> None:
        wake, tell = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.signal(_signal.SIGCHLD, lambda number, stack: None)
        _signal.set_wakeup_fd(tell)
        self.watch(wake, select.EPOLLIN, lambda: self.reap(wake))

    def reap(self, wake: int) -> None:
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
            if pid in self.spawners:
                lost.append(self.spawners.pop(pid))
                continue
            cpu = usage.ru_utime + usage.ru_stime
            report: "dict[str, object]" = {"status": status, "cpu": cpu}
            report["rss"] = usage.ru_maxrss * KIB
            self.reaped[pid] = (time.monotonic(), report)
        for spawner in lost:
            self.lose_spawner(spawner)
        for action in list(self.actions.values()):
            if action.spawner_lost and action.exit is None:
                self.look_after(action)
        # A command may be reaped just before its spawner: keep those of actions that run.
        running = {action.pid for action in self.actions.values() if action.exit is None}
        if 0 not in running:
            self.reaped = {pid: end for pid, end in self.reaped.items() if pid in running}

    def look_after(self, action: Action) -> None:
        """A command without its spawner: it ended, it runs on as ours, or it never started."""
        action.pid = action.pid or self.find_command(action)
        if not action.pid and action.kill_at is None and action.attempts < MAX_ATTEMPTS:
            self.start_again(action)
        elif action.pid in self.reaped or not action.pid:
            self.on_exit(action, self.death_report(action))

    def lose_spawner(self, spawner: Spawner) -> None:
        """It was killed from inside, or let go. What it ran is ours now."""
        self.on_spawner(spawner)  # It may have reported before it died.
        spawner.alive = False
        self.unwatch(spawner.channel.fileno())
        spawner.channel.close()
        if spawner in self.idle:
            self.idle.remove(spawner)
        if spawner.action is not None and spawner.action.exit is None:
            spawner.action.spawner_lost = True

    def find_command(self, action: Action) -> int:
        """The pid that a spawner took with it when it was killed before it could report: of the
        first session leader that became ours, or of the first orphan that ended meanwhile."""
        known = {other.pid for other in self.actions.values()}
        try:
            orphans = self.orphans(processes(), action)
        except OSError:
            orphans = []
        leaders = [process.pid for process in orphans if process.session == process.pid]
        ended = [pid for pid, (at, _) in self.reaped.items() if at >= action.started]
        candidates = [pid for pid in sorted(leaders) + sorted(ended) if pid not in known]
        return candidates[0] if candidates else 0

    def death_report(self, action: Action) -> "dict[str, object]":
        """The end of a command that only we saw, or that nobody did (taken as killed)."""
        unseen: "dict[str, object]" = {"status": int(_signal.SIGKILL), "cpu": 0.0, "rss": 0}
        _, report = self.reaped.pop(action.pid, (0.0, unseen))
        return dict(report, run_s=time.monotonic() - action.started, idle=False)

    def take_spawner(self, account: "Account | None") -> Spawner:
        """An idle spawner that is this account already, or one that can become it. May fork."""
        wanted = () if account is None else account.key()
        for key in (wanted, ()):
            for spawner in list(self.idle):
                if spawner.account == key and is_ready(spawner):
                    self.idle.remove(spawner)
                    if not self.idle:
                        self.spare_at = time.monotonic() + SPARE_DELAY_S
                    return spawner
        return self.fork_spawner()

    def release_spawner(self, spawner: Spawner, reusable: bool) -> None:
        """Keep it for the next command, or let it go: survivors become the agent's."""
        spawner.action = None
        if reusable and spawner.alive and len(self.idle) < MAX_IDLE_SPAWNERS:
            self.idle.append(spawner)
        elif spawner.alive:
            signal_process(spawner.pid, _signal.SIGKILL)

    def fork_spare(self) -> None:
        self.spare_at = None
        if any(spawner.account == () for spawner in self.idle):
            return
        try:
            self.idle.append(self.fork_spawner())
        except OSError as error:  # The next command tries again, and its user is told.
            log("no spare spawner: {}".format(error))

    def fork_spawner(self) -> Spawner:
        ours, theirs = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0
        )
        set_oom_score(self.oom_fd, OOM_SCORE)  # Inherited; the agent takes its own back.
        try:
            pid = posix.fork()
        except OSError:
            ours.close()
            theirs.close()
            set_oom_score(self.oom_fd, b"0")
            raise
        if pid == 0:
            become_spawner(theirs)
        set_oom_score(self.oom_fd, b"0")
        theirs.close()
        ours.setblocking(False)
        spawner = Spawner(pid, ours)
        self.spawners[pid] = spawner
        self.watch(ours.fileno(), select.EPOLLIN, lambda: self.on_spawner(spawner))
        return spawner

    # --- Files. ---

    def with_user(self, call: "Callable[[], object]") -> object:
        """Do it as the default user: the process is single-threaded, so nobody else is it then."""
        account = self.account_for(self.user)
        if not self.differs(account):
            return call()
        groups, gid, uid = posix.getgroups(), posix.getegid(), posix.geteuid()
        try:
            posix.setgroups(account.groups)
            posix.setegid(account.gid)
            posix.seteuid(account.uid)
            return call()
        finally:
            posix.seteuid(uid)
            posix.setegid(gid)
            posix.setgroups(groups)
            prctl(PR_SET_DUMPABLE, 0)

    def file_call(
        self, number: int, path: bytes, call: "Callable[[bytes], dict[str, object]]"
    ) -> None:
        """Answer with what `call` returns of the path, or with the errno that it failed with."""
        try:
            if not path or b"\0" in path:
                raise OSError(errno.EINVAL, "a path must not be empty or hold NUL bytes")
            fields = self.with_user(lambda: call(join(self.workdir, path)))
            self.send("reply", dict(fields, id=number))  # type: ignore[call-overload]
        except OSError as error:
            self.end_transfer(number)
            self.fail_errno(number, path, error)
        except ValueError as error:  # The default user is gone from /etc/passwd.
            self.fail(number, "EPERM", path, str(error))

    def fail_errno(self, number: int, path: bytes, error: OSError) -> None:
        code = errno.errorcode.get(error.errno or 0, "EIO")
        self.fail(number, code, path, error.strerror or str(error))

    def on_stat(self, fields: Fields) -> None:
        self.file_call(fields.integer("id"), fields.data("path"), stat_file)

    def on_list(self, fields: Fields) -> None:
        self.file_call(fields.integer("id"), fields.data("path"), list_folder)

    def on_read(self, fields: Fields) -> None:
        number, offset = fields.integer("id"), fields.integer("offset")
        limit = fields.integer("limit")

        def begin(path: bytes) -> "dict[str, object]":
            self.check_transfer(number)
            self.transfers[number] = transfer = Read(open_regular(path, offset), limit)
            return self.next_chunk(number, transfer)

        self.file_call(number, fields.data("path"), begin)

    def next_chunk(self, number: int, transfer: Read) -> "dict[str, object]":
        chunk = transfer.chunk()
        if chunk["last"]:
            self.end_transfer(number)
        return chunk

    def on_more(self, fields: Fields) -> None:
        number = fields.integer("id")
        transfer = self.transfers.get(number)
        if isinstance(transfer, Read):
            try:
                self.send("reply", dict(self.next_chunk(number, transfer), id=number))
            except OSError as error:
                self.end_transfer(number)
                self.fail_errno(number, b"", error)

    def on_write(self, fields: Fields) -> None:
        number, mode = fields.integer("id"), fields.integer("mode") & 0o7777

        def begin(path: bytes) -> "dict[str, object]":
            self.check_transfer(number)
            folder, name = open_parent(path)
            try:
                self.transfers[number] = Write(folder, name, mode)
            except OSError:
                posix.close(folder)
                raise
            return self.add_chunk(number, fields)

        self.file_call(number, fields.data("path"), begin)

    def on_chunk(self, fields: Fields) -> None:
        number = fields.integer("id")
        if number in self.transfers:  # Else it failed before, and the server knows.
            self.file_call(number, b"/", lambda path: self.add_chunk(number, fields))

    def add_chunk(self, number: int, fields: Fields) -> "dict[str, object]":
        transfer = self.transfers[number]
        if not isinstance(transfer, Write):
            raise OSError(errno.EBADF, "not being written")
        transfer.add(fields.data("data"))
        if fields.flag("last"):
            transfer.commit()
            self.end_transfer(number)
        return {"size": transfer.size}

    def on_abort(self, fields: Fields) -> None:
        self.end_transfer(fields.integer("id"))

    def check_transfer(self, number: int) -> None:
        if number in self.transfers:
            raise OSError(errno.EBUSY, "a transfer of that number is open")
        if len(self.transfers) >= MAX_TRANSFERS:
            raise OSError(errno.EMFILE, "{} transfers are open".format(MAX_TRANSFERS))

    def end_transfer(self, number: int) -> None:
        transfer = self.transfers.pop(number, None)
        if transfer is not None:
            transfer.close()

    HANDLERS: "dict[str, Callable[[Agent, Fields], None]]" = {  # noqa: RUF012
        "config": on_config,
        "ping": on_ping,
        "shutdown": on_shutdown,
        "exec": on_exec,
        "kill": on_kill,
        "attach": on_attach,
        "taken": on_taken,
        "stat": on_stat,
        "list": on_list,
        "read": on_read,
        "more": on_more,
        "write": on_write,
        "chunk": on_chunk,
        "abort": on_abort,
    }


# --- File calls, as the user whose files they are. ---


def join(folder: bytes, path: bytes) -> bytes:
    return path if path.startswith(b"/") else folder.rstrip(b"/") + b"/" + path


def stat_file(path: bytes) -> "dict[str, object]":
    status = posix.lstat(path)
    target = posix.readlink(path) if _stat.S_ISLNK(status.st_mode) else b""
    return describe(path.rstrip(b"/").rpartition(b"/")[2] or b"/", status, target)


def list_folder(path: bytes) -> "dict[str, object]":
    entries: "list[dict[str, object]]" = []
    left = MAX_FRAME - MIB  # For names and targets; the rest is the numbers'.
    with posix.scandir(path) as folder:
        for entry in folder:
            if len(entries) == MAX_ENTRIES or left < 0:
                message = "more than {} entries, or very long names: run find instead"
                raise OSError(errno.EOVERFLOW, message.format(MAX_ENTRIES))
            try:
                status = entry.stat(follow_symlinks=False)
                link = _stat.S_ISLNK(status.st_mode)
                target = posix.readlink(entry.path) if link else b""
            except FileNotFoundError:  # Removed since the folder was read.
                continue
            entries.append(describe(entry.name, status, target))
            left -= len(entry.name) + len(target)
    entries.sort(key=lambda entry: entry["name"])  # type: ignore[arg-type,return-value]
    return {"entries": entries}


def open_regular(path: bytes, offset: int) -> int:
    """A regular file opened for reading: a FIFO or a device would not end, or never open."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
    try:
        mode = posix.fstat(fd).st_mode
        if _stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, posix.strerror(errno.EISDIR))
        if not _stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        posix.lseek(fd, offset, 0)
    except OSError:
        posix.close(fd)
        raise
    return fd


def open_parent(path: bytes) -> "tuple[int, bytes]":
    """The file's folder, made with its parents if missing, and the file's name in it. A symlink
    that stands there is replaced itself, as a rename does; its target stays what it was."""
    folder, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        raise IsADirectoryError(errno.EISDIR, "the path names a folder")
    made = b""
    for part in folder.split(b"/"):
        made += part + b"/"
        try:
            posix.mkdir(made, 0o777)
        except FileExistsError:
            continue
        except OSError:  # A read-only or foreign parent may well be there: opening it decides.
            if not _stat.S_ISDIR(posix.stat(made).st_mode):
                raise
    fd = posix.open(folder or b"/", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        if _stat.S_ISDIR(posix.lstat(path).st_mode):
            posix.close(fd)
            raise IsADirectoryError(errno.EISDIR, posix.strerror(errno.EISDIR))
    except FileNotFoundError:
        return fd, name
    return fd, name


# --- Start. ---

IGNORED_SIGNALS = [
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTERM,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
    _signal.SIGPIPE,
    _signal.SIGTSTP,
    _signal.SIGTTIN,
    _signal.SIGTTOU,
]


def set_oom_score(fd: int, score: bytes) -> None:
    """Best effort: the order in which the kernel kills is a courtesy, not a guarantee."""
    if fd < 0:
        return
    try:
        posix.pwrite(fd, score, 0)
    except OSError as error:
        log("oom_score_adj: {}".format(error))


def become_spawner(channel: _socket.socket) -> None:
    """The rest of a forked child's life."""
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD,))  # Waited for instead.
        keep = channel.fileno()
        highest = max([int(name) for name in posix.listdir("/proc/self/fd")])
        posix.closerange(3, keep)
        posix.closerange(keep + 1, highest + 1)
        spawner_main(channel)
    except BrokenPipeError:
        posix._exit(0)
    except BaseException as error:  # noqa: BLE001
        log("a spawner failed: {!r}".format(error))
    finally:
        posix._exit(1)


def log(message: str) -> None:
    try:
        posix.write(2, "tangram agent: {}\n".format(message).encode("utf-8", "replace"))
    except OSError:  # Whoever read it is gone.
        return


def leave(reason: str) -> None:
    """Exit. As PID 1 that ends every process; otherwise they are killed as far as seen."""
    log(reason)
    if posix.getpid() != 1:
        for _ in range(KILL_ROUNDS):
            victims = descendants(processes(), {posix.getpid()})
            for pid in victims:
                signal_process(pid, _signal.SIGKILL)
            if not victims:
                break
    posix._exit(0)


def parse_arguments(arguments: "list[str]") -> "dict[str, str]":
    options = {}
    for at in range(0, len(arguments) - 1, 2):
        name, value = arguments[at], arguments[at + 1]
        if name not in ("--socket", "--orphan-after", "--uid", "--gid"):
            raise ValueError("unknown option {}".format(name))
        options[name] = value
    if len(arguments) % 2 or "--socket" not in options or "--orphan-after" not in options:
        raise ValueError("usage: agent.py --socket PATH --orphan-after SECONDS [--uid N --gid N]")
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
    Agent(
        options["--socket"].encode("utf-8", "surrogateescape"),
        float(options["--orphan-after"]),
        oom_fd,
    ).run()


if __name__ == "__main__":
    main(sys.argv[1:])
