"""Digests of files: equal only for what is equal, whatever was written in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.server.known_files import KnownFiles

WRITES = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from([0o644, 0o755]), st.sampled_from([b"1", b"2"])
    )
)


def written(writes: list[tuple[str, int, bytes]]) -> KnownFiles:
    files = KnownFiles(b"opened")
    for path, mode, content in writes:
        files.wrote(path, mode, content)
    return files


@given(WRITES, WRITES)
def test_digests_are_equal_exactly_where_the_last_writes_are(
    one: list[tuple[str, int, bytes]], other: list[tuple[str, int, bytes]]
) -> None:
    def last(writes: list[tuple[str, int, bytes]]) -> dict[str, tuple[int, bytes]]:
        return {path: (mode, content) for path, mode, content in writes}

    same = last(one) == last(other)
    assert (written(one).digest() == written(other).digest()) is same


def test_trees_count_in_their_order() -> None:
    one, other, third = (KnownFiles(b"opened") for _ in range(3))
    for files in (one, third):
        files.wrote("a", 0o644, b"1")
        files.wrote_tree("t", b"2")
    other.wrote_tree("t", b"2")
    other.wrote("a", 0o644, b"1")
    assert one.digest() == third.digest() != other.digest()


def test_nothing_is_known_while_something_changes_and_nothing_equal_after() -> None:
    one, other = KnownFiles(b"opened"), KnownFiles(b"opened")
    for files in (one, other):
        files.begin_change()
        assert files.digest() is None
        files.end_change()
    assert None is not one.digest() != other.digest()
    with pytest.raises(OSError, match="full"), other.writing():
        assert other.digest() is None
        raise OSError("full")
    before = one.digest()
    with one.writing():
        assert one.digest() is None
    assert one.digest() == before
