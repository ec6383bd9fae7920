"""What `tangram doctor` tells of this machine: each launcher tried for real. Pure data out.

How it is shown is the command's; what is tried is each launcher's own `checks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import NodeConfig
from ..errors import ManagerError
from .assemble import LauncherBuilder
from .claim import make_claim
from .sandbox.base import Check, Launcher

LAUNCHERS = ("bubblewrap", "docker", "process")
CHECK_WAIT_S = 60.0
"""For all checks of one launcher: an engine that does not answer must not hang the doctor."""


@dataclass(frozen=True, slots=True)
class Report:
    """One launcher on this machine. Its limits are what they would be if it worked."""

    launcher: str
    works: bool
    checks: tuple[Check, ...]
    limits: Mapping[str, str]
    """memory, disk, pids, shm, cores -> "hard", "soft" or "none"."""
    cures: tuple[str, ...]
    """The lines that mend it; none if it works."""


async def examine(config: NodeConfig) -> list[Report]:
    """Try every launcher, the preferred one first. Leaves nothing behind.

    Raises PermanentError if the configuration claims what the machine does not have.
    """
    claim = await asyncio.to_thread(make_claim, config)
    builder = await asyncio.to_thread(LauncherBuilder, config, claim.parking)
    try:
        return [await _report(builder.build(name)) for name in LAUNCHERS]
    finally:
        await asyncio.to_thread(builder.close)


async def _report(launcher: Launcher) -> Report:
    name = launcher.name
    try:
        async with asyncio.timeout(CHECK_WAIT_S):
            checks = await launcher.checks()
    except TimeoutError:
        checks = [Check(name, False, f"its checks took longer than {CHECK_WAIT_S:g} s")]
    except ManagerError as problem:
        checks = [Check(name, False, str(problem))]
    finally:
        await launcher.aclose()
    failed = [check for check in checks if not check.ok]
    cures = tuple(dict.fromkeys(check.cure for check in failed if check.cure))
    return Report(name, not failed, tuple(checks), launcher.limits(), cures)
