"""Traces: what a workload would do, one trajectory a line of JSON, and what can be made of it.

`{"trajectory": "a", "task": "coding", "start_s": 0, "actions": [{"kind": "exec", "gap_s": 1.3,
"duration_s": 64, "cores": "1-32", "serial": 0.03, "memory_mib": 162}, {"kind": "score", "gap_s": 4,
"duration_s": 3.2, "service": "rm", "gpus": [1, 2], "elasticity": {"2": 0.95}}, {"kind": "call",
"gap_s": 2, "duration_s": 0.8, "quota": "search"}]}`

Who is served first may depend on more of a trajectory, all optional: `tenant`, `group`, `step`,
`priority`; of an action `priority`, which adds to its trajectory's.

Recorded traces say more (all optional, 0 if missing): of an action `overhead_s`, seconds of its
completion time before it could be granted anything (its sandbox started); `prepare_s`, seconds that
it held its units and did not run; `release_s`, seconds that they stayed taken after its end; of a
trajectory `memory_mib`, what it reserved, if that is more than the largest of its actions.

An action is submitted `gap_s` after the end of the one before it (the first at start_s + gap_s), so
slow actions delay what follows. `duration_s` is with one unit of the key resource. No IO: who calls
reads the file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from ..model import DURATION_MIN_S, EMPTY, Amounts, Profile
from .fields import AMOUNT_MAX, Fields, TraceError, parse_amounts, shown

__all__ = [
    "TraceAction",
    "TraceError",
    "TraceTrajectory",
    "make_elastic",
    "parse_elastic",
    "read_lines",
    "replicate",
    "write_line",
]

EXEC, SCORE, CALL = "exec", "score", "call"

EXEC_KINDS = frozenset({EXEC, "test", "shell", "file", "other"})
"""All run as `exec`; the kind as written stays, for reports and for `make_elastic`."""

LINE_CHARS_MAX = 1 << 25
"""Of one trajectory: ACTIONS_MAX actions of 300 characters each."""

ACTIONS_MAX = 100_000
"""Of one trajectory."""

TRAJECTORIES_MAX = 1_000_000
"""Of one trace, also after `replicate`: they are all held in memory."""

TIME_MAX_S = 1e10
"""Of a start (also one in seconds of the Unix epoch), a gap and a duration: 300 years."""

MEMORY_MIB_MAX = float(1 << 30)
"""A pebibyte, the scheduler's UNITS_MAX in bytes."""

PRIORITY_MAX = 1_000_000

_ONE = Amounts.exactly(1)


@dataclass(frozen=True, slots=True)
class TraceAction:
    """One action of a trace. `amounts` are cores of an exec, GPUs of a score; a call has none and
    takes `quota_amount` of `quota`."""

    kind: str
    """As written: test, shell, file and other run as exec."""
    gap_s: float
    duration_s: float
    """With one unit; at least DURATION_MIN_S."""
    amounts: Amounts = _ONE
    serial: float | None = None
    elasticity: Mapping[int, float] = field(default_factory=lambda: EMPTY)
    memory_mib: float = 0.0
    service: str = ""
    quota: str = ""
    quota_amount: int = 1
    malleable: bool = False
    timeout_s: float | None = None
    priority: int = 0
    """Of its own, beside its trajectory's."""
    overhead_s: float = 0.0
    prepare_s: float = 0.0
    release_s: float = 0.0

    @property
    def runs_as(self) -> str:
        """exec, score or call."""
        return EXEC if self.kind in EXEC_KINDS else self.kind

    @property
    def profile(self) -> Profile:
        """How long it really runs, as a function of its amount. Without `serial` and `elasticity`
        it scales perfectly; a call takes as long whatever its amount."""
        serial = 0.0 if self.serial is None and not self.elasticity else self.serial
        return Profile(self.duration_s, self.elasticity, serial)


@dataclass(frozen=True, slots=True)
class TraceTrajectory:
    id: str
    task: str
    start_s: float
    actions: tuple[TraceAction, ...]
    group: str = ""
    step: int | None = None
    priority: int = 0
    reserved_mib: float = 0.0
    tenant: str = ""
    image: str = ""
    image_digest: str = ""
    """What ran, for those who read the trace. Nothing is simulated by it."""

    @property
    def memory_mib(self) -> float:
        """What it reserves on its node while it lives: the largest of its actions, or more if that
        was recorded."""
        used_mib = max((action.memory_mib for action in self.actions), default=0.0)
        return max(used_mib, self.reserved_mib)


# Reading and writing


