"""How a node's launchers are built from its configuration: the one place that names their classes.

Each is imported when it is built, so that a node without Docker needs no Docker SDK.
"""

from __future__ import annotations

from pathlib import Path

from ..config import NodeConfig
from .cgroup import Cgroups
from .sandbox.base import Launcher

CGROUP_ROOT = Path("/sys/fs/cgroup")


class LauncherBuilder:
    """Builds launchers that share the node's control groups, which are probed at once.

    All of it is short file IO and belongs in a thread.
    """

    def __init__(self, config: NodeConfig, parking: tuple[int, ...]) -> None:
        self._config = config
        self._parking = parking
        self._cgroups = Cgroups.probe(CGROUP_ROOT, config.instance)

    def build(self, name: str) -> Launcher:
        """`name` is bubblewrap, docker or process."""
        if name == "bubblewrap":
            return self._bubblewrap()
        if name == "docker":
            return self._docker()
        return self._process()

    def close(self) -> None:
        """Remove the node's control groups, once its launchers are closed. Idempotent."""
        if self._cgroups is not None:
            self._cgroups.close()

    def _bubblewrap(self) -> Launcher:
        from .sandbox.bubblewrap import Bubblewrap

        config = self._config
        return Bubblewrap(
            name=config.instance,
            state=config.state / "bubblewrap",
            runtime=config.runtime,
            cgroups=self._cgroups,
            parking=self._parking,
            images=config.images,
            orphan_after_s=config.orphan_after,
            pids_max=config.sandbox.pids,
        )

    def _docker(self) -> Launcher:
        from .sandbox.docker import DockerLauncher

        config = self._config
        return DockerLauncher(
            name=config.instance,
            state=config.state,
            runtime=config.runtime,
            cgroups=self._cgroups,
            parking=self._parking,
            images=config.images,
            orphan_after_s=config.orphan_after,
            pids_max=config.sandbox.pids,
            registries=config.registries,
            pulls=config.pulls,
        )

    def _process(self) -> Launcher:
        from .sandbox.process import Process

        config = self._config
        return Process(
            name=config.instance,
            state=config.state / "process",
            runtime=config.runtime,
            orphan_after_s=config.orphan_after,
            unsafe=config.unsafe,
        )
