"""`tangram simulate` and `tangram plan` as they are called: traces in, tables and JSON out."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from tangram.cli import app, options, scenario
from tangram.cli.progress import Ends, progress
from tangram.cli.scenario import parse_quota
from tangram.scheduler import order
from tangram.scheduler.simulator import policies, workloads
from tangram.scheduler.simulator.cluster import QuotaSpec

FIELDS = [
    "policy",
    "mean_act_s",
    "p50_act_s",
    "p95_act_s",
    "mean_queue_s",
    "traj_act_s",
    "makespan_s",
    "core_utilisation",
    "lower_bound_s",
]
FCFS = ("--policy", "fcfs")


def line(name: str, *actions: dict[str, Any], **fields: Any) -> str:
    return json.dumps({"trajectory": name, "actions": actions, **fields})


def second(**fields: Any) -> dict[str, Any]:
    return {"kind": "exec", "gap_s": 0, "duration_s": 1, "memory_mib": 1, **fields}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four commands of one second, each alone in its trajectory, all at once."""
    path = tmp_path / "four.jsonl"
    path.write_text("\n".join(line(f"t{number}", second()) for number in range(4)))
    return path


def tangram(*arguments: object, stdin: bytes | None = None, width: int = 120) -> Result:
    environment = {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin, env=environment)


def on_a_terminal(*arguments: object) -> Result:
    """With stderr taken for one."""
    environment = {"COLUMNS": "120", "NO_COLOR": "1", "FORCE_COLOR": "1"}
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def figures(*arguments: object, stdin: bytes | None = None) -> Any:
    done = tangram(*arguments, "--json", stdin=stdin)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refusal(*arguments: object, stdin: bytes | None = None) -> str:
    """What is said where the exit code is 2, without the frame around it."""
    done = tangram(*arguments, stdin=stdin)
    assert done.exit_code == 2, done.stdout
    assert done.stdout == ""
    return " ".join(done.stderr.replace("│", " ").split())


def test_four_commands_on_two_cores_take_two_rounds(trace: Path) -> None:
    found = figures("simulate", trace, "--nodes", "2", *FCFS)
    assert list(found)[: len(FIELDS)] == FIELDS
    assert found["mean_act_s"] == pytest.approx(1.5)
    assert found["mean_queue_s"] == pytest.approx(0.5)
    assert found["makespan_s"] == pytest.approx(2.0)
    assert found["core_utilisation"] == pytest.approx(1.0)


def test_the_same_trace_comes_from_a_file_gzipped_or_from_stdin(trace: Path) -> None:
    packed = trace.with_suffix(".gz")
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    wanted = figures("simulate", trace, "--nodes", "2", *FCFS)
    assert figures("simulate", packed, "--nodes", "2", *FCFS) == wanted
    for data in (trace.read_bytes(), packed.read_bytes()):
        assert figures("simulate", "-", "--nodes", "2", *FCFS, stdin=data) == wanted


def test_several_policies_stand_side_by_side_and_are_compared_with_the_first(trace: Path) -> None:
    pod = "pod:request=1,limit=1,pods=1"
    policies = (*FCFS, "--policy", pod)
    found = figures("simulate", trace, "--nodes", "2", *policies)
    assert [result["policy"] for result in found["results"]] == ["fcfs", pod]
    text = tangram("simulate", trace, "--nodes", "2", *policies).stdout
    assert "vs" in text.splitlines()[1]
    ratio = found["results"][0]["mean_act_s"] / found["results"][1]["mean_act_s"]
    assert f"{ratio:.2f} x" in text
    assert "four.jsonl: 4 trajectories, 4 actions on 1 node of 2 cores" in text


