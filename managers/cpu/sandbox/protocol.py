"""The bytes of an agent's connection as messages, for asyncio; what they mean is `channel`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from .agent import wire


class AgentProtocol(asyncio.Protocol):
    """Bytes to messages, and whether more may be written."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.on_message: Callable[[str, Mapping[str, Any]], None] | None = None
        self.on_lost: Callable[[str], None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._reader = wire.FrameReader()
        self._early: list[tuple[str, dict[str, Any]]] = []
        self._problem = ""
        self._lost = False

    def bind(
        self, on_message: Callable[[str, Mapping[str, Any]], None], on_lost: Callable[[str], None]
    ) -> None:
        """Hand over what came already, then everything as it comes."""
        self.on_message, self.on_lost = on_message, on_lost
        early, self._early = self._early, []
        for kind, fields in early:
            on_message(kind, fields)
        if self._lost:
            on_lost(self._problem)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all the methods, but not the base class.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
            for kind, fields in messages:
                if self.on_message is None:
                    self._early.append((kind, fields))
                else:
                    self.on_message(kind, fields)
        except (ValueError, KeyError, TypeError) as error:
            self._problem = f"the sandbox's agent sent what is no message: {error}"
            self.transport.abort()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.writable.set()
        self._lost = True
        self._problem = self._problem or "the sandbox's agent ended"
        if self.on_lost is not None:
            self.on_lost(self._problem)
