"""What of a sandbox is settled when it starts, and what only when a trajectory gets it.

A `Template` is the first part: sandboxes of equal templates are interchangeable until one is assigned.
A launcher makes it (`Launcher.template`); who keeps started sandboxes compares `key`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, replace

from ....scheduler.model import EMPTY
from ...base import SandboxSpec

NEUTRAL_MEMORY_BYTES = 64 << 20
"""The memory limit of a sandbox that nobody has yet: an agent needs 6 MiB, and the files that it reads
count for a while."""


@dataclass(frozen=True, slots=True)
class Template:
    """How a sandbox is started."""

    launcher: str
    spec: SandboxSpec
    """With what belongs to one trajectory taken out."""
    identity: str = ""
    """What the image's name stands for now: a name that is given to another image makes another
    template."""

    @property
    def key(self) -> Hashable:
        """Equal for equal templates; made from every field of the spec that there is, so that what
        a template does not know to be a trajectory's own keeps sandboxes apart."""
        spec = (_hashable(getattr(self.spec, field.name)) for field in fields(self.spec))
        return (self.launcher, self.identity, *spec)


def neutral(spec: SandboxSpec, *, memory_bytes: int | None, user: str) -> SandboxSpec:
    """The spec without what `Sandbox.assign` sets. `memory_bytes` and `user` are the launcher's to
    say: whether they can be changed later depends on how it isolates."""
    return replace(
        spec,
        trajectory="",
        task="",
        memory_bytes=memory_bytes,
        # Where kept files are copied at the start, they must fit.
        disk_bytes=spec.disk_bytes if spec.snapshot else None,
        user=user,
        workdir="",
        env=EMPTY,
        shell=(),
        concurrency=1,
        pull="",
        labels=EMPTY,
    )


def _hashable(value: object) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted(value.items()))
    return value
