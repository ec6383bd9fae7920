"""The examples as their READMEs say: against `tangram serve` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.servers import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_S = 50
PARTS = ("queue", "prepare", "run", "overhead", "act")


@pytest.fixture
def server(shared_server: ServerProcess) -> str:
    return shared_server.address


def run(example: str, *arguments: str) -> str:
    """What it printed; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example / "main.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_S,
        env={name: value for name, value in os.environ.items() if name != "TANGRAM_SERVER"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_first_action_prints_its_result_and_timing(server: str) -> None:
    answer, verdict, *timing = run("01_first_action", "--server", server).splitlines()
    assert answer == "6 * 7 = 42, computed on 1 core(s)"
    assert verdict.startswith("exit code 0, finished, on ")
    milliseconds = {line.split()[0]: float(line.split()[1]) for line in timing}
    assert tuple(milliseconds) == PARTS
    act = milliseconds.pop("act")
    assert sum(milliseconds.values()) == pytest.approx(act, abs=0.5)


def test_the_agent_loop_mends_every_program(server: str) -> None:
    verdict, head, *table = run(
        "02_agent_loop", "--server", server, "--trajectories", "12", "--seed", "7"
    ).splitlines()
    assert verdict == "12 of 12 programs failed their test first and passed it when mended"
    assert head.split() == ["mean", "p95"]
    assert tuple(line.split()[0] for line in table) == PARTS


def test_the_test_rewards_part_the_attempts(server: str) -> None:
    groups, head, *table, cheat = run("03_test_rewards", "--server", server).splitlines()
    assert groups == "from easy to hard: one, in order | out of order | even"
    assert head.split() == ["all", "fraction", "strict", "soft"]
    values = {line[:10].strip(): [float(value) for value in line[10:].split()] for line in table}
    assert values == {
        "right": [1, 1, 1, 1],
        "odd only": [0, 0.75, 0.5, 0.5],
        "unsorted": [0, 0.5, 0.17, 0.17],
        "crashes": [0, 0, 0, 0],
        "cheats": [0, 0, 0, 0],
    }
    assert cheat == (
        "the cheat: its process ended with exit code 0 before the call returned; "
        "not run: in order, out of order, even"
    )


@pytest.mark.parametrize("example", ["01_first_action", "02_agent_loop", "03_test_rewards"])
def test_every_readme_names_its_two_commands(example: str) -> None:
    readme = (EXAMPLES / example / "README.md").read_text()
    assert "    tangram serve\n" in readme
    assert f"    python examples/{example}/main.py" in readme
