"""The server's settings: frozen, documented, every mistake named with its place.

`load_config` reads YAML, lays the command line's values over it and checks the whole; nothing else
reads a configuration. What the settings mean is the business of `server.app` and the managers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from . import __version__
from .errors import InvalidRequest
from .limits import DEFAULT_HTTP, DEFAULT_SERVER
from .managers.config import (
    LIFETIME_S_MAX,
    NodeConfig,
    PullConfig,
    QuotaConfig,
    RegistryConfig,
    RegistryHost,
    SandboxConfig,
    Size,
    Units,
    WarmConfig,
)
from .scheduler.model import CORES, QUOTA_PREFIX
from .scheduler.order import DEFAULT as DEFAULT_ORDER
from .scheduler.order import parse_order
from .scheduler.policy import DEFAULT as DEFAULT_POLICY
from .scheduler.policy import parse_policy

CONFIG_BYTES_MAX = 1 << 20
"""A configuration of thousands of images fits; a trace given by mistake does not."""

_LATER = {
    "services": "GPU services",
    "engine": "engines other than this machine",
    "journal": "a journal on disk",
}
"""Keys of the documentation that this version does not have."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\s\[\]]+):(?P<port>\d{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT`; an IPv6 host stands in brackets. Raises ValueError."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"{address!r} is not HOST:PORT, such as {DEFAULT_SERVER}")
    return match["host"].strip("[]"), int(match["port"])


def _address(value: Any) -> Any:
    if isinstance(value, str):
        split_address(value)
    return value


Address = Annotated[str, BeforeValidator(_address)]
"""HOST:PORT; port 0 picks a free one."""

