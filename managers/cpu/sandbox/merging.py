"""Several layers as one: what an overlay of them would show, without copying a file.

Knows how overlayfs notes in a folder what it hides below (whiteouts, opaque folders); what a layer is, is
`layers.py`'s. Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from .copying import OVERLAY

_OPAQUE = tuple(f"{prefix}opaque" for prefix in OVERLAY)
"""The second where overlays are mounted without root."""


class Redirected(Exception):
    """A layer says that its files lie elsewhere in layers below: only the kernel can merge it."""


def merge(layers: Iterable[Path], target: Path) -> None:
    """What an overlay of these folders would show, the lowest first, as one folder that can take
    their place: files become hard links, whiteouts stay for what lies below all of them. Raises
    Redirected where overlays are mounted with redirect_dir or metacopy, OSError (of folders that their
    owner has locked, where we are not root)."""
    for layer in layers:
        _lay_over(layer, target)


def _lay_over(layer: Path, target: Path) -> None:
    pending = [(layer, target)]
    folders: list[tuple[Path, os.stat_result]] = []
    while pending:
        source, place = pending.pop()
        status = os.lstat(source)
        replaces = os.path.lexists(place)
        if place.is_symlink() or not place.is_dir():
            place.unlink(missing_ok=True)
            place.mkdir(mode=0o700)
        else:
            replaces = False
            if _hides_below(source):
                _clear(place)
        folders.append((place, status))
        _same_folder(source, place, status)
        if replaces:
            # What it takes the place of hid a folder further down, and so must this one.
            os.setxattr(place, _OPAQUE[os.geteuid() != 0], b"y")
        with os.scandir(source) as entries:
            for entry in entries:
                inner = place / entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), inner))
                    continue
                _refuse_redirected(Path(entry.path))
                _remove(inner)
                os.link(entry.path, inner, follow_symlinks=False)
    for place, status in reversed(folders):
        place.chmod(stat.S_IMODE(status.st_mode))
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


def _refuse_redirected(path: Path) -> None:
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(OVERLAY) and name.endswith((".redirect", ".metacopy")):
            raise Redirected


def _same_folder(source: Path, place: Path, status: os.stat_result) -> None:
    _refuse_redirected(source)
    place.chmod(0o700)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(place, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        os.setxattr(place, name, os.getxattr(source, name))


def _hides_below(folder: Path) -> bool:
    opaque = (name for name in os.listxattr(folder) if name in _OPAQUE)
    return any(os.getxattr(folder, name) == b"y" for name in opaque)


def _clear(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            _remove(Path(entry.path))


def _remove(path: Path) -> None:
    """Whatever it is; silent if it is nothing."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        _clear(path)
        path.rmdir()