@pytest.mark.parametrize(
    ("width", "shed"), [(100, {"p50"}), (80, {"p50", "over", "group", "makespan"})]
)
def test_a_narrow_table_sheds_figures_and_keeps_whose_they_are(width: int, shed: set[str]) -> None:
    pod = "pod:request=0.5,limit=4,pods=110"
    options = ("--trajectories", "8", "--gpus", "1x8", *ORDERS, "--policy", "dedicated")
    both = (*options, "--policy", "elastic", "--policy", pod)
    lines = tangram("simulate", "mopd-deepsearch", *both, width=width).stdout.splitlines()
    head = {word for text in lines[1:3] for word in text.split()}
    assert head.isdisjoint(shed)
    assert {"policy", "order", "ACT", "p95", "queue", "GPUs", "first"} <= head
    assert max(map(len, lines)) <= width
    rows = [text for text in lines[4:] if text.startswith(("dedicated ", "elastic ", "pod:"))]
    assert [row[:9] for row in rows] == ["dedicated"] * 2 + ["elastic  "] * 2 + [pod[:9]]
    note = next(text for text in lines if text.startswith(f"not shown in {width} columns: p50"))
    assert ("per group" in note) == ("group" in shed)


def test_figures_that_nothing_has_take_no_column() -> None:
    text = tangram("simulate", "mopd", "--trajectories", "4", *FCFS).stdout
    assert "cores" not in text and "queue" in text


def test_what_was_prepared_has_a_column_where_anything_was(tmp_path: Path) -> None:
    path = tmp_path / "ready.jsonl"
    path.write_text(line("a", second(sandbox_prepare_s=0.5, lease_prepare_s=0.25)))
    lines = tangram("simulate", path, "--nodes", "1", *FCFS).stdout.splitlines()
    assert "prepare" in lines[2] and "750 ms" in lines[4]
    path.write_text(line("a", second()))
    assert "prepare" not in tangram("simulate", path, "--nodes", "1", *FCFS).stdout


def test_a_table_that_goes_into_a_file_is_wide_enough_for_its_policies(trace: Path) -> None:
    pod = "pod:request=0.5,limit=4,pods=110"
    command = [sys.executable, "-m", "tangram.cli", "simulate", str(trace), "--nodes", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [*command, *FCFS, "--policy", pod],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert pod in done.stdout


def test_a_trace_is_multiplied_and_made_elastic(trace: Path) -> None:
    changed = ("--replicate", "6", "--elastic", "exec=1-4:0.5", "--seed", "3")
    found = figures("simulate", trace, "--nodes", "64", *changed, "--policy", "fixed:4")
    assert found["actions"] == 6
    assert found["mean_act_s"] == pytest.approx((1 + 0.5 * 3) / 4)


def test_a_quota_limits_the_calls_of_a_trace(tmp_path: Path) -> None:
    call = {"kind": "call", "gap_s": 0, "duration_s": 1, "quota": "search"}
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(line(f"t{number}", call) for number in range(4)))
    free = figures("simulate", path, "--nodes", "1", *FCFS)
    limited = figures(
        "simulate", path, "--nodes", "1", *FCFS, "--quota", "search:rate=2,period=10s"
    )
    assert free["mean_queue_s"] == 0
    assert limited["mean_queue_s"] == pytest.approx((10 + 10) / 4, rel=0.01)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("a:concurrency=8", QuotaSpec("a", 8)),
        ("a:rate=100,period=1m", QuotaSpec("a", None, ((100, 60.0),))),
        ("a:concurrency=8,rate=100,period=1", QuotaSpec("a", 8, ((100, 1.0),))),
    ],
)
def test_a_quota_has_a_concurrency_or_a_rate_or_both(text: str, quota: QuotaSpec) -> None:
    assert parse_quota(text) == quota


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a:",
        ":concurrency=1",
        "a:concurrency=0",
        "a:concurrency=1,concurrency=2",
        "a:rate=1",
        "a:period=1",
        "a:rate=1,period=0",
        "a:rate=1,period=soon",
        "a:speed=1",
        "a:concurrency=-1",
    ],
)
def test_another_quota_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write NAME:concurrency=8|period"):
        parse_quota(text)


