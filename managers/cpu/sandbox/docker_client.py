"""The Docker engine's API, as far as the docker launcher needs it: facts in, facts out.

The only file that touches the Docker SDK, and the SDK is imported at the first call. Each call is a
blocking HTTP request of 2 to 200 ms, so it runs on one of a few threads; none is on the way of an
action. What to make of the facts is the launcher's business, not decided here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ManagerError, PermanentError, TemporaryError, Unsupported

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_URL = "unix:///var/run/docker.sock"
REQUEST_TIMEOUT_S = 120.0
"""For one request. A start takes 0.2 s alone and tens of seconds in a storm of hundreds."""
END_WAIT_S = 3
"""For the engine to notice that a container whose agent is gone has ended."""
THREADS_MAX = 16
"""Requests in flight: the engine serialises most of its work anyway."""
CPU_PERIOD_US = 100_000
"""The kernel's default period of CPU quotas."""


class ImageInUse(PermanentError):
    """A container, of whomever, has this image."""


_MOUNTED_FILES = ("HostsPath", "HostnamePath", "ResolvConfPath")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine says about itself."""

    version: str
    cgroup_driver: str
    cgroup_version: str
    storage: str
    rootless: bool
    folder: str
    """Where its images lie on the engine's machine."""


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """How to reach the engine without the SDK."""

    url: str
    api_version: str
    certificates: Path | None
    """Folder with ca.pem, cert.pem and key.pem, where TLS is wanted."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image asks for. Empty where it asks for nothing."""

    id: str
    user: str
    workdir: str
    env: Mapping[str, str]
    repo_digests: tuple[str, ...] = ()
    """`REPOSITORY@DIGEST` by which registries know it; none for one that was built here."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image in the engine's list."""

    id: str
    names: tuple[str, ...]
    """`REPOSITORY:TAG`."""
    repo_digests: tuple[str, ...]
    size_bytes: int
    """With the layers that it shares with others."""


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container to create. Sizes in bytes."""

    name: str
    image: str
    command: list[str]
    env: list[str]
    workdir: str
    network: str
    memory_bytes: int | None
    shm_bytes: int | None
    pids: int
    cgroup_parent: str | None
    capabilities: tuple[str, ...]
    mounts: Mapping[str, str]
    """Path in the container -> path on this machine, all read-only."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A container now. `pid` is that of its first process on the engine's machine, 0 if none."""

    running: bool
    removing: bool
    """Somebody asked the engine to remove it."""
    pid: int
    exit_code: int
    oom_killed: bool
    upper_folder: str
    """Where its writable files lie on the engine's machine, "" if the storage driver has none."""
    mounted_files: tuple[str, ...]
    """Files of the engine that are writable inside: /etc/hosts and its like."""
    volumes: tuple[str, ...] = ()
    """Places inside whose files lie elsewhere, since the image declares them as volumes."""


