"""Which versions of Tangram work together, and how both ends name theirs when they connect.

The client names its version with every call, which the server checks. With the first call over a new
or a broken connection it asks for the server's, which comes as initial metadata, and checks that.
"""

from __future__ import annotations

import functools
import re

from .errors import FailedPrecondition, InvalidRequest

CLIENT_VERSION_KEY = "tangram-client-version"
"""Metadata in which a client names its version; absent is taken as compatible."""
SERVER_VERSION_KEY = "tangram-server-version"
"""Metadata with which a client asks for the server's version, and in which the server names it;
absent is taken as compatible."""
MINORS_APART_MAX = 1
"""So that one end can be upgraded before the other."""

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?![0-9])")


def check(client: str, server: str, key: str) -> None:
    """Cheap for versions that were compared before. `key` names where the peer's came from.

    Raises FailedPrecondition that names both versions and what to upgrade, InvalidRequest for text
    that is no version.
    """
    problem = _mismatch(client, server)
    if problem:
        raise FailedPrecondition(problem, field=key)
    if problem is None:
        theirs = client if key == CLIENT_VERSION_KEY else server
        raise InvalidRequest(
            f"{key} must be a version such as 0.1.0, not {theirs[:40]!r}", field=key
        )


@functools.lru_cache(maxsize=64)
def _mismatch(client: str, server: str) -> str | None:
    """Why they do not work together, or nothing; None if one of them is no version."""
    ends = [_NUMBERS.match(client), _NUMBERS.match(server)]
    ours, theirs = ((int(end[1]), int(end[2])) if end else None for end in ends)
    if ours is None or theirs is None:
        return None
    if ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= MINORS_APART_MAX:
        return ""
    older, wanted = ("client", server) if ours < theirs else ("server", client)
    major, minor = wanted.split(".")[:2]
    return (
        f"the client is version {client}, the server {server}: they work one minor version apart; "
        f"upgrade the {older}: pip install 'tangram-rl=={major}.{minor}.*'"
    )
