"""Sandboxes that are Docker containers: for actions that bring an image.

The engine makes and removes the container; everything after that goes past it: commands and files
over the agent's socket, cores and counters straight to the container's cgroup. The agent runs as
root on a mounted interpreter of its own and drops to the image's USER for each command, so the
image needs nothing, not even a shell. Engine requests are in `docker_client`, the bundle in
`interpreter`; how many start at once is the CpuManager's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

from ...base import ExecSpec, SandboxSpec, Stream
from ...config import PullConfig, RegistryConfig
from ...errors import (
    FileProblem,
    PermanentError,
    SandboxDied,
    TemporaryError,
    UnknownImage,
    Unsupported,
)
from ..cgroup import Cgroups, SandboxCgroup
from ..cores import format_cores
from ..images.store import ImageStore
from .base import Check, Launcher, Sandbox
from .channel import Channel
from .docker_client import ContainerFacts, ContainerPlan, DockerEngine, ImageFacts
from .docker_layers import check_stands_on, stand_on
from .docker_sandbox import DockerSandbox, why_ended
from .interpreter import MOUNT_POINT, RUN_FOLDER, Interpreter, build
from .layers import Files, LayerStore, Origin
from .listener import AgentListener
from .template import NEUTRAL_MEMORY_BYTES, Template, neutral

log = logging.getLogger(__name__)

CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "SETFCAP",
    "KILL",
)
"""What root keeps inside: enough for pip and apt, nothing that reaches the kernel or the network."""
IMAGES_TRIED = 3
"""By the checks, until one can be started: each that cannot takes a second."""
AGENT_WAIT_S = 60.0
"""From a started container to its agent's call. It takes 0.1 s alone, seconds in a storm."""
DEATH_POLL_S = 1.0
"""How often a container is looked at whose agent has not called yet."""
WORKSPACE = "/workspace"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""For images that set no PATH: what Docker itself would set."""

_FOLDER_PREFIX = "d-"
"""Of our folders below the runtime folder, which other launchers use too."""
_ONLINE = "/sys/devices/system/cpu/online"
_NETWORKS = {"none": "none", "egress": "bridge"}
_FOLDERS_TIMEOUT_S = 30.0
"""For making two folders; it takes 0.05 s."""
_MAKE_FOLDERS = """
import os
from agent.accounts import account_of
account = account_of(sys.argv[1].encode())
for folder in sys.argv[2:]:
    if not os.path.isdir(folder):
        os.makedirs(folder)
        os.chown(folder, account.uid, account.gid)
