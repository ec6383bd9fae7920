"""What must hold of a node that watches memory, whoever runs it: root, or (in `unprivileged`) not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tangram.managers.base import ExecSpec, Outcome, RunRequest, RunResult, SandboxSpec
from tangram.managers.cpu.manager import CpuManager
from tangram.scheduler.model import CORES, ResourceId
from tests.managers.contract.node import Recorder
from tests.waiting import until

LIMIT_BYTES = 192 << 20
PARENT = """
import os, sys, time
size, count, mode, seconds, end = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
def hold():
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    return held
mine = hold() if mode == "share" else b""
read, write = os.pipe()
children = []
for _ in range(count):
    children.append(os.fork())
    if not children[-1]:
        mine = mine or hold()
        os.write(write, b"x")
        time.sleep(600)
for _ in range(count):
    os.read(read, 1)
print("held", flush=True)
time.sleep(float(seconds))
if end == "kill":
    for child in children:
        os.kill(child, 9)
"""
"""Arguments: bytes, children, `share` (what the parent holds) or `each` (has as much of its own), for
how many seconds, and whether to `kill` or to `leave` them then."""


async def check_soft_memory(manager: CpuManager) -> None:
    """Raises AssertionError."""
    lost: list[str] = []
    await manager.open(SandboxSpec("t1", memory_bytes=LIMIT_BYTES), 1, lost.append)

    # Each of them could have it, all of them together cannot.
    ended = await _run(manager, 2, "96", "3", "each", "600", "kill")
    assert ended.outcome is Outcome.OUT_OF_MEMORY, ended
    assert ended.exit_code != 0 and ended.run_s < 60
    assert not _left("t1-2"), "its whole tree is ended"

    # What is shared is held once, and does not end anything.
    fine = await _run(manager, 3, "96", "4", "share", "0.5", "kill")
    assert (fine.outcome, fine.exit_code) == (Outcome.FINISHED, 0), fine
    assert not lost

    # What stays behind of a command is nobody's run: it costs the sandbox.
    stays = await _run(manager, 4, "96", "3", "each", "0", "leave")
    if stays.outcome is Outcome.FINISHED:  # Else the watch was quicker than its end.
        await until(lambda: bool(lost))
        assert "more than the memory of 192Mi that it has" in lost[0]
    await manager.close("t1")
    assert not _left("t1-")


async def _run(manager: CpuManager, token: int, size_mib: str, *arguments: str) -> RunResult:
    amounts = {ResourceId(CORES, manager.node): 1}
    lease = await manager.acquire(f"a{token}", "t1", token, amounts)
    argv = ("python3", "-c", PARENT, str(int(size_mib) << 20), *arguments, f"t1-{token}")
    try:
        request = RunRequest(lease.action, ExecSpec(argv=argv), 60.0)
        return await asyncio.wait_for(manager.run(lease, request, Recorder()), 60)
    finally:
        await manager.release(lease)


def _left(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word.startswith(mark.encode()) for word in words) and PARENT.encode() in words:
            found.append(path.parent.name)
    return found
