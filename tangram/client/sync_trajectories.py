"""A trajectory and a permit in blocking code: typed facades over their asynchronous twins.

Nothing is decided here; see `sync`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..limits import FILE_MODE_DEFAULT, TIMEOUT_S_DEFAULT
from .background import wait as _wait
from .files import OnProgress
from .permits import AsyncPermit
from .requests import Command, Cores, Elasticity
from .results import Copied, FileStat, Result, SnapshotInfo, Timing, TrajectoryInfo
from .sessions import COLUMNS_DEFAULT, ROWS_DEFAULT, SESSION_DEFAULT, TERM_DEFAULT
from .sync_background import Process, Session
from .trajectories import AsyncTrajectory, OnOutput

if TYPE_CHECKING:
    from .sync import Client


class Trajectory:
    """One rollout and its sandbox, which keeps files and processes between actions.

    `with` closes it. Any process of the task can have it with `client.attach(id)`.
    """

    def __init__(self, client: Client, trajectory: AsyncTrajectory) -> None:
        self._client = client
        self._aio = trajectory

    @property
    def id(self) -> str:
        return self._aio.id

    @property
    def aio(self) -> AsyncTrajectory:
        """Its asynchronous twin, for use on the client's background loop alone."""
        return self._aio

    def open(self) -> TrajectoryInfo:
        """Have it opened, as `Client.trajectory` did. The same again is no harm."""
        return _wait(self._aio.open())

    def wait_ready(self, timeout: float | None = None) -> TrajectoryInfo:
        """Wait until its sandbox has started. Raises Lost, SandboxFailed, TrajectoryClosed,
        Expired."""
        return _wait(self._aio.wait_ready(timeout))

    def exec(
        self,
        command: Command,
        *,
        cores: Cores = 1,
        timeout: float = TIMEOUT_S_DEFAULT,
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
        """Run a command and wait for its end. See `AsyncTrajectory.exec`.

        `on_output` is called on the client's background thread, where blocking calls of the
        client are refused.
        """
        return _wait(
            self._aio.exec(
                command,
                cores=cores,
                timeout=timeout,
                deadline=deadline,
                cwd=cwd,
                env=env,
                stdin=stdin,
                user=user,
                check=check,
                malleable=malleable,
                deterministic=deterministic,
                duration=duration,
                elasticity=elasticity,
                max_output=max_output,
                on_output=on_output,
                priority=priority,
                labels=labels,
                id=id,
            )
        )

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
    ) -> Session:
        """A shell that keeps folder, variables and jobs between its runs. See
        `AsyncTrajectory.session`."""
        session = self._aio.session(
            name, cwd=cwd, env=env, user=user, term=term, columns=columns, rows=rows
        )
        return Session(session)

    def start(
        self,
        command: Command,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        id: str | None = None,
    ) -> Process:
        """Start a program in the background. See `AsyncTrajectory.start`."""
        return Process(_wait(self._aio.start(command, cwd=cwd, env=env, user=user, id=id)))

    def process(self, id: str) -> Process:
        """One that was started already. Raises NotFound at use."""
        return Process(self._aio.process(id))

    def read_file(self, path: str) -> bytes:
        """A whole file; `path` is absolute or relative to the workdir. Raises FileError."""
        return _wait(self._aio.read_file(path))

    def read_text(self, path: str) -> str:
        """A whole file as UTF-8. Raises FileError, UnicodeDecodeError."""
        return _wait(self._aio.read_text(path))

    def write_file(self, path: str, data: str | bytes, *, mode: int = FILE_MODE_DEFAULT) -> None:
        """Write a whole file at once, making missing folders. Raises FileError."""
        _wait(self._aio.write_file(path, data, mode=mode))

    def list_files(self, path: str = ".") -> list[FileStat]:
        """The entries of a folder, sorted by name. Raises FileError."""
        return _wait(self._aio.list_files(path))

    def stat(self, path: str) -> FileStat:
        """Of the path itself: a link is not followed. Raises FileError."""
        return _wait(self._aio.stat(path))

    def upload(
        self,
        src: str | os.PathLike[str],
        dst: str,
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file, or the contents of a folder. See `AsyncTrajectory.upload`. `on_progress` is
        called on another thread."""
        return _wait(self._aio.upload(src, dst, on_progress=on_progress))

    def download(
        self,
        src: str,
        dst: str | os.PathLike[str],
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file, or the contents of a folder. See `AsyncTrajectory.download`. `on_progress` is
        called on another thread."""
        return _wait(self._aio.download(src, dst, on_progress=on_progress))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Of a fork: sentences on what of its parent's files could not be kept."""
        return self._aio.skipped

    def fork(self, n: int = 1) -> list[Trajectory]:
        """`n` new trajectories with its settings and files. See `AsyncTrajectory.fork`."""
        return [Trajectory(self._client, fork) for fork in _wait(self._aio.fork(n))]

    def snapshot(self, name: str, *, ttl: float | None = None) -> SnapshotInfo:
        """Keep its files by a name of the task. See `AsyncTrajectory.snapshot`."""
        return _wait(self._aio.snapshot(name, ttl=ttl))

    def restore(self, name: str) -> None:
        """Put its files back to a snapshot; every process in it ends. Raises NotFound,
        FailedPrecondition (it names the running action), TrajectoryClosed, Lost."""
        _wait(self._aio.restore(name))

    def cancel(self, reason: str = "") -> list[str]:
        """Cancel all its actions; their processes die. Returns their ids."""
        return _wait(self._aio.cancel(reason))

    def close(self) -> None:
        """End it and its sandbox with all its processes. Idempotent."""
        _wait(self._aio.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _wait(self._aio.__aexit__(kind, error, traceback))

    def __reduce__(self) -> tuple[Any, ...]:
        return _trajectory, (self._client, self.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"


class Permit:
    """Units of a quota. `with` waits for them and gives them back."""

    def __init__(self, permit: AsyncPermit) -> None:
        self._aio = permit

    @property
    def action_id(self) -> str:
        return self._aio.action_id

    @property
    def timing(self) -> Timing | None:
        """How long it waited, once it is held."""
        return self._aio.timing

    def acquire(self) -> None:
        """Wait until it is held. Raises NotFound (unknown quota), Infeasible, Expired, Cancelled."""
        _wait(self._aio.acquire())

    def release(self) -> None:
        """Give it back. Idempotent."""
        _wait(self._aio.release())

    def report(self, *, retry_after: float) -> None:
        """Give it back and close the quota for `retry_after` seconds, as a provider asked."""
        _wait(self._aio.report(retry_after=retry_after))

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _trajectory(client: Client, id: str) -> Trajectory:
    """What unpickling makes: the same trajectory for another process of the task."""
    return client.attach(id)