def test_a_malformed_trace_names_file_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line("a", second()) + "\n" + line("b", second(duration_s=-1)))
    said = refusal("simulate", path, "--nodes", "1", *FCFS)
    assert "bad.jsonl, line 2: actions[0].duration_s: a number from 0" in said
    said = refusal("simulate", "-", "--nodes", "1", *FCFS, stdin=b"{}\n")
    assert "stdin, line 1: actions:" in said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no trajectories"),
        (b"\xff\xfe{}", "not text in UTF-8"),
        (b"\x1f\x8bnothing", "broken gzip"),
        (gzip.compress(b"{}", mtime=0)[:-6], "broken gzip"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(data)
    assert words in refusal("simulate", path, "--nodes", "1", *FCFS)


def test_a_name_that_is_neither_file_nor_workload_lists_the_workloads() -> None:
    said = refusal("simulate", "codign64", "--nodes", "1", *FCFS)
    assert "'codign64' is neither a file nor a workload; workloads are" in said
    assert "coding64" in said


def test_a_workload_brings_its_pool_which_options_override() -> None:
    own = figures("simulate", "open:load=0.5", "--trajectories", "40", "--seed", "1", *FCFS)
    small = figures(
        "simulate", "open:load=0.5", "--trajectories", "40", "--seed", "1", "--nodes", "1", *FCFS
    )
    assert own["trajectories"] == small["trajectories"] == 40
    assert own["mean_queue_s"] == 0 < small["mean_queue_s"]


def test_a_setting_that_a_workload_does_not_know_is_refused() -> None:
    assert "no parameter 'speed'" in refusal("simulate", "open:speed=2", *FCFS)


def test_a_trace_needs_nodes(trace: Path) -> None:
    assert "write NODESxCORES, such as 5x256" in refusal("simulate", trace, *FCFS)


def test_the_default_policy_is_elastic(trace: Path) -> None:
    assert figures("simulate", trace, "--nodes", "2")["policy"] == "elastic"


def test_a_folder_is_not_read(tmp_path: Path) -> None:
    assert "cannot be read" in refusal("simulate", tmp_path, "--nodes", "1", *FCFS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--nodes", "many"), "--nodes"),
        (("--nodes", "1", "--gpus", "x"), "--gpus"),
        (("--nodes", "1", "--quota", "search"), "--quota"),
        (("--nodes", "1", "--quota", "a:concurrency=1", "--quota", "a:concurrency=2"), "twice"),
        (("--nodes", "1", "--elastic", "exec"), "--elastic"),
        (("--nodes", "1", "--elastic", "test=1-2:0.1"), "of kind or signature 'test'"),
        (("--nodes", "1", "--trajectories", "3"), "--replicate multiplies a trace"),
        (("--nodes", "1", "--policy", "best"), "best"),
        (("--nodes", "1", "--plot", "picture.png"), "neither .svg nor .html"),
        (("--nodes", "1", "--plot", "nowhere/picture.svg"), "no folder 'nowhere'"),
    ],
)
def test_a_wrong_option_is_named(trace: Path, options: tuple[str, ...], words: str) -> None:
    assert words in refusal("simulate", trace, *options)


def test_an_action_that_no_node_can_run_is_counted_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text(line("a", second(cores=[8])) + "\n" + line("b", second()))
    text = tangram("simulate", path, "--nodes", "4", *FCFS).stdout
    assert "fcfs: 1 action failed" in text
    assert "8 cores" in text


