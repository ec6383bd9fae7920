"""Kept states of sandboxes' files, as layers that nobody writes to.

A state is a stack of folders, the newest first. New sandboxes stand on it through an overlay, each
with a writable folder of its own on top, so that what they share is on disk once. This file knows
which layer is still needed and removes the others; how a launcher puts a sandbox on one is its own.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ...errors import ManagerError, PermanentError, TemporaryError
from ...sizes import format_size
from .copying import FILES_MAX, Copy, TooMany, TooMuch, TreeCopier
from .folder import SandboxFolder, leftovers
from .freezing import maps_files_shared
from .merging import Redirected, merge
from .starting import finished

log = logging.getLogger(__name__)

DEPTH_MAX = 12
"""Layers of one state; a state on more is merged into one. The kernel takes the names of all
layers of a mount in one page, and each is one more place to look for a file."""

Still = Callable[[], AbstractContextManager[set[int]]]
"""Holds a sandbox still while it is entered, and gives its processes."""


@dataclass(slots=True, eq=False)
class Layer:
    """One folder with a folder for each part of a sandbox (`workspace`, `upper`...), or an image
    that an engine made of a sandbox."""

    folder: SandboxFolder | None
    size_bytes: int
    """On disk, without what it shares with `earlier`."""
    earlier: Layer | None = None
    """From which it took over what had not changed, while that one is there."""
    taken_bytes: int = 0
    users: int = 0
    image_id: str = ""

    @property
    def path(self) -> Path:
        assert self.folder is not None, "it is an image"
        return self.folder.path


@dataclass(frozen=True, slots=True)
class Files:
    """The state of a sandbox's files: what a new sandbox is put on."""

    image: str
    layers: tuple[Layer, ...] = ()
    """The newest first."""
    uid: int | None = None
    """Who owns what was written, where each sandbox has a user of its own."""
    size_bytes: int = 0
    """That this state added on disk."""
    skipped: tuple[str, ...] = ()
    """Sentences on what could not be kept."""


@dataclass(slots=True)
class Origin:
    """Of one live sandbox: the state that it stands on, and the last copy that was made of it."""

    files: Files | None = None
    copied: tuple[Layer, Copy] | None = None


