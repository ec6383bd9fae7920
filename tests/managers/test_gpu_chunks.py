"""GPU topology: chunks are never shared, split and merge as a buddy allocator's, and agree with the
scheduler's arithmetic; residency decides which of equal chunks is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.managers.gpu.chunks import Chunk, ChunkPool, Replica, RoomOf, all_of_it
from tangram.scheduler.arrange import tabulate
from tangram.scheduler.choices import Choices
from tangram.scheduler.model import Capacity, ResourceId, WaitReason
from tangram.scheduler.operators import ChunkCounts

GPUS = ResourceId("gpus")
NODES, PER_NODE = 3, 8
SHARES = 6
"""Rooms of these tests are counted in such parts of a GPU."""


def capacity(nodes: int = NODES, per_node: int = PER_NODE) -> Capacity:
    shape = {"nodes": nodes, "per_node": per_node}
    return Capacity(GPUS, nodes * per_node, CHUNKS_VIEW, shape)


@dataclass
class History:
    """A pool, what it holds, and what a plain buddy allocator says is free."""

    pool: ChunkPool = field(default_factory=lambda: ChunkPool(NODES, PER_NODE))
    held: list[Chunk] = field(default_factory=list)
    room_of: RoomOf = all_of_it

    def play(self, steps: list[tuple[int, str]]) -> None:
        """Positive numbers take so many GPUs, others give back the chunk of that index."""
        for number, service in steps:
            if number > 0:
                self.take(number, service)
            elif self.held:
                self.pool.give(self.held.pop(number % len(self.held)))
            self.check()

    def take(self, amount: int, service: str) -> None:
        expected = ChunkCounts(self.pool.counts).after(amount)
        if expected is None:
            with pytest.raises(ValueError, match=f"{amount} GPUs asked for, the largest chunk has"):
                self.pool.take(amount, service)
            return
        restore = self.pool.restore_needed(amount, service)
        holding = self.pool.take(amount, service)
        self.held.append(holding.chunk)
        assert self.pool.counts == expected.counts, "not the chunk that a buddy allocator splits"
        assert holding.chunk.size // 2 < amount <= holding.chunk.size
        assert holding.restore == (restore and bool(service))
        assert all(set(gone.chunk.gpus) & set(holding.chunk.gpus) for gone in holding.evicted)

    def check(self) -> None:
        used = [(chunk.node, gpu) for chunk in self.held for gpu in chunk.gpus]
        assert len(used) == len(set(used)), "a GPU is held twice"
        assert all(chunk.start % chunk.size == 0 for chunk in self.held), "a chunk is not aligned"
        assert self.pool.held == len(used)
        free = [chunk for node in range(NODES) for chunk in largest_free(node, set(used))]
        assert self.pool.counts == tuple(
            sum(chunk.size == 1 << level for chunk in free) for level in range(4)
        ), "free GPUs are in smaller pieces than they could be"
        room: Counter[tuple[int, int]] = Counter()
        for chunk, service in self.pool.resident():
            for gpu in chunk.gpus:
                room[chunk.node, gpu] += round(SHARES * self.room_of(service, chunk.size))
        assert max(room.values(), default=0) <= SHARES, "services take more than a GPU has"


def largest_free(node: int, used: set[tuple[int, int]]) -> Iterator[Chunk]:
    """Every aligned stretch of free GPUs of the node that no larger one contains."""
    covered: set[int] = set()
    for size in (8, 4, 2, 1):
        for start in range(0, PER_NODE, size):
            gpus = range(start, start + size)
            if not covered & set(gpus) and not any((node, gpu) in used for gpu in gpus):
                covered |= set(gpus)
                yield Chunk(node, start, size)


steps = st.lists(
    st.tuples(st.integers(-6, 9), st.sampled_from(["", "judge", "math", "code"])), max_size=40
)


# Properties over random histories


@settings(max_examples=200, deadline=None)
@given(steps)
def test_no_gpu_is_held_twice_and_free_gpus_are_in_pieces_as_large_as_they_can_be(
    played: list[tuple[int, str]],
) -> None:
    history = History()
    history.play(played)
    for chunk in history.held:
        history.pool.give(chunk)
    assert history.pool.counts == (0, 0, 0, NODES)


@settings(max_examples=150, deadline=None)
@given(steps, st.lists(st.integers(1, 9), max_size=8))
def test_what_the_operator_calls_feasible_can_be_taken_and_nothing_else(
    played: list[tuple[int, str]], amounts: list[int]
) -> None:
    history = History()
    history.play(played)
    fitting = ChunkCounts(history.pool.counts).longest_prefix(amounts)
    for amount in amounts[:fitting]:
        history.pool.take(amount, "judge")
    if fitting < len(amounts):
        with pytest.raises(ValueError, match="GPUs asked for"):
            history.pool.take(amounts[fitting])


@settings(max_examples=150, deadline=None)
@given(steps, st.lists(st.sets(st.integers(1, 8), min_size=1, max_size=3), max_size=5))
def test_amounts_that_were_arranged_can_be_taken_in_any_order(
    played: list[tuple[int, str]], sets: list[set[int]]
) -> None:
    history = History()
    history.play(played)
    candidates = [Choices.of((k, 9.0 / k) for k in sorted(amounts)) for amounts in sets]
    table = tabulate(candidates, ChunkCounts(history.pool.counts))
    for amount in reversed(table.amounts(table.longest)):
        history.take(amount, "math")
    history.check()


@given(steps)
def test_equal_histories_choose_alike(played: list[tuple[int, str]]) -> None:
    one, other = History(), History()
    one.play(played)
    other.play(played)
    assert (one.held, one.pool.resident()) == (other.held, other.pool.resident())


# Which chunk


def test_the_smallest_chunk_that_fits_is_used_and_split_only_if_it_must_be() -> None:
    pool = ChunkPool(2, 8)
    assert pool.take(3).chunk == Chunk(0, 0, 4)
    assert pool.take(1).chunk == Chunk(0, 4, 1)
    assert pool.counts == (1, 1, 0, 1)
    assert pool.take(2).chunk == Chunk(0, 6, 2)
    assert pool.take(8).chunk == Chunk(1, 0, 8)
    with pytest.raises(ValueError, match="4 GPUs asked for, the largest chunk has 1"):
        pool.take(4)


def test_a_chunk_starts_at_a_multiple_of_its_size() -> None:
    pool = ChunkPool(1, 8)
    pool.take(1)
    assert pool.take(4).chunk == Chunk(0, 4, 4)
    assert pool.take(2).chunk == Chunk(0, 2, 2)


def test_a_service_comes_back_to_where_it_is_resident() -> None:
    pool = ChunkPool(2, 8)
    first, second = pool.take(4, "judge"), pool.take(4, "math")
    assert (first.restore, second.restore) == (True, True)
    pool.give(first.chunk)
    pool.give(second.chunk)
    assert pool.counts == (0, 0, 0, 2)
    assert not pool.restore_needed(4, "math")
    again = pool.take(4, "math")
    assert (again.chunk, again.restore, again.evicted) == (second.chunk, False, ())


def test_each_degree_of_parallelism_is_a_replica_of_its_own() -> None:
    pool = ChunkPool(1, 8)
    held = pool.take(4, "judge")
    pool.give(held.chunk)
    assert pool.restore_needed(2, "judge")
    smaller = pool.take(2, "judge")
    assert (smaller.chunk, smaller.restore) == (Chunk(0, 4, 2), True)
    larger = ChunkPool(1, 8)
    larger.give(larger.take(4, "judge").chunk)
    assert larger.take(8, "judge").evicted == (Replica(Chunk(0, 0, 4), "judge"),)


def test_of_resident_services_the_one_used_longest_ago_has_to_go() -> None:
    pool = ChunkPool(4, 1)
    chunks = {name: pool.take(1, name).chunk for name in "abcd"}
    for name in "cadb":
        pool.give(chunks[name])
    for newcomer, victim in zip("efg", "cad", strict=True):
        assert pool.take(1, newcomer).evicted == (Replica(chunks[victim], victim),)


def test_a_chunk_without_residents_is_used_before_anybody_has_to_go() -> None:
    pool = ChunkPool(1, 8)
    pool.give(pool.take(4, "judge").chunk)
    holding = pool.take(4, "math")
    assert (holding.chunk, holding.evicted) == (Chunk(0, 4, 4), ())


def test_residency_splits_no_larger_chunk_than_must_be() -> None:
    pool = ChunkPool(2, 8)
    first = pool.take(8, "other")
    resident = pool.take(4, "judge")
    pool.give(first.chunk)
    beside = pool.take(4, "")
    pool.give(resident.chunk)
    assert beside.chunk.node == resident.chunk.node
    taken = pool.take(4, "other")
    assert taken.chunk == resident.chunk, "the whole node would have had to be split"


def test_a_grant_without_a_service_leaves_none_resident() -> None:
    pool = ChunkPool(1, 2)
    pool.give(pool.take(2, "judge").chunk)
    holding = pool.take(1)
    assert (holding.restore, holding.evicted) == (False, (Replica(Chunk(0, 0, 2), "judge"),))
    assert pool.resident() == []


def test_what_is_not_held_cannot_be_given_back() -> None:
    pool = ChunkPool(1, 8)
    with pytest.raises(ValueError, match="is not held"):
        pool.give(Chunk(0, 0, 4))
    with pytest.raises(ValueError, match="GPUs asked for, the largest chunk has 8"):
        pool.restore_needed(16, "judge")


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 6), (1, 0), (-1, 8)])
def test_a_pool_that_cannot_be_is_refused(nodes: int, per_node: int) -> None:
    with pytest.raises(ValueError, match=r"power of two, not|cannot be -1 nodes"):
        ChunkPool(nodes, per_node)


# The view


def test_the_view_counts_what_is_kept_from_others() -> None:
    view = ChunksView(capacity(nodes=2))
    view.take(1, 3, 0.0, tag="judge")
    assert (view.total, view.taken, view.largest(), view.free(0.0)) == (16, 4, 8, 8)
    view.take(2, 8, 0.0, tag="math")
    assert (view.free(0.0), view.why_short(8, 0.0)) == (4, WaitReason.GPUS)
    assert view.operator(0.0) == ChunkCounts((0, 0, 1, 0))
    assert view.next_change(0.0) is None
    view.give(1, 0.0)
    view.give(1, 0.0)
    assert (view.taken, view.free(0.0)) == (8, 8)


def test_the_view_names_node_and_gpus_of_a_grant_and_whether_to_restore() -> None:
    view = ChunksView(capacity())
    view.take(1, 3, 0.0, tag="judge")
    holding = view.held(1)
    assert (holding.chunk.node, list(holding.chunk.gpus)) == (0, [0, 1, 2, 3])
    assert (holding.service, holding.restore) == ("judge", True)
    view.give(1, 0.0)
    assert not view.restore_needed(4, "judge")
    view.take(2, 4, 0.0, tag="judge")
    assert not view.held(2).restore
    with pytest.raises(ValueError, match="token 1 holds nothing of gpus"):
        view.held(1)


def test_a_grant_is_resized_only_within_its_chunk() -> None:
    view = ChunksView(capacity())
    view.take(1, 3, 0.0)
    view.resize(1, 4, 0.0)
    with pytest.raises(ValueError, match="4 GPUs cannot be made 5 while they are held"):
        view.resize(1, 5, 0.0)
    with pytest.raises(ValueError, match="token 2 holds nothing"):
        view.resize(2, 4, 0.0)
    with pytest.raises(ValueError, match="token 1 already holds"):
        view.take(1, 4, 0.0)


def test_nodes_come_and_go_while_grants_are_held() -> None:
    view = ChunksView(capacity(nodes=2))
    view.take(1, 4, 0.0, tag="judge")
    view.take(2, 8, 0.0, tag="math")
    view.adjust(capacity(nodes=1), 0.0)
    assert (view.total, view.taken, view.free(0.0)) == (8, 12, 4)
    view.give(2, 0.0)
    assert view.free(0.0) == 4
    view.adjust(capacity(nodes=3), 0.0)
    assert view.operator(0.0) == ChunkCounts((0, 0, 1, 2))
    view.give(1, 0.0)
    assert not view.restore_needed(4, "judge")
    view.adjust(Capacity(GPUS, 0), 0.0)
    assert (view.total, view.largest(), view.free(0.0)) == (0, 0, 0)


def test_a_node_that_comes_back_has_what_is_held_on_it_left_out() -> None:
    view = ChunksView(capacity(nodes=1))
    view.take(1, 1, 0.0)
    view.adjust(Capacity(GPUS, 0), 0.0)
    view.adjust(capacity(nodes=1), 0.0)
    assert view.operator(0.0) == ChunkCounts((1, 1, 1, 0))
    view.give(1, 0.0)
    assert view.free(0.0) == 8


@pytest.mark.parametrize(
    ("total", "parameters", "words"),
    [
        (8, {}, "gpus needs the parameters nodes and per_node"),
        (8, {"nodes": 1}, "gpus needs the parameters nodes and per_node"),
        (9, {"nodes": 1, "per_node": 8}, "offers 9 GPUs, but 1 nodes with 8 each"),
        (6, {"nodes": 1, "per_node": 6}, "power of two, not 6"),
        (128, {"nodes": 1, "per_node": 128}, "with 1 to 64 GPUs, not 1 with 128"),
        (0, {"nodes": -1, "per_node": 8}, "has 0 to 4096 nodes"),
    ],
)
def test_a_capacity_that_makes_no_sense_is_refused(
    total: int, parameters: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        ChunksView(Capacity(GPUS, total, CHUNKS_VIEW, parameters))


def test_nodes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="nodes of 8 GPUs, and 4 are offered"):
        ChunksView(capacity()).adjust(capacity(per_node=4), 0.0)


def thirds(service: str, size: int) -> float:
    """Three services stay on a chunk; `large` needs two of the three parts."""
    return {"large": 2 / 3}.get(service, 1 / 3)


def run_on(pool: ChunkPool, *services: str, amount: int = 4) -> list[bool]:
    """One after the other, each given back at once: whether it had to be restored."""
    restored = []
    for service in services:
        holding = pool.take(amount, service)
        restored.append(holding.restore)
        pool.give(holding.chunk)
    return restored


def test_services_stay_beside_each_other_as_far_as_there_is_room() -> None:
    pool = ChunkPool(1, 4, thirds)
    assert run_on(pool, "a", "b", "c", "a", "b", "c") == [True, True, True, False, False, False]
    assert {replica.service for replica in pool.resident()} == {"a", "b", "c"}
    assert run_on(pool, "b", "d", "b") == [False, True, False]
    assert {replica.service for replica in pool.resident()} == {"b", "c", "d"}


def test_as_many_go_as_have_to_and_those_used_longest_ago() -> None:
    pool = ChunkPool(1, 4, thirds)
    run_on(pool, "a", "b", "c")
    holding = pool.take(4, "large")
    assert [gone.service for gone in holding.evicted] == ["a", "b"]
    pool.give(holding.chunk)
    assert run_on(pool, "c") == [False]


def test_what_has_no_name_may_need_all_the_room() -> None:
    pool = ChunkPool(1, 4, thirds)
    run_on(pool, "a", "b")
    assert {gone.service for gone in pool.take(4).evicted} == {"a", "b"}


def test_a_service_on_more_gpus_is_another_one() -> None:
    pool = ChunkPool(1, 4, thirds)
    assert run_on(pool, "a") == [True]
    assert run_on(pool, "a", amount=2) == [True]
    assert [replica.chunk.size for replica in pool.resident()] == [2, 4]


@given(
    steps=st.lists(
        st.tuples(st.integers(-8, 8), st.sampled_from(["", "a", "b", "c", "large"])), max_size=60
    )
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_nobody_takes_more_room_than_a_gpu_has(steps: list[tuple[int, str]]) -> None:
    History(ChunkPool(NODES, PER_NODE, thirds), room_of=thirds).play(steps)


def test_the_view_tells_how_long_a_grant_has_to_be_prepared() -> None:
    shape = {
        "nodes": 1,
        "per_node": 8,
        "restore_s": {"a": {4: 2.0, 8: 1.0}, "b": {4: 3.0}},
        "room": {"a": {4: 0.5}, "b": {4: 0.5}},
    }
    view = ChunksView(Capacity(GPUS, 8, CHUNKS_VIEW, shape))
    assert view.prepare_s("a", 4, 0.0) == view.restore_s("a", 4) == 2.0
    assert view.restore_s("a", 3) == 2.0
    assert view.restore_s("a", 1) == 2.0, "the nearest that is known"
    assert view.prepare_s("unknown", 4, 0.0) == view.prepare_s("", 4, 0.0) == 0.0
    view.take(1, 4, 0.0, "a")
    assert view.preparing_s(1) == 2.0
    view.give(1, 0.0)
    assert view.prepare_s("a", 4, 0.0) == 0.0
    assert view.prepare_s("a", 8, 0.0) == 1.0
    view.take(2, 4, 0.0, "b")
    assert view.prepare_after_s("b", 4, 2) == 0.0
    assert view.prepare_after_s("b", 8, 2) == view.prepare_after_s("b", 4, 99) == 3.0
    view.take(3, 4, 0.0, "a")
    assert view.prepare_s("a", 4, 0.0) == 2.0, "nothing is free, so what it takes anywhere"
    assert view.preparing_s(99) == 0.0


@pytest.mark.parametrize(
    ("name", "figures", "words"),
    [
        ("restore_s", {4: -1.0}, "restore_s of a is 0 to 86400 for at least 1 GPU, not -1.0 for 4"),
        ("restore_s", {0: 1.0}, "for at least 1 GPU, not 1.0 for 0"),
        ("room", {4: 1.5}, "room of a is 0 to 1 for at least 1 GPU, not 1.5 for 4"),
    ],
)
def test_impossible_figures_of_services_are_refused(
    name: str, figures: dict[int, float], words: str
) -> None:
    shape = {"nodes": 1, "per_node": 8, name: {"a": figures}}
    with pytest.raises(ValueError, match=words):
        ChunksView(Capacity(GPUS, 8, CHUNKS_VIEW, shape))
