"""Who asks a registry: the accounts of `registries:`, else those of Docker's own configuration.

Secrets are read when they are needed, so that a file that is rotated is followed; they are never
logged and stand in no error.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ...config import RegistryConfig
from ...errors import PermanentError

SECRET_BYTES_MAX = 64 << 10
"""Of a password file: cloud tokens have some KiB."""

DockerLogins = Callable[[str], Awaitable[Mapping[str, str]]]
"""What Docker's configuration has for a host; empty where it has nothing."""


@dataclass(frozen=True, slots=True)
class Account:
    """For one registry, as the engine wants it. Anonymous if `login` is empty."""

    name: str = ""
    login: Mapping[str, str] = field(default_factory=dict, repr=False)


class Credentials:
    """Accounts by host, `docker.io` for Docker Hub."""

    def __init__(self, registries: Mapping[str, RegistryConfig], docker: DockerLogins) -> None:
        self._registries = registries
        self._docker = docker

    def mirrors(self, host: str) -> tuple[str, ...]:
        """Where this registry's images are looked for first."""
        config = self._registries.get(host)
        return config.mirrors if config is not None else ()

    async def account(self, host: str) -> Account:
        """Raises PermanentError, naming the key, if a configured secret cannot be read."""
        config = self._registries.get(host)
        if config is not None and config.auth_env:
            name, password = _from_environment(host, config.auth_env)
        elif config is not None and config.password_file is not None:
            name, password = config.username, _from_file(host, config)
        else:
            login = await self._docker(host)
            return Account(login.get("username", ""), login)
        return Account(name, {"username": name, "password": password, "serveraddress": host})


def _from_file(host: str, config: RegistryConfig) -> str:
    assert config.password_file is not None
    try:
        with config.password_file.open(encoding="utf-8") as file:
            password = file.read(SECRET_BYTES_MAX + 1).rstrip("\n")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise PermanentError(
            f"registries.{host}.password_file: {config.password_file} cannot be read: {reason}"
        ) from problem
    if not password or len(password) > SECRET_BYTES_MAX:
        raise PermanentError(
            f"registries.{host}.password_file: {config.password_file} must hold a password of at "
            f"most {SECRET_BYTES_MAX >> 10} KiB"
        )
    return password


def _from_environment(host: str, variable: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(os.environ.get(variable, ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise PermanentError(
            f"registries.{host}.auth_env: the server's variable {variable} must hold the base64 of "
            "USER:PASSWORD, as `auth` in Docker's config.json does"
        )
    return name, password
