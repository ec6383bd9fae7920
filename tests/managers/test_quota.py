"""Quotas: the view never admits more than its limits, and the manager does what a permit allows.

The view's safety is tested by properties over random grants under virtual time; the manager talks
to a provider on the loopback interface.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.base import (
    CallSpec,
    ExecSpec,
    HttpReply,
    Lease,
    Outcome,
    RunRequest,
    Stream,
)
from tangram.managers.config import QuotaConfig
from tangram.managers.errors import LeaseLost, PermanentError, TemporaryError
from tangram.managers.opening import open_quota_manager
from tangram.managers.quota import QuotaView
from tangram.managers.quota.calls import REPLY_BYTES_MAX, RETRY_AFTER_S_MAX, retry_after
from tangram.managers.quota.manager import QuotaManager
from tangram.managers.quota.view import LOG_ENTRIES_MAX, quota_total
from tangram.scheduler.model import Capacity, ResourceId, WaitReason

SEARCH = ResourceId("quota:search")
Windows = tuple[tuple[int, float], ...]


def view(concurrency: int | None = None, *windows: tuple[int, float]) -> QuotaView:
    return QuotaView(capacity(concurrency, *windows))


def capacity(concurrency: int | None = None, *windows: tuple[int, float]) -> Capacity:
    return Capacity(
        SEARCH,
        quota_total(concurrency, windows),
        "quota",
        {"concurrency": concurrency, "windows": windows},
    )


# The view: what it counts


def test_concurrency_counts_what_is_held_and_returns_with_it() -> None:
    quota = view(3)
    quota.take(1, 2, now=0.0)
    assert quota.free(0.0) == 1
    assert quota.why_short(2, 0.0) is WaitReason.QUOTA
    assert quota.next_change(0.0) is None
    quota.give(1, now=0.0)
    assert (quota.free(0.0), quota.taken) == (3, 0)
    quota.give(1, now=0.0)
    assert quota.taken == 0


def test_a_window_is_not_given_back_before_its_period_is_over() -> None:
    quota = view(None, (2, 10.0))
    quota.take(1, 2, now=5.0)
    quota.give(1, now=5.5)
    assert quota.free(14.9) == 0
    assert quota.why_short(1, 14.9) is WaitReason.RATE
    assert quota.next_change(6.0) == 15.0
    assert quota.free(15.0) == 2


def test_windows_hold_together_and_the_tightest_decides() -> None:
    quota = view(8, (2, 1.0), (3, 60.0))
    assert quota.largest() == 2
    quota.take(1, 2, now=0.0)
    assert quota.next_change(0.0) == 1.0
    quota.take(2, 1, now=1.0)
    assert quota.free(1.0) == 0
    assert quota.next_change(1.0) == 60.0


def test_more_than_is_free_and_a_token_used_twice_are_refused() -> None:
    quota = view(2, (5, 1.0))
    with pytest.raises(ValueError, match="3 of quota:search asked for, 2 free"):
        quota.take(1, 3, now=0.0)
    quota.take(1, 1, now=0.0)
    with pytest.raises(ValueError, match="token 1 already holds"):
        quota.take(1, 1, now=0.0)
    with pytest.raises(ValueError, match="token 9 holds nothing"):
        quota.resize(9, 1, now=0.0)


def test_a_resize_takes_the_difference_and_returns_only_concurrency() -> None:
    quota = view(4, (4, 10.0))
    quota.take(1, 1, now=0.0)
    quota.resize(1, 4, now=0.0)
    assert (quota.taken, quota.free(0.0)) == (4, 0)
    quota.resize(1, 1, now=1.0)
    assert (quota.taken, quota.free(1.0)) == (1, 0)
    assert quota.why_short(1, 1.0) is WaitReason.RATE


def test_a_closed_quota_grants_nothing_until_it_opens() -> None:
    quota = view(2, (2, 1.0))
    quota.close(30.0)
    quota.close(20.0)
    assert quota.free(10.0) == 0
    assert quota.why_short(1, 10.0) is WaitReason.QUOTA_CLOSED
    assert quota.next_change(10.0) == 30.0
    assert quota.closed_until(30.0) is None
    assert quota.free(30.0) == 2


def test_a_closed_quota_whose_permits_are_all_held_promises_no_instant() -> None:
    quota = view(1)
    quota.take(1, 1, now=0.0)
    quota.close(5.0)
    assert quota.next_change(1.0) is None


def test_adjusted_limits_keep_what_was_admitted_before() -> None:
    quota = view(4, (4, 10.0))
    quota.take(1, 3, now=0.0)
    quota.adjust(capacity(2, (5, 20.0)), now=1.0)
    assert quota.free(1.0) == 0
    assert quota.taken == 3
    quota.give(1, now=2.0)
    assert quota.free(2.0) == 2
    quota.take(2, 2, now=2.0)
    assert quota.next_change(2.0) is None
    quota.give(2, now=2.0)
    assert quota.next_change(2.0) == 20.0


def test_a_quota_without_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a concurrency nor a window"):
        QuotaView(Capacity(SEARCH, 1, "quota"))


def test_a_long_log_is_bounded_and_still_never_admits_too_much() -> None:
    rate = 4 * LOG_ENTRIES_MAX
    quota = view(None, (rate, 1.0))
    for index in range(rate):
        quota.take(index, 1, now=index / rate)
    (window,) = quota._windows
    assert len(window.log) <= 2 * LOG_ENTRIES_MAX + 1
    assert quota.free(1.0 - 1e-9) == 0
    # A unit comes back at most one sliver of the period later than it could have.
    opens = quota.next_change(1.0 - 1e-9)
    assert opens is not None
    assert 1.0 <= opens <= 1.0 + 2 / LOG_ENTRIES_MAX


# The view: what it never does. Times are multiples of 1/8 second, so sums are exact.

STEPS = st.lists(st.tuples(st.integers(0, 24), st.integers(1, 6), st.booleans()), max_size=60)
WINDOWS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 80).map(lambda n: n / 8)), max_size=3
).map(tuple)
CONCURRENCY = st.none() | st.integers(1, 8)


def drive(
    quota: QuotaView, steps: list[tuple[int, int, bool]], at_each: Callable[[float], None]
) -> list[tuple[float, int]]:
    """Wait, take what fits, perhaps give the oldest back; returns what was admitted and when."""
    now, admitted, held = 0.0, list[tuple[float, int]](), list[int]()
    for token, (wait, amount, gives) in enumerate(steps):
        now += wait / 8
        at_each(now)
        if amount <= quota.free(now):
            quota.take(token, amount, now)
            held.append(token)
            admitted.append((now, amount))
        at_each(now)
        if gives and held:
            quota.give(held.pop(0), now)
        at_each(now)
    return admitted


@given(concurrency=CONCURRENCY, windows=WINDOWS, steps=STEPS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_period_ever_admits_more_than_its_rate(
    concurrency: int | None, windows: Windows, steps: list[tuple[int, int, bool]]
) -> None:
    if concurrency is None and not windows:
        return
    quota = view(concurrency, *windows)

    def safe(now: float) -> None:
        assert 0 <= quota.free(now) <= quota.largest()
        assert quota.taken >= 0
        assert concurrency is None or quota.taken <= concurrency

    admitted = drive(quota, steps, safe)
    for rate, period_s in windows:
        for start, _ in admitted:
            inside = sum(n for at, n in admitted if start <= at < start + period_s)
            assert inside <= rate


@given(concurrency=CONCURRENCY, windows=WINDOWS, steps=STEPS, closed=st.integers(0, 100))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_next_change_is_the_first_instant_at_which_more_is_free(
    concurrency: int | None, windows: Windows, steps: list[tuple[int, int, bool]], closed: int
) -> None:
    if concurrency is None and not windows:
        return
    quota = view(concurrency, *windows)
    quota.close(closed / 8)
    end = 0.0

    def remember(now: float) -> None:
        nonlocal end
        end = now

    drive(quota, steps, remember)
    free, promised = quota.free(end), quota.next_change(end)
    horizon = end + max([period for _, period in windows], default=0.0) + closed / 8 + 1.0
    grid = [end + step / 8 for step in range(int((horizon - end) * 8) + 1)]
    # Asked in the order of time, as a clock does: asking a view lets it forget what is over.
    first_growth = next((at for at in grid if quota.free(at) > free), None)
    assert promised == first_growth


# The manager


class Recorder:
    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        raise AssertionError("a call has no output")


@pytest.fixture
async def manager() -> AsyncIterator[QuotaManager]:
    quotas = {"search": QuotaConfig.model_validate({"concurrency": 4, "rate": 60, "period": "1m"})}
    opened = await open_quota_manager(quotas)
    yield opened
    await opened.aclose()


Provider = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """Serves a handler on the loopback interface; gives its URL."""
    runners: list[web.AppRunner] = []

    async def serve(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def permit(manager: QuotaManager, token: int = 1) -> Lease:
    return await manager.acquire(f"a{token}", None, token, {SEARCH: 1})


async def call(
    manager: QuotaManager, lease: Lease, spec: CallSpec, timeout_s: float = 5.0
) -> HttpReply:
    result = await manager.run(lease, RunRequest(lease.action, spec, timeout_s), Recorder())
    assert result.outcome is Outcome.FINISHED
    assert result.http is not None
    return result.http


def test_a_quota_offers_one_cluster_wide_resource_with_its_limits() -> None:
    config = QuotaConfig.model_validate({"concurrency": 4, "rate": 60, "period": "1m"})
    manager = asyncio.run(open_quota_manager({"search": config}))
    (offered,) = manager.capacities()
    assert offered.resource == SEARCH
    assert QuotaView(offered).largest() == 4
    assert manager.describe("search") == "4 at once, 60 per 60 s"


async def test_a_call_sends_its_request_and_returns_the_answer(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        told = f"{request.method} {request.headers['X-Key']} {await request.text()}"
        return web.Response(status=418, text=told, headers={"X-Told": "yes"})

    spec = CallSpec(await provider(handler), "PUT", {"X-Key": "k"}, b"payload")
    reply = await call(manager, await permit(manager), spec)
    assert (reply.status, reply.body) == (418, b"PUT k payload")
    assert reply.headers["X-Told"] == "yes"


async def test_a_redirect_is_the_answer_and_is_not_followed(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound("file:///etc/passwd")

    reply = await call(manager, await permit(manager), CallSpec(await provider(handler)))
    assert reply.status == 302
    assert reply.headers["Location"] == "file:///etc/passwd"


async def test_a_refusal_with_retry_after_becomes_the_wish_to_close(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"})

    lease = await permit(manager)
    request = RunRequest("a1", CallSpec(await provider(handler)), 5.0)
    result = await manager.run(lease, request, Recorder())
    assert result.retry_after_s == 7.0
    assert result.http is not None
    assert result.http.status == 429


async def test_a_call_that_takes_too_long_times_out(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    lease = await permit(manager)
    request = RunRequest("a1", CallSpec(await provider(handler)), 0.05)
    result = await manager.run(lease, request, Recorder())
    assert result.outcome is Outcome.TIMED_OUT
    assert result.run_s >= 0.05


async def test_a_killed_call_returns_at_once(manager: QuotaManager, provider: Provider) -> None:
    arrived = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    lease = await permit(manager)
    request = RunRequest("a1", CallSpec(await provider(handler)), 30.0)
    running = asyncio.create_task(manager.run(lease, request, Recorder()))
    await arrived.wait()
    await manager.kill(lease)
    assert (await running).outcome is Outcome.KILLED
    await manager.release(lease)


async def test_an_answer_above_the_limit_fails_clearly(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (REPLY_BYTES_MAX + 1))

    with pytest.raises(PermanentError, match="larger than"):
        await call(manager, await permit(manager), CallSpec(await provider(handler)))


async def test_a_provider_that_cannot_be_reached_is_a_temporary_failure(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    with pytest.raises(TemporaryError, match="no answer from"):
        await call(manager, await permit(manager), CallSpec(await provider(handler)))


@pytest.mark.parametrize("url", ["not a url", "ftp://127.0.0.1/x", "http://", "http://[::1"])
async def test_a_url_that_is_none_fails_for_good(manager: QuotaManager, url: str) -> None:
    with pytest.raises(PermanentError, match="cannot be sent"):
        await call(manager, await permit(manager), CallSpec(url))


async def test_a_header_with_a_line_break_fails_for_good(
    manager: QuotaManager, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise AssertionError("it must not arrive")

    spec = CallSpec(await provider(handler), headers={"X": "a\r\nInjected: 1"})
    with pytest.raises(PermanentError, match="cannot be sent"):
        await call(manager, await permit(manager), spec)


async def test_only_a_held_permit_runs_and_only_calls(manager: QuotaManager) -> None:
    lease = await permit(manager)
    with pytest.raises(PermanentError, match="HTTP calls alone"):
        await manager.run(lease, RunRequest("a1", ExecSpec(argv=("true",))), Recorder())
    await manager.release(lease)
    await manager.release(lease)
    with pytest.raises(LeaseLost):
        await manager.run(lease, RunRequest("a1", CallSpec("http://127.0.0.1/")), Recorder())
    with pytest.raises(LeaseLost):
        await manager.resize(lease, {SEARCH: 2})


async def test_an_unknown_quota_is_refused(manager: QuotaManager) -> None:
    with pytest.raises(PermanentError, match="no quota:other"):
        await manager.acquire("a1", None, 1, {ResourceId("quota:other"): 1})


async def test_closing_ends_the_calls_and_is_idempotent(
    manager: QuotaManager, provider: Provider
) -> None:
    arrived = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    request = RunRequest("a1", CallSpec(await provider(handler)), 30.0)
    running = asyncio.create_task(manager.run(await permit(manager), request, Recorder()))
    await arrived.wait()
    await manager.aclose()
    await manager.aclose()
    assert (await running).outcome is Outcome.KILLED
    with pytest.raises(LeaseLost):
        await permit(manager, 2)


NOON = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "value", "delay_s"),
    [
        (429, "0", 0.0),
        (503, " 12 ", 12.0),
        (429, format_datetime(NOON, usegmt=True), 90.0),
        (429, "-3", 0.0),
        (429, "1e30", RETRY_AFTER_S_MAX),
        (429, "nan", None),
        (429, "soon", None),
        (429, "", None),
        (200, "12", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_is_bounded(
    status: int, value: str, delay_s: float | None
) -> None:
    reply = HttpReply(status, {"Retry-After": value}, b"")
    assert retry_after(reply, NOON.timestamp() - 90.0) == delay_s
