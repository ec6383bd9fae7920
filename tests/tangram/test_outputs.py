"""The output store: what it keeps, what it cuts, and how readers follow it by offset."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
        store.discard()
    assert list((tmp_path / "spool").iterdir()) == []
