"""The blocking client: a typed facade over `aio` on this process's background event loop.

Nothing is decided here. Every method hands its arguments to the asynchronous twin of its name and
waits; `submit` hands them over and does not wait.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from ..errors import InvalidRequest
from ..limits import TIMEOUT_S_DEFAULT
from .aio import OWN, AsyncClient, TaskFilter
from .background import background
from .background import each as _each
from .background import wait as _wait
from .cluster import ClusterStatus, ImageStatus
from .requests import Command, Cores
from .results import (
    ActionInfo,
    CallResult,
    Explanation,
    SnapshotInfo,
)
from .sync_background import Process, Session
from .sync_trajectories import Permit, Trajectory

if TYPE_CHECKING:
    from ..scoring import Solution, Suite, SuiteScore
    from ..scoring.schemes import Scheme

P = ParamSpec("P")
T = TypeVar("T")


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
        pull: str | None = None,
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
            pull=pull,
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

    def images(self) -> builtins.list[ImageStatus]:
        """The images of the nodes, and those that are being pulled."""
        return _wait(self._aio.images())

    def prefetch(self, images: Iterable[str]) -> builtins.list[ImageStatus]:
        """Have images brought while other work goes on. See `AsyncClient.prefetch`."""
        return _wait(self._aio.prefetch(images))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `fn(*args, **kwargs)` and do not wait: `client.submit(t.exec, "make test")`.

        `fn` is a method of this client or of its trajectories; no thread is taken. Cancelling the
        future cancels the action. Raises InvalidRequest for any other function.
        """
        owner = getattr(fn, "__self__", None)
        twin = getattr(getattr(owner, "_aio", None), getattr(fn, "__name__", ""), None)
        owners = Client | Trajectory | Session | Process
        if not isinstance(owner, owners) or twin is None or fn.__name__ in _INSTANT:
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


_INSTANT = frozenset(
    {
        "trajectory",
        "attach",
        "quota",
        "output",
        "watch",
        "session",
        "process",
        "start",
        "follow",
        "fork",
    }
)
"""Methods that make objects of ours: their asynchronous twins make others, or are no coroutines."""


def _twin_of(value: Any) -> Any:
    """A trajectory as the asynchronous methods take it; anything else as it is."""
    return value.aio if isinstance(value, Trajectory) else value


def _client(twin: AsyncClient) -> Client:
    """What unpickling makes."""
    client = Client.__new__(Client)
    client._aio = twin
    return client
