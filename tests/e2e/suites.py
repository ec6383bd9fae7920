"""pytest for sandboxes that have none: a suite brings it along, as one file on the path of modules."""

from __future__ import annotations

import functools
import io
import zipfile
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from tangram.scoring import PytestSuite

DISTRIBUTIONS = (
    "pytest",
    "pytest-xdist",
    "execnet",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
)
ARCHIVE = "/tmp/pytest.zip"
SANDBOX: dict[str, Any] = {"env": {"PYTHONPATH": ARCHIVE}, "memory": "256Mi"}
"""Where it is looked for: only if the sandbox's own Python has none."""


@functools.cache
def archive() -> bytes:
    """The packages as they are installed here. Without the lexers of other languages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in DISTRIBUTIONS:
            for file in metadata.files(name) or ():
                path = PurePosixPath(file)
                wanted = path.suffix in (".py", "") or path.parent.suffix == ".dist-info"
                foreign = "lexers" in path.parts and path.stem not in (
                    "__init__",
                    "_mapping",
                    "python",
                    "diff",
                )
                if wanted and not foreign and ".." not in path.parts:
                    packed.writestr(str(path), file.read_binary())
    return buffer.getvalue()


def suite(test_file: str, **fields: Any) -> PytestSuite:
    """A suite of `test_it.py`, and pytest."""
    files = {"test_it.py": test_file, ARCHIVE: archive(), **fields.pop("files", {})}
    return PytestSuite(files, **fields)
