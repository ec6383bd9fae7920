"""Which lower bounds on the mean ACT hold for a trace on a cluster, and what they are.

They are over the actions that have a result; refused ones take no time and no cores.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..actions import Staged
from ..cluster import ClusterSpec
from ..result import ActionRun
from .chains import Freedom, Shapes, chain_of, fastest_sum
from .price import priced_sum
from .srpt import srpt_sum


def lower_bounds(
    walks: Sequence[tuple[float, Sequence[Staged]]],
    ended: Sequence[ActionRun],
    cluster: ClusterSpec,
    freedom: Freedom,
) -> dict[str, float]:
    """Name -> bound on the mean ACT, in seconds. `walks` are the starts of the trajectories and
    their actions. "fastest" holds always, "srpt" where cores are limited, "price" where besides
    every trajectory has one action and none changes its amount while it runs. Empty if no action
    has a result."""
    runs = {run.id: run for run in ended}
    shapes = Shapes(cluster, freedom)
    chains = [chain_of(start_s, actions, runs, shapes) for start_s, actions in walks]
    count = sum(link.counted for chain in chains for link in chain)
    if not count:
        return {}
    bounds = {"fastest": sum(fastest_sum(chain) for chain in chains) / count}
    if freedom.unlimited or not cluster.cores:
        return bounds
    bounds["srpt"] = max(srpt_sum(chains, cluster.cores, whole) for whole in (True, False)) / count
    single = all(len(chain) <= 1 for chain in chains)
    resized = any(link.trace.malleable for chain in chains for link in chain)
    if single and not resized and not freedom.shares:
        jobs = [chain[0] for chain in chains if chain and chain[0].counted]
        bounds["price"] = priced_sum(jobs, cluster.cores) / count
    return bounds
