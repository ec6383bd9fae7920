"""Generated workloads against the statistics that they state, within sampling error."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from statistics import mean, median, stdev

import pytest

from tangram.scheduler.quantile import RecentQuantiles
from tangram.scheduler.simulator.cluster import GpuSpec
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.trace import (
    TraceAction,
    TraceTrajectory,
    read_lines,
    write_line,
)
from tangram.scheduler.simulator.workloads import (
    FAMILIES,
    NAMES,
    agentcgroup,
    arrivals,
    coding,
    deepsearch,
    generate,
    is_workload,
    mopd,
    workload,
)
from tangram.scheduler.simulator.workloads.draws import zipf_weights

COUNT = 1000
CODING = ("coding64", "coding236", "ai-coding")


@cache
def trace(name: str, count: int = COUNT) -> Sequence[TraceTrajectory]:
    """One trace for all tests that only look at it."""
    return generate(name, count, 1)


def actions_of(trajectories: Iterable[TraceTrajectory], *kinds: str) -> list[TraceAction]:
    return [a for t in trajectories for a in t.actions if not kinds or a.kind in kinds]


def quantiles(values: Iterable[float]) -> Callable[[float], float]:
    return RecentQuantiles(1_000_000, values).at


def is_mean(values: Sequence[float], expected: float) -> bool:
    """Within four standard errors."""
    return abs(mean(values) - expected) < 4 * stdev(values) / math.sqrt(len(values))


def is_lognormal(values: Sequence[float], expected_mean: float, sigma: float) -> bool:
    """Mean and sigma of the log within four standard errors."""
    logs = [math.log(value) for value in values]
    error = 4 * sigma / math.sqrt(len(logs))
    return (
        abs(mean(logs) - (math.log(expected_mean) - sigma * sigma / 2)) < error
        and abs(stdev(logs) - sigma) < error
    )


def run_s(action: TraceAction, units: int) -> float:
    predicted = action.profile.run_s(units)
    assert predicted is not None
    return predicted


# All families


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_makes_the_same_trace_and_another_seed_another(name: str) -> None:
    assert generate(name, 20, 7) == generate(name, 20, 7)
    assert generate(name, 20, 7) != generate(name, 20, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_batch_is_the_beginning_of_a_larger_one(name: str) -> None:
    assert generate(name, 9, 3) == generate(name, 30, 3)[:9]


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_survives_being_written_as_a_trace(name: str) -> None:
    trajectories = generate(name, 10, 1)
    lines = [write_line(trajectory) for trajectory in trajectories]
    assert len(read_lines(lines, name)) == 10
    assert [write_line(read) for read in read_lines(lines, name)] == lines


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_can_run_on_the_cluster_that_it_is_meant_for(name: str) -> None:
    meant = workload(name, 12, 1)
    result = simulate(meant.trajectories, meant.cluster, "fcfs")
    assert len(result.actions) == len(actions_of(meant.trajectories))
    assert {action.state for action in result.actions} == {"finished"}


@pytest.mark.parametrize("name", NAMES)
def test_all_services_and_quotas_that_are_asked_are_described(name: str) -> None:
    made = workload(name, 400, 2)
    actions = actions_of(made.trajectories)
    assert {a.service for a in actions if a.service} == set(made.services)
    assert {a.quota for a in actions if a.quota} == {quota.name for quota in made.cluster.quotas}
    for action in actions_of(made.trajectories, "score"):
        assert action.amounts == made.services[action.service].amounts
        assert set(made.services[action.service].restore_s) == set(action.amounts)


def test_the_default_counts_are_the_papers_batches() -> None:
    counts = {name: family.count for name, family in FAMILIES.items()}
    assert counts["ai-coding"] == counts["coding64"] == 1280
    assert counts["mopd"] == counts["deepsearch"] == 2048
    assert len(generate("mopd")) == 2048


# Names


def test_settings_change_what_is_made() -> None:
    (serial,) = {a.serial for a in actions_of(generate("coding64:serial=0.1", 5), "test")}
    assert serial == 0.1
    made = workload("open:load=0.9,cores=256", 10)
    assert made.name == "open:load=0.9,cores=256"
    assert made.cluster.cores == 256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coding65", r"no workload is named 'coding65': there are coding64, coding236, open,"),
        ("open:laod=1", r"open has no parameter 'laod': it knows load \(work on one core over"),
        ("open:load", "open: load is set once, as load=0.5"),
        ("open:load=1,load=2", "open: load is set once"),
        ("open:load=0", r"open: load \(work on one core over cores\) is a number from 0.001 to"),
        ("open:load=nan", "open: load .* not 'nan'"),
        ("open:load=high", "open: load .* not 'high'"),
        ("open:cores=1.5", "open: cores .* is a whole number from 1 to 4096, not '1.5'"),
        ("mopd:teachers=0", "mopd: teachers .* from 1 to 1000, not '0'"),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_right(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(name, 1)


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_an_impossible_count_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="coding64: count is from 1 to 1000000"):
        generate("coding64", count)


def test_names_are_told_from_files() -> None:
    assert is_workload("coding64") and is_workload("open:load=1")
    assert not is_workload("traces/coding64.jsonl")


# Coding


@pytest.mark.parametrize(("name", "reward_s"), [("coding64", 64.0), ("coding236", 236.0)])
def test_coding_has_the_stated_distributions(name: str, reward_s: float) -> None:
    trajectories = trace(name)
    commands = actions_of(trajectories, "shell")
    rewards = actions_of(trajectories, "test")
    assert is_lognormal([a.duration_s for a in commands], 0.25, 1.2)
    assert is_lognormal([a.duration_s for a in rewards], reward_s, 1.0)
    assert is_lognormal([a.gap_s for a in actions_of(trajectories)], 2.7, 0.8)
    numbers = [len(trajectory.actions) - 1 for trajectory in trajectories]
    assert is_mean(numbers, 30.0)
    assert min(numbers) >= 3
    assert stdev(math.log(number) for number in numbers) == pytest.approx(0.6, rel=0.05)


@pytest.mark.parametrize("name", CODING)
def test_a_coding_trajectory_ends_in_its_one_elastic_action(name: str) -> None:
    for trajectory in generate(name, 40, 1):
        *commands, reward = trajectory.actions
        assert (str(reward.amounts), reward.serial, reward.kind) == ("1-32", 0.03, "test")
        assert {str(command.amounts) for command in commands} == {"1"}
        assert (trajectory.start_s, trajectory.memory_mib) == (0.0, 1024.0)


@pytest.mark.parametrize(("name", "cores"), [("coding64", 1), ("coding236", 4), ("ai-coding", 1)])
def test_coding_is_active_for_about_47_percent_of_its_time(name: str, cores: int) -> None:
    actions = actions_of(trace(name))
    active_s = sum(run_s(a, cores if a.kind == "test" else 1) for a in actions)
    share = active_s / (active_s + sum(a.gap_s for a in actions))
    # 46 % by the means that are stated; a thousand rewards know theirs to 4 %.
    assert share == pytest.approx(0.47, abs=0.03)


def test_the_papers_execution_time_is_that_of_rewards_of_64_s_not_of_236_s() -> None:
    reward_s = 0.975 * 31 - 30 * coding.COMMAND_MEAN_S
    assert reward_s == pytest.approx(22.7, abs=0.1)
    # What the reward took in pods was 2.8 times that.
    assert 2.8 * reward_s == pytest.approx(64, rel=0.02)

    def cores_needed(one_core_s: float) -> int:
        shape = TraceAction("test", 0.0, one_core_s, coding.REWARD_CORES, coding.SERIAL)
        return min(units for units in range(1, 33) if run_s(shape, units) <= reward_s)

    length_s = 31 * coding.GAP_MEAN_S + 31 * 0.975
    assert cores_needed(64.0) * reward_s < length_s
    # With one core for each trajectory there is no room for this.
    assert cores_needed(236.0) * reward_s > 2 * length_s


def test_ai_coding_has_two_modes_of_commands_with_the_mean_of_coding64() -> None:
    trajectories = trace("ai-coding")
    files, shells = actions_of(trajectories, "file"), actions_of(trajectories, "shell")
    assert is_mean([a.duration_s for a in files + shells], 0.25)
    assert len(files) / len(files + shells) == pytest.approx(0.41, abs=0.01)
    at = quantiles(a.duration_s for a in files)
    assert at(0.5) == pytest.approx(0.022, rel=0.03)
    assert at(0.9) == pytest.approx(0.066, rel=0.05)
    # "As short as 1 ms."
    assert 0.0003 < at(0) < 0.003


def test_groups_are_of_one_step_and_one_size() -> None:
    trajectories = generate("ai-coding", 64, 1)
    assert set(Counter(t.group for t in trajectories).values()) == {coding.GROUP}
    assert {t.step for t in trajectories} == {0}


# Open arrivals


@pytest.mark.parametrize("load", [0.05, 0.5, 1.1])
@pytest.mark.parametrize("cores", [64, 256])
def test_open_has_the_load_that_it_states(load: float, cores: int) -> None:
    trajectories = generate(f"open:load={load},cores={cores}", 20_000, 1)
    work_s = sum(a.duration_s for a in actions_of(trajectories))
    assert work_s / cores / trajectories[-1].start_s == pytest.approx(load, rel=0.06)


def test_open_has_the_stated_distributions() -> None:
    trajectories = generate("open:sigma=1.6,serial=0.1", 20_000, 1)
    elastic, short = actions_of(trajectories, "test"), actions_of(trajectories, "shell")
    assert len(elastic) / 20_000 == pytest.approx(0.25, abs=0.013)
    assert is_lognormal([a.duration_s for a in elastic], 36.0, 1.6)
    assert {(str(a.amounts), a.serial) for a in elastic} == {("1-32", 0.1)}
    assert is_mean([a.duration_s for a in short], 1.0)
    assert stdev(a.duration_s for a in short) == pytest.approx(1.0, rel=0.05)
    starts = [t.start_s for t in trajectories]
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    # Of a Poisson process, the spread of the gaps is their mean.
    assert stdev(gaps) == pytest.approx(mean(gaps), rel=0.05)
    assert mean(gaps) == pytest.approx(arrivals.WORK_MEAN_S / (0.5 * 64), rel=0.04)


# Measured agents


def test_agents_have_the_measured_percentiles() -> None:
    actions = actions_of(trace("agentcgroup-like"))
    values = {kind: [a.duration_s for a in actions if a.kind == kind] for kind in agentcgroup.KINDS}
    values |= {"all": [a.duration_s for a in actions], "gap": [a.gap_s for a in actions]}
    for kind, percentiles in agentcgroup.MEASURED.items():
        at = quantiles(values[kind])
        for share, seconds in percentiles.items():
            # The median of all lies between the modes, where a small share is a large factor.
            factor = 1.6 if (kind, share) == ("all", 0.5) else 1.25
            assert seconds / factor < at(share) < seconds * factor, (kind, share)
    assert mean(values["all"]) == pytest.approx(2.9, rel=0.15)
    assert max(values["all"]) <= 362.0


def test_agents_spend_the_measured_share_of_their_time_in_actions() -> None:
    trajectories = trace("agentcgroup-like")
    actions = actions_of(trajectories)
    active_s, gaps_s = sum(a.duration_s for a in actions), sum(a.gap_s for a in actions)
    assert active_s / (active_s + gaps_s) == pytest.approx(0.40, abs=0.03)
    numbers = [len(trajectory.actions) for trajectory in trajectories]
    assert is_mean(numbers, 8092 / 161)
    assert median(numbers) == pytest.approx(38, abs=2)
    shares = Counter(action.kind for action in actions)
    for kind, share in agentcgroup.KINDS.items():
        assert shares[kind] / len(actions) == pytest.approx(share, abs=0.01)


def test_agents_need_the_measured_memory() -> None:
    trajectories = trace("agentcgroup-like")
    at = quantiles(a.memory_mib for a in actions_of(trajectories, "test"))
    assert at(0.5) == pytest.approx(234, rel=0.05)
    assert at(0.95) == pytest.approx(518e6 / 2**20, rel=0.1)
    assert at(1) <= 4e9 / 2**20
    (baseline,) = {a.memory_mib for a in actions_of(trajectories, "file", "shell", "other")}
    assert baseline == pytest.approx(185e6 / 2**20)


# Teachers and search


def peak_calls_per_s(trajectories: Sequence[TraceTrajectory]) -> float:
    """Most calls in any 20 s, if nothing had to wait."""
    window_s = 20
    starts = Counter(int(t.actions[0].gap_s) // window_s for t in trajectories)
    return max(starts.values()) / window_s


def test_mopd_has_one_call_a_trajectory_with_the_papers_execution_time() -> None:
    trajectories = generate("mopd", 20_000, 1)
    assert {len(t.actions) for t in trajectories} == {1}
    calls = actions_of(trajectories)
    assert is_mean([run_s(a, 4) for a in calls], 0.705)
    # Some calls on eight GPUs, some on four: the mean at the smaller batch.
    assert run_s(calls[0], 8) / run_s(calls[0], 4) < 0.621 / 0.705
    assert is_lognormal([a.duration_s for a in calls], mopd.CALL_MEAN_S, 0.8)
    assert is_lognormal([a.gap_s for a in calls], 200.0, 0.6)
    asked = Counter(a.service for a in calls)
    for index, share in enumerate(zipf_weights(9, 0.7)):
        assert asked[f"teacher{index}"] / 20_000 == pytest.approx(share, abs=0.012)
    assert asked["teacher0"] / 20_000 == pytest.approx(0.27, abs=0.012)


def test_mopd_fills_the_pool_between_the_batches_at_which_the_paper_saw_it_fill() -> None:
    # At four GPUs, with the published overhead, which is mostly restoring.
    gpu_seconds = 4 * (mopd.EXECUTION_MEAN_S + 0.201)
    at_2048 = peak_calls_per_s(generate("mopd", 2048, 1)) * gpu_seconds
    at_3072 = peak_calls_per_s(generate("mopd", 3072, 1)) * gpu_seconds
    assert at_2048 < mopd.POOL.total == 40 < at_3072
    # Alone on its four GPUs, the busiest teacher could not follow even at 2,048.
    busiest = [t for t in generate("mopd", 2048, 1) if t.actions[0].service == "teacher0"]
    assert peak_calls_per_s(busiest) * mopd.EXECUTION_MEAN_S > 1


@pytest.mark.parametrize(("batch", "low_s", "high_s"), [(2048, 0.05, 0.5), (3072, 8.0, 20.0)])
def test_mopd_queues_as_the_paper_saw_it_queue(batch: int, low_s: float, high_s: float) -> None:
    """Published: 0.081 and 15.05 s."""
    restore = 0.25 * 4 * mopd.ELASTICITY[4]
    made = workload("mopd", batch, 1)
    slowed = [
        replace(t, actions=tuple(replace(a, duration_s=a.duration_s + restore) for a in t.actions))
        for t in made.trajectories
    ]
    result = simulate(slowed, made.cluster, "arl-tangram")
    assert low_s < mean(action.queue_s for action in result.actions) < high_s


def test_the_dedicated_gpus_are_the_papers() -> None:
    def dedicated(name: str) -> int:
        return sum(service.dedicated_gpus for service in workload(name, 1).services.values())

    assert (dedicated("mopd"), dedicated("deepsearch"), dedicated("mopd-deepsearch")) == (
        36,
        40,
        40,
    )
    assert len(workload("mopd-deepsearch", 1).services) == 10
    judge = workload("deepsearch", 1).services["judge"]
    assert judge.dedicated_gpus / judge.replicas == 8
    assert {workload(name, 1).cluster.gpus for name in ("mopd", "deepsearch")} == {GpuSpec(5, 8)}
    assert workload("mopd", 1).services["teacher0"].restore_s[4] == pytest.approx(0.32)


def test_deepsearch_calls_apis_and_is_judged_at_its_end() -> None:
    trajectories = trace("deepsearch")
    calls = actions_of(trajectories, "call")
    assert is_mean([float(len(t.actions) - 1) for t in trajectories], 20.0)
    assert {tuple(a.kind for a in t.actions[-2:]) for t in trajectories} == {("call", "score")}
    for name, api in deepsearch.APIS.items():
        durations = [a.duration_s for a in calls if a.quota == name]
        assert len(durations) / len(calls) == pytest.approx(api.share, abs=0.01)
        assert is_lognormal(durations, api.mean_s, api.sigma)
    judgements = actions_of(trajectories, "score")
    assert is_lognormal([a.duration_s for a in judgements], 2.56, 0.6)
    assert mean(run_s(a, 8) for a in judgements) == pytest.approx(0.4, rel=0.05)


def test_the_quotas_of_deepsearch_just_suffice_while_all_trajectories_run() -> None:
    apis = deepsearch.APIS.values()
    cycle_s = deepsearch.GAP_MEAN_S + sum(api.share * api.mean_s for api in apis)
    for api in apis:
        in_flight = deepsearch.BATCH / cycle_s * api.share * api.mean_s
        assert in_flight / api.concurrency == pytest.approx(0.95, abs=0.03)


def test_the_judges_replicas_are_busy_for_three_quarters_of_the_time_at_the_peak() -> None:
    ends = Counter(
        int(sum(a.gap_s + a.duration_s for a in t.actions)) // 20 for t in generate("deepsearch")
    )
    busy = max(ends.values()) / 20 * deepsearch.JUDGE_MEAN_S / (8 * mopd.ELASTICITY[8])
    assert busy / deepsearch.JUDGE_REPLICAS == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("name", ["mopd", "deepsearch", "mopd-deepsearch"])
def test_services_have_at_least_the_gpus_that_are_stated(name: str) -> None:
    def feasible(settings: str) -> set[str]:
        actions = actions_of(generate(name + settings, 4), "score")
        return {str(action.amounts) for action in actions}

    assert feasible("") == {"4,8"}
    assert feasible(":gpus=1") == {"1,2,4,8"}
    assert feasible(":gpus=3") == {"4,8"}


def test_both_at_once_are_the_two_batches_as_they_are_alone() -> None:
    both = generate("mopd-deepsearch", 41, 5)
    assert [t for t in both if t.task == "mopd"] == generate("mopd", 21, 5)
    assert [t for t in both if t.task == "deepsearch"] == generate("deepsearch", 20, 5)
