"""The codecs between server and agent: what goes in comes out, and bad bytes are a ValueError."""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.cpu.sandbox.agent import wire

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES: st.SearchStrategy[Any] = SCALARS
for _ in range(3):  # As deep as our own messages, well within the limit.
    VALUES = VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(KEYS, VALUES, max_size=3)
DEPTH = wire.MAX_DEPTH
QUICK = settings(max_examples=60)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@QUICK
@given(VALUES)
def test_a_value_survives_the_round_trip(value: object) -> None:
    decoded = wire.decode(wire.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


@QUICK
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_a_value_error(data: bytes) -> None:
    try:
        value = wire.decode(data)
    except ValueError:
        return
    # NaN differs from itself: compare what it encodes to.
    assert wire.encode(wire.decode(wire.encode(value))) == wire.encode(value)


@QUICK
@given(VALUES, st.data())
def test_damaged_bytes_raise_nothing_but_a_value_error(value: object, data: st.DataObject) -> None:
    encoded = bytearray(wire.encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    try:
        wire.decode(bytes(encoded))
    except ValueError:
        return


@pytest.mark.parametrize(
    ("write", "read"), [(wire.frame, wire.decode), (wire.request, wire.marshalled)]
)
@QUICK
@given(
    messages=st.lists(st.tuples(KEYS, st.dictionaries(KEYS, SCALARS, max_size=3)), max_size=5),
    data=st.data(),
)
def test_messages_come_out_however_the_stream_is_cut(
    write: Callable[[str, dict[str, object]], bytes],
    read: Callable[[bytes], object],
    messages: list[tuple[str, dict[str, object]]],
    data: st.DataObject,
) -> None:
    stream = b"".join(write(kind, fields) for kind, fields in messages)
    reader = wire.FrameReader(read)
    found: list[tuple[str, dict[str, object]]] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert found == messages


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no value"),
        (b"x", "no value"),
        (b"NN", "follow"),
        (b"i\0", "cut off"),
        (b"b\0\0\0\5abc", "announced"),
        (b"l\xff\xff\xff\xff", "announced"),
        (b"d\0\0\0\1NN", "key"),
        (b"d\0\0\0\2s\0\0\0\1aNs\0\0\0\1aN", "twice"),
        (b"s\0\0\0\1\xff", "utf-8"),
    ],
)
def test_what_is_no_value_is_refused_with_a_reason(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wire.decode(data)


def test_nesting_is_limited_in_both_directions() -> None:
    assert wire.decode(wire.encode(nested(DEPTH))) == nested(DEPTH)
    with pytest.raises(ValueError, match="nested deeper"):
        wire.encode(nested(DEPTH + 1))
    with pytest.raises(ValueError, match="nested deeper"):
        wire.decode(b"l\0\0\0\1" * 1000 + b"N")


@pytest.mark.parametrize("value", [1 << 63, object(), {1: 2}, "\ud800", {"a": {3}}])
def test_what_has_no_encoding_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        wire.encode(value)


def test_a_frame_above_the_limit_is_neither_sent_nor_read() -> None:
    with pytest.raises(ValueError, match="at most 4194304"):
        wire.frame("exec", {"stdin": b"x" * wire.MAX_FRAME})
    with pytest.raises(ValueError, match="at most 4194304"):
        wire.request("exec", {"stdin": b"x" * wire.MAX_FRAME})
    with pytest.raises(ValueError, match="at most 4194304"):
        wire.FrameReader().feed(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("value", [1, [], ["exec"], ["exec", 1], [1, {}], ["exec", {}, 3]])
def test_a_frame_that_is_no_message_is_refused(value: object) -> None:
    body = wire.encode(value)
    with pytest.raises(ValueError, match="not a message"):
        wire.FrameReader().feed(len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize("body", [b"", b"?", marshal.dumps({1: [2]}, 2)[:-3], marshal.dumps(1, 2)])
def test_an_agent_drops_a_server_whose_bytes_are_no_message(body: bytes) -> None:
    with pytest.raises(ValueError):
        wire.FrameReader(wire.marshalled).feed(len(body).to_bytes(4, "big") + body)
