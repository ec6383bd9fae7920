"""What is known of a sandbox's files without looking at them: a digest of all that brought them about.

Equal digests mean equal files; different ones mean nothing. Pure but for the random bytes of a state that
nobody can know.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

DIGEST_BYTES = 16


class KnownFiles:
    """Of one sandbox: as it was opened, then what was written through file calls. After a command
    whose effect nobody declared its files are like nobody else's."""

    def __init__(self, opened: bytes) -> None:
        """`opened` is the same for sandboxes that begin alike."""
        self._base = opened
        self._written: dict[str, bytes] = {}
        self._changing = 0

    def digest(self) -> bytes | None:
        """None while something changes them."""
        if self._changing:
            return None
        whole = blake2b(self._base, digest_size=DIGEST_BYTES)
        for path, written in sorted(self._written.items()):
            whole.update(len(path).to_bytes(4) + path.encode("utf-8", "surrogateescape") + written)
        return whole.digest()

    def wrote(self, path: str, mode: int, content: bytes) -> None:
        """A whole file, of which `content` is a digest."""
        self._written[path] = mode.to_bytes(4) + content

    def wrote_tree(self, path: str, content: bytes) -> None:
        """Entries below a folder: what was written before may be among them, so that their order
        counts."""
        before = self.digest() or os.urandom(DIGEST_BYTES)
        place = path.encode("utf-8", "surrogateescape")
        tree = blake2b(before, digest_size=DIGEST_BYTES)
        tree.update(len(place).to_bytes(4) + place + content)
        self._base, self._written = tree.digest(), {}

    def begin_change(self) -> None:
        """Something of unknown effect begins."""
        self._changing += 1

    def end_change(self) -> None:
        self._changing -= 1
        self._base, self._written = os.urandom(DIGEST_BYTES), {}

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While something of unknown effect is under way."""
        self.begin_change()
        try:
            yield
        finally:
            self.end_change()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While a file call is under way; one that fails has an unknown effect."""
        self._changing += 1
        try:
            yield
        except BaseException:
            self._base, self._written = os.urandom(DIGEST_BYTES), {}
            raise
        finally:
            self._changing -= 1
