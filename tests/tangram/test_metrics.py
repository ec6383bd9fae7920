"""Metrics: names and labels are public, cardinality is bounded, gauges are as of the scrape."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tangram.managers.base import Outcome, RunResult, WarmStatus
from tangram.scheduler import ResourceId, State, WaitReason
from tangram.scheduler.pattern import PredictionError
from tangram.server.convert import action_request
from tangram.server.metrics import TASKS_MAX, Metrics
from tangram.server.outputs import OutputStore
from tangram.server.records import (
    ActionRecord,
    NodeStatus,
    PoolStatus,
    QueueStatus,
    QuotaStatus,
    Units,
)
from tangram.v1 import types_pb2

QUEUES = (
    QueueStatus(
        ResourceId("cores", "node0"), 7, "behind", 9, {WaitReason.BEHIND: 8, WaitReason.CORES: 1}
    ),
    QueueStatus(ResourceId("cores", "node1"), 2, "behind", 2, {WaitReason.BEHIND: 2}),
    QueueStatus(ResourceId("quota:search"), 3, "rate", 3, {WaitReason.RATE: 3}),
)
WARM = (
    WarmStatus(
        "docker",
        "swe",
        3,
        1,
        4,
        0.2,
        "",
        0.0,
        hits=7,
        misses=2,
        started=11,
        start_seconds=2.5,
        failed=1,
    ),
)
STATUS = PoolStatus(
    nodes=(
        NodeStatus(
            "node0", "fake", Units(4, 3, 1), Units(100, 40, 60), {}, {}, {"cpuset.cpus": 2}, WARM
        ),
    ),
    quotas=(QuotaStatus("search", 5, 2, "", None),),
    queues=QUEUES,
    tasks=(),
    uptime_s=1.0,
    busiest=(),
)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, values of the labels in the order of their names) -> value."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def ended(state: State, result: RunResult | None = None, task: str = "train") -> ActionRecord:
    spec = types_pb2.ActionSpec(
        id="a", trajectory="t", task=task, exec=types_pb2.Exec(argv=["true"])
    )
    request = action_request(spec, now=0.0, output_limit_bytes=1)
    record = ActionRecord(request, 10.0, 0.0, OutputStore(1))
    record.granted = 10.25
    if result is not None:
        record.start(10.5)
    record.finish(13.0, state, result=result)
    return record


def test_ended_actions_count_by_outcome_or_by_state() -> None:
    metrics = Metrics(lambda: STATUS)
    metrics.observe(ended(State.FINISHED, RunResult(Outcome.TIMED_OUT, run_s=2.0)))
    metrics.observe(ended(State.CANCELLED))
    metrics.observe(ended(State.CANCELLED))
    found = samples(metrics)
    assert found["tangram_actions_total", ("exec", "timed_out", "train")] == 1
    assert found["tangram_actions_total", ("exec", "cancelled", "train")] == 2


def test_the_four_parts_add_up_to_the_act() -> None:
    metrics = Metrics(lambda: STATUS)
    metrics.observe(ended(State.FINISHED, RunResult(Outcome.FINISHED, run_s=2.0)))
    found = samples(metrics)
    sums = {
        part: found["tangram_action_seconds_sum", ("exec", part)]
        for part in ("queue", "prepare", "run", "overhead", "act")
    }
    assert sums == pytest.approx(
        {"queue": 0.25, "prepare": 0.25, "run": 2.0, "overhead": 0.5, "act": 3.0}
    )


def test_gauges_show_the_pool_as_of_the_scrape() -> None:
    now: list[PoolStatus] = [STATUS]
    metrics = Metrics(lambda: now[0])
    found = samples(metrics)
    assert found["tangram_units", ("node0", "cores", "granted")] == 3
    assert found["tangram_units", ("node0", "memory", "free")] == 60
    assert found["tangram_units", ("", "quota:search", "free")] == 3
    assert found["tangram_corrected_limits_total", ("cpuset.cpus", "node0")] == 2
    now[0] = PoolStatus((), (), (), (), 2.0, ())
    assert not [key for key in samples(metrics) if key[0] == "tangram_units"]


def test_waiting_units_are_summed_over_nodes_under_the_same_resource_as_units() -> None:
    found = samples(Metrics(lambda: STATUS))
    waiting = {key[1]: value for key, value in found.items() if key[0] == "tangram_waiting_units"}
    assert waiting == {("behind", "cores"): 10, ("cores", "cores"): 1, ("rate", "quota:search"): 3}
    resources = {key[1][1] for key in found if key[0] == "tangram_units"}
    assert {resource for _, resource in waiting} <= resources


def test_a_flood_of_task_names_ends_in_other() -> None:
    metrics = Metrics(lambda: STATUS)
    for number in range(TASKS_MAX + 5):
        metrics.observe(ended(State.CANCELLED, task=f"task{number}"))
    metrics.observe(ended(State.CANCELLED, task="task0"))
    found: Any = samples(metrics)
    counted = {
        key[1][2]: value for key, value in found.items() if key[0] == "tangram_actions_total"
    }
    assert len(counted) == TASKS_MAX + 1
    assert (counted["other"], counted["task0"]) == (5, 2)


def test_granted_cores_and_resizes_are_counted_when_an_action_has_ended() -> None:
    metrics = Metrics(lambda: STATUS)
    record = ended(State.FINISHED, RunResult(Outcome.FINISHED, 0, run_s=2.0))
    record.cores, record.grown, record.shrunk = 3, 2, 1
    metrics.observe(record)
    found = samples(metrics)
    assert found["tangram_granted_units_bucket", ("2.0", "cores")] == 0
    assert found["tangram_granted_units_bucket", ("4.0", "cores")] == 1
    assert found["tangram_granted_units_sum", ("cores",)] == 3
    assert found["tangram_resizes_total", ("grow",)] == 2
    assert found["tangram_resizes_total", ("shrink",)] == 1


def test_prediction_errors_are_those_of_the_scrape() -> None:
    errors = {"exec": PredictionError(7, 2, 0.5, 1.5, -0.25)}
    metrics = Metrics(lambda: STATUS, errors=lambda: errors)
    found = samples(metrics)
    assert found["tangram_prediction_error", ("exec", "p90")] == 1.5
    assert found["tangram_prediction_error", ("exec", "bias")] == -0.25
    assert found["tangram_predictions_total", ("exec", "unpredicted")] == 2
    errors["exec"] = PredictionError(0, 3, None, None, None)
    found = samples(metrics)
    assert ("tangram_prediction_error", ("exec", "p90")) not in found
    assert found["tangram_predictions_total", ("exec", "unpredicted")] == 3


def test_sandboxes_that_are_started_ahead_of_need_are_counted_by_image() -> None:
    found = samples(Metrics(lambda: STATUS))
    where = ("swe", "docker", "node0")
    for state, number in (("ready", 3), ("starting", 1), ("wanted", 4)):
        assert found["tangram_warm_sandboxes", (*where, state)] == number
    assert found["tangram_warm_opens_total", ("swe", "docker", "node0", "hit")] == 7
    assert found["tangram_warm_opens_total", ("swe", "docker", "node0", "miss")] == 2
    assert found["tangram_sandbox_starts_total", ("swe", "docker", "node0", "started")] == 11
    assert found["tangram_sandbox_starts_total", ("swe", "docker", "node0", "failed")] == 1
    assert found["tangram_sandbox_start_seconds_total", where] == 2.5
