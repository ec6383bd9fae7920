"""The settings of the managers, as the operator writes them; `opening` makes managers of them.

Pydantic lives at this edge alone; inside, managers take frozen dataclasses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .periods import parse_period
from .sizes import parse_size

PERIOD_S_MAX = 366 * 86400.0
"""Seconds; no provider counts over more than a year."""

LIFETIME_S_MAX = 7 * 86400.0
"""Seconds, a week: nothing that nobody asks for is kept longer."""

RATE_MAX = 1 << 40
"""Units per period, and units at once: far above any provider's tokens per day."""

WARM_MAX = 10_000
"""Sandboxes that stand ready: more than a node can hold processes for."""

STARTS_MAX = 256
"""Sandboxes that start at once; no machine is faster with more."""

MIRRORS_MAX = 8
"""Of one registry: each that does not answer delays a pull."""

WINDOWS_MAX = 8
"""Windows of one quota: per second, minute, hour and day, for calls and tokens."""


def _size(value: Any) -> int:
    size = parse_size(value)
    if size == 0:
        raise ValueError("a size must be more than 0")
    return size


Size = Annotated[int, BeforeValidator(_size)]
"""Bytes, written as a number or as text such as `512Mi`."""

Period = Annotated[float, BeforeValidator(parse_period), Field(gt=0, le=PERIOD_S_MAX)]
"""Seconds, written as a number or as text such as `1m`."""

MirrorName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?(/[a-z0-9._/-]+)?$")
]

RegistryHost = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?$")]
"""`HOST` or `HOST:PORT` as it stands in image references; `docker.io` for Docker Hub."""

Units = Annotated[int, Field(strict=True, gt=0, le=RATE_MAX)]


class _Settings(BaseModel):
    """Frozen, and a key that it does not know is an error: a typing mistake must not pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SandboxDefaults(_Settings):
    """What every sandbox gets unless its trajectory says otherwise."""

    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables, added to those of the image. Default: none. A trajectory's and an
    action's own variables win."""


class SandboxConfig(_Settings):
    """Limits of one sandbox. The first four hold where a trajectory does not ask for another."""

    memory: Size = 1 << 30
    """Bytes of memory that a trajectory reserves on its node and may not exceed. Default 1Gi: test
    suites of usual repositories stay below it."""

    disk: Size = 10 << 30
    """Bytes that its files may take. Default 10Gi: room for a checkout with its environment."""

    shm: Size = 64 << 20
    """Bytes of /dev/shm, counted to its memory. Default 64Mi, as container engines have it."""

    network: Literal["none", "egress"] = "none"
    """`none`, or `egress` for connections to the outside. Default none: generated code has no
    business on the network."""

    pids: int = Field(default=512, ge=16, le=1 << 22)
    """Processes and threads at once. Default 512: parallel builds fit, a fork bomb does not
    harm the node. None below 16, which an agent and a shell with a pipe need."""

    starts: int | None = Field(default=None, ge=1, le=STARTS_MAX)
    """Sandboxes that start at once on a node; more wait their turn. Default: one per 8 cores, but 4
    at least and 16 at most: more make each start slower, not all faster."""

    output_limit: Size = 1 << 20
    """Bytes kept of stdout and of stderr of one action unless it asks for another. Default 1Mi: a
    policy reads far less."""

    defaults: SandboxDefaults = SandboxDefaults()
    """What every sandbox gets. Default: nothing."""


class WarmConfig(_Settings):
    """Sandboxes that are started ahead of need, so that a trajectory need not wait for a start. How
    many, is learned for each image from how trajectories came lately and how long starts take."""

    max: int = Field(default=32, ge=0, le=WARM_MAX)
    """The most sandboxes that stand ready at once. Default 32; 0 starts none ahead of need."""

    memory: Size | None = None
    """The most bytes that they may take together, each counted with 32 MiB; memory that trajectories
    have reserved is never theirs. Default: a sixteenth of the node's memory."""

    idle_s: float = Field(default=600.0, gt=0, le=LIFETIME_S_MAX)
    """Seconds for which an arrival counts: sandboxes of an image that nobody asks for any more go
    after that. Default 600: longer than most training steps, whose trajectories come together."""


class QuotaWindow(_Settings):
    """At most `rate` units in any stretch of `period`."""

    rate: Units
    """Units (calls, or tokens where amounts are tokens)."""

    period: Period
    """Seconds, or text such as 1m. It slides: there is no moment at which a new one begins."""


class QuotaConfig(_Settings):
    """The limits of one API quota. At least one is needed; all that are given hold at once."""

    concurrency: Units | None = None
    """Units held at once. Default: no such limit."""

    rate: Units | None = None
    """Units that may begin per `period`. Default: no such limit."""

    period: Period | None = None
    """Seconds, or text such as 1m. Needed by `rate`, and by it alone."""

    windows: tuple[QuotaWindow, ...] = Field(default=(), max_length=WINDOWS_MAX)
    """More windows, such as 60 per 1m and 1000 per 1d. Default: none."""

    @model_validator(mode="after")
    def _limits_something(self) -> QuotaConfig:
        if (self.rate is None) != (self.period is None):
            raise ValueError("rate and period belong together: give both, such as 60 and 1m")
        if self.concurrency is None and not self.all_windows:
            raise ValueError("a quota needs concurrency, or rate and period, or windows")
        return self

    @property
    def all_windows(self) -> tuple[tuple[int, float], ...]:
        """(rate, period_s) of every window."""
        own = () if self.rate is None or self.period is None else ((self.rate, self.period),)
        return own + tuple((window.rate, window.period) for window in self.windows)


