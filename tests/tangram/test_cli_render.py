"""What the commands print, from sample data: tables, JSON and exit codes. No server, no loop."""

from __future__ import annotations

import dataclasses

import pytest
from rich.console import RenderableType

from tangram.cli import doctor, render
from tangram.cli.documents import explanation_json, failure_json, result_json, status_json
from tangram.cli.run import verdict
from tangram.cli.terminal import console
from tangram.client import (
    ActionInfo,
    ClusterStatus,
    Considered,
    Explanation,
    HistoryEntry,
    NodeStatus,
    QueueStatus,
    QuotaStatus,
    Result,
    Span,
    TaskStatus,
    Timing,
    Units,
    Usage,
    WarmStatus,
)
from tangram.errors import Cancelled, Expired, Infeasible, TangramError
from tangram.managers.cpu.doctor import Report
from tangram.managers.cpu.sandbox.base import Check

TIMING = Timing(queue=2.0, prepare=0.5, run=1.25, overhead=0.25, act=4.0)
RESULT = Result(
    outcome="finished",
    exit_code=0,
    stdout_bytes=b"\xffout",
    stderr_bytes=b"",
    truncated=False,
    signal=None,
    cores=2,
    node="node0",
    action_id="a-1",
    timing=TIMING,
    usage=Usage(1.0, 1 << 20),
)
ACTION = ActionInfo(
    id="a-1",
    task="grpo-7",
    trajectory="t-1",
    kind="exec",
    state="waiting",
    wait_reason="cores",
    cores=0,
    node="",
    timing=TIMING,
    priority=0,
    group="",
    step=None,
    labels={},
    submitted_unix=0.0,
    summary="make :x: [all]",
    outcome="",
    exit_code=None,
    error=None,
)
POOL = ClusterStatus(
    version="0.1.0",
    nodes=(
        NodeStatus(
            name="node0",
            launcher="bubblewrap",
            cores=Units(total=8, granted=6, free=2),
            memory=Units(total=32 << 30, granted=8 << 30, free=24 << 30),
            limits={"memory": "hard", "disk": "soft"},
            sandboxes={"idle": 3, "running": 6, "starting": 0},
            warm=(
                WarmStatus("docker", "swe", 0, 1, 4, 0.2, "starting it failed once", 0.0, 7, 2, 1),
                WarmStatus("bubblewrap", "", 5, 0, 5, 0.03, "", 0.0, 40, 6, 0),
            ),
        ),
    ),
    quotas=(
        QuotaStatus(name="search", limit=4, in_use=1, description="4 at once", closed_for=12.0),
    ),
    queues=(
        QueueStatus(resource="cores@node0", waiting=17, reason="behind", waiting_units=20),
        QueueStatus(resource="quota:search", waiting=0, reason="", waiting_units=0),
    ),
    tasks=(
        TaskStatus(name="grpo-7", waiting=17, running=6, ended=40, trajectories=9, mean=TIMING),
        TaskStatus(name="idle", waiting=0, running=0, ended=0, trajectories=0, mean=None),
    ),
    uptime=75.0,
    actions=(ACTION,),
)
EXPLANATION = Explanation(
    action=ACTION,
    sentence="it waits for cores on node0",
    ahead=3,
    predicted_run=None,
    predicted_from="nothing",
    considered=(),
    spans=(
        Span("queue", "cores", "cores@node0", "too few cores were free", 0.0, 2.0),
        Span("prepare", "", "", "2 cores granted", 2.0, 2.5),
        Span("run", "", "", "runs", 2.5, None),
    ),
    history=(HistoryEntry(0.0, "Submitted", ""), HistoryEntry(2.0, "Grant", "token=[9]")),
)