def read_lines(lines: Iterable[str], source: str) -> list[TraceTrajectory]:
    """All trajectories, in order; blank lines are passed over, unknown keys ignored. `source` names
    the file in errors. Raises TraceError."""
    trajectories: list[TraceTrajectory] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        trajectory = _read_trajectory(_decode(line, place))
        if trajectory.id in seen:
            raise TraceError(
                f"{place}: trajectory: {shown(trajectory.id)} is the id of line"
                f" {seen[trajectory.id]} already; ids must be unique"
            )
        seen[trajectory.id] = number
        trajectories.append(trajectory)
        if len(trajectories) > TRAJECTORIES_MAX:
            raise TraceError(f"{place}: at most {TRAJECTORIES_MAX} trajectories are read")
    return trajectories


def _decode(line: str, place: str) -> Fields:
    if len(line) > LINE_CHARS_MAX:
        raise TraceError(f"{place}: at most {LINE_CHARS_MAX} characters are read, not {len(line)}")
    try:
        return Fields(json.loads(line), place)
    except TraceError:
        raise
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{place}: not a line of JSON: {error}") from error


def _read_trajectory(fields: Fields) -> TraceTrajectory:
    actions: list[TraceAction] = []
    for index, values in enumerate(fields.items("actions", ACTIONS_MAX)):
        actions.append(_read_action(fields.at(values, f"actions[{index}]")))
    return TraceTrajectory(
        id=fields.text("trajectory"),
        task=fields.text("task", "default"),
        start_s=fields.number("start_s", 0.0, 0.0, TIME_MAX_S, "seconds"),
        actions=tuple(actions),
        group=fields.text("group", ""),
        step=fields.whole("step", None, 0, 1 << 53),
        priority=fields.whole("priority", 0, -PRIORITY_MAX, PRIORITY_MAX) or 0,
        reserved_mib=fields.number("memory_mib", 0.0, 0.0, MEMORY_MIB_MAX, "MiB"),
        tenant=fields.text("tenant", ""),
        image=fields.text("image", ""),
        image_digest=fields.text("image_digest", ""),
    )


def _read_action(fields: Fields) -> TraceAction:
    kind = fields.text("kind")
    if kind not in EXEC_KINDS and kind not in (SCORE, CALL):
        known = ", ".join((EXEC, SCORE, CALL, *sorted(EXEC_KINDS - {EXEC})))
        fields.refuse("kind", f"one of {known} is needed, not {shown(kind)}")
    if kind == CALL and not fields.has("quota"):
        fields.refuse("quota", "a call needs the name of its quota")
    serial = fields.number("serial", inf, 0.0, 1.0)
    elasticity = fields.table("elasticity")
    if serial != inf and elasticity:
        fields.refuse("serial", "serial and elasticity say the same thing: give one of them")
    timeout_s = fields.number("timeout_s", inf, DURATION_MIN_S, TIME_MAX_S, "seconds")
    scales = kind != CALL
    duration_s = fields.number("duration_s", None, 0.0, TIME_MAX_S, "seconds")
    return TraceAction(
        kind=kind,
        gap_s=fields.number("gap_s", 0.0, 0.0, TIME_MAX_S, "seconds"),
        duration_s=max(duration_s, DURATION_MIN_S),
        amounts=fields.amounts("gpus" if kind == SCORE else "cores") if scales else _ONE,
        serial=serial if scales and serial != inf else None,
        elasticity=elasticity if scales else EMPTY,
        memory_mib=fields.number("memory_mib", 0.0, 0.0, MEMORY_MIB_MAX, "MiB"),
        service=fields.text("service", ""),
        quota=fields.text("quota") if kind == CALL else "",
        quota_amount=fields.whole("quota_amount", 1, 1, AMOUNT_MAX) or 1,
        malleable=fields.flag("malleable"),
        timeout_s=timeout_s if timeout_s != inf else None,
        priority=fields.whole("priority", 0, -PRIORITY_MAX, PRIORITY_MAX) or 0,
        overhead_s=fields.number("overhead_s", 0.0, 0.0, TIME_MAX_S, "seconds"),
        prepare_s=fields.number("prepare_s", 0.0, 0.0, TIME_MAX_S, "seconds"),
        release_s=fields.number("release_s", 0.0, 0.0, TIME_MAX_S, "seconds"),
    )


