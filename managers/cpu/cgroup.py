"""The limits of a sandbox as the kernel enforces them: control groups, v1 and v2 alike.

`Cgroups` is this server's part of the tree (`tangram-<name>`), `SandboxCgroup` one group in it, or
a Docker container's own group. All calls are short file IO; `kill_all`, `remove` and `reap` may
wait and belong in a thread. Which sandbox gets what is the manager's decision, not taken here.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .cgroup_files import Counter, Dialect, DialectV1, DialectV2, Setting
from .cores import parse_cores

KILL_WAIT_S = 5.0
"""For the members of a group to vanish after SIGKILL; only an uninterruptible disk wait is longer."""
REMOVE_WAIT_S = 2.0
"""For the kernel to let go of a group whose last process just ended."""
POLL_S = 0.002
OWNED_PREFIX = "s-"
"""Groups that `create` made: `reap` touches no others, so not those of Docker's containers."""
PROBE_MEMORY_BYTES = 64 << 20
PROBE_PIDS = 64
_READ_BYTES_MAX = 1 << 20
_COUNTER_BYTES_MAX = 4096
"""Of a file with a counter: a few short lines."""


@dataclass(frozen=True, slots=True)
class ControllerCheck:
    """Whether one controller can be used, tried by writing a value and reading it back."""

    name: str
    writable: bool
    detail: str


