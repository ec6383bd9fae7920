"""Why an action is where it is: the data of an explanation and its one sentence.

Reads the scheduler's bookkeeping and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter

from .model import CLUSTER, MEMORY, ResourceId, State, WaitReason, WaitSpan
from .pattern import Source
from .placement import Placement
from .pool import Pool
from .records import Entry, Seat, Tally, Waits
from .sentences import amount_of, name_of, number_of
from .waiting import Waiting


@dataclass(frozen=True, slots=True)
class Explanation:
    """The state of one action and the history of its waits. Times on the host's clock."""

    action: str
    state: State
    reason: WaitReason | None
    """Why it waits now; None if it does not."""
    resource: ResourceId | None
    """What it waits for, if that is one resource."""
    spans: tuple[WaitSpan, ...]
    ahead: int
    """Actions that go before it in the same queue, as far as the order alone tells; at its
    trajectory's gate, those before it there."""
    predicted_run_s: float | None
    predicted_from: Source
    """Of the duration behind `predicted_run_s`."""
    considered: tuple[tuple[int, float], ...]
    """Amounts of its key resource from which one is chosen, each with the predicted run time; empty
    if its amount is settled."""
    reserved: bool
    """What it needs is kept from younger actions."""
    sentence: str


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """Who waits for one resource, at its queue or, on the way to it, at a trajectory's gate."""

    resource: ResourceId
    count: int
    units: int
    reason: WaitReason
    """The commonest."""
    units_by_reason: Mapping[WaitReason, int]


