"""Prometheus metrics: ended actions as they end, the pool as it is when it is scraped.

Reads records and `Dispatcher.status()`; nothing reads the metrics but the scraper. Names and labels
are public.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..scheduler.model import CORES
from ..scheduler.pattern import PredictionError
from .recorder import TraceRecorder
from .records import ActionRecord, PoolStatus, Units

TASKS_MAX = 200
"""Tasks with time series of their own; later ones count as `other`, or a scraper would drown."""

OTHER_TASKS = "other"

BUCKETS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
"""From a no-op to an hour."""


BUCKETS_UNITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""From one unit to a whole node."""

PARTS = ("queue", "prepare", "run", "overhead", "act")


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(
        self,
        status: Callable[[], PoolStatus],
        *,
        errors: Callable[[], Mapping[str, PredictionError]] = dict,
        served: Mapping[str, int] | None = None,
        recorder: TraceRecorder | None = None,
    ) -> None:
        """`served` counts deterministic actions. `status` and `errors`, of the predicted durations by kind of action, are asked at each
        scrape, on the thread that scrapes."""
        self._registry = CollectorRegistry()
        self._actions = _ActionCollector()
        self._registry.register(self._actions)
        self._registry.register(_PoolCollector(status))
        self._registry.register(_WarmCollector(status))
        self._registry.register(_PredictionCollector(errors))
        self._registry.register(_AnswerCollector({} if served is None else served))
        if recorder is not None:
            self._registry.register(_TraceCollector(recorder))

    def observe(self, record: ActionRecord) -> None:
        """Count an ended action. Called once for each, on the event loop."""
        self._actions.observe(record)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Values:
    """The values of one time series of a histogram."""

    def __init__(self, bounds: Sequence[float] = BUCKETS_S) -> None:
        self.sum = 0.0
        self.counts = [0] * (len(bounds) + 1)
        """Per bucket; the last is beyond all."""
        self._bounds = bounds

    def add(self, value: float) -> None:
        self.sum += value
        self.counts[bisect_left(self._bounds, value)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many are not above it), as Prometheus wants them."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class _ActionCollector(Collector):
    """Ended actions. Plain numbers, made into metrics at each scrape: one loop changes them, so
    they need none of the locks of the library's own, which cost more than the counting."""

    def __init__(self) -> None:
        self._tasks: set[str] = set()
        self._ended: Tally[tuple[str, str, str]] = Tally()
        self._seconds: dict[str, tuple[_Values, ...]] = {}
        self._cores = _Values(BUCKETS_UNITS)
        self._resizes = {"grow": 0, "shrink": 0}

    def observe(self, record: ActionRecord) -> None:
        action = record.request.action
        outcome = str(record.result.outcome if record.result is not None else record.state)
        self._ended[self._task(action.task), action.kind, outcome] += 1
        timing = record.timing(record.ended if record.ended is not None else record.submitted)
        if action.kind not in self._seconds:
            self._seconds[action.kind] = tuple(_Values() for _ in PARTS)
        queue, prepare, run, overhead, act = self._seconds[action.kind]
        queue.add(timing.queue_s)
        prepare.add(timing.prepare_s)
        run.add(timing.run_s)
        overhead.add(timing.overhead_s)
        act.add(timing.act_s)
        if record.cores:
            self._cores.add(record.cores)
            self._resizes["grow"] += record.grown
            self._resizes["shrink"] += record.shrunk

    def collect(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "tangram_actions",
            "Actions that ended, by outcome or, without a result, by state.",
            labels=("task", "kind", "outcome"),
        )
        for labels, count in self._ended.items():
            ended.add_metric(labels, count)
        seconds = HistogramMetricFamily(
            "tangram_action_seconds",
            "Action completion time (act) and its four parts.",
            labels=("kind", "part"),
        )
        for kind, parts in self._seconds.items():
            for name, part in zip(PARTS, parts, strict=True):
                seconds.add_metric((kind, name), part.buckets(), part.sum)
        units = HistogramMetricFamily(
            "tangram_granted_units",
            "Units that an ended action was granted at its start.",
            labels=("resource",),
        )
        units.add_metric((CORES,), self._cores.buckets(), self._cores.sum)
        resizes = CounterMetricFamily(
            "tangram_resizes",
            "Changes of the cores of running actions, counted when these have ended.",
            labels=("direction",),
        )
        for direction, count in self._resizes.items():
            resizes.add_metric((direction,), count)
        yield from (ended, seconds, units, resizes)

    def _task(self, task: str) -> str:
        if task in self._tasks:
            return task
        if len(self._tasks) >= TASKS_MAX:
            return OTHER_TASKS
        self._tasks.add(task)
        return task


class _PredictionCollector(Collector):
    """How wrong durations were predicted, by what the profiler keeps of it."""

    def __init__(self, errors: Callable[[], Mapping[str, PredictionError]]) -> None:
        self._errors = errors

    def describe(self) -> Iterator[Metric]:
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        sizes, counts = self._families()
        for kind, error in self._errors().items():
            for statistic in ("p50", "p90", "bias"):
                if (value := getattr(error, statistic)) is not None:
                    sizes.add_metric((kind, statistic), value)
            counts.add_metric((kind, "predicted"), error.predicted)
            counts.add_metric((kind, "unpredicted"), error.unpredicted)
        yield sizes
        yield counts

    def _families(self) -> tuple[GaugeMetricFamily, CounterMetricFamily]:
        return (
            GaugeMetricFamily(
                "tangram_prediction_error",
                "log(actual / predicted) run time of recent actions: quantiles of its size, and its"
                " median (bias).",
                labels=("kind", "statistic"),
            ),
            CounterMetricFamily(
                "tangram_predictions",
                "Actions that ended by themselves, by whether their run time had been predicted.",
                labels=("kind", "result"),
            ),
        )


