"""The HTTP requests of `call` actions, and what a provider's Retry-After means.

The one file of this package that touches aiohttp. It knows nothing of quotas.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import time

import aiohttp

from ..base import CallSpec, HttpReply, Outcome, RunResult
from ..errors import PermanentError, TemporaryError

REPLY_BYTES_MAX = 8 << 20
"""Bytes of one answer's body. Larger ones fail clearly: an action's result travels in one message."""

RETRY_AFTER_S_MAX = 24 * 3600.0
"""A provider may close a quota for this long by one answer, not for longer: a broken clock on its
side must not close it for good."""

CHUNK_BYTES = 64 << 10
RETRY_STATUSES = frozenset({429, 503})


class HttpCaller:
    """Does requests over one pooled session, opened at the first request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def request(self, spec: CallSpec, timeout_s: float | None) -> RunResult:
        """Send it and read the answer. Whatever status the provider answers is FINISHED, and so is
        a redirect: it is never followed, since it could lead the request's credentials elsewhere.

        No answer is not something that the call did, so it raises: TemporaryError if the provider
        could not be reached or broke off, PermanentError if the request cannot be sent at all or
        its answer is larger than REPLY_BYTES_MAX.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._exchange(spec)
        except TimeoutError:
            return RunResult(Outcome.TIMED_OUT, run_s=loop.time() - begun)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as problem:
            raise PermanentError(f"the request to {spec.url!r} cannot be sent: {problem}") from None
        except (aiohttp.ClientError, OSError) as problem:
            said = str(problem) or type(problem).__name__
            raise TemporaryError(f"no answer from {spec.url!r}: {said}") from problem
        return RunResult(
            Outcome.FINISHED,
            run_s=loop.time() - begun,
            http=reply,
            retry_after_s=retry_after(reply, time.time()),
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(self, spec: CallSpec) -> HttpReply:
        if self._session is None:
            # The quota is the limit on how many run at once, and each request has a timeout of its
            # own, so the session adds neither.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        async with self._session.request(
            spec.method, spec.url, headers=spec.headers, data=spec.body, allow_redirects=False
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > REPLY_BYTES_MAX:
                    raise PermanentError(
                        f"the answer of {spec.url!r} is larger than {REPLY_BYTES_MAX} bytes"
                    )
            names = dict.fromkeys(name.title() for name in response.headers)
            headers = {name: ", ".join(response.headers.getall(name)) for name in names}
            return HttpReply(response.status, headers, bytes(body))


def retry_after(reply: HttpReply, unix_now_s: float) -> float | None:
    """Seconds that the provider asks to wait, from a 429's or 503's Retry-After (a number of
    seconds or an HTTP date); None if it asks for nothing that can be understood."""
    value = reply.headers.get("Retry-After", "").strip()
    if reply.status not in RETRY_STATUSES or not value:
        return None
    try:
        delay_s = float(value)
    except ValueError:
        try:
            delay_s = email.utils.parsedate_to_datetime(value).timestamp() - unix_now_s
        except ValueError:
            return None
    if math.isnan(delay_s):
        return None
    return min(max(0.0, delay_s), RETRY_AFTER_S_MAX)
