"""The pool of started sandboxes: who gets which, what is started ahead of need, what goes, and what
happens when starts and hand-overs fail. Sandboxes are scripted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tangram.managers.base import SandboxSpec, WarmStatus
from tangram.managers.config import NodeConfig
from tangram.managers.cpu.launchers import Launchers
from tangram.managers.cpu.warm import backoff, pool
from tangram.managers.cpu.warm.counts import IMAGES_MAX, OTHER
from tangram.managers.cpu.warm.pool import HAND_OVERS_MAX, WARM_BYTES, PoolLimits, WarmPool
from tangram.managers.errors import (
    BackingOff,
    PermanentError,
    SandboxClosed,
    SandboxDied,
    TemporaryError,
    UnknownImage,
)
from tests.managers.contract.scripted import ScriptedBuilder, ScriptedSandbox
from tests.waiting import until

FAILED = "no room"


class Bench:
    """A pool over scripted launchers, in 10 GiB of room."""

    def __init__(self, **limits: Any) -> None:
        self.builder = ScriptedBuilder()
        self.launcher = self.builder.launchers["bubblewrap"]
        self.room_bytes = 10 << 30
        usual = {"warm_max": 8, "memory_bytes": 1 << 30, "idle_s": 60.0, "starts": 4}
        places = {"instance": "test", "state": Path("/s"), "runtime": Path("/r")}
        config = NodeConfig.model_validate({**places, "launcher": "auto"})
        launchers = Launchers(config, self.builder)
        self.pool = WarmPool(launchers, PoolLimits(**{**usual, **limits}), lambda: self.room_bytes)
        self.lost: list[str] = []

    async def open(self, trajectory: str = "t", **settings: Any) -> ScriptedSandbox:
        spec = SandboxSpec(trajectory, **settings)
        sandbox = await self.pool.open(spec, self.lost.append)
        assert isinstance(sandbox, ScriptedSandbox)
        return sandbox

    def opening(self, count: int) -> list[asyncio.Task[ScriptedSandbox]]:
        return [asyncio.create_task(self.open(f"t{n}")) for n in range(count)]

    @property
    def status(self) -> WarmStatus:
        return self.pool.statuses()[0]

    @property
    def ready(self) -> int:
        return sum(status.ready for status in self.pool.statuses())

    def closed(self) -> int:
        return sum(sandbox.closed for sandbox in self.launcher.started)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REVIEW_SOON_S", 0.001)
    monkeypatch.setattr(pool, "REVIEW_S", 0.02)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.pool.aclose()


# Who gets which


async def test_the_second_trajectory_finds_a_sandbox_ready(bench: Bench) -> None:
    first = await bench.open("first")
    await until(lambda: bench.ready == 1)
    bench.launcher.start_gate.clear()  # From here on nothing starts.
    second = await bench.open("second")
    assert second is not first
    assert second.assigned == [SandboxSpec("second")]
    assert (bench.status.hits, bench.status.misses) == (1, 1)


async def test_what_belongs_to_a_trajectory_comes_with_it_alone(bench: Bench) -> None:
    await bench.open("first", env={"A": "1"}, workdir="/a", shell=("zsh",), labels={"x": "y"})
    await until(lambda: bench.ready == 1)
    mine = SandboxSpec("second", task="mine", env={"B": "2"}, disk_bytes=7, memory_bytes=9)
    sandbox = await bench.pool.open(mine, bench.lost.append)
    assert isinstance(sandbox, ScriptedSandbox)
    assert sandbox.assigned == [mine]
    bare = sandbox.template
    assert (bare.trajectory, bare.task, bare.env, bare.workdir) == ("", "", {}, "")
    assert (bare.shell, bare.labels, bare.disk_bytes) == ((), {}, None)


@pytest.mark.parametrize("other", [{"network": "egress"}, {"shm_bytes": 5}, {"image": "debian"}])
async def test_sandboxes_that_cannot_be_changed_later_are_kept_apart(
    bench: Bench, other: dict[str, Any]
) -> None:
    bench.builder.launchers["docker"] = bench.launcher
    await bench.open("first")
    await until(lambda: bench.ready == 1)
    sandbox = await bench.open("second", **other)
    assert {name: getattr(sandbox.template, name) for name in other} == other
    assert bench.status.hits == 0


async def test_an_image_whose_name_stands_for_another_now_is_started_anew(bench: Bench) -> None:
    await bench.open("first")
    await until(lambda: bench.ready == 1)
    bench.launcher.image_id = "another"
    await bench.open("second")
    assert (bench.status.hits, bench.status.misses) == (0, 2)


async def test_a_start_under_way_serves_the_trajectory_that_comes_meanwhile(bench: Bench) -> None:
    await bench.open("first")
    await until(lambda: bench.ready == 1)
    bench.launcher.start_gate.clear()
    await bench.open("second")
    await until(lambda: bench.launcher.starting)  # Ahead of need.
    third = asyncio.create_task(bench.open("third"))
    await asyncio.sleep(0)
    bench.launcher.start_gate.set()
    assert await third is bench.launcher.started[2]


async def test_trajectories_are_served_in_their_order_and_before_what_is_ahead_of_need() -> None:
    bench = Bench(starts=1)
    bench.launcher.start_gate.clear()
    opening = bench.opening(3)
    await until(lambda: bench.launcher.starting == 1)
    bench.launcher.start_gate.set()
    await asyncio.gather(*opening)
    served = [sandbox.trajectory for sandbox in bench.launcher.started[:3]]
    assert served == ["t0", "t1", "t2"]
    await bench.pool.aclose()


async def test_what_starts_from_kept_files_is_never_started_ahead_of_need(bench: Bench) -> None:
    for n in range(3):
        assert (await bench.open(f"t{n}", snapshot="s")).template.snapshot == "s"
    bench.pool._resize()
    assert (bench.status.wanted, bench.status.misses, bench.ready) == (0, 3, 0)
    bench.launcher.start_error = PermanentError("the files are gone")
    for n in range(3):
        with pytest.raises(PermanentError, match="gone"):
            await bench.open(f"f{n}", snapshot="s")
    assert (bench.status.failed, bench.status.problem) == (0, "")


async def test_half_of_the_starts_are_left_to_trajectories(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(8))
    await until(lambda: bench.ready == 8)
    bench.launcher.start_gate.clear()
    await asyncio.gather(*bench.opening(8))
    await until(lambda: bench.launcher.starting == 2)
    await asyncio.sleep(0.01)
    assert bench.launcher.starting == 2
    opening = bench.opening(4)
    await until(lambda: bench.launcher.starting == 4)
    bench.launcher.start_gate.set()
    await asyncio.gather(*opening)


# How many


async def test_a_burst_leaves_as_many_ready_as_it_had_trajectories(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(6))
    await until(lambda: bench.ready == 6)
    assert bench.status.wanted == 6
    await asyncio.gather(*bench.opening(6))
    assert (bench.status.hits, bench.status.misses) == (6, 6)


@pytest.mark.parametrize(
    "limits", [{"warm_max": 3}, {"memory_bytes": 3 * WARM_BYTES + 5}], ids=["number", "memory"]
)
async def test_no_more_stand_ready_than_allowed(limits: dict[str, Any]) -> None:
    bench = Bench(**limits)
    await asyncio.gather(*bench.opening(6))
    await until(lambda: bench.ready == 3)
    assert bench.status.wanted == 3
    await bench.pool.aclose()


async def test_a_pool_of_none_starts_nothing_ahead_of_need() -> None:
    bench = Bench(warm_max=0)
    await asyncio.gather(*bench.opening(6))
    bench.pool._resize()
    assert (bench.status.wanted, bench.ready, len(bench.launcher.started)) == (0, 0, 6)
    await bench.pool.aclose()


async def test_what_stands_ready_goes_when_trajectories_reserve_the_memory(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(4))
    await until(lambda: bench.ready == 4)
    bench.room_bytes = 2 * WARM_BYTES
    await bench.open("large")
    assert bench.ready <= 2
    bench.room_bytes = 0
    await bench.open("larger")
    assert bench.ready == 0
    await until(lambda: bench.closed() >= 2)
    bench.room_bytes = 10 << 30
    await until(lambda: bench.ready > 0)


async def test_sandboxes_of_an_image_that_nobody_asks_for_any_more_go() -> None:
    bench = Bench(idle_s=0.2)
    await bench.open()
    await until(lambda: bench.ready == 1)
    await until(lambda: bench.ready == 0 and bench.closed() == 1)
    assert bench.pool._shelves == {}
    assert bench.status.wanted == 0
    await bench.pool.aclose()


# What goes wrong


async def test_a_sandbox_that_dies_before_anybody_had_it_is_removed_and_replaced(
    bench: Bench,
) -> None:
    await bench.open("first")
    await until(lambda: bench.ready == 1)
    standing = bench.launcher.started[-1]
    standing.die("its agent died")
    assert bench.ready == 0
    assert "it died before anybody had it: its agent died" in bench.status.problem
    second = await bench.open("second")
    assert second is not standing
    assert (standing.closed, bench.lost, bench.status.problem) == (1, [], "")
    second.die("later")
    assert bench.lost == ["later"]


async def test_a_trajectory_whose_hand_over_fails_gets_another_sandbox(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(2))
    await until(lambda: bench.ready == 2)
    dead, alive = bench.launcher.started[-2:]
    dead.assign_errors = [SandboxDied("just now")]
    assert await bench.open("mine") is alive
    assert (dead.closed, bench.status.hits, bench.status.failed) == (1, 1, 1)


async def test_when_no_ready_one_is_of_use_a_new_one_is_started(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(5))
    await until(lambda: bench.ready == 5)
    standing = bench.launcher.started[-5:]
    for sandbox in standing:
        sandbox.assign_errors = [TemporaryError("busy")]
    assert await bench.open("mine") not in standing
    assert sum(sandbox.closed for sandbox in standing) == HAND_OVERS_MAX


async def test_a_kind_that_is_forgotten_during_a_hand_over_that_fails_is_started_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.open("first")
    await until(lambda: bench.ready == 1)

    async def forget(spec: SandboxSpec, on_lost: object) -> None:
        bench.pool._shelves.clear()
        raise TemporaryError("busy")

    monkeypatch.setattr(bench.launcher.started[-1], "assign", forget)
    async with asyncio.timeout(5.0):
        assert (await bench.open("second")).trajectory == "second"


async def test_what_a_trajectory_asks_wrongly_is_its_own_fault(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(2))
    await until(lambda: bench.ready == 2)
    for sandbox in bench.launcher.started[-2:]:
        sandbox.assign_errors = [PermanentError("no user ghost")]
    for _ in range(2):
        with pytest.raises(PermanentError, match="ghost"):
            await bench.open("mine")
    await bench.open("well")
    assert (bench.status.failed, bench.status.problem) == (0, "")


async def test_an_image_that_fails_five_times_backs_off_says_so_and_then_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "DELAY_S", 0.02)
    bench.launcher.start_errors = [TemporaryError(FAILED, delay_s=0.0) for _ in range(5)]
    delays = []
    for failures in range(1, 6):
        with pytest.raises(TemporaryError, match=FAILED) as raised:
            await bench.open()
        delays.append(raised.value.delay_s)
        assert bench.status.failed == failures
        if failures > 1:
            with pytest.raises(BackingOff, match=f"failed {failures} times in a row.*{FAILED}"):
                await bench.open()  # Too early: nothing is started.
            with pytest.raises(BackingOff, match="sandboxes without an image: starting it"):
                bench.pool.check(SandboxSpec("t"))
            assert bench.status.failed == failures
            assert bench.status.problem
            assert bench.status.retry_s > 0
        await until(lambda: bench.status.retry_s == 0)
    assert delays == pytest.approx([0.0, 0.02, 0.04, 0.08, 0.16], abs=0.01)
    bench.pool.check(SandboxSpec("t"))
    await bench.open()
    assert (bench.status.problem, bench.status.failed) == ("", 5)


async def test_one_failed_start_is_told_to_one_trajectory_alone(bench: Bench) -> None:
    bench.launcher.start_errors = [TemporaryError(FAILED)]
    outcomes = await asyncio.gather(*bench.opening(3), return_exceptions=True)
    assert [isinstance(outcome, TemporaryError) for outcome in outcomes] == [True, False, False]


async def test_failures_in_a_row_are_told_to_all_that_wait() -> None:
    bench = Bench(starts=1)
    bench.launcher.start_error = TemporaryError(FAILED)
    outcomes = await asyncio.gather(*bench.opening(40), return_exceptions=True)
    assert all(isinstance(outcome, TemporaryError) for outcome in outcomes)
    assert bench.status.failed == 2
    await bench.pool.aclose()


async def test_an_image_that_is_not_there_does_not_count_as_failing(bench: Bench) -> None:
    bench.launcher.start_error = UnknownImage("x", "no image x")
    for _ in range(3):
        with pytest.raises(UnknownImage):
            await bench.open()
    assert (bench.status.failed, bench.status.problem) == (0, "")


async def test_a_failure_of_our_own_is_told_too(bench: Bench) -> None:
    bench.launcher.start_error = ZeroDivisionError("a mistake")
    with pytest.raises(ZeroDivisionError):
        await bench.open()
    assert "a mistake" in bench.status.problem


# Ends


async def test_a_trajectory_that_stops_waiting_ends_the_start_that_was_for_it() -> None:
    bench = Bench(warm_max=0)
    bench.launcher.start_gate.clear()
    opening = bench.opening(2)
    await until(lambda: bench.launcher.starting == 2)
    opening[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening[0]
    assert bench.launcher.starting == 1
    bench.launcher.start_gate.set()
    assert (await opening[1]).trajectory == "t1"
    await bench.pool.aclose()


async def test_what_started_for_a_trajectory_that_goes_at_that_moment_is_ended() -> None:
    bench = Bench(warm_max=0)
    opening = bench.opening(1)[0]
    while not bench.launcher.started:  # noqa: ASYNC110 - the very moment is what counts
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert bench.launcher.started[0].assigned == []
    assert (bench.closed(), bench.ready) == (1, 0)
    await bench.pool.aclose()


async def test_closing_ends_what_starts_what_stands_ready_and_who_waits(bench: Bench) -> None:
    await asyncio.gather(*bench.opening(2))
    await until(lambda: bench.ready == 2)
    bench.launcher.start_gate.clear()
    waiting = bench.opening(6)
    await until(lambda: bench.launcher.starting == 4)
    await bench.pool.aclose()
    await bench.pool.aclose()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(outcome, SandboxClosed) for outcome in outcomes) == 4
    assert (bench.ready, bench.launcher.starting) == (0, 0)
    handed_over = 4
    assert len(bench.launcher.started) == handed_over + bench.closed()
    with pytest.raises(SandboxClosed):
        await bench.open("late")


async def test_images_beyond_the_bound_are_counted_together(bench: Bench) -> None:
    bench.builder.launchers["docker"] = bench.launcher
    for n in range(IMAGES_MAX + 5):
        await bench.open(image=f"image-{n:03}")
    statuses = {status.image: status for status in bench.pool.statuses()}
    assert len(statuses) == IMAGES_MAX + 1
    assert statuses[OTHER].misses == 5
