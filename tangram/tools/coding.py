"""The tools over a trajectory, in asynchronous and in blocking code."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

from ..client import AsyncTrajectory, FileStat, Result, Trajectory
from ..client.background import wait
from ..client.requests import Cores
from ..errors import FileError, InvalidRequest
from .schemas import TOOLS, ToolError, checked
from .text import clipped, inserted, replaced, viewed

TIMEOUT_S = 120.0
"""Of a command that does not say: tests of a project, not its whole suite."""
TIMEOUT_S_MAX = 1800.0
"""What a model may ask for."""
CHARACTERS_MAX = 16_000
"""Of an answer to the model: about 4000 tokens."""
EDITED_BYTES_MAX = 1 << 20
"""Of a file that is viewed or edited: what is larger is not written by hand."""
UNDO_MAX = 20
"""Edits of one file that can be taken back."""
FOLDER_ENTRIES_MAX = 500
FOLDER_DEPTH = 2


class AsyncCodingTools:
    """bash, str_replace_editor and finish for one trajectory; see the package.

    One call at a time: they share a shell, as the calls of one model do.
    """

    def __init__(
        self,
        trajectory: AsyncTrajectory,
        *,
        cores: Cores = 1,
        timeout: float = TIMEOUT_S,
        timeout_max: float = TIMEOUT_S_MAX,
        max_characters: int = CHARACTERS_MAX,
        session: str = "tools",
    ) -> None:
        """`cores` is what each command may have, as in `exec`; `timeout` seconds it may run unless the
        model says otherwise, up to `timeout_max`; answers have about `max_characters`."""
        self.finished = False
        """The model called `finish`."""
        self.answer = ""
        """What it said then."""
        self._trajectory = trajectory
        self._session = trajectory.session(session)
        self._cores = cores
        self._timeout_s = timeout
        self._timeout_s_max = timeout_max
        self._max_characters = max_characters
        self._undo: dict[str, deque[tuple[str, int]]] = defaultdict(lambda: deque(maxlen=UNDO_MAX))

    def schemas(self) -> list[dict[str, Any]]:
        """The tools in OpenAI's form, to be handed to a model."""
        return copy.deepcopy(list(TOOLS.values()))

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> str:
        """Do what the model asks; `arguments` as they came, parsed or not. The answer for the model,
        mistakes of its own included. Raises TangramError for what is not the model's fault."""
        try:
            given = checked(name, arguments)
            if self.finished:
                raise ToolError("the task was finished: no tool can be used any more")
            if name == "bash":
                text = await self._bash(given)
            elif name == "finish":
                text = self._finish(**given)
            else:
                text = await self._edit(**given)
        except ToolError as error:
            text = f"error: {error}"
        except (InvalidRequest, FileError) as error:
            text = f"error: {error}"
        return clipped(text, self._max_characters)

    def _finish(self, message: str = "") -> str:
        self.finished, self.answer = True, message
        return "finished"

    async def _bash(self, given: Mapping[str, Any]) -> str:
        command = given.get("command", "")
        if given.get("restart"):
            if command:
                raise ToolError("give either command or restart")
            await self._session.close()
            return "the shell was restarted"
        if not command.strip():
            raise ToolError("bash needs the argument 'command'")
        limit_s = given.get("timeout", self._timeout_s)
        if not 0 < limit_s <= self._timeout_s_max:
            raise ToolError(f"timeout must be above 0 and at most {self._timeout_s_max:g} seconds")
        result = await self._session.run(command, cores=self._cores, timeout=limit_s)
        return _told(result, limit_s)

    async def _edit(self, command: str, path: str, **given: Any) -> str:
        if not path.startswith("/"):
            raise ToolError(f"path must be absolute, such as /workspace/{path}")
        _check_given(command, given)
        if command == "create":
            return await self._create(path, given["file_text"])
        found = await self._trajectory.stat(path)
        if found.kind == "symlink":
            raise ToolError(f"{path} is a link to {found.target}: name that")
        if command == "view" and found.kind == "directory":
            return await self._list(path)
        text = await self._read(path, found)
        if command == "view":
            return viewed(text, given.get("view_range"))
        if command == "undo_edit":
            return await self._take_back(path)
        if command == "insert":
            edited, around = inserted(text, given["insert_line"], given["new_str"])
        else:
            edited, around = replaced(text, given["old_str"], given.get("new_str", ""))
        await self._trajectory.write_file(path, edited, mode=found.mode)
        self._undo[path].append((text, found.mode))
        return f"{path} was edited. Around the edit it is now:\n{around}"

    async def _create(self, path: str, text: str) -> str:
        try:
            found = await self._trajectory.stat(path)
        except FileError:
            await self._trajectory.write_file(path, text)
            return f"{path} was created"
        raise ToolError(
            f"{path} exists already ({found.kind}): edit it with str_replace or insert, or remove it "
            "with bash first"
        )

    async def _take_back(self, path: str) -> str:
        if not self._undo[path]:
            raise ToolError(f"there is no edit of {path} left to be taken back")
        text, mode = self._undo[path][-1]
        await self._trajectory.write_file(path, text, mode=mode)
        self._undo[path].pop()
        return f"the last edit of {path} was taken back"

    async def _read(self, path: str, found: FileStat) -> str:
        if found.kind != "file":
            raise ToolError(f"{path} is no file but a {found.kind}")
        if found.size > EDITED_BYTES_MAX:
            raise ToolError(
                f"{path} has {found.size} bytes, the limit is {EDITED_BYTES_MAX}: look at parts of it "
                "with bash"
            )
        try:
            return (await self._trajectory.read_file(path)).decode()
        except UnicodeDecodeError:
            raise ToolError(f"{path} is no UTF-8 text: look at it with bash") from None

    async def _list(self, path: str) -> str:
        """Names below a folder, two levels deep, without hidden ones."""
        names: list[str] = []
        waiting = [(path.rstrip("/"), "", 1)]
        while waiting and len(names) <= FOLDER_ENTRIES_MAX:
            folder, prefix, depth = waiting.pop(0)
            for entry in await self._trajectory.list_files(folder or "/"):
                if entry.name.startswith("."):
                    continue
                is_folder = entry.kind == "directory"
                names.append(f"{prefix}{entry.name}{'/' if is_folder else ''}")
                if is_folder and depth < FOLDER_DEPTH:
                    waiting.append((f"{folder}/{entry.name}", f"{prefix}{entry.name}/", depth + 1))
        shown = sorted(names[:FOLDER_ENTRIES_MAX])
        if len(names) > FOLDER_ENTRIES_MAX:
            shown.append(f"[only {FOLDER_ENTRIES_MAX} entries are shown]")
        return "\n".join(shown) or "(the folder is empty)"


