"""How managers are opened from their configuration: the one place that knows all kinds.

Each kind is imported when it is opened, so that what is not used need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .config import NodeConfig, QuotaConfig

if TYPE_CHECKING:
    from .cpu.manager import CpuManager
    from .quota.manager import QuotaManager


async def open_cpu_manager(config: NodeConfig) -> CpuManager:
    """A node's manager, ready: what an earlier life of this instance left is gone.

    Raises PermanentError if the node cannot offer what the configuration claims.
    """
    from .cpu.manager import CpuManager

    return await CpuManager.open_node(config)


async def open_quota_manager(quotas: Mapping[str, QuotaConfig]) -> QuotaManager:
    """The manager of all configured quotas (there may be none)."""
    from .quota.manager import Quota, QuotaManager

    return QuotaManager(
        {name: Quota(quota.concurrency, quota.all_windows) for name, quota in quotas.items()}
    )
