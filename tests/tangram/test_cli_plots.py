"""`--plot`: the numbers behind the picture, and what the files are like."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from tangram.cli import app
from tangram.cli.comparison import document, overview
from tangram.cli.plots import render, series
from tangram.cli.plots.figure import CURVE_IN, GANTT_IN, GAP_IN
from tangram.scheduler.model import State
from tangram.scheduler.simulator.result import ActionRun, Hold, SimulationResult

SVG = "{http://www.w3.org/2000/svg}"
FILE_BYTES_MAX = 3_000_000


def ran(
    start_s: float, end_s: float, units: float = 1.0, queue_s: float = 0.0, node: str = "node0"
) -> ActionRun:
    hold = Hold(start_s + queue_s, end_s, units)
    return ActionRun(
        id=f"a{start_s}",
        trajectory="t",
        task="default",
        kind="exec",
        resource="cores",
        node=node,
        submitted_s=start_s,
        granted_s=start_s + queue_s,
        ended_s=end_s,
        state=State.FINISHED,
        holds=(hold,),
    )


def result(*actions: ActionRun, cores: int = 4, policy: str = "fcfs") -> SimulationResult:
    return SimulationResult(policy, actions, {("cores", "node0"): cores})


def random_result(number: int, cores: int) -> SimulationResult:
    """Many short actions, each on units that are free: as many lanes as are needed and no more."""
    dice = random.Random(number)
    free_s = [0.0] * cores
    actions = []
    for _ in range(number):
        core = free_s.index(min(free_s))
        start_s = free_s[core]
        free_s[core] = start_s + dice.expovariate(1.0)
        actions.append(ran(start_s, free_s[core], queue_s=0.0))
    return result(*actions, cores=cores)


def test_utilisation_is_the_mean_share_of_the_units_held_in_each_bin() -> None:
    held = result(ran(0.0, 2.0, 4), ran(2.5, 3.0, 2))
    edges = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert series.utilisation(held, "cores", edges) == pytest.approx([1.0, 1.0, 0.25, 0.0])


def test_waiting_is_the_mean_number_of_actions_that_wait_in_each_bin() -> None:
    waited = result(ran(0.0, 4.0, queue_s=2.0), ran(0.0, 4.0, queue_s=0.5))
    assert series.waiting(waited, np.array([0.0, 1.0, 2.0, 4.0])) == pytest.approx([1.5, 1.0, 0.0])


def test_gpus_of_services_of_their_own_are_gpus_like_those_of_a_pool() -> None:
    shared = replace(ran(0.0, 4.0, 2), resource="gpus", node="")
    own = [replace(ran(0.0, 4.0, 2), resource=f"gpus:{name}", node="") for name in "abc"]
    pool = SimulationResult("elastic", [shared], {("gpus", ""): 4})
    capacities = {(f"gpus:{name}", ""): 4 for name in "abcd"}
    dedicated = SimulationResult("dedicated", own, capacities)
    assert series.kinds([dedicated, pool]) == ["gpus"]
    edges = np.array([0.0, 4.0])
    assert series.utilisation(dedicated, "gpus", edges) == pytest.approx([6 / 16])
    assert series.utilisation(pool, "gpus", edges) == pytest.approx([0.5])
    chart = series.gantt(dedicated, "gpus")
    assert (chart.capacity, len(chart.bars), chart.dropped) == (16, 3, 0)


def test_a_chart_of_who_held_what_is_drawn_only_where_somebody_held_any() -> None:
    idle = replace(ran(0.0, 4.0), resource="gpus", node="", holds=())
    both = {("cores", "node0"): 4, ("gpus", ""): 2}
    one = SimulationResult("fcfs", [ran(0.0, 4.0), idle], both)
    other = SimulationResult("pod", [ran(0.0, 4.0), replace(idle, holds=(Hold(0, 4, 1),))], both)

    def height(*results: SimulationResult) -> float:
        svg = ElementTree.fromstring(render(results, "t", "d", "svg"))
        return float(svg.attrib["height"].removesuffix("pt"))

    chart = GANTT_IN + GAP_IN
    assert height(one, other) - height(one, one) == pytest.approx(72 * (chart + CURVE_IN + GAP_IN))


def test_the_parts_of_the_mean_act_add_up_to_it() -> None:
    assert series.parts(result(ran(0, 4, queue_s=1), ran(0, 2))) == pytest.approx((0.5, 0, 2.5))


def test_a_bar_has_a_lane_per_unit_and_no_lane_is_held_twice() -> None:
    wide = [ran(n / 10, n / 10 + 1.0, units=1 + n % 3) for n in range(60)]
    bars = series.gantt(result(*wide, cores=32), "cores").bars
    held = sum(bar.lanes * (bar.end_s - bar.start_s) for bar in bars)
    assert held == pytest.approx(sum(h.units for run in wide for h in run.holds))
    for lane in range(32):
        mine = sorted(
            (bar.start_s, bar.end_s) for bar in bars if bar.lane <= lane < bar.lane + bar.lanes
        )
        assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(mine))


def test_full_nodes_fill_every_lane_and_drop_nothing() -> None:
    chart = series.gantt(random_result(500, cores=8), "cores")
    assert chart.dropped == 0
    assert {lane for bar in chart.bars for lane in range(bar.lane, bar.lane + bar.lanes)} == set(
        range(8)
    )


def test_what_does_not_fit_among_the_lanes_is_counted() -> None:
    assert series.gantt(result(ran(0, 2, 4), ran(1, 2, 1)), "cores").dropped == 1


def test_of_several_nodes_the_busiest_is_shown() -> None:
    capacities = {("cores", "node0"): 4, ("cores", "node1"): 8}
    both = (ran(0, 1), ran(0, 5, 3, node="node1"))
    chart = series.gantt(SimulationResult("fcfs", both, capacities), "cores")
    assert (chart.node, chart.capacity) == ("node1", 8)


def test_where_cores_are_shared_an_action_is_one_bar_of_its_mean_share() -> None:
    action = ran(0.0, 4.0)
    changing = (Hold(0.0, 2.0, 0.5), Hold(2.0, 4.0, 3.5))
    pod = replace(action, holds=changing)
    (bar,) = series.gantt(result(pod, cores=1), "cores").bars
    assert (bar.lanes, bar.start_s, bar.end_s, bar.units) == (2, 0.0, 4.0, 2.0)


def test_an_svg_holds_the_title_and_is_the_same_each_time() -> None:
    results = [random_result(50, 4), random_result(60, 4)]
    svg = render(results, "some & trace", "on 4 cores", "svg")
    assert svg == render(results, "some & trace", "on 4 cores", "svg")
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
    assert b"some &amp; trace" in svg  # matplotlib notes the text of what it draws as shapes


def test_ten_thousand_actions_stay_a_small_file_with_pixels_for_bars() -> None:
    svg = render([random_result(10_000, 64)], "many", "", "svg")
    assert len(svg) < FILE_BYTES_MAX
    assert ElementTree.fromstring(svg).find(f".//{SVG}image") is not None


def test_a_page_holds_the_table_the_notes_and_the_picture_and_loads_nothing() -> None:
    noted = SimulationResult(
        "fcfs",
        (ran(0, 1),),
        {("cores", "node0"): 4},
        notes=("tell <this>",),
        lower_bounds_s={"unqueued": 0.5, "speed": 0.8},
    )
    text = render([noted, noted], "a <trace>", "1 action", "html").decode()
    assert "<h1>a &lt;trace&gt;</h1>" in text
    assert "tell &lt;this&gt;" in text
    assert "speed 800 ms (the best)" in text
    assert text.count("<svg") == 1
    assert all(f"<td>{cell}</td>" in text for row in overview([noted, noted]).rows for cell in row)
    assert "<script" not in text and 'src="http' not in text


def test_a_result_without_any_action_can_be_drawn_and_tabled() -> None:
    empty = result()
    assert render([empty], "nothing", "", "svg").startswith(b"<?xml")
    assert overview([empty]).rows[0][1] == "-"
    assert document([empty])["mean_act_s"] is None


@pytest.mark.parametrize("form", ["svg", "html"])
def test_the_command_writes_the_file_and_says_so(tmp_path: Path, form: str) -> None:
    trace, picture = tmp_path / "t.jsonl", tmp_path / f"picture.{form}"
    action = {"kind": "exec", "gap_s": 0, "duration_s": 1}
    score = {"kind": "score", "gap_s": 0, "duration_s": 1, "service": "rm"}
    call = {"kind": "call", "gap_s": 0, "duration_s": 1, "quota": "search"}
    trace.write_text(json.dumps({"trajectory": "a", "actions": [action, score, call]}))
    options = ["--nodes", "2", "--gpus", "1", "--quota", "search:concurrency=1", "--policy", "fcfs"]
    options += ["--policy", "pod:request=1,limit=1,pods=4", "--plot", str(picture)]
    done = CliRunner().invoke(app, ["simulate", str(trace), *options])
    assert done.exit_code == 0, done.stderr
    assert f"drawn: {picture}" in done.stderr
    assert b"<svg" in picture.read_bytes()
