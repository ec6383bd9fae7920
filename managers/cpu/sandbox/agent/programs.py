"""Finding a program as a shell does, and starting it: streams, session and signals as they should be."""

import _signal  # type: ignore[import-not-found]
import _stat
import errno
import posix

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
"""By the agent and its spawners, so that nobody inside can disturb them."""
_RESET_SIGNALS = [*IGNORED_SIGNALS, _signal.SIGXFSZ, _signal.SIGCHLD]
"""What they ignore, or Python does, and a command must not."""


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


class Streams:
    """What a program reads and writes: three pipes, or a terminal, which becomes its own, and
    further descriptors, the numbers that they are to have -> what they are here."""

    def __init__(
        self, stdio: "list[int]", terminal: bytes = b"", others: "dict[int, int] | None" = None
    ) -> None:
        self.terminal = terminal
        self.moves = [(fd, number) for number, fd in enumerate(stdio)]
        if terminal:  # The first that a session's leader opens becomes its controlling one.
            self.moves = [(0, 1), (0, 2)]
            self.moves += [(fd, number) for number, fd in (others or {}).items()]
        self._error = stdio[2] if stdio else -1

    def complain(self, message: bytes) -> None:
        """Say on its error stream why it was not started."""
        if not self.terminal:
            posix.write(self._error, message)
            return
        fd = posix.open(self.terminal, posix.O_WRONLY | posix.O_NOCTTY | posix.O_CLOEXEC)
        posix.write(fd, message)
        posix.close(fd)


def start_program(argv: "list[bytes]", env: "dict[bytes, bytes]", streams: Streams) -> int:
    """Its pid, in a session of its own. Raises OSError as execve does."""
    path = find_program(argv[0], env.get(b"PATH", DEFAULT_PATH))
    try:
        return _spawn(path, argv, env, streams)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without its first line: what every shell does with it.
    return _spawn(b"/bin/sh", [b"sh", path, *argv[1:]], env, streams)


def _spawn(path: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", streams: Streams) -> int:
    if not hasattr(posix, "posix_spawn"):  # Python 3.7 and older.
        return _fork_exec(path, argv, env, streams)
    actions: "list[tuple[object, ...]]" = []
    if streams.terminal:
        actions.append((posix.POSIX_SPAWN_OPEN, 0, streams.terminal, posix.O_RDWR, 0))
    actions += [(posix.POSIX_SPAWN_DUP2, fd, number) for fd, number in streams.moves]
    try:
        return posix.posix_spawn(
            path,
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET_SIGNALS,
        )
    except NotImplementedError:  # A C library whose posix_spawn cannot start a session.
        return _fork_exec(path, argv, env, streams)


def _fork_exec(
    path: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", streams: Streams
) -> int:
    report, tell = posix.pipe2(posix.O_CLOEXEC)
    pid = posix.fork()
    if pid == 0:
        try:
            posix.setsid()
            if streams.terminal:
                posix.dup2(posix.open(streams.terminal, posix.O_RDWR), 0)
            for fd, number in streams.moves:
                posix.dup2(fd, number)
            for number in _RESET_SIGNALS:
                _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            posix.execve(path, argv, env)
        except OSError as error:
            posix.write(tell, b"%d" % (error.errno or errno.EIO))
        finally:
            posix._exit(127)
    posix.close(tell)
    failure = posix.read(report, 16)
    posix.close(report)
    if not failure:
        return pid
    posix.waitpid(pid, 0)
    raise OSError(int(failure), posix.strerror(int(failure)))
