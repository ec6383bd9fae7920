"""When to try a template again whose starts fail. Pure: times are handed in.

The first failure may be an accident and costs nothing; from the second in a row on everybody who wants
this template is told, and the next try waits twice as long as the last one did.
"""

from __future__ import annotations

DELAY_S = 1.0
"""After the second failure in a row."""
DELAY_S_MAX = 60.0
"""An operator who mends an image waits no longer than this."""
_DOUBLINGS_MAX = 10
"""More change nothing below the limit, and a float has an end."""


class Backoff:
    """Failures in a row of one template."""

    def __init__(self) -> None:
        self.failures = 0
        self.message = ""
        """What the last try failed with; "" once one worked."""
        self._failed_at = self._retry_at = float("-inf")

    def failed(self, now: float, message: str) -> None:
        self.failures += 1
        self.message = message
        self._failed_at = now
        if self.failures > 1:
            doublings = min(self.failures - 2, _DOUBLINGS_MAX)
            self._retry_at = now + min(DELAY_S * 2**doublings, DELAY_S_MAX)

    def started(self) -> None:
        """A sandbox started. The count stays: it may die before anybody has it."""
        self.message = ""
        self._retry_at = float("-inf")

    def used(self) -> None:
        """A trajectory got one, so all is well."""
        self.started()
        self.failures = 0

    def left_s(self, now: float) -> float:
        """Seconds until the next try may be made; 0 if it may be made now."""
        return max(0.0, self._retry_at - now)

    def may_be_ahead(self, now: float) -> bool:
        """Whether to try for nobody: not while it fails, since whoever wants one tries anyway."""
        return not self.message or now - self._failed_at >= DELAY_S_MAX

    def sentence(self, now: float) -> str:
        """What is wrong, and when it is tried again; "" if nothing is."""
        if not self.message:
            return ""
        times = "once" if self.failures == 1 else f"{self.failures} times in a row"
        left_s = self.left_s(now)
        again = f"the next try is in {left_s:.1f} s" if left_s else "it is being tried again"
        return f"starting it failed {times}, at last with: {self.message}; {again}"
