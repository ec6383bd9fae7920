"""What images bring along: conda in the shell's start-up files, no Python, not even a shell."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tangram.managers.base import ExecSpec
from tangram.managers.config import NodeConfig
from tangram.managers.opening import open_cpu_manager
from tests.image import variants
from tests.managers.contract.commands import RealCommands
from tests.managers.contract.node import Node

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_variants")]

WHERE = "echo $CONDA_DEFAULT_ENV; command -v python; pwd; id -u; echo $HOME"
ACTIVATED = b"testbed\n/opt/miniconda3/envs/testbed/bin/python\n/testbed\n0\n/root\n"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    folder = Path(tempfile.mkdtemp(prefix="tangram-", dir="/tmp"))
    config = NodeConfig(
        launcher="docker",
        instance=f"kinds-{os.getpid()}",
        state=folder / "state",
        runtime=folder / "run",
        pulls={"policy": "never"},  # type: ignore[arg-type]
    )
    manager = await open_cpu_manager(config)
    pool = manager._claim.pool
    yield Node("docker", manager, RealCommands(), variants.SWE, lambda: pool.free)
    await manager.aclose()
    shutil.rmtree(folder)


async def test_a_login_shell_sees_the_conda_environment_of_its_image(node: Node) -> None:
    asked = await node.open(shell=("bash", "-lc"))
    assert (await node.execute(asked, ExecSpec(shell_command=WHERE))).stdout == ACTIVATED
    plain = await node.open()
    ran = await node.execute(plain, ("bash", "-lc", WHERE))
    assert ran.stdout == ACTIVATED
    ran = await node.execute(plain, ExecSpec(shell_command="echo $CONDA_DEFAULT_ENV; pwd"))
    assert ran.stdout == b"\n/testbed\n"


async def test_the_tests_of_a_repository_run_in_its_environment(node: Node) -> None:
    trajectory = await node.open(shell=("bash", "-lc"))
    await node.write(trajectory, "test_it.py", b"assert 1 + 1 == 2\nprint('passed')\n")
    ran = await node.execute(trajectory, ExecSpec(shell_command="python test_it.py"))
    assert (ran.stdout, ran.result.exit_code) == (b"passed\n", 0)


async def test_one_static_program_without_a_shell_runs_and_its_files_are_reached(
    node: Node,
) -> None:
    trajectory = await node.open(image=variants.SCRATCH)
    ran = await node.execute(trajectory, (variants.SCRATCH_PROGRAM, "--version"))
    assert ran.stdout.startswith(b"ldconfig")
    assert ran.result.exit_code == 0
    await node.write(trajectory, "/data/deep/file", b"content")
    assert await node.read(trajectory, "/data/deep/file") == b"content"
    ran = await node.execute(trajectory, ExecSpec(shell_command="echo anything"))
    assert ran.result.exit_code == 127
    assert b"sh" in ran.stderr
