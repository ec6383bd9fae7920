"""Fixtures of the scheduler's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .dialogue import Dialogue


@pytest.fixture
def talk() -> Iterator[Dialogue]:
    """An empty scheduler; what it came to is checked at the end of each test."""
    dialogue = Dialogue()
    yield dialogue
    dialogue.scheduler.check_invariants()


@pytest.fixture
def node(talk: Dialogue) -> Dialogue:
    """A scheduler with one node of 4 cores and 100 bytes of memory."""
    talk.join()
    return talk
