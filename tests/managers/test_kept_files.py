"""Copies of trees and the layers made of them: exact, of one moment, on disk once."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tangram.managers.cpu.sandbox import copying, layers
from tangram.managers.cpu.sandbox.copying import (
    SETTLED_NS,
    Copy,
    TooMuch,
    TreeCopier,
    fill,
)
from tangram.managers.cpu.sandbox.folder import wait_until
from tangram.managers.cpu.sandbox.freezing import frozen, maps_files_shared
from tangram.managers.cpu.sandbox.layers import DEPTH_MAX, LayerStore, Origin
from tangram.managers.cpu.sandbox.merging import merge
from tangram.managers.errors import PermanentError

LIMIT_BYTES = 1 << 30
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and make whiteouts")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def copy(source: Path, target: Path, earlier: Copy | None = None, **options: bool) -> Copy:
    target.mkdir()
    copier = TreeCopier(target, limit_bytes=LIMIT_BYTES, earlier=earlier, **options)
    copier.add("part", source)
    return copier.copy


def settle(*paths: Path) -> None:
    """Wait until their last change is old enough to be told from a later one."""
    newest = max(path.lstat().st_ctime_ns for path in paths)
    while time.time_ns() <= newest + SETTLED_NS:
        os.sched_yield()


def test_a_copy_has_contents_modes_times_and_kinds(source: Path, tmp_path: Path) -> None:
    (source / "d").mkdir()
    (source / "d/file").write_bytes(b"data")
    (source / "d/file").chmod(0o4751)
    os.utime(source / "d/file", ns=(1_000_000_007, 2_000_000_009))
    (source / "link").symlink_to("d/file")
    (source / "broken").symlink_to("/nowhere")
    os.mkfifo(source / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
    (source / "locked").mkdir()
    (source / "locked/in").write_bytes(b"x")
    (source / "d").chmod(0o1777)
    os.utime(source / "d", ns=(3_000_000_000, 4_000_000_000))

    made = copy(source, tmp_path / "copy")
    part = tmp_path / "copy/part"
    assert (part / "d/file").read_bytes() == b"data"
    assert stat.S_IMODE((part / "d/file").stat().st_mode) == 0o4751
    assert (part / "d/file").stat().st_mtime_ns == 2_000_000_009
    assert stat.S_IMODE((part / "d").stat().st_mode) == 0o1777
    assert (part / "d").stat().st_mtime_ns == 4_000_000_000
    assert os.readlink(part / "link") == "d/file"
    assert os.readlink(part / "broken") == "/nowhere"
    assert (part / "fifo").is_fifo() and (part / "socket").is_socket()
    assert (part / "locked/in").read_bytes() == b"x"
    assert (made.files, made.skipped) == (8, [])


def test_a_copy_keeps_hard_links_holes_and_attributes(source: Path, tmp_path: Path) -> None:
    (source / "one").write_bytes(b"same")
    os.link(source / "one", source / "two")
    os.setxattr(source / "one", "user.note", b"kept")
    with open(source / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"island")
    (source / "empty").touch()
    copy(source, tmp_path / "copy")
    part = tmp_path / "copy/part"
    assert (part / "one").stat().st_ino == (part / "two").stat().st_ino
    assert os.getxattr(part / "two", "user.note") == b"kept"
    assert (part / "sparse").stat().st_size == 64 << 20
    assert (part / "sparse").stat().st_blocks * 512 < 1 << 20
    with open(part / "sparse", "rb") as file:
        file.seek(32 << 20)
        assert file.read(8) == b"island\0\0"
    assert (part / "empty").read_bytes() == b""


@as_root
def test_a_copy_keeps_owners(source: Path, tmp_path: Path) -> None:
    (source / "file").touch()
    os.chown(source / "file", 12345, 54321)
    copy(source, tmp_path / "copy")
    status = (tmp_path / "copy/part/file").stat()
    assert (status.st_uid, status.st_gid) == (12345, 54321)


def test_what_did_not_change_is_taken_over(source: Path, tmp_path: Path) -> None:
    for name in ("stays", "grows", "rewritten", "renamed", "remoded"):
        (source / name).write_bytes(b"x" * 8192)
    settle(*source.iterdir())
    first = copy(source, tmp_path / "first")
    with open(source / "grows", "ab") as file:
        file.write(b"more")
    before = (source / "rewritten").stat()
    (source / "rewritten").write_bytes(b"y" * 8192)
    os.utime(source / "rewritten", ns=(before.st_atime_ns, before.st_mtime_ns))
    (source / "renamed").rename(source / "other")
    (source / "remoded").chmod(0o600)
    second = copy(source, tmp_path / "second", first)

    old, new = tmp_path / "first/part", tmp_path / "second/part"
    assert (old / "stays").stat().st_ino == (new / "stays").stat().st_ino
    assert (new / "grows").read_bytes() == b"x" * 8192 + b"more"
    assert (new / "rewritten").read_bytes() == b"y" * 8192
    assert not (new / "renamed").exists()
    assert stat.S_IMODE((new / "remoded").stat().st_mode) == 0o600
    assert stat.S_IMODE((old / "remoded").stat().st_mode) == 0o644
    assert second.taken_bytes == 8192
    assert second.size_bytes < first.size_bytes


def test_what_changed_just_before_a_copy_is_copied_again(source: Path, tmp_path: Path) -> None:
    (source / "file").write_bytes(b"x")
    first = copy(source, tmp_path / "first")
    first.began_ns = (source / "file").stat().st_ctime_ns + SETTLED_NS
    copy(source, tmp_path / "second", first)
    old, new = (tmp_path / name / "part/file" for name in ("first", "second"))
    assert old.stat().st_ino != new.stat().st_ino


OPEN = "import mmap, sys\nfile = open(sys.argv[1], 'r+b')\n"
MAP = "memory = mmap.mmap(file.fileno(), 4096)\nmemory[0:1] = b'y'\n"
WAIT = "print('ready', flush=True)\nsys.stdin.read()\n"


def test_a_file_that_is_written_through_memory_is_never_taken_over(
    source: Path, tmp_path: Path
) -> None:
    (source / "file").write_bytes(b"x" * 4096)
    for program, maps in ((OPEN, False), (OPEN + MAP, True)):
        command = [sys.executable, "-I", "-S", "-c", program + WAIT, str(source / "file")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            assert maps_files_shared([child.pid]) is maps
            child.communicate()
    assert (source / "file").read_bytes() == b"y" + b"x" * 4095
    settle(source / "file")
    first = copy(source, tmp_path / "first", comparable=False)
    copy(source, tmp_path / "second", first)
    old, new = (tmp_path / name / "part/file" for name in ("first", "second"))
    assert old.stat().st_ino != new.stat().st_ino


def test_more_than_the_limit_is_refused_while_it_is_copied(source: Path, tmp_path: Path) -> None:
    for number in range(20):
        (source / str(number)).write_bytes(bytes(8192))
    (tmp_path / "copy").mkdir()
    with pytest.raises(TooMuch):
        TreeCopier(tmp_path / "copy", limit_bytes=65536).add("part", source)
    assert len(list((tmp_path / "copy/part").iterdir())) < 20


def test_filling_a_folder_says_when_its_disk_is_too_small(source: Path, tmp_path: Path) -> None:
    (source / "file").write_bytes(bytes(8192))
    (tmp_path / "a/home").mkdir(parents=True)
    fill(tmp_path / "a/home", source, None)
    assert (tmp_path / "a/home/file").stat().st_size == 8192
    (tmp_path / "b/home").mkdir(parents=True)
    with pytest.raises(OSError, match="more than its disk"):
        fill(tmp_path / "b/home", source, 4096)


# Layers


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """Where a test mounts overlays."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    yield mounted
    while os.path.ismount(mounted):
        subprocess.run(["umount", mounted], check=True)


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path with its mode, and its contents where it is a file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


