"""What managers offer, and the data that passes between them and the dispatcher.

`Manager` is the small base every kind implements; extra abilities (`SandboxHost`) are protocols of
their own that callers test for. No IO here. A manager is driven by one event loop; every method may
be called concurrently with every other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from ..scheduler.model import EMPTY, Capacity, ResourceId
from ..scheduler.resource import ResourceView


class Outcome(StrEnum):
    """How a run ended. All but KILLED are what the command did; KILLED is what `kill` did."""

    FINISHED = "finished"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    TOO_MANY_PROCESSES = "too_many_processes"
    KILLED = "killed"


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


class OutputSink(Protocol):
    """Where a run's output goes. Called on the event loop, never blocks, keeps what it can."""

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        """`offset` counts the bytes the stream has produced; a jump means bytes were cut."""
        ...


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command for a sandbox. Exactly one of `argv` and `shell_command` is set."""

    argv: tuple[str, ...] = ()
    shell_command: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    stdin: bytes = b""
    user: str = ""
    max_output_bytes: int = 1 << 20
    """Kept of stdout and of stderr each: half from the head, half from the tail."""
    substitute_cores: bool = False
    """Replace the literal `{cores}` by the granted number: set for a range or a set of cores."""
    session: str = ""
    """Run by the shell of this name, which lives on with folder, variables and jobs. Its output is
    one stream, stdout; it has no stdin. `cwd`, `env` and `user` are those with which it starts."""
    merged: bool = False
    """Stderr goes into stdout, in the order of writing."""


@dataclass(frozen=True, slots=True)
class CallSpec:
    """An HTTP request done while a quota's permit is held."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class PermitSpec:
    """Nothing to run: the client holds the permit until it releases it."""


Payload = ExecSpec | CallSpec | PermitSpec


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to. Output went to the sink; only its lengths are here."""

    outcome: Outcome
    exit_code: int | None = None
    """None if it has none (it never ran to an exit); -N on signal N."""
    signal: int | None = None
    run_s: float = 0.0
    """From start to end of the command, on the clock of who ran it."""
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    http: HttpReply | None = None
    retry_after_s: float | None = None
    """A provider's wish (HTTP 429 or 503 with Retry-After): close the quota for that long."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A grant made real. `token` fences: what carries an older one is dropped."""

    action: str
    trajectory: str | None
    node: str
    token: int
    amounts: Mapping[ResourceId, int]
    cores: tuple[int, ...] = ()
    """The concrete core ids, for an exec."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What `run` runs."""

    action: str
    payload: Payload
    timeout_s: float | None = None


