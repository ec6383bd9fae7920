"""What must hold between any two events: every cross-reference of the scheduler's state.

Asserts, for tests: a failure is a bug in the scheduler, never in its input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .lifecycle import ENDED_MAX, Lifecycle
from .model import UNITS_MAX, ResourceId, State, WaitReason
from .placement import Placement, reservation
from .pool import Pool
from .records import FIRST, Entry, Phase, Seat, Waits
from .waiting import Waiting


def check(
    pool: Pool, waits: Waits, waiting: Waiting, placement: Placement, life: Lifecycle
) -> None:
    """Raises AssertionError."""
    _check_units(pool, life)
    for entry in life.actions.values():
        _check_entry(entry, waiting, life)
    for seat in life.seats.values():
        _check_seat(seat, placement)
    _check_queues(pool, waiting, life)
    _check_limits(waiting, life)
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


def _check_entry(entry: Entry, waiting: Waiting, life: Lifecycle) -> None:
    places = (
        entry.queued_at is not None,
        entry.limited_at is not None,
        entry.seat is not None and entry.id in entry.seat.line,
        entry.id in life.stranded,
        entry.token > 0,
    )
    assert sum(places) == 1, (entry, places)
    waits = entry.state is State.WAITING
    assert waits == (entry.token == 0), "exactly the granted hold a token; the settled are gone"
    assert waits == (entry.reason is not None), "every wait has a reason, and only waits"
    assert all(span.end is not None for span in entry.waited), "an open wait is in the past"
    assert not waits or not entry.amounts, "it waits and holds units"
    if entry.queued_at is not None:
        assert entry.queued_at in entry.needs
        assert any(e is entry for e in waiting.queues[entry.queued_at])
    if entry.limited_at is not None:
        assert entry.limited_at in entry.needs and entry.reason is WaitReason.TASK_LIMIT
    if entry.seat is not None:
        assert entry.seat.actions[entry.id] is entry
        if entry.boxed and (
            entry.token or entry.queued_at is not None or entry.limited_at is not None
        ):
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


def _check_queues(pool: Pool, waiting: Waiting, life: Lifecycle) -> None:
    for resource, queue in waiting.queues.items():
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
        assert _same(queue.ages.members(), list(queue))
    reserved = [e for e in life.actions.values() if e.reserved and e.queued_at is not None]
    assert _same(waiting.reservations.entries.values(), reserved)
    assert all(entry.key[0] == FIRST for entry in reserved)


def _check_limits(waiting: Waiting, life: Lifecycle) -> None:
    held: Counter[tuple[str, str]] = Counter()
    for entry in life.actions.values():
        for resource, amount in entry.amounts.items():
            held[entry.action.task, resource.kind] += amount
    for (task, kind), units in held.items():
        spare = waiting.limits.most(task, kind) - units
        assert waiting.limits.spare(task, kind) in (spare, UNITS_MAX), (task, kind)
    for (task, kind), allowance in waiting.limits.allowances.items():
        mine = [e for e in life.actions.values() if e.action.task == task]
        assert not allowance.idle, "an allowance that nobody uses"
        assert allowance.held == held[task, kind]
        queued = [e for e in mine if e.queued_at is not None and allowance.need(e)]
        assert _same(allowance.queued.items, queued)
        assert allowance.claimed == sum(map(allowance.need, queued))
        assert allowance.room >= 0 or not queued, "more is queued for than the limit allows"
        limited = [e for e in mine if e.limited_at is not None and e.limited_at.kind == kind]
        assert _same(allowance.line.items, limited) and _same(allowance.ages.members(), limited)
        first = allowance.line.items[0] if allowance.line.items else None
        assert first is None or allowance.need(first) > allowance.room, "it could be let go"
        for line in (allowance.queued, allowance.line):
            keys = [entry.key for entry in line.items]
            assert keys == sorted(keys), f"the line of {task} is out of order"


def _same(some: Iterable[Entry], others: Iterable[Entry]) -> bool:
    return {id(entry) for entry in some} == {id(entry) for entry in others}


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
    assert {seat.key[1] for seat in placement.ages.members()} == {key[1] for key in keys}
    assert len(life.ended) <= ENDED_MAX and len(life.past_seats) <= ENDED_MAX
    assert not life.actions.keys() & life.ended.keys()
    for entry in life.ended.values():
        assert entry.state.ended and not entry.token and not entry.amounts
