"""A session in asynchronous code: a shell in a trajectory's sandbox that lives on between runs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from ..limits import TIMEOUT_S_DEFAULT
from ..v1 import trajectories_pb2 as pb
from . import requests
from .methods import SESSION_INPUT
from .requests import Command, Cores, Elasticity
from .results import Result, result_from

if TYPE_CHECKING:
    from .aio import AsyncClient
    from .trajectories import OnOutput

SESSION_DEFAULT = "main"
TERM_DEFAULT = "dumb"
"""A terminal without colours and cursor movements: what comes out is text."""
COLUMNS_DEFAULT = 200
ROWS_DEFAULT = 50
"""Programs cut their lines at the window's width, and nobody looks at this one."""


class AsyncSession:
    """A shell (bash, where the image has it, else sh) on a terminal of its own.

    It starts with its first run, and keeps folder, variables, functions and background jobs until it
    is closed, says `exit`, or the sandbox ends. Sessions of one name are one session, whichever
    process of the task asks.
    """

    def __init__(
        self,
        client: AsyncClient,
        trajectory: str,
        ensure_open: Callable[[], Awaitable[None]],
        name: str,
        *,
        cwd: str | None,
        env: Mapping[str, str] | None,
        user: str | None,
        term: str,
        columns: int,
        rows: int,
    ) -> None:
        """For `AsyncTrajectory.session`, which says what these are. Raises InvalidRequest."""
        self._client = client
        self._ensure_open = ensure_open
        self.name = requests.identifier(name, "name")
        self._trajectory = trajectory
        self._cwd = cwd
        self._env = {
            "TERM": term,
            "COLUMNS": str(requests.side(columns, "columns")),
            "LINES": str(requests.side(rows, "rows")),
            **(env or {}),
        }
        self._user = user

    async def run(
        self,
        command: Command,
        *,
        cores: Cores = 1,
        timeout: float = TIMEOUT_S_DEFAULT,  # noqa: ASYNC109 - the run's limit, kept by the server
        deadline: float | None = None,
        check: bool = False,
        malleable: bool = False,
        duration: float | None = None,
        elasticity: Elasticity | None = None,
        max_output: int | str = "1Mi",
        on_output: OnOutput | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Result:
        """Have the shell evaluate a command: an action as `AsyncTrajectory.exec` is one, with the same
        arguments and errors. A list is quoted to one command.

        A terminal has one stream: `stdout` has all, `stderr` nothing. `exit 3` ends the shell: the
        exit code is 3, and the next run starts another one. At its timeout, or cancelled, the
        command gets Ctrl-C, then all that it started is killed; where nothing else helps so is the
        shell. FailedPrecondition if the session runs another action.
        """
        spec = requests.action(
            id=id,
            task=self._client.task,
            trajectory=self._trajectory,
            priority=priority or 0,
            labels=labels or {},
            timeout=timeout,
            deadline=deadline,
        )
        requests.exec_into(
            spec,
            command,
            cores=cores,
            cwd=self._cwd,
            env=self._env,
            stdin=None,
            user=self._user,
            malleable=malleable,
            deterministic=False,
            duration=duration,
            elasticity=elasticity,
            max_output=max_output,
            session=self.name,
        )
        began = time.perf_counter()
        await self._ensure_open()
        action = await self._client.run_action(spec, on_output)
        result = result_from(action, time.perf_counter() - began)
        return result.check() if check else result

    async def send(self, text: str | bytes) -> None:
        """Type it to what runs in the session now; a line ends with "\\n". At most 64 KiB wait unread,
        lines of more than 4095 bytes are cut by the kernel.

        It takes no cores and is not repeated when the connection breaks. FailedPrecondition where
        nothing runs.
        """
        data = requests.typed(text)
        await self._input(pb.SessionInputRequest(data=data), patience_s=0.0)

    async def interrupt(self) -> None:
        """Ctrl-C. FailedPrecondition where nothing runs."""
        await self._input(pb.SessionInputRequest(interrupt=True), patience_s=0.0)

    async def close(self) -> None:
        """End its shell and all that was started in it, background jobs as well. Idempotent; a run
        after it starts a new shell."""
        await self._input(pb.SessionInputRequest(close=True))

    async def _input(
        self, request: pb.SessionInputRequest, *, patience_s: float | None = None
    ) -> None:
        request.trajectory, request.session = self._trajectory, self.name
        await self._ensure_open()
        await self._client.connection.unary(SESSION_INPUT, request, patience_s=patience_s)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r} of {self._trajectory!r})"
