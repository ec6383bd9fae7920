"""What the engine says when an image cannot be had, as the errors that managers raise. Pure.

The engine passes a registry's answer on as text, mostly under its own status 500: the words below
are those of dockerd 20.10 to 28 and of github.com/distribution.
"""

from __future__ import annotations

import re

from ...errors import ManagerError, PermanentError, TemporaryError, UnknownImage
from .reference import Reference

THROTTLED_DELAY_S = 10.0
"""After a 429: the engine does not pass on how long the registry asked to wait."""


class DiskFull(TemporaryError):
    """The engine's disk has no room for the image; evicting others may make some."""


_THROTTLED = re.compile(
    r"toomanyrequests|too many requests|HTTP 429|status: 429|rate limit", re.IGNORECASE
)
_FULL = re.compile(r"no space left|disk quota exceeded", re.IGNORECASE)
_DENIED = re.compile(
    r"unauthorized|authentication required|no basic auth credentials|incorrect username or password"
    r"|access denied|access to the resource is denied|\bdenied:|status: 40[13]",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"manifest unknown|name unknown|not found|no such image|does not exist|no matching manifest"
    r"|status: 404",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"no such host|HTTP response to HTTPS client|x509:|certificate signed by", re.IGNORECASE
)


def refusal(status: int, said: str, name: str, reference: Reference, account: str) -> ManagerError:
    """The error for an engine's answer about `reference`, which users call `name`; `account` is who
    asked, "" for nobody. Of a Docker Hub repository that is private or not there at all the hub
    says the same, "denied", and so does this."""
    asked = reference.wanted
    if _FULL.search(said):
        return DiskFull(f"no room on the engine's disk for image {asked}: {said}")
    if status == 429 or _THROTTLED.search(said):
        return TemporaryError(
            f"registry {reference.host} asks to slow down: {said}", delay_s=THROTTLED_DELAY_S
        )
    if status in (401, 403) or _DENIED.search(said):
        return _denied(said, name, reference, account)
    if status == 404 or _UNKNOWN.search(said):
        return UnknownImage(name, f"registry {reference.host} has no {asked}: {said}")
    if _UNREACHABLE.search(said):
        return UnknownImage(name, f"registry {reference.host} cannot be asked for {asked}: {said}")
    if status == 400:
        return PermanentError(f"image {asked}: {said}", field="image")
    return TemporaryError(f"registry {reference.host}: {said}")


def _denied(said: str, name: str, reference: Reference, account: str) -> ManagerError:
    host = reference.host
    who = f"user {account!r} of `registries.{host}`" if account else "somebody without an account"
    cure = (
        f"check its password, and that it may read {reference.path}"
        if account
        else f"give `registries.{host}` a username and a password_file, or docker login {host}"
    )
    return UnknownImage(
        name, f"registry {host} does not give {reference.wanted} to {who}: {said}; {cure}"
    )