@as_root
def test_merged_layers_show_what_the_overlay_showed(tmp_path: Path, overlay: Path) -> None:
    base = tmp_path / "base"
    (base / "d/e").mkdir(parents=True)
    for name in ("a", "b", "d/c", "d/e/f", "gone"):
        (base / name).write_bytes(name.encode())
    script = [
        ["rm", "a"],
        ["rm", "-r", "d"],
        ["mkdir", "d"],
        ["sh", "-c", "echo new > d/g; chmod 700 d; echo more >> b; mkdir h; touch h/i"],
        ["sh", "-c", "rm gone; mkdir gone; touch gone/j; rm -r h; echo file > h"],
        ["sh", "-c", "rm h; mkdir -p h/k d/e; touch h/k/l; ln b b2; ln -s b b3"],
        ["sh", "-c", "rm -r gone; echo last > a"],
    ]
    stack = [base]
    for number, command in enumerate(script):
        upper, work = tmp_path / f"u{number}", tmp_path / f"w{number}"
        upper.mkdir()
        work.mkdir()
        below = ":".join(map(str, reversed(stack)))
        options = f"lowerdir={below},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "x", "-o", options, overlay], check=True)
        subprocess.run(command, cwd=overlay, check=True)
        shown = tree(overlay)
        subprocess.run(["umount", overlay], check=True)
        stack.append(upper)
    for layer in stack[1:]:
        copy(layer, tmp_path / f"copy-{layer.name}")
    merged = tmp_path / "merged"
    merge([tmp_path / f"copy-{layer.name}/part" for layer in stack[1:]], merged)
    options = f"lowerdir={merged}:{base}"
    subprocess.run(["mount", "-t", "overlay", "x", "-o", options, overlay], check=True)
    assert tree(overlay) == shown


