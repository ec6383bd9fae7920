"""API quotas: how many calls at once, how many per period, and the calls themselves.

`view` counts (pure; the scheduler and the simulator use it), `manager` makes grants real, `calls`
does the HTTP requests and is the only file here that touches aiohttp. Importing this package loads
the view alone.
"""

from .view import QUOTA_VIEW, QuotaView

__all__ = ["QUOTA_VIEW", "QuotaView"]
