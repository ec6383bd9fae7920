"""A relocatable Python for the agent, made once from the server's own.

A container's image may have no Python, another one, or not even a libc. So the agent always runs on
a bundle that is mounted read-only: the server's Python binary with its shared libraries, its dynamic
loader, and only those modules that the agent imports. All sandboxes share one copy on disk and in
the page cache. Which modules and libraries these are is asked of the running Python, not listed.

Nothing here knows of a container engine; everything blocks, so call `build` in a thread.
"""

from __future__ import annotations

import ast
import hashlib
import json
import marshal
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from types import CodeType

from ...errors import Unsupported

AGENT = Path(__file__).with_name("agent")
"""The package that runs in the sandbox."""
MOUNT_POINT = "/.tangram"
"""Where the bundle lies in a sandbox. A name that no image has, and that `ls` does not show."""

RUN_FOLDER = "run"
"""An empty folder in the bundle: the mount point for a sandbox's socket folder."""

_FORMAT = 2
"""Part of the bundle's name: count it up when the way of building changes."""
_TOOL_TIMEOUT_S = 30.0
"""For `ldd` and for short Python processes; they take milliseconds."""
_STARTUP_MODULES = ("encodings.ascii", "encodings.latin_1", "encodings.utf_8", "os")
"""What Python itself may want before and between the agent's imports; `os` marks its prefix."""
CODE = "agent.code"
"""All modules of the agent in one file of the bundle: (name, code object) pairs, marshalled, in the
order in which they need each other. Loading it takes 2 ms less than importing them one by one."""
_LOAD = """
import marshal, sys
with open(sys.argv.pop(1), "rb") as file:
    modules = marshal.loads(file.read())
for name, code in modules:
    module = sys.modules[name] = type(sys)(name)
    module.__package__ = "agent"
    exec(code, module.__dict__)
"""
_MAIN = """
from agent.main import main
main(sys.argv[1:])
"""
_LOCATE = """
import sys
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ImportError:
        pass
print({name: module.__file__ for name, module in sys.modules.items()
       if name != "__main__" and not name.startswith("_frozen_")
       and getattr(module, "__file__", None)})
"""
"""Prints the files of all modules that come with importing the given ones. Optional imports may
be missing here, as they may at run time."""


_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A finished bundle. Its files are immutable; a change makes another folder."""

    root: Path
    loader: str
    """File name of the dynamic loader below `lib/`."""

    def python(self, at: str = MOUNT_POINT) -> list[str]:
        """The argv of the bundled Python, for a bundle that lies at `at`.

        Python finds its modules beside its binary, so no environment variable is needed (-I would
        ignore it) and none can leak from the agent to the commands it starts.
        """
        libraries = f"{at}/lib"
        return [f"{libraries}/{self.loader}", "--library-path", libraries, f"{at}/bin/python3"]

    def command(self, *arguments: str, at: str = MOUNT_POINT) -> list[str]:
        """The argv that starts the agent with these arguments."""
        return self.script(_MAIN, *arguments, at=at)

    def script(self, script: str, *arguments: str, at: str = MOUNT_POINT) -> list[str]:
        """The argv of a script with these arguments that may import the agent's modules."""
        return [*self.python(at), "-I", "-S", "-c", _LOAD + script, f"{at}/{CODE}", *arguments]


def source_command(*arguments: str) -> list[str]:
    """The argv that starts the agent from its sources in the server's own Python."""
    find = f"import sys; sys.path.append({str(AGENT.parent)!r})"
    return [sys.executable, "-I", "-S", "-c", find + _MAIN, *arguments]


def build(state: Path, agent: Path = AGENT) -> Interpreter:
    """The bundle for this agent and this Python below `state`, built if it is not there yet.

    Safe against a second builder and against being killed: the folder appears by one rename.
    One thread at a time builds: two launchers want the same bundle at once, and `ast` of Python
    3.11 fails in two threads (python/cpython#106905).
    Raises Unsupported if this Python cannot be moved (a static or otherwise unusual build).
    """
    binary = Path(sys.executable).resolve()
    root = state / f"interpreter-{_fingerprint(binary, agent)}"
    with _BUILDING:
        if not root.is_dir():
            state.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix="interpreter-", suffix=".draft", dir=state))
            try:
                _fill(draft, binary, agent)
                _publish(draft, root)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return Interpreter(root, (root / "loader").read_text())


def _fingerprint(binary: Path, agent: Path) -> str:
    """Changes with the agent, with this Python, and with an upgrade of either in place."""
    stat = binary.stat()
    identity = [_FORMAT, sys.version, str(binary), stat.st_size, stat.st_mtime_ns]
    found = hashlib.sha256(json.dumps(identity).encode())
    for path in _sources(agent):
        found.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _sources(agent: Path) -> list[Path]:
    return sorted(agent.glob("*.py"))


