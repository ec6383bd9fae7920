"""What is simulated: the trajectories of a file or a workload, and the pool that options describe.

What `simulate` and `plan` share: the reading of option values and of files, and the one place that
starts a simulation.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import typer

from ..managers.gpu import CHUNKS_VIEW, ChunksView
from ..managers.periods import parse_period
from ..managers.quota import QUOTA_VIEW, QuotaView
from ..scheduler.pool import ViewFactory
from ..scheduler.simulator import workloads
from ..scheduler.simulator.cluster import ClusterSpec, QuotaSpec, parse_gpus, parse_nodes
from ..scheduler.simulator.discipline import (
    FAIR_SHARE,
    Discipline,
    check_names,
    parse_limits,
    parse_weights,
)
from ..scheduler.simulator.policies import check_policy, is_pod
from ..scheduler.simulator.simulation import SimulationError, simulate
from ..scheduler.simulator.trace import (
    EXEC,
    LINE_CHARS_MAX,
    SCORE,
    TraceError,
    TraceTrajectory,
    make_elastic,
    parse_elastic,
    read_lines,
    replicate,
)
from .render import counted
from .terminal import give_up

if TYPE_CHECKING:
    from ..scheduler.simulator.result import SimulationResult

EXIT_USAGE = 2
"""Input that cannot be used: an option, a trace, a workload."""

STDIN = "-"
GZIP_MAGIC = b"\x1f\x8b"
VIEWS: Mapping[str, ViewFactory] = {QUOTA_VIEW: QuotaView, CHUNKS_VIEW: ChunksView}
"""What counts resources live counts them here."""

QUOTA_KEYS = ("concurrency", "rate", "period")
QUOTA_UNITS_MAX = 1 << 40


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated, and its name in titles."""

    name: str
    trajectories: Sequence[TraceTrajectory]
    cluster: ClusterSpec | None = None
    """What a workload is meant to run on; a trace does not say."""

    @property
    def kinds(self) -> set[str]:
        """exec, score, call: those that occur."""
        return {action.runs_as for t in self.trajectories for action in t.actions}

    @property
    def actions(self) -> int:
        """How many."""
        return sum(len(t.actions) for t in self.trajectories)

    @property
    def details(self) -> str:
        """`128 trajectories, 4,248 actions`."""
        trajectories = counted(len(self.trajectories), "trajectory", "trajectories")
        return f"{trajectories}, {counted(self.actions, 'action')}"


def read_scenario(
    source: str,
    count: int | None,
    copies: int | None,
    seed: int,
    elastic: Sequence[str],
) -> Scenario:
    """The trajectories of a file, of stdin, or of a workload; a file wins over a workload of its
    name. Ends the command with EXIT_USAGE where there is none, or it cannot be read."""
    is_file = source == STDIN or Path(source).exists()
    if is_file and count is not None:
        refuse("--trajectories", "counts those of a workload; --replicate multiplies a trace")
    if is_file:
        scenario = Scenario(Path(source).name, read_file(source))
    else:
        scenario = _workload(source, count, seed)
    if not scenario.trajectories:
        give_up(f"{_called(source)}: no trajectories in it", EXIT_USAGE)
    for text in elastic:
        with naming("--elastic"):
            changed = make_elastic(scenario.trajectories, *parse_elastic(text))
            scenario = replace(scenario, trajectories=changed)
    if copies is not None:
        with naming("--replicate"):
            many = replicate(scenario.trajectories, copies, seed)
            scenario = replace(scenario, trajectories=many)
    return scenario


def _workload(name: str, count: int | None, seed: int) -> Scenario:
    if not workloads.is_workload(name):
        known = ", ".join(workloads.NAMES)
        give_up(f"{name!r} is neither a file nor a workload; workloads are {known}", EXIT_USAGE)
    try:
        workload = workloads.workload(name, count, seed)
    except ValueError as error:
        give_up(error, EXIT_USAGE)
    return Scenario(name, workload.trajectories, workload.cluster)


