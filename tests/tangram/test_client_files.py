"""Files of a sandbox through the SDK: single ones, trees, and no way out for either side."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tangram.client import AsyncClient, AsyncTrajectory
from tangram.errors import FileError, InvalidRequest
from tangram.testing import serve_fake


@pytest.fixture
async def trajectory() -> AsyncIterator[AsyncTrajectory]:
    async with (
        serve_fake() as address,
        AsyncClient(address) as client,
        client.trajectory() as trajectory,
    ):
        yield trajectory


async def test_files_go_in_and_out_unchanged(trajectory: AsyncTrajectory) -> None:
    data = os.urandom(3 << 20)
    await trajectory.write_file("deep/er/data.bin", data, mode=0o600)
    assert await trajectory.read_file("deep/er/data.bin") == data
    stat = await trajectory.stat("deep/er/data.bin")
    assert (stat.kind, stat.size, stat.mode & 0o777) == ("file", len(data), 0o600)
    await trajectory.write_file("empty", "")
    assert await trajectory.read_file("empty") == b""
    assert [file.name for file in await trajectory.list_files()] == ["deep", "empty"]


async def test_a_missing_file_is_a_file_error(trajectory: AsyncTrajectory) -> None:
    with pytest.raises(FileError) as raised:
        await trajectory.read_file("nothing")
    assert isinstance(raised.value, OSError) and not raised.value.infra
    with pytest.raises(InvalidRequest, match="mode"):
        await trajectory.write_file("a", "", mode=0o10000)


async def test_a_tree_goes_up_and_comes_down_the_same(
    trajectory: AsyncTrajectory, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    (source / "run.sh").write_text("true")
    (source / "run.sh").chmod(0o755)
    (source / "sub" / "data").write_bytes(b"\0\1")
    (source / "empty").mkdir()
    (source / "outside").symlink_to("/etc/passwd")
    (source / "sub" / "up").symlink_to("../run.sh")
    os.mkfifo(source / "fifo")
    os.utime(source / "run.sh", (1_500_000_000, 1_500_000_000))
    copied = await trajectory.upload(source, "tree")
    assert (copied.files, copied.size, copied.skipped) == (2, 6, ("fifo",))
    copied = await trajectory.download("tree", target)
    assert (copied.files, copied.size, copied.skipped) == (2, 6, ("outside",))
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        *("empty", "run.sh", "sub", "sub/data", "sub/up")
    ]
    assert (target / "sub" / "data").read_bytes() == b"\0\1"
    assert os.readlink(target / "sub" / "up") == "../run.sh"
    status = (target / "run.sh").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o755, 1_500_000_000)


async def test_a_large_file_in_a_tree_and_alone_tells_how_far_it_is(
    trajectory: AsyncTrajectory, tmp_path: Path
) -> None:
    size = 3_500_000
    (tmp_path / "big").write_bytes(os.urandom(size))
    told: dict[str, list[tuple[int, int | None]]] = {"file": [], "tree": [], "back": []}
    await trajectory.upload(
        tmp_path / "big", "one", on_progress=lambda *said: told["file"].append(said)
    )
    await trajectory.upload(tmp_path, "tree", on_progress=lambda *said: told["tree"].append(said))
    await trajectory.download(
        "one", tmp_path / "back", on_progress=lambda *said: told["back"].append(said)
    )
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
    assert await trajectory.read_file("tree/big") == (tmp_path / "big").read_bytes()
    for said in told.values():
        assert said == sorted(said) and len(said) >= 3
        assert said[-1] == (size, size)


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("/etc/passwd", False),
        ("../..", False),
        ("../../out", False),
        ("inner/../../..", False),
        ("inner/../x", False),
        ("..", True),
        ("../file", True),
        ("inner", True),
    ],
)
async def test_a_link_that_could_lead_out_is_left_out_of_a_download(
    trajectory: AsyncTrajectory, tmp_path: Path, target: str, stays: bool
) -> None:
    await trajectory.write_file("tree/file", "text")
    await trajectory.exec(["link", target, "tree/sub/link"])
    copied = await trajectory.download("tree", tmp_path / "target")
    assert copied.skipped == (() if stays else ("sub/link",))
    assert (tmp_path / "target" / "sub" / "link").is_symlink() is stays


async def test_a_single_file_goes_to_its_name_or_into_a_folder(
    trajectory: AsyncTrajectory, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("text")
    await trajectory.upload(tmp_path / "a.txt", "folder/")
    assert await trajectory.read_text("folder/a.txt") == "text"
    (tmp_path / "into").mkdir()
    await trajectory.download("folder/a.txt", tmp_path / "into")
    await trajectory.download("folder/a.txt", tmp_path / "b.txt")
    assert (tmp_path / "into" / "a.txt").read_text() == "text"
    assert (tmp_path / "b.txt").read_text() == "text"


async def test_uploading_a_link_is_refused(trajectory: AsyncTrajectory, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="links are not followed"):
        await trajectory.upload(tmp_path / "link", "passwd")


async def test_a_download_writes_nothing_through_a_link(
    trajectory: AsyncTrajectory, tmp_path: Path
) -> None:
    victim, outside, target = tmp_path / "victim", tmp_path / "outside", tmp_path / "target"
    victim.write_text("mine")
    outside.mkdir()
    target.mkdir()
    (target / "file").symlink_to(victim)
    (target / "folder").symlink_to(outside)
    await trajectory.write_file("tree/file", "theirs")
    await trajectory.download("tree", target)
    assert victim.read_text() == "mine"
    assert (target / "file").read_text() == "theirs" and not (target / "file").is_symlink()
    await trajectory.write_file("tree/folder/inner", "theirs")
    with pytest.raises(FileError, match="is a link"):
        await trajectory.download("tree", target)
    assert not list(outside.iterdir())