"""
_INSTANCE_LABEL = "tangram.instance"
_STATE_LABEL = "tangram.state"


class DockerLauncher(Launcher):
    """Starts containers on one engine, for one server.

    `name` and `state` tell this server's containers from another's; `images` maps names that users
    give to references of the engine; `pids_max` is the most processes and threads of one sandbox; `parking` is where idle
    sandboxes sit, empty for all cores. Which images there are and how they come is `images`'s.
    """

    name = "docker"

    def __init__(
        self,
        name: str,
        state: Path,
        runtime: Path,
        cgroups: Cgroups | None,
        pids_max: int,
        parking: tuple[int, ...] = (),
        images: Mapping[str, str] | None = None,
        orphan_after_s: float = 60.0,
        base_url: str | None = None,
        registries: Mapping[str, RegistryConfig] | None = None,
        pulls: PullConfig | None = None,
    ) -> None:
        self.engine = DockerEngine(base_url)
        self._images = ImageStore(
            self.engine,
            state,
            mapped=dict(images or {}),
            registries=registries or {},
            config=pulls or PullConfig(),
        )
        self._parking = parking or tuple(sorted(os.sched_getaffinity(0)))
        self._instance = name
        self._state = state
        self._runtime = runtime
        self._cgroups = cgroups
        self._orphan_after_s = orphan_after_s
        self._pids_max = pids_max
        self._labels = {_INSTANCE_LABEL: name, _STATE_LABEL: str(state)}
        self.store: LayerStore = LayerStore(state / "docker-layers", self._remove_image)
        self._sandboxes: set[DockerSandbox] = set()
        self._containers: set[str] = set()
        self._preparing = asyncio.Lock()
        self._interpreter: Interpreter | None = None
        self._cgroup_parent: str | None = None

    def limits(self) -> Mapping[str, str]:
        # The engine itself sets all but disk, so these hold where we may not write cgroups too.
        return {"memory": "hard", "disk": "soft", "pids": "hard", "shm": "hard", "cores": "hard"}

    async def checks(self) -> list[Check]:
        try:
            facts = await self.engine.facts()
        except Unsupported as problem:
            detail = str(problem).removesuffix(f"; {problem.cure}")
            return [Check("docker engine", False, detail, problem.cure)]
        except (PermanentError, TemporaryError) as problem:
            return [Check("docker engine", False, str(problem), "look at the engine's log")]
        direct = "written directly" if self._cgroups else "through docker update, 10 ms a change"
        engine = f"Docker {facts.version} at {self.engine.url}, storage {facts.storage}"
        groups = f"v{facts.cgroup_version}, driver {facts.cgroup_driver}, cores {direct}"
        checks = [Check("docker engine", True, engine), Check("docker cgroups", True, groups)]
        return [*checks, await self._try_container()]

    async def _try_container(self) -> Check:
        """A real sandbox of an image that is there. The images are anybody's, so that one of them
        cannot be started is worth a note; that the engine does not answer is a failure."""
        label = "docker container"
        names = await self.engine.image_names()
        if not names:
            return Check(
                label, True, "not tried: the engine has no image yet (docker pull gets one)"
            )
        notes = []
        for name in names[:IMAGES_TRIED]:
            spec = SandboxSpec("doctor", task="doctor", image=name, memory_bytes=64 << 20)
            try:
                sandbox = await self.start(spec, lambda message: None)
            except (PermanentError, TemporaryError) as problem:
                notes.append(f"{name}: {problem}")
                continue
            await sandbox.aclose()
            return Check(label, True, f"started and removed one of {name}")
        try:
            await self.engine.facts()
        except (PermanentError, TemporaryError) as problem:
            return Check(label, False, str(problem), "look at the engine's log")
        return Check(label, True, f"none could be started of {'; '.join(notes)}")

    async def check_image(self, spec: SandboxSpec) -> None:
        _check(spec)
        await self._images.check(spec)

    def prepared(self, spec: SandboxSpec) -> AbstractAsyncContextManager[None]:
        return self._images.prepared(spec)

    @property
    def images(self) -> ImageStore:
        return self._images

    def neutral(self, spec: SandboxSpec) -> SandboxSpec:
        # The user decides whose the folders are that the image lacks.
        memory_bytes = spec.memory_bytes and NEUTRAL_MEMORY_BYTES
        return neutral(spec, memory_bytes=memory_bytes, user=spec.user)

    async def identity(self, spec: SandboxSpec) -> str:
        _check(spec)
        return (await self._images.facts(spec)).id

    async def start(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> Sandbox:
        try:
            return await super().start(spec, on_lost)
        except BaseException:
            self._images.leave(spec.trajectory)
            raise

    async def start_neutral(self, template: Template, on_lost: Callable[[str], None]) -> Sandbox:
        spec = template.spec
        interpreter = await self._prepare()
        short = secrets.token_hex(5)
        folder = self._runtime / f"{_FOLDER_PREFIX}{short}"
        name = f"tangram-{self._instance}-{short}"

        # What each step makes is undone in reverse order if a later one fails or is cancelled.
        async with AsyncExitStack() as stack:
            self._images.hold(name, template.identity)
            stack.callback(self._images.leave, name)
            image = await self._images.known(template.identity)
            if image is None:
                raise UnknownImage(spec.image, f"image {spec.image} was removed from this node")
            files = self.store.kept(spec.snapshot, spec.image)
            origin = Origin(files and self.store.hold(files))
            stack.push_async_callback(self.store.end, origin)
            self._containers.add(name)
            stack.callback(self._containers.discard, name)
            stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, ignore_errors=True)
            await asyncio.to_thread(_make_folder, folder, self._parking)
            listener = AgentListener(folder / "agent.sock")
            stack.callback(listener.close)
            # By name, since a cancelled create does not tell the id of what it made.
            stack.push_async_callback(self.engine.remove, name)
            plan = self._plan(spec, image, interpreter, name, folder)
            await self._create(plan, files)
            await self.engine.start(name)
            try:
                channel, facts = await self._greet(listener, name)
                stack.push_async_callback(channel.aclose)
                if files is not None and not files.layers[0].image_id:
                    await asyncio.to_thread(check_stands_on, facts.pid, files.layers)
                sandbox = DockerSandbox(
                    engine=self.engine,
                    container=name,
                    workdir=image.workdir or WORKSPACE,
                    settle=lambda sandbox, spec: self._settle(sandbox, spec, image, interpreter),
                    left=self._images.leave,
                    limits=self.limits(),
                    channel=channel,
                    cgroup=self._adopt(facts.pid),
                    parking=self._parking,
                    upper_folder=facts.upper_folder,
                    mounted_files=facts.mounted_files,
                    volumes=facts.volumes,
                    online=folder / "online",
                    image=spec.image,
                    store=self.store,
                    origin=origin,
                    labels=self._labels,
                )
                if not _is_root(user := spec.user or image.user):
                    folders = (WORKSPACE, sandbox.workdir)
                    await _make_folders(channel, interpreter, user, *folders)
                await sandbox.confine(None)
            except SandboxDied as problem:
                reason = await why_ended(self.engine, name)
                raise PermanentError(
                    f"the container ended while it started: {reason or problem}"
                ) from problem
            self._sandboxes.add(sandbox)
            stack.callback(self._sandboxes.discard, sandbox)
            sandbox.own(stack.pop_all(), on_lost)
        return sandbox

    async def reap(self) -> int:
        leftovers = await self._leftovers()
        for container in leftovers:
            await self._thaw(container)
            await self.engine.remove(container)
        for image_id in await self.engine.labelled_images(self._labels):
            if image_id not in self.store.image_ids():
                await self._remove_image(image_id)
        await asyncio.to_thread(self.store.reap)
        await asyncio.to_thread(self._remove_folders)
        return len(leftovers)

    async def aclose(self) -> None:
        await asyncio.gather(*(sandbox.aclose() for sandbox in list(self._sandboxes)))
        await self.store.clear()
        await self._images.aclose()
        await self.engine.aclose()

    async def _prepare(self) -> Interpreter:
        """What all sandboxes share, made once: the interpreter, and the cgroups' parent."""
        async with self._preparing:
            if self._interpreter is None:
                driver = (await self.engine.facts()).cgroup_driver
                if self._cgroups is not None:
                    # systemd makes slices of its own below the root; cgroupfs takes any path.
                    parent = self._cgroups.relative
                    self._cgroup_parent = f"{parent}.slice" if driver == "systemd" else f"/{parent}"
                self._interpreter = await asyncio.to_thread(build, self._state)
            return self._interpreter

    def _plan(
        self,
        spec: SandboxSpec,
        image: ImageFacts,
        interpreter: Interpreter,
        name: str,
        folder: Path,
    ) -> ContainerPlan:
        return ContainerPlan(
            name=name,
            image=image.id,
            command=interpreter.command(
                "--socket",
                f"{MOUNT_POINT}/{RUN_FOLDER}/agent.sock",
                "--orphan-after",
                f"{self._orphan_after_s:g}",
            ),
            # A name without a value takes the image's variable away: what an image sets, such as
            # LD_PRELOAD, is for its commands and must not reach the agent.
            env=sorted(image.env),
            # The engine makes this folder if the image lacks it, owned by root.
            workdir=WORKSPACE if _is_root(spec.user or image.user) else "/",
            network=_NETWORKS[spec.network],
            memory_bytes=spec.memory_bytes,
            shm_bytes=spec.shm_bytes,
            pids=self._pids_max,
            cgroup_parent=self._cgroup_parent,
            capabilities=CAPABILITIES,
            mounts={
                MOUNT_POINT: str(interpreter.root),
                f"{MOUNT_POINT}/{RUN_FOLDER}": str(folder),
                _ONLINE: str(folder / "online"),
            },
            labels=self._labels,
        )

    async def _create(self, plan: ContainerPlan, files: Files | None) -> None:
        """A container on kept files, if there are any."""
        if files is None:
            await self.engine.create(plan)
            return
        if image_id := files.layers[0].image_id:
            await self.engine.create(replace(plan, image=image_id))
            return
        await self.engine.create(plan)
        facts = await self.engine.container(plan.name)
        if facts is None:
            raise TemporaryError(f"container {plan.name} was removed before its start")
        await asyncio.to_thread(stand_on, facts.upper_folder, files.layers)

    async def _remove_image(self, image_id: str) -> None:
        try:
            await self.engine.remove_image(image_id)
        except (PermanentError, TemporaryError) as problem:
            # Images that were made of one of its containers need it; it goes with the last.
            log.info("image %s stays for now: %s", image_id, problem)

    async def _thaw(self, container: str) -> None:
        """A server that was killed while it copied a container's files left it held still."""
        facts = await self.engine.container(container)
        group = self._adopt(facts.pid) if facts is not None else None
        if group is not None:
            group.freeze(False)
            group.close()

    async def _greet(
        self, listener: AgentListener, container: str
    ) -> tuple[Channel, ContainerFacts]:
        """The channel to a started container's agent. Raises SandboxDied if the container ends
        first, TemporaryError if the agent does not call in time, PermanentError."""
        facts = await self.engine.container(container)
        if facts is None or not facts.running:
            raise SandboxDied("it ended before its agent called")
        accepting = asyncio.create_task(listener.accept(facts.pid, timeout_s=AGENT_WAIT_S))
        try:
            while not (await asyncio.wait([accepting], timeout=DEATH_POLL_S))[0]:
                if reason := await why_ended(self.engine, container):
                    raise SandboxDied(reason)
            return accepting.result(), facts
        except TimeoutError as problem:
            raise TemporaryError(
                f"the agent in container {container} did not call within {AGENT_WAIT_S:.0f} s"
            ) from problem
        finally:
            if not accepting.done():
                accepting.cancel()
                await asyncio.wait([accepting])

    async def _settle(
        self,
        sandbox: DockerSandbox,
        spec: SandboxSpec,
        image: ImageFacts,
        interpreter: Interpreter,
    ) -> None:
        """Tell the agent what the trajectory's commands get, and make its folder if it is missing."""
        self._images.pass_on(sandbox.container)
        user = spec.user or image.user
        await sandbox.channel.configure(
            env={"PATH": DEFAULT_PATH, **image.env, **spec.env},
            workdir=sandbox.workdir,
            shell=spec.shell,
            user=user,
        )
        if spec.workdir and not await _is_folder(sandbox.channel, sandbox.workdir):
            await _make_folders(sandbox.channel, interpreter, user, sandbox.workdir)

    def _adopt(self, pid: int) -> SandboxCgroup | None:
        """The container's own cgroup; None where it cannot be seen from here."""
        if self._cgroups is None or not pid:
            return None
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            return self._cgroups.adopt(_cgroup_path(groups, self._cgroups.version))
        except (OSError, ValueError):
            # Another machine's or namespace's pid, as with an engine in a virtual machine.
            return None

    async def _leftovers(self) -> list[str]:
        found = await self.engine.labelled(self._labels)
        return [container for container, name in found if name not in self._containers]

    def _remove_folders(self) -> None:
        for folder in self._runtime.glob(f"{_FOLDER_PREFIX}*"):
            short = folder.name.removeprefix(_FOLDER_PREFIX)
            if f"tangram-{self._instance}-{short}" not in self._containers:
                shutil.rmtree(folder, ignore_errors=True)


