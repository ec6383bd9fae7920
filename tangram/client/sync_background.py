"""Sessions and background processes in blocking code: facades over `sessions` and `processes`.

Nothing is decided here, as in `sync`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..limits import TIMEOUT_S_DEFAULT
from .background import each, wait
from .processes import GRACE_S_DEFAULT, AsyncProcess, Log, ProcessInfo
from .requests import Command, Cores, Elasticity
from .results import Result
from .sessions import AsyncSession
from .trajectories import OnOutput


class Session:
    """A shell in a trajectory's sandbox that lives on between runs. See `AsyncSession`."""

    def __init__(self, session: AsyncSession) -> None:
        self._aio = session

    @property
    def name(self) -> str:
        return self._aio.name

    def run(
        self,
        command: Command,
        *,
        cores: Cores = 1,
        timeout: float = TIMEOUT_S_DEFAULT,
        deadline: float | None = None,
        check: bool = False,
        malleable: bool = False,
        duration: float | None = None,
        elasticity: Elasticity | None = None,
        max_output: int | str = "1Mi",
        on_output: OnOutput | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Result:
        """Have the shell evaluate a command and wait for its end. See `AsyncSession.run`.

        `on_output` is called on the client's background thread, where blocking calls of the client
        are refused: what answers a program's question there hands `send` to another thread.
        """
        return wait(
            self._aio.run(
                command,
                cores=cores,
                timeout=timeout,
                deadline=deadline,
                check=check,
                malleable=malleable,
                duration=duration,
                elasticity=elasticity,
                max_output=max_output,
                on_output=on_output,
                priority=priority,
                labels=labels,
                id=id,
            )
        )

    def send(self, text: str | bytes) -> None:
        """Type it to what runs in the session now. See `AsyncSession.send`."""
        wait(self._aio.send(text))

    def interrupt(self) -> None:
        """Ctrl-C. FailedPrecondition where nothing runs."""
        wait(self._aio.interrupt())

    def close(self) -> None:
        """End its shell and all that was started in it. Idempotent."""
        wait(self._aio.close())

    def __repr__(self) -> str:
        return repr(self._aio).replace("Async", "", 1)


class Process:
    """A program in a sandbox that lives on between actions. See `AsyncProcess`."""

    def __init__(self, process: AsyncProcess) -> None:
        self._aio = process

    @property
    def id(self) -> str:
        return self._aio.id

    @property
    def running(self) -> bool:
        """Asks the server."""
        return self.info().running

    def info(self) -> ProcessInfo:
        """As it stands. Raises NotFound, TrajectoryClosed."""
        return wait(self._aio.info())

    def logs(self, offset: int = 0) -> Log:
        """What it has written at or after `offset`. See `AsyncProcess.logs`."""
        return wait(self._aio.logs(offset))

    def follow(self, offset: int = 0) -> Iterator[Log]:
        """Pieces of what it writes from `offset` on, as they come, until it ends."""
        return each(self._aio.follow(offset))

    def wait(self, timeout: float | None = None) -> ProcessInfo:
        """Wait for its end. Raises Expired, and Lost where it was lost."""
        return wait(self._aio.wait(timeout))

    def wait_port(self, port: int, timeout: float = 30.0) -> None:
        """Wait until somebody in the sandbox listens on a port. See `AsyncProcess.wait_port`."""
        wait(self._aio.wait_port(port, timeout))

    def stop(self, grace: float = GRACE_S_DEFAULT) -> ProcessInfo:
        """Ask it to end, kill it after `grace` seconds; returns when it has ended. Idempotent."""
        return wait(self._aio.stop(grace))

    def __repr__(self) -> str:
        return repr(self._aio).replace("Async", "", 1)