class LayerStore:
    """The layers of one launcher, and the states that are kept by name. Counts on the event loop,
    works in threads."""

    def __init__(
        self, folder: Path, remove_image: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        """`remove_image` is for launchers that call `add_image`."""
        self.folder = folder
        self._remove_image = remove_image
        self._layers: set[Layer] = set()
        self._folders: set[Path] = set()
        self._kept: dict[str, Files] = {}

    @property
    def size_bytes(self) -> int:
        """On disk, of all layers."""
        return sum(layer.size_bytes for layer in self._layers)

    def uids(self) -> set[int]:
        """The users that own files of kept states."""
        return {files.uid for files in self._kept.values() if files.uid is not None}

    def image_ids(self) -> set[str]:
        """The engine's images among the layers."""
        return {layer.image_id for layer in self._layers if layer.image_id}

    def kept(self, name: str, image: str) -> Files | None:
        """The state of this name, None for "". Raises PermanentError if there is none, or if it
        belongs on another image."""
        if not name:
            return None
        files = self._kept.get(name)
        if files is None:
            raise PermanentError("the files to start from are not there any more", field="snapshot")
        if files.image != image:
            raise PermanentError(
                f"the files to start from belong on image {files.image!r}, not on {image!r}",
                field="image",
            )
        return files

    def keep(self, name: str, files: Files) -> Files:
        """Keep a state by this name until `discard`."""
        self._kept[name] = self.hold(files)
        return files

    async def discard(self, name: str) -> Files | None:
        """Silent if there is none; returns what it was."""
        files = self._kept.pop(name, None)
        await self.release(files)
        return files

    async def clear(self) -> None:
        """Discard all that is kept."""
        for name in list(self._kept):
            await self.discard(name)

    async def capture(
        self,
        name: str,
        origin: Origin,
        parts: Mapping[str, Path],
        still: Still,
        *,
        image: str,
        uid: int | None,
        limit_bytes: int,
        whole: bool = False,
    ) -> Files:
        """Keep the files of a sandbox, its writable folders `parts`, as they are now. `whole` says
        that these hold everything, although it started from kept files.

        Raises PermanentError if they are more than `limit_bytes` or cannot be copied,
        TemporaryError.
        """
        folder = self._new_folder()
        try:
            copy = await finished(
                asyncio.to_thread(_copy, folder, parts, origin.copied, still, limit_bytes)
            )
        except BaseException as problem:
            await self._drop(folder)
            raise _as_manager_error(problem, limit_bytes) from problem
        layer = self._adopt(folder, copy, origin.copied)
        last, origin.copied = origin.copied, (layer, copy)
        layer.users += 1
        if last is not None:
            await self._let_go(last[0])
        stack = (layer, *(origin.files.layers if origin.files and not whole else ()))
        if len(stack) > DEPTH_MAX:
            stack = await self._merged(stack)
        skipped = _sentences(copy)
        return self.keep(name, Files(image, stack, uid, layer.size_bytes, skipped))

    def add_image(self, name: str, image: str, image_id: str, size_bytes: int) -> Files:
        """Keep an image that an engine has made of a sandbox, with all that it stood on."""
        layer = Layer(None, size_bytes, image_id=image_id)
        self._layers.add(layer)
        return self.keep(name, Files(image, (layer,), size_bytes=size_bytes))

    def hold(self, files: Files) -> Files:
        """Somebody needs this state from now on."""
        for layer in files.layers:
            layer.users += 1
        return files

    async def release(self, files: Files | None) -> None:
        """Somebody needs it no more; layers that nobody needs are removed."""
        for layer in files.layers if files else ():
            await self._let_go(layer)

    async def end(self, origin: Origin) -> None:
        """The sandbox is gone. Idempotent."""
        files, origin.files = origin.files, None
        copied, origin.copied = origin.copied, None
        await self.release(files)
        if copied is not None:
            await self._let_go(copied[0])

    def reap(self) -> None:
        """Remove what an earlier life of this server left. Blocks."""
        for folder in leftovers(self.folder, self._folders):
            folder.remove()

    def _new_folder(self) -> SandboxFolder:
        folder = SandboxFolder(self.folder, f"l-{secrets.token_hex(5)}")
        self._folders.add(folder.path)
        return folder

    def _adopt(
        self, folder: SandboxFolder, copy: Copy, earlier: tuple[Layer, Copy] | None
    ) -> Layer:
        layer = Layer(folder, copy.size_bytes)
        if earlier is not None:
            layer.earlier, layer.taken_bytes = earlier[0], copy.taken_bytes
        self._layers.add(layer)
        return layer

    async def _merged(self, stack: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """One layer that shows what the stack shows; the stack itself if it cannot be merged."""
        folder = self._new_folder()

        def work() -> None:
            folder.create()
            merge([layer.path for layer in reversed(stack)], folder.path)

        try:
            await finished(asyncio.to_thread(work))
        except (Redirected, OSError) as problem:
            log.info("%s layers stay apart: %r", len(stack), problem)
            await self._drop(folder)
            return stack
        except BaseException:
            await self._drop(folder)
            raise
        # Counted in full: the others may go, and then this one alone has what they shared.
        layer = Layer(folder, sum(layer.size_bytes for layer in stack))
        self._layers.add(layer)
        return (layer,)

    async def _let_go(self, layer: Layer) -> None:
        layer.users -= 1
        if layer.users > 0:
            return
        self._layers.discard(layer)
        for heir in self._layers:
            if heir.earlier is layer:
                # What it took over is on disk for its sake alone now.
                heir.size_bytes += heir.taken_bytes
                heir.earlier, heir.taken_bytes = layer.earlier, 0
        if layer.folder is not None:
            await self._drop(layer.folder)
        elif self._remove_image is not None:
            await self._remove_image(layer.image_id)

    async def _drop(self, folder: SandboxFolder) -> None:
        await finished(asyncio.to_thread(folder.remove))
        self._folders.discard(folder.path)


def too_much(limit_bytes: int) -> PermanentError:
    """There is no room to keep a sandbox's files."""
    return PermanentError(
        f"the files to keep take more than the {format_size(max(0, limit_bytes))} that are left "
        "for them: drop snapshots, close trajectories, or remove files first",
        field="disk",
    )


def _copy(
    folder: SandboxFolder,
    parts: Mapping[str, Path],
    earlier: tuple[Layer, Copy] | None,
    still: Still,
    limit_bytes: int,
) -> Copy:
    folder.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.create()
    with still() as pids:
        copier = TreeCopier(
            folder.path,
            limit_bytes=limit_bytes,
            earlier=earlier[1] if earlier else None,
            comparable=not maps_files_shared(pids),
        )
        for part, source in parts.items():
            copier.add(part, source)
    return copier.copy


def _sentences(copy: Copy) -> tuple[str, ...]:
    more = copy.skipped_count - len(copy.skipped)
    return (*copy.skipped, f"and {more} more") if more else tuple(copy.skipped)


def _as_manager_error(problem: BaseException, limit_bytes: int) -> BaseException:
    if isinstance(problem, ManagerError):
        return problem
    if isinstance(problem, TooMany):
        return PermanentError(
            f"there are more than {FILES_MAX} files and folders to keep, which is the limit: remove "
            "some first"
        )
    if isinstance(problem, TooMuch):
        return too_much(limit_bytes)
    if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
        return TemporaryError("the disk of the node is full: the files could not be kept")
    if isinstance(problem, OSError):
        where = f" ({problem.filename})" if problem.errno != errno.ENAMETOOLONG else ""
        return PermanentError(f"the files could not be kept: {problem.strerror}{where}")
    return problem