def read_file(source: str) -> list[TraceTrajectory]:
    """The trace in a file or, for -, on stdin, gzipped or not."""
    name = _called(source)
    try:
        with _opened(source) as file, _text(file) as text:
            return read_lines(_lines(text), name)
    except TraceError as error:
        give_up(error, EXIT_USAGE)
    except UnicodeDecodeError as error:
        give_up(f"{name}: not text in UTF-8, as JSON lines are: {error.reason}", EXIT_USAGE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        give_up(f"{name}: broken gzip: {error}", EXIT_USAGE)
    except OSError as error:
        give_up(f"{name}: cannot be read: {error.strerror or error}", EXIT_USAGE)


def _called(source: str) -> str:
    return "stdin" if source == STDIN else source


def _opened(source: str) -> BinaryIO:
    """Something whose beginning can be read twice, as a pipe's cannot."""
    if source == STDIN:
        return io.BytesIO(sys.stdin.buffer.read())
    if Path(source).is_fifo():
        return io.BytesIO(Path(source).read_bytes())
    return open(source, "rb")


def _text(file: BinaryIO) -> io.TextIOWrapper:
    packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    if packed:
        return io.TextIOWrapper(gzip.GzipFile(fileobj=file), encoding="utf-8")
    return io.TextIOWrapper(file, encoding="utf-8")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines of a bounded length: one that is longer comes in pieces, the first of which is refused
    for its length."""
    while line := text.readline(LINE_CHARS_MAX + 1):
        yield line


# The pool


def read_pool(
    scenario: Scenario, nodes: str | None, gpus: str | None, quotas: Sequence[str]
) -> ClusterSpec:
    """What the options say, and where they are silent what the workload is meant to run on. Ends
    the command with EXIT_USAGE for a trace without --nodes, and for scores without --gpus."""
    pool = scenario.cluster
    if nodes is not None:
        with naming("--nodes"):
            named = parse_nodes(nodes)
            pool = named if pool is None else replace(pool, nodes=named.nodes)
    if pool is None:
        refuse("--nodes", "a trace does not say what it runs on: write NODESxCORES, such as 5x256")
    if gpus is not None:
        with naming("--gpus"):
            pool = replace(pool, gpus=parse_gpus(gpus))
    if SCORE in scenario.kinds and pool.gpus is None:
        refuse("--gpus", "the trace has actions on GPUs: say what there is, such as --gpus 1x8")
    limits = {quota.name: quota for quota in pool.quotas} | read_quotas(quotas)
    return replace(pool, quotas=tuple(limits.values()))


def places_by_memory(scenario: Scenario, policy: str) -> bool:
    """Whether a second node could make a difference: without memory all trajectories share the
    first. Pods are spread by their number too."""
    if is_pod(policy) or EXEC not in scenario.kinds:
        return True
    return any(trajectory.memory_mib for trajectory in scenario.trajectories)


def read_policies(pool: ClusterSpec, policies: Sequence[str]) -> Sequence[str]:
    """The same. Ends the command with EXIT_USAGE before anything is simulated, if the last of them
    is wrong."""
    for policy in policies:
        with naming("--policy"):
            check_policy(policy, pool.services)
    return policies


def read_quotas(texts: Sequence[str]) -> dict[str, QuotaSpec]:
    """`search:concurrency=8,rate=100,period=1` each, by name."""
    quotas: dict[str, QuotaSpec] = {}
    for text in texts:
        with naming("--quota"):
            quota = parse_quota(text)
            if quota.name in quotas:
                raise ValueError(f"{quota.name!r} is given twice: put its limits in one option")
            quotas[quota.name] = quota
    return quotas


def parse_quota(text: str) -> QuotaSpec:
    """Raises ValueError."""
    right = f"write NAME:concurrency=8 or NAME:rate=100,period=60s or all three, not {text!r}"
    name, _, listed = text.partition(":")
    pairs = [pair.partition("=") for pair in listed.split(",")]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    if not name.strip() or len(values) != len(pairs) or not values.keys() <= set(QUOTA_KEYS):
        raise ValueError(right)
    numbers = {key: value for key, value in values.items() if key != "period"}
    for value in numbers.values():
        if not (value.isdecimal() and 0 < int(value) <= QUOTA_UNITS_MAX):
            raise ValueError(f"units are whole numbers from 1 to {QUOTA_UNITS_MAX}; {right}")
    if ("rate" in values) != ("period" in values):
        raise ValueError(f"rate and period belong together; {right}")
    windows: tuple[tuple[int, float], ...] = ()
    if "rate" in values:
        period_s = parse_period(values["period"])
        if period_s <= 0:
            raise ValueError(f"a period is longer than nothing; {right}")
        windows = ((int(values["rate"]), period_s),)
    concurrency = int(values["concurrency"]) if "concurrency" in values else None
    return QuotaSpec(name.strip(), concurrency, windows)


def pool_name(cluster: ClusterSpec) -> str:
    """`5 nodes of 256 cores, 40 GPUs`."""
    parts = []
    if cluster.nodes:
        nodes = counted(len(cluster.nodes), "node")
        parts.append(f"{nodes} of {counted(cluster.nodes[0].cores, 'core')}")
    if cluster.gpus is not None:
        parts.append(counted(cluster.gpus.total, "GPU"))
    return ", ".join(parts) or "quotas alone"


# Who is served first


def read_disciplines(
    scenario: Scenario,
    pool: ClusterSpec,
    orders: Sequence[str],
    weights: Sequence[str],
    limits: Sequence[str],
) -> list[Discipline]:
    """One for each order, all with these weights and limits. Ends the command with EXIT_USAGE for
    what is malformed, or names what does not occur."""
    with naming("--order"):
        plain = [Discipline(order) for order in orders]
    if weights and FAIR_SHARE not in orders:
        refuse(
            "--weight", f"only the order {FAIR_SHARE} looks at weights: add --order {FAIR_SHARE}"
        )
    quotas = {quota.name for quota in pool.quotas}
    quotas |= {a.quota for t in scenario.trajectories for a in t.actions if a.quota}
    with naming("--weight"):
        weighted = Discipline(weights=parse_weights(weights))
        check_names(weighted, scenario.trajectories, quotas)
    with naming("--limit"):
        limited = Discipline(limits=parse_limits(limits))
        check_names(limited, scenario.trajectories, quotas)
    return [replace(d, weights=weighted.weights, limits=limited.limits) for d in plain]


# Running it


def run(
    trajectories: Sequence[TraceTrajectory],
    cluster: ClusterSpec,
    policy: str,
    discipline: Discipline,
    on_end: Callable[[], None] | None = None,
) -> SimulationResult:
    """One simulation. Ends the command where the policy is unknown or stands still."""
    try:
        return simulate(
            trajectories, cluster, policy, discipline=discipline, views=VIEWS, on_end=on_end
        )
    except ValueError as error:
        give_up(error, EXIT_USAGE)
    except SimulationError as error:
        give_up(f"{policy} cannot finish this trace: {error}")


@contextmanager
def naming(option: str) -> Iterator[None]:
    """A ValueError inside is the fault of this option's value."""
    try:
        yield
    except ValueError as error:
        refuse(option, str(error))


def refuse(option: str, message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=option)