def _check(spec: SandboxSpec) -> None:
    """Raises Unsupported for what no image could make work."""
    if spec.network not in _NETWORKS:
        raise Unsupported(
            f"network {spec.network!r} is none of the docker launcher's",
            cure=f"network must be {' or '.join(_NETWORKS)}",
        )
    if not spec.image:
        raise Unsupported(
            "the docker launcher starts images, and this trajectory names none",
            cure="set image=, or use the bubblewrap launcher",
        )


class _Transcript:
    """Keeps what a command says, to quote it if it fails."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        self.text += data.decode(errors="replace")


async def _is_folder(channel: Channel, path: str) -> bool:
    """As far as the sandbox's user can see; asking takes a hundredth of the time of making it."""
    try:
        return (await channel.stat(path)).kind == "directory"
    except FileProblem:
        return False


async def _make_folders(
    channel: Channel, interpreter: Interpreter, user: str, *folders: str
) -> None:
    """Make those that the image lacks, as the user's own. Only root inside may do that, and only
    inside is known who a user name is; so the mounted interpreter does it. Raises PermanentError."""
    said = _Transcript()
    words = tuple(interpreter.script(_MAKE_FOLDERS, user or "0", *folders))
    result = await channel.exec(
        "make-folders",
        0,
        ExecSpec(argv=words, cwd="/", user="0"),
        cores=None,
        affinity=None,
        timeout_s=_FOLDERS_TIMEOUT_S,
        output=said,
    )
    if result.exit_code:
        reason = said.text.strip().rpartition("\n")[2]
        raise PermanentError(f"cannot make the folders {' and '.join(folders)}: {reason}")


def _is_root(user: str) -> bool:
    return user.partition(":")[0] in ("", "0", "root")


def _make_folder(folder: Path, cores: tuple[int, ...]) -> None:
    folder.mkdir(parents=True)
    (folder / "online").write_text(format_cores(cores) + "\n")


def _cgroup_path(groups: str, version: int) -> str:
    """The path in the text of /proc/PID/cgroup. Raises ValueError if it has none."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if ("cpuset" in controllers.split(",")) if version == 1 else not controllers:
            return path
    raise ValueError("the process is in no control group that is known here")