async def capture(store: LayerStore, name: str, origin: Origin, source: Path) -> None:
    await store.capture(
        name, origin, {"part": source}, _still, image="", uid=None, limit_bytes=LIMIT_BYTES
    )


class _still:
    """Nothing writes here anyway."""

    def __enter__(self) -> set[int]:
        return set()

    def __exit__(self, *problem: object) -> None:
        return None


async def test_a_layer_lives_as_long_as_somebody_needs_it(source: Path, tmp_path: Path) -> None:
    (source / "file").write_bytes(bytes(100_000))
    settle(source / "file")
    store, parent = LayerStore(tmp_path / "layers"), Origin()
    await capture(store, "one", parent, source)
    once = store.size_bytes
    assert 100_000 <= once < 130_000
    await capture(store, "two", parent, source)
    assert store.size_bytes < once + 20_000  # The file is there once.
    files = store.kept("one", "")
    assert files is not None
    child = Origin(store.hold(files))
    await store.discard("one")
    await store.discard("two")
    await store.end(parent)
    assert len(list(store.folder.iterdir())) == 1
    assert store.size_bytes == once
    await store.end(child)
    assert list(store.folder.iterdir()) == []
    assert store.size_bytes == 0


async def test_a_layer_that_outlives_its_source_counts_what_it_took_over(
    source: Path, tmp_path: Path
) -> None:
    (source / "file").write_bytes(bytes(100_000))
    settle(source / "file")
    store, parent = LayerStore(tmp_path / "layers"), Origin()
    await capture(store, "one", parent, source)
    await capture(store, "two", parent, source)
    await store.discard("one")
    assert 100_000 <= store.size_bytes < 130_000
    await store.discard("two")
    await store.end(parent)
    assert store.size_bytes == 0


