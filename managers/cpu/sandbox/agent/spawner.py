"""A spawner: runs below the agent, in a process of its own, one command after another.

It is the child subreaper of its command, so that every descendant is found below it, and it becomes
the command's user. What it is told and what it reports stands in `orders`.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import _struct
import errno
import posix
import time

from .kernel import (
    PIPE_READ,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    log,
    prctl,
    show,
)
from .orders import Ended, Order, Refused, Started, pack_refusal, unpack_order
from .programs import Streams, start_program

STARTED_AFTER_S = 0.005
"""A command that runs longer than this is reported as started. Of shorter ones the agent hears
only once: it is not woken while they run, nor by their output."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127
"""Exit codes of commands that could not be started, as in a shell."""
MAX_CORES = 1024
MOVED_TO = 100
"""The first of descriptors that neither a spawner nor a session's shell has a use for."""


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
        _SpawnerProcess(channel).run()
    except BrokenPipeError:
        posix._exit(0)
    except BaseException as error:  # noqa: BLE001
        log(f"a spawner failed: {error!r}")
    finally:
        posix._exit(1)


class _SpawnerProcess:
    def __init__(self, channel: _socket.socket) -> None:
        self._channel = channel
        self._null = -1
        self._confined = False

    def run(self) -> None:
        """Until the agent hangs up."""
        while True:
            order, identity, pipes = self._receive()
            try:
                if identity is not None:
                    _become(*identity)
                self._prepare(order)
                report = self._run(order, pipes).pack()
            except Refused as refusal:
                _close_all(pipes)
                report = pack_refusal(refusal)
            self._channel.sendall(report)

    def _receive(self) -> "tuple[Order, tuple[int, int, list[int]] | None, list[int]]":
        """The next order and its pipes. Exits when the agent has hung up."""
        fds: "list[int]" = []
        received = b""
        while True:
            data, ancillary, _, _ = self._channel.recvmsg(
                PIPE_READ, _socket.CMSG_SPACE(3 * 4), _socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                posix._exit(0)
            for level, kind, payload in ancillary:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    fds += _struct.unpack(f"={len(payload) // 4}i", payload)
            received += data
            found = unpack_order(received)
            if found is not None:
                return (*found, fds)

    def _prepare(self, order: Order) -> None:
        try:
            posix.chdir(order.cwd)
        except OSError as error:
            message = f"cannot enter the folder {show(order.cwd)}: {error.strerror}"
            raise Refused("cwd", message) from error
        if order.affinity is None and not self._confined:
            return
        # The kernel cuts the set to what the sandbox may use; all takes back an earlier choice.
        cores = range(MAX_CORES) if order.affinity is None else order.affinity
        try:
            posix.sched_setaffinity(0, cores)
        except (OSError, ValueError) as error:
            raise Refused("affinity", f"cannot use the cores {list(cores)}: {error}") from error
        self._confined = order.affinity is not None

    def _open_null(self) -> int:
        if self._null < 0:
            try:
                self._null = posix.open(b"/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
            except OSError as error:
                raise Refused("stdin", f"cannot open /dev/null: {error.strerror}") from error
        return self._null

    def _run(self, order: Order, pipes: "list[int]") -> Ended:
        """Run it to its end."""
        started = time.monotonic()
        if order.terminal:
            _move_up(pipes)
            streams = Streams([], order.terminal, dict(zip(order.descriptors, pipes)))  # noqa: B905
        else:
            streams = Streams(pipes if len(pipes) == 3 else [self._open_null(), *pipes])
        try:
            pid = start_program(order.argv, order.env, streams)
        except OSError as error:
            streams.complain(complaint(order.argv[0], error))
            _close_all(pipes)
            missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            status = (NOT_FOUND if missing else NOT_EXECUTABLE) << 8
            return Ended(status, time.monotonic() - started, 0.0, 0, _reap_dead())
        _close_all(pipes)
        status, usage = self._wait(pid)
        run_s = time.monotonic() - started
        return Ended(status, run_s, *used(usage), _reap_dead())

    def _wait(self, pid: int) -> "tuple[int, posix.struct_rusage]":  # type: ignore[name-defined]
        """Reap until the command itself has ended; report it as started after a while."""
        report_at = time.monotonic() + STARTED_AFTER_S
        reported, reaped = False, 0
        while True:
            left_s = report_at - time.monotonic()
            if not reported and left_s <= 0:
                self._channel.sendall(Started(pid, STARTED_AFTER_S - left_s).pack())
                _offer_to_oom_killer(pid)
                reported = True
            if not reported and not reaped:  # One signal may stand for several ends.
                _signal.sigtimedwait((_signal.SIGCHLD,), left_s)
            reaped, status, usage = posix.wait4(-1, 0 if reported else posix.WNOHANG)
            if reaped == pid:
                return status, usage


def _become(uid: int, gid: int, groups: "list[int]") -> None:
    try:
        posix.setgroups(groups)
        posix.setgid(gid)
        posix.setuid(uid)
        prctl(PR_SET_DUMPABLE, 0)
    except OSError as error:
        message = f"cannot run as uid {uid}, gid {gid}: {error.strerror}"
        raise Refused("user", message) from error


def _offer_to_oom_killer(pid: int) -> None:
    """Rather the command, and what it starts from now on, than spawners or the agent."""
    try:
        fd = posix.open(f"/proc/{pid}/oom_score_adj", posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError:
        return  # It has ended, or runs as another user: the kernel chooses by size then.
    try:
        posix.write(fd, b"1000")
    except OSError as error:
        log(f"no higher oom score for {pid}: {error}")
    finally:
        posix.close(fd)


def _move_up(fds: "list[int]") -> None:
    """To numbers that are none of those which they are to have in the command."""
    for index, fd in enumerate(fds):
        posix.dup2(fd, MOVED_TO + index, False)
        posix.close(fd)
        fds[index] = MOVED_TO + index


def _close_all(fds: "list[int]") -> None:
    for fd in fds:
        posix.close(fd)


def _reap_dead() -> bool:
    """Reap what has ended; True if nothing is left."""
    while True:
        try:
            if posix.waitpid(-1, posix.WNOHANG)[0] == 0:
                return False
        except ChildProcessError:
            return True


def used(usage: "posix.struct_rusage") -> "tuple[float, int]":  # type: ignore[name-defined]
    """CPU seconds, and the most resident memory in bytes, of a process that was reaped."""
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def complaint(name: bytes, error: OSError) -> bytes:
    """What a command's stderr says when it could not be started."""
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EAGAIN:
        reason = "too many processes in the sandbox"
    return b"tangram: " + name[:200] + b": " + reason.encode() + b"\n"
