"""The output store: what it keeps, what it cuts, and how readers follow it by offset."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.managers.base import Stream
from tangram.server.outputs import OutputArchive, OutputStore

OUT = Stream.STDOUT


def fill(store: OutputStore, data: bytes, *, piece: int = 7) -> None:
    for offset in range(0, len(data), piece):
        store.write(OUT, offset, data[offset : offset + piece])


def read_all(store: OutputStore) -> list[tuple[int, bytes]]:
    pieces: list[tuple[int, bytes]] = []
    offset = 0
    while True:
        start, data = store.read(OUT, offset)
        if not data:
            return pieces
        pieces.append((start, data))
        offset = start + len(data)


def test_output_below_the_limit_is_kept_whole() -> None:
    store = OutputStore(100)
    fill(store, b"hello world")
    assert store.joined(OUT) == b"hello world"
    assert not store.truncated


def test_output_above_the_limit_keeps_head_and_tail_and_tells_how_much_was_cut() -> None:
    store = OutputStore(20)
    fill(store, bytes(range(100)))
    assert store.joined(OUT) == bytes(range(10)) + b"\n[... 80 bytes cut ...]\n" + bytes(
        range(90, 100)
    )
    assert store.truncated


def test_bytes_that_were_never_sent_count_as_cut() -> None:
    store = OutputStore(20)
    store.write(OUT, 0, b"abc")
    store.finish(stdout_bytes=10)
    assert store.truncated
    assert store.joined(OUT) == b"abc\n[... 7 bytes cut ...]\n"


def test_a_piece_that_is_sent_twice_is_kept_once() -> None:
    store = OutputStore(100)
    store.write(OUT, 0, b"abcdef")
    store.write(OUT, 3, b"defghi")
    assert store.joined(OUT) == b"abcdefghi"


@given(st.binary(max_size=400), st.integers(1, 60), st.integers(2, 80))
def test_every_kept_byte_stands_at_its_own_offset(data: bytes, piece: int, limit: int) -> None:
    store = OutputStore(limit)
    fill(store, data, piece=piece)
    kept = read_all(store)
    assert all(data[start : start + len(part)] == part for start, part in kept)
    assert sum(len(part) for _, part in kept) == min(len(data), limit) or limit % 2
    assert store.produced(OUT) == len(data)
    assert store.truncated == (sum(len(part) for _, part in kept) < len(data))


async def test_a_follower_wakes_for_more_and_at_the_end() -> None:
    store = OutputStore(100)
    waiting = asyncio.ensure_future(store.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    store.write(OUT, 0, b"x")
    await waiting
    waiting = asyncio.ensure_future(store.changed())
    await asyncio.sleep(0)
    store.finish()
    await waiting
    await store.changed()
    assert store.closed


def test_nothing_is_kept_after_the_end() -> None:
    store = OutputStore(100)
    store.finish()
    store.write(OUT, 0, b"late")
    assert store.joined(OUT) == b""


async def test_the_archive_moves_the_oldest_to_disk_and_they_read_the_same(tmp_path: Path) -> None:
    archive = OutputArchive(tmp_path / "spool", memory_bytes_max=50)
    stores = []
    for number in range(4):
        store = OutputStore(40)
        fill(store, bytes([number]) * 100)
        store.finish(100)
        stores.append(store)
        await archive.add(store)
    assert len(list((tmp_path / "spool").iterdir())) == 3
    for number, store in enumerate(stores):
        assert store.joined(OUT).replace(b"\n[... 60 bytes cut ...]\n", b"") == bytes([number]) * 40
        assert store.truncated
    for store in stores:
        await archive.discard(store)
        await archive.discard(store)
    assert list((tmp_path / "spool").iterdir()) == []


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def full(size_bytes: int = 40) -> OutputStore:
    store = OutputStore(size_bytes)
    fill(store, bytes(size_bytes))
    store.finish(size_bytes)
    return store


async def test_a_store_that_is_discarded_in_memory_never_gets_a_file(tmp_path: Path) -> None:
    archive = OutputArchive(tmp_path / "spool", memory_bytes_max=50)
    discarded, kept = full(), full()
    await archive.add(discarded)
    await archive.discard(discarded)
    assert (archive.memory_bytes, discarded.memory_bytes) == (0, 0)
    await archive.add(kept)
    assert archive.memory_bytes == 40
    assert not (tmp_path / "spool").exists()


async def test_a_store_that_is_discarded_before_it_is_added_is_not_taken_on(tmp_path: Path) -> None:
    archive = OutputArchive(tmp_path / "spool", memory_bytes_max=0)
    store = full()
    await archive.discard(store)
    await archive.add(store)
    assert archive.memory_bytes == 0
    await archive.add(full())
    assert names_in(tmp_path / "spool") == ["1.out"]


async def test_a_store_that_is_discarded_on_its_way_to_disk_leaves_no_file(tmp_path: Path) -> None:
    archive = OutputArchive(tmp_path / "spool", memory_bytes_max=0)
    store = full()
    adding = asyncio.ensure_future(archive.add(store))
    await asyncio.sleep(0)  # the move has begun in a thread; its end is not seen before we yield
    await archive.discard(store)
    await adding
    assert list((tmp_path / "spool").iterdir()) == []
    assert store.read(OUT, 0) == (0, b"")


async def test_output_that_cannot_move_to_disk_is_dropped_logged_and_shown_as_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where the folder should be")
    archive = OutputArchive(spool, memory_bytes_max=50)
    oldest, newest = full(), full()
    await archive.add(oldest)
    await archive.add(newest)
    assert (archive.memory_bytes, oldest.memory_bytes) == (40, 0)
    assert oldest.truncated
    assert oldest.joined(OUT) == b"\n[... 40 bytes cut ...]\n"
    assert newest.joined(OUT) == bytes(40)
    assert "output of an ended action is lost" in caplog.text


async def test_a_disk_that_fills_while_output_moves_leaves_no_half_file(tmp_path: Path) -> None:
    archive = OutputArchive(tmp_path, memory_bytes_max=0)
    (tmp_path / "1.out").symlink_to("/dev/full")
    store = full()
    await archive.add(store)
    assert store.memory_bytes == 0
    assert names_in(tmp_path) == []


async def test_clearing_removes_what_an_earlier_life_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "7.out").write_bytes(b"old")
    (tmp_path / "notes").write_text("not ours")
    await OutputArchive(tmp_path, memory_bytes_max=0).clear()
    assert names_in(tmp_path) == ["notes"]
    await OutputArchive(tmp_path / "not made yet", memory_bytes_max=0).clear()