class Explainer:
    """Answers questions about entries from the parts that know."""

    def __init__(self, pool: Pool, waiting: Waiting, placement: Placement) -> None:
        self._pool = pool
        self._waiting = waiting
        self._placement = placement

    def explain(self, entry: Entry, now: float) -> Explanation:
        return Explanation(
            action=entry.id,
            state=entry.state,
            reason=entry.reason,
            resource=entry.resource,
            spans=entry.spans(),
            ahead=self._ahead(entry),
            predicted_run_s=_predicted_run_s(entry),
            predicted_from=entry.source,
            considered=_considered(entry),
            reserved=entry.reserved,
            sentence=self._sentence(entry, now),
        )

    def waiting(self, waits: Waits) -> dict[ResourceId, QueueSummary]:
        found: dict[ResourceId, dict[WaitReason, Tally]] = {}
        for (resource, reason), tally in sorted(waits.tallies().items(), key=itemgetter(0)):
            found.setdefault(resource, {})[reason] = tally
        return {
            resource: QueueSummary(
                resource=resource,
                count=sum(tally.count for tally in tallies.values()),
                units=sum(tally.units for tally in tallies.values()),
                reason=max(tallies.items(), key=lambda item: item[1].count)[0],
                units_by_reason={reason: tally.units for reason, tally in tallies.items()},
            )
            for resource, tallies in found.items()
        }

    def _ahead(self, entry: Entry) -> int:
        if entry.limited_at is not None:
            return self._waiting.limits.ahead_of(entry)
        if entry.queued_at is not None:
            return self._waiting.queues[entry.queued_at].ahead_of(entry)
        if entry.reason is WaitReason.MEMORY and entry.seat is not None:
            return self._placement.ahead_of(entry.seat)
        if entry.reason is WaitReason.TRAJECTORY_BUSY and entry.seat is not None:
            return list(entry.seat.line).index(entry.id)
        return 0

    def _sentence(self, entry: Entry, now: float) -> str:
        if entry.state.ended:
            why = f" ({entry.end[0]}): {entry.end[1]}" if entry.end else ""
            return f"{entry.state}{why}"
        if entry.state is not State.WAITING:
            verb = "runs" if entry.state is State.RUNNING else "is being prepared"
            amounts = [amount_of(resource.kind, n) for resource, n in entry.amounts.items()]
            where = f" on {entry.node}" if entry.node != CLUSTER else ""
            return f"{verb}{where} with {' and '.join(amounts) or 'no units'}"
        if entry.queued_at is not None:
            return self._queue_sentence(entry, entry.queued_at, now)
        if entry.limited_at is not None:
            return self._limit_sentence(entry, entry.limited_at.kind)
        return self._gate_sentence(entry, entry.seat)

    def _gate_sentence(self, entry: Entry, seat: Seat | None) -> str:
        """The wait before any queue."""
        if seat is None or entry.reason is WaitReason.NO_NODE:
            return "waits for a node: none that could serve it has joined"
        ahead = _others(self._ahead(entry), "trajectory", "trajectories")
        if entry.reason is WaitReason.MEMORY:
            size = amount_of(MEMORY, seat.trajectory.reserve.get(MEMORY, 0))
            return f"waits until a node has {size} free for its trajectory{ahead}"
        if entry.reason is WaitReason.SANDBOX_STARTING:
            return f"waits for the sandbox of its trajectory, which is starting on {seat.node}"
        slots = seat.trajectory.concurrency
        at_once = "1 action" if slots == 1 else f"{slots} actions"
        ahead = _others(self._ahead(entry), "action", "actions")
        return f"waits for its trajectory, which runs {at_once} at a time{ahead}"

    def _limit_sentence(self, entry: Entry, kind: str) -> str:
        limits, task = self._waiting.limits, entry.action.task
        most = limits.most(task, kind)
        held = number_of(kind, most - limits.spare(task, kind))
        ahead, others = self._ahead(entry), ""
        if ahead:
            go = "action of it goes first" if ahead == 1 else "actions of it go first"
            others = f", {ahead} other {go}"
        most_words = amount_of(kind, most)
        return f"waits for its task {task}, which holds {held} of at most {most_words}{others}"

    def _queue_sentence(self, entry: Entry, resource: ResourceId, now: float) -> str:
        view = self._pool.views[resource]
        need, free = entry.needs[resource], view.free(now)
        ahead = _others(self._ahead(entry), "action", "actions")
        where = f" on {resource.node}" if resource.node != CLUSTER else ""
        if entry.reason is WaitReason.QUOTA_CLOSED:
            again = view.next_change(now)
            until = f" for another {again - now:.1f} s" if again is not None else ""
            return f"waits for {name_of(resource.kind)}, which its provider closed{until}{ahead}"
        if resource.node == CLUSTER:
            asked = amount_of(resource.kind, need)
        else:
            most = amount_of(resource.kind, view.total)
            asked = f"{number_of(resource.kind, need)} of {most}"
        verb = "is" if free == 1 else "are"
        kept = sum(self._waiting.reservations.kept_from(entry, resource))
        kept_words = f" ({number_of(resource.kind, kept)} kept for older actions)" if kept else ""
        state = f"{number_of(resource.kind, free)} {verb} free{kept_words}"
        if entry.reason is WaitReason.RATE and (again := view.next_change(now)) is not None:
            state += f" in this period, more in {again - now:.1f} s"
        if entry.reason is WaitReason.FOR_MORE:
            return (
                f"waits for more than {asked}{where}: {state}; it ends sooner with more, or others do "
                "if it waits"
            )
        return f"waits for {asked}{where}: {state}{ahead}"


def _others(count: int, one: str, many: str) -> str:
    if not count:
        return ""
    return f", 1 {one} goes before it" if count == 1 else f", {count} {many} go before it"


def _predicted_run_s(entry: Entry) -> float | None:
    """With what was granted, else with the least that it takes."""
    key = entry.key_resource
    if key is None:
        return entry.run_s(1)
    minimum = entry.action.demand.of(key.kind).minimum
    return entry.run_s(entry.amounts.get(key) or entry.needs.get(key, minimum))


def _considered(entry: Entry) -> tuple[tuple[int, float], ...]:
    if entry.choices is None:
        return ()
    return tuple(zip(entry.choices.units, entry.choices.durations_s, strict=True))
