"""The HTTP side: /metrics for Prometheus, /healthz and /readyz for whoever starts and stops us."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from .metrics import Metrics

SHUTDOWN_S = 1.0
"""For requests that are being answered; none takes long."""

PATHS = ("/metrics", "/healthz", "/readyz")


class HttpServer:
    """Serves while it is started; the sockets are bound by `start`."""

    def __init__(self, metrics: Metrics, not_ready: Callable[[], str]) -> None:
        """`not_ready` gives the reason why no work is taken now; empty when it is."""
        self._metrics = metrics
        self._not_ready = not_ready
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Serve; returns the port (0 picks one). Raises OSError if the address cannot be bound."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_readiness)
        app.router.add_route("*", "/{path:.*}", _serve_nothing)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        self._runner = runner
        site = web.TCPSite(runner, host, port, reuse_port=False)
        await site.start()
        address: tuple[str, int] = runner.addresses[0]
        return address[1]

    async def aclose(self) -> None:
        """Stop serving. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _serve_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _serve_readiness(self, request: web.Request) -> web.Response:
        if reason := self._not_ready():
            return web.Response(status=503, text=f"{reason}\n")
        return web.Response(text="ready\n")


async def _serve_nothing(request: web.Request) -> web.Response:
    if request.path in PATHS:
        return web.Response(status=405, text="only GET\n", headers={"Allow": "GET, HEAD"})
    return web.Response(status=404, text=f"nothing here; there are {', '.join(PATHS)}\n")
