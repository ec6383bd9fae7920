"""The composition root: configuration -> folders -> managers -> dispatcher -> gRPC and HTTP.

Starts and stops things in order and says what hinders it; what they do stands in their modules.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..config import ServerConfig
from ..errors import FailedPrecondition, TangramError
from ..limits import KEEPALIVE_MS, MESSAGE_BYTES_MAX
from ..managers.base import Manager, QuotaHost
from ..managers.errors import ManagerError
from ..managers.opening import open_cpu_manager, open_quota_manager
from ..scheduler import Scheduler
from ..scheduler.model import Capacity
from ..scheduler.resource import ResourceView
from ..v1 import actions_pb2_grpc, cluster_pb2_grpc, trajectories_pb2_grpc
from .actions_service import ActionsService
from .admission import DispatcherLimits
from .answer_cache import AnswerCache
from .cluster_service import ClusterService
from .dispatcher import Dispatcher
from .failures import from_manager
from .folders import StateFolder, runtime_folder
from .http import HttpServer
from .metrics import Metrics
from .node_images import NodeImages
from .recorder import TraceRecorder
from .trajectories_service import TrajectoriesService

STREAMS_MAX = 100_000
"""Calls at a time on one connection: as many as actions may be in flight."""

STOP_GRACE_S = 1.0
"""For answers on their way when all actions have ended."""

GC_YOUNG_OBJECTS = 50_000
"""New objects between two looks for garbage cycles; Python's default is 700."""

SERVICES = ("tangram.v1.Actions", "tangram.v1.Trajectories", "tangram.v1.Cluster")

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # Two servers on one port would share its connections at random.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 6),
)


