"""What a bubblewrap sandbox sees as its file system, as bwrap's arguments.

Two worlds: without an image the system's program folders, read-only, around a small own /etc; with
one, the image's folder under a writable layer. Both get the same additions: /proc, /dev, /dev/shm,
/tmp, a home, /workspace, the agent, and the one file of /sys that tells how many cores there are.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .interpreter import MOUNT_POINT, RUN_FOLDER

WORKSPACE = "/workspace"
USER = "sandbox"
HOME = f"/home/{USER}"
HOSTNAME = "sandbox"
ONLINE = "/sys/devices/system/cpu/online"
"""C libraries count its cores for `os.cpu_count()` and the like."""
SOCKET = f"{MOUNT_POINT}/{RUN_FOLDER}/agent.sock"

_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_HOST_ETC_FILES = ("ld.so.cache", "localtime", "mime.types", "protocols", "services")
_HOST_ETC_FOLDERS = ("alternatives", "ssl/certs", "pki/tls/certs")
"""What programs of the system need of the host's /etc, and which says nothing about the host."""
_HIDDEN_PROC = ("kcore", "keys", "latency_stats", "timer_list")
"""Readable by anybody, and of the whole machine."""
_WRITABLE = ("workspace", "home", "tmp")
_UPPER = "upper"
_WORK = "work."
"""Begins the name of the folder that an overlay needs beside its writable one."""


@dataclass(frozen=True, slots=True)
class Mounts:
    """The parts of one sandbox's file system. Paths are the host's."""

    folder: Path
    """The sandbox's own: `make_folders` filled it."""
    interpreter: Path
    sockets: Path
    shm_bytes: int
    image: Path | None = None
    layers: tuple[Path, ...] = ()
    """What its writable places stand on, the newest first; each with a folder for every part."""


def make_folders(
    folder: Path, uid: int, gid: int, image: bool, layers: Sequence[Path] = ()
) -> None:
    """Make what `Mounts.folder` must hold; writable parts belong to the sandbox's user, or to
    whoever they belonged to in the newest of the layers that they stand on."""
    parts = parts_of(image)
    for name in (*parts, *(_WORK + part for part in parts)):
        path = folder / name
        path.mkdir()
        path.chmod(0o1777 if name == "tmp" else 0o755)
        if os.geteuid() == 0 and name in _WRITABLE:
            os.chown(path, uid, gid)
    for name in parts if layers else ():
        status = (layers[0] / name).stat()
        (folder / name).chmod(stat.S_IMODE(status.st_mode))
        if os.geteuid() == 0:
            os.chown(folder / name, status.st_uid, status.st_gid)
    (folder / "passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{uid}:{gid}::{HOME}:/bin/sh\n"
        "nobody:x:65534:65534::/:/usr/sbin/nologin\n"
    )
    (folder / "group").write_text(f"root:x:0:\n{USER}:x:{gid}:\nnogroup:x:65534:\n")
    (folder / "online").write_text("\n")


def parts_of(image: bool) -> tuple[str, ...]:
    """The names of the folders with all that a sandbox may write."""
    return (*_WRITABLE, _UPPER) if image else _WRITABLE


def writable_folders(folder: Path) -> list[Path]:
    """Whose files count as the sandbox's disk."""
    return [folder / name for name in parts_of(image=True) if (folder / name).is_dir()]


def make_etc(etc: Path) -> None:
    """The /etc that all sandboxes without an image share, with empty files and folders where
    something is mounted later. Idempotent."""
    etc.mkdir(parents=True, exist_ok=True)
    (etc / "hosts").write_text(f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n")
    (etc / "hostname").write_text(f"{HOSTNAME}\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    for name in ("passwd", "group", *_existing(_HOST_ETC_FILES)):
        (etc / name).touch()
    for name in _existing(_HOST_ETC_FOLDERS):
        (etc / name).mkdir(parents=True, exist_ok=True)


def mount_arguments(mounts: Mounts, etc: Path) -> list[str]:
    """bwrap's arguments, in the order in which they must be mounted."""
    root = _image(mounts) if mounts.image else _system(mounts.folder, etc)
    arguments = [
        *root,
        *_open_folders(HOME),
        *_open_folders(ONLINE),
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    arguments += ["--perms", "1777", "--size", str(mounts.shm_bytes), "--tmpfs", "/dev/shm"]
    # Else /dev is room for files that no limit counts.
    arguments += ["--remount-ro", "/dev"]
    for name in _HIDDEN_PROC:
        if Path("/proc", name).exists():
            arguments += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    for name, inside in (("tmp", "/tmp"), ("home", HOME), ("workspace", WORKSPACE)):
        arguments += _writable(mounts, name, inside)
    arguments += ["--ro-bind", str(mounts.interpreter), MOUNT_POINT]
    arguments += ["--ro-bind", str(mounts.sockets), f"{MOUNT_POINT}/{RUN_FOLDER}"]
    arguments += ["--ro-bind", str(mounts.folder / "online"), ONLINE]
    if mounts.image is None:
        arguments += ["--dir", "/run", *_open_folders("/var/tmp")]
        arguments += ["--symlink", "../tmp", "/var/tmp", "--remount-ro", "/"]
    return arguments


def search_path(image: bool) -> str:
    """PATH inside: the interpreter that comes with the sandbox first, where it is visible."""
    standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    prefix = Path(sys.base_prefix)
    if image or prefix == Path("/usr") or not (prefix / "bin").is_dir():
        return standard
    return f"{prefix}/bin:{standard}"


def _image(mounts: Mounts) -> list[str]:
    return _overlay(mounts, _UPPER, "/", [str(mounts.image)])


def _writable(mounts: Mounts, part: str, inside: str) -> list[str]:
    if mounts.layers:
        return _overlay(mounts, part, inside, [])
    return ["--bind", str(mounts.folder / part), inside]


def _overlay(mounts: Mounts, part: str, inside: str, lowest: list[str]) -> list[str]:
    below = [*lowest, *(str(layer / part) for layer in reversed(mounts.layers))]
    sources = [argument for layer in below for argument in ("--overlay-src", layer)]
    own = (str(mounts.folder / part), str(mounts.folder / (_WORK + part)))
    return [*sources, "--overlay", *own, inside]


def _system(folder: Path, etc: Path) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/usr"):
        arguments += _open_folders(str(prefix))
        arguments += ["--ro-bind", str(prefix), str(prefix)]
    arguments += ["--ro-bind", str(etc), "/etc"]
    for name in ("passwd", "group"):
        arguments += ["--ro-bind", str(folder / name), f"/etc/{name}"]
    for name in _existing((*_HOST_ETC_FILES, *_HOST_ETC_FOLDERS)):
        arguments += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return arguments


def _open_folders(path: str) -> list[str]:
    """The folders above a path: made by themselves, bwrap would let only root into them."""
    above = [str(parent) for parent in reversed(Path(path).parents) if parent != Path("/")]
    return [argument for parent in above for argument in ("--dir", parent)]


def _existing(names: Iterable[str]) -> list[str]:
    return [name for name in names if Path("/etc", name).exists()]
