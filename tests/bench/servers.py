"""What the benchmarks run against: a Tangram server of its own, SWE-ReX containers, Docker.

SWE-ReX comes from PyPI (extra `bench`) and runs in an image that is the test image plus its packages.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

IMAGE = "tangram-test:latest"
SWEREX_IMAGE = "tangram-bench-swerex:latest"
SWEREX = "/opt/swerex"


@contextmanager
def tangram_server(*options: str) -> Iterator[str]:
    """A `tangram serve` process on a free port; yields its gRPC address."""
    with tempfile.TemporaryDirectory(prefix="tangram-bench-") as state:
        command = [sys.executable, "-m", "tangram.cli", "serve", "--state", state]
        command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                ready = server.stdout.readline()
                if not ready.startswith("tangram ready grpc="):
                    raise RuntimeError(f"the server did not start: it said {ready!r}")
                yield ready.split()[2].removeprefix("grpc=")
            finally:
                server.terminate()
                server.wait(60)


def build_swerex_image() -> None:
    """The test image plus swe-rex of the version that is installed here; quick if it exists."""
    version = importlib.metadata.version("swe-rex")
    label = f"swe-rex={version}"
    found = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Config.Labels.bench}}", SWEREX_IMAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.stdout.strip() == label:
        return
    folder = Path(tempfile.mkdtemp(prefix="tangram-bench-"))
    try:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", folder / "packages", f"swe-rex=={version}"], check=True)
        (folder / "libraries").mkdir()
        for library in _shared_libraries(folder / "packages"):
            shutil.copy(library, folder / "libraries")
        (folder / "swerex-remote").write_text(
            f"#!/bin/sh\nexport PYTHONPATH={SWEREX}/packages LD_LIBRARY_PATH={SWEREX}/libraries\n"
            'exec python3 -m swerex.server "$@"\n'
        )
        (folder / "Dockerfile").write_text(
            f"FROM {IMAGE}\nCOPY packages {SWEREX}/packages\nCOPY libraries {SWEREX}/libraries\n"
            "COPY swerex-remote /usr/local/bin/swerex-remote\n"
            f"RUN chmod 755 /usr/local/bin/swerex-remote\nLABEL bench={label}\n"
        )
        build = ["docker", "build", "--quiet", "--tag", SWEREX_IMAGE, str(folder)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder)


def _shared_libraries(packages: Path) -> set[Path]:
    """What the compiled modules need beyond the C library, which the image has."""
    needed: set[Path] = set()
    for module in packages.rglob("*.so"):
        listed = subprocess.run(["ldd", module], capture_output=True, text=True, check=True)
        needed |= {Path(line.split()[2]) for line in listed.stdout.splitlines() if "=> /" in line}
    return {library for library in needed if not library.name.startswith("libc.so")}


@asynccontextmanager
async def swerex_runtimes(count: int) -> AsyncIterator[list[Any]]:
    """So many SWE-ReX containers, started through its own DockerDeployment; yields its runtimes."""
    import logging

    from swerex.deployment.docker import DockerDeployment

    quiet = logging.getLogger("tangram.bench.swerex")
    quiet.setLevel(logging.ERROR)
    async with AsyncExitStack() as stack:
        runtimes = []
        for _ in range(count):
            deployment: Any = DockerDeployment(logger=quiet, image=SWEREX_IMAGE, pull="never")
            await deployment.start()
            stack.push_async_callback(deployment.stop)
            runtimes.append(deployment.runtime)
        yield runtimes


@asynccontextmanager
async def docker_container() -> AsyncIterator[Any]:
    """A container of the test image that sleeps, through the Docker SDK."""
    import docker

    client = await asyncio.to_thread(docker.from_env)
    container = await asyncio.to_thread(
        client.containers.run, IMAGE, ["sleep", "3600"], detach=True, network_mode="none"
    )
    try:
        yield container
    finally:
        await asyncio.to_thread(container.remove, force=True)
        client.close()