def test_where_no_action_of_a_policy_has_a_result_the_exit_code_is_1(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text(line("a", second(cores=[8])))
    none = tangram("simulate", path, "--nodes", "4", *FCFS)
    assert none.exit_code == 1
    assert "fcfs: 1 action failed" in none.stdout
    assert tangram("simulate", path, "--nodes", "4", *FCFS, "--json").exit_code == 1
    path.write_text(line("a", second(cores=[8])) + "\n" + line("b", second()))
    assert tangram("simulate", path, "--nodes", "4", *FCFS).exit_code == 0


def test_the_last_policy_is_checked_before_the_first_is_simulated(trace: Path) -> None:
    said = refusal("simulate", trace, "--nodes", "2", *FCFS, "--policy", "best")
    assert "pod:request=CORES,limit=CORES, dedicated" in said
    said = refusal("simulate", trace, "--nodes", "2", *FCFS, "--policy", "dedicated")
    assert "--policy: policy 'dedicated' gives each service GPUs of its own" in said
    said = refusal("simulate", trace, "--nodes", "2", *FCFS, "--policy", "pod:request=1")
    assert "--policy: pods are described as" in said


def test_help_lists_what_the_simulator_knows() -> None:
    assert ", ".join(policies.POLICIES) == options.POLICIES
    assert ", ".join(workloads.NAMES) == options.WORKLOADS
    assert ", ".join(order.USAGES) == options.ORDERS
    for command in ("simulate", "plan"):
        text = " ".join(tangram(command, "--help").stdout.replace("│", " ").split())
        assert all(name in text for name in (*policies.POLICIES, *workloads.NAMES, *order.USAGES))


def test_ctrl_c_ends_with_130_and_no_traceback(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenario, "simulate", interrupted)
    done = tangram("simulate", trace, "--nodes", "1", *FCFS)
    assert done.exit_code == 130
    assert "Traceback" not in done.stderr


def test_without_matplotlib_a_plot_says_what_to_install_before_anything_runs(trace: Path) -> None:
    arguments = ["tangram", "simulate", str(trace), "--nodes", "1", *FCFS, "--plot", "a.svg"]
    program = (
        f"import sys; sys.modules['matplotlib'] = None; sys.argv = {arguments!r};"
        "from tangram.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "tangram: `tangram simulate --plot` needs matplotlib: pip install 'tangram-rl[plot]'\n"
    )


def test_the_smallest_pool_is_found_with_its_neighbours_and_what_binds(trace: Path) -> None:
    """A queue of one is the most that meets the target: two nodes of one core."""
    found = figures("plan", trace, "--slo", "max=2s", "--nodes", "1x1x1Gi", *FCFS)
    assert found["met"] and found["steady"]
    assert found["pool"]["nodes"] == 2
    assert found["result"]["makespan_s"] == pytest.approx(2.0)
    tried = {trial["nodes"]: trial["meets"] for trial in found["tried"]}
    assert tried[1] is False and tried[2] is True and tried[3] is True
    assert found["least_s"] == {"max": 1.0}
    assert found["binding"]["pool"] == "1x1"
    assert found["binding"]["waiting"] == {"cores": 1.0}
    reliefs = {relief["with"]: relief["meets"] for relief in found["binding"]["reliefs"]}
    assert reliefs == {"twice the cores per node": True, "memory without a limit": False}


def test_a_plan_as_text_says_the_pool_the_target_and_the_figures(trace: Path) -> None:
    text = tangram("plan", trace, "--slo", "max=2s", "--nodes", "1x1x1Gi", *FCFS).stdout
    assert "smallest pool: 2x1 (2 x 1 core = 2 cores)" in text
    assert "target: max <= 2.00 s" in text
    assert "1x1 with twice the cores per node would meet it: max 2.00 s" in text


def test_memory_binds_where_trajectories_wait_for_it(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text("\n".join(line(f"t{n}", second(memory_mib=1024)) for n in range(4)))
    found = figures("plan", path, "--slo", "max=2s", "--nodes", "1x8x1Gi", *FCFS)
    reliefs = {relief["with"]: relief["meets"] for relief in found["binding"]["reliefs"]}
    assert found["pool"]["nodes"] == 2
    assert reliefs == {"twice the cores per node": False, "memory without a limit": True}


def test_cores_of_a_node_are_searched_where_that_is_asked_for(trace: Path) -> None:
    options = ("--slo", "mean=1s", "--nodes", "16", "--search", "cores")
    found = figures("plan", trace, *options, *FCFS)
    assert (found["pool"]["nodes"], found["pool"]["cores_per_node"]) == (1, 4)


def test_where_actions_alone_take_longer_no_pool_is_simulated(trace: Path) -> None:
    done = tangram("plan", trace, "--slo", "p95=500ms", "--nodes", "4", *FCFS)
    assert done.exit_code == 1
    assert "no pool meets it" in done.stdout
    assert "p95 would be 1.00 s: the actions themselves take longer" in done.stdout
    found = json.loads(tangram("plan", trace, "--slo", "p95=500ms", *FCFS, "--json").stdout)
    assert (found["met"], found["pool"], found["tried"]) == (False, None, [])


def test_where_the_largest_pool_misses_the_plan_says_what_binds_there(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(line(f"t{n}", second()) for n in range(8)))
    options = ("--slo", "max=1s", "--nodes", "1x1x1Gi", "--max-nodes", "4", *FCFS)
    done = tangram("plan", path, *options)
    assert done.exit_code == 1
    assert "no pool meets it" in done.stdout
    assert "4x1 with twice the cores per node would meet it: max 1.00 s" in done.stdout


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ({"cores": [6]}, "an action needs at least 6 cores, and a node has 4 cores: see --nodes"),
        ({"cores": [1], "memory_mib": 3072}, "a trajectory reserves 3.0 GiB of memory"),
        (
            {"kind": "score", "gpus": [4], "service": "rm"},
            "an action needs at least 4 GPUs, and a node has 2 GPUs: see --gpus",
        ),
    ],
)
def test_what_fits_on_no_node_is_blamed_on_the_resource_that_it_lacks(
    tmp_path: Path, action: dict[str, Any], words: str
) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text(line("a", second()) + "\n" + line("b", second(**action)))
    pool = ("--nodes", "1x4x2Gi", "--gpus", "1x2")
    done = tangram("plan", path, "--slo", "max=9s", "--search", "nodes", *pool, *FCFS)
    assert done.exit_code == 1
    assert words in done.stdout
    assert done.stdout.count("see --") == 1


