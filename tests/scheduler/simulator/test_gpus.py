"""GPUs in simulations: restores, what stays loaded, dedicated GPUs, and what the notes say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.scheduler.model import Amounts, State
from tangram.scheduler.simulator.cluster import ClusterSpec, GpuSpec, Service
from tangram.scheduler.simulator.result import SimulationResult
from tangram.scheduler.simulator.summary import summarise
from tangram.scheduler.simulator.trace import TraceAction, TraceTrajectory
from tangram.scheduler.simulator.workloads import workload

from .worlds import ends, outcome, the, walk

VIEWS = {CHUNKS_VIEW: ChunksView}
FOUR = Amounts.exactly(4)


def service(restore_s: float = 3.0, room: float | None = None, **more: Any) -> Service:
    rooms = {} if room is None else {4: room}
    return Service(FOUR, {4: restore_s}, 4, room=rooms, **more)


def score(name: str, duration_s: float = 40.0, gap_s: float = 0.0, **more: Any) -> TraceAction:
    """Perfectly parallel: 10 s on four GPUs unless it is said."""
    fields: dict[str, Any] = {"amounts": FOUR, "service": name} | more
    return TraceAction("score", gap_s, duration_s, **fields)


def played(
    trajectories: list[TraceTrajectory],
    services: dict[str, Service],
    gpus: tuple[int, int] = (1, 4),
    policy: str = "fcfs",
) -> SimulationResult:
    cluster = ClusterSpec((), GpuSpec(*gpus), services=services)
    return outcome(trajectories, cluster, policy, views=VIEWS)


def test_a_service_is_restored_once_and_stays_until_another_comes() -> None:
    actions = [score("a"), score("a"), score("b"), score("a")]
    result = played([walk("t", *actions)], {"a": service(), "b": service(5.0)})
    assert ends(result) == {"t/0": 13, "t/1": 23, "t/2": 38, "t/3": 51}
    assert [run.prepare_s for run in result.actions] == [3, 0, 5, 3]
    assert [run.queue_s for run in result.actions] == [0, 0, 0, 0]
    parts = summarise(result)["by_kind"]["score"]
    assert (parts["mean_prepare_s"], parts["mean_run_s"]) == (2.75, 10)
    whole = summarise(result)
    assert (whole["mean_prepare_s"], whole["mean_run_s"]) == (2.75, 10)
    assert parts["mean_act_s"] == 12.75


def test_services_stay_beside_each_other_where_memory_suffices() -> None:
    actions = [score(name) for name in ("a", "b", "a", "b", "c", "a", "b")]
    services = {name: service(3.0, room=0.4) for name in "abc"}
    result = played([walk("t", *actions)], services)
    # The third is too many: the one that ran longest ago, a, goes for it, and then b for a.
    assert [run.prepare_s for run in result.actions] == [3, 3, 0, 0, 3, 3, 3]


def test_the_chunk_that_has_the_service_is_preferred() -> None:
    trajectories = [
        walk("x", score("a")),
        walk("y", score("b"), score("b", gap_s=10.0)),
        walk("z", score("a", gap_s=20.0)),
    ]
    result = played(trajectories, {"a": service(), "b": service()}, (1, 8))
    assert {run.id: run.prepare_s for run in result.actions} == {
        "x/0": 3,
        "y/0": 3,
        "y/1": 0,
        "z/0": 0,
    }


def test_a_timeout_counts_the_run_and_not_the_restore() -> None:
    result = played([walk("t", score("a", timeout_s=12.0))], {"a": service(5.0)})
    assert not the(result, "t/0").timed_out
    cut = played([walk("t", score("a", timeout_s=8.0))], {"a": service(5.0)})
    assert the(cut, "t/0").timed_out
    assert ends(cut) == {"t/0": 13}


@pytest.mark.parametrize(
    "policy", ["fcfs", "fixed:2", "arl-tangram", "elastic", "pod:request=1,limit=1"]
)
def test_sets_of_gpus_run_on_chunks_under_every_policy(policy: str) -> None:
    load = workload("mopd:gpus=1", 120, seed=3)
    result = outcome(
        list(load.trajectories), replace(load.cluster, gpus=GpuSpec(1, 8)), policy, views=VIEWS
    )
    assert {run.state for run in result.actions} == {State.FINISHED}
    changes = sorted(
        change
        for run in result.actions
        for hold in run.holds
        for change in ((hold.start_s, hold.units), (hold.end_s, -hold.units))
    )
    held = 0.0
    for _, units in changes:
        held += units
        assert held <= 8
    assert any(run.prepare_s for run in result.actions)


def test_dedicated_gpus_are_never_shared_and_never_restored() -> None:
    """a has two replicas of two, b one of four: its second call waits though a's are idle."""
    services = {
        "a": Service(Amounts.among([2, 4]), {2: 3.0, 4: 2.0}, 4, replicas=2),
        "b": service(),
    }
    trajectories = [walk(f"t{i}", score(name)) for i, name in enumerate("aabb")]
    result = played(trajectories, services, policy="dedicated")
    assert ends(result) == {"t0/0": 20, "t1/0": 20, "t2/0": 10, "t3/0": 20}
    assert {run.prepare_s for run in result.actions} == {0}
    assert result.policy == "dedicated"
    assert dict(result.capacities) == {("gpus:a", ""): 4, ("gpus:b", ""): 4}


def test_dedicated_needs_to_know_the_services() -> None:
    with pytest.raises(ValueError, match="of 'a' nothing is said"):
        played([walk("t", score("a"))], {"b": service()}, policy="dedicated")
    with pytest.raises(ValueError, match="5 GPUs cannot be split among 2 replicas"):
        Service(FOUR, {4: 1.0}, 5, replicas=2)


def test_notes_say_what_is_rounded_and_what_is_restored_in_no_time() -> None:
    odd = score("mine", amounts=Amounts.among([1, 3, 6]))
    notes = played([walk("t", odd)], {"a": service()}, (1, 8)).notes
    assert "a grant of GPUs is one aligned chunk: 3, 6 GPUs keep the next power of two" in notes
    assert "services that are restored in no time, since nothing says how long: mine" in notes
    assert not played([walk("t", score("a"))], {"a": service()}).notes


def test_ten_services_share_a_fifth_of_their_gpus_at_equal_mean() -> None:
    load = workload("mopd-deepsearch", 256, seed=100)

    def mean_s(policy: str, gpus: GpuSpec) -> float:
        cluster = replace(load.cluster, gpus=gpus)
        result = outcome(list(load.trajectories), cluster, policy, views=VIEWS)
        return float(summarise(result)["by_kind"]["score"]["mean_act_s"])

    assert mean_s("elastic", GpuSpec(1, 8)) <= mean_s("dedicated", GpuSpec(5, 8))
