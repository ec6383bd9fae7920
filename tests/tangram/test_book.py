"""The book of actions: what it retains, what it drops, and that a dropped id never runs again."""

from __future__ import annotations

import uuid

import pytest

from tangram.errors import IdExpired, NotFound
from tangram.managers.base import PermitSpec
from tangram.scheduler import Action, Amounts, Demand, State
from tangram.server import book as book_module
from tangram.server.book import CLOCK_SKEW_S, TOMBSTONE_S, ActionBook
from tangram.server.outputs import OutputStore
from tangram.server.records import ActionRecord, ActionRequest

DAY_S = 86_400.0
"""Unix time at which the server's monotonic clock stood at 0."""

DEMAND = Demand(cluster={"quota:search": Amounts.exactly(1)})


def record(name: str, *, submitted: float = 0.0) -> ActionRecord:
    action = Action(id=name, task="task", demand=DEMAND)
    request = ActionRequest(action, PermitSpec(), {}, "", b"", 1)
    return ActionRecord(request, submitted, DAY_S + submitted, OutputStore(10))


def end(book: ActionBook, known: ActionRecord, now: float, *, told: bool = True) -> ActionRecord:
    known.finish(now, State.FAILED)
    known.answered = told
    book.note_end(known)
    return known


def uuid7_of(unix_s: float) -> str:
    """An id made at that time, its random bits all ones."""
    low = (1 << 80) - 1
    value = int(unix_s * 1000) << 80 | low
    return str(uuid.UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62))


class Shelf:
    """A book with a clock of its own."""

    def __init__(self, *, retain_s: float = 100.0, retain_actions: int = 1000) -> None:
        self.now = 0.0
        self.book = ActionBook(
            retain_s=retain_s,
            retain_actions=retain_actions,
            unix_clock=lambda: DAY_S + self.now,
        )

    def ended(self, name: str, *, told: bool = True) -> ActionRecord:
        known = record(name, submitted=self.now)
        self.book.add(known)
        return end(self.book, known, self.now, told=told)

    def drop(self, now: float) -> list[str]:
        self.now = now
        return [dropped.id for dropped in self.book.drop_old(now)]


def test_what_nobody_was_told_of_does_not_keep_later_ones_from_being_dropped() -> None:
    shelf = Shelf()
    shelf.ended("untold", told=False)
    shelf.ended("told")
    assert shelf.drop(100.0) == []
    assert shelf.drop(101.0) == ["told"]
    assert shelf.book.find("untold") is not None
    assert shelf.book.find("told") is None


def test_a_live_action_does_not_keep_later_ones_from_being_dropped() -> None:
    shelf = Shelf()
    shelf.book.add(record("live"))
    shelf.ended("told")
    assert shelf.drop(101.0) == ["told"]
    assert [known.id for known in shelf.book.live()] == ["live"]


def test_of_too_many_those_that_somebody_was_told_of_go_first_and_the_oldest_before() -> None:
    shelf = Shelf(retain_actions=3)
    shelf.ended("untold 1", told=False)
    for number in range(4):
        shelf.ended(f"told {number}")
    assert shelf.drop(1.0) == ["told 0", "told 1"]
    for number in (2, 3, 4):
        shelf.ended(f"untold {number}", told=False)
    assert shelf.drop(2.0) == ["told 2", "told 3", "untold 1"]
    assert len(shelf.book) == 3


def test_a_refused_action_leaves_nothing_that_could_be_dropped() -> None:
    shelf = Shelf()
    shelf.ended("refused")
    shelf.book.remove("refused")
    assert shelf.drop(1000.0) == []
    shelf.book.check_age("refused")


@pytest.mark.parametrize("name", ["any-id", uuid7_of(DAY_S)])
def test_a_dropped_id_is_refused_for_an_hour_whatever_its_form(name: str) -> None:
    shelf = Shelf()
    shelf.ended(name)
    shelf.book.check_age("another")
    assert shelf.drop(101.0) == [name]
    shelf.drop(101.0 + TOMBSTONE_S)
    with pytest.raises(IdExpired, match="ended as failed"):
        shelf.book.check_age(name)
    with pytest.raises(NotFound, match="ended as failed"):
        shelf.book.get(name)


def test_a_forgotten_uuid_is_refused_by_its_own_time() -> None:
    shelf = Shelf()
    name = uuid7_of(DAY_S)
    shelf.ended(name)
    shelf.drop(101.0)
    shelf.drop(102.0 + TOMBSTONE_S)
    with pytest.raises(IdExpired, match="may have run already"):
        shelf.book.check_age(name)


def test_a_forgotten_uuid_of_a_client_whose_clock_is_ahead_is_refused_too() -> None:
    shelf = Shelf()
    name = uuid7_of(DAY_S + CLOCK_SKEW_S - 1)
    shelf.ended(name)
    shelf.drop(101.0)
    shelf.drop(102.0 + TOMBSTONE_S)
    with pytest.raises(IdExpired):
        shelf.book.check_age(name)


def test_a_client_whose_clock_is_minutes_behind_may_submit_right_after_a_drop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(book_module, "TOMBSTONES_MAX", 0)  # the horizon follows every drop
    shelf = Shelf(retain_actions=0)
    shelf.now = 1000.0
    shelf.ended("newest")
    assert shelf.drop(1000.0) == ["newest"]
    shelf.book.check_age(uuid7_of(DAY_S + 1000.0 - CLOCK_SKEW_S + 1))
    with pytest.raises(IdExpired):
        shelf.book.check_age(uuid7_of(DAY_S + 1000.0 - CLOCK_SKEW_S - 1))


def test_no_more_tombstones_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "TOMBSTONES_MAX", 2)
    shelf = Shelf(retain_actions=0)
    for number in range(3):
        shelf.ended(f"a{number}")
    assert shelf.drop(1.0) == ["a0", "a1", "a2"]
    shelf.book.check_age("a0")
    for name in ("a1", "a2"):
        with pytest.raises(IdExpired):
            shelf.book.check_age(name)
