"""What a server records: the trace's lines, and what becomes of them when the disk does not obey."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tangram import AsyncClient
from tangram.config import ServerConfig, TenantConfig
from tangram.errors import FailedPrecondition
from tangram.managers.config import QuotaConfig
from tangram.managers.fake import FakeManager
from tangram.managers.opening import open_quota_manager
from tangram.scheduler.model import Amounts, ResourceId
from tangram.scheduler.simulator.trace import TraceTrajectory, make_elastic, read_lines
from tangram.server import recorder
from tangram.server.app import Server

CORES = ResourceId("cores", "node0")


@asynccontextmanager
async def recording(
    trace: Path, cores: int = 4, **settings: Any
) -> AsyncIterator[tuple[Server, AsyncClient]]:
    config = ServerConfig(
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        state=trace.parent / "state",
        record=trace,
        **settings,
    )
    quotas = await open_quota_manager({"search": QuotaConfig(concurrency=2)})
    server = Server(config, managers=[FakeManager(cores=cores), quotas])
    await server.start()
    try:
        async with AsyncClient(server.grpc_address, task="coding") as client:
            yield server, client
    finally:
        await server.aclose()


def text_of(trace: Path) -> str:
    return trace.read_text()


def read(trace: Path) -> list[TraceTrajectory]:
    with trace.open() as lines:
        return read_lines(lines, trace.name)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


async def test_a_trajectory_is_written_when_it_has_ended(trace: Path) -> None:
    async with recording(trace) as (server, client):
        settings: dict[str, Any] = {"group": "g", "step": 3, "priority": 2, "memory": "512Mi"}
        async with client.trajectory(id="t", **settings) as trajectory:
            await trajectory.exec("sleep 0.02", timeout=9)
            await trajectory.exec("true", cores=2)
            assert text_of(trace) == ""
        assert server.dispatcher.recorder is not None
        await _written(server, 2)
        [found] = read(trace)
    assert (found.id, found.task, found.group, found.step) == ("t", "coding", "g", 3)
    assert (found.priority, found.memory_mib) == (2, 512)
    first, second = found.actions
    assert (first.kind, first.amounts, first.timeout_s) == ("exec", Amounts.exactly(1), 9)
    assert 0.02 <= first.duration_s < 5
    assert second.amounts == Amounts.exactly(2)
    assert second.profile.run_s(2) == pytest.approx(second.duration_s / 2)


async def test_whose_it_was_and_how_urgent_is_written_too(trace: Path) -> None:
    tenants = {"lab": TenantConfig(tasks=["coding"])}
    async with recording(trace, tenants=tenants) as (server, client):
        async with client.trajectory(id="t", priority=2) as trajectory:
            await trajectory.exec("true", priority=-1)
        async with client.quota("search"):
            pass
        async with (
            AsyncClient(server.grpc_address, task="other") as other,
            other.trajectory(id="u") as trajectory,
        ):
            await trajectory.exec("true")
        await _written(server, 3)
        found = {line.id: line for line in read(trace)}
    mine, theirs = found.pop("t"), found.pop("u")
    [(_, call)] = found.items()
    assert (mine.tenant, mine.priority, mine.actions[0].priority) == ("lab", 2, -1)
    assert (theirs.tenant, theirs.priority, theirs.actions[0].priority) == ("", 0, 0)
    assert call.tenant == "lab"
    assert '"tenant"' not in next(line for line in text_of(trace).splitlines() if '"u"' in line)


async def test_a_replay_submits_when_it_was_submitted(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory(id="t") as trajectory:
            for name in ("a", "b"):
                await trajectory.exec("sleep 0.01", id=name)
                await asyncio.sleep(0)
        await _written(server, 2)
        records = [server.dispatcher.record(name) for name in ("a", "b")]
        opened = server.dispatcher.trajectory("t").opened
        [found] = read(trace)
    first, second = found.actions
    assert first.gap_s == pytest.approx(records[0].submitted - opened, abs=2e-6)
    assert second.gap_s == pytest.approx(records[1].submitted - (records[0].ended or 0), abs=2e-6)
    for action, record in zip(found.actions, records, strict=True):
        timing = record.timing(0.0)
        rest_s = action.sandbox_prepare_s + action.lease_prepare_s + action.duration_s
        assert rest_s == pytest.approx(timing.act_s - timing.queue_s, abs=5e-6)


async def test_actions_that_ran_at_once_come_one_after_the_other(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory(id="t", concurrency=2) as trajectory:
            await trajectory.wait_ready()
            long = asyncio.create_task(trajectory.exec("gate go", id="long"))
            await _running(server, "long")
            await trajectory.exec("true", id="short")
            _fake(server).gate("go").set()
            await long
        await _written(server, 2)
        [found] = read(trace)
    long_first, short = found.actions
    assert long_first.duration_s > short.duration_s
    assert short.gap_s == 0


async def test_an_elastic_action_is_written_with_one_core(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory() as trajectory:
            known = {"duration": 0.08, "elasticity": 0.1, "malleable": True}
            result = await trajectory.exec("sleep 0.02", cores=(1, 4), id="a", **known)  # type: ignore[arg-type]
        await _written(server, 1)
        record = server.dispatcher.record("a")
        [found] = read(trace)
    [action] = found.actions
    assert (action.amounts, action.serial) == (Amounts.between(1, 4), 0.1)
    assert action.malleable
    assert record.result is not None
    assert action.profile.run_s(result.cores) == pytest.approx(record.result.run_s, abs=5e-6)


async def test_a_choice_of_which_nothing_is_known_is_written_as_what_it_got(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory() as trajectory:
            await trajectory.exec("true", cores=(2, 4))
        await _written(server, 1)
        [found] = read(trace)
    [action] = found.actions
    assert (action.amounts, action.serial) == (Amounts.exactly(2), None)


async def test_a_recorded_command_is_known_by_its_signature(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory() as trajectory:
            await trajectory.exec("sleep 0.01")
            await trajectory.exec(["true", "--really"])
        async with client.quota("search"):
            pass
        await _written(server, 3)
        lines = read(trace)
    actions = {action.signature: action for line in lines for action in line.actions}
    assert set(actions) == {"sleep", "true", ""}
    assert (actions["sleep"].kind, actions[""].kind) == ("exec", "call")
    elastic = make_elastic(lines, "sleep", Amounts.between(1, 4), 0.1)
    assert [a.amounts.elastic for line in elastic for a in line.actions if a.signature] == [
        True,
        False,
    ]


async def test_a_resized_action_is_written_with_the_work_it_did(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory() as trajectory:
            known = {"elasticity": 0.0, "malleable": True}
            running = asyncio.create_task(
                trajectory.exec("gate go", cores=(1, 4), id="a", **known)  # type: ignore[arg-type]
            )
            await _running(server, "a")
            await server.dispatcher.resize("a", {CORES: 4})
            async with asyncio.timeout(10):
                while not server.dispatcher.record("a").grown:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0)
            _fake(server).gate("go").set()
            await running
        await _written(server, 1)
        record = server.dispatcher.record("a")
        [found] = read(trace)
    assert record.stretches is not None
    assert record.result is not None
    held_s = record.stretches.until(record.ended or 0)
    work_s = sum(units * seconds for units, seconds in held_s.items())
    expected_s = record.result.run_s * work_s / sum(held_s.values())
    assert set(held_s) == {1, 4}
    assert found.actions[0].duration_s == pytest.approx(expected_s, abs=5e-6)


async def test_a_permit_without_a_trajectory_has_a_line_of_its_own(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.quota("search"):
            pass
        await _written(server, 1)
        [found] = read(trace)
    [action] = found.actions
    assert (action.kind, action.quota, action.quota_amount) == ("call", "search", 1)


async def test_what_has_no_result_is_no_action_of_the_trace(trace: Path) -> None:
    async with recording(trace) as (server, client):
        async with client.trajectory() as trajectory:
            await trajectory.exec("true")
            running = asyncio.create_task(trajectory.exec("gate never", id="a"))
            await _running(server, "a")
            await client.cancel(action="a")
            await asyncio.wait([running])
            assert running.exception() is not None
            await trajectory.exec("true")
        await _written(server, 2)
        [found] = read(trace)
    assert len(found.actions) == 2


async def test_what_is_open_when_the_server_stops_is_written(trace: Path) -> None:
    async with recording(trace) as (_, client):
        trajectory = client.trajectory(id="open")
        await trajectory.exec("true")
        assert text_of(trace) == ""
    assert [found.id for found in read(trace)] == ["open"]


@pytest.fixture
def earlier(trace: Path) -> Path:
    trace.write_text("an earlier one\n")
    return trace


async def test_a_trace_that_is_there_already_is_left_alone(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = earlier
    async with recording(trace) as (_, client), client.trajectory() as trajectory:
        await trajectory.exec("true")
    assert text_of(trace) == "an earlier one\n"
    assert len(read(trace.with_name("trace-2.jsonl"))) == 1
    assert "trace-2.jsonl" in capsys.readouterr().err


async def test_a_trace_that_cannot_be_written_hinders_the_start(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="--record") as raised:
        async with recording(tmp_path):
            pass
    assert raised.value.field == "record"


async def test_a_disk_that_fails_harms_no_action_and_leaves_a_whole_trace(
    trace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second line is half written when the disk is full; the third fits again."""
    write, half_written = os.write, False

    def failing(file: int, data: bytes) -> int:
        nonlocal half_written
        if half_written:
            half_written = False
            raise OSError(errno.ENOSPC, "No space left on device")
        half_written = b'"t1"' in bytes(data)
        return write(file, bytes(data)[:100] if half_written else data)

    async with recording(trace) as (server, client):
        monkeypatch.setattr(os, "write", failing)
        for number in range(3):
            async with client.trajectory(id=f"t{number}") as trajectory:
                assert (await trajectory.exec("true")).ok
            await _written(server, number + 1)
        kept = server.dispatcher.recorder
        assert kept is not None
        text = (await _metrics(server)).decode()
    assert (kept.written, kept.dropped) == (2, 1)
    assert [found.id for found in read(trace)] == ["t0", "t2"]
    assert [r.message for r in caplog.records if "No space" in r.message] == [
        f"the trace {trace} is not whole from now on: [Errno 28] No space left on device"
    ]
    assert 'tangram_recorded_actions_total{result="dropped"} 1.0' in text


async def test_what_is_beyond_the_limits_is_counted(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "HELD_MAX", 2)
    async with recording(trace) as (server, client):
        async with client.trajectory() as trajectory:
            for _ in range(3):
                await trajectory.exec("true")
        await _written(server, 3)
        assert server.dispatcher.recorder is not None
        assert server.dispatcher.recorder.dropped == 1
        [found] = read(trace)
    assert len(found.actions) == 2


def _fake(server: Server) -> FakeManager:
    [fake] = [m for m in server._managers if isinstance(m, FakeManager)]
    return fake


async def _running(server: Server, action: str) -> None:
    async with asyncio.timeout(10):
        while action not in {r.id for r in server.dispatcher.records()}:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await server.dispatcher.wait_running(action)


async def _written(server: Server, actions: int) -> None:
    """Until the recorder is through with so many."""
    kept = server.dispatcher.recorder
    assert kept is not None
    async with asyncio.timeout(10):
        while kept.written + kept.dropped < actions:  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(0.001)


async def _metrics(server: Server) -> bytes:
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{server.http_address}/metrics") as answer,
    ):
        return await answer.read()