def _fill(draft: Path, binary: Path, agent: Path) -> None:
    names = [*_STARTUP_MODULES, *_imports(agent)]
    modules = _located([str(binary)], names)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = draft / sys.platlibdir / version
    # Python looks for this folder to recognise its prefix, and warns if it is not there.
    (library / "lib-dynload").mkdir(parents=True)
    (draft / RUN_FOLDER).mkdir()

    extensions = []
    for name, file in modules.items():
        if not file.endswith(".py"):
            extensions.append(Path(file))
            _copy(Path(file), library / "lib-dynload" / Path(file).name)
            continue
        parts = name.split(".")
        if name == "os.path":
            parts = ["posixpath"]
        tail = ["__init__.py"] if file.endswith("/__init__.py") else []
        _copy_module(Path(file), library.joinpath(*parts, *tail).with_suffix(".py"))

    _copy(binary, draft / "bin/python3", mode=0o755)
    loader, libraries = _shared_libraries([binary, *extensions])
    for path in [loader, *libraries]:
        _copy(path, draft / "lib" / path.name, mode=0o755)
    (draft / "loader").write_text(loader.name)
    (draft / CODE).write_bytes(marshal.dumps(_code_objects(agent)))
    _make_readable(draft)
    _prove(Interpreter(draft, loader.name), names)


def _located(python: list[str], names: list[str]) -> dict[str, str]:
    """The files of the modules that come with importing these in that Python."""
    files = ast.literal_eval(_output([*python, "-I", "-S", "-c", _LOCATE, *names]))
    return {str(name): str(file) for name, file in files.items()}


def _imports(agent: Path) -> list[str]:
    """The modules of others that the agent imports anywhere, in functions too."""
    found = {name for source in _sources(agent) for name in _imported(source)}
    return sorted(name for name in found if not name.startswith("."))


def _imported(source: Path) -> set[str]:
    """What a module imports at run time; siblings with a dot before them."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add("." * node.level + node.module)
    return found


def _code_objects(agent: Path) -> list[tuple[str, CodeType]]:
    """The agent's modules, compiled, each after those that it imports."""
    sources = {f".{source.stem}": source for source in _sources(agent)}
    needs = {name: _imported(source) & set(sources) for name, source in sources.items()}
    ordered = []
    for name in TopologicalSorter(needs).static_order():
        shown = f"{MOUNT_POINT}/agent/{name[1:]}.py"
        code = compile(sources[name].read_bytes(), shown, "exec", dont_inherit=True, optimize=2)
        ordered.append(("agent" if name == ".__init__" else f"agent{name}", code))
    return ordered


def _shared_libraries(objects: list[Path]) -> tuple[Path, list[Path]]:
    """The dynamic loader, and all libraries that these need, under the names they are asked for."""
    loader: Path | None = None
    libraries: dict[str, Path] = {}
    for line in _output(["ldd", *map(str, objects)]).splitlines():
        words = line.split()
        if "=>" in words and words[-1].startswith("(") and words[2].startswith("/"):
            libraries[words[0]] = Path(words[2])
        elif len(words) == 2 and words[0].startswith("/") and not words[0].endswith(":"):
            loader = Path(words[0])
    if loader is None:
        raise Unsupported(
            f"{sys.executable} names no dynamic loader, so it cannot run inside an image",
            cure="run the server on a dynamically linked Python, such as the distribution's",
        )
    return loader, [path for path in libraries.values() if path.name != loader.name]


def _copy(source: Path, target: Path, *, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _copy_module(source: Path, target: Path) -> None:
    """With its byte code, since a read-only mount cannot keep what Python would compile."""
    _copy(source, target)
    py_compile.compile(
        str(target),
        dfile=str(target.name),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _make_readable(root: Path) -> None:
    """For any uid that a sandbox may have, whatever the server's umask is."""
    root.chmod(0o755)
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder, file)
            path.chmod(path.stat().st_mode & 0o755 | 0o444)


def _prove(draft: Interpreter, names: list[str]) -> None:
    """Start it where it lies and see that it finds itself, and no module elsewhere."""
    at = str(draft.root)
    found = _located(draft.python(at), names)
    outside = sorted(name for name, file in found.items() if not file.startswith(at + "/"))
    if outside:
        raise Unsupported(
            f"a copy of {sys.executable} still loads {', '.join(outside)} from the original",
            cure="run the server on a relocatable Python, such as the distribution's",
        )


def _publish(draft: Path, root: Path) -> None:
    try:
        draft.rename(root)
    except OSError:
        # A second server with the same state folder was quicker; its bundle is the same.
        if not root.is_dir():
            raise


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command,
            check=True,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_TIMEOUT_S,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        ).stdout
    except FileNotFoundError as problem:
        raise Unsupported(
            f"cannot bundle the agent's interpreter: {command[0]} is missing",
            cure="install it (Debian: libc-bin)",
        ) from problem
    except subprocess.SubprocessError as problem:
        said = getattr(problem, "stderr", "") or str(problem)
        raise Unsupported(
            f"cannot bundle the agent's interpreter: {command[0]} says {said.strip()!r}"
        ) from problem