async def test_a_state_is_for_its_own_image(source: Path, tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers")
    await capture(store, "one", Origin(), source)
    with pytest.raises(PermanentError, match="image"):
        store.kept("one", "other")
    assert store.kept("", "other") is None


async def test_a_deep_stack_becomes_one_layer(source: Path, tmp_path: Path) -> None:
    store, origin = LayerStore(tmp_path / "layers"), Origin()
    for number in range(DEPTH_MAX + 1):
        (source / "file").write_bytes(str(number).encode())
        (source / str(number)).touch()
        await capture(store, "now", origin, source)
        files = store.kept("now", "")
        assert files is not None
        following = Origin(store.hold(files))
        await store.discard("now")
        await store.end(origin)
        origin = following
    assert origin.files is not None
    (layer,) = origin.files.layers
    assert (layer.path / "part/file").read_bytes() == str(DEPTH_MAX).encode()
    assert len(list((layer.path / "part").iterdir())) == DEPTH_MAX + 2
    assert len(list(store.folder.iterdir())) == 1
    await store.end(origin)


@as_root
async def test_what_only_the_kernel_can_merge_stays_a_stack(source: Path, tmp_path: Path) -> None:
    (source / "d").mkdir()
    os.setxattr(source / "d", "trusted.overlay.redirect", b"/elsewhere")
    os.setxattr(source / "d", "trusted.overlay.origin", b"of another mount")
    store, origin = LayerStore(tmp_path / "layers"), Origin()
    for depth in range(1, DEPTH_MAX + 2):
        await capture(store, "now", origin, source)
        files = store.kept("now", "")
        assert files is not None and len(files.layers) == depth
        following = Origin(store.hold(files))
        await store.discard("now")
        await store.end(origin)
        origin = following
        assert os.listxattr(files.layers[0].path / "part/d") == ["trusted.overlay.redirect"]
    assert len(list(store.folder.iterdir())) == DEPTH_MAX + 1
    await store.end(origin)


async def test_too_many_files_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (copying, layers):
        monkeypatch.setattr(module, "FILES_MAX", 3)
    for name in ("a", "b", "c"):
        (source / name).touch()
    store, origin = LayerStore(tmp_path / "layers"), Origin()
    await capture(store, "three", origin, source)
    (source / "d").mkdir()
    with pytest.raises(PermanentError, match="more than 3 files"):
        await capture(store, "four", origin, source)
    await store.clear()
    await store.end(origin)
    assert list(store.folder.iterdir()) == []


async def test_a_copy_that_fails_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "file").write_bytes(bytes(100_000))
    store, origin = LayerStore(tmp_path / "layers"), Origin()
    with pytest.raises(PermanentError, match="64Ki that are left"):
        await store.capture(
            "one", origin, {"part": source}, _still, image="", uid=None, limit_bytes=65536
        )
    with pytest.raises(PermanentError, match="not be kept"):
        await store.capture(
            "one", origin, {"part": source / "no"}, _still, image="", uid=None, limit_bytes=1
        )
    assert list(store.folder.iterdir()) == []
    assert (store.size_bytes, origin.copied) == (0, None)


# Standing still


def test_without_a_control_group_every_process_is_stopped_for_the_copy() -> None:
    script = "import os, time\nif os.fork() == 0: os.setsid()\nwhile True: time.sleep(0.001)"
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        wait_until(lambda: bool(_children(parent.pid)), "no child")
        (child,) = _children(parent.pid)
        try:
            with frozen(parent.pid, None) as pids:
                assert pids == {parent.pid, child}
                assert [_state(pid) for pid in sorted(pids)] == ["T", "T"]
            wait_until(
                lambda: {_state(parent.pid), _state(child)} <= {"S", "R"}, "they do not go on"
            )
        finally:
            os.kill(child, 9)
            parent.kill()


def test_what_was_stopped_before_stays_stopped() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        process.send_signal(19)
        wait_until(lambda: _state(process.pid) == "T", "it is not stopped")
        with frozen(process.pid, None) as pids:
            assert pids == {process.pid}
        assert _state(process.pid) == "T"
        process.kill()


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
