"""What the files of a sandbox take on disk, counted as the launchers count them."""

from __future__ import annotations

import os
from pathlib import Path

from tangram.managers.cpu.sandbox.folder import disk_used_bytes

SIZE_BYTES = 1 << 20
BLOCK_BYTES = 64 << 10
"""What a file system may add for folders and metadata."""


def test_a_file_with_several_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(os.urandom(SIZE_BYTES))
    for number in range(3):
        os.link(tmp_path / "file", tmp_path / "folder" / str(number))
    assert SIZE_BYTES <= disk_used_bytes([tmp_path]) <= SIZE_BYTES + BLOCK_BYTES


def test_a_root_may_be_a_file_or_missing_and_links_are_not_followed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(SIZE_BYTES))
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "link").symlink_to(tmp_path)
    roots = [file, tmp_path / "missing", tmp_path / "seen"]
    assert SIZE_BYTES <= disk_used_bytes(roots) <= SIZE_BYTES + BLOCK_BYTES
