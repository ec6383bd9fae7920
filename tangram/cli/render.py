"""What the SDK answers, as rich tables: pure functions, no IO, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..client import (
        ActionInfo,
        ClusterStatus,
        Explanation,
        ImageStatus,
        NodeStatus,
        QuotaStatus,
        Span,
        TaskStatus,
        Timing,
        WarmStatus,
    )

BAR_WIDTH = 24
TIMELINE_WIDTH = 40
ACTIONS_MAX = 20
WARM_ROWS_MAX = 10
"""Rows of the table of actions in `top`: what fits a screen."""

PART_STYLES = {"queue": "yellow", "prepare": "blue", "run": "green", "overhead": "magenta"}
STATE_STYLES = {
    "waiting": "yellow",
    "preparing": "blue",
    "running": "green",
    "failed": "red",
    "cancelled": "red",
    "expired": "red",
}


IMAGE_STYLES = {"present": "green", "failed": "red", "pulling": "blue", "backing-off": "yellow"}


def seconds(value: float) -> str:
    """A duration in two or three digits: 2.4 ms, 41 ms, 4.56 s, 23.4 s, 7m08s, 3h05m."""
    if value < 0.00995:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)}m{int(value % 60):02}s"
    return f"{int(value // 3600)}h{int(value % 3600 // 60):02}m"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 core`, `2,400 cores`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(size_bytes: int) -> str:
    """A size in its largest binary unit with one decimal: 1.5 GiB."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def status(pool: ClusterStatus) -> RenderableType:
    """`tangram status`: nodes, quotas, queues, tasks."""
    parts: list[RenderableType] = [
        Text(f"tangram {pool.version}, up {seconds(pool.uptime)}"),
        Text(),
        _nodes(pool.nodes),
    ]
    for limits in {_limits(node) for node in pool.nodes}:
        parts.append(Text(limits, style="dim"))
    if warm := [warm for node in pool.nodes for warm in node.warm]:
        parts += [Text(), _warm(warm)]
        parts += [Text(f"{_image(w)}: {w.problem}", style="red") for w in warm if w.problem]
    if pool.quotas:
        parts += [Text(), _quotas(pool.quotas)]
    parts += [Text(), _queues(pool)]
    if pool.tasks:
        parts += [Text(), _tasks(pool.tasks)]
    return Group(*parts)


def top(pool: ClusterStatus) -> RenderableType:
    """`tangram top`: the pool as bars, then queues, tasks and the longest actions."""
    parts: list[RenderableType] = [_bars(pool), Text(), _queues(pool)]
    if pool.tasks:
        parts += [Text(), _tasks(pool.tasks)]
    if pool.actions:
        parts += [Text(), actions(pool.actions[:ACTIONS_MAX])]
    return Group(*parts)


def explanation(explained: Explanation) -> RenderableType:
    """`tangram explain`: the action, one sentence, a timeline of its spans, its history."""
    action = explained.action
    head = Text.assemble(
        (action.id, "bold"),
        "  ",
        (str(action.state), STATE_STYLES.get(action.state, "green")),
        f"  {action.summary}",
    )
    parts: list[RenderableType] = [head, Text(explained.sentence)]
    if prediction := _prediction(explained):
        parts.append(Text(prediction))
    parts.append(Text())
    parts.append(_timeline(explained.spans, action.timing))
    if explained.history:
        parts += [Text(), _history(explained)]
    return Group(*parts)


def actions(rows: Iterable[ActionInfo]) -> Table:
    """One line per action, as `top` lists them."""
    table = _table("actions, longest first")
    for name in ("id", "state", "reason", "task"):
        table.add_column(name, no_wrap=True)
    table.add_column("cores", justify="right", no_wrap=True)
    table.add_column("since", justify="right", no_wrap=True)
    table.add_column("command", no_wrap=True, overflow="ellipsis", ratio=1)
    for action in rows:
        table.add_row(
            action.id,
            Text(action.state, style=STATE_STYLES.get(action.state, "")),
            action.wait_reason,
            action.task,
            str(action.cores or ""),
            seconds(action.timing.act),
            action.summary,
        )
    return table


