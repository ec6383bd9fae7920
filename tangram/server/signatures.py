"""What a command is like, in a few words: "pytest", "git status", "python -m unittest".

Commands with one signature are taken to run alike, so it keeps the programs and what they are told
to do, and leaves out all that differs from call to call: paths, numbers, options, environment. It
never holds an argument's value, so it may be shown and kept. Pure text; nothing is looked up, and no
text makes it fail. What is learned by signature stands in the scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from .shell_text import OPERATORS, tokens

SIGNATURE_CHARACTERS_MAX = 64

COMMAND_CHARACTERS_MAX = 1024
"""Of a command's text; what comes behind changes nothing. Texts made to be slow
take 4 ms, common ones 0.02."""

ARGUMENTS_MAX = 64
"""Of an argv; as above."""

STEPS_MAX = 3
"""Distinct commands of one text that the signature names, as in "pip install; pytest"."""

DEPTH_MAX = 4
"""A shell in a shell in a shell: deeper is not looked into."""

_SEPARATOR = "; "

_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ash", "ksh"})
_PYTHONS = frozenset({"python", "pypy"})

_WRAPPERS = {
    "command": 0, "doas": 0, "env": 0, "exec": 0, "ionice": 0, "nice": 0, "nohup": 0, "setsid": 0,
    "stdbuf": 0, "sudo": 0, "time": 0, "unbuffer": 0, "numactl": 0, "chrt": 1, "taskset": 1,
    "timeout": 1,
}  # fmt: skip
"""Programs that run another one, and how many arguments of their own stand before it."""

_RUNNERS = frozenset({"conda", "hatch", "micromamba", "mamba", "pdm", "pipenv", "poetry", "uv"})
"""With `run`, the same."""

_SILENT = frozenset({
    ":", ".", "[", "[[", "cd", "echo", "eval", "export", "mkdir", "popd", "printf", "pushd",
    "pwd", "set", "shopt", "sleep", "source", "test", "touch", "true", "false", "trap",
    "ulimit", "umask", "unset", "wait", "declare", "local", "alias", "exit", "return", "read",
})  # fmt: skip
"""They take no time worth knowing: named only where nothing else is."""

_SUBCOMMANDS = frozenset({
    "apt", "apt-get", "bazel", "brew", "bundle", "cargo", "composer", "conda", "dotnet",
    "docker", "git", "gh", "go", "gradle", "gradlew", "hg", "kubectl", "lerna", "mage", "make",
    "mamba", "meson", "mix", "mvn", "mvnw", "ninja", "npm", "nx", "pip", "pipx", "pnpm",
    "podman", "poetry", "rake", "ruff", "rustup", "sbt", "stack", "svn", "systemctl", "tox",
    "turbo", "uv", "yarn", "deno", "bun", "just", "hatch", "pdm", "cabal", "swift", "manage.py",
    "setup.py", "django-admin",
})  # fmt: skip
"""Programs of which the first word behind the name says what they do."""

_SCRIPTS = frozenset({"npm", "pnpm", "yarn", "bun", "deno", "go"})
"""With `run`, the word behind says more: "npm run test"."""

_VALUED = {
    "git": frozenset({"-C", "-c", "--git-dir", "--work-tree"}),
    "make": frozenset({"-C", "-f", "-I", "-o", "--directory", "--file"}),
    "gmake": frozenset({"-C", "-f"}),
    "docker": frozenset({"-H", "--context", "-c"}),
    "kubectl": frozenset({"-n", "--namespace", "--context"}),
    "npm": frozenset({"--prefix", "-w"}),
    "yarn": frozenset({"--cwd"}),
    "cargo": frozenset({"--manifest-path"}),
    "tox": frozenset({"-e", "-c"}),
    "uv": frozenset({"--with", "--python", "-p", "--extra", "--group", "--project"}),
    "mvn": frozenset({"-f", "-pl"}),
    "python": frozenset({"-W", "-X"}),
    "pypy": frozenset({"-W", "-X"}),
    "conda": frozenset({"-n", "-p", "--name", "--prefix"}),
    "sudo": frozenset({"-u", "-g"}),
    "env": frozenset({"-u", "-C"}),
    "nice": frozenset({"-n"}),
    "ionice": frozenset({"-c", "-n"}),
    "timeout": frozenset({"-k", "-s"}),
    "stdbuf": frozenset({"-i", "-o", "-e"}),
}
"""Options whose value is a word of its own, where a word behind it counts."""

_KEYWORDS = frozenset({
    "!", "{", "}", "do", "else", "elif", "fi", "done", "esac", "if", "then", "until", "while",
})  # fmt: skip
_HEADERS = frozenset({"for", "case", "select", "function"})
"""Keywords whose line runs nothing."""

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_VERSION = re.compile(r"(python|pypy|pip|perl|ruby|php|lua|node|gcc|g\+\+|clang|clang\+\+)-?[\d.]+")
_RANDOM = re.compile(r"tmp\w{6,}|(?=\w*\d)[0-9a-fA-F-]{8,}|(?:\D*+\d++){3,}+\D*+")
_NUMBER = re.compile(r"\d+")
_ODD = re.compile(r"[^\w.+\-*:\[\]]+")


def signature_of(argv: Sequence[str], shell_command: str = "") -> str:
    """The signature of an argv or, where that is empty, of a shell's text. At most
    SIGNATURE_CHARACTERS_MAX characters; empty if there is nothing to name."""
    if not argv:
        return _of_text(shell_command[:COMMAND_CHARACTERS_MAX])
    words = tuple(word[:COMMAND_CHARACTERS_MAX] for word in argv[:ARGUMENTS_MAX])
    return _join(_of_words(words, DEPTH_MAX))


@lru_cache(maxsize=1024)
def _of_text(text: str) -> str:
    """Remembered, since agents repeat themselves."""
    return _join(_of_shell(text, DEPTH_MAX))


def _join(steps: Iterator[tuple[str, bool]]) -> str:
    """The steps that take time, each once; without any, the first of the others."""
    named: list[str] = []
    silent = ""
    for step, counts in steps:
        if not counts:
            silent = silent or step
        elif step not in named:
            named.append(step)
            if len(named) == STEPS_MAX:
                break
    return (_SEPARATOR.join(named) or silent)[:SIGNATURE_CHARACTERS_MAX].rstrip(" ;")


def _of_shell(text: str, depth: int) -> Iterator[tuple[str, bool]]:
    """The steps of a shell's text, each with whether it counts."""
    if depth == 0:
        return
    words: list[str] = []
    piped = skipping = False
    for token in tokens(text):
        if not token or token.strip(OPERATORS):
            if not skipping:
                words.append(token)
            skipping = False
        elif "<" in token or ">" in token:
            # What is behind it is a file; what is before it may be its number.
            if words and words[-1].isdigit():
                words.pop()
            skipping = True
        else:
            if not piped:
                yield from _of_words(words, depth)
            words, skipping = [], False
            # Only the head of a pipe counts: the others wait for it.
            piped = token == "|" or token == "|&"
    if not piped:
        yield from _of_words(words, depth)


