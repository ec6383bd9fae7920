"""The blocking client: a typed facade over `aio` on this process's background event loop.

Nothing is decided here. Every method hands its arguments to the asynchronous twin of its name and
waits; `submit` hands them over and does not wait.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from ..errors import InvalidRequest
from ..limits import FILE_MODE_DEFAULT, TIMEOUT_S_DEFAULT
from .aio import OWN, AsyncClient, TaskFilter
from .background import background
from .cluster import ClusterStatus
from .files import OnProgress
from .permits import AsyncPermit
from .requests import Command, Cores, Elasticity
from .results import (
    ActionInfo,
    CallResult,
    Copied,
    Explanation,
    FileStat,
    Result,
    SnapshotInfo,
    Timing,
    TrajectoryInfo,
)
from .trajectories import AsyncTrajectory, OnOutput

if TYPE_CHECKING:
    from ..scoring import Solution, Suite, SuiteScore
    from ..scoring.schemes import Scheme

P = ParamSpec("P")
T = TypeVar("T")


def _wait(work: Coroutine[Any, Any, T]) -> T:
    return background().run(work)


def _each(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Its items (never None), waited for one by one. Who stops reading ends it."""

    async def take() -> T | None:
        return await anext(items, None)

    try:
        while (item := _wait(take())) is not None:
            yield item
    finally:
        _wait(items.aclose())


