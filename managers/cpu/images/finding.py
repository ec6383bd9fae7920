"""What a name means, and how it comes here: the engine and the registries asked in the right order."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import replace

from ...errors import ManagerError, PermanentError, TemporaryError, UnknownImage
from ..sandbox.docker_client import DockerEngine, ImageFacts
from .credentials import Credentials
from .engine import RegistryRequests
from .progress import PullProgress
from .reference import Reference, digest_among, parse
from .resolutions import Resolved

log = logging.getLogger(__name__)

NEARBY_MAX = 3
"""Names of other images to offer for one that is not there."""


class Finder:
    """Stateless beside its connections."""

    def __init__(
        self,
        engine: DockerEngine,
        requests: RegistryRequests,
        credentials: Credentials,
        known: Iterable[str],
    ) -> None:
        """`known` are names to offer beside those of the engine."""
        self._engine = engine
        self._requests = requests
        self._credentials = credentials
        self._known = tuple(known)

    async def find(self, name: str, policy: str) -> Resolved:
        """What the name means now. Raises UnknownImage, PermanentError, TemporaryError."""
        local = await self._engine.image(name)
        if local is not None and policy != "always":
            return Resolved(name, _digest_of(name, local), local.id)
        if policy == "never":
            raise await self.unknown(
                name, f"pull=never takes only what is there: docker pull {name}"
            )
        reference = self._parse(name)
        try:
            digest = await self._ask(name, reference)
        except UnknownImage as refusal:
            raise await self.unknown(name, str(refusal)) from refusal
        present = await self._present(reference, digest)
        return Resolved(name, digest, present.id if present else "")

    async def fetch(
        self, name: str, digest: str, progress: PullProgress, *, move_tag: bool
    ) -> tuple[str, list[str]]:
        """Pull the image of this digest from the first source that has it; its id, and the engine's
        names that this made. A tag that means another image here is moved if `move_tag` says so."""
        reference = self._parse(name)
        sources = self._sources(reference)
        for source in sources:
            try:
                account = await self._credentials.account(source.host)
                asked = replace(source, digest=digest)
                async for message in self._requests.pull(name, asked, account):
                    progress.feed(message)
                break
            except ManagerError as problem:
                if source is sources[-1]:
                    raise
                log.warning("mirror %s did not give image %s: %s", source.host, name, problem)
        made = source.at(digest)
        image = await self._engine.image(made)
        if image is None:
            raise TemporaryError(f"image {made} was gone as soon as it was pulled")
        names = [made]
        if tagged := reference.tagged:
            present = await self._engine.image(tagged)
            if present is None or (move_tag and present.id != image.id):
                await self._engine.tag(image.id, tagged)
                names.append(tagged)
        return image.id, names

    async def unknown(self, name: str, why: str) -> UnknownImage:
        """The refusal of a name, with what is here under names like it."""
        known = [*self._known, *await self._engine.image_names()]
        near = difflib.get_close_matches(name, known, NEARBY_MAX)
        there_is = f" (there is {', '.join(near)})" if near else ""
        return UnknownImage(
            name, f"no image {name!r} on this node{there_is}; {why}; docker load -i FILE helps too"
        )

    async def _ask(self, name: str, reference: Reference) -> str:
        sources = self._sources(reference)
        for source in sources[:-1]:
            try:
                account = await self._credentials.account(source.host)
                return await self._requests.digest(name, source, account)
            except ManagerError as problem:
                log.info("mirror %s does not know image %s: %s", source.host, name, problem)
        account = await self._credentials.account(reference.host)
        return await self._requests.digest(name, reference, account)

    async def _present(self, reference: Reference, digest: str) -> ImageFacts | None:
        for source in self._sources(reference):
            if (image := await self._engine.image(source.at(digest))) is not None:
                return image
        return None

    def _sources(self, reference: Reference) -> list[Reference]:
        """Where it is looked for, in this order; the registry itself last."""
        mirrors = self._credentials.mirrors(reference.host)
        return [*(reference.mirrored(mirror) for mirror in mirrors), reference]

    def _parse(self, name: str) -> Reference:
        try:
            return parse(name)
        except ValueError as problem:
            raise PermanentError(f"image: {problem}", field="image") from problem


def _digest_of(name: str, image: ImageFacts) -> str:
    """As a registry knows it; for an image that came from none its id."""
    try:
        repository = parse(name).repository
    except ValueError:
        repository = ""  # An id, which names an image of any repository.
    return digest_among(repository, image.repo_digests) or image.id
