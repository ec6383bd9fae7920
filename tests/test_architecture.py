"""The shape of the code, checked: who imports whom, generated code, sizes of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("tangram", "scheduler", "managers", "tests", "examples")
LIMITS = ROOT / "tangram/limits.py"
LINES_MAX = 500
TEST_LINES_MAX = 800
"""Tests of one thing are read one at a time."""


def python_files(*folders: str) -> Iterator[Path]:
    """Ours, each once: links are not followed, and generated code is left out."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT)
            linked = any((ROOT / parent).is_symlink() for parent in inside.parents)
            if not linked and inside.parts[:2] != ("tangram", "v1"):
                yield path


def test_imports_keep_to_the_contracts() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_generated_code_is_what_proto_says(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    protos = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "proto", *outputs, *protos],
        check=True,
    )
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    assert fresh
    for name, text in fresh.items():
        assert (ROOT / name).read_text() == text, f"{name} is stale: make proto"
    committed = {path.relative_to(ROOT) for path in (ROOT / "tangram/v1").glob("*_pb2*.py*")}
    assert committed == set(fresh)


def constants(path: Path) -> set[str]:
    """Names in capitals that a module gives a value of its own."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if name.isupper()}


def test_what_both_ends_must_agree_on_is_written_once() -> None:
    shared = constants(LIMITS)
    assert "MESSAGE_BYTES_MAX" in shared
    again = {
        str(path.relative_to(ROOT)): names
        for path in python_files("tangram")
        if path != LIMITS and (names := constants(path) & shared)
    }
    assert again == {}


def test_no_file_is_too_long_to_read() -> None:
    too_long = {}
    for path in python_files(*OURS):
        inside, lines = str(path.relative_to(ROOT)), len(path.read_text().splitlines())
        limit = TEST_LINES_MAX if inside.startswith("tests/") else LINES_MAX
        if lines > limit:
            too_long[inside] = lines
    assert too_long == {}


ALLOWED = {"scheduler/grids.py": {"numpy"}}
"""The one table that is computed by numpy: nothing else loads it."""


@pytest.mark.parametrize("path", list(python_files("scheduler")), ids=lambda path: path.name)
def test_the_scheduler_imports_itself_and_the_standard_library(path: Path) -> None:
    foreign, inside = set(), path.relative_to(ROOT)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            foreign |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            foreign.add(node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.level >= len(inside.parts):
            foreign.add("." * node.level + (node.module or ""))
    roots = {name.partition(".")[0] for name in foreign}
    allowed = ALLOWED.get(str(inside), set())
    assert roots <= sys.stdlib_module_names | {"__future__"} | allowed