class Client:
    """Trajectories, actions and quotas of one task at a Tangram server, in blocking code.

    Safe to use from many threads, and after a fork in both processes; connects at first use;
    pickles to its address and task. Ctrl-C in a call cancels its action. Errors, arguments and
    answers are those of `AsyncClient`.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        task: str = "default",
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        lease: float = 60.0,
    ) -> None:
        """See `AsyncClient`. Raises InvalidRequest."""
        self._aio = AsyncClient(server, task=task, priority=priority, labels=labels, lease=lease)

    @property
    def server(self) -> str:
        return self._aio.server

    @property
    def task(self) -> str:
        return self._aio.task

    def trajectory(
        self,
        image: str | None = None,
        *,
        id: str | None = None,
        group: str | None = None,
        step: int | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        memory: int | str | None = None,
        disk: int | str | None = None,
        shm: int | str | None = None,
        network: str | None = None,
        user: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        shell: Sequence[str] | None = None,
        concurrency: int = 1,
        ttl: float | None = None,
        snapshot: str | None = None,
    ) -> Trajectory:
        """Open a trajectory; its sandbox starts meanwhile. See `AsyncClient.trajectory`.

        Raises InvalidRequest, NotFound (unknown image), Infeasible, Unsupported, AlreadyExists.
        """
        trajectory = self._aio.trajectory(
            image,
            id=id,
            group=group,
            step=step,
            priority=priority,
            labels=labels,
            memory=memory,
            disk=disk,
            shm=shm,
            network=network,
            user=user,
            workdir=workdir,
            env=env,
            shell=shell,
            concurrency=concurrency,
            ttl=ttl,
            snapshot=snapshot,
        )
        _wait(trajectory.open())
        return Trajectory(self, trajectory)

    def attach(self, id: str) -> Trajectory:
        """A trajectory that another process of the task has opened. Raises NotFound at use."""
        return Trajectory(self, self._aio.attach(id))

    def snapshots(self) -> list[SnapshotInfo]:
        """Those of the task, in the order of their making."""
        return _wait(self._aio.snapshots())

    def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot of the task. Trajectories that started from it go on. Idempotent."""
        _wait(self._aio.drop_snapshot(name))

    def get(self, id: str) -> ActionInfo:
        """An action as it stands. Raises NotFound."""
        return _wait(self._aio.get(id))

    def cancel(
        self,
        action: str | None = None,
        trajectory: str | None = None,
        group: str | None = None,
        step: int | None = None,
        reason: str = "",
        *,
        task: TaskFilter = OWN,
    ) -> list[str]:
        """Cancel the actions that match all that is given. See `AsyncClient.cancel`."""
        return _wait(self._aio.cancel(action, trajectory, group, step, reason, task=task))

    def list(
        self,
        *,
        task: TaskFilter = OWN,
        trajectory: str | None = None,
        group: str | None = None,
        step: int | None = None,
        states: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 1000,
    ) -> list[ActionInfo]:
        """At most `limit` matching actions, newest first; of this client's task by default."""
        return _wait(
            self._aio.list(
                task=task,
                trajectory=trajectory,
                group=group,
                step=step,
                states=states,
                labels=labels,
                limit=limit,
            )
        )

    def explain(self, id: str) -> Explanation:
        """Where an action stands and why. Raises NotFound."""
        return _wait(self._aio.explain(id))

    def output(self, id: str, *, follow: bool = False) -> Iterator[tuple[str, bytes]]:
        """What an action wrote, live until its end with `follow`. See `AsyncClient.output`."""
        return _each(self._aio.output(id, follow=follow))

    def quota(self, name: str, amount: int = 1, *, deadline: float | None = None) -> Permit:
        """A permit for `amount` units: `with client.quota("search"): ...` waits and holds it."""
        return Permit(self._aio.quota(name, amount, deadline=deadline))

    def call(
        self,
        quota: str,
        url: str,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        amount: int = 1,
        timeout: float = TIMEOUT_S_DEFAULT,
    ) -> CallResult:
        """An HTTP request by the server under a quota. See `AsyncClient.call`."""
        return _wait(
            self._aio.call(
                quota,
                url,
                method=method,
                headers=headers,
                json=json,
                amount=amount,
                timeout=timeout,
            )
        )

    def score_tests(
        self,
        solution: Solution,
        tests: Suite,
        *,
        image: str | None = None,
        trajectory: Trajectory | None = None,
        fresh: bool = True,
        scheme: Scheme | str = "all",
        setup: Command | None = None,
        cores: Cores = 1,
        timeout: float = 10.0,
        total_timeout: float | None = None,
        early_stop: bool = True,
        sandbox: Mapping[str, Any] | None = None,
    ) -> SuiteScore:
        """Run tests against a solution: a value in 0..1. See `AsyncClient.score_tests`."""
        return _wait(
            self._aio.score_tests(
                solution,
                tests,
                image=image,
                trajectory=None if trajectory is None else trajectory._aio,
                fresh=fresh,
                scheme=scheme,
                setup=setup,
                cores=cores,
                timeout=timeout,
                total_timeout=total_timeout,
                early_stop=early_stop,
                sandbox=sandbox,
            )
        )

    def status(self) -> ClusterStatus:
        """Nodes, quotas, queues and tasks now."""
        return _wait(self._aio.status())

    def watch(self, interval: float = 1.0) -> Iterator[ClusterStatus]:
        """The status every `interval` seconds, for as long as it is read."""
        return _each(self._aio.watch(interval))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `fn(*args, **kwargs)` and do not wait: `client.submit(t.exec, "make test")`.

        `fn` is a method of this client or of its trajectories; no thread is taken. Cancelling the
        future cancels the action. Raises InvalidRequest for any other function.
        """
        owner = getattr(fn, "__self__", None)
        twin = getattr(getattr(owner, "_aio", None), getattr(fn, "__name__", ""), None)
        if not isinstance(owner, Client | Trajectory) or twin is None or fn.__name__ in _INSTANT:
            raise InvalidRequest(
                "fn must be a method of a client or a trajectory that asks the server, such as "
                f"trajectory.exec, not {fn!r}: a ThreadPoolExecutor runs other functions",
                field="fn",
            )
        named = {name: _twin_of(value) for name, value in kwargs.items()}
        return background().submit(twin(*args, **named))

    def close(self) -> None:
        """Give back the connection. Trajectories stay open at the server. Idempotent."""
        _wait(self._aio.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _client, (self._aio,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r}, task={self.task!r})"


_INSTANT = frozenset({"trajectory", "attach", "quota", "output", "watch", "fork"})
"""Methods that make objects of ours: their asynchronous twins make others, or are no coroutines."""


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


def _twin_of(value: Any) -> Any:
    """A trajectory as the asynchronous methods take it; anything else as it is."""
    return value._aio if isinstance(value, Trajectory) else value


def _client(twin: AsyncClient) -> Client:
    """What unpickling makes."""
    client = Client.__new__(Client)
    client._aio = twin
    return client


def _trajectory(client: Client, id: str) -> Trajectory:
    """What unpickling makes: the same trajectory for another process of the task."""
    return client.attach(id)
