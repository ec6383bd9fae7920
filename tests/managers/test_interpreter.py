"""The bundled interpreter: it stands alone, is built once, and is what it says it is."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tangram.managers.cpu.sandbox import interpreter
from tangram.managers.errors import Unsupported

REPORT = """
import _struct, select, sys
def late():
    import missing_everywhere
def main(arguments):
    print({"arguments": arguments, "prefix": sys.prefix, "path": sys.path, "flags": sys.flags.isolated})
"""


@pytest.fixture
def small_agent(tmp_path: Path) -> Path:
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "__init__.py").touch()
    (agent / "main.py").write_text(REPORT)
    return agent


def test_the_bundle_runs_its_agent_from_its_own_files_alone(
    tmp_path: Path, small_agent: Path
) -> None:
    built = interpreter.build(tmp_path / "state", small_agent)
    at = tmp_path / "elsewhere"
    built.root.rename(at)
    # Nothing of the environment reaches it, and it needs none.
    said = _run(built.command("--one", "2", at=str(at)), env={"PYTHONPATH": "/nowhere"})
    assert "'arguments': ['--one', '2']" in said
    assert f"'prefix': '{at}'" in said
    assert "'flags': 1" in said
    assert "/nowhere" not in said


def test_no_file_outside_the_bundle_is_mapped_or_imported(
    tmp_path: Path, small_agent: Path
) -> None:
    (small_agent / "main.py").write_text(REPORT + "    print(open('/proc/self/maps').read())")
    built = interpreter.build(tmp_path / "state", small_agent)
    said = _run(built.command(at=str(built.root)))
    mapped = {word for word in said.split() if word.startswith("/") and ".so" in word}
    assert mapped
    assert {path for path in mapped if not path.startswith(str(built.root))} == set()


def test_the_real_agent_starts_and_says_how_it_is_used(tmp_path: Path) -> None:
    built = interpreter.build(tmp_path)
    command = built.command(at=str(built.root))
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "--socket" in ended.stderr


def test_it_is_built_once_and_again_when_the_agent_changes(
    tmp_path: Path, small_agent: Path
) -> None:
    state = tmp_path / "state"
    first = interpreter.build(state, small_agent)
    inode = first.root.stat().st_ino
    assert interpreter.build(state, small_agent) == first
    assert first.root.stat().st_ino == inode
    (small_agent / "main.py").write_text(REPORT + "\n# changed")
    second = interpreter.build(state, small_agent)
    assert second.root != first.root
    assert sorted(path.name for path in state.iterdir()) == sorted(
        [first.root.name, second.root.name]
    )


def test_builders_at_the_same_time_agree_on_one_bundle(tmp_path: Path, small_agent: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        built = list(
            threads.map(lambda _: interpreter.build(tmp_path / "state", small_agent), range(3))
        )
    assert len(set(built)) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == [built[0].root.name]


def test_every_uid_may_read_it_whatever_the_umask(tmp_path: Path, small_agent: Path) -> None:
    umask = os.umask(0o077)
    try:
        built = interpreter.build(tmp_path / "state", small_agent)
    finally:
        os.umask(umask)
    for path in [built.root, *built.root.rglob("*")]:
        wanted = 0o755 if path.is_dir() else 0o444
        assert path.stat().st_mode & wanted == wanted, path


def test_a_python_that_cannot_be_moved_is_refused_and_leaves_nothing(
    tmp_path: Path, small_agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python3"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(Unsupported):
        interpreter.build(tmp_path / "state", small_agent)
    assert list((tmp_path / "state").iterdir()) == []


def test_only_what_the_agent_needs_is_in_it(tmp_path: Path) -> None:
    built = interpreter.build(tmp_path)
    names = {path.stem.partition(".")[0] for path in built.root.rglob("*.*")}
    assert {"os", "agent"} <= names
    assert names.isdisjoint({"asyncio", "subprocess", "json", "socket", "typing"})


def _run(command: list[str], env: dict[str, str] | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env or {}).stdout