class _AnswerCollector(Collector):
    """Where the answers of deterministic actions came from."""

    def __init__(self, served: Mapping[str, int]) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        served = CounterMetricFamily(
            "tangram_deterministic_actions",
            "Deterministic actions: answered from the cache, joined to one that ran, or run.",
            labels=("served",),
        )
        for how, count in self._served.items():
            served.add_metric((how,), count)
        yield served


class _TraceCollector(Collector):
    """What `--record` keeps."""

    def __init__(self, recorder: TraceRecorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        recorded = CounterMetricFamily(
            "tangram_recorded_actions",
            "Actions for the recorded trace: written, or dropped since they could not be.",
            labels=("result",),
        )
        recorded.add_metric(("written",), self._recorder.written)
        recorded.add_metric(("dropped",), self._recorder.dropped)
        yield recorded


class _WarmCollector(Collector):
    """Sandboxes that are started ahead of need. Images are as many as the managers count apart."""

    def __init__(self, status: Callable[[], PoolStatus]) -> None:
        self._status = status

    def describe(self) -> Iterator[Metric]:
        """Names alone, as `_PoolCollector`."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        sandboxes, opens, starts, seconds = families = self._families()
        for node in self._status().nodes:
            for warm in node.warm:
                labels = (node.name, warm.launcher, warm.image)
                sandboxes.add_metric((*labels, "ready"), warm.ready)
                sandboxes.add_metric((*labels, "starting"), warm.starting)
                sandboxes.add_metric((*labels, "wanted"), warm.wanted)
                opens.add_metric((*labels, "hit"), warm.hits)
                opens.add_metric((*labels, "miss"), warm.misses)
                starts.add_metric((*labels, "started"), warm.started)
                starts.add_metric((*labels, "failed"), warm.failed)
                seconds.add_metric(labels, warm.start_seconds)
        yield from families

    def _families(
        self,
    ) -> tuple[GaugeMetricFamily, CounterMetricFamily, CounterMetricFamily, CounterMetricFamily]:
        where = ("node", "launcher", "image")
        return (
            GaugeMetricFamily(
                "tangram_warm_sandboxes",
                "Sandboxes that nobody has yet: ready, starting, and how many are wanted ready.",
                labels=(*where, "state"),
            ),
            CounterMetricFamily(
                "tangram_warm_opens",
                "Trajectories that got a sandbox which stood ready (hit), or waited for one (miss).",
                labels=(*where, "result"),
            ),
            CounterMetricFamily(
                "tangram_sandbox_starts",
                "Starts of sandboxes; one that dies before anybody has it counts as failed too.",
                labels=(*where, "result"),
            ),
            CounterMetricFamily(
                "tangram_sandbox_start_seconds",
                "Time that the starts took which worked, all together.",
                labels=where,
            ),
        )


class _PoolCollector(Collector):
    """Gauges that nobody keeps up to date: they are read off the status at each scrape."""

    def __init__(self, status: Callable[[], PoolStatus]) -> None:
        self._status = status

    def describe(self) -> Iterator[Metric]:
        """Names alone: registering must not ask a dispatcher that has not started."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        units, waiting, corrections = self._families()
        status = self._status()
        for node in status.nodes:
            _add(units, "cores", node.name, node.cores)
            _add(units, "memory", node.name, node.memory)
            for file, count in node.corrections.items():
                corrections.add_metric((node.name, file), count)
        for quota in status.quotas:
            free = max(0, quota.limit - quota.in_use)
            _add(units, f"quota:{quota.name}", "", Units(quota.limit, quota.in_use, free))
        for (kind, reason), amount in _waiting_by_kind(status).items():
            waiting.add_metric((kind, reason), amount)
        yield from (units, waiting, corrections)

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, CounterMetricFamily]:
        return (
            GaugeMetricFamily(
                "tangram_units",
                "Units of a resource: cores, bytes of memory, units of a quota.",
                labels=("resource", "node", "state"),
            ),
            GaugeMetricFamily(
                "tangram_waiting_units",
                "Units that waiting actions need at least, on all nodes, by why they wait.",
                labels=("resource", "reason"),
            ),
            CounterMetricFamily(
                "tangram_corrected_limits",
                "Cores, quotas and weights of leases that somebody else had changed, put right.",
                labels=("node", "file"),
            ),
        )


def _add(family: GaugeMetricFamily, resource: str, node: str, units: Units) -> None:
    family.add_metric((resource, node, "granted"), units.granted)
    family.add_metric((resource, node, "free"), units.free)


def _waiting_by_kind(status: PoolStatus) -> Tally[tuple[str, str]]:
    """(kind of the resource, reason) -> units, so that `resource` is the same label as in
    `tangram_units`."""
    units: Tally[tuple[str, str]] = Tally()
    for queue in status.queues:
        for reason, amount in queue.units_by_reason.items():
            units[queue.resource.kind, str(reason)] += amount
    return units
