"""Builds the images that the Docker tests run, from this machine's own files, without a registry.

    python tests/image/build.py [--force]

`tangram-test` has a Python, a shell and the usual tools, as root, as plain images do;
`tangram-test-user` is the same with a USER, a WORKDIR and an ENV of its own, as SWE images have;
`tangram-test-bare` is one static binary: no Python, no libc, no passwd file.

Takes about ten seconds, or a tenth of one if the images are there already: a label tells whether
they came from this recipe and this Python. Needs only the standard library and the `docker` command.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PLAIN = "tangram-test:latest"
USER = "tangram-test-user:latest"
BARE = "tangram-test-bare:latest"

_LABEL = "tangram.recipe"
_TIMEOUT_S = 120
_UID = 1000
_TOOLS = """
    [ base64 bash basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false find
    grep head hostname id kill ln ls md5sum mkdir mknod mktemp mount mv nohup nproc printf pwd readlink
    rm rmdir sed seq setsid sh sleep sort stat stty tail tar tee test timeout touch tr true truncate
    uname uniq unshare wc whoami xargs yes
"""
"""All from packages that every Debian has, none of which needs files beside its libraries."""
_OPTIONAL_TOOLS = ["awk", "diff", "free", "ps", "top"]
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "ensurepip", "site-packages", "dist-packages"}
"""Folders of the standard library that are large and that no test asks for."""
_PASSWD = f"""\
root:x:0:0:root:/root:/bin/bash
agent:x:{_UID}:{_UID}:agent:/home/agent:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
_GROUP = f"root:x:0:\nagent:x:{_UID}:\nnogroup:x:65534:\n"


def build(*, force: bool = False) -> None:
    """Build what is missing. Raises RuntimeError with what `docker` said, or what is not here."""
    recipe = _recipe()
    label = f"LABEL {_LABEL}={recipe}"
    if force or _label_of(PLAIN) != recipe:
        with _importing(PLAIN, label, "ENV LANG=C.UTF-8", 'CMD ["bash"]') as archive:
            _add_world(archive)
    if force or _label_of(USER) != recipe:
        changes = (label, "USER agent", "WORKDIR /testbed", "ENV GREETING=hello")
        _derive(USER, PLAIN, *changes)
    if force or _label_of(BARE) != recipe:
        with _importing(BARE, label) as archive:
            _add_busybox(archive)


def _recipe() -> str:
    binary = Path(sys.executable).resolve()
    identity = f"{sys.version} {binary} {binary.stat().st_mtime_ns}"
    return hashlib.sha256(identity.encode() + Path(__file__).read_bytes()).hexdigest()[:16]


def _label_of(image: str) -> str:
    asked = ["docker", "image", "inspect", "-f", f'{{{{index .Config.Labels "{_LABEL}"}}}}', image]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    return answer.stdout.strip()


@contextmanager
def _importing(image: str, *changes: str) -> Iterator[tarfile.TarFile]:
    """A tar stream that becomes the image when the block ends."""
    command = ["docker", "import", *(word for change in changes for word in ("-c", change)), "-"]
    with subprocess.Popen(
        [*command, image],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                yield archive
            process.stdin.close()
        except BrokenPipeError:
            process.wait(_TIMEOUT_S)
        problem = process.stderr.read().decode()
        if process.wait(_TIMEOUT_S):
            raise RuntimeError(f"docker import {image}: {problem.strip()}")


def _derive(image: str, base: str, *changes: str) -> None:
    container = _docker("create", base)
    try:
        flags = [word for change in changes for word in ("-c", change)]
        _docker("commit", *flags, container, image)
    finally:
        _docker("rm", container)


def _docker(*words: str) -> str:
    answer = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if answer.returncode:
        raise RuntimeError(f"docker {words[0]}: {answer.stderr.strip()}")
    return answer.stdout.strip()


def _add_world(archive: tarfile.TarFile) -> None:
    for folder in ("bin", "dev", "etc", "home", "proc", "sys", "usr/bin", "usr/local/bin", "var"):
        _add_folder(archive, folder)
    _add_folder(archive, "tmp", mode=0o1777)
    _add_folder(archive, "root", mode=0o700)
    for folder in ("home/agent", "testbed"):
        _add_folder(archive, folder, uid=_UID)
    _add_text(archive, "etc/passwd", _PASSWD)
    _add_text(archive, "etc/group", _GROUP)
    _add_text(archive, "etc/os-release", 'NAME="Tangram test image"\nID=tangram-test\n')
    _add_text(archive, "testbed/README", "a repository under test\n", uid=_UID)

    python = Path(sys.executable).resolve()
    extensions = _add_library(archive)
    tools = {name: _tool(name) for name in _TOOLS.split()}
    tools |= {name: Path(found) for name in _OPTIONAL_TOOLS if (found := shutil.which(name))}
    _add_file(archive, python, "usr/local/bin/python3")
    _add_link(archive, "usr/local/bin/python", "python3")
    for name, path in tools.items():
        _add_file(archive, path.resolve(), f"bin/{name}")
    _add_link(archive, "usr/bin/env", "/bin/env")

    loader, libraries = _shared_libraries([python, *tools.values(), *extensions])
    _add_file(archive, loader.resolve(), str(loader).lstrip("/"))
    # Beside libc, where the loader looks without a cache.
    home = str(libraries["libc.so.6"].parent).lstrip("/")
    for name, path in libraries.items():
        _add_file(archive, path.resolve(), f"{home}/{name}")


def _add_library(archive: tarfile.TarFile) -> list[Path]:
    """The standard library, with its byte code; returns its extension modules."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    target = f"usr/local/{sys.platlibdir}/{stdlib.name}"
    byte_code = f".{sys.implementation.cache_tag}.pyc"
    extensions = []
    for folder, folders, files in os.walk(stdlib):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix not in (".py", ".so") and not file.endswith(byte_code):
                continue
            if path.suffix == ".so":
                extensions.append(path)
            _add_file(archive, path.resolve(), f"{target}/{path.relative_to(stdlib)}")
    return extensions


def _add_busybox(archive: tarfile.TarFile) -> None:
    busybox = _tool("busybox")
    if "=>" in _ldd([busybox]):
        raise RuntimeError(f"{busybox} is not static: apt-get install busybox-static")
    _add_file(archive, busybox.resolve(), "bin/busybox")
    for applet in ("sh", "cat", "echo", "id", "ls", "nproc", "sleep", "true"):
        _add_link(archive, f"bin/{applet}", "busybox")


def _tool(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        package = "busybox-static" if name == "busybox" else "coreutils findutils util-linux"
        raise RuntimeError(f"this machine has no {name}: apt-get install {package}")
    return Path(found)


def _shared_libraries(objects: Iterable[Path]) -> tuple[Path, dict[str, Path]]:
    loader = None
    libraries = {}
    for line in _ldd(objects).splitlines():
        words = line.split()
        if "=>" in words and words[2].startswith("/"):
            libraries[words[0]] = Path(words[2])
        elif len(words) == 2 and words[0].startswith("/") and not words[0].endswith(":"):
            loader = Path(words[0])
    if loader is None or "libc.so.6" not in libraries:
        raise RuntimeError("the test image is made of dynamically linked glibc programs only")
    return loader, libraries


def _ldd(objects: Iterable[Path]) -> str:
    # It fails if one of the files is static, having listed the others.
    command = ["ldd", *map(str, objects)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    ).stdout


def _add_file(archive: tarfile.TarFile, source: Path, name: str) -> None:
    with source.open("rb") as content:
        entry = archive.gettarinfo(arcname=name, fileobj=content)
        # A second link to the same file would name a path that this archive does not have.
        entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", source.stat().st_size
        entry.mode = 0o755 if os.access(source, os.X_OK) else 0o644
        _add(archive, entry, content)


def _add_text(archive: tarfile.TarFile, name: str, text: str, *, uid: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    _add(archive, entry, io.BytesIO(text.encode()), uid=uid)


def _add_folder(archive: tarfile.TarFile, name: str, *, mode: int = 0o755, uid: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    _add(archive, entry, uid=uid)


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    _add(archive, entry)


def _add(
    archive: tarfile.TarFile,
    entry: tarfile.TarInfo,
    content: IO[bytes] | None = None,
    *,
    uid: int = 0,
) -> None:
    entry.uid = entry.gid = uid
    entry.uname = entry.gname = ""
    archive.addfile(entry, content)


if __name__ == "__main__":
    try:
        build(force="--force" in sys.argv[1:])
    except (RuntimeError, FileNotFoundError) as problem:
        sys.exit(f"cannot build the test images: {problem}")