def test_nodes_are_not_searched_where_all_trajectories_would_share_the_first(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bare.jsonl"
    path.write_text("\n".join(line(f"t{n}", second(memory_mib=0)) for n in range(4)))
    target = ("plan", path, "--slo", "max=1s", "--nodes", "8")
    said = refusal(*target, *FCFS)
    assert "no action tells its memory_mib" in said
    assert "with --search cores" in said
    assert figures(*target, *FCFS, "--search", "cores")["pool"]["cores_per_node"] == 4
    pods = ("--nodes", "1", "--policy", "pod:request=1,limit=1")
    assert figures("plan", path, "--slo", "max=1s", *pods)["pool"]["nodes"] == 4


def test_what_there_is_one_of_is_counted_as_one(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(line("a", second()))
    text = tangram("simulate", path, "--nodes", "1", *FCFS).stdout
    assert "1 trajectory, 1 action on 1 node of 1 core" in text
    text = tangram("plan", path, "--slo", "max=1s", "--nodes", "1", *FCFS).stdout
    assert "smallest pool: 1x1 (1 core)" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--slo", "p95"), "STATISTIC=TIME"),
        (("--slo", "p95=5s", "--slo", "mean=1s", "--slo", "p95=1s"), "p95 is given twice"),
        (("--slo", "p95=1", "--policy", "unlimited"), "does not hold itself to the pool"),
        (("--slo", "p95=1", "--policy", "unlimited:4"), "does not hold itself to the pool"),
        (("--slo", "median=1s"), "write mean, p1 to p99"),
        (("--slo", "p95=soon"), "not a period"),
        (("--slo", "p95=0"), "positive"),
        (("--slo", "p95=1", "--search", "gpus"), "--gpus"),
        (("--slo", "p95=1", "--search", "nodes", "--search", "nodes"), "once at most"),
        (("--slo", "p95=1", "--nodes", "x"), "--nodes"),
    ],
)
def test_a_wrong_option_of_plan_is_named(trace: Path, options: tuple[str, ...], words: str) -> None:
    assert words in refusal("plan", trace, *FCFS, *options)


def test_scores_need_gpus_to_plan_for(tmp_path: Path) -> None:
    score = {"kind": "score", "gap_s": 0, "duration_s": 2, "service": "rm", "gpus": [1, 2]}
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(line(f"t{n}", score) for n in range(8)))
    for command in (("plan", path, "--slo", "max=4s"), ("simulate", path, "--nodes", "1")):
        assert "say what there is, such as --gpus 1x8" in refusal(*command, *FCFS)
    found = figures("plan", path, "--slo", "max=4s", "--gpus", "2", *FCFS)
    assert (found["pool"]["nodes"], found["pool"]["gpu_nodes"]) == (1, 2)
    text = tangram("simulate", path, "--nodes", "1", "--gpus", "2x2", *FCFS).stdout
    assert "on 1 node of 1 core, 4 GPUs" in text
    assert "100%" in text


def test_a_workload_of_gpus_alone_needs_no_node() -> None:
    options = ("--trajectories", "4", *FCFS)
    assert figures("simulate", "mopd", *options)["core_utilisation"] is None
    assert "cores" not in tangram("simulate", "mopd", *options).stdout.splitlines()[0]
    planned = figures("plan", "mopd", "--slo", "queue=5s", *options)
    assert planned["pool"]["gpu_nodes"] >= 1


