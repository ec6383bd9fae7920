"""Traces: what is read of a line, what is refused and how, and what can be made of a trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.scheduler.model import DURATION_MIN_S, Amounts
from tangram.scheduler.simulator import trace as tr
from tangram.scheduler.simulator.trace import TraceAction, TraceError, TraceTrajectory

from .worlds import read, run_of, walk


def line(*actions: dict[str, Any], **more: Any) -> str:
    return json.dumps({"trajectory": "a", "actions": list(actions), **more})


EXEC = {"kind": "exec", "gap_s": 1, "duration_s": 2}


def test_every_field_of_the_documented_example_is_read() -> None:
    [found] = read(
        '{"trajectory": "8a6c4a9ff7", "task": "coding", "start_s": 0.5, "group": "g", "step": 3,'
        ' "actions": [{"kind": "exec", "gap_s": 1.278, "duration_s": 0.029, "cores": [1],'
        ' "memory_mib": 162},'
        ' {"kind": "exec", "gap_s": 2.0, "duration_s": 64.0, "cores": "1-32", "serial": 0.03},'
        ' {"kind": "score", "gap_s": 4.1, "duration_s": 3.2, "service": "rm-7b",'
        ' "gpus": [1, 2, 4], "elasticity": {"2": 0.95, "4": 0.9}},'
        ' {"kind": "call", "gap_s": 2.0, "duration_s": 0.8, "quota": "search"}]}'
    )
    assert found == TraceTrajectory(
        "8a6c4a9ff7",
        "coding",
        0.5,
        (
            TraceAction("exec", 1.278, 0.029, Amounts.exactly(1), memory_mib=162),
            TraceAction("exec", 2.0, 64.0, Amounts.between(1, 32), serial=0.03),
            TraceAction(
                "score",
                4.1,
                3.2,
                Amounts.among([1, 2, 4]),
                elasticity={2: 0.95, 4: 0.9},
                service="rm-7b",
            ),
            TraceAction("call", 2.0, 0.8, quota="search"),
        ),
        group="g",
        step=3,
    )
    assert found.memory_mib == 162


def test_what_tells_who_is_served_first_is_read_and_written_again() -> None:
    owner = {"tenant": "lab", "group": "g", "step": 0, "priority": -2}
    [found] = read(line({**EXEC, "priority": 5}, task="coding", **owner))
    assert (found.tenant, found.group, found.step, found.priority) == ("lab", "g", 0, -2)
    assert found.actions[0].priority == 5
    assert read(tr.write_line(found)) == [found]


def test_what_only_a_recorded_trace_says_is_read_and_written_again() -> None:
    times = {"overhead_s": 0.5, "prepare_s": 0.25, "release_s": 0.125}
    [found] = read(line({**EXEC, **times, "memory_mib": 7}, memory_mib=512))
    [action] = found.actions
    assert (action.overhead_s, action.prepare_s, action.release_s) == (0.5, 0.25, 0.125)
    assert (action.memory_mib, found.memory_mib) == (7, 512)
    assert read(tr.write_line(found)) == [found]


@pytest.mark.parametrize("field", ["overhead_s", "prepare_s", "release_s"])
def test_a_negative_time_of_a_recorded_trace_is_refused(field: str) -> None:
    with pytest.raises(TraceError, match=field):
        read(line({**EXEC, field: -1}))


def test_null_and_missing_are_the_defaults_and_unknown_keys_are_ignored() -> None:
    action = {**EXEC, "cores": None, "memory_mib": None, "gap_s": None, "cpu_cores": 0.06}
    [found] = read(line(action, task=None, start_s=None, group=None, other=[1]))
    assert (found.task, found.start_s, found.group, found.step) == ("default", 0.0, "", None)
    assert found.actions == (TraceAction("exec", 0.0, 2.0),)


@pytest.mark.parametrize("kind", ["test", "shell", "file", "other"])
def test_synonyms_run_as_exec_and_keep_their_name(kind: str) -> None:
    [found] = read(line({**EXEC, "kind": kind}))
    assert (found.actions[0].kind, found.actions[0].runs_as) == (kind, "exec")


def test_blank_lines_are_passed_over_but_counted() -> None:
    assert len(read("", line(EXEC), "  \n")) == 1
    with pytest.raises(TraceError, match=r"trace\.jsonl, line 3"):
        read("", line(EXEC), "{")


def test_a_duration_of_zero_is_floored() -> None:
    assert read(line({**EXEC, "duration_s": 0}))[0].actions[0].duration_s == DURATION_MIN_S


@pytest.mark.parametrize(
    ("cores", "amounts"),
    [
        (4, Amounts.exactly(4)),
        ([4], Amounts.exactly(4)),
        ([8, 1, 8], Amounts.among([1, 8])),
        ("1-32", Amounts.between(1, 32)),
        (" 2 - 3 ", Amounts.between(2, 3)),
        ("1,2,4", Amounts.among([1, 2, 4])),
        ("3-3", Amounts.exactly(3)),
    ],
)
def test_amounts_are_numbers_sets_and_ranges(cores: Any, amounts: Amounts) -> None:
    assert read(line({**EXEC, "cores": cores}))[0].actions[0].amounts == amounts


DEEP = "[" * 100_000

MALFORMED: list[tuple[str, str]] = [
    ("{", "not a line of JSON"),
    (DEEP, "not a line of JSON"),
    ("[]", "a JSON object is needed, not a list"),
    ("3", "a JSON object is needed, not 3"),
    ('{"actions": []}', "trajectory: a string .* missing or null"),
    ('{"trajectory": 7, "actions": []}', "trajectory: a string"),
    ('{"trajectory": "", "actions": []}', "trajectory: a string"),
    (json.dumps({"trajectory": "x" * 1000, "actions": []}), "trajectory: a string of 1 to 256"),
    ('{"trajectory": "a"}', "actions: a list is needed, not missing"),
    ('{"trajectory": "a", "actions": {}}', "actions: a list is needed"),
    ('{"trajectory": "a", "actions": [1]}', r"actions\[0\]: a JSON object is needed, not 1"),
    (line(EXEC, start_s=-1), "start_s: a number from 0 to 1e.10 seconds is needed, not -1"),
    (line(EXEC, start_s="0"), "start_s: .* not '0'"),
    (line(EXEC, task=3), "task: a string"),
    (line(EXEC, step=1.5), "step: an integer"),
    (line(EXEC, step=-1), "step: an integer"),
    (line(EXEC, priority=True), "priority: an integer"),
    (line({**EXEC, "priority": 1.5}), r"actions\[0\].priority: an integer"),
    (line(EXEC, tenant=7), "tenant: a string"),
    (
        line(EXEC, {**EXEC, "kind": "bash"}),
        r"actions\[1\].kind: one of exec, score, call, .*'bash'",
    ),
    (line({"gap_s": 0, "duration_s": 1}), r"actions\[0\].kind"),
    (line({"kind": "exec", "gap_s": 0}), "duration_s: .* missing or null"),
    (line({**EXEC, "duration_s": None}), "duration_s: .* missing or null"),
    (line({**EXEC, "duration_s": -0.1}), "duration_s: a number from 0 .* not -0.1"),
    (line({**EXEC, "duration_s": float("nan")}), "duration_s: .* not nan"),
    (line({**EXEC, "duration_s": float("inf")}), "duration_s: .* not inf"),
    (line({**EXEC, "duration_s": 10**400}), "duration_s: .* very many digits"),
    (line({**EXEC, "duration_s": True}), "duration_s: .* not True"),
    (line({**EXEC, "duration_s": "3"}), "duration_s: .* not '3'"),
    (line({**EXEC, "gap_s": -1}), "gap_s: a number from 0 .* not -1"),
    (line({**EXEC, "gap_s": float("-inf")}), "gap_s: .* not -inf"),
    (line({**EXEC, "gap_s": float("nan")}), "gap_s: .* not nan"),
    (line({**EXEC, "cores": []}), "cores: an empty set"),
    (line({**EXEC, "cores": [0, 1]}), "cores: whole amounts from 1 .* not 0"),
    (line({**EXEC, "cores": [1.5]}), "cores: whole amounts .* not 1.5"),
    (line({**EXEC, "cores": [True]}), "cores: whole amounts"),
    (line({**EXEC, "cores": ["1"]}), "cores: whole amounts"),
    (line({**EXEC, "cores": 10**9}), "cores: whole amounts from 1 to 65536"),
    (line({**EXEC, "cores": "8-1"}), "cores: amounts from 1"),
    (line({**EXEC, "cores": "0-4"}), "cores: amounts from 1"),
    (line({**EXEC, "cores": "1-"}), "cores: amounts from 1"),
    (line({**EXEC, "cores": "1-999999"}), "cores: amounts from 1 to 65536"),
    (line({**EXEC, "cores": {}}), "cores: whole amounts"),
    (line({**EXEC, "serial": -0.1}), "serial: a number from 0 to 1"),
    (line({**EXEC, "serial": 1.1}), "serial: a number from 0 to 1"),
    (line({**EXEC, "serial": float("nan")}), "serial: .* not nan"),
    (line({**EXEC, "elasticity": [1]}), "elasticity: an object"),
    (line({**EXEC, "elasticity": {"2": 0}}), "elasticity.2: an efficiency is at least 1e-06"),
    (line({**EXEC, "elasticity": {"2": 1e-323}}), "elasticity.2: .* not 1e-323"),
    (line({**EXEC, "elasticity": {"2": 1.1}}), "elasticity.2: .* at most 1, not 1.1"),
    (line({**EXEC, "elasticity": {"2": -1}}), "elasticity.2: an efficiency"),
    (line({**EXEC, "elasticity": {"2": float("nan")}}), "elasticity.2: .* not nan"),
    (line({**EXEC, "elasticity": {"2": "a"}}), "elasticity.2: .* not 'a'"),
    (line({**EXEC, "elasticity": {"0": 0.5}}), r"elasticity\['0'\]: units from 1"),
    (line({**EXEC, "elasticity": {"x": 0.5}}), r"elasticity\['x'\]: units from 1"),
    (line({**EXEC, "elasticity": {"1": 0.5}}), r"elasticity.1: E\(1\) is 1"),
    (line({**EXEC, "elasticity": {"2": 0.9}, "serial": 0.1}), "serial: serial and elasticity"),
    (line({**EXEC, "memory_mib": -1}), "memory_mib: a number from 0"),
    (line({**EXEC, "memory_mib": "1Gi"}), "memory_mib: .* not '1Gi'"),
    (line({**EXEC, "timeout_s": 0}), "timeout_s: a number from 1e-06"),
    (line({**EXEC, "malleable": 1}), "malleable: true or false"),
    (line({"kind": "call", "duration_s": 1}), "quota: a call needs the name of its quota"),
    (line({"kind": "call", "duration_s": 1, "quota": 3}), "quota: a string"),
    (line({"kind": "call", "duration_s": 1, "quota": "q", "quota_amount": 0}), "quota_amount"),
    (line({"kind": "score", "duration_s": 1, "gpus": []}), "gpus: an empty set"),
    (line({"kind": "score", "duration_s": 1, "service": 1}), "service: a string"),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_malformed_is_refused_with_source_line_and_field(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=rf"^trace\.jsonl, line 2: .*{message}") as caught:
        read(line(EXEC, trajectory="first"), text)
    assert len(str(caught.value)) < 400


def test_the_same_id_twice_is_refused_and_both_lines_are_named() -> None:
    with pytest.raises(TraceError, match="line 3: trajectory: 'a' is the id of line 1"):
        read(line(EXEC), line(EXEC, trajectory="b"), line(EXEC))


def test_lines_and_actions_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tr, "LINE_CHARS_MAX", 100)
    with pytest.raises(TraceError, match="line 1: at most 100 characters"):
        read(line(EXEC, EXEC, EXEC))
    monkeypatch.setattr(tr, "ACTIONS_MAX", 1)
    with pytest.raises(TraceError, match="actions: at most 1 entries"):
        read('{"trajectory": "a", "actions": [0, 0]}')
    monkeypatch.setattr(tr, "TRAJECTORIES_MAX", 1)
    with pytest.raises(TraceError, match="line 2: at most 1 trajectories"):
        read(line(), line(trajectory="b"))


amounts = st.one_of(
    st.integers(1, 64).map(Amounts.exactly),
    st.tuples(st.integers(1, 8), st.integers(9, 64)).map(lambda ends: Amounts.between(*ends)),
    st.sets(st.integers(1, 64), min_size=2, max_size=5).map(Amounts.among),
)
times_s = st.floats(1e-6, 1e6)
elastic: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.floats(0, 1).map(lambda serial: {"serial": serial}),
    st.dictionaries(st.integers(2, 64), st.floats(0.01, 1), min_size=1, max_size=3).map(
        lambda table: {"elasticity": dict(sorted(table.items()))}
    ),
)


@st.composite
def trace_actions(draw: st.DrawFn) -> TraceAction:
    kind = draw(st.sampled_from(["exec", "test", "file", "score", "call"]))
    common: dict[str, Any] = {
        "memory_mib": draw(st.floats(0, 1e4)),
        "timeout_s": draw(st.none() | times_s),
    }
    if kind == "call":
        amount = draw(st.integers(1, 5))
        return TraceAction(
            kind, draw(times_s), draw(times_s), quota="q", quota_amount=amount, **common
        )
    common |= {"malleable": draw(st.booleans()), **draw(elastic)}
    return TraceAction(kind, draw(times_s), draw(times_s), draw(amounts), **common)


trajectories = st.builds(
    TraceTrajectory,
    id=st.text(min_size=1, max_size=20),
    task=st.sampled_from(["default", "coding"]),
    start_s=st.floats(0, 1e9),
    actions=st.lists(trace_actions(), max_size=4).map(tuple),
    group=st.sampled_from(["", "g1"]),
    step=st.none() | st.integers(0, 5),
    priority=st.integers(-3, 3),
)


@settings(max_examples=60, deadline=None)
@given(trajectories)
def test_what_is_written_reads_as_the_same(trajectory: TraceTrajectory) -> None:
    written = tr.write_line(trajectory)
    assert "\n" not in written
    assert read(written) == [trajectory]


def test_replicating_draws_whole_rounds_and_cuts_the_last() -> None:
    originals = [walk(name, run_of(1.0)) for name in "abc"]
    drawn = tr.replicate(originals, 8, seed=1)
    names = [trajectory.id for trajectory in drawn]
    assert len(set(names)) == len(names) == 8
    rounds = [names[:3], names[3:6], names[6:]]
    assert sorted(rounds[0]) == ["a", "b", "c"]
    assert sorted(rounds[1]) == ["a~2", "b~2", "c~2"]
    assert set(rounds[2]) < {"a~3", "b~3", "c~3"}
    assert all(t.actions == originals[0].actions for t in drawn)
    assert [t.id for t in tr.replicate(originals, 8, seed=1)] == names
    orders = {tuple(t.id for t in tr.replicate(originals, 3, seed)) for seed in range(30)}
    assert len(orders) == 6


def test_replicas_of_a_group_are_a_group_of_their_own() -> None:
    grouped = [walk(name, group="g", step=3) for name in "ab"]
    drawn = tr.replicate([*grouped, walk("c")], 6, seed=1)
    groups = {trajectory.id: trajectory.group for trajectory in drawn}
    assert groups == {"a": "g", "b": "g", "c": "", "a~2": "g~2", "b~2": "g~2", "c~2": ""}
    assert {trajectory.step for trajectory in drawn if trajectory.group} == {3}


def test_replicas_never_take_an_id_that_the_trace_has() -> None:
    drawn = tr.replicate([walk("a"), walk("a~2")], 6, seed=0)
    assert len({trajectory.id for trajectory in drawn}) == 6


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_a_count_of_replicas_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"a count from 1 to 1000000 is needed, not {count}"):
        tr.replicate([walk("a")], count, 0)


def test_nothing_cannot_be_replicated() -> None:
    with pytest.raises(ValueError, match="without trajectories"):
        tr.replicate([], 3, 0)


def test_making_a_kind_elastic_leaves_the_others() -> None:
    both = read(line({**EXEC, "kind": "test"}, {**EXEC, "kind": "shell"}))
    [changed] = tr.make_elastic(both, *tr.parse_elastic("test=1-32:0.03"))
    assert changed.actions[0].amounts == Amounts.between(1, 32)
    assert changed.actions[0].serial == 0.03
    assert changed.actions[1] == both[0].actions[1]


def test_making_a_kind_elastic_that_no_action_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no action is of kind 'tset'; the trace has exec"):
        tr.make_elastic(read(line(EXEC)), "tset", Amounts.between(1, 2), 0.1)


@pytest.mark.parametrize(
    "text", ["", "test", "test=1-32", "test=:0.1", "=1-2:0.1", "test=1-2:2", "test=1-2:nan"]
)
def test_a_malformed_elastic_option_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needed"):
        tr.parse_elastic(text)
