"""The process launcher: refuses unless asked for in so many words, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tangram.managers.base import SandboxSpec
from tangram.managers.cpu.sandbox.process import Process
from tangram.managers.errors import PermanentError, Unsupported
from tests.managers.sandboxes import processes_with, run, spec_of
from tests.waiting import until


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pr-", dir="/tmp"))
    yield folder
    assert left_behind(folder) == []
    shutil.rmtree(folder)


def build(place: Path, unsafe: bool = True) -> Process:
    return Process(
        name="test",
        state=place / "state",
        runtime=place / "run",
        orphan_after_s=20.0,
        unsafe=unsafe,
    )


@pytest_asyncio.fixture
async def launcher(place: Path) -> AsyncIterator[Process]:
    launcher = build(place)
    yield launcher
    await launcher.aclose()


def fail_if_lost(message: str) -> None:
    raise AssertionError(f"the sandbox was lost: {message}")


def left_behind(place: Path) -> list[str]:
    folders = [*(place / "state").glob("*"), *(place / "run").glob("*")]
    return [*map(str, folders), *map(str, processes_with(str(place)))]


async def test_it_refuses_unless_the_operator_says_unsafe(place: Path) -> None:
    launcher = build(place, unsafe=False)
    (check,) = await launcher.checks()
    assert not check.ok
    assert "unsafe: true" in check.cure
    with pytest.raises(Unsupported, match="unsafe: true"):
        await launcher.start(spec_of(), fail_if_lost)


@pytest.mark.parametrize(
    ("spec", "field"),
    [(spec_of(image="x"), "image"), (spec_of(user="x"), "user"), (spec_of(workdir="x"), "workdir")],
)
async def test_what_it_cannot_do_is_refused(
    launcher: Process, spec: SandboxSpec, field: str
) -> None:
    with pytest.raises(PermanentError, match=field):
        await launcher.start(spec, fail_if_lost)


async def test_commands_run_in_a_folder_of_their_own(
    launcher: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hidden")
    first = await launcher.start(spec_of("one", env={"MINE": "yes"}), fail_if_lost)
    second = await launcher.start(spec_of("two"), fail_if_lost)
    assert (await run(first, "echo $MINE; echo x > f; pwd")).stdout.split() == [
        *("yes", first.workdir),
    ]
    assert (await run(second, "ls; echo $SERVER_SECRET")).stdout == "\n"
    assert await first.disk_used_bytes() > 0
    held = {name for name, limit in first.limits.items() if limit == "soft"}
    assert held == {"memory", "disk", "cores"}
    assert {first.limits[name] for name in ("pids", "shm")} == {"none"}


async def test_a_command_is_bound_to_the_cores_of_its_lease(launcher: Process) -> None:
    core = max(os.sched_getaffinity(0))
    sandbox = await launcher.start(spec_of(), fail_if_lost)
    await sandbox.confine((core,))
    assert (await run(sandbox, "nproc", affinity=(core,))).stdout == "1\n"


async def test_closing_ends_what_hides_from_its_agent(launcher: Process, place: Path) -> None:
    mark = f"8640{os.getpid()}.75"
    sandbox = await launcher.start(spec_of(), fail_if_lost)
    await run(sandbox, f"(setsid sleep {mark} >/dev/null 2>&1 &)")
    assert processes_with(mark)
    await sandbox.aclose()
    assert not processes_with(mark)
    assert left_behind(place) == []
    await sandbox.aclose()


async def test_a_lost_agent_is_reported_once(launcher: Process) -> None:
    messages: list[str] = []
    sandbox = await launcher.start(spec_of(), messages.append)
    os.kill(sandbox.root_pid() or 0, signal.SIGKILL)
    await until(lambda: messages)
    await sandbox.aclose()
    assert len(messages) == 1


async def test_the_next_server_reaps_what_a_dead_one_left(launcher: Process, place: Path) -> None:
    mark = f"8640{os.getpid()}.85"
    orphan = await launcher.start(spec_of(), lambda message: None)
    await run(orphan, f"setsid sleep {mark} >/dev/null 2>&1 &")
    assert await build(place).reap() == 1
    assert not processes_with(mark)