class Server:
    """One Tangram server. `start`, then `aclose`; addresses are known after `start`."""

    def __init__(self, config: ServerConfig, *, managers: Sequence[Manager] | None = None) -> None:
        """`managers` replace those that the configuration describes."""
        self.config = config
        self.grpc_address = ""
        self.http_address = ""
        self._given_managers = managers
        self._not_ready = "starting"
        self._state: StateFolder | None = None
        self._runtime: Path | None = None
        self._managers: list[Manager] = []
        self._scheduler: Scheduler | None = None
        self._dispatcher: Dispatcher | None = None
        self._recorder: TraceRecorder | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._http: HttpServer | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def scheduler(self) -> Scheduler:
        if self._scheduler is None:
            raise RuntimeError("the server has not been started")
        return self._scheduler

    @property
    def dispatcher(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("the server has not been started")
        return self._dispatcher

    async def start(self) -> None:
        """Serve. Raises TangramError that says what hinders it and what would help; nothing is
        left behind then."""
        try:
            await self._start()
        except ManagerError as error:
            await self.aclose()
            raise from_manager(error) from error
        except BaseException:
            await self.aclose()
            raise

    async def wait_closed(self) -> None:
        """Returns when it no longer serves."""
        if self._grpc is not None:
            await self._grpc.wait_for_termination()
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def aclose(self) -> None:
        """Take no more work, end what runs, close every sandbox, stop serving. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close server")
        await asyncio.shield(self._closing)

    # -- start, in this order ----------------------------------------------------------------

    async def _start(self) -> None:
        # 1. The port first: it names this server's folders, cgroups and containers.
        host, wanted_port = self.config.listen_address
        self._grpc = grpc.aio.server(options=_OPTIONS)
        port = _bind(self._grpc, host, wanted_port)
        # 2. Folders, of which nobody else may use the state.
        self._state = await asyncio.to_thread(
            StateFolder.hold, self.config.state, port, temporary=wanted_port == 0
        )
        # 3. Managers: what there is to share.
        await self._open_managers(port, self._state)
        # 4. The scheduler, which counts what they have, and the dispatcher over all of them.
        rules = self.config.scheduler
        self._scheduler = Scheduler(
            _views(self._managers), rules.policy, rules.order, rules.weights, rules.limits
        )
        if self.config.record is not None:
            self._recorder = self._record_to(self.config.record, self._scheduler)
        queue = self.config.queue
        dispatcher = self._dispatcher = Dispatcher(
            self._scheduler,
            self._managers,
            spool=self._state.path / "output",
            limits=DispatcherLimits(
                max_actions=queue.max_actions,
                max_bytes=queue.max_bytes,
                detach_grace_s=self.config.detach_grace,
                lease_s=self.config.lease,
                max_snapshots=self.config.snapshots.max_count,
                max_snapshot_bytes=self.config.snapshots.max_bytes,
            ),
            answers=AnswerCache(self.config.cache.tasks, self.config.cache.max_bytes),
        )
        metrics = Metrics(
            dispatcher.status,
            errors=self._scheduler.profiler.errors,
            served=dispatcher.answers.counts,
            recorder=self._recorder,
        )
        dispatcher.observers.append(metrics.observe)
        dispatcher.recorder = self._recorder
        await dispatcher.start()
        # 5. Serve, HTTP first: /readyz tells the truth from its first answer on.
        await self._start_http(metrics)
        await self._start_grpc(self._grpc, dispatcher)
        self.grpc_address = _shown(host, port)
        self._not_ready = ""

    def _record_to(self, path: Path, scheduler: Scheduler) -> TraceRecorder:
        recorder = TraceRecorder(
            path, predict=lambda a: scheduler.profiler.predict(a).profile, clock=time.monotonic
        )
        if recorder.path != path:
            print(
                f"tangram: {path} holds a trace: this one goes to {recorder.path}", file=sys.stderr
            )
        return recorder

    async def _open_managers(self, port: int, state: StateFolder) -> None:
        if self._given_managers is not None:
            self._managers = list(self._given_managers)
            return
        self._runtime = await asyncio.to_thread(runtime_folder, port)
        node = self.config.node_config(port, state.path, self._runtime)
        self._managers.append(await open_cpu_manager(node))
        self._managers.append(await open_quota_manager(self.config.quotas))

    async def _start_http(self, metrics: Metrics) -> None:
        host, port = self.config.http_address
        self._http = HttpServer(metrics, lambda: self._not_ready)
        try:
            port = await self._http.start(host, port)
        except OSError as error:
            raise _in_use(host, port, "--http", error.strerror or str(error)) from error
        self.http_address = _shown(host, port)

    async def _start_grpc(self, server: grpc.aio.Server, dispatcher: Dispatcher) -> None:
        output_limit, tenants = self.config.sandbox.output_limit, self.config.task_tenants
        actions = ActionsService(dispatcher, output_limit_bytes=output_limit, tenants=tenants)
        _add(actions_pb2_grpc.add_ActionsServicer_to_server, actions, server)
        trajectories = TrajectoriesService(dispatcher, tenants)
        _add(trajectories_pb2_grpc.add_TrajectoriesServicer_to_server, trajectories, server)
        cluster = ClusterService(dispatcher, NodeImages(self._managers))
        _add(cluster_pb2_grpc.add_ClusterServicer_to_server, cluster, server)
        _add(health_pb2_grpc.add_HealthServicer_to_server, self._health, server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await server.start()

    # -- stop, in reverse --------------------------------------------------------------------

    async def _close(self) -> None:
        self._not_ready = "draining"
        await self._health.enter_graceful_shutdown()
        # Pushed in the order of starting, unwound in reverse, each whatever the others raise.
        async with AsyncExitStack() as stack:
            if self._state is not None:
                stack.push_async_callback(asyncio.to_thread, self._state.release)
            if self._runtime is not None:
                stack.push_async_callback(
                    asyncio.to_thread, shutil.rmtree, self._runtime, ignore_errors=True
                )
            if self._http is not None:
                stack.push_async_callback(self._http.aclose)
            if self._grpc is not None:
                stack.push_async_callback(self._grpc.stop, STOP_GRACE_S)
            for manager in self._managers:
                stack.push_async_callback(manager.aclose)
            if self._recorder is not None:
                stack.push_async_callback(self._recorder.aclose)
            if self._dispatcher is not None:
                stack.push_async_callback(self._dispatcher.aclose)


def run(config: ServerConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises TangramError if it cannot start."""
    import uvloop

    # Records live for an hour and hold no cycles: looking through all of them often would only
    # stop the loop for tens of milliseconds.
    gc.set_threshold(GC_YOUNG_OBJECTS, 20, 100)
    raise_open_files_limit()
    return uvloop.run(serve(config))


def raise_open_files_limit() -> None:
    """To what this process may have at most: each sandbox keeps half a dozen files open, and the usual
    limit would end at 150 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(config: ServerConfig) -> int:
    """Serve until the first SIGTERM or SIGINT, then stop gently; a second one ends it at once:
    sandboxes that are left then end by themselves after `orphan_after`."""
    loop = asyncio.get_running_loop()
    asked = [asyncio.Event(), asyncio.Event()]

    def on_signal() -> None:
        asked[1 if asked[0].is_set() else 0].set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    warn_if_open(config)
    server = Server(config)
    if not await _unless(server.start(), asked[0]):
        print("tangram: stopped before it served", file=sys.stderr)
        return 1
    print(f"tangram ready grpc={server.grpc_address} http={server.http_address}", flush=True)
    await asked[0].wait()
    print("tangram: stopping; once more to stop at once", file=sys.stderr)
    return 0 if await _unless(server.aclose(), asked[1]) else 1


async def _unless(work: Any, stop: asyncio.Event) -> bool:
    """Do the work; cancel it when `stop` comes first. Whether it was done."""
    task, stopped = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        task.cancel()
        await asyncio.wait({task})
        return False
    finally:
        stopped.cancel()


def _views(managers: Sequence[Manager]) -> dict[str, Callable[[Capacity], ResourceView]]:
    """The views that come with their managers, by name."""
    views: dict[str, Callable[[Capacity], ResourceView]] = {}
    for manager in managers:
        if isinstance(manager, QuotaHost):
            views.update(manager.views())
    return views


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """Raises FailedPrecondition if somebody else has the port, or it is not ours to take."""
    _check_bindable(host, port)
    try:
        return server.add_insecure_port(_shown(host, port))
    except RuntimeError as error:
        raise _in_use(host, port, "--listen", str(error)) from error


def _check_bindable(host: str, port: int) -> None:
    """gRPC says only that it failed: the reason comes from a socket that is closed again."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _in_use(host, port, "--listen", error.strerror or str(error)) from error


def _in_use(host: str, port: int, option: str, why: str) -> TangramError:
    if why == "Address already in use" or "already in use" in why:
        message = f"port {port} is in use: another tangram serve? use {option} HOST:PORT"
    else:
        message = f"{_shown(host, port)} cannot be bound: {why}; use {option} HOST:PORT"
    return FailedPrecondition(message, field=option.removeprefix("--"))


def _add(adder: Any, servicer: object, server: grpc.aio.Server) -> None:
    """The generated functions carry no types."""
    adder(servicer, _Unregistered(server))


class _Unregistered:
    """A server as the generated functions want it, without registered methods.

    grpcio keeps one task per registered method and waits for all of them at each call: with two
    dozen methods that is a fifth of the cost of a call. Generic handlers share one task.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Nothing: `add_generic_rpc_handlers` was given the same."""


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def warn_if_open(config: ServerConfig) -> None:
    for name, (host, port) in (
        ("gRPC", config.listen_address),
        ("HTTP", config.http_address),
    ):
        if not _is_loopback(host):
            print(
                f"tangram: warning: {name} on {_shown(host, port)} is open to the network without "
                "authentication: whoever reaches it runs commands here; use a loopback address or "
                "a firewall",
                file=sys.stderr,
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