def printed(what: RenderableType, width: int = 80) -> str:
    screen = console()
    screen.width = width
    with screen.capture() as captured:
        screen.print(what)
    return captured.get()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 ms"),
        (0.00241, "2.4 ms"),
        (0.041, "41 ms"),
        (0.9996, "1.00 s"),
        (4.56, "4.56 s"),
        (23.44, "23.4 s"),
        (428.0, "7m08s"),
        (11_100.0, "3h05m"),
    ],
)
def test_durations_are_short_at_every_size(value: float, text: str) -> None:
    assert render.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1536, "1.5 KiB"), (128 << 20, "128.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_have_binary_units(value: int, text: str) -> None:
    assert render.size(value) == text


def test_status_shows_nodes_limits_quotas_reasons_and_the_parts_of_act() -> None:
    text = printed(render.status(POOL))
    for word in (
        *("6 of 8 granted", "8.0 GiB of 32.0 GiB", "3 idle, 6 running"),
        *("hard memory; soft disk", "4 at once (closed for 12.0 s)"),
        *("no image", "5 of 5", "30 ms", "swe: starting it failed once"),
        *("cores@node0", "17", "behind", "grpo-7", "4.00 s", "500 ms"),
    ):
        assert word in text
    assert "0 starting" not in text
    assert "quota:search" not in text


def test_every_table_fits_a_terminal_of_80_columns() -> None:
    text = printed(render.status(POOL), width=80)
    assert "…" not in text


def test_top_shows_bars_and_the_longest_actions_with_their_reasons() -> None:
    text = printed(render.top(POOL), width=100)
    for word in ("cores node0", "quota search", "━━━", "a-1", "waiting", "make :x: [all]"):
        assert word in text


def test_an_empty_pool_says_that_nothing_waits() -> None:
    empty = dataclasses.replace(POOL, queues=(), tasks=(), actions=(), quotas=())
    assert "nothing waits" in printed(render.top(empty))


def test_a_bar_in_the_timeline_stands_where_its_span_lies() -> None:
    lines = printed(render.explanation(EXPLANATION), width=120).splitlines()
    bars = {line.split()[0]: line for line in lines if "━" in line}
    starts = [bars[part].index("━") for part in ("queue", "prepare", "run")]
    assert starts[1] - starts[0] == pytest.approx(render.TIMELINE_WIDTH / 2, abs=1)
    assert starts[2] - starts[1] == pytest.approx(render.TIMELINE_WIDTH / 8, abs=1)
    assert bars["queue"].count("━") == render.TIMELINE_WIDTH // 2


def test_explain_shows_sentence_reasons_what_lasts_and_the_history_unchanged() -> None:
    text = printed(render.explanation(EXPLANATION), width=120)
    assert "it waits for cores on node0" in text
    assert "too few cores were free" in text
    assert "1.50 s so far" in text
    assert "token=[9]" in text


def test_explain_shows_what_was_predicted_from_what_and_the_cores_to_choose_from() -> None:
    known = dataclasses.replace(
        EXPLANATION,
        predicted_run=8.0,
        predicted_from="learned",
        considered=tuple(Considered(cores, 8.0 / cores) for cores in range(1, 33)),
    )
    text = " ".join(printed(render.explanation(known), width=200).split())
    assert (
        "predicted to run 8.00 s, learned from the same command; cores to choose from: 1 (8.00 s)"
        in text
    )
    assert "31 (258 ms), 32 (250 ms)" in text
    assert text.count(" ms)") + text.count(" s)") <= render.CONSIDERED_SHOWN_MAX
    assert "predicted" not in printed(render.explanation(EXPLANATION), width=200)
    assert explanation_json(known)["considered"][1] == {"cores": 2, "run": 4.0}
    assert explanation_json(known)["predicted_from"] == "learned"


def test_an_action_that_took_no_time_can_be_explained() -> None:
    nothing = dataclasses.replace(ACTION, timing=Timing(0.0, 0.0, 0.0, 0.0, 0.0))
    none = dataclasses.replace(EXPLANATION, action=nothing, spans=(), history=())
    assert "timeline" in printed(render.explanation(none))


def test_status_json_has_the_documented_keys() -> None:
    document = status_json(POOL)
    assert {"version", "nodes", "quotas", "queues", "tasks"} <= set(document)
    (node,) = document["nodes"]
    assert node["cores"] == {"total": 8, "granted": 6, "free": 2}
    assert node["limits"] == {"memory": "hard", "disk": "soft"}
    assert node["warm"][1] | {"hits": 40, "misses": 6, "wanted": 5} == node["warm"][1]
    assert {"name", "launcher", "cores", "memory", "limits"} <= set(node)
    assert {"name": "search", "limit": 4, "in_use": 1}.items() <= document["quotas"][0].items()
    assert document["queues"][0] == {
        "resource": "cores@node0",
        "waiting": 17,
        "reason": "behind",
    }
    assert document["tasks"][0]["mean"]["act"] == 4.0
    assert document["tasks"][1]["mean"] is None


def test_explain_json_has_the_spans_with_null_for_what_lasts() -> None:
    document = explanation_json(EXPLANATION)
    assert (document["state"], document["reason"], document["ahead"]) == ("waiting", "cores", 3)
    assert [span["end"] for span in document["spans"]] == [2.0, 2.5, None]


def test_run_json_replaces_what_is_not_utf8() -> None:
    document = result_json(RESULT)
    assert document["stdout"] == "\N{REPLACEMENT CHARACTER}out"
    assert document["timing"] == {
        "queue": 2.0,
        "prepare": 0.5,
        "run": 1.25,
        "overhead": 0.25,
        "act": 4.0,
    }


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Infeasible("too many cores", action_id="a-2"), "failed", "infeasible"),
        (Cancelled("by somebody"), "cancelled", "cancelled"),
        (Expired("too late"), "expired", "expired"),
    ],
)
def test_run_json_of_a_failure_has_the_keys_of_a_result(
    error: TangramError, state: str, reason: str
) -> None:
    document = failure_json(error)
    assert set(document) == {*result_json(RESULT), "message"}
    assert (document["state"], document["reason"]) == (state, reason)
    assert document["message"] == str(error)