class RegistryConfig(_Settings):
    """One image registry: who asks it, and where its images are looked for first."""

    username: str = Field(default="", max_length=256)
    """With `password_file`. Default: none; Docker's own configuration (docker login) is asked."""

    password_file: Path | None = None
    """A file that holds the password or token, read at each use. Default: none."""

    auth_env: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    """Instead of both: the server's environment variable that holds the base64 of USER:PASSWORD.
    Default: none."""

    mirrors: tuple[MirrorName, ...] = Field(default=(), max_length=MIRRORS_MAX)
    """Hosts, each `HOST[:PORT]` or `HOST[:PORT]/FOLDER`, asked in this order before the registry
    itself. Default: none."""

    @model_validator(mode="after")
    def _one_account(self) -> RegistryConfig:
        if bool(self.username) != (self.password_file is not None):
            raise ValueError("username and password_file belong together: give both, or auth_env")
        if self.username and self.auth_env:
            raise ValueError("give username and password_file, or auth_env, not both")
        return self


class PullConfig(_Settings):
    """How images come to a node, and how they go."""

    policy: Literal["missing", "always", "never"] = "missing"
    """For trajectories that do not say: `missing` pulls what is not on the node, `always` asks the
    registry what a tag means once per task, `never` takes what is there. Default missing."""

    concurrency: int = Field(default=3, ge=1, le=64)
    """Images that are pulled at once. Default 3: each is loaded in layers, which fill the line."""

    disk_high: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of the disk with the engine's images above which images are evicted: those that this
    server pulled, least recently used first. Default 0.85, where file systems begin to be slow."""

    disk_low: Annotated[float, Field(gt=0, le=1)] = 0.75
    """The share at which evicting ends. Default 0.75."""

    @model_validator(mode="after")
    def _low_is_lower(self) -> PullConfig:
        if self.disk_low > self.disk_high:
            raise ValueError("disk_low must not be above disk_high")
        return self


class NodeConfig(_Settings):
    """One node's cores, memory and sandboxes."""

    name: str = Field(default="node0", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """The node's name in `status` and in results. Default node0."""

    launcher: Literal["auto", "bubblewrap", "docker", "process"] = "auto"
    """What starts sandboxes. Default auto: bubblewrap for trajectories without an image or with one
    that `images` maps to a folder, docker for any other image."""

    unsafe: bool = False
    """Allows the launcher `process`, which isolates nothing. Default false; for debugging."""

    cores: str | None = None
    """Core ids to hand out, such as 0-63 or 0,2,4-7. Default: all that this process may use."""

    memory: Size | None = None
    """Bytes of memory to hand out. Default: 90 % of the machine's, or of the limit of the cgroup
    that this process is in; the rest is the server's and the kernel's."""

    disk: Size | None = None
    """Bytes of disk for the files of all sandboxes and for what is kept of them (snapshots, forks);
    one sandbox can ask for that much at most. Above it, the sandbox with most files has to make
    room. Default: what is free under `state` at the start."""

    reserved_cores: int | None = Field(default=None, ge=0)
    """Cores out of `cores` that are never granted, on which idle sandboxes wait. Default: 0 below 8
    cores, else one per 32."""

    sandbox: SandboxConfig = SandboxConfig()
    """Limits of one sandbox."""

    warm: WarmConfig = WarmConfig()
    """Sandboxes that are started ahead of need."""

    images: dict[str, str] = Field(default_factory=dict)
    """Names of images, each mapped to a folder that holds a root file system, or to an image
    reference. Default: none; names are then references."""

    registries: dict[RegistryHost, RegistryConfig] = Field(default_factory=dict)
    """Registries by host. Default: none; what Docker is logged in to is used."""

    pulls: PullConfig = PullConfig()
    """How images come to the node, and how they go."""

    orphan_after: float = Field(default=60.0, gt=0, le=LIFETIME_S_MAX)
    """Seconds that a sandbox lives on while no server is attached to it. Default 60: a server that
    restarts finds its sandboxes, one that is gone leaves none behind."""

    instance: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Names this server among others of the machine: its cgroups, its containers' labels."""

    state: Path
    """Folder for the sandboxes' files."""

    runtime: Path
    """Folder for sockets: a short path, emptied by a reboot."""

    @model_validator(mode="after")
    def _unsafe_is_said(self) -> NodeConfig:
        if self.launcher == "process" and not self.unsafe:
            raise ValueError(
                "launcher: process isolates nothing; write `unsafe: true` beside it if no command "
                "comes from a model, else use bubblewrap or docker"
            )
        return self