class SandboxCgroup:
    """One group. Settings whose controller cannot be used are skipped: `Cgroups.limits` says so.

    Raises OSError (ENOENT, ENODEV) once the group is gone.
    """

    def __init__(
        self, dialect: Dialect, folders: Mapping[str, Path], all_cores: tuple[int, ...]
    ) -> None:
        self._dialect = dialect
        self._folders = dict(folders)
        self._open: dict[tuple[str, str], int] = {}
        """What changes or is read with every action, kept open: opening a file costs five times as
        much as writing it."""
        self._closed = False
        self._wanted: dict[str, Setting] = {}
        """By file, what was set last of that which changes often."""
        self._all_cores = all_cores

    def add(self, pid: int) -> None:
        """Move a process here; what it starts from now on is born here. Raises ProcessLookupError
        if it is gone."""
        for folder in dict.fromkeys(self._folders.values()):
            _write(folder / "cgroup.procs", str(pid))

    def set_memory(self, limit_bytes: int) -> None:
        """Memory, and swap where the kernel counts it, together at most this."""
        limit, swap = self._dialect.memory(limit_bytes)
        try:
            self._apply(limit)
            self._apply(swap)
        except FileNotFoundError:
            if self._exists(limit):
                return  # Swap is not counted here, so there is no file for it.
            raise
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # On v1 the limit may never exceed that of memory and swap: raise that one first.
            self._apply(swap)
            self._apply(limit)

    def set_pids(self, count: int) -> None:
        self._apply(self._dialect.pids(count))

    def set_cores(self, cores: tuple[int, ...]) -> None:
        """Exactly these cores: affinity, CPU time and weight in proportion."""
        self._set(self._dialect.cpuset(cores))
        self._set(self._dialect.quota(len(cores)))
        self._set(self._dialect.weight(len(cores)))

    def park(self, cores: tuple[int, ...] = ()) -> None:
        """On these cores, or on all, with the least weight: it runs only where nobody else does.
        The quota of the last grant stays: what idles needs no more."""
        self._set(self._dialect.weight(0))
        self._set(self._dialect.cpuset(cores or self._all_cores))

    def boost(self, on: bool) -> None:
        """The weight of one core for a parked sandbox, or the least again."""
        self._set(self._dialect.weight(1 if on else 0))

    def put_right(self) -> tuple[str, ...]:
        """Set cores, quota and weight again where they do not read as they were set: `systemctl
        daemon-reload` and `docker update` put values back. Returns the files that differed."""
        wrong = [
            setting
            for file, setting in self._wanted.items()
            if _read(self._folders[setting.controller] / file).strip() != setting.value
        ]
        for setting in wrong:
            self._set(setting)
        return tuple(setting.file for setting in wrong)

    @property
    def can_freeze(self) -> bool:
        return self._dialect.frozen.controller in self._folders

    def freeze(self, on: bool) -> None:
        """Have all that is in it stop, or go on. `is_frozen` tells when it has stopped. Silent if
        the group is gone."""
        try:
            self._apply(self._dialect.freeze(on))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def is_frozen(self) -> bool:
        """Also where the group is gone."""
        frozen = self._dialect.frozen
        try:
            return frozen.key in _read(self._folders[frozen.controller] / frozen.file)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return True

    def oom_kills(self) -> int:
        return self._count(self._dialect.oom_kills)

    def pids_refused(self) -> int:
        return self._count(self._dialect.pids_refused)

    def peak_memory_bytes(self) -> int:
        return self._count(self._dialect.peak_memory)

    def close(self) -> None:
        """Keep no file open any more; to whoever comes later the group is gone. Idempotent."""
        self._closed = True
        while self._open:
            _, fd = self._open.popitem()
            os.close(fd)

    def members(self) -> set[int]:
        """The processes in it; none if it is gone."""
        found: set[int] = set()
        for folder in dict.fromkeys(self._folders.values()):
            try:
                found.update(int(line) for line in _read(folder / "cgroup.procs").split())
            except (FileNotFoundError, OSError) as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        return found

    def kill_all(self, wait_s: float = KILL_WAIT_S) -> None:
        """SIGKILL to everything in it until nothing is left. Idempotent; blocks.

        Raises TimeoutError if a process outlives `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        while members := self.members():
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {sorted(members)} do not die of SIGKILL")
            self._kill_once(members)
            time.sleep(POLL_S)

    def remove(self, wait_s: float = REMOVE_WAIT_S) -> None:
        """Remove the empty group. Idempotent; blocks. Raises OSError (EBUSY) if it is not empty."""
        for folder in dict.fromkeys(self._folders.values()):
            _remove_when_free(folder, time.monotonic() + wait_s)

    def _kill_once(self, members: Iterable[int]) -> None:
        if self._dialect.version == 2:
            _write(next(iter(self._folders.values())) / "cgroup.kill", "1")
            return
        # Frozen, a fork bomb cannot outrun the loop that kills it.
        self._apply(self._dialect.freeze(True))
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._apply(self._dialect.freeze(False))

    def _exists(self, setting: Setting) -> bool:
        return (self._folders[setting.controller] / setting.file).exists()

    def _apply(self, setting: Setting) -> None:
        if setting.controller in self._folders:
            _write(self._folders[setting.controller] / setting.file, setting.value)

    def _set(self, setting: Setting) -> None:
        """Alike, for what changes often. Written even if it should be there: systemd and `docker
        update` put values back behind our back, and looking first costs as much as writing."""
        if setting.controller in self._folders:
            self._wanted[setting.file] = setting
            fd = self._kept_open(setting.controller, setting.file, os.O_WRONLY)
            _rewrite(fd, setting.value)

    def _kept_open(self, controller: str, file: str, mode: int) -> int:
        fd = self._open.get((controller, file))
        if self._closed:
            raise OSError(errno.ENODEV, "the control group is closed", file)
        if fd is None:
            fd = os.open(self._folders[controller] / file, mode | os.O_CLOEXEC)
            self._open[controller, file] = fd
        return fd

    def _count(self, counter: Counter) -> int:
        if counter.controller not in self._folders:
            return 0
        try:
            fd = self._kept_open(counter.controller, counter.file, os.O_RDONLY)
            text = os.pread(fd, _COUNTER_BYTES_MAX, 0).decode()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return 0  # The group is gone, or this kernel does not count it.
            raise
        if not counter.key:
            return int(text)
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == counter.key:
                return int(value)
        return 0


class Cgroups:
    """This server's groups, below `tangram-<name>` of every controller that it may write."""

    def __init__(
        self, root: Path, name: str, dialect: Dialect, checks: tuple[ControllerCheck, ...]
    ) -> None:
        self.checks = checks
        self.relative = f"tangram-{name}"
        """Our folder below each controller's root: a fit parent for Docker's containers too."""
        self._root = root
        self._dialect = dialect
        self._controllers = tuple(check.name for check in checks if check.writable)
        self._live: set[str] = set()

    @classmethod
    def probe(cls, root: Path, name: str) -> Cgroups | None:
        """Find what may be written below `root` (commonly /sys/fs/cgroup) and make our folders
        there. None if nothing may: `survey` tells why."""
        _check_name(name)
        dialect = _dialect_of(root)
        checks = survey(root, name)
        if not any(check.writable for check in checks):
            return None
        cgroups = cls(root, name, dialect, checks)
        for controller in cgroups._controllers:
            _make_parent(dialect, root, controller, cgroups.relative)
        return cgroups

    @property
    def version(self) -> int:
        return self._dialect.version

    def limits(self) -> Mapping[str, str]:
        """memory, pids, cores -> "hard" or "soft", for sandboxes that `create` holds."""
        needed = {"memory": "memory", "pids": "pids", "cores": "cpuset"}
        return {
            limit: "hard" if controller in self._controllers else "soft"
            for limit, controller in needed.items()
        }

    def create(self, sandbox: str) -> SandboxCgroup:
        """A new, empty group on all cores. Raises FileExistsError if there is one, OSError."""
        _check_name(sandbox)
        relative = f"{self.relative}/{OWNED_PREFIX}{sandbox}"
        group = self._group(relative, self._controllers)
        made: list[Path] = []
        try:
            for folder in dict.fromkeys(group._folders.values()):
                _make_folder(folder)
                made.append(folder)
            if self._dialect.version == 1 and "cpuset" in self._controllers:
                _inherit_cpuset(group._folders["cpuset"])
        except OSError:
            for folder in made:
                _remove_folder(folder)
            raise
        self._live.add(sandbox)
        return group

    def adopt(self, relative: str) -> SandboxCgroup:
        """A group that somebody else made and removes, such as <parent>/<container id>.

        Raises FileNotFoundError if no controller has it.
        """
        relative = relative.strip("/")
        if ".." in Path(relative).parts:
            raise ValueError(f"{relative!r} is not a path below the root of the groups")
        found = tuple(
            controller
            for controller in self._controllers
            if self._dialect.folder(self._root, controller, relative).is_dir()
        )
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no such control group", relative)
        return self._group(relative, found)

    def discard(self, sandbox: str) -> None:
        """Kill what is in a group that `create` made and remove it. Idempotent; blocks.

        Raises TimeoutError, OSError (EBUSY) if something in it does not end.
        """
        group = self._group(f"{self.relative}/{OWNED_PREFIX}{sandbox}", self._controllers)
        group.kill_all()
        group.remove()
        self._live.discard(sandbox)

    def reap(self) -> int:
        """Discard the groups that an earlier life of this server made; how many. Blocks."""
        leftovers = self._created() - self._live
        for sandbox in leftovers:
            self.discard(sandbox)
        return len(leftovers)

    def close(self) -> None:
        """Remove our own folders where nothing is left in them. Idempotent."""
        # Docker makes its containers' parent under every controller, also those that we leave out.
        pattern = self.relative if self._dialect.version == 2 else f"*/{self.relative}"
        for folder in self._root.glob(pattern):
            try:
                _remove_folder(folder)
            except OSError as error:
                # Another server of this name, or a container, still uses it.
                if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                    raise

    def _group(self, relative: str, controllers: Iterable[str]) -> SandboxCgroup:
        folders = {c: self._dialect.folder(self._root, c, relative) for c in controllers}
        return SandboxCgroup(self._dialect, folders, self._all_cores())

    def _all_cores(self) -> tuple[int, ...]:
        if "cpuset" not in self._controllers:
            return ()
        return _inherited_cores(self._dialect.folder(self._root, "cpuset", self.relative))

    def _created(self) -> set[str]:
        return {
            folder.name.removeprefix(OWNED_PREFIX)
            for controller in self._controllers
            for folder in self._dialect.folder(self._root, controller, self.relative).glob(
                f"{OWNED_PREFIX}*"
            )
        }


