"""Waiting for a sandbox's agent, which connects from inside: only the one that was started gets in.

It compares the peer's pid with that of the process that was started, and stops listening. Linux only.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from ...errors import PermanentError
from .channel import Channel
from .protocol import AgentProtocol

MAX_SOCKET_PATH_BYTES = 100
"""Of a listener's path: the kernel's limit is 108, and the path inside must fit as well."""
BACKLOG = 8
"""Connections that may wait: the agent, and a few impostors that are turned away."""


class AgentListener:
    """Waits for one agent on a unix socket in a folder that only its sandbox sees (read-only)."""

    def __init__(self, path: Path) -> None:
        """Bind and listen. Raises PermanentError if the path is too long for a unix socket."""
        if len(os.fsencode(path)) >= MAX_SOCKET_PATH_BYTES:
            raise PermanentError(
                f"the socket path {path} is too long: it must be shorter than"
                f" {MAX_SOCKET_PATH_BYTES} bytes, so choose a shorter runtime folder"
            )
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(os.fspath(path))
            # The sandbox's user is another one: who may connect is decided by the folder's mode,
            # and by the peer check.
            path.chmod(0o666)
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise

    async def accept(
        self, expected_pid: Callable[[], Awaitable[int]] | int | None, timeout_s: float
    ) -> Channel:
        """The channel to the agent with that pid (None: to whoever connects first). Others are
        turned away. Afterwards nobody can connect any more. Raises TimeoutError, PermanentError if
        the agent's protocol is another one, SandboxDied if it ended before its first message."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            while True:
                connection, _ = await loop.sock_accept(self._socket)
                try:
                    if await _is_expected(connection, expected_pid):
                        break
                except BaseException:
                    connection.close()
                    raise
                connection.close()
            self.close()
            _, protocol = await loop.connect_accepted_socket(AgentProtocol, connection)
            channel = Channel(protocol)
            try:
                await channel.greeted()
            except BaseException:
                await channel.aclose()
                raise
            return channel

    def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        self.path.unlink(missing_ok=True)


async def _is_expected(
    connection: socket.socket, expected_pid: Callable[[], Awaitable[int]] | int | None
) -> bool:
    if expected_pid is None:
        return True
    expected = expected_pid if isinstance(expected_pid, int) else await expected_pid()
    credentials = struct.Struct("3i")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    return int(credentials.unpack(peer)[0]) == expected