def images(rows: Sequence[ImageStatus]) -> RenderableType:
    """`tangram images`: one line per image and node."""
    if not rows:
        return Text("no images", style="dim")
    table = _table("images")
    table.add_column("name", overflow="fold")
    table.add_column("node", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("in use", justify="right", no_wrap=True)
    table.add_column("last used", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    for image in rows:
        done = f" {image.fraction:.0%}" if image.fraction and image.state == "pulling" else ""
        used = image.last_used_unix
        table.add_row(
            image.name,
            image.node,
            Text(image.state + done, style=IMAGE_STYLES.get(image.state, "")),
            image.digest.removeprefix("sha256:")[:12],
            size(image.size) if image.size is not None else "",
            str(image.in_use or ""),
            f"{datetime.fromtimestamp(used):%Y-%m-%d %H:%M}" if used is not None else "",
            "pinned" if image.pinned else "" if image.pulled else "not ours",
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def _nodes(nodes: Sequence[NodeStatus]) -> Table:
    table = _table("nodes")
    table.add_column("name")
    table.add_column("launcher")
    table.add_column("cores", justify="right")
    table.add_column("memory", justify="right")
    table.add_column("sandboxes")
    for node in nodes:
        table.add_row(
            node.name,
            node.launcher,
            f"{node.cores.granted} of {node.cores.total} granted",
            f"{size(node.memory.granted)} of {size(node.memory.total)}",
            ", ".join(
                f"{number} {state}" for state, number in sorted(node.sandboxes.items()) if number
            )
            or "none",
        )
    return table


def _warm(rows: Sequence[WarmStatus]) -> Table:
    """The busiest images first."""
    table = _table("sandboxes started ahead of need")
    table.add_column("image")
    table.add_column("launcher")
    for name in ("ready", "under way", "a start takes", "hits", "misses", "failed"):
        table.add_column(name, justify="right")
    busiest = sorted(rows, key=lambda row: -(row.hits + row.misses + row.failed))
    for row in busiest[:WARM_ROWS_MAX]:
        table.add_row(
            _image(row),
            row.launcher,
            f"{row.ready} of {row.wanted}",
            str(row.starting),
            seconds(row.start) if row.start else "",
            *map(str, (row.hits, row.misses, row.failed)),
        )
    return table


def _image(row: WarmStatus) -> str:
    return row.image or "no image"


def _limits(node: NodeStatus) -> str:
    """`limits on NAME: hard memory, pids; soft disk`."""
    by_kind = {
        kind: ", ".join(sorted(name for name, value in node.limits.items() if value == kind))
        for kind in ("hard", "soft")
    }
    said = "; ".join(f"{kind} {names}" for kind, names in by_kind.items() if names)
    return f"limits on {node.name}: {said or 'none'}"


def _quotas(quotas: Sequence[QuotaStatus]) -> Table:
    table = _table("quotas")
    table.add_column("name")
    table.add_column("in use", justify="right")
    table.add_column("limit")
    for quota in quotas:
        table.add_row(quota.name, str(quota.in_use), _quota_limit(quota))
    return table


def _quota_limit(quota: QuotaStatus) -> str:
    said = quota.description or str(quota.limit)
    if quota.closed_for:
        return f"{said} (closed for {seconds(quota.closed_for)})"
    return said


def _queues(pool: ClusterStatus) -> RenderableType:
    if not any(queue.waiting for queue in pool.queues):
        return Text("nothing waits", style="dim")
    table = _table("queues")
    table.add_column("resource")
    table.add_column("waiting", justify="right")
    table.add_column("mostly for")
    for queue in pool.queues:
        if queue.waiting:
            table.add_row(queue.resource, str(queue.waiting), Text(queue.reason, style="yellow"))
    return table


def _tasks(tasks: Sequence[TaskStatus]) -> Table:
    table = _table("tasks: open trajectories, actions, mean parts of ACT")
    table.add_column("name")
    for name in ("open", "waits", "runs", "ended"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, style in {**PART_STYLES, "ACT": "bold"}.items():
        table.add_column(name, justify="right", style=style, no_wrap=True)
    for task in tasks:
        mean = task.mean if task.ended else None
        parts = (mean.queue, mean.prepare, mean.run, mean.overhead, mean.act) if mean else ()
        table.add_row(
            task.name,
            *map(str, (task.trajectories, task.waiting, task.running, task.ended)),
            *map(seconds, parts),
        )
    return table


def _bars(pool: ClusterStatus) -> Table:
    """One bar per countable thing: cores and memory of each node, each quota."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=BAR_WIDTH, no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    table.add_column()
    for node in pool.nodes:
        cores, memory = node.cores, node.memory
        table.add_row(
            f"cores {node.name}",
            _bar(cores.granted, cores.total),
            f"{cores.granted} of {cores.total} granted",
        )
        table.add_row(
            f"memory {node.name}",
            _bar(memory.granted, memory.total),
            f"{size(memory.granted)} of {size(memory.total)}",
        )
    for quota in pool.quotas:
        table.add_row(
            f"quota {quota.name}",
            _bar(quota.in_use, quota.limit),
            f"{quota.in_use} of {_quota_limit(quota)}",
        )
    return table


def _bar(used: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=min(used, total), width=BAR_WIDTH)


def _timeline(spans: Sequence[Span], timing: Timing) -> Table:
    """Each span as a bar that stands where it lies between submission and now or the end."""
    whole = max([timing.act, *(span.end or span.start for span in spans)])
    table = _table(f"timeline of {seconds(whole)}")
    table.add_column("part")
    table.add_column("", width=TIMELINE_WIDTH, no_wrap=True)
    table.add_column("for", justify="right")
    table.add_column("why")
    for span in spans:
        end = whole if span.end is None else span.end
        lasted = seconds(end - span.start) + ("" if span.end is not None else " so far")
        style = PART_STYLES.get(span.part, "")
        why = span.sentence or span.reason
        table.add_row(
            Text(span.part, style=style),
            Text(_stretch(span.start, end, whole), style=style),
            lasted,
            why,
        )
    if timing.overhead > 0:
        table.add_row(Text("overhead", style=PART_STYLES["overhead"]), "", seconds(timing.overhead))
    return table


def _stretch(start: float, end: float, whole: float) -> str:
    """A bar from start to end on a line of TIMELINE_WIDTH characters; at least one mark long."""
    scale = TIMELINE_WIDTH / whole if whole > 0 else 0.0
    left = min(int(start * scale), TIMELINE_WIDTH - 1)
    right = max(round(end * scale), left + 1)
    return " " * left + "━" * (min(right, TIMELINE_WIDTH) - left)


CONSIDERED_SHOWN_MAX = 8
"""Amounts that one line names."""

SOURCES = {
    "given": "as its caller said",
    "learned": "learned from the same command",
    "task": "learned from other commands of its task",
    "kind": "learned from other tasks",
}


def _prediction(explained: Explanation) -> str:
    """What was expected of its run and what its cores are chosen from; empty if nothing was."""
    if explained.predicted_run is None:
        return ""
    source = SOURCES.get(explained.predicted_from, "")
    text = f"predicted to run {seconds(explained.predicted_run)}" + (
        f", {source}" if source else ""
    )
    amounts = explained.considered
    if not amounts:
        return text
    step = max(1, -(-(len(amounts) - 1) // (CONSIDERED_SHOWN_MAX - 1)))
    shown = [*amounts[:-1:step], amounts[-1]]
    return f"{text}; cores to choose from: " + ", ".join(
        f"{one.cores} ({seconds(one.run)})" for one in shown
    )


def _history(explained: Explanation) -> Table:
    table = _table("history")
    table.add_column("at", justify="right")
    table.add_column("event")
    table.add_column("detail", overflow="fold")
    for entry in explained.history:
        table.add_row(seconds(entry.at), entry.name, entry.detail)
    return table
