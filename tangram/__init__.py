"""Tangram: a resource orchestrator for agentic RL.

The SDK is loaded on first use, so that importing `tangram.scheduler` loads no gRPC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncClient as AsyncClient
    from .client import Client as Client
    from .client import Result as Result
    from .errors import CommandFailed as CommandFailed
    from .errors import TangramError as TangramError

__version__ = "0.1.0"

_LAZY = {
    "AsyncClient": "client",
    "Client": "client",
    "Result": "client",
    "CommandFailed": "errors",
    "TangramError": "errors",
}

__all__ = ["AsyncClient", "Client", "CommandFailed", "Result", "TangramError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
