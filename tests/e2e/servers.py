"""A real `tangram serve` in a process of its own, and what of it can be seen from outside.

What tests ask it stands in them; how it is started, ended and searched for leftovers is here.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

SERVE = (sys.executable, "-m", "tangram.cli", "serve")
START_S = 30.0
STOP_S = 30.0
CGROUPS = Path("/sys/fs/cgroup")


class ServerProcess:
    """One server, started and ready. `folder` holds its configuration, its messages and its state."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Fails the test with what the server said if it is not ready in time."""
        self.state = folder / "state"
        self._messages = folder / "messages"
        self._process = launch(folder, settings, environment)
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_S)
        line = self._process.stdout.readline() if readable else ""
        if not line.startswith("tangram ready grpc="):
            self._process.kill()
            self._process.communicate()
            raise AssertionError(f"the server is not ready: {line}{self.messages()}")
        self.address, self.http = (word.partition("=")[2] for word in line.split()[2:])

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def messages(self) -> str:
        return self._messages.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        self._process.communicate(timeout=STOP_S)
        return self._process.returncode

    def stop(self) -> None:
        """Gently if that works. Idempotent."""
        if self.alive:
            self.signal(signal.SIGTERM)
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait()
            raise

    def processes(self) -> list[int]:
        """All of its sandboxes, as this machine sees them."""
        # By their control group, or where none may be written by what is mounted in them: the end
        # of the path, since a mount names its source within its own file system.
        group, source = f"/tangram-{self.port}/", "/".join(self.state.parts[-4:]) + "/"
        found = []
        for process in psutil.process_iter():
            place = Path(f"/proc/{process.pid}")
            try:
                if (
                    group in (place / "cgroup").read_text()
                    or source in (place / "mountinfo").read_text()
                ):
                    found.append(process.pid)
            except OSError:
                continue
        return found

    def leftovers(self) -> list[str]:
        """Everything of its sandboxes that is still on this machine; nothing once they are closed."""
        left = [f"process {pid}" for pid in self.processes()]
        # Not in all groups of this machine, of which others vanish meanwhile.
        for pattern in (f"tangram-{self.port}/*", f"*/tangram-{self.port}/*"):
            left += [str(path) for path in CGROUPS.glob(pattern) if path.is_dir()]
        left += [str(path) for path in self.state.glob("sandboxes/*")]
        left += [str(path) for path in Path(f"/run/tangram-{self.port}").glob("*")]
        left += [f"container {name}" for name in self._containers()]
        return left

    def _containers(self) -> list[str]:
        command = ["docker", "ps", "--all", "--quiet"]
        command += ["--filter", f"label=tangram.instance={self.port}"]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            return []  # No Docker here, so no containers.
        return done.stdout.split()


def launch(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """`tangram serve` on free ports with its state in `folder`, unless `settings` say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tangram.yaml"
    ports = {"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "state": str(folder / "state")}
    file.write_text(yaml.safe_dump({**ports, **(settings or {})}))
    with (folder / "messages").open("a") as messages:
        return subprocess.Popen(
            [*SERVE, "--config", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )


def refusal(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a server says that must not start: one line, no traceback, exit code 1."""
    with launch(folder, settings, environment) as process:
        try:
            output, _ = process.communicate(timeout=START_S)
        finally:
            process.kill()
    said = (folder / "messages").read_text()
    assert (process.returncode, output) == (1, ""), said
    assert said.startswith("tangram: ")
    assert said.count("\n") == 1, said
    return said