def _of_words(argv: Sequence[str], depth: int) -> Iterator[tuple[str, bool]]:
    """The steps of one command: one, or those of the shell that it starts."""
    words = _unwrapped(argv)
    if not words:
        return
    program = _name(words[0])
    if program in _SHELLS:
        yield from _of_shell_program(program, words[1:], depth)
        return
    if program in _PYTHONS:
        step = _python(program, words[1:])
    elif program in _SUBCOMMANDS:
        step = " ".join((program, *_subcommand(program, words[1:])))
    else:
        step = program
    if step:
        yield step, program not in _SILENT


def _unwrapped(argv: Sequence[str]) -> Sequence[str]:
    """The command without keywords, assignments, and programs that only run another."""
    words: Sequence[str] = argv
    while words:
        first = words[0]
        name = _name(first)
        if first in _HEADERS:
            return []
        if first in _KEYWORDS or _ASSIGNMENT.match(first):
            words = words[1:]
        elif name in _WRAPPERS:
            rest = _behind_options(name, words[1:])
            while rest and _ASSIGNMENT.match(rest[0]):
                rest = rest[1:]
            rest = rest[_WRAPPERS[name] :]
            if not rest:
                return words
            words = rest
        elif name in _RUNNERS and words[1:2] == ["run"]:
            rest = _behind_options(name, words[2:])
            if not rest:
                return words
            words = rest
        else:
            break
    return words


def _of_shell_program(program: str, words: Sequence[str], depth: int) -> Iterator[tuple[str, bool]]:
    for index, word in enumerate(words):
        if not word.startswith("-"):
            yield f"{program} {_name(word)}".strip(), True
            return
        if "c" in word and not word.startswith("--"):
            if len(words) > index + 1:
                yield from _of_shell(words[index + 1][:COMMAND_CHARACTERS_MAX], depth - 1)
            return
    yield program, True


def _python(program: str, words: Sequence[str]) -> str:
    rest = _behind_options(program, words, stop=("-m", "-c"))
    if not rest:
        return program
    if rest[0] == "-c":
        return f"{program} -c"
    if rest[0] == "-m" and len(rest) > 1:
        module = _name(rest[1])
        if module == "pytest":
            return module
        return " ".join((program, "-m", module, *_words_of(module, rest[2:])))
    script = _name(rest[0])
    return " ".join(filter(None, (program, script, *_words_of(script, rest[1:]))))


def _words_of(program: str, words: Sequence[str]) -> Sequence[str]:
    return _subcommand(program, words) if program in _SUBCOMMANDS else ()


def _subcommand(program: str, words: Sequence[str]) -> Sequence[str]:
    """The first word behind the options, and the second where the first is `run`."""
    if "--" in words:
        words = words[: words.index("--")]
    rest = [word for word in _behind_options(program, words) if not _ASSIGNMENT.match(word)]
    named = [_name(word) for word in rest[:2] if not word.startswith("-")]
    if named[:1] == ["run"] and program in _SCRIPTS:
        return named
    return [word for word in named[:1] if word]


def _behind_options(program: str, words: Sequence[str], stop: Sequence[str] = ()) -> Sequence[str]:
    """The words from the first that is neither an option, nor an option's value, nor a number."""
    valued = _VALUED.get(program, frozenset())
    index = 0
    while index < len(words):
        word = words[index]
        if word in stop:
            break
        if word in valued:
            index += 2
        elif word.startswith("-") or (word.isdigit() and program in _SUBCOMMANDS):
            index += 1
        else:
            break
    return words[index:]


def _name(word: str) -> str:
    """The last part of a path, without a version and without what looks drawn at random."""
    base = word.rstrip("/").rpartition("/")[2]
    if version := _VERSION.fullmatch(base):
        return version[1]
    stem, dot, ending = base.rpartition(".")
    if not dot or not stem:
        stem, dot, ending = base, "", ""
    if _RANDOM.fullmatch(stem):
        stem = "*"
    elif dot:
        # A file: the third of a row of scripts runs like the first.
        stem = _NUMBER.sub("*", stem)
    return _ODD.sub("", f"{stem}{dot}{ending}")