@pytest.mark.parametrize(
    ("outcome", "exit_code", "code", "remark"),
    [
        ("finished", 0, 0, ""),
        ("finished", 7, 7, ""),
        ("finished", -15, 143, ""),
        ("finished", 127, 127, ""),
        ("timed_out", None, 124, "timed out after 60 s"),
        ("timed_out", -9, 124, "timed out after 60 s"),
        ("out_of_memory", -9, 137, "out of memory"),
        ("out_of_memory", None, 137, "out of memory"),
        ("out_of_disk", 0, 137, "out of disk"),
        ("too_many_processes", 2, 2, "too many processes"),
    ],
)
def test_the_exit_code_of_run_says_what_happened(
    outcome: str, exit_code: int | None, code: int, remark: str
) -> None:
    result = dataclasses.replace(RESULT, outcome=outcome, exit_code=exit_code)
    said = verdict(result, timeout_s=60.0)
    assert said[0] == code
    assert remark in said[1]
    assert bool(remark) == bool(said[1])


def test_doctor_shows_what_works_what_does_not_and_the_line_that_mends_it() -> None:
    reports = [
        Report("bubblewrap", True, (Check("start", True, "a sandbox"),), {"memory": "hard"}, ()),
        Report(
            "docker",
            False,
            (Check("engine", False, "no socket", "apt-get install docker.io"),),
            {"memory": "soft"},
            ("apt-get install docker.io",),
        ),
    ]
    text = printed(doctor.render(reports))
    for word in ("bubblewrap", "yes", "no socket", "apt-get install docker.io", "✓", "✗"):
        assert word in text
    documents = {entry["launcher"]: entry for entry in doctor.doctor_json(reports)["launchers"]}
    assert documents["docker"]["cures"] == ["apt-get install docker.io"]
    assert documents["docker"]["checks"][0]["ok"] is False
