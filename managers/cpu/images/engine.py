"""The requests to the Docker engine that take as long as a registry does: its answer, and a pull.

They stand apart from `sandbox.docker_client` since they must end at once when nobody wants them any
more: on the event loop, over aiohttp, cancelling closes the connection, and the engine then gives up
the pull. The engine asks the registry, so certificates, proxies and insecure
registries are its settings, not ours.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from ...errors import TemporaryError, Unsupported
from ..sandbox.docker_client import EngineAddress
from .credentials import Account
from .reference import Reference
from .refusals import refusal

ANSWER_WAIT_S = 20.0
"""For a registry to name a tag's digest; it takes 0.1 to 2 s."""

STALL_S = 120.0
"""Of a pull without a byte of progress. Unpacking one layer of some GiB is silent for tens of seconds."""

CONNECT_S = 10.0

LINE_BYTES_MAX = 1 << 20
"""Of one message of a pull; they have a few hundred bytes."""


class RegistryRequests:
    """Opened at the first call. Methods raise what `refusals` makes of the engine's answer, and
    TemporaryError where there is none."""

    def __init__(
        self,
        address: Callable[[], Awaitable[EngineAddress]],
        *,
        answer_wait_s: float = ANSWER_WAIT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._address = address
        self._answer_wait_s = answer_wait_s
        self._stall_s = stall_s
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._base = ""

    async def digest(self, name: str, reference: Reference, account: Account) -> str:
        """Of the manifest that a registry has under a reference now."""
        path = f"/distribution/{reference.wanted}/json"
        limits = aiohttp.ClientTimeout(total=self._answer_wait_s, sock_connect=CONNECT_S)
        async with self._ask("GET", path, {}, reference, account, limits) as response:
            body = await response.text()
            if response.status != 200:
                said = _said(body)
                raise refusal(response.status, said, name, reference, account.name)
            return str(json.loads(body)["Descriptor"]["digest"])

    async def pull(
        self, name: str, reference: Reference, account: Account
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Have the engine pull a reference; its messages. It is here when they end."""
        # As docker pull does: a digest goes where else a tag does.
        where = {
            "fromImage": reference.repository,
            "tag": reference.digest or reference.tag,
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._stall_s)
        async with self._ask(
            "POST", "/images/create", where, reference, account, limits
        ) as response:
            if response.status != 200:
                said = _said(await response.text())
                raise refusal(response.status, said, name, reference, account.name)
            async for line in response.content:
                if not line.strip():
                    continue
                message = json.loads(line)
                if "error" in message:
                    detail = message.get("errorDetail") or {}
                    status = int(detail.get("code") or 0)
                    said = str(message["error"])
                    raise refusal(status, said, name, reference, account.name)
                yield message

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        reference: Reference,
        account: Account,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = await self._open()
        headers = {}
        if account.login:
            login = json.dumps(dict(account.login)).encode()
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(login).decode()
        try:
            async with session.request(
                method, f"{self._base}{path}", params=query, headers=headers, timeout=limits
            ) as response:
                yield response
        except TimeoutError as problem:
            raise TemporaryError(
                f"registry {reference.host} does not answer about image {reference.wanted}"
            ) from problem
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise TemporaryError(
                f"the Docker engine broke off while it asked registry {reference.host}: {problem}"
            ) from problem

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                address = await self._address()
                self._base, connector = _connector(address)
                self._session = aiohttp.ClientSession(
                    connector=connector, read_bufsize=LINE_BYTES_MAX
                )
            return self._session


def _connector(address: EngineAddress) -> tuple[str, aiohttp.BaseConnector]:
    scheme, _, where = address.url.partition("://")
    version = f"v{address.api_version}"
    # No limit: how many requests there are at once is the caller's to say.
    if scheme == "unix":
        return f"http://docker/{version}", aiohttp.UnixConnector(where, limit=0)
    if scheme not in ("tcp", "http", "https"):
        raise Unsupported(
            f"images cannot be pulled through an engine at {address.url}",
            cure="reach it over unix:// or tcp://, or docker pull them yourself",
        )
    if address.certificates is None:
        kind = "https" if scheme == "https" else "http"
        return f"{kind}://{where}/{version}", aiohttp.TCPConnector(limit=0)
    folder = address.certificates
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return f"https://{where}/{version}", aiohttp.TCPConnector(limit=0, ssl=context)


def _said(body: str) -> str:
    """The engine's words out of its answer."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()
