"""The contract of every manager that holds sandboxes, continued: whole trees of files. The nodes are
those of `test_contract`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tangram.managers.errors import FileProblem, PermanentError
from tangram.managers.tar_stream import Piece, to_tar
from tests.managers.contract.node import Node
from tests.managers.test_contract import node, shared_node, trajectory  # noqa: F401 - fixtures

pytestmark = pytest.mark.asyncio(loop_scope="module")
# ruff: noqa: F811 - a fixture's name is that of the argument.


async def test_a_tree_is_written_and_read_back_as_a_tar_stream(node: Node, trajectory: str) -> None:
    big = os.urandom(2_500_000)
    tree = {
        "empty": Piece("empty", "directory", mode=0o755),
        "deep/er/big": Piece("deep/er/big", "file", len(big), 0o640, 1_500_000_000.0, data=big),
        "none": Piece("none", "file", 0, 0o755, 1_500_000_000.0),
        "link": Piece("link", "symlink", mode=0o777, target="deep/er/big"),
    }
    assert await node.write_tree(trajectory, "tree", tree.values()) == (2, len(big))
    assert await node.read(trajectory, "tree/deep/er/big") == big
    found = await node.read_tree(trajectory, "tree")
    assert list(found) == ["deep", "deep/er", "deep/er/big", "empty", "link", "none"]
    assert found["deep/er/big"] == tree["deep/er/big"]
    assert (found["link"].kind, found["link"].target) == ("symlink", "deep/er/big")
    assert (found["none"].mode, found["none"].data) == (0o755, b"")
    assert await node.write_tree(trajectory, "copy", found.values()) == (2, len(big))
    assert await node.read_tree(trajectory, "copy/deep") == {
        name: replace(found[f"deep/{name}"], name=name) for name in ("er", "er/big")
    }


async def test_many_small_files_go_in_portions(node: Node, trajectory: str) -> None:
    files = [Piece(f"f{n % 7}/{n}", "file", 3, data=b"abc") for n in range(5_000)]
    assert await node.write_tree(trajectory, "many", files) == (5_000, 15_000)
    found = await node.read_tree(trajectory, "many")
    assert sum(piece.kind == "file" for piece in found.values()) == 5_000
    assert found["f3/3"].data == b"abc"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out"])
async def test_a_tree_stays_below_its_folder(node: Node, trajectory: str, name: str) -> None:
    with pytest.raises(FileProblem, match="leads out of the folder"):
        await node.write_tree(trajectory, "tree", [Piece(name, "file", 1, data=b"x")])
    await node.execute(trajectory, node.commands.link("/tmp", "tree/folder"))
    with pytest.raises(FileProblem, match="a symlink stands where a folder should"):
        await node.write_tree(trajectory, "tree", [Piece("folder/out", "file", 1, data=b"x")])
    with pytest.raises(FileProblem):
        await node.read(trajectory, "/tmp/out")
    assert [entry.name for entry in await node.host.list_files(trajectory, ".")] == ["tree"]


async def test_what_is_no_tree_says_so(node: Node, trajectory: str) -> None:
    await node.write(trajectory, "file", b"x")
    with pytest.raises(FileProblem) as problem:
        await node.read_tree(trajectory, "file")
    assert problem.value.code == "ENOTDIR"
    with pytest.raises(FileProblem) as problem:
        await node.read_tree(trajectory, "missing")
    assert problem.value.code == "ENOENT"

    async def garbage() -> AsyncIterator[bytes]:
        yield b"no tar at all, " * 200

    with pytest.raises(PermanentError, match="no tar stream"):
        await node.host.write_tree(trajectory, "tree", garbage())


async def test_a_tree_that_breaks_off_leaves_whole_files_alone(node: Node, trajectory: str) -> None:
    whole = Piece("whole", "file", 1 << 20, data=b"w" * (1 << 20))

    async def breaking() -> AsyncIterator[bytes]:
        yield to_tar(whole)
        yield to_tar(Piece("half", "file", 3 << 20, data=b"h" * (2 << 20), last=False))
        raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        await node.host.write_tree(trajectory, "tree", breaking())
    assert set(await node.read_tree(trajectory, "tree")) <= {"whole"}
