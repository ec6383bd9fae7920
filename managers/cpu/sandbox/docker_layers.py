"""Putting a Docker container on kept layers: between its creation and its start.

The engine's driver overlay2 notes in the file `lower`, beside a container's writable folder, which
folders the container stands on, the newest first and each named through a link. Layers of ours are
put before them. This is no interface of the engine's, so it is done only where everything looks as
known, and looked at again once the container runs; elsewhere the engine commits images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import PermanentError
from .layers import Layer

PART = "upper"
"""The one part of a container that is written to: its root."""
_DRIVER = "overlay2"
_LINK = "link"
_LOWER = "lower"
_KNOWN = re.compile(r"l/[A-Z0-9]{26}(:l/[A-Z0-9]{26})*")
_SEPARATORS = set(":,\\")
"""Of the kernel's mount options: a path with one of them cannot be named there."""


def can_stand_on_layers(upper_folder: str, layers: Path) -> bool:
    """Whether a container with this writable folder is one of overlay2, and may be changed by us.
    `layers` is where the layers lie."""
    lower = Path(upper_folder).parent / _LOWER
    if lower.parent.parent.name != _DRIVER or _SEPARATORS & set(str(layers)):
        return False
    return os.access(upper_folder, os.R_OK | os.X_OK) and os.access(lower, os.R_OK | os.W_OK)


def stand_on(upper_folder: str, layers: Sequence[Layer]) -> None:
    """Put the layers, the newest first, below a container that is created and not started.

    Blocks. Raises PermanentError if the engine keeps its containers in another way.
    """
    container = Path(upper_folder).parent
    lower = container / _LOWER
    known = lower.read_text()
    if not _KNOWN.fullmatch(known):
        raise PermanentError(f"the engine keeps a container's layers in an unknown way: {known!r}")
    home = container.parent.resolve()
    names = []
    for layer in layers:
        link = layer.path / _LINK
        with suppress(FileExistsError):  # Several containers may be put on one layer at once.
            link.symlink_to(PART)
        names.append(os.path.relpath(link.parent.resolve() / _LINK, home))
    lower.write_text(":".join([*names, known]))
    _same_root(layers[0].path / PART, Path(upper_folder))


def check_stands_on(pid: int, layers: Sequence[Layer]) -> None:
    """Raises PermanentError if the started container with this process does not see the layers."""
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == "/":
            if all(layer.path.name in words[-1] for layer in layers):
                return
            break
    raise PermanentError("the engine did not put the container on the kept files")


def _same_root(source: Path, target: Path) -> None:
    """The root folder itself shows the newest folder's owner and mode."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)