class CodingTools:
    """The same in blocking code. See `AsyncCodingTools`."""

    def __init__(
        self,
        trajectory: Trajectory,
        *,
        cores: Cores = 1,
        timeout: float = TIMEOUT_S,
        timeout_max: float = TIMEOUT_S_MAX,
        max_characters: int = CHARACTERS_MAX,
        session: str = "tools",
    ) -> None:
        """See `AsyncCodingTools`."""
        self._aio = AsyncCodingTools(
            trajectory.aio,
            cores=cores,
            timeout=timeout,
            timeout_max=timeout_max,
            max_characters=max_characters,
            session=session,
        )

    @property
    def finished(self) -> bool:
        """The model called `finish`."""
        return self._aio.finished

    @property
    def answer(self) -> str:
        """What it said then."""
        return self._aio.answer

    def schemas(self) -> list[dict[str, Any]]:
        """The tools in OpenAI's form, to be handed to a model."""
        return self._aio.schemas()

    def call(self, name: str, arguments: Mapping[str, Any] | str) -> str:
        """Do what the model asks. See `AsyncCodingTools.call`."""
        return wait(self._aio.call(name, arguments))


def _told(result: Result, timeout_s: float) -> str:
    """A command's result for the model: its output, then how it ended unless all is well."""
    parts = [result.stdout.rstrip("\n")] if result.stdout.strip() else []
    if result.outcome == "timed_out":
        parts.append(f"[interrupted after {timeout_s:g} s, with all that it had started]")
    elif result.outcome != "finished":
        parts.append(f"[ended by a limit of the sandbox: {result.outcome.replace('_', ' ')}]")
    elif result.exit_code:
        parts.append(f"[exit code {result.exit_code}]")
    return "\n".join(parts) or "[no output]"


_NEEDED = {
    "view": (set(), {"view_range"}),
    "create": ({"file_text"}, set()),
    "str_replace": ({"old_str"}, {"new_str"}),
    "insert": ({"insert_line", "new_str"}, set()),
    "undo_edit": (set(), set()),
}
"""Which arguments each command of the editor must have, and may have."""


def _check_given(command: str, given: Mapping[str, Any]) -> None:
    """Arguments of other commands that are empty are let pass: models fill in all of a schema."""
    must, may = _NEEDED[command]
    for key in sorted(must - set(given)):
        raise ToolError(f"{command} needs the argument {key!r}")
    for key in sorted(set(given) - must - may):
        if given[key]:
            raise ToolError(f"{command} takes no argument {key!r}")
