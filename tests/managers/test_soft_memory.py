"""Memory of a sandbox where no control group holds it: watched, summed over its processes, and what is
too much is ended and told as such. Against real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tangram.managers.config import NodeConfig
from tangram.managers.cpu.manager import CpuManager
from tangram.managers.cpu.memory_use import memory_used_bytes
from tests.managers.soft_memory import PARENT, check_soft_memory

MIB = 1 << 20


@pytest.fixture(params=["bubblewrap", "process"])
async def manager(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CpuManager]:
    """On a machine whose control groups may not be written."""
    monkeypatch.setattr("tangram.managers.cpu.watch.MEMORY_PERIOD_S", 0.02)
    monkeypatch.setattr("tangram.managers.cpu.watch.MEMORY_IDLE_PERIOD_S", 0.02)
    with tempfile.TemporaryDirectory(prefix="sm-", dir="/tmp") as name:
        place = Path(name)
        os.chmod(place, 0o711)
        monkeypatch.setattr("tangram.managers.cpu.assemble.CGROUP_ROOT", place)
        node = NodeConfig(
            instance="soft",
            launcher=request.param,
            unsafe=request.param == "process",
            state=place / "state",
            runtime=place / "run",
        )
        manager = await CpuManager.open_node(node)
        yield manager
        await manager.aclose()


async def test_processes_that_hold_too_much_together_are_out_of_memory(manager: CpuManager) -> None:
    assert manager.describe().limits["memory"] == "soft"
    await check_soft_memory(manager)


# Counting


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds 64 MiB, with three forked children that share it."""
    command = [sys.executable, "-c", PARENT, str(64 * MIB), "3", "share", "600", "kill"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"held\n"
        yield parent
        for pid in [*_children(parent.pid), parent.pid]:
            os.kill(pid, 9)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_forked_processes_share_counts_once_where_it_matters(
    family: subprocess.Popen[bytes],
) -> None:
    assert len(_children(family.pid)) == 3
    at_most = memory_used_bytes(family.pid, 1 << 40)
    exact = memory_used_bytes(family.pid, 0)
    assert 4 * 64 * MIB <= at_most < 4 * 96 * MIB
    assert 64 * MIB <= exact < 128 * MIB


def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (64 * MIB))
    reader = (
        "import mmap, sys; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print(sum(m[::4096]) and 'held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", reader, str(tmp_path / "file")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert 0 < memory_used_bytes(process.pid, 0) < 32 * MIB
        process.communicate(b"")


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert memory_used_bytes(process.pid, 0) == 0
