"""The server of the hostile host stops and starts again; and the peace in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import events as ev
from ...model import CLUSTER
from .nodes import join
from .site import Site

if TYPE_CHECKING:
    from .host import HostileHost


def restart(host: HostileHost) -> None:
    """The server stops. Nodes go on; what was on its way to them is lost."""
    host.serving = False
    host.restarts += 1
    back = [site for site in host.sites.values() if site.up]
    for site in host.sites.values():
        site.break_off()
        site.told_epoch = None
    host.after(host.random.uniform(0, 4), lambda: _start_again(host, back))


def _start_again(host: HostileHost, back: list[Site]) -> None:
    """A restarted server tells first of the nodes, with the leases that they hold, then of the
    trajectories that are open, those that hold leases first, then of the actions that have no
    end."""
    homes = [home.trajectory for home in host.book.homes.values() if not home.over]
    host.scheduler = host.make(host.book.last_token)
    host.book.restarted()
    host.serving = True
    for site in back:
        join(host, site)
    jobs = host.book.jobs
    holding = {
        job.action.trajectory
        for job in jobs.values()
        if job.lease is not None and job.lease.node != CLUSTER
    }
    for trajectory in sorted(homes, key=lambda trajectory: trajectory.id not in holding):
        host.tell(ev.TrajectoryOpened(trajectory))
    for name, job in list(jobs.items()):
        if job.end is not None and job.lease is not None:
            host.tell(ev.CancelRequested(name))
        elif job.end is None and job.lease is None:
            host.tell(ev.Submitted(job.action))
    deferred, host.deferred = host.deferred, []
    for event in deferred:
        host.tell(event)


def restore(host: HostileHost) -> None:
    """Peace: every node has again what it had at first."""
    if not host.serving:
        host.after(1.0, lambda: restore(host))
        return
    for site in host.sites.values():
        if site.capacities != host.offers[site.name]:
            site.capacities = host.offers[site.name]
            if site.up:
                site.break_off()
                join(host, site)