def scores(tmp_path: Path, **more: object) -> Path:
    path = tmp_path / "scores.jsonl"
    action = {"kind": "score", "duration_s": 4.0, "service": "rm"} | more
    path.write_text("".join(line(f"t{i}", action) + "\n" for i in range(3)))
    return path


def test_gpus_are_granted_in_chunks_of_a_node(tmp_path: Path) -> None:
    """Three at a time keep four of four, so they run one after the other."""
    path = scores(tmp_path, gpus=[3], elasticity={"3": 1.0})
    found = figures("simulate", path, "--nodes", "1", "--gpus", "1x4", *FCFS)
    assert found["makespan_s"] == pytest.approx(4.0)
    assert any("3 GPUs keep the next power of two" in note for note in found["notes"])


def test_nodes_of_gpus_are_a_power_of_two(tmp_path: Path) -> None:
    path = scores(tmp_path, gpus=[1])
    said = refusal("simulate", path, "--nodes", "1", "--gpus", "2x6", *FCFS)
    assert "--gpus: GPUs of a node are a power of two, such as 4 or 8, not 6" in said


def test_dedicated_gpus_stand_beside_a_pool(tmp_path: Path) -> None:
    both = ("--policy", "dedicated", "--policy", "elastic")
    text = tangram("simulate", "mopd-deepsearch", "--trajectories", "20", *both).stdout
    assert "dedicated" in text
    path = scores(tmp_path)
    said = refusal("simulate", path, "--nodes", "1", "--gpus", "1", "--policy", "dedicated")
    assert "--policy: policy 'dedicated' gives each service GPUs of its own, and nothing" in said


def test_a_client_without_numpy_simulates_too() -> None:
    arguments = ["tangram", "simulate", "coding64", "--trajectories", "2", "--nodes", "8", "--json"]
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        f"sys.argv = {arguments}\n"
        "from tangram.cli import main; main()"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["policy"] == "elastic"


