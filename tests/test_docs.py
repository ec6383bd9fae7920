"""What the documents say is what the code does: tables, configuration, metrics, commands, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from tangram import errors
from tangram.cli import app
from tangram.config import load_config
from tangram.scheduler import order, policy
from tangram.scheduler.waiting import OVERTAKE_YOUNGER_MAX

from .bench.__main__ import BENCHMARKS, PAGE, SIMULATED

ROOT = Path(__file__).parents[1]
PLACES = [
    *BENCHMARKS,
    *(name for name in SIMULATED if f"<!-- {name}:start -->" in PAGE.read_text()),
]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/*/*.md")]
)


def error_table() -> str:
    """The one table between errors and gRPC status, as docs/trainers.md prints it."""
    lines = ["| exception | `reason` | gRPC status | `infra` |", "| --- | --- | --- | --- |"]
    for reason, (error, status) in errors.TABLE.items():
        infra = "yes" if error.infra else ""
        lines.append(f"| `{error.__name__}` | `{reason.value}` | {status} | {infra} |")
    return "\n".join(lines)


def between(text: str, name: str) -> str:
    return text.partition(f"<!-- {name}:start -->")[2].partition(f"<!-- {name}:end -->")[0].strip()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_the_table_of_errors_in_the_guide_is_the_one_in_the_code() -> None:
    assert between((ROOT / "docs/trainers.md").read_text(), "errors") == error_table()


def test_the_configuration_in_the_guide_is_accepted(tmp_path: Path) -> None:
    (configuration,) = blocks(ROOT / "docs/operators.md", "yaml")
    (tmp_path / "tangram.yaml").write_text(configuration)
    assert load_config(tmp_path / "tangram.yaml").quotas.keys() == {"search", "judge"}


@pytest.mark.parametrize(
    ("path", "name", "figure"),
    [
        ("README.md", "demo", "164 of 164 right"),
        *(("docs/benchmarks.md", name, "Made on 20") for name in PLACES),
        ("docs/operators.md", "simulate", "lower bounds on the mean ACT"),
        ("docs/operators.md", "plan", "smallest pool: 2x64"),
    ],
)
def test_the_tables_of_real_runs_are_there(path: str, name: str, figure: str) -> None:
    assert figure in between((ROOT / path).read_text(), name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_the_documents_compiles(path: Path) -> None:
    for source in blocks(path, "python"):
        compile(source, str(path), "exec", flags=0x2000)  # await at top level is allowed


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_the_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_in_the_documents_exist(path: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, options in re.findall(r"\btangram ([a-z]+)\b([^`\n]*)", _code(path.read_text())):
        assert name in commands, name
        known = {option for param in commands[name].params for option in param.opts}
        ours = options.partition(" -- ")[0].partition("tangram ")[0]
        for option in re.findall(r"(?<!\S)\[?(--[a-z]+|-[a-z])\b", ours):
            assert option in known, f"tangram {name} {option}"


def _code(text: str) -> str:
    fenced = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`(tangram [^`]+)`", text)]).replace(
        "tangram ready", ""
    )


def test_the_tables_of_policies_and_orders_in_the_guide_are_those_in_the_code() -> None:
    text = (ROOT / "docs/operators.md").read_text()
    section = text.partition("### How many units")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)
    served = [usage for usage in policy.USAGES if not usage.startswith("unlimited")]
    assert sorted(rows) == sorted([*served, *order.USAGES])
    assert f"{OVERTAKE_YOUNGER_MAX:,}" in section
