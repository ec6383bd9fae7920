"""A running agent: as a child of this process, and as the first process of a namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.managers.agents import Running, open_folder, running


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(params=["child", "init"])
async def sandbox(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Running]:
    async with running(request.param, folder) as started:
        yield started


@pytest.fixture
async def child(folder: Path) -> AsyncIterator[Running]:
    async with running("child", folder) as started:
        yield started


@pytest.fixture
async def init(folder: Path) -> AsyncIterator[Running]:
    async with running("init", folder) as started:
        yield started
