"""What must hold between any two events: every cross-reference of the scheduler's state.

Asserts, for tests: a failure is a bug in the scheduler, never in its input.
"""

from __future__ import annotations

from collections import Counter

from .lifecycle import ENDED_MAX, Lifecycle
from .matching import Matching
from .model import ResourceId, State
from .placement import Placement, reservation
from .pool import Pool
from .records import Entry, Phase, Seat, Waits


def check(
    pool: Pool, waits: Waits, matching: Matching, placement: Placement, life: Lifecycle
) -> None:
    """Raises AssertionError."""
    _check_units(pool, life)
    for entry in life.actions.values():
        _check_entry(entry, matching, life)
    for seat in life.seats.values():
        _check_seat(seat, placement)
    _check_queues(pool, matching, life)
    _check_kept(waits, placement, life)


def _check_units(pool: Pool, life: Lifecycle) -> None:
    taken: Counter[ResourceId] = Counter()
    for entry in life.actions.values():
        assert all(resource in pool.views for resource in entry.amounts), entry
        for resource, amount in entry.amounts.items():
            # A grant of three GPUs holds a chunk of four. What is free, and when, is of no account.
            taken[resource] += pool.views[resource].operator(0.0).occupied(amount)
    for seat in life.seats.values():
        if seat.token:
            taken.update(reservation(seat))
    for resource, view in pool.views.items():
        assert view.taken == taken[resource], (resource, view.taken, taken[resource])
    tokens = [entry.token for entry in life.actions.values() if entry.token]
    tokens += [seat.token for seat in life.seats.values() if seat.token]
    assert len(tokens) == len(set(tokens)), "a token is held twice"


def _check_entry(entry: Entry, matching: Matching, life: Lifecycle) -> None:
    places = (
        entry.queued_at is not None,
        entry.seat is not None and entry.id in entry.seat.line,
        entry.id in life.stranded,
        entry.token > 0,
    )
    assert sum(places) == 1, (entry, places)
    waiting = entry.state is State.WAITING
    assert waiting == (entry.token == 0), "exactly the granted hold a token; the settled are gone"
    assert waiting == (entry.reason is not None), "every wait has a reason, and only waits"
    assert [span.end is None for span in entry.spans].count(True) == waiting
    assert not waiting or entry.spans[-1].end is None, "the open wait is not the last"
    assert not waiting or not entry.amounts, "it waits and holds units"
    if entry.queued_at is not None:
        assert entry.queued_at in entry.needs
        assert any(e is entry for e in matching.queues[entry.queued_at])
    if entry.seat is not None:
        assert entry.seat.actions[entry.id] is entry
        if entry.boxed and (entry.token or entry.queued_at is not None):
            assert entry.id in entry.seat.admitted, "it runs without a slot"


def _check_seat(seat: Seat, placement: Placement) -> None:
    name = seat.trajectory.id
    unplaced = seat in placement.waiting or name in placement.unplaceable
    assert unplaced == (seat.phase is Phase.UNPLACED), seat
    placed = seat.phase in (Phase.STARTING, Phase.READY)
    assert not placed or (seat.token and seat.node), "a placed trajectory holds a token on a node"
    assert (seat.phase is Phase.OVER) == (seat.over is not None)
    assert seat.token or seat.actions or seat.over is None, "it should have been put aside"
    assert all(seat.actions[name] is entry for name, entry in seat.line.items())
    assert all(seat.actions[name] is entry for name, entry in seat.admitted.items())
    assert not seat.line.keys() & seat.admitted.keys()
    if seat.over is not None:
        assert not seat.line, "a trajectory that is over has nobody at its gate"
    keys = [entry.key[1] for entry in seat.line.values()]
    assert keys == sorted(keys), "the line is not in the order of submission"


def _check_queues(pool: Pool, matching: Matching, life: Lifecycle) -> None:
    for resource, queue in matching.queues.items():
        assert resource in pool.views and queue.resource == resource
        for line, order in ((queue.rigid, "key"), (queue.elastic, "rank")):
            keys = [getattr(entry, order) for entry in line.items]
            assert keys == sorted(set(keys)), f"the queue of {resource} is out of order"
            head = line.items[0] if line.items else None
            assert line.head is head, "the head is not the first"
            assert not line.fresh, "somebody was not told why it waits"
        assert all(entry.queued_at == resource for entry in queue)
        assert all(life.actions[entry.id] is entry for entry in queue)
        assert all(entry.chooses(resource) for entry in queue.elastic.items)
        assert not any(entry.chooses(resource) for entry in queue.rigid.items)
    for entry in matching.reservations.values():
        assert entry.reserved and entry.queued_at is not None


def _check_kept(waits: Waits, placement: Placement, life: Lifecycle) -> None:
    waiting = [entry for entry in life.actions.values() if entry.state is State.WAITING]
    counted = {key: (tally.count, tally.units) for key, tally in waits.tallies().items()}
    counts, units = Counter[tuple[ResourceId, str]](), Counter[tuple[ResourceId, str]]()
    for entry in waiting:
        assert entry.reason is not None
        resource, amount = entry.wanted()
        counts[resource, entry.reason] += 1
        units[resource, entry.reason] += amount
    assert counted == {key: (counts[key], units[key]) for key in counts}, "the sums are off"
    deadlines = sum(entry.action.deadline is not None for entry in waiting)
    assert len(life.deadlines) == deadlines, "alarms for what does not wait"
    assert not life.out, "a decision was not handed over"
    keys = [seat.key for seat in placement.waiting]
    assert keys == sorted(keys)
    assert len(life.ended) <= ENDED_MAX and len(life.past_seats) <= ENDED_MAX
    assert not life.actions.keys() & life.ended.keys()
    for entry in life.ended.values():
        assert entry.state.ended and not entry.token and not entry.amounts
