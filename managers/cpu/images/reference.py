"""Image references: what a name such as `python:3.12` means. Pure.

The grammar and Docker's defaults (docker.io, library/, latest) are docker-image-py's, a port of
github.com/distribution/reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

HUB = "docker.io"
DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole reference: `docker.io`, `library/python`, `3.12`, and a digest where one is named.

    With a digest the tag says nothing.
    """

    host: str
    path: str
    tag: str
    digest: str = ""

    @property
    def repository(self) -> str:
        """With its host, as registries and the engine know it."""
        return f"{self.host}/{self.path}"

    @property
    def tagged(self) -> str:
        """The local name that a pull leaves, "" where only a digest was named."""
        return "" if self.digest else f"{self.repository}:{self.tag}"

    @property
    def wanted(self) -> str:
        """What a registry is asked for."""
        return f"{self.repository}@{self.digest}" if self.digest else self.tagged

    def at(self, digest: str) -> str:
        """The same repository's image of this digest."""
        return f"{self.repository}@{digest}"

    def mirrored(self, mirror: str) -> Reference:
        """The same image at a mirror: `HOST[:PORT]`, or with a path below which it mirrors."""
        host, _, folder = mirror.partition("/")
        return replace(self, host=host, path=f"{folder}/{self.path}" if folder else self.path)


def parse(name: str) -> Reference:
    """Raises ValueError, with the reason in words, for what is no reference."""
    from docker_image import reference as grammar

    try:
        parsed = grammar.Reference.parse_normalized_named(name)
    except (grammar.InvalidReference, ValueError) as problem:
        raise ValueError(f"{name!r} is no image reference: {problem}") from problem
    digest = parsed["digest"] or ""
    return Reference(parsed.domain(), parsed.path(), parsed["tag"] or DEFAULT_TAG, digest)


def digest_among(repository: str, repo_digests: tuple[str, ...]) -> str:
    """Of an image's `REPOSITORY@DIGEST` names, the digest in this repository; any other's where it
    has none there; "" for an image that came from no registry."""
    found = ""
    for name in repo_digests:
        where, _, digest = name.partition("@")
        if where and _canonical(where) == repository:
            return digest
        found = found or digest
    return found


def _canonical(repository: str) -> str:
    try:
        return parse(repository).repository
    except ValueError:
        return repository
