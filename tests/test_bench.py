"""The benchmarks' own parts: the fast baseline is the scheduler's policy, tables add up."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tangram.scheduler.simulator import workloads
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.summary import summarise

from .bench import __main__ as bench
from .bench.fixed_degree import mean_act_s
from .bench.measure import Sheet
from .bench.simulations import FIXED_GRID, Figures, Job, Simulations, run, seeded, spread


@pytest.mark.parametrize("load", [0.3, 0.9, 1.1])
@pytest.mark.parametrize("degree", [1, 5, 32])
def test_the_fast_fixed_degree_is_the_schedulers(load: float, degree: int) -> None:
    made = workloads.workload(f"open:load={load},cores=40", 400, seed=3)
    summary = summarise(simulate(made.trajectories, made.cluster, f"fixed:{degree}"))
    assert mean_act_s(made.trajectories, 40, degree) == pytest.approx(
        summary["mean_act_s"], abs=1e-8
    )


def test_malleable_rewards_and_wrong_profiles_change_what_is_simulated() -> None:
    plain = Job("coding64", 24, "elastic", seed=1, nodes="1x16x256Gi")
    variants = [plain, Job(*_fields(plain), malleable=True), Job(*_fields(plain), noise=0.5)]
    acts_s = [run(job).act_s for job in variants]
    assert len(set(acts_s)) == 3
    assert acts_s[1] < acts_s[0]


def _fields(job: Job) -> tuple[str, int, str, int, str]:
    return job.workload, job.count, job.policy, job.seed, job.nodes


def test_each_ratio_is_formed_seed_by_seed() -> None:
    simulations = Simulations([0, 1])
    ours, baseline = Job("w", 1, "ours", 0), Job("w", 1, "baseline", 0)
    for seed, mine, theirs in ((0, 2.0, 4.0), (1, 1.0, 5.0)):
        simulations.found[seeded([ours], [seed])[0]] = Figures(mine, kinds_s={"test": mine})
        simulations.found[seeded([baseline], [seed])[0]] = Figures(theirs, kinds_s={"test": theirs})
    assert simulations.faster(ours, baseline) == (2.0, 5.0)
    assert spread(simulations.faster(ours, baseline, "test")) == "3.50 (2.00 - 5.00)"


def test_a_simulation_is_done_once_and_its_workers_agree_with_this_process() -> None:
    simulations = Simulations([0])
    job = Job("open:load=0.5,cores=8", 60, "elastic", 0)
    grid = Job(job.workload, job.count, FIXED_GRID, 0)
    simulations.run([job, grid, job])
    assert simulations.found == {job: run(job), grid: run(grid)}


def test_tables_are_written_between_their_own_marks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- one:start -->\nold\n<!-- one:end -->\nb\n<!-- two:start --><!-- two:end -->"
    )
    monkeypatch.setattr(bench, "PAGE", page)
    bench.write("one", [Sheet("T", "c", ("x", "y"), (("1", "2"),))], "a command", "here")
    text = page.read_text()
    assert text.startswith("a\n<!-- one:start -->\nMade on 20")
    assert "## T\n\nc\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n\n<!-- one:end -->\nb\n" in text
    assert "old" not in text
    bench.write("three", [], "a command", "here")
    assert page.read_text().startswith(text.rstrip() + "\n\n<!-- three:start -->\nMade on 20")


def test_seeds_are_a_range_and_nothing_else() -> None:
    parser = argparse.ArgumentParser()
    assert list(bench._seeds(parser, "100-102", 5)) == [100, 101, 102]
    assert list(bench._seeds(parser, None, 2)) == [0, 1]
    with pytest.raises(SystemExit):
        bench._seeds(parser, "4-1", 5)
