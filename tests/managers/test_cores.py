"""Which cores a lease gets: no core twice, every core back, one NUMA node where that is possible."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.cpu.cores import (
    CORE_ID_MAX,
    CoreLeaseError,
    CorePool,
    Topology,
    format_cores,
    parse_cores,
    reserved_cores,
)
from tangram.managers.cpu.topology import read_topology, usable_cores

TWO_NODES = Topology({core: core // 4 for core in range(8)})


@pytest.mark.parametrize(
    ("text", "cores"),
    [("", ()), ("0\n", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("8, 0-1,1", (0, 1, 8))],
)
def test_a_list_of_cores_is_read(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0--2", "0.5", f"0-{CORE_ID_MAX + 1}"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cores"):
        parse_cores(text)


@given(st.sets(st.integers(0, CORE_ID_MAX), max_size=50))
def test_a_list_of_cores_survives_being_written_and_read(cores: set[int]) -> None:
    assert parse_cores(format_cores(cores)) == tuple(sorted(cores))


@pytest.mark.parametrize(
    ("total", "reserved"), [(1, 0), (7, 0), (8, 1), (63, 1), (64, 2), (256, 8)]
)
def test_few_cores_are_reserved_and_none_on_a_small_machine(total: int, reserved: int) -> None:
    assert reserved_cores(total) == reserved


def test_a_lease_takes_the_lowest_free_ids() -> None:
    pool = CorePool(range(8))
    assert pool.take(2) == (0, 1)
    pool.give((0,))
    assert pool.take(2) == (0, 2)


def test_a_lease_stays_on_the_numa_node_that_it_fills_most() -> None:
    pool = CorePool(range(8), TWO_NODES)
    assert pool.take(2) == (0, 1)
    assert pool.take(3) == (4, 5, 6)
    # Two are left on node 0, one on node 1: the one that leaves least is taken.
    assert pool.take(1) == (7,)
    assert pool.take(2) == (2, 3)


def test_a_lease_larger_than_any_numa_node_spans_as_few_as_possible() -> None:
    pool = CorePool(range(12), Topology({core: core // 4 for core in range(12)}))
    assert pool.take(2) == (0, 1)
    assert pool.take(6) == (4, 5, 6, 7, 8, 9)


def test_reserved_cores_are_never_leased_and_hold_idle_sandboxes() -> None:
    pool = CorePool(range(4))
    assert pool.parking(1) == (0,)
    assert (pool.total, pool.free) == (3, 3)
    assert pool.take(3) == (1, 2, 3)
    with pytest.raises(CoreLeaseError):
        pool.give((0,))


def test_without_reserved_cores_idle_sandboxes_sit_on_all() -> None:
    pool = CorePool((2, 5))
    assert pool.parking(0) == (2, 5)
    assert pool.free == 2


@pytest.mark.parametrize("reserved", [-1, 4, 5])
def test_reserving_every_core_is_refused(reserved: int) -> None:
    with pytest.raises(ValueError, match="reserved_cores"):
        CorePool(range(4)).parking(reserved)


def test_cores_are_not_set_aside_under_a_lease() -> None:
    pool = CorePool(range(4))
    pool.take(1)
    with pytest.raises(CoreLeaseError):
        pool.parking(1)


@pytest.mark.parametrize("cores", [(0,), (9,), (1, 1), (1, 0)])
def test_cores_given_back_twice_or_never_taken_are_refused_and_change_nothing(
    cores: tuple[int, ...],
) -> None:
    pool = CorePool(range(3))
    assert pool.take(2) == (0, 1)
    pool.give((0,))
    with pytest.raises(CoreLeaseError):
        pool.give(cores)
    assert pool.free == 2


@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (-1, ValueError), (5, CoreLeaseError)]
)
def test_more_than_is_free_or_nothing_cannot_be_taken(count: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        CorePool(range(4)).take(count)


def test_a_pool_without_cores_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CorePool(())


@settings(max_examples=200)
@given(
    nodes=st.integers(1, 4),
    cores=st.sets(st.integers(0, 40), min_size=2, max_size=30),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=60),
)
def test_no_two_leases_share_a_core_and_all_come_back(
    nodes: int, cores: set[int], steps: list[tuple[bool, int]]
) -> None:
    pool = CorePool(cores, Topology({core: core % nodes for core in cores}))
    leases: list[tuple[int, ...]] = []
    for taking, number in steps:
        if taking and number <= pool.free:
            leases.append(pool.take(number))
            assert len(leases[-1]) == number
        elif not taking and leases:
            pool.give(leases.pop(number % len(leases)))
        held = [core for lease in leases for core in lease]
        assert len(held) == len(set(held))
        assert set(held) <= cores
        assert pool.free == len(cores) - len(held)
    for lease in leases:
        pool.give(lease)
    assert set(pool.take(len(cores))) == cores


def test_the_machines_shape_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    for node, cores in (("node0", "0-1"), ("node1", "2-3\n")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cores)
    (tmp_path / "node2").mkdir()
    topology = read_topology(tmp_path)
    assert [topology.node(core) for core in (0, 1, 2, 3, 99)] == [0, 0, 1, 1, 0]


def test_this_machine_has_cores() -> None:
    topology = read_topology()
    assert all(topology.node(core) >= 0 for core in usable_cores())
    assert usable_cores()
