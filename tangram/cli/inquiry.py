"""The search behind `tangram plan`: pools of sizes, simulated, and what binds the answer.

Which sizes are tried is decided by `scheduler.simulator.planner`; here they become pools and runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..scheduler.simulator.cluster import GPU_NODES_MAX, ClusterSpec, GpuSpec, NodeSpec
from ..scheduler.simulator.discipline import Discipline
from ..scheduler.simulator.planner import (
    Dimension,
    Misfit,
    SearchResult,
    Size,
    Target,
    misfits,
    search,
    unqueued,
    waiting_shares,
)
from ..scheduler.simulator.policies import is_pod
from ..scheduler.simulator.result import SimulationResult
from .plan import Searched
from .planned import Finding, Relief, Trial
from .progress import Ends, progress
from .scenario import Scenario, run


@dataclass(slots=True)
class Inquiry:
    """One search: makes pools of sizes, simulates them, and asks what binds the answer."""

    scenario: Scenario
    targets: Sequence[Target]
    policy: str
    discipline: Discipline
    shape: ClusterSpec
    max_nodes: int
    searched: Sequence[Searched]
    quiet: bool = False
    """Without a progress bar."""
    results: dict[Size, SimulationResult] = field(default_factory=dict)

    def find(self) -> Finding:
        """All of it, with a progress bar of each simulation."""
        node, gpus = self.shape.nodes[0], self.shape.gpus
        ideal = unqueued(self.scenario.trajectories, node.cores, gpus.per_node if gpus else 0)
        least_s = {target.statistic: target.of(ideal) for target in self.targets}
        if self._misfits or any(target.strain(ideal) > 1 for target in self.targets):
            return self._finding(SearchResult(None, False, {}), least_s, None, ())
        with progress("planning", self.scenario.actions, None, quiet=self.quiet) as ends:

            def evaluate(size: Size) -> float:
                ends.begin(self._pool_name(size))
                return self._strain(self._result(size, ends))

            found = search(evaluate, self._ranges(ideal))
            shown = found.size or tuple(limit.largest for limit in self._ranges(ideal))
            smaller = self._smaller(found)
            reliefs = []
            for name, pool in self._relieved(self._cluster(smaller or shown)):
                ends.begin(f"with {name}")
                reliefs.append(self._relief(name, pool, ends))
        return self._finding(found, least_s, smaller or shown, reliefs)

    def _finding(
        self,
        found: SearchResult,
        least_s: Mapping[str, float],
        looked_at: Size | None,
        reliefs: Sequence[Relief],
    ) -> Finding:
        trials = [
            Trial(
                self._pool_name(size),
                self._cluster(size),
                self._values(self.results[size]),
                strain <= 1,
                self.results[size],
            )
            for size, strain in sorted(found.tried.items())
        ]
        chosen = next(
            (t for s, t in zip(sorted(found.tried), trials, strict=True) if s == found.size), None
        )
        return Finding(
            scenario=f"{self.scenario.name}: {self.scenario.details}",
            policy=self.policy,
            order="" if is_pod(self.policy) else self.discipline.order,
            targets=self.targets,
            misfits=self._misfits,
            size=chosen,
            steady=found.steady,
            trials=trials,
            least_s=least_s,
            looked_at=self._pool_name(looked_at) if looked_at else "",
            waiting=waiting_shares(self.results[looked_at]) if looked_at else {},
            reliefs=reliefs,
        )

    @property
    def _misfits(self) -> list[Misfit]:
        return misfits(self.scenario.trajectories, self.shape)

    def _ranges(self, ideal: SimulationResult) -> list[Dimension]:
        """Where each dimension begins and ends: nodes begin where one-core work would keep them
        all busy for as long as the trace lasts when nothing waits."""
        work_s = sum(a.duration_s for t in self.scenario.trajectories for a in t.actions)
        lasts_s = Target("makespan", 1.0).of(ideal)
        node = self.shape.nodes[0]
        guess = math.ceil(work_s / max(lasts_s, 1e-6) / node.cores)
        ranges = {
            Searched.NODES: Dimension("nodes", guess, self.max_nodes),
            Searched.CORES: Dimension("cores", node.cores, node.cores),
            Searched.GPUS: Dimension("gpus", 1, min(self.max_nodes, GPU_NODES_MAX)),
        }
        return [ranges[name] for name in self.searched]

    def _smaller(self, found: SearchResult) -> Size | None:
        """One less in the first dimension where that was tried, which misses."""
        if found.size is None:
            return None
        for index, number in enumerate(found.size):
            size = (*found.size[:index], number - 1, *found.size[index + 1 :])
            if number > 1 and found.tried.get(size, 0.0) > 1:
                return size
        return None

    def _cluster(self, size: Size) -> ClusterSpec:
        """What is not searched is as the options say: --nodes and --gpus give its number."""
        numbers = dict(zip(self.searched, size, strict=True))
        node, gpus = self.shape.nodes[0], self.shape.gpus
        count = numbers.get(Searched.NODES, len(self.shape.nodes))
        cores = numbers.get(Searched.CORES, node.cores)
        if gpus is not None:
            gpus = GpuSpec(numbers.get(Searched.GPUS, gpus.nodes), gpus.per_node)
        nodes = tuple(NodeSpec(f"node{n}", cores, node.memory_bytes) for n in range(count))
        return replace(self.shape, nodes=nodes, gpus=gpus)

    def _pool_name(self, size: Size) -> str:
        cluster = self._cluster(size)
        gpus = f" + {cluster.gpus.nodes}x{cluster.gpus.per_node} GPUs" if cluster.gpus else ""
        return f"{len(cluster.nodes)}x{cluster.nodes[0].cores}{gpus}"

    def _result(self, size: Size, ends: Ends) -> SimulationResult:
        if size not in self.results:
            self.results[size] = self._run(self._cluster(size), ends)
        return self.results[size]

    def _run(self, cluster: ClusterSpec, ends: Ends) -> SimulationResult:
        return run(self.scenario.trajectories, cluster, self.policy, self.discipline, ends.on_end)

    def _strain(self, result: SimulationResult) -> float:
        return max(target.strain(result) for target in self.targets)

    def _values(self, result: SimulationResult) -> dict[str, float]:
        return {target.statistic: target.of(result) for target in self.targets}

    def _relieved(self, cluster: ClusterSpec) -> list[tuple[str, ClusterSpec]]:
        """The pool with twice as much of one thing, or without the limit that it is."""
        nodes, pools = cluster.nodes, []
        doubled = tuple(node._replace(cores=2 * node.cores) for node in nodes)
        pools.append(("twice the cores per node", replace(cluster, nodes=doubled)))
        if nodes[0].memory_bytes is not None:
            unlimited = tuple(node._replace(memory_bytes=None) for node in nodes)
            pools.append(("memory without a limit", replace(cluster, nodes=unlimited)))
        if cluster.gpus is not None and 2 * cluster.gpus.nodes <= GPU_NODES_MAX:
            gpus = cluster.gpus._replace(nodes=2 * cluster.gpus.nodes)
            pools.append(("twice the GPUs", replace(cluster, gpus=gpus)))
        for quota in cluster.quotas:
            others = tuple(one for one in cluster.quotas if one != quota)
            pools.append((f"no limit of quota {quota.name}", replace(cluster, quotas=others)))
        return pools

    def _relief(self, name: str, cluster: ClusterSpec, ends: Ends) -> Relief:
        result = self._run(cluster, ends)
        return Relief(name, self._values(result), self._strain(result) <= 1)
