"""The agent's file calls: whole files, whose they are, and what is never opened or written through."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from tangram.managers.cpu.sandbox.agent import files, transfers, trees, wire
from tangram.managers.cpu.sandbox.channel import Channel
from tangram.managers.cpu.sandbox.listener import AgentListener
from tangram.managers.errors import FileProblem, SandboxDied
from tangram.managers.tar_stream import MORE, Piece
from tests.managers.agents import DEADLINE_S, Running, eventually, running


async def chunks_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(channel: Channel, path: str, offset: int = 0, limit: int = 0) -> bytes:
    return b"".join([data async for data, _ in channel.read_file(path, offset, limit)])


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(FileProblem) as caught:
        await call
    return caught.value.code


async def test_a_file_is_written_and_read_back(sandbox: Running) -> None:
    channel, data = sandbox.channel, os.urandom(3_500_000)
    size = await channel.write_file("a/b/file", 0o640, chunks_of(data[:5], b"", data[5:]))
    assert size == len(data)
    assert await content(channel, "a/b/file") == data
    assert (
        await content(channel, f"{sandbox.folder}/a/../a/./b/file", 2_000_000, 10)
        == (data[2_000_000:2_000_010])
    )
    info = await channel.stat("a/b/file")
    assert (info.name, info.kind, info.size, info.mode) == ("file", "file", len(data), 0o640)
    assert abs(info.modified_unix_s - time.time()) < 60
    assert [entry.name for entry in await channel.list_files("a/b")] == ["file"]


async def test_an_empty_file_is_one_empty_chunk(child: Running) -> None:
    assert await child.channel.write_file("empty", 0o644, chunks_of()) == 0
    assert [part async for part in child.channel.read_file("empty")] == [(b"", 0)]


async def test_chunks_carry_the_whole_size_and_a_reader_may_leave_early(child: Running) -> None:
    (child.folder / "big").write_bytes(b"x" * (3 << 20))
    for _ in range(transfers.MAX_TRANSFERS + 1):
        reader = child.channel.read_file("big")
        assert await anext(reader) == (b"x" * wire.CHUNK, 3 << 20)
        await reader.aclose()  # type: ignore[attr-defined]


async def test_files_of_proc_are_read_to_their_end_although_they_have_no_size(
    child: Running,
) -> None:
    assert b"Pid:" in await content(child.channel, "/proc/self/status")


async def test_symlinks_are_described_and_replaced_but_never_written_through(
    child: Running,
) -> None:
    target, link = child.folder / "target", child.folder / "link"
    target.write_text("old")
    link.symlink_to("target")
    info = await child.channel.stat("link")
    assert (info.kind, info.target) == ("symlink", "target")
    assert await content(child.channel, "link") == b"old"
    await child.channel.write_file("link", 0o644, chunks_of(b"new"))
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("old", "new", False)


async def test_a_written_file_replaces_the_old_one_at_once(child: Running) -> None:
    path = child.folder / "file"
    path.write_text("old")
    with path.open() as reader:
        await child.channel.write_file("file", 0o600, chunks_of(b"new"))
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_aborted_write_leaves_the_old_file_and_nothing_else(child: Running) -> None:
    (child.folder / "file").write_text("old")

    async def failing() -> AsyncIterator[bytes]:
        yield b"a" * wire.CHUNK
        yield b"b"
        yield b"c"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        await child.channel.write_file("file", 0o644, failing())
    await child.channel.stat("file")  # The agent has seen the end of the write.
    assert [path.name for path in child.folder.iterdir()] == ["file"]
    assert (child.folder / "file").read_text() == "old"


async def test_a_write_ends_with_its_connection(child: Running) -> None:
    gate = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"
        await gate.wait()

    write = asyncio.create_task(child.channel.write_file("file", 0o644, stuck()))
    await eventually(lambda: list(child.folder.glob(".tangram-*")), "the write began")
    child.channel._protocol.transport.abort()
    await eventually(lambda: not list(child.folder.iterdir()), "the temporary file went")
    gate.set()
    with pytest.raises(SandboxDied):
        await write
    child.channel = await AgentListener(child.folder / "agent.sock").accept(child.pid, DEADLINE_S)


async def test_what_is_no_regular_file_is_not_opened(child: Running) -> None:
    os.mkfifo(child.folder / "fifo")
    (child.folder / "folder").mkdir()
    (child.folder / "loop").symlink_to("loop")
    channel = child.channel
    assert (await channel.stat("fifo")).kind == "other"
    assert await refused(content(channel, "fifo")) == "EINVAL"
    assert await refused(content(channel, "/dev/zero")) == "EINVAL"
    assert await refused(content(channel, "folder")) == "EISDIR"
    assert await refused(content(channel, "loop")) == "ELOOP"
    assert await refused(content(channel, "missing")) == "ENOENT"
    assert await refused(channel.stat("")) == "EINVAL"
    assert await refused(channel.stat("a\0b")) == "EINVAL"
    assert await refused(channel.list_files("fifo")) == "ENOTDIR"
    assert await refused(channel.write_file("folder", 0o644, chunks_of(b"x"))) == "EISDIR"
    assert await refused(channel.write_file("folder/..", 0o644, chunks_of(b"x"))) == "EISDIR"
    assert await refused(channel.write_file("fifo/x", 0o644, chunks_of(b"x"))) == "ENOTDIR"


async def test_a_huge_folder_is_refused_with_what_would_be_right(child: Running) -> None:
    folder = child.folder / "huge"
    folder.mkdir()
    for number in range(files.MAX_ENTRIES):
        os.close(os.open(folder / f"{number:05}", os.O_CREAT))
    entries = await child.channel.list_files("huge")
    assert [entry.name for entry in entries[:2]] == ["00000", "00001"]
    assert len(entries) == files.MAX_ENTRIES
    (folder / "one more").touch()
    with pytest.raises(FileProblem, match="more than 10000 entries") as caught:
        await child.channel.list_files("huge")
    assert caught.value.code == "EOVERFLOW"


@pytest.mark.root
async def test_file_calls_are_the_default_users(folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("for root alone")
    secret.chmod(0o600)
    async with running("child", folder, user="4242:4243") as sandbox:
        assert await refused(content(sandbox.channel, "secret")) == "EACCES"
        await sandbox.channel.write_file("made/file", 0o644, chunks_of(b"x"))
        status = (folder / "made/file").stat()
        assert (status.st_uid, status.st_gid) == (4242, 4243)
        _, output = await sandbox.run("id -u", user="root")
        assert output.stdout == b"0\n"


async def tree(channel: Channel, path: str) -> dict[str, Piece]:
    """The first pieces of all entries, by name."""
    portions = [portion async for portion in channel.read_tree(path)]
    return {piece.name: piece for portion in portions for piece in portion if piece.kind != MORE}


async def test_a_tree_tells_of_what_cannot_be_copied(child: Running) -> None:
    (child.folder / "tree" / "open").mkdir(parents=True)
    (child.folder / "tree" / "open" / "file").write_bytes(b"text")
    os.mkfifo(child.folder / "tree" / "fifo")
    (child.folder / "tree" / "loop").symlink_to(".")
    found = await tree(child.channel, "tree")
    assert {name: piece.kind for name, piece in found.items()} == {
        "fifo": "other",
        "loop": "symlink",
        "open": "directory",
        "open/file": "file",
    }


async def test_a_tree_that_is_made_to_be_endless_says_so(child: Running) -> None:
    path = child.folder / "tree" / "/".join(["d"] * trees.MAX_DEPTH)
    path.mkdir(parents=True)
    with pytest.raises(FileProblem, match="folders deep") as caught:
        await tree(child.channel, "tree")
    assert caught.value.code == "ELOOP"


async def test_locked_folders_are_filled_before_they_are_locked(sandbox: Running) -> None:
    async def portions() -> AsyncIterator[list[Piece]]:
        yield [Piece("locked", "directory", mode=0o500)]
        yield [Piece("locked/in/file", "file", 4, 0o400, 1e9, data=b"text")]
        yield [Piece("locked/in", "directory", 0, 0o500, 2e9)]

    assert await sandbox.channel.write_tree("made", portions()) == (1, 4)
    found = await tree(sandbox.channel, "made")
    assert [(piece.mode, piece.modified_unix_s) for piece in found.values()][1:] == [
        (0o500, 2e9),
        (0o400, 1e9),
    ]
    assert found["locked"].mode == 0o500


async def test_an_abandoned_tree_leaves_no_half_file(child: Running) -> None:
    half_written, for_ever = asyncio.Event(), asyncio.Event()

    async def portions() -> AsyncIterator[list[Piece]]:
        yield [Piece("file", "file", 9, data=b"half", last=False)]
        half_written.set()
        await for_ever.wait()

    writing = asyncio.create_task(child.channel.write_tree("made", portions()))
    await half_written.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await eventually(lambda: not os.listdir(child.folder / "made"), "an empty folder")
