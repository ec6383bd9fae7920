"""What the SDK answers, as the JSON that scripts read: pure functions to plain data.

Keys do not change; new ones may join. Times are seconds, sizes bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, Expired, TangramError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..client import ClusterStatus, Explanation, ImageStatus, Result, Timing, Units


def timing_json(timing: Timing) -> dict[str, float]:
    return {
        "queue": timing.queue,
        "prepare": timing.prepare,
        "run": timing.run,
        "overhead": timing.overhead,
        "act": timing.act,
    }


def images_json(images: Sequence[ImageStatus]) -> dict[str, Any]:
    return {
        "images": [
            {
                "name": image.name,
                "node": image.node,
                "digest": image.digest or None,
                "state": image.state,
                "size": image.size,
                "in_use": image.in_use,
                "pinned": image.pinned,
                "pulled": image.pulled,
                "last_used_unix": image.last_used_unix,
                "fraction": image.fraction,
                "message": image.message,
            }
            for image in images
        ]
    }


def result_json(result: Result) -> dict[str, Any]:
    return {
        "id": result.action_id,
        "state": "finished",
        "outcome": str(result.outcome),
        "reason": None,
        "exit_code": result.exit_code,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "truncated": result.truncated,
        "timing": timing_json(result.timing),
        "cores": result.cores,
        "node": result.node,
    }


def failure_json(error: TangramError) -> dict[str, Any]:
    """The same keys where there is no result; `message` says why."""
    state = {Cancelled: "cancelled", Expired: "expired"}.get(type(error), "failed")
    return {
        "id": error.action_id or None,
        "state": state,
        "outcome": None,
        "reason": str(error.reason),
        "exit_code": None,
        "stdout": "",
        "stderr": "",
        "truncated": False,
        "timing": None,
        "cores": 0,
        "node": None,
        "message": str(error),
    }


def status_json(pool: ClusterStatus) -> dict[str, Any]:
    """`tangram status --json`. `actions` are the longest waiting and running ones."""
    return {
        "version": pool.version,
        "uptime": pool.uptime,
        "nodes": [
            {
                "name": node.name,
                "launcher": node.launcher,
                "cores": _units(node.cores),
                "memory": _units(node.memory),
                "limits": dict(node.limits),
                "sandboxes": dict(node.sandboxes),
                "warm": [asdict(warm) for warm in node.warm],
            }
            for node in pool.nodes
        ],
        "quotas": [
            {
                "name": quota.name,
                "limit": quota.limit,
                "in_use": quota.in_use,
                "description": quota.description,
                "closed_for": quota.closed_for,
            }
            for quota in pool.quotas
        ],
        "queues": [
            {"resource": queue.resource, "waiting": queue.waiting, "reason": queue.reason}
            for queue in pool.queues
        ],
        "tasks": [
            {
                "name": task.name,
                "trajectories": task.trajectories,
                "waiting": task.waiting,
                "running": task.running,
                "ended": task.ended,
                "mean": timing_json(task.mean) if task.mean else None,
            }
            for task in pool.tasks
        ],
        "actions": [
            {
                "id": action.id,
                "task": action.task,
                "trajectory": action.trajectory,
                "state": str(action.state),
                "reason": action.wait_reason or None,
                "cores": action.cores,
                "node": action.node,
                "timing": timing_json(action.timing),
                "summary": action.summary,
            }
            for action in pool.actions
        ],
    }


def explanation_json(explained: Explanation) -> dict[str, Any]:
    """`tangram explain --json`. Spans and history count from the action's submission."""
    action = explained.action
    return {
        "id": action.id,
        "state": str(action.state),
        "reason": action.wait_reason or None,
        "sentence": explained.sentence,
        "ahead": explained.ahead,
        "predicted_run": explained.predicted_run,
        "predicted_from": explained.predicted_from or None,
        "considered": [{"cores": one.cores, "run": one.run} for one in explained.considered],
        "cores": action.cores,
        "node": action.node,
        "timing": timing_json(action.timing),
        "spans": [
            {
                "part": span.part,
                "reason": span.reason or None,
                "resource": span.resource or None,
                "sentence": span.sentence,
                "start": span.start,
                "end": span.end,
            }
            for span in explained.spans
        ],
        "history": [
            {"at": entry.at, "name": entry.name, "detail": entry.detail}
            for entry in explained.history
        ],
    }


def _units(units: Units) -> dict[str, int]:
    return {"total": units.total, "granted": units.granted, "free": units.free}
