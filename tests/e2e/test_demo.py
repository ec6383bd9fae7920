"""`tangram demo` as a user runs it, on a few problems: verdicts, report, and nothing left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import psutil
import pytest

from tests.waiting import until_now

DEMO = (sys.executable, "-m", "tangram.cli", "demo", "--trajectories", "4")
DEADLINE_S = 50.0


def test_four_problems_are_judged_right_and_both_modes_are_measured() -> None:
    done = subprocess.run(
        [*DEMO, "--json"], check=False, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["trajectories"], document["actions"]) == (4, 28)
    for mode in (document["held"], document["granted"]):
        assert (mode["right"], mode["verdicts"], mode["wrong"]) == (4, 4, [])
        mean = mode["mean_s"]
        parts = mean["queue"] + mean["prepare"] + mean["run"] + mean["overhead"]
        assert parts == pytest.approx(mean["act"], abs=1e-4)
        assert min(mean.values()) >= 0
        assert mean["run"] > 0
        assert 0 < mode["idle_share"] < 1
    assert document["ratio"]["makespan"] == pytest.approx(
        document["held"]["makespan_s"] / document["granted"]["makespan_s"]
    )


def test_the_report_for_people_has_the_table_and_the_estimate() -> None:
    done = subprocess.run(DEMO, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert "about" in done.stderr
    assert "4 of 4 right" in done.stdout
    assert "held: " in done.stdout
    assert "granted: " in done.stdout


def test_ctrl_c_stops_the_server_and_every_sandbox() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        demo = psutil.Process(process.pid)
        until_now(lambda: len(demo.children(recursive=True)) >= 3)  # the server and sandboxes
        family = demo.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    _, alive = psutil.wait_procs(family, timeout=DEADLINE_S)
    assert alive == []
