"""Runs seeds of the fault injection from the command line, as the tests do: one to repeat a failure,
or as many as there is time for.

    python -m tests.scheduler.simulator.repeat --seed 12345
    python -m tests.scheduler.simulator.repeat --seed 0 --seeds 100000
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

from tangram.managers.gpu.view import CHUNKS_VIEW, ChunksView
from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.scheduler import waiting
from tangram.scheduler.pool import ViewFactory
from tangram.scheduler.simulator.faults.checkers import Violation
from tangram.scheduler.simulator.faults.run import Verdict, run_seed, shrink

COMMAND = "python -m tests.scheduler.simulator.repeat"

VIEWS: dict[str, ViewFactory] = {CHUNKS_VIEW: ChunksView, QUOTA_VIEW: QuotaView}

FEW, SOME = 1, 2
"""Overtakings that odd seeds allow in place of OVERTAKE_MAX and OVERTAKE_YOUNGER_MAX, so that short
runs reach them."""

UNITS_MAX = 16
"""No resource of a drawn world has more units (GPUs; of cores there are eight)."""

OVERTAKEN_MAX = (FEW + 2) * (SOME + UNITS_MAX + 1)
"""A stay in a queue ends after SOME that came later and what one pass grants besides; an action is
sent on to another queue FEW times, and overtaken FEW times at its head."""


def verdict(
    seed: int,
    callers: Collection[int] | None = None,
    policy: str | None = None,
    inside: bool = True,
) -> Verdict:
    """One run. Odd seeds have tight bounds on overtaking."""
    with _tight(seed % 2 == 1) as bound:
        return run_seed(
            seed, VIEWS, policy=policy, callers=callers, overtaken_max=bound, inside=inside
        )


@contextmanager
def _tight(wanted: bool) -> Iterator[int | None]:
    before = waiting.OVERTAKE_MAX, waiting.OVERTAKE_YOUNGER_MAX
    if wanted:
        waiting.OVERTAKE_MAX, waiting.OVERTAKE_YOUNGER_MAX = FEW, SOME
    try:
        yield OVERTAKEN_MAX if wanted else None
    finally:
        waiting.OVERTAKE_MAX, waiting.OVERTAKE_YOUNGER_MAX = before


def failure(found: Verdict) -> str:
    """What went wrong in this seed, and how to see it again."""
    policy = f"policy {found.policy}, {len(found.callers)} trajectories"
    return f"seed {found.seed} ({policy}): {found.violation!r}\nto repeat: {command(found)}"


def command(found: Verdict) -> str:
    return f"{COMMAND} --seed {found.seed}"


def main(arguments: list[str]) -> int:
    """0 if all promises were kept, else 1."""
    parser = argparse.ArgumentParser(prog=COMMAND)
    parser.add_argument("--seed", type=int, default=0, help="the (first) seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--policy", help="in place of the one that the seed draws")
    options = parser.parse_args(arguments)
    begun, broken = time.monotonic(), 0
    for seed in range(options.seed, options.seed + options.seeds):
        found = verdict(seed, policy=options.policy)
        if found.violation is not None:
            broken += 1
            _show(found, options.policy)
    took_s = time.monotonic() - begun
    print(f"{options.seeds} seeds, {broken} broken, {took_s:.1f} s")
    return int(broken > 0)


def _show(found: Verdict, policy: str | None) -> None:
    smallest = shrink(found, partial(verdict, policy=policy))
    print(smallest.story)
    if smallest.violation is not None and not isinstance(smallest.violation, Violation):
        traceback.print_exception(smallest.violation)
    print(failure(smallest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
