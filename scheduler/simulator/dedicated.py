"""The baseline `dedicated`: each service has GPUs of its own, and nobody shares.

As reward models are served without a pool: every service is loaded once and for all on its
replicas, each of one degree of parallelism, so nothing is ever restored. The scheduler serves it as
it serves everything: one resource per service, first come first served, every action the degree of
its service. One action at a time on a replica, as in the pool beside which it stands; a replica that
batches would take longer for each and about as long for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..model import Amounts, Capacity, Demand, Profile, ResourceId
from .actions import OWN_GPUS_PREFIX, Staged
from .cluster import Service
from .trace import SCORE

DEDICATED_POLICY = "dedicated"

SERVED_BY = "fcfs"
"""The scheduler's policy that serves the lines of the services, and all else."""


def own_gpus(services: Mapping[str, Service]) -> list[Capacity]:
    """The GPUs of each service, all alike since all of them run the same."""
    return [
        Capacity(ResourceId(OWN_GPUS_PREFIX + name), service.replicas * service.degree)
        for name, service in services.items()
    ]


def on_own_gpus(
    staged: Sequence[Sequence[Staged]], services: Mapping[str, Service]
) -> list[list[Staged]]:
    """The same actions, the scores among them on one replica of their service each. Raises
    ValueError for a service of which nothing is known."""
    demands = {
        name: Demand(cluster={OWN_GPUS_PREFIX + name: Amounts.exactly(service.degree)})
        for name, service in services.items()
    }
    return [list(_moved(actions, demands)) for actions in staged]


def _moved(actions: Iterable[Staged], demands: Mapping[str, Demand]) -> Iterable[Staged]:
    for staged in actions:
        if staged.trace.runs_as != SCORE:
            yield staged
            continue
        service = staged.trace.service
        if service not in demands:
            raise ValueError(
                f"policy {DEDICATED_POLICY!r} has to know how many GPUs each service has to itself:"
                f" workloads such as mopd-deepsearch say so, of {service!r} nothing is said"
            )
        action = replace(staged.action, demand=demands[service], profile=_NOTHING)
        yield staged._replace(action=action, resource=OWN_GPUS_PREFIX + service)


_NOTHING = Profile()
