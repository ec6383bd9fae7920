"""A small server in front of a registry that passes everything on, but for what a test wants."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

_PASSED_ON = ("Authorization", "Accept", "Range")
_PASSED_BACK = (
    "Content-Type",
    "Content-Length",
    "Docker-Content-Digest",
    "Docker-Distribution-Api-Version",
    "WWW-Authenticate",
)
HELD_AFTER_BYTES = 1 << 19
"""Of a blob: enough for the engine to tell of it."""
_CHUNK_BYTES = 1 << 16


@dataclass
class Front:
    """`kind` below is what a path asks for: `manifests`, `blobs`, or `v2` for the registry itself."""

    target: str
    host: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    """By kind."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Requests that came to where `hold` stops them, by kind."""
    broken_off: Counter[str] = field(default_factory=Counter)
    """Answers that nobody wanted to the end any more, by kind."""

    def __post_init__(self) -> None:
        self._refusals: dict[str, int] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    def refuse(self, kind: str, status: int) -> None:
        """Requests of a kind get this status until `allow`."""
        self._refusals[kind] = status

    def allow(self, kind: str) -> None:
        self._refusals.pop(kind, None)

    def hold(self, kind: str) -> asyncio.Event:
        """Requests of a kind are not answered, large blobs after their first part, until the returned
        event is set."""
        return self._held.setdefault(kind, asyncio.Event())

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        for held in self._held.values():
            held.set()
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        kind = next((k for k in ("manifests", "blobs") if f"/{k}/" in request.path), "v2")
        self.requests[kind] += 1
        if status := self._refusals.get(kind):
            return web.json_response(_refusal(status), status=status)
        try:
            if kind != "blobs":
                await self._held_up(kind)
            return await self._pass_on(request, kind)
        except ConnectionError:
            self.broken_off[kind] += 1
            raise

    async def _pass_on(self, request: web.Request, kind: str) -> web.StreamResponse:
        assert self._session is not None
        headers = {
            name: ", ".join(values)
            for name in _PASSED_ON
            if (values := request.headers.getall(name, []))
        }
        async with self._session.request(
            request.method, f"http://{self.target}{request.path_qs}", headers=headers
        ) as answer:
            back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=back)
            await response.prepare(request)
            sent = 0
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                if kind == "blobs" and sent >= HELD_AFTER_BYTES:
                    await self._held_up(kind)
                await response.write(chunk)
                sent += len(chunk)
            await response.write_eof()
            return response

    async def _held_up(self, kind: str) -> None:
        if (held := self._held.get(kind)) is not None:
            self.waiting[kind] += 1
            await held.wait()


def _refusal(status: int) -> dict[str, object]:
    code = "TOOMANYREQUESTS" if status == 429 else "UNKNOWN"
    return {"errors": [{"code": code, "message": f"this is a {status}"}]}