class DockerEngine:
    """A connection to an engine. Opened at the first call; every method may be cancelled, and
    then returns only when its request has ended, so that nothing appears behind its back.

    Methods raise Unsupported if no engine answers, TemporaryError, PermanentError.
    """

    def __init__(self, base_url: str | None = None) -> None:
        self.url = base_url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._explicit = base_url is not None
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="docker")
        self._connecting = threading.Lock()
        self._connected: APIClient | None = None

    async def facts(self) -> EngineFacts:
        info = await self._call(lambda client: client.info())
        return EngineFacts(
            version=info.get("ServerVersion", "unknown"),
            cgroup_driver=info.get("CgroupDriver", "none"),
            cgroup_version=info.get("CgroupVersion", "1"),
            storage=info.get("Driver", "unknown"),
            rootless=any("rootless" in option for option in info.get("SecurityOptions") or ()),
            folder=info.get("DockerRootDir", ""),
        )

    async def address(self) -> EngineAddress:
        """Raises Unsupported if no engine answers."""
        version = await self._call(lambda client: client.api_version)
        folder = None
        if not self._explicit and os.environ.get("DOCKER_TLS_VERIFY"):
            folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
        return EngineAddress(self.url, str(version), folder)

    async def login(self, host: str) -> Mapping[str, str]:
        """What Docker's own configuration (`docker login`, credential helpers) has for a registry;
        empty if it has nothing. Raises PermanentError if a helper fails."""
        return dict(await self._call(lambda client: _login(host)))

    async def image(self, reference: str) -> ImageFacts | None:
        """None if the engine does not have it. Nothing is pulled."""
        found = await self._call(
            # The SDK's types lack this method's.
            lambda client: client.inspect_image(reference),  # type: ignore[no-untyped-call]
            absent_ok=True,
        )
        if found is None:
            return None
        config = found.get("Config") or {}
        env = dict(entry.split("=", 1) for entry in config.get("Env") or () if "=" in entry)
        return ImageFacts(
            found["Id"],
            config.get("User") or "",
            config.get("WorkingDir") or "",
            env,
            tuple(found.get("RepoDigests") or ()),
        )

    async def images(self) -> list[ImageEntry]:
        """All that are no mere layers of others."""
        found = await self._call(lambda client: client.images())
        return [
            ImageEntry(
                image["Id"],
                tuple(name for name in image.get("RepoTags") or () if name != "<none>:<none>"),
                tuple(name for name in image.get("RepoDigests") or () if "<none>" not in name),
                int(image.get("Size") or 0),
            )
            for image in found
        ]

    async def tag(self, image: str, name: str) -> None:
        """Let `REPOSITORY:TAG` mean this image from now on."""
        repository, _, tag = name.rpartition(":")
        await self._call(lambda client: client.tag(image, repository, tag, force=True))

    async def remove_image(self, name: str) -> None:
        """Take a name away, and with its last name the image. Silent if there is none.

        Raises ImageInUse if a container has it.
        """
        await self._call(lambda client: _remove_image(client, name), absent_ok=True)

    async def image_names(self) -> list[str]:
        """The names that the images of this engine go by, sorted."""
        return sorted({name for image in await self.images() for name in image.names})

    async def create(self, plan: ContainerPlan) -> str:
        """Create a container, not started yet, and return its id."""
        answer = await self._call(lambda client: _create(client, plan))
        return str(answer["Id"])

    async def start(self, container: str) -> None:
        await self._call(lambda client: client.start(container))

    async def container(self, container: str) -> ContainerFacts | None:
        """None if there is no such container."""
        found = await self._call(lambda client: client.inspect_container(container), absent_ok=True)
        if found is None:
            return None
        state, storage = found["State"], (found.get("GraphDriver") or {}).get("Data") or {}
        return ContainerFacts(
            running=bool(state.get("Running")),
            removing=state.get("Status") in ("removing", "dead"),
            pid=int(state.get("Pid") or 0),
            exit_code=int(state.get("ExitCode") or 0),
            oom_killed=bool(state.get("OOMKilled")),
            upper_folder=str(storage.get("UpperDir") or ""),
            mounted_files=tuple(found[key] for key in _MOUNTED_FILES if found.get(key)),
            volumes=tuple(
                str(mount["Destination"])
                for mount in found.get("Mounts") or ()
                if mount.get("Type") == "volume"
            ),
        )

    async def pause(self, container: str, on: bool) -> None:
        """Hold every process of a container still, or let them go on."""
        await self._call(
            lambda client: client.pause(container) if on else client.unpause(container)
        )

    async def commit(self, container: str, labels: Mapping[str, str]) -> str:
        """Make an image of a container as it is now, held still meanwhile; returns its id."""
        changes = [f"LABEL {json.dumps(name)}={json.dumps(to)}" for name, to in labels.items()]
        answer = await self._call(lambda client: client.commit(container, changes=changes))
        return str(answer["Id"])

    async def labelled_images(self, labels: Mapping[str, str]) -> list[str]:
        """The ids of all images that carry all these labels."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        found = await self._call(lambda client: client.images(filters=wanted))
        return [str(image["Id"]) for image in found]

    async def wait_end(self, container: str) -> None:
        """Wait until it does not run any more, or is gone. Raises TemporaryError if it takes more
        than END_WAIT_S."""
        await self._call(lambda client: client.wait(container, timeout=END_WAIT_S), absent_ok=True)

    async def set_cores(self, container: str, cores: str, count: int | None) -> None:
        """Confine to these cores ("0-3,8") and to the time of `count` of them; None: no quota."""
        quota = -1 if count is None else count * CPU_PERIOD_US
        await self._call(
            lambda client: client.update_container(
                container, cpuset_cpus=cores, cpu_period=CPU_PERIOD_US, cpu_quota=quota
            )
        )

    async def set_memory(self, container: str, memory_bytes: int) -> None:
        """Limit memory and swap together to this."""
        await self._call(
            lambda client: client.update_container(
                container, mem_limit=memory_bytes, memswap_limit=memory_bytes
            )
        )

    async def written_bytes(self, container: str) -> int:
        """By the container's name: the size of the files that differ from the image's; the engine walks them."""
        found = await self._call(
            lambda client: client.containers(
                all=True, size=True, filters={"name": f"^/?{container}$"}
            )
        )
        return int(found[0].get("SizeRw") or 0) if found else 0

    async def remove(self, container: str) -> None:
        """Kill and remove it with its anonymous volumes. Silent if it is gone, or going."""
        await self._call(
            lambda client: client.remove_container(container, v=True, force=True), absent_ok=True
        )

    async def labelled(self, labels: Mapping[str, str]) -> list[tuple[str, str]]:
        """Id and name of all containers, running or not, that carry all these labels."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        found = await self._call(lambda client: client.containers(all=True, filters=wanted))
        return [(c["Id"], c["Names"][0].lstrip("/")) for c in found if c.get("Names")]

    async def aclose(self) -> None:
        """Wait for what is under way and close the connections. Idempotent."""
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    async def _call(self, request: Callable[[APIClient], Any], *, absent_ok: bool = False) -> Any:
        """Run one request in a thread. With `absent_ok`, None is the answer for what is not there."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, self._request, request, absent_ok)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The request cannot be recalled. What it makes must be known before it is removed.
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise

    def _request(self, request: Callable[[APIClient], Any], absent_ok: bool) -> Any:
        import docker.errors
        import requests.exceptions

        try:
            return request(self._client())
        except docker.errors.NotFound as problem:
            if absent_ok:
                return None
            raise PermanentError(f"Docker: {problem.explanation or problem}") from problem
        except docker.errors.APIError as problem:
            raise _refused(problem.status_code, str(problem.explanation or problem)) from problem
        except requests.exceptions.Timeout as problem:
            raise TemporaryError(
                f"the Docker engine did not answer in time: {problem}"
            ) from problem
        # A RequestException is an OSError, as what the socket itself raises is.
        except (docker.errors.DockerException, OSError) as problem:
            raise self._unreachable(problem) from problem

    def _client(self) -> APIClient:
        with self._connecting:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> APIClient:
        _try_socket(self.url)
        import docker
        from docker.utils import kwargs_from_env

        # DOCKER_HOST may come with certificates in other variables; the SDK knows them all.
        where: dict[str, Any] = {} if self._explicit else dict(kwargs_from_env())
        where.setdefault("base_url", self.url)
        return docker.APIClient(
            version="auto", timeout=int(REQUEST_TIMEOUT_S), max_pool_size=THREADS_MAX, **where
        )

    def _unreachable(self, problem: Exception) -> Unsupported:
        return Unsupported(
            f"no Docker engine answers at {self.url} ({_innermost(problem)})",
            cure="install and start one (Debian: apt-get install docker.io), or set DOCKER_HOST; "
            "sandboxes without an image need none (launcher bubblewrap)",
        )


def _login(host: str) -> Mapping[str, str]:
    import docker.errors
    from docker import auth

    # Read anew each time: a login may come while we run.
    try:
        found = auth.load_config().resolve_authconfig(host) or {}
    except (docker.errors.DockerException, OSError) as problem:
        raise PermanentError(
            f"Docker's own configuration has no usable login for {host}: {problem}"
        ) from problem
    known = {"username", "password", "identitytoken", "registrytoken", "serveraddress"}
    named = {str(key).lower(): str(value) for key, value in found.items() if value}
    return {key: value for key, value in named.items() if key in known}


def _remove_image(client: APIClient, name: str) -> None:
    import docker.errors

    try:
        client.remove_image(name)
    except docker.errors.APIError as problem:
        if problem.status_code != HTTPStatus.CONFLICT:
            raise
        raise ImageInUse(str(problem.explanation or problem)) from problem


def _try_socket(url: str) -> None:
    """Raises OSError if nobody listens. The SDK would too, but without closing its socket."""
    path = url.removeprefix("unix://")
    if path != url:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.connect(path)


def _create(client: APIClient, plan: ContainerPlan) -> Any:
    from docker.types import Healthcheck, LogConfig, Mount

    host = client.create_host_config(
        network_mode=plan.network,
        cap_drop=["ALL"],
        cap_add=list(plan.capabilities),
        # The engine's default seccomp profile and masked paths stay as they are: nothing names them.
        security_opt=["no-new-privileges:true"],
        pids_limit=plan.pids,
        mem_limit=plan.memory_bytes,
        # Memory and swap together: equal means that there is no swap.
        memswap_limit=plan.memory_bytes,
        shm_size=plan.shm_bytes,
        init=False,
        log_config=LogConfig(type="none"),
        cgroup_parent=plan.cgroup_parent,
        mounts=[
            Mount(target, source, type="bind", read_only=True)
            for target, source in plan.mounts.items()
        ],
    )
    return client.create_container(
        plan.image,
        name=plan.name,
        entrypoint=plan.command,
        user="0:0",
        environment=plan.env,
        working_dir=plan.workdir,
        labels=dict(plan.labels),
        # An image's health check would start processes that no action asked for.
        healthcheck=Healthcheck(test=["NONE"]),
        host_config=host,
    )


def _refused(status: int | None, explanation: str) -> ManagerError:
    """What the engine said no to: 5xx may pass, unless the runtime cannot start this container."""
    if (status or 0) >= 500 and "OCI runtime" not in explanation:
        return TemporaryError(f"Docker: {explanation}")
    return PermanentError(f"Docker: {explanation}")


def _innermost(problem: BaseException) -> str:
    """The operating system's own words, out of the layers that HTTP libraries wrap around them."""
    seen = {id(problem)}
    while (inner := problem.__cause__ or problem.__context__) and id(inner) not in seen:
        seen.add(id(inner))
        problem = inner
    return getattr(problem, "strerror", None) or str(problem)