# Who is served first


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Four trajectories of task `a` and tenant `lab`, then two of `b` in a group, all at once."""
    path = tmp_path / "tasks.jsonl"
    lines = [line(f"a{number}", second(), task="a", tenant="lab") for number in range(4)]
    lines += [line(f"b{number}", second(), task="b", group="g") for number in range(2)]
    path.write_text("\n".join(lines))
    return path


ORDERS = ("--order", "first-come", "--order", "fair-share")


def test_orders_stand_side_by_side_for_every_policy_that_knows_any(tasks: Path) -> None:
    pod = "pod:request=1,limit=1,pods=2"
    policies = (*FCFS, "--policy", pod, "--policy", "elastic")
    found = figures("simulate", tasks, "--nodes", "1", *policies, *ORDERS)["results"]
    assert [(result["policy"], result["order"]) for result in found] == [
        ("fcfs", "first-come"),
        ("fcfs", "fair-share"),
        (pod, None),
        ("elastic", "first-come"),
        ("elastic", "fair-share"),
    ]
    first, fair = found[:2]
    assert first["by_task"]["b"]["mean_act_s"] == pytest.approx(5.5)
    assert fair["by_task"]["b"]["mean_act_s"] == pytest.approx(3.0)
    assert (first["groups"]["mean_s"], fair["groups"]["mean_s"]) == (6.0, 4.0)
    assert fair["by_tenant"]["lab"]["actions"] == 4


def test_the_table_names_the_order_and_has_figures_per_task_and_group(tasks: Path) -> None:
    text = tangram("simulate", tasks, "--nodes", "1", *FCFS, *ORDERS).stdout
    rows = [row.split() for row in text.splitlines()]
    assert ["policy", "order"] in [row[:2] for row in rows]
    assert ["fcfs", "first-come"] in [row[:2] for row in rows]
    assert ["fcfs", "fair-share"] in [row[:2] for row in rows]
    assert ["b", "fcfs,", "fair-share", "2", "3.00", "s"] in [row[:6] for row in rows]
    assert ["lab", "fcfs", "4", "2.50", "s"] in [row[:5] for row in rows]
    assert "group" in text


def test_of_one_task_in_the_usual_order_the_table_is_as_short_as_ever(trace: Path) -> None:
    text = tangram("simulate", trace, "--nodes", "1", *FCFS).stdout
    assert "order" not in text
    assert "task" not in text
    assert "group" not in text


def test_many_tasks_are_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(line(f"t{n}", second(), task=f"task{n:02}") for n in range(11)))
    text = tangram("simulate", path, "--nodes", "1", *FCFS).stdout
    assert "task07" in text and "task08" not in text
    assert "3 more tasks are not shown: see --json" in text


def test_weights_and_limits_reach_the_scheduler(tasks: Path) -> None:
    options = ("--nodes", "1", *FCFS, "--order", "fair-share")
    plain = figures("simulate", tasks, *options)
    heavy = figures("simulate", tasks, *options, "--weight", "lab=2")
    assert heavy["by_task"]["a"]["mean_act_s"] < plain["by_task"]["a"]["mean_act_s"]
    wide = ("--nodes", "8", *FCFS)
    limited = figures("simulate", tasks, *wide, "--limit", "a:cores=1")
    assert limited["by_task"]["a"]["mean_act_s"] == pytest.approx(2.5)
    assert limited["by_task"]["b"]["mean_act_s"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--order", "lottery"), "known are first-come, priority[:ageing=60], fair-share, group"),
        (("--weight", "a=2"), "only the order fair-share looks at weights"),
        (("--order", "fair-share", "--weight", "a"), "such as coding=2"),
        (("--order", "fair-share", "--weight", "c=1"), "there are: a, b, lab"),
        (("--limit", "a:core=1"), "cores, gpus or quota:NAME"),
        (("--limit", "c:cores=1"), "there are: *, a, b"),
        (("--limit", "a:quota:search=1"), "no quota is called 'search'"),
    ],
)
@pytest.mark.parametrize(
    "command", [("simulate",), ("plan", "--slo", "p95=1m")], ids=lambda c: c[0]
)
def test_a_wrong_order_weight_or_limit_is_named(
    tasks: Path, command: tuple[str, ...], options: tuple[str, ...], words: str
) -> None:
    assert words in refusal(command[0], tasks, *command[1:], "--nodes", "1", *FCFS, *options)


def test_a_plan_is_for_an_order_and_its_limits(tasks: Path) -> None:
    # One at a time of `a`: its last ends after 4 s whatever the pool.
    options = ("--slo", "max=3s", "--nodes", "1x8", "--max-nodes", "2", *FCFS)
    assert figures("plan", tasks, *options)["order"] == "first-come"
    limited = tangram("plan", tasks, *options, "--limit", "a:cores=1")
    assert limited.exit_code == 1
    said = tangram("plan", tasks, *options, "--order", "group").stdout
    assert "policy fcfs, order group" in said


# How far it is


def test_the_bar_counts_the_actions_of_all_policies_that_have_ended(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(line(f"t{n}", *[second()] * 10) for n in range(20)))
    policies = (*FCFS, "--policy", "backfill:1")
    said = on_a_terminal("simulate", path, "--nodes", "4", *policies).stderr
    assert "of 400 actions" in said
    assert "simulating backfill:1" in said
    said = on_a_terminal("plan", path, "--slo", "max=1s", "--nodes", "4", *FCFS).stderr
    assert "of 200 actions" in said


def test_json_comes_without_a_bar(trace: Path) -> None:
    for command in (("simulate",), ("plan", "--slo", "max=2s")):
        arguments = (command[0], trace, *command[1:], "--nodes", "2", *FCFS)
        assert "actions" in on_a_terminal(*arguments).stderr
        assert on_a_terminal(*arguments, "--json").stderr == ""


def test_nothing_is_counted_where_nobody_sees_it() -> None:
    with progress("simulating", 10, 1, quiet=True) as ends:
        assert ends.on_end is None


def test_ends_add_up_over_simulations_or_begin_anew() -> None:
    for runs, begun, over in ((2, 100, 200), (None, 0, 100)):
        bar = Progress(console=Console(file=io.StringIO()), auto_refresh=False)
        ends = Ends("simulating", 100, runs, bar)
        assert ends.on_end is not None
        for what in ("one", "two"):
            ends.begin(what)
            first = bar.tasks[0].completed
            for _ in range(100):
                ends.on_end()
        assert (bar.tasks[0].description, first) == ("simulating two", begun)
        assert bar.tasks[0].completed == bar.tasks[0].total == over