class Manager(ABC):
    """Owns one kind of resource on one node, or cluster-wide."""

    node: str

    @abstractmethod
    def capacities(self) -> tuple[Capacity, ...]:
        """What it adds to its node's NodeUp. Constant while the manager is open."""

    @abstractmethod
    async def acquire(
        self, action: str, trajectory: str | None, token: int, amounts: Mapping[ResourceId, int]
    ) -> Lease:
        """Make a grant real: choose the cores, confine the sandbox. Takes milliseconds at most.

        Raises SandboxDied or SandboxClosed if its sandbox is gone.
        """

    @abstractmethod
    async def run(self, lease: Lease, request: RunRequest, output: OutputSink) -> RunResult:
        """Run it and wait for its end; enforces `timeout_s`. Never raises for what the command
        did. After `kill` it returns with Outcome.KILLED. Raises LeaseLost if what ran it is gone,
        PermanentError if it cannot be run at all (no such user, message too large)."""

    @abstractmethod
    async def kill(self, lease: Lease) -> None:
        """Make a running `run` return soon, whatever it takes. No run, no effect; idempotent."""

    @abstractmethod
    async def resize(self, lease: Lease, amounts: Mapping[ResourceId, int]) -> Lease:
        """Give a live lease other amounts; returns the lease as it then is (it may be unchanged
        if it already ended). Raises LeaseLost."""

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Take the units back; on return nothing of the action uses them. Idempotent, and silent
        if the lease is unknown or its sandbox is gone."""

    @abstractmethod
    async def aclose(self) -> None:
        """End everything it started and free everything it took. Idempotent."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a trajectory's sandbox must be. Sizes in bytes; None means the node's default."""

    trajectory: str
    task: str = "default"
    image: str = ""
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    shm_bytes: int | None = None
    network: str = "none"
    user: str = ""
    workdir: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    shell: tuple[str, ...] = ()
    concurrency: int = 1
    """Actions that may run in it at a time."""
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    pull: str = ""
    """missing, always or never: when a registry is asked for the image; "" is the node's default."""
    snapshot: str = ""
    """The id of kept files (`SandboxHost.keep_files`) to start from; empty: those of the image."""


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """What was kept of a sandbox's files."""

    size_bytes: int
    """That it added on disk: what is shared with others counts once."""
    skipped: tuple[str, ...] = ()
    """Sentences on what could not be kept."""


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """What a started sandbox is."""

    trajectory: str
    launcher: str
    workdir: str
    limits: Mapping[str, str]
    """memory, disk, pids, shm, cores -> "hard", "soft" or "none"."""
    image_digest: str = ""
    """What its task means by its image: of the manifest, or the id of one from no registry."""
    image_wait_s: float = 0.0
    """How long its start waited for the image, from its beginning on."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a sandbox that starts waits for, where that takes long."""

    reason: str
    """image-pull."""
    fraction: float | None
    """Done, 0 to 1; None while nobody knows."""
    sentence: str
    """A phrase after "its image": `python:3.12 is being pulled, 40% done`."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image of a node, or one that is to come."""

    name: str
    digest: str
    """Of the manifest, or the id of one from no registry; "" until it is known."""
    state: str
    """present, queued, pulling, backing-off or failed."""
    size_bytes: int | None = None
    """With the layers that it shares with others; None until it is there."""
    in_use: int = 0
    """Sandboxes that have it."""
    pinned: bool = False
    """It is not evicted."""
    pulled: bool = False
    """Tangram pulled it, and so may evict it."""
    last_used_unix_s: float | None = None
    fraction: float | None = None
    """Of the pull, 0 to 1."""
    message: str = ""
    """Why the pull pauses or failed."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    name: str
    kind: str
    """file, directory, symlink or other."""
    size: int
    mode: int
    modified_unix_s: float
    target: str = ""
    """Of a symlink."""


@dataclass(frozen=True, slots=True)
class WarmStatus:
    """Sandboxes of one image that nobody has yet, and how starting them goes. The last five only
    grow while the node is open."""

    launcher: str
    image: str
    """"" for sandboxes without an image."""
    ready: int = 0
    starting: int = 0
    """For trajectories that wait, and ahead of need."""
    wanted: int = 0
    """How many are to stand ready."""
    start_s: float = 0.0
    """How long a start takes."""
    problem: str = ""
    """Why starts fail, and when the next try is; "" if they do not."""
    retry_s: float = 0.0
    """Until then a trajectory of this image is refused; 0 if it is not."""
    hits: int = 0
    """Trajectories that got a sandbox which stood ready."""
    misses: int = 0
    """Those that waited for one."""
    started: int = 0
    start_seconds: float = 0.0
    """That all these starts took together."""
    failed: int = 0
    """Starts that failed, and sandboxes that died before anybody had them."""


@runtime_checkable
class SandboxHost(Protocol):
    """The ability to hold sandboxes: CPU managers have it."""

    async def check_open(self, spec: SandboxSpec) -> SandboxSpec:
        """Refuse what this node can never start, before anything is queued; returns the spec with
        the node's defaults filled in (memory above all). Raises Unsupported, UnknownImage,
        PermanentError, and BackingOff while sandboxes of this kind fail to start."""
        ...

    async def open(
        self, spec: SandboxSpec, token: int, on_lost: Callable[[str], None]
    ) -> SandboxInfo:
        """Start the sandbox. `on_lost(message)` is called once, on the event loop, if it dies
        before `close`. Raises TemporaryError, PermanentError."""
        ...

    async def close(self, trajectory: str) -> None:
        """End it with everything in it; on return it is gone. Idempotent, silent if unknown."""
        ...

    def read_file(
        self, trajectory: str, path: str, offset: int, limit: int
    ) -> AsyncIterator[tuple[bytes, int]]:
        """Chunks of at most 1 MiB with the file's whole size; one empty chunk for an empty file.
        `limit` 0 reads to the end. Raises FileProblem, SandboxDied, SandboxClosed: as all below."""
        ...

    async def write_file(
        self, trajectory: str, path: str, mode: int, chunks: AsyncIterator[bytes]
    ) -> int:
        """Write a whole file, atomically (readers see the old or the new one), making missing
        folders; returns its size."""
        ...

    async def list_files(self, trajectory: str, path: str) -> list[FileInfo]:
        """The entries of a folder, sorted by name."""
        ...

    def read_tree(self, trajectory: str, path: str) -> AsyncIterator[bytes]:
        """A tar stream of all that is below a folder. Links are told of, never followed; so is
        what cannot be read or copied, as a FIFO of its name."""
        ...

    async def write_tree(
        self, trajectory: str, path: str, chunks: AsyncIterator[bytes]
    ) -> tuple[int, int]:
        """Write what a tar stream holds below a folder, which is made if missing; returns how many
        files and bytes. No name and no link leads out of the folder. Each file appears when it is
        whole; what was written before a failure stays. Raises PermanentError for what is no tar
        stream."""
        ...

    async def stat(self, trajectory: str, path: str) -> FileInfo:
        """Of the path itself: a symlink is not followed."""
        ...

    async def keep_files(self, trajectory: str, snapshot: str, limit_bytes: int) -> KeptFiles:
        """Keep its files as they are at one moment, under an id that is new on this node: what is
        in the writable places, never processes or memory. It stands still meanwhile. Where it runs
        one action at a time, none may run now. Raises PermanentError (it names the running action;
        more than `limit_bytes`, or than the node's disk has left), Unsupported, TemporaryError."""
        ...

    async def discard_files(self, snapshot: str) -> None:
        """Kept files are needed no more; sandboxes that started from them are not harmed. Silent if
        there are none of this id."""
        ...

    async def restore_files(self, trajectory: str, snapshot: str) -> None:
        """Put its files back to what was kept; every process in it ends. It is as it was if this
        fails. Raises PermanentError (it names the action that runs), TemporaryError."""
        ...

    async def session_input(
        self,
        trajectory: str,
        session: str,
        data: bytes = b"",
        *,
        interrupt: bool = False,
        close: bool = False,
    ) -> None:
        """Type to what runs in a session, press Ctrl-C, or end its shell with all that was started
        in it; ending none is no error. Raises PermanentError where nothing runs, or where more was
        typed than is read."""
        ...

    async def run_process(
        self, trajectory: str, process: str, spec: ExecSpec, output: OutputSink
    ) -> RunResult:
        """Run a command in the background until it ends: it holds no lease, and sits where its
        sandbox is parked while no action runs. Raises as `Manager.run` does, SandboxClosed when its
        sandbox is closed. When cancelled it is killed."""
        ...

    async def end_process(self, trajectory: str, process: str, *, force: bool) -> None:
        """Ask a background command to end (SIGTERM), or kill it with all that descends from it: its
        `run_process` returns soon then. No effect if it is not running."""
        ...

    async def wait_port(self, trajectory: str, port: int, timeout_s: float) -> bool:
        """Whether a program in the sandbox listens on a port of its loopback, or does in time."""
        ...

    def sandboxes(self) -> Mapping[str, int]:
        """How many there are by state: starting, idle, running."""
        ...

    def corrections(self) -> Mapping[str, int]:
        """How often a control file had to be put right since somebody else had changed it, by its
        name."""
        ...

    def warm(self) -> Sequence[WarmStatus]:
        """Of the sandboxes that are started ahead of need: one for each image that was asked
        for, a bounded number, those whose starts fail first."""
        ...

    def describe(self) -> NodeDescription:
        """For `status`: the default launcher and its limits."""
        ...

    def preparing(self, trajectory: str) -> Preparation | None:
        """What its sandbox waits for while `open` runs; None if that is nothing of note."""
        ...


@runtime_checkable
class ImageHost(Protocol):
    """The ability to bring images to a node: CPU managers have it."""

    async def images(self) -> list[ImageInfo]:
        """What is there and what is coming, by name. Raises Unsupported if no engine answers."""
        ...

    async def prefetch(self, task: str, names: Sequence[str]) -> list[ImageInfo]:
        """Begin to bring these, and keep each until a sandbox uses it; how they stand now. What
        fails is told by `images`. Raises Unsupported if no engine answers."""
        ...


@dataclass(frozen=True, slots=True)
class NodeDescription:
    launcher: str
    limits: Mapping[str, str]


@runtime_checkable
class QuotaHost(Protocol):
    """The ability to limit what is used cluster-wide: managers of quotas have it."""

    def capacities(self) -> tuple[Capacity, ...]:
        """One for each quota, of kind QUOTA_PREFIX and its name."""
        ...

    def views(self) -> Mapping[str, Callable[[Capacity], ResourceView]]:
        """What the scheduler counts them with, by the `view` that the capacities name."""
        ...

    def describe(self, name: str) -> str:
        """A quota's limits as a phrase for `status`. Raises KeyError if there is no such quota."""
        ...

    def closed_until(self, view: ResourceView, now: float) -> float | None:
        """When a quota opens again that a provider asked to close; None if it is open at `now`.
        `view` is one of those that it gave the scheduler. Raises TypeError for another."""
        ...