Seconds = Annotated[float, Field(gt=0, le=LIFETIME_S_MAX)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class QueueConfig(_Settings):
    """How much may wait and run at once; what comes on top is refused with a retry delay."""

    max_actions: int = Field(default=100_000, ge=1, le=10_000_000)
    """Actions that have not ended. Default 100,000: ten times what a large rollout has in flight."""

    max_bytes: Size = 1 << 30
    """Bytes of their requests. Default 1Gi: inputs are held in memory until they run."""


class SnapshotsConfig(_Settings):
    """How much each task may keep by name (`snapshot`). What all tasks keep counts to `disk` too."""

    max_count: int = Field(default=256, ge=0, le=1_000_000)
    """Snapshots of one task at a time. Default 256: a tree search keeps some tens."""

    max_bytes: Size = 100 << 30
    """Bytes on disk of one task's snapshots; what they share counts once. Default 100Gi: ten
    sandboxes with a full disk of the default size."""


def _policy(text: str) -> str:
    if parse_policy(text).unlimited:
        raise ValueError(f"{text!r} is for simulations alone: a real pool has its limits")
    return text


def _order(text: str) -> str:
    return parse_order(text).name


def _limited_kind(kind: str) -> str:
    if kind != CORES and not kind.startswith(QUOTA_PREFIX):
        raise ValueError(f"limits are of {CORES} or of {QUOTA_PREFIX}NAME, not of {kind!r}")
    return kind


LimitedKind = Annotated[str, AfterValidator(_limited_kind)]

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SchedulerConfig(_Settings):
    """Who is served first, and with how much."""

    policy: Annotated[str, AfterValidator(_policy)] = DEFAULT_POLICY
    """How many units an action gets. Default elastic: as many as lower the mean completion time."""

    order: Annotated[str, AfterValidator(_order)] = DEFAULT_ORDER
    """Who is served first. Default first-come: a higher priority before a lower, then as they
    came."""

    weights: dict[str, Weight] = Field(default_factory=dict)
    """Shares of tasks and tenants by name, for the order fair-share. Default 1 each."""

    limits: dict[str, dict[LimitedKind, Units]] = Field(default_factory=dict)
    """Task, or "*" for every task without a limit of its own -> `cores` or `quota:NAME` -> units
    that its actions hold at most at once. Default: none."""


class TenantConfig(_Settings):
    """Whose tasks are one party's: the order fair-share divides its weight among them."""

    tasks: list[str] = Field(min_length=1)
    """Names of tasks. A task that no tenant names stands for itself."""


class CacheConfig(_Settings):
    """Answers of actions that are declared deterministic, given again to the same ones."""

    tasks: list[str] = Field(default_factory=list)
    """Tasks whose actions are answered so; "*" for all. Default: none."""

    max_bytes: Size = 256 << 20
    """Of answers that are kept; those not asked for longest go first. Default 256Mi: tens of thousands
    of short ones."""


class ServerConfig(_Settings):
    """All settings of `tangram serve`. Every one has a default: no file at all works."""

    listen: Address = DEFAULT_SERVER
    """Where gRPC is served. Default: loopback, since there is no authentication yet."""

    http: Address = DEFAULT_HTTP
    """Where metrics and health are served over HTTP."""

    state: Path | None = None
    """Folder for sandboxes' files. Default `tangram/PORT` in the user's state directory; a
    temporary one with port 0. One server at a time uses it."""

    record: Path | None = None
    """File to which a trace of all that runs is written, for `tangram simulate`. Default: none. If it
    holds a trace already, the next free number goes into its name."""

    launcher: Literal["auto", "bubblewrap", "docker", "process"] = "auto"
    """What starts sandboxes. Default auto: bubblewrap without an image, Docker with one."""

    unsafe: bool = False
    """Allows the launcher `process`, which isolates nothing. Default false; for debugging."""

    cores: Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v)] | None = None
    """Core ids to hand out, such as 0-63 or 0,2,4-7. Default: all that this process may use."""

    memory: Size | None = None
    """Bytes to hand out to sandboxes. Default: 90 % of the machine's."""

    disk: Size | None = None
    """The most bytes that one sandbox may ask for; all together are not limited. Default: what is
    free in `state` at the start."""

    reserved_cores: int | None = Field(default=None, ge=0)
    """Cores out of `cores` that are never granted. Default: 0 below 8 cores, else one per 32."""

    sandbox: SandboxConfig = SandboxConfig()
    """Limits of one sandbox, unless its trajectory asks for others."""

    warm: WarmConfig = WarmConfig()
    """Sandboxes that are started ahead of need."""

    images: dict[str, str] = Field(default_factory=dict)
    """Names of images, each mapped to a root file system's folder or an image reference."""

    registries: dict[RegistryHost, RegistryConfig] = Field(default_factory=dict)
    """Image registries by host: accounts and mirrors. Default: none."""

    pulls: PullConfig = PullConfig()
    """How images come to the node, and how they go."""

    quotas: dict[str, QuotaConfig] = Field(default_factory=dict)
    """API quotas by name. Default: none."""

    queue: QueueConfig = QueueConfig()
    """How much may wait and run at once."""

    snapshots: SnapshotsConfig = SnapshotsConfig()
    """How much each task may keep by name."""

    scheduler: SchedulerConfig = SchedulerConfig()
    """Who is served first, and with how much."""

    cache: CacheConfig = CacheConfig()
    """Answers of deterministic actions. Default: none are kept."""

    tenants: dict[str, TenantConfig] = Field(default_factory=dict)
    """Tenants by name; their weights stand in `scheduler.weights`. Default: none."""

    lease: Seconds = 60.0
    """Seconds that a task's trajectories outlive the last sign of its clients. Default 60: a
    trainer that restarts in a minute finds them."""

    detach_grace: Seconds = 10.0
    """Seconds that an action runs on although nobody asks for it. Default 10: a client that
    reconnects does so earlier."""

    orphan_after: Seconds = 60.0
    """Seconds that a sandbox outlives its server. Default 60."""

    @model_validator(mode="after")
    def _limits_name_quotas(self) -> ServerConfig:
        for task, kinds in self.scheduler.limits.items():
            for kind in kinds:
                name = kind.removeprefix(QUOTA_PREFIX)
                if name != kind and name not in self.quotas:
                    known = ", ".join(self.quotas) or "none is configured"
                    raise ValueError(
                        f"scheduler.limits.{task}.{kind}: no such quota; known: {known}"
                    )
        return self

    @model_validator(mode="after")
    def _each_task_has_one_tenant(self) -> ServerConfig:
        owners: dict[str, str] = {}
        for tenant, settings in self.tenants.items():
            for task in settings.tasks:
                if owners.setdefault(task, tenant) != tenant:
                    raise ValueError(
                        f"tenants.{tenant}.tasks: {task!r} is a task of {owners[task]!r} already"
                    )
                if task in self.tenants:
                    raise ValueError(
                        f"tenants.{tenant}.tasks: {task!r} is a tenant's name too, and weights are"
                        " by name: call one of them otherwise"
                    )
        return self

    @property
    def task_tenants(self) -> dict[str, str]:
        """Task -> its tenant."""
        return {task: name for name, tenant in self.tenants.items() for task in tenant.tasks}

    @property
    def listen_address(self) -> tuple[str, int]:
        return split_address(self.listen)

    @property
    def http_address(self) -> tuple[str, int]:
        return split_address(self.http)

    def node_config(self, port: int, state: Path, runtime: Path) -> NodeConfig:
        """This machine as a node of the server on `port`, in the folders given."""
        return NodeConfig(
            launcher=self.launcher,
            unsafe=self.unsafe,
            cores=self.cores,
            memory=self.memory,
            disk=self.disk,
            reserved_cores=self.reserved_cores,
            sandbox=self.sandbox,
            warm=self.warm,
            images=self.images,
            registries=self.registries,
            pulls=self.pulls,
            orphan_after=self.orphan_after,
            instance=str(port),
            state=state,
            runtime=runtime,
        )


