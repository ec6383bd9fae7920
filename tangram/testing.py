"""For tests of code that uses Tangram: a whole server in this process, with nothing behind it.

Scheduler, dispatcher, quotas and gRPC are the real ones; sandboxes are `FakeManager`'s, which
understand a small language (`tangram.managers.fake.commands`) and start no process. Needs the
extra `server`.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from .config import CacheConfig, ServerConfig
from .managers.config import QuotaConfig
from .managers.fake import FakeManager
from .managers.opening import open_quota_manager
from .server.app import Server


@asynccontextmanager
async def serve_fake(
    cores: int = 2,
    *,
    quotas: Mapping[str, QuotaConfig] | None = None,
    manager: FakeManager | None = None,
    cached_tasks: Collection[str] = (),
    listen: str = "127.0.0.1:0",
) -> AsyncGenerator[str, None]:
    """Serve while the block runs; gives the address for `AsyncClient(address)`.

    `cached_tasks` are those whose deterministic actions are answered from the cache ("*" for all).
    A `manager` of one's own can be told to fail, to hold calls and to lose sandboxes; `cores` is
    unused then. Raises FailedPrecondition if `listen` names a port that is in use.
    """
    node = manager or FakeManager(cores=cores)
    with tempfile.TemporaryDirectory(prefix="tangram-fake-") as folder:
        config = ServerConfig(
            listen=listen,
            http="127.0.0.1:0",
            state=Path(folder, "state"),
            cache=CacheConfig(tasks=list(cached_tasks)),
        )
        server = Server(config, managers=[node, await open_quota_manager(dict(quotas or {}))])
        await server.start()
        try:
            yield server.grpc_address
        finally:
            await server.aclose()
