"""The asynchronous client: the one implementation of the SDK; `sync` is a facade over it."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from ..errors import InvalidRequest, TangramError
from ..limits import PAGE_ACTIONS_MAX, TIMEOUT_S_DEFAULT
from ..v1 import actions_pb2, cluster_pb2, trajectories_pb2, types_pb2
from . import requests
from .cluster import ClusterStatus, ImageStatus, cluster_status, image_status
from .connection import Connection, resolve_server
from .lease import LeaseKeeper
from .methods import (
    CANCEL,
    DROP_SNAPSHOT,
    EXPLAIN,
    GET,
    IMAGES,
    LIST,
    LIST_SNAPSHOTS,
    OUTPUT,
    PREFETCH,
    STATUS,
    SUBMIT,
    WAIT,
    WATCH,
)
from .permits import AsyncPermit, cancel_action
from .requests import Command, Cores
from .results import (
    STREAM_NAMES,
    ActionInfo,
    CallResult,
    Explanation,
    SnapshotInfo,
    action_info,
    call_result_from,
    explanation_from,
    snapshot_info,
)
from .trajectories import AsyncTrajectory, OnOutput

if TYPE_CHECKING:
    from ..scoring import Solution, Suite, SuiteScore
    from ..scoring.schemes import Scheme


class Task(Enum):
    """Which task `list` and `cancel` mean when none is named."""

    OWN = "own"


OWN: Final = Task.OWN
TaskFilter = str | None | Literal[Task.OWN]


class AsyncClient:
    """Trajectories, actions and quotas of one task at a Tangram server.

    Cheap to make: it connects at first use, in the process and on the event loop that use it, and
    asks again by itself when the connection is lost. Safe to use from many tasks; pickles to its
    address and task. `async with` or `close()` gives its connection back.
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
        """`server` is HOST:PORT, else $TANGRAM_SERVER, else 127.0.0.1:7070.

        `task` names the RL job. `priority` and `labels` are those of every trajectory, call and
        permit that says none of its own. `lease` is for how many seconds the server keeps the
        task's sandboxes after the last of its clients has died. Raises InvalidRequest.
        """
        self.server = resolve_server(server)
        self.task = requests.identifier(task, "task")
        self._priority = priority
        self._labels = dict(labels or {})
        self._lease_s = requests.seconds(lease, "lease")
        self.connection = Connection(self.server)
        self.lease = LeaseKeeper(self.connection, self.task, self._lease_s)

    # -- trajectories ------------------------------------------------------------------------

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
    ) -> AsyncTrajectory:
        """A trajectory with a sandbox of its own; it opens at `async with` or at its first use.

        Without an `image` the sandbox has the server's own programs. Sizes are bytes or text
        such as "512Mi"; `network` is "none" or "egress". Those that are not given are the
        server's: 1Gi of memory, 10Gi of disk, 64Mi of shm and no network unless its operator or
        its machine says otherwise. `pull` is "missing" (a registry is asked for an image that is
        not on the node), "always" (it is asked once per task what a tag means) or "never".
        `shell` runs str commands, as in ["bash", "-c"];
        `concurrency` actions may run at a time; `ttl` seconds after its opening it ends by
        itself. With `snapshot` it starts from files that `AsyncTrajectory.snapshot` kept by this
        name of the task, on their node and image; all other settings are its own. Raises
        InvalidRequest.
        """
        spec = requests.trajectory(
            id=id,
            task=self.task,
            image=image,
            group=group,
            step=step,
            priority=self._priority if priority is None else priority,
            labels={**self._labels, **(labels or {})},
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
        return AsyncTrajectory(self, spec, attached=False)

    def attach(self, id: str) -> AsyncTrajectory:
        """A trajectory that another process of the task has opened. Raises NotFound at use."""
        spec = trajectories_pb2.TrajectorySpec(id=requests.identifier(id, "id"), task=self.task)
        return AsyncTrajectory(self, spec, attached=True)

    async def snapshots(self) -> list[SnapshotInfo]:
        """Those of the task, in the order of their making."""
        request = trajectories_pb2.ListSnapshotsRequest(task=self.task)
        answer = await self.connection.unary(LIST_SNAPSHOTS, request)
        return [snapshot_info(message) for message in answer.snapshots]

    async def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot of the task. Trajectories that started from it go on. Idempotent."""
        request = trajectories_pb2.DropSnapshotRequest(
            task=self.task, name=requests.identifier(name, "name")
        )
        await self.connection.unary(DROP_SNAPSHOT, request)

    # -- actions -----------------------------------------------------------------------------

    async def get(self, id: str) -> ActionInfo:
        """An action as it stands. Raises NotFound."""
        request = actions_pb2.GetRequest(id=requests.identifier(id, "id"))
        return action_info((await self.connection.unary(GET, request)).action)

    async def cancel(
        self,
        action: str | None = None,
        trajectory: str | None = None,
        group: str | None = None,
        step: int | None = None,
        reason: str = "",
        *,
        task: TaskFilter = OWN,
    ) -> list[str]:
        """Cancel the actions that match all that is given; their processes die.

        At least one selector. A group or a step is one of this client's task unless another is
        named; None means all tasks. Returns the ids. Raises InvalidRequest, NotFound (`action`).
        """
        named = (action, trajectory, group, step, task if isinstance(task, str) else None)
        if all(selector is None for selector in named):
            raise InvalidRequest(
                "cancel needs at least one of action, trajectory, group and step", field="action"
            )
        request = actions_pb2.CancelRequest(
            action=action,
            trajectory=trajectory,
            group=group,
            step=step,
            task="" if action is not None and task is OWN else self._task_filter(task),
            reason=reason,
        )
        return list((await self.connection.unary(CANCEL, request)).cancelled)

    async def list(
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
        """At most `limit` actions that match all that is given, newest first.

        Of this client's task unless another is named; None means all tasks.
        """
        request = actions_pb2.ListRequest(
            task=self._task_filter(task),
            trajectory=trajectory,
            group=group,
            step=step,
            states=[requests.state(state) for state in states],
            labels=labels,
        )
        found: list[ActionInfo] = []
        while len(found) < limit:
            request.page_size = min(PAGE_ACTIONS_MAX, limit - len(found))
            answer = await self.connection.unary(LIST, request)
            found.extend(action_info(action) for action in answer.actions)
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        return found

    async def explain(self, id: str) -> Explanation:
        """Where an action stands and why: its waits with their reasons. Raises NotFound."""
        request = actions_pb2.ExplainRequest(id=requests.identifier(id, "id"))
        return explanation_from(await self.connection.unary(EXPLAIN, request))

    async def output(
        self, id: str, *, follow: bool = False
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """What an action wrote: ("stdout" or "stderr", bytes), live until its end with `follow`.

        Goes on where a lost connection cut it. Raises NotFound.
        """
        request = actions_pb2.OutputRequest(id=requests.identifier(id, "id"), follow=follow)
        retries = self.connection.retries()
        while True:
            try:
                async with aclosing(self.connection.server_stream(OUTPUT, request)) as pieces:
                    async for piece in pieces:
                        retries.progress()
                        end = piece.offset + len(piece.data)
                        if piece.stream == actions_pb2.OutputResponse.STREAM_STDOUT:
                            request.stdout_offset = end
                        else:
                            request.stderr_offset = end
                        yield STREAM_NAMES[piece.stream], piece.data
                    return
            except TangramError as error:
                await retries.pause(error)

    # -- quotas ------------------------------------------------------------------------------

    def quota(self, name: str, amount: int = 1, *, deadline: float | None = None) -> AsyncPermit:
        """A permit for `amount` units of a quota: `async with client.quota("search"): ...`.

        `deadline` seconds from its acquiring at the latest it must be held, else Expired.
        """
        spec = requests.action(
            id=None,
            task=self.task,
            priority=self._priority,
            labels=self._labels,
            deadline=deadline,
        )
        requests.permit_into(spec, name, amount)
        return AsyncPermit(self.connection, self.lease, spec)

    async def call(
        self,
        quota: str,
        url: str,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        amount: int = 1,
        timeout: float = TIMEOUT_S_DEFAULT,  # noqa: ASYNC109 - the run's limit, kept by the server
    ) -> CallResult:
        """An HTTP request, done by the server while it holds `amount` units of the quota.

        Any status is a result. Raises ProviderUnavailable (no answer), NotFound (unknown quota),
        InvalidRequest, InfraError.
        """
        spec = requests.action(
            id=None,
            task=self.task,
            priority=self._priority,
            labels=self._labels,
            timeout=timeout,
        )
        requests.call_into(
            spec, quota, url, amount=amount, method=method, headers=headers, json=json
        )
        began = time.perf_counter()
        action = await self.run_action(spec)
        return call_result_from(action, time.perf_counter() - began)

    # -- rewards -----------------------------------------------------------------------------

    async def score_tests(
        self,
        solution: Solution,
        tests: Suite,
        *,
        image: str | None = None,
        trajectory: AsyncTrajectory | None = None,
        fresh: bool = True,
        scheme: Scheme | str = "all",
        setup: Command | None = None,
        cores: Cores = 1,
        timeout: float = 10.0,  # noqa: ASYNC109 - of one test, kept by the server
        total_timeout: float | None = None,
        early_stop: bool = True,
        sandbox: Mapping[str, Any] | None = None,
    ) -> SuiteScore:
        """Run tests against a solution: a value in 0..1, and what each test did.

        `solution` is the text of `solution.py`, a dictionary of files, a `Diff`, or a list of files
        to be taken from `trajectory`. `tests` is a `StdioSuite`, a `FunctionSuite` or a
        `PytestSuite`. These and the schemes stand in `tangram.scoring`.

        They run in a fresh sandbox of `image` (else that of the trajectory; `sandbox` has more
        arguments of `trajectory()`), where there is nothing else of the solution; with `fresh=False`
        in the trajectory as it stands, whose processes a `PytestSuite` ends before. `setup` is a
        command that builds the solution before the tests come in.

        `scheme` is "all", "fraction" or a `Difficulty`. With `early_stop` tests are not run that
        cannot change the value; `not_run` names them. `cores` is how many the tests may use: as
        many programs or calls at a time, or processes of pytest-xdist. `timeout` is that of one
        test, `total_timeout` that of all, in seconds of running.

        What the solution does is in the score, whatever it is. Raises InvalidRequest (a malformed
        case is named), Unsupported (the image lacks what the tests need), and what `trajectory()`
        and `exec` raise: an InfraError is no score of 0.
        """
        from ..scoring.scoring import plan, score

        todo = plan(
            solution,
            tests,
            image=image,
            trajectory=trajectory,
            fresh=fresh,
            scheme_given=scheme,
            setup=setup,
            cores=cores,
            timeout_s=requests.seconds(timeout, "timeout"),
            total_s=None
            if total_timeout is None
            else requests.seconds(total_timeout, "total_timeout"),
            early_stop=early_stop,
            sandbox=sandbox,
        )
        return await score(self, todo)

    # -- the pool ----------------------------------------------------------------------------

    async def status(self) -> ClusterStatus:
        """Nodes, quotas, queues and tasks now."""
        return cluster_status(await self.connection.unary(STATUS, cluster_pb2.StatusRequest()))

    async def watch(self, interval: float = 1.0) -> AsyncGenerator[ClusterStatus, None]:
        """The status every `interval` seconds, for as long as it is read."""
        request = cluster_pb2.WatchRequest(interval_s=requests.seconds(interval, "interval"))
        retries = self.connection.retries()
        while True:
            try:
                async with aclosing(self.connection.server_stream(WATCH, request)) as answers:
                    async for answer in answers:
                        retries.progress()
                        yield cluster_status(answer)
                    return
            except TangramError as error:
                await retries.pause(error)

    async def images(self) -> builtins.list[ImageStatus]:
        """The images of the nodes, and those that are being pulled."""
        answer = await self.connection.unary(IMAGES, cluster_pb2.ImagesRequest())
        return [image_status(image) for image in answer.images]

    async def prefetch(self, images: Iterable[str]) -> builtins.list[ImageStatus]:
        """Have images brought to the nodes while other work goes on; how they stand now.

        Returns at once: `images()` tells how far they are, and what failed. Each is kept until a
        trajectory uses it, for a day at most. Raises InvalidRequest, Unsupported.
        """
        request = requests.prefetch(self.task, images)
        answer = await self.connection.unary(PREFETCH, request)
        return [image_status(image) for image in answer.images]

    async def close(self) -> None:
        """Give back this event loop's connection. Trajectories stay open at the server until they
        are closed, or the task's lease ends. Idempotent."""
        self.lease.stop()
        await self.connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.server, self.task, self._priority, self._labels, self._lease_s)
        return _rebuild, (type(self), *arguments)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r}, task={self.task!r})"

    # -- for this package --------------------------------------------------------------------

    async def run_action(
        self, spec: types_pb2.ActionSpec, on_output: OnOutput | None = None
    ) -> types_pb2.Action:
        """Run to its end. If this is cancelled, or `on_output` raises, so is the action."""
        self.lease.hold()
        try:
            if on_output is None:
                return await self.connection.run(spec)
            return await self._run_live(spec, on_output)
        except asyncio.CancelledError:
            await cancel_action(self.connection, spec.id, "the caller was cancelled")
            raise
        finally:
            self.lease.let_go()

    async def _run_live(self, spec: types_pb2.ActionSpec, on_output: OnOutput) -> types_pb2.Action:
        await self.connection.unary(SUBMIT, actions_pb2.SubmitRequest(action=spec))
        async with aclosing(self.output(spec.id, follow=True)) as pieces:
            async for stream, data in pieces:
                try:
                    on_output(stream, data)
                except Exception:
                    await cancel_action(self.connection, spec.id, "on_output raised")
                    raise
        waiting = actions_pb2.WaitRequest(id=spec.id)
        return (await self.connection.unary(WAIT, waiting)).action

    def _task_filter(self, task: TaskFilter) -> str:
        if task is OWN:
            return self.task
        return task or ""


def _rebuild(
    kind: type[AsyncClient],
    server: str,
    task: str,
    priority: int,
    labels: Mapping[str, str],
    lease_s: float,
) -> AsyncClient:
    return kind(server, task=task, priority=priority, labels=labels, lease=lease_s)
