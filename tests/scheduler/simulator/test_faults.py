"""Goal: no fault of nodes, messages or people makes the scheduler break a promise.

Method: 3,000 seeds (`repeat` runs any number), each a world, a workload and a random half of the
faults, judged by checkers that see events and decisions alone (`checkers`), and for GPUs which of
them each grant is on (`chunks`). That the checkers can fail is shown by
breaking the scheduler on purpose. A failure prints the command that repeats it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tangram.managers.gpu import ChunksView
from tangram.scheduler.core import Scheduler
from tangram.scheduler.decisions import Grant
from tangram.scheduler.ledger import Ledger
from tangram.scheduler.lifecycle import Lifecycle
from tangram.scheduler.matching import Matching
from tangram.scheduler.membership import Membership
from tangram.scheduler.ranking import Ranking
from tangram.scheduler.reserving import Reservations
from tangram.scheduler.resizing import Resizing
from tangram.scheduler.resource import LinearView
from tangram.scheduler.simulator.faults.checkers import Violation
from tangram.scheduler.simulator.faults.drawn import EVENT_FAULTS, MESSAGE_FAULTS
from tangram.scheduler.simulator.faults.run import shrink

from .repeat import COMMAND, failure, main, verdict

CHUNKS, SEEDS_EACH = 20, 150

MUTANT_SEEDS_MAX = 250
"""A broken scheduler is caught within so many seeds."""

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_promise_is_kept_whatever_goes_wrong(chunk: int) -> None:
    for seed in range(chunk * SEEDS_EACH, (chunk + 1) * SEEDS_EACH):
        found = verdict(seed)
        assert found.violation is None, failure(found)


def test_a_seed_repeats_its_run() -> None:
    assert verdict(17).story == verdict(17).story
    assert verdict(17).story != verdict(18).story


def test_the_faults_happen_in_some_seed() -> None:
    seen = {fault for seed in range(60) for fault in verdict(seed).faults}
    assert seen == {*EVENT_FAULTS, *MESSAGE_FAULTS}
    assert any(verdict(seed).restarts > 1 for seed in range(60))


# A checker that cannot fail checks nothing: schedulers that are broken on purpose

Break = Callable[[pytest.MonkeyPatch], None]


def _grants_without_taking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LinearView, "free", lambda self, now: self.total)


def _drops_a_release(patch: pytest.MonkeyPatch) -> None:
    give = Ledger.give

    def forgetful(self: Ledger, entry: Any, now: float) -> None:
        if entry.token % 5 == 0:
            entry.amounts = {}
        give(self, entry, now)

    patch.setattr(Ledger, "give", forgetful)


def _ignores_tokens(patch: pytest.MonkeyPatch) -> None:
    def any_token(self: Scheduler, action: str, token: int) -> Any:
        entry = self._life.actions.get(action)
        return entry if entry is not None and entry.token else None

    patch.setattr(Scheduler, "_holder", any_token)


def _ignores_epochs(patch: pytest.MonkeyPatch) -> None:
    leave = Membership.leave

    def at_any_epoch(self: Membership, node: str, epoch: int, now: float) -> bool:
        return leave(self, node, self._pool.epoch(node) or 0, now)

    patch.setattr(Membership, "leave", at_any_epoch)


def _forgets_who_waits(patch: pytest.MonkeyPatch) -> None:
    queue = Lifecycle._queue

    def forgetful(self: Lifecycle, entry: Any, now: float) -> None:
        queue(self, entry, now)
        if entry.key[1] % 5 == 0 and not entry.token:
            self._waiting.remove(entry, now)

    patch.setattr(Lifecycle, "_queue", forgetful)


def _grants(change: Callable[[dict[Any, int]], dict[Any, int]]) -> Break:
    def broken(patch: pytest.MonkeyPatch) -> None:
        run = Matching.run

        def changed(self: Matching, now: float) -> list[Any]:
            return [
                Grant(d.action, d.node, d.token, change(dict(d.amounts)))
                if isinstance(d, Grant)
                else d
                for d in run(self, now)
            ]

        patch.setattr(Matching, "run", changed)

    return broken


def _ends_twice(patch: pytest.MonkeyPatch) -> None:
    end = Lifecycle.end

    def again(self: Lifecycle, entry: Any, *how: Any) -> None:
        before = len(self.out)
        end(self, entry, *how)
        self.out.extend(self.out[before : before + 1])

    patch.setattr(Lifecycle, "end", again)


def _kills_nobody(patch: pytest.MonkeyPatch) -> None:
    handle = Scheduler.handle

    def harmless(self: Scheduler, event: Any, now: float) -> list[Any]:
        return [d for d in handle(self, event, now) if type(d).__name__ != "Kill"]

    patch.setattr(Scheduler, "handle", harmless)


def _ignores_slots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lifecycle, "_may_pass", lambda self, seat, entry: seat.node is not None)


def _believes_any_resize(patch: pytest.MonkeyPatch) -> None:
    confirm = Resizing.confirm

    def gullible(self: Resizing, entry: Any, amounts: Any, change: int, now: float) -> bool:
        return confirm(self, entry, amounts, entry.change, now)

    patch.setattr(Resizing, "confirm", gullible)


def _serves_the_last_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ranking, "of_action", lambda self, entry, priority: -float(entry.key[1]))


def _keeps_no_reservation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reservations, "add", lambda self, entry: None)


def _grants_a_chunk_that_others_have(patch: pytest.MonkeyPatch) -> None:
    """The pool counts rightly; what is handed out is always the first chunk of its size."""
    take = ChunksView.take

    def first(self: ChunksView, token: int, amount: int, now: float, tag: str = "") -> None:
        take(self, token, amount, now, tag)
        right = self._held[token]
        self._held[token] = replace(right, chunk=right.chunk._replace(node=0, start=0))

    patch.setattr(ChunksView, "take", first)


def _closes_no_quota(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_close_quota", lambda self, resource, until: None)


MUTANTS: dict[str, tuple[Break, set[str]]] = {
    "grants units without taking them": (_grants_without_taking, {"units", "node"}),
    "drops a release": (_drops_a_release, {"liveness", "leak"}),
    "ignores tokens": (_ignores_tokens, {"lost", "kill", "ended twice", "units", "granted twice"}),
    "ignores epochs": (_ignores_epochs, {"ended twice", "kill", "node", "units", "lost"}),
    "forgets who waits": (_forgets_who_waits, {"liveness", "reason"}),
    "grants more than is feasible": (
        _grants(lambda amounts: {r: n + 1 for r, n in amounts.items()}),
        {"feasible"},
    ),
    "grants a part": (_grants(lambda amounts: dict(list(amounts.items())[:1])), {"vector"}),
    "ends an action twice": (_ends_twice, {"ended twice"}),
    "kills nobody": (_kills_nobody, {"kill"}),
    "ignores the slots of a trajectory": (_ignores_slots, {"concurrency", "gate"}),
    "believes any answer to a resize": (_believes_any_resize, {"units", "node", "resize"}),
    "serves the last first": (_serves_the_last_first, {"order"}),
    "keeps nothing for the reserved": (_keeps_no_reservation, {"reserved"}),
    "grants a chunk that others have": (_grants_a_chunk_that_others_have, {"gpu"}),
    "grants of a closed quota": (_closes_no_quota, {"closed"}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_scheduler_that_breaks_a_promise_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it, rules = MUTANTS[name]
    break_it(monkeypatch)
    caught: list[str] = []
    for seed in range(MUTANT_SEEDS_MAX):
        violation = verdict(seed, inside=False).violation
        if isinstance(violation, Violation):
            caught.append(violation.rule)
            if violation.rule in rules:
                return
    pytest.fail(f"none of {rules} in {MUTANT_SEEDS_MAX} seeds; found were {set(caught)}")


# Seeing a failure again


def test_a_failure_names_the_command_that_repeats_it_in_fewer_trajectories(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MUTANTS["kills nobody"][0](monkeypatch)
    found = next(
        v for v in map(verdict, range(MUTANT_SEEDS_MAX)) if v.violation and len(v.callers) > 3
    )
    shown = failure(found)
    assert shown.endswith(f"{COMMAND} --seed {found.seed}")
    arguments = shown.rpartition("tests.scheduler.simulator.repeat ")[2].split()
    assert main(arguments) == 1
    told = capsys.readouterr().out
    assert "and was not killed" in told and "1 broken" in told
    smaller = shrink(found, verdict)
    assert len(smaller.callers) < len(found.callers)
    assert isinstance(smaller.violation, Violation) and smaller.violation.rule == "kill"


def test_the_command_runs_from_the_shell() -> None:
    command = [sys.executable, *COMMAND.split()[1:], "--seed", "3", "--seeds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 seeds, 0 broken")