def load_config(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> ServerConfig:
    """The configuration of a YAML file (none: all defaults), with the command line's values, where
    they are not None, over it.

    Raises InvalidRequest that names every mistake with file, line and key.
    """
    text = _read(path) if path is not None else ""
    name = str(path) if path is not None else "options"
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(_yaml_mistake(name, error)) from error
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise InvalidRequest(f"{name}:1: a configuration is a mapping, such as `launcher: auto`")
    mistakes = [f"{name}:{line}: {key}: given twice" for key, line in _duplicates(tree)]
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        config = ServerConfig.model_validate({**settings, **given})
        if not mistakes:
            config.node_config(0, Path("/"), Path("/"))  # what only the whole of it tells
            return config
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            where = tuple(detail["loc"])
            origin = "options" if where and where[0] in given else name
            line = _line(tree, where) if origin == name else None
            place = f"{origin}:{line}" if line else origin
            mistakes.append(f"{place}: {_mistake(where, detail)}")
    raise InvalidRequest("\n".join(mistakes))


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path}: is not UTF-8 text") from error
    if len(text) > CONFIG_BYTES_MAX:
        raise InvalidRequest(f"{path}: is larger than {CONFIG_BYTES_MAX} bytes: no configuration")
    return text


def _yaml_mistake(name: str, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{name}: is no YAML: {error}"
    return f"{name}:{error.problem_mark.line + 1}: is no YAML: {error.problem}"


def _duplicates(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Keys that a mapping has twice: YAML would silently take the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name in seen:
            yield name, key.start_mark.line + 1
        seen.add(name)
        yield from _duplicates(value, f"{name}.")


def _line(node: yaml.Node | None, where: tuple[int | str, ...]) -> int | None:
    """The line of a key, or of the innermost mapping around one that is missing."""
    line = None
    for part in where:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            item = node.value[part]
            found = (item, item)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _mistake(where: tuple[int | str, ...], detail: Any) -> str:
    key = ".".join(str(part) for part in where if part != "[key]")
    if detail["type"] != "extra_forbidden":
        message = str(detail["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    name = str(where[-1])
    if len(where) == 1 and name in _LATER:
        return f"{key}: tangram {__version__} does not have {_LATER[name]}: remove this key"
    known = _known_names(where[:-1])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{key}: unknown key; {meant}"


def _known_names(where: tuple[int | str, ...]) -> list[str]:
    """The keys of the settings at a path."""
    settings: type[BaseModel] = ServerConfig
    for part in where:
        field = settings.model_fields.get(str(part))
        inner = _settings_in(field.annotation) if field is not None else None
        settings = inner or settings
    return list(settings.model_fields)


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class that an annotation is, or holds: `dict[str, QuotaConfig]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_settings_in(part) for part in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)
