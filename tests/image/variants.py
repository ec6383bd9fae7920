"""Images unlike the usual one, made of it and of this machine's own files, without a registry.

`tangram-test-swe` is made as SWE images are: root, WORKDIR /testbed, a conda environment that only
the shell's start-up files activate, and some hundred MB of packages. Of conda it has what matters
here, a `conda activate` that is a shell function. `tangram-test-alpine` has busybox for everything and
neither Python nor bash nor glibc; `tangram-test-scratch` is one static program, without a shell.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from . import build as base

SWE = "tangram-test-swe:latest"
ALPINE = "tangram-test-alpine:latest"
SCRATCH = "tangram-test-scratch:latest"

SCRATCH_PROGRAM = "/program"
"""Prints its version with --version: ldconfig, which every Debian has, and has static."""

PACKAGES_BYTES = 256 << 20

_CONDA = """\
conda() {
    test "$1" = activate || return 2
    export CONDA_DEFAULT_ENV="$2" CONDA_PREFIX="/opt/miniconda3/envs/$2"
    export PATH="$CONDA_PREFIX/bin:$PATH"
}
"""
_BASHRC = ". /opt/miniconda3/etc/profile.d/conda.sh && conda activate testbed\n"
_PROFILE = 'if [ "$BASH" ] && [ -f ~/.bashrc ]; then . ~/.bashrc; fi\n'
_PYTHON = '#!/bin/sh\nexec /usr/local/bin/python3 "$@"\n'
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


def build() -> None:
    """Build what is missing. Raises RuntimeError with what `docker` said, or what is not here."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    recipe = f"{base._recipe()}-{own}"
    label = f"LABEL {base._LABEL}={recipe}"
    if base._label_of(SWE) != recipe:
        with _deriving(SWE, base.PLAIN, label, "WORKDIR /testbed") as archive:
            _add_conda(archive)
    if base._label_of(ALPINE) != recipe:
        with base._importing(ALPINE, label, "ENV LANG=C.UTF-8", 'CMD ["sh"]') as archive:
            _add_alpine(archive)
    if base._label_of(SCRATCH) != recipe:
        with base._importing(SCRATCH, label) as archive:
            program = base._tool("ldconfig")
            if "=>" in base._ldd([program]):
                raise RuntimeError(f"{program} is not static: apt-get install libc-bin")
            base._add_file(archive, program.resolve(), SCRATCH_PROGRAM.lstrip("/"))


@contextmanager
def _deriving(image: str, parent: str, *changes: str) -> Iterator[tarfile.TarFile]:
    """Files over another image's; it becomes an image when the block ends."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        yield archive
    container = base._docker("create", parent)
    try:
        copying = ["docker", "cp", "-", f"{container}:/"]
        subprocess.run(copying, input=content.getbuffer(), check=True, timeout=base._TIMEOUT_S)
        flags = [word for change in changes for word in ("-c", change)]
        base._docker("commit", *flags, container, image)
    finally:
        base._docker("rm", container)


def _add_conda(archive: tarfile.TarFile) -> None:
    home = "opt/miniconda3"
    base._add_text(archive, f"{home}/etc/profile.d/conda.sh", _CONDA)
    base._add_text(archive, "root/.bashrc", _BASHRC)
    base._add_text(archive, "root/.profile", _PROFILE)
    _add_program(archive, f"{home}/envs/testbed/bin/python", _PYTHON)
    packages = tarfile.TarInfo(f"{home}/pkgs/packages.bin")
    packages.size = PACKAGES_BYTES
    base._add(archive, packages, _Zeros())


def _add_alpine(archive: tarfile.TarFile) -> None:
    busybox = base._tool("busybox")
    if "=>" in base._ldd([busybox]):
        raise RuntimeError(f"{busybox} is not static: apt-get install busybox-static")
    for folder in ("dev", "etc", "proc", "sys", "usr/bin", "var"):
        base._add_folder(archive, folder)
    base._add_folder(archive, "tmp", mode=0o1777)
    base._add_folder(archive, "root", mode=0o700)
    base._add_text(archive, "etc/passwd", _PASSWD)
    base._add_text(archive, "etc/group", "root:x:0:\nnogroup:x:65534:\n")
    base._add_text(archive, "etc/alpine-release", "3.20.0\n")
    base._add_file(archive, busybox.resolve(), "bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            base._add_link(archive, f"bin/{applet}", "busybox")


def _add_program(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o755
    base._add(archive, entry, io.BytesIO(text.encode()))


class _Zeros(io.RawIOBase, IO[bytes]):
    """As many as are read."""

    def read(self, size: int = -1) -> bytes:
        return bytes(size)