def survey(root: Path, name: str) -> tuple[ControllerCheck, ...]:
    """Try every controller with a throw-away group; leaves nothing behind. For `doctor`."""
    dialect = _dialect_of(root)
    return tuple(_try(dialect, root, c, f"tangram-{name}") for c in dialect.controllers)


def _try(dialect: Dialect, root: Path, controller: str, ours: str) -> ControllerCheck:
    trial = f"{ours}/probe-{os.getpid()}"
    folders = [dialect.folder(root, controller, relative) for relative in (trial, ours)]
    existed = folders[1].exists()
    try:
        _make_parent(dialect, root, controller, ours)
        group = SandboxCgroup(dialect, {controller: folders[0]}, ())
        _make_folder(folders[0])
        detail = _try_values(dialect, group, folders[0], controller)
    except OSError as error:
        return ControllerCheck(controller, False, f"{error.filename}: {error.strerror}")
    finally:
        for folder in folders[:1] if existed else folders:
            if folder.exists():
                _remove_folder(folder)
    return ControllerCheck(controller, not detail, detail or "a value was written and read back")


def _try_values(dialect: Dialect, group: SandboxCgroup, folder: Path, controller: str) -> str:
    """What is wrong, or nothing."""
    if dialect.version == 1 and controller == "cpuset":
        _inherit_cpuset(folder)
    settings = {
        "cpuset": lambda: dialect.cpuset(_inherited_cores(folder.parent)[:1]),
        "cpu": lambda: dialect.quota(1),
        "memory": lambda: dialect.memory(PROBE_MEMORY_BYTES)[0],
        "pids": lambda: dialect.pids(PROBE_PIDS),
        "freezer": lambda: Setting("freezer", "freezer.state", "THAWED"),
    }
    setting = settings[controller]()
    group._apply(setting)
    found = _read(folder / setting.file).strip()
    if found == setting.value:
        return ""
    return f"{folder / setting.file}: {setting.value!r} was written, but reads {found!r}"


