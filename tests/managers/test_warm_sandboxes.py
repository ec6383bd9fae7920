"""Real sandboxes that stood ready are what new ones are: nothing of the pool's defaults and nothing of
another trajectory shows inside, and every limit is the trajectory's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tangram.managers.base import SandboxSpec
from tangram.managers.config import NodeConfig, WarmConfig
from tangram.managers.cpu.manager import CpuManager
from tangram.managers.cpu.sandbox.base import Sandbox
from tangram.managers.opening import open_cpu_manager
from tests.managers.sandboxes import run, short_folder
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PORTRAIT = r"""
env | sort; pwd; id; umask; ulimit -a; echo "shell $0"
grep -E '^(Cap|NoNewPrivs|Seccomp|Cpus_allowed_list|Groups)' /proc/self/status
find /workspace /tmp "$HOME" -maxdepth 3 2>/dev/null | sort
sed -E 's/^[0-9]+ [0-9]+ [0-9:]+ //' /proc/self/mountinfo | sort
df -P /dev/shm | tail -n 1; hostname; cat /sys/devices/system/cpu/online; ls /dev
tr '\0' '\n' < /proc/1/cmdline
"""
"""What a program can see of its sandbox."""
MINE = {
    "memory_bytes": 300 << 20,
    "disk_bytes": 1 << 30,
    "env": {"MINE": "yes", "PATH": "/workspace:/usr/bin:/bin"},
    "workdir": "/tmp",
    "shell": ("sh", "-c"),
}
"""Nothing of it is a default."""


class Node:
    """A manager with a pool, and what its next sandboxes are."""

    def __init__(self, manager: CpuManager, image: str) -> None:
        self.manager = manager
        self.image = image
        self.lost: list[str] = []

    async def open(self, trajectory: str, **settings: object) -> Sandbox:
        spec = SandboxSpec(trajectory, image=self.image, **settings)  # type: ignore[arg-type]
        filled = await self.manager.check_open(spec)
        await self.manager.open(filled, 1, self.lost.append)
        sandbox = self.manager._held[trajectory].sandbox
        assert sandbox is not None
        return sandbox

    async def open_warm(self, trajectory: str, **settings: object) -> Sandbox:
        await until(lambda: any(status.ready for status in self.manager.warm()))
        before = self.hits
        sandbox = await self.open(trajectory, **settings)
        assert self.hits == before + 1
        return sandbox

    @property
    def hits(self) -> int:
        return sum(status.hits for status in self.manager.warm())


@pytest_asyncio.fixture(
    loop_scope="module",
    params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)],
)
async def node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    image = request.getfixturevalue("docker_image") if request.param == "docker" else ""
    folder = short_folder()
    config = NodeConfig(
        launcher=request.param,
        instance=f"warm-{request.param}-{os.getpid()}",
        warm=WarmConfig(max=1),
        state=folder / "state",
        runtime=folder / "run",
    )
    manager = await open_cpu_manager(config)
    try:
        yield Node(manager, image)
    finally:
        await manager.aclose()
        left = [path for name in ("state/sandboxes", "run") for path in (folder / name).glob("*")]
        shutil.rmtree(folder)
    assert left == []


async def test_a_sandbox_that_stood_ready_looks_like_a_new_one(node: Node) -> None:
    cold = await node.open("cold", **MINE)
    assert node.hits == 0
    warm = await node.open_warm("warm", **MINE)
    assert await _portrait(warm) == await _portrait(cold)
    assert (warm.workdir, warm.limits) == (cold.workdir, cold.limits)
    assert _limits(warm) == _limits(cold)


async def test_nothing_of_another_trajectory_shows_in_a_sandbox(node: Node) -> None:
    first = await node.open("first", **MINE)
    await run(first, "echo secret | tee /tmp/a /workspace/b ~/c /dev/shm/d; sleep 86401 &")
    await node.manager.close("first")
    plain = await node.open_warm("second")
    seen = await run(
        plain, f"{PORTRAIT}; ps -e 2>/dev/null; grep -rs secret /tmp /workspace ~ /dev/shm"
    )
    assert "MINE" not in seen.stdout
    assert "secret" not in seen.stdout
    assert "86401" not in seen.stdout
    assert plain.workdir == "/workspace"


@pytest.mark.root
async def test_each_has_the_memory_limit_that_its_trajectory_asked_for(node: Node) -> None:
    for n, memory_bytes in enumerate((128 << 20, 48 << 20, 700 << 20)):
        opening = node.open if n == 0 else node.open_warm
        sandbox = await opening(f"t{n}", memory_bytes=memory_bytes, shm_bytes=1 << 20)
        assert set(_limits(sandbox).values()) == {memory_bytes}
        need = f"b = bytearray({memory_bytes} // 2); print(len(b) and 'fits')"
        assert (await run(sandbox, need, shell=False)).stdout == "fits\n"
        need = f"b = bytearray({memory_bytes} * 5 // 4); print(len(b) and 'fits')"
        assert (await run(sandbox, need, shell=False)).stdout == ""


async def test_a_sandbox_that_dies_while_it_stands_ready_is_replaced(node: Node) -> None:
    await node.open("first")
    await until(lambda: any(status.ready for status in node.manager.warm()))
    (standing,) = (s for shelf in node.manager._pool._shelves.values() for s in shelf.ready)
    assert standing.sandbox is not None
    _kill(standing.sandbox)
    sandbox = await node.open("second")
    assert sandbox is not standing.sandbox
    assert (await run(sandbox, "echo alive")).stdout == "alive\n"
    assert node.lost == []


async def test_what_stands_ready_ends_with_the_node(node: Node) -> None:
    await node.open("first")
    await until(lambda: any(status.ready for status in node.manager.warm()))
    (standing,) = (s for shelf in node.manager._pool._shelves.values() for s in shelf.ready)
    assert standing.sandbox is not None
    pid = _root_pid(standing.sandbox)
    await asyncio.gather(node.manager.aclose(), node.manager.aclose())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def _portrait(sandbox: Sandbox) -> list[str]:
    """With what differs from sandbox to sandbox by design struck out: ids, uids, pids."""
    seen = await run(sandbox, PORTRAIT)
    assert seen.stdout.count("\n") > 30, seen.stderr
    text = re.sub(r"\b20\d{4}\b", "UID", seen.stdout)
    text = re.sub(r"\b[0-9a-f]{10}\b|\b[0-9a-f]{12}\b|\b[0-9a-f]{64}\b|[0-9A-Z]{26}", "ID", text)
    text = re.sub(r"master:\d+|shared:\d+|(?<=l/)[A-Z0-9]{26}", "", text)
    return text.splitlines()


def _limits(sandbox: Sandbox) -> dict[str, int]:
    """The memory limits of its control group, as the kernel has them."""
    group = getattr(sandbox, "cgroup", None) or getattr(sandbox, "_cgroup", None)
    if group is None:
        return {}
    folder = group._folders["memory"]
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max")
    return {name: int((folder / name).read_text()) for name in names if (folder / name).exists()}


def _root_pid(sandbox: Sandbox) -> int:
    pid = sandbox.root_pid()
    if (
        pid is None
    ):  # A container's is the engine's to know: the one member of its group with no parent.
        members = sandbox._cgroup.members()  # type: ignore[attr-defined]
        pid = min(members)
    return pid


def _kill(sandbox: Sandbox) -> None:
    os.kill(_root_pid(sandbox), signal.SIGKILL)