def write_line(trajectory: TraceTrajectory) -> str:
    """The line, without a line break, that `read_lines` makes this trajectory of."""
    values: dict[str, object] = {
        "trajectory": trajectory.id,
        "task": trajectory.task,
        "start_s": trajectory.start_s,
    }
    values |= _present(
        tenant=trajectory.tenant,
        group=trajectory.group,
        step=trajectory.step,
        priority=trajectory.priority,
        memory_mib=trajectory.reserved_mib,
        image=trajectory.image,
        image_digest=trajectory.image_digest,
    )
    values["actions"] = [_written(action) for action in trajectory.actions]
    return json.dumps(values, separators=(",", ":"), allow_nan=False)


def _written(action: TraceAction) -> dict[str, object]:
    values: dict[str, object] = {
        "kind": action.kind,
        "gap_s": action.gap_s,
        "duration_s": action.duration_s,
    }
    if action.runs_as != CALL:
        amounts = action.amounts
        spread = f"{amounts.minimum}-{amounts.maximum}"
        listed = list(amounts) if amounts.values or not amounts.elastic else spread
        values["gpus" if action.runs_as == SCORE else "cores"] = listed
    values |= _present(
        serial=action.serial,
        elasticity={str(units): e for units, e in action.elasticity.items()},
        memory_mib=action.memory_mib,
        service=action.service,
        quota=action.quota,
        quota_amount=action.quota_amount if action.quota_amount != 1 else None,
        malleable=action.malleable,
        timeout_s=action.timeout_s,
        priority=action.priority,
        overhead_s=action.overhead_s,
        prepare_s=action.prepare_s,
        release_s=action.release_s,
    )
    return values


def _present(**values: object) -> dict[str, object]:
    """What is not what its absence means. `serial: 0` says something, so zero counts there."""
    return {k: v for k, v in values.items() if v or (v == 0 and k in ("serial", "step"))}


# What can be made of a trace


def replicate(
    trajectories: Sequence[TraceTrajectory], count: int, seed: int
) -> list[TraceTrajectory]:
    """`count` trajectories: rounds of a seeded shuffle of all of them, cut at `count`. Those of the
    first round keep their ids and groups, later ones get `~2`, `~3`, … Raises ValueError for a count
    that is not 1 to TRAJECTORIES_MAX, or if there is nothing to replicate."""
    if not 1 <= count <= TRAJECTORIES_MAX:
        raise ValueError(f"a count from 1 to {TRAJECTORIES_MAX} is needed, not {count}")
    if not trajectories:
        raise ValueError("a trace without trajectories cannot be replicated")
    generator = random.Random(seed)
    known = {trajectory.id for trajectory in trajectories}
    drawn: list[TraceTrajectory] = []
    number = 0
    while len(drawn) < count:
        number += 1
        shuffled = list(trajectories)
        generator.shuffle(shuffled)
        for trajectory in shuffled[: count - len(drawn)]:
            drawn.append(trajectory if number == 1 else _renamed(trajectory, number, known))
    return drawn


def _renamed(trajectory: TraceTrajectory, number: int, known: set[str]) -> TraceTrajectory:
    name = f"{trajectory.id}~{number}"
    while name in known:
        name += "~"
    known.add(name)
    group = f"{trajectory.group}~{number}" if trajectory.group else ""
    return replace(trajectory, id=name, group=group)


def make_elastic(
    trajectories: Sequence[TraceTrajectory], kind: str, amounts: Amounts, serial: float
) -> list[TraceTrajectory]:
    """The same, all actions whose kind is written so with these amounts and this serial share.
    Raises ValueError for a kind that no action has, or that takes neither cores nor GPUs."""
    kinds = {action.kind for trajectory in trajectories for action in trajectory.actions}
    if kind not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        raise ValueError(f"no action is of kind {shown(kind)}; the trace has {known}")
    if kind == CALL:
        raise ValueError("a call takes neither cores nor GPUs, so it cannot be elastic")
    if not 0 <= serial <= 1:
        raise ValueError(f"serial is a share from 0 to 1, not {serial}")

    def changed(action: TraceAction) -> TraceAction:
        if action.kind != kind:
            return action
        return replace(action, amounts=amounts, serial=serial, elasticity=EMPTY)

    return [replace(t, actions=tuple(map(changed, t.actions))) for t in trajectories]


def parse_elastic(text: str) -> tuple[str, Amounts, float]:
    """ "test=1-32:0.03" -> kind, amounts, serial share. Raises ValueError."""
    kind, equals, rest = text.partition("=")
    amounts, colon, share = rest.rpartition(":")
    try:
        serial = float(share)
    except ValueError:
        serial = -1.0
    if not (kind and equals and colon) or not 0 <= serial <= 1:
        raise ValueError(f"KIND=AMOUNTS:SERIAL is needed, as test=1-32:0.03, not {shown(text)}")
    return kind, parse_amounts(amounts), serial