def _make_parent(dialect: Dialect, root: Path, controller: str, relative: str) -> None:
    """Our own folder, ready to have groups under this controller below it."""
    folder = dialect.folder(root, controller, relative)
    if dialect.version == 2:
        _delegate(root, controller)
    if not folder.exists():
        _make_folder(folder)
    if dialect.version == 2:
        _delegate(folder, controller)
    elif controller == "cpuset":
        _inherit_cpuset(folder)
    if controller == "cpu":
        # Its weight is shared out over all cores: with that of one core, a sandbox that has a core to
        # itself would lose it to any process outside.
        weight = dialect.weight(len(os.sched_getaffinity(0)))
        _write(folder / weight.file, weight.value)


def _delegate(folder: Path, controller: str) -> None:
    """v2: let the groups below `folder` use a controller."""
    if controller not in _read(folder / "cgroup.controllers").split():
        raise FileNotFoundError(errno.ENOENT, "the kernel offers no such controller", controller)
    if controller not in _read(folder / "cgroup.subtree_control").split():
        _write(folder / "cgroup.subtree_control", f"+{controller}")


def _inherit_cpuset(folder: Path) -> None:
    """v1: a new cpuset is empty, and takes no process before it has cores and memory nodes."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not _read(folder / file).strip():
            _write(folder / file, _read(folder.parent / file).strip())


def _inherited_cores(folder: Path) -> tuple[int, ...]:
    # v1 has the plain file at every level; v2 has none at the root and an empty one below it.
    for file in ("cpuset.effective_cpus", "cpuset.cpus.effective", "cpuset.cpus"):
        if (folder / file).exists() and (text := _read(folder / file).strip()):
            return parse_cores(text)
    return ()


def _dialect_of(root: Path) -> Dialect:
    return DialectV2() if (root / "cgroup.controllers").exists() else DialectV1()


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or name.startswith("."):
        raise ValueError(f"{name!r} is no name for a control group: 1-64 letters, digits, _ . -")


def _remove_when_free(folder: Path, deadline: float) -> None:
    while True:
        try:
            return _remove_folder(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def _make_folder(folder: Path) -> None:
    os.mkdir(folder, 0o755)


def _remove_folder(folder: Path) -> None:
    os.rmdir(folder)


def _read(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _READ_BYTES_MAX).decode()
    finally:
        os.close(fd)


def _rewrite(fd: int, value: str) -> None:
    os.pwrite(fd, value.encode(), 0)


def _write(path: Path, value: str) -> None:
    # No O_CREAT: a control file that is missing must not become an ordinary one.
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)
