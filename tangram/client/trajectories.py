"""A trajectory in asynchronous code: its sandbox, its actions, its files."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import Expired, Lost, TangramError, TrajectoryClosed
from ..limits import FILE_MODE_DEFAULT, TIMEOUT_S_DEFAULT
from ..v1 import trajectories_pb2 as pb
from . import requests
from .connection import tell
from .files import Files, OnProgress
from .methods import ATTACH, CLOSE, FORK, OPEN, RESTORE, SNAPSHOT, START_PROCESS
from .processes import AsyncProcess
from .requests import Command, Cores, Elasticity
from .results import (
    Copied,
    FileStat,
    Result,
    SnapshotInfo,
    TrajectoryInfo,
    result_from,
    snapshot_info,
    trajectory_info,
)
from .sessions import (
    COLUMNS_DEFAULT,
    ROWS_DEFAULT,
    SESSION_DEFAULT,
    TERM_DEFAULT,
    AsyncSession,
)

if TYPE_CHECKING:
    from .aio import AsyncClient

READY_POLL_S = 60.0
"""Of one question for readiness: a server that restarts is asked again."""

OnOutput = Callable[[str, bytes], object]
"""Called with "stdout" or "stderr" and the next bytes of it."""


class AsyncTrajectory:
    """One rollout and its sandbox, which keeps files and processes between actions.

    It opens at its first use, or at `async with`, which also closes it. Any process of the task
    can have it with `client.attach(id)`.
    """

    skipped: tuple[str, ...] = ()
    """Of a fork: sentences on what of its parent's files could not be kept."""

    def __init__(self, client: AsyncClient, spec: pb.TrajectorySpec, *, attached: bool) -> None:
        self._client = client
        self._spec = spec
        self._files = Files(client.connection, spec.id)
        self._attached = attached
        self._open = False
        self._closed = False
        self._leased = False
        self._opening: asyncio.Task[TrajectoryInfo] | None = None
        self._openers = 0

    @property
    def id(self) -> str:
        return self._spec.id

    async def open(self) -> TrajectoryInfo:
        """Have it opened, which needs no waiting for the sandbox. The same again is no harm.

        Raises NotFound (unknown image), Infeasible, Unsupported, AlreadyExists.
        """
        if self._closed:
            raise TrajectoryClosed(f"trajectory {self.id} is closed: open a new one")
        if self._open:
            return await self._ask_to_open()
        # Uses that come first at the same time share one question. A fork leaves that of another
        # loop behind.
        opening = self._opening
        if opening is None or opening.get_loop() is not asyncio.get_running_loop():
            opening = self._opening = asyncio.create_task(self._open_once())
            self._openers = 0
        self._openers += 1
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if self._openers == 1:
                await self._abandon(opening)
            raise
        finally:
            self._openers -= 1

    async def wait_ready(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the server waits, call by call
    ) -> TrajectoryInfo:
        """Wait until its sandbox has started, `timeout` seconds at most.

        Raises Lost or SandboxFailed if it never will be, TrajectoryClosed, Expired.
        """
        if timeout is not None:
            requests.seconds_or_zero(timeout, "timeout")
        await self._ensure_open()
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while True:
            left_s = math.inf if give_up_at is None else max(0.0, give_up_at - time.monotonic())
            attach = pb.AttachRequest(id=self.id, wait_ready_s=min(left_s, READY_POLL_S))
            info = trajectory_info((await self._client.connection.unary(ATTACH, attach)).trajectory)
            if info.state == "ready":
                return info
            if info.state == "lost":
                raise info.error or Lost(f"the sandbox of trajectory {self.id} is gone")
            if info.state == "closed":
                raise TrajectoryClosed(f"trajectory {self.id} is closed: open a new one")
            if left_s == 0:
                raise Expired(f"trajectory {self.id} is still {info.state} after {timeout:g} s")

    async def exec(
        self,
        command: Command,
        *,
        cores: Cores = 1,
        timeout: float = TIMEOUT_S_DEFAULT,  # noqa: ASYNC109 - the run's limit, kept by the server
        deadline: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | bytes | None = None,
        user: str | None = None,
        check: bool = False,
        malleable: bool = False,
        deterministic: bool = False,
        duration: float | None = None,
        elasticity: Elasticity | None = None,
        max_output: int | str = "1Mi",
        on_output: OnOutput | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Result:
        """Run a command: a list is an argv, a str runs in the trajectory's shell.

        `cores` is a number, an inclusive range (low, high) or a set of exactly these; of the last
        two the scheduler picks, and `{cores}` in the command is replaced by the number.
        With `malleable` the number may also change while it runs, as far as `cores` allows: for
        programs that look at their cores again, or start as many workers as `cores` has at most.
        With `deterministic` it may be answered with what the same command on the same files said
        before in this task, where the operator allows it (`cache`): `result.cached`, and whatever it
        leaves behind is not there then.
        `timeout` counts the run only, `deadline` counts from now. `duration` (seconds with one
        core) and `elasticity` are what is known of it beforehand; what is not said is learned.
        `elasticity` is a table, cores -> E with duration(m) = duration / (E m), or one number from
        0 to 1: the share of the work that does not scale (Amdahl's law).
        `on_output(stream, bytes)` is called on the event loop while it runs.

        What the command did is the result. Raises CommandFailed with `check`, InvalidRequest,
        Infeasible, TrajectoryClosed, Cancelled, Expired, and InfraError for what is not the
        command's fault. Cancelling the task cancels the action.
        """
        spec = requests.action(
            id=id,
            task=self._client.task,
            trajectory=self.id,
            priority=priority or 0,
            labels=labels or {},
            timeout=timeout,
            deadline=deadline,
        )
        requests.exec_into(
            spec,
            command,
            cores=cores,
            cwd=cwd,
            env=env,
            stdin=stdin,
            user=user,
            malleable=malleable,
            deterministic=deterministic,
            duration=duration,
            elasticity=elasticity,
            max_output=max_output,
        )
        began = time.perf_counter()
        await self._ensure_open()
        action = await self._client.run_action(spec, on_output)
        result = result_from(action, time.perf_counter() - began)
        return result.check() if check else result

    def session(
        self,
        name: str = SESSION_DEFAULT,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        term: str = TERM_DEFAULT,
        columns: int = COLUMNS_DEFAULT,
        rows: int = ROWS_DEFAULT,
    ) -> AsyncSession:
        """A shell that keeps folder, variables and jobs between its runs; several by other names.

        It starts at its first run, in `cwd`, with `env` and as `user`, on a terminal of `columns` by
        `rows` that is a `term`; what an open session of this name started with stays. At most 16.
        Raises InvalidRequest.
        """
        return AsyncSession(
            self._client,
            self.id,
            self._ensure_open,
            name,
            cwd=cwd,
            env=env,
            user=user,
            term=term,
            columns=columns,
            rows=rows,
        )

    async def start(
        self,
        command: Command,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        id: str | None = None,
    ) -> AsyncProcess:
        """Start a program in the background: a server, a watcher. It takes no cores, lives on between
        actions, and ends with the sandbox. It is no action; at most 32 run at once.

        Raises InvalidRequest, AlreadyExists (the id, with another command), FailedPrecondition,
        TrajectoryClosed, InfraError.
        """
        body = requests.command_body(command, cwd=cwd, env=env, stdin=None, user=user)
        process = self.process(requests.new_or(id))
        request = pb.StartProcessRequest(trajectory=self.id, id=process.id, exec=body)
        await self._ensure_open()
        await self._client.connection.unary(START_PROCESS, request)
        return process

    def process(self, id: str) -> AsyncProcess:
        """One that was started already, by whichever process of the task. Raises NotFound at use."""
        return AsyncProcess(self._client, self.id, self._ensure_open, id)

    async def read_file(self, path: str) -> bytes:
        """A whole file; `path` is absolute or relative to the workdir. Raises FileError."""
        await self._ensure_open()
        return await self._files.read(path)

    async def read_text(self, path: str) -> str:
        """A whole file as UTF-8. Raises FileError, UnicodeDecodeError."""
        return (await self.read_file(path)).decode()

    async def write_file(
        self, path: str, data: str | bytes, *, mode: int = FILE_MODE_DEFAULT
    ) -> None:
        """Write a whole file at once, making missing folders. Raises FileError."""
        requests.file_mode(mode)
        content = data.encode() if isinstance(data, str) else data
        await self._ensure_open()
        await self._files.write(path, content, mode)

    async def list_files(self, path: str = ".") -> list[FileStat]:
        """The entries of a folder, sorted by name. Raises FileError."""
        await self._ensure_open()
        return await self._files.list(path)

    async def stat(self, path: str) -> FileStat:
        """Of the path itself: a link is not followed. Raises FileError."""
        await self._ensure_open()
        return await self._files.stat(path)

    async def upload(
        self,
        src: str | os.PathLike[str],
        dst: str,
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file to `dst`, or the contents of a folder into the folder `dst`.

        Links go along as links, with the times and modes of everything; what is neither file, folder
        nor link is left out and named in the answer. `on_progress(bytes, of_all)` is called on the
        event loop. Raises FileError, InvalidRequest, OSError of this machine.
        """
        await self._ensure_open()
        return await self._files.upload(Path(src), dst, on_progress)

    async def download(
        self,
        src: str,
        dst: str | os.PathLike[str],
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file to `dst`, or the contents of a folder into the folder `dst`.

        Writes only below `dst`: links that lead out of `src` and what cannot be read are left out and
        named in the answer, links of this machine are not followed. `on_progress(bytes, of_all)` is
        called on the event loop; of a folder, what all are is None. Raises FileError, OSError of this
        machine.
        """
        await self._ensure_open()
        return await self._files.download(src, Path(dst), on_progress)

    async def fork(self, n: int = 1) -> list[AsyncTrajectory]:
        """`n` new trajectories, on the same node, with its settings and its files as they are now.

        What they share is on disk once; processes, and what is in memory and /dev/shm, are not
        copied. Each reserves memory as this one does, and waits for it if need be. Closing this one
        does not harm them. With `concurrency` 1 no action may run in it now, with more it stands
        still for the copy. Raises FailedPrecondition (it names the running action, or says that the
        node's disk is full), InvalidRequest, TrajectoryClosed, Lost, Unsupported.
        """
        request = requests.fork(self.id, n)
        await self._ensure_open()
        connection = self._client.connection
        try:
            answer = await connection.unary(FORK, request)
        except asyncio.CancelledError:
            # The server may have opened them: nobody would close them.
            for id in request.ids:
                await tell(connection, CLOSE, pb.CloseRequest(id=id))
            raise
        return [self._forked(info.id, tuple(answer.skipped)) for info in answer.trajectories]

    async def snapshot(self, name: str, *, ttl: float | None = None) -> SnapshotInfo:
        """Keep its files as they are now by a name of the task, for `restore` and for
        `client.trajectory(snapshot=name)`; what had the name before is dropped.

        It goes with its task, or `ttl` seconds after its making. Raises as `fork` does.
        """
        request = requests.snapshot(self.id, name, ttl)
        await self._ensure_open()
        answer = await self._client.connection.unary(SNAPSHOT, request)
        return snapshot_info(answer.snapshot)

    async def restore(self, name: str) -> None:
        """Put its files back to a snapshot of the task; every process in it ends.

        It stays as it was if this fails. Raises NotFound (no such snapshot), FailedPrecondition (it
        names the running action), TrajectoryClosed, Lost.
        """
        request = pb.RestoreRequest(trajectory=self.id, name=requests.identifier(name, "name"))
        await self._ensure_open()
        await self._client.connection.unary(RESTORE, request)

    async def cancel(self, reason: str = "") -> list[str]:
        """Cancel all its actions; their processes die. Returns their ids."""
        return await self._client.cancel(trajectory=self.id, reason=reason)

    async def close(self) -> None:
        """End it and its sandbox with all its processes. Idempotent; can be asked again where it
        failed. If it is cancelled the server is told to go on."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._open:
            connection, request = self._client.connection, pb.CloseRequest(id=self.id)
            try:
                await connection.unary(CLOSE, request)
            except asyncio.CancelledError:
                await tell(connection, CLOSE, request)
                raise
            finally:
                # Where the server could not be told, the end of the lease closes it.
                self._let_go()
        self._open = False
        self._closed = True

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        # What went wrong inside says more than a close that fails for the same reason.
        with suppress(TangramError):
            await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self._client, self.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def _forked(self, id: str, skipped: tuple[str, ...]) -> AsyncTrajectory:
        """One that the server has opened for us: ours to keep, and to close."""
        fork = AsyncTrajectory(
            self._client, pb.TrajectorySpec(id=id, task=self._spec.task), attached=True
        )
        fork.skipped = skipped
        self._client.lease.hold()
        fork._leased = fork._open = True
        return fork

    async def _ensure_open(self) -> None:
        if self._closed or not self._open:
            await self.open()

    async def _open_once(self) -> TrajectoryInfo:
        self._client.lease.hold()
        self._leased = True
        try:
            info = await self._ask_to_open()
        except BaseException:
            self._let_go()
            raise
        finally:
            self._opening = None
        self._open = True
        return info

    async def _ask_to_open(self) -> TrajectoryInfo:
        connection = self._client.connection
        if self._attached:
            attach = pb.AttachRequest(id=self.id)
            return trajectory_info((await connection.unary(ATTACH, attach)).trajectory)
        opening = pb.OpenRequest(trajectory=self._spec)
        return trajectory_info((await connection.unary(OPEN, opening)).trajectory)

    async def _abandon(self, opening: asyncio.Task[TrajectoryInfo]) -> None:
        """Whoever opened it waits no more. The server may have opened it: nobody would close it."""
        opening.cancel()
        self._open = False
        self._let_go()
        if not self._attached:
            await tell(self._client.connection, CLOSE, pb.CloseRequest(id=self.id))

    def _let_go(self) -> None:
        if self._leased:
            self._leased = False
            self._client.lease.let_go()


def _attach(client: AsyncClient, id: str) -> AsyncTrajectory:
    """What unpickling makes: the same trajectory for another process of the task."""
    return client.attach(id)
