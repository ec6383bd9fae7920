"""When a pull that failed is tried again: exponentially later, at random, not before it is asked to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from ...errors import TemporaryError

TRIES_MAX = 8
"""Of one pull. With the delays below the last comes after one to five minutes."""

DELAY_S_MAX = 60.0

Sleep = Callable[[float], Awaitable[None]]

_backoff = wait_random_exponential(multiplier=2.0, max=DELAY_S_MAX, min=1.0)


def retrying(sleep: Sleep, told: Callable[[TemporaryError, float], None]) -> AsyncRetrying:
    """Tries again after each TemporaryError, TRIES_MAX times in all; then that error is raised.
    `told(error, delay_s)` is called before each pause."""

    def tell(state: RetryCallState) -> None:
        if (failed := _error_of(state)) is not None and state.next_action is not None:
            told(failed, state.next_action.sleep)

    return AsyncRetrying(
        sleep=sleep,
        stop=stop_after_attempt(TRIES_MAX),
        wait=_delay_s,
        retry=retry_if_exception_type(TemporaryError),
        before_sleep=tell,
        reraise=True,
    )


def _delay_s(state: RetryCallState) -> float:
    error = _error_of(state)
    asked_s = error.delay_s if error is not None else 0.0
    return max(asked_s, _backoff(state))


def _error_of(state: RetryCallState) -> TemporaryError | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, TemporaryError) else None
