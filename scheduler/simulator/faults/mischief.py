"""The faults that happen at moments of their own, each a function of the host: see EVENT_FAULTS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ... import events as ev
from ...model import (
    CLUSTER,
    CORES,
    QUOTA_PREFIX,
    EndReason,
    ResourceId,
)
from .booked import Job, Violation
from .drawn import EVENT_FAULTS, FAULTS_END_S
from .host import HostileHost
from .nodes import join, leave, tokens
from .restart import restart
from .site import Site

AWAY_S = 10.0
"""A node that broke off stays away for up to this."""

NOTICED_S = 5.0
"""The server notices within this that a node is away."""

T = TypeVar("T")


def unleash(host: HostileHost) -> None:
    """Let faults happen from now on, until FAULTS_END_S."""
    _plan_next(host)


def _plan_next(host: HostileHost) -> None:
    delay_s = host.random.expovariate(1 / host.odds.mischief_every_s)
    if host.now + delay_s < FAULTS_END_S:
        host.after(delay_s, lambda: _happen(host))


def _happen(host: HostileHost) -> None:
    _plan_next(host)
    fault = _one(host, [fault for fault in EVENT_FAULTS if host.odds[fault]])
    if fault is not None and host.serving and host.chance(fault):
        _FAULTS[fault](host)


def _one(host: HostileHost, of: list[T]) -> T | None:
    return host.random.choice(of) if of else None


def _a_site(host: HostileHost) -> Site | None:
    return _one(host, [site for site in host.sites.values() if site.up])


# Nodes


def _crash(host: HostileHost) -> None:
    """All that it had is gone; it may be back before anybody noticed."""
    if (site := _a_site(host)) is None:
        return
    site.break_off()
    site.crash()
    host.after(host.random.uniform(0, NOTICED_S), lambda: leave(host, site))
    host.after(host.random.uniform(0, AWAY_S), lambda: join(host, site))


def _partition(host: HostileHost) -> None:
    """It cannot be reached and goes on by itself; later it comes with what it holds then."""
    if (site := _a_site(host)) is None:
        return
    site.break_off()
    host.after(host.random.uniform(0, NOTICED_S), lambda: leave(host, site))
    host.after(host.random.uniform(0, AWAY_S), lambda: join(host, site))


def _flap(host: HostileHost) -> None:
    """It joins anew without having left, with a part of its leases."""
    if (site := _a_site(host)) is None:
        return
    _rejoin(host, site)


def _rejoin(host: HostileHost, site: Site) -> None:
    site.break_off()
    lost = {token for token in tokens(host, site) if host.random.random() < 0.4}
    join(host, site, lost)


def _capacity(host: HostileHost) -> None:
    """It comes back with other capacities, never with less than is held: it has that."""
    if (site := _a_site(host)) is None:
        return
    if site.name == CLUSTER:
        site.capacities = tuple(
            capacity
            for capacity in host.offers[CLUSTER]
            if host.random.random() < 0.7 or capacity.resource.kind not in _WITHDRAWN
        )
    else:
        held = sum(
            lease.amounts.get(ResourceId(CORES, site.name), 0) for lease in site.leases.values()
        )
        cores, *others = site.capacities
        total = max(1, held, host.random.randint(1, 8))
        site.capacities = (replace(cores, total=total), *others)
    _rejoin(host, site)


_WITHDRAWN = (QUOTA_PREFIX + "search", QUOTA_PREFIX + "judge")


# Trajectories and leases


def _sandbox_dies(host: HostileHost) -> None:
    homes = [h for h in host.book.homes.values() if h.token and h.node and host.sites[h.node].up]
    if (home := _one(host, homes)) is None or home.node is None:
        return
    site, name, token = host.sites[home.node], home.trajectory.id, home.token
    site.sandboxes.pop(name, None)
    for lease in list(site.leases.values()):
        if lease.action.trajectory == name and not lease.over:
            del site.leases[lease.token]
    host.send(name, ev.SandboxLost(name, token, EndReason.LOST, "it died"), site)
    host.send(name, ev.TrajectoryReleased(name, token), site)


def _lease_lost(host: HostileHost) -> None:
    leases = [(s, lease) for s in host.sites.values() if s.up for lease in s.leases.values()]
    if (found := _one(host, leases)) is None:
        return
    site, lease = found
    del site.leases[lease.token]
    name = lease.action.id
    host.send(name, ev.LeaseLost(name, lease.token, "it is gone"), site)


def _close_early(host: HostileHost) -> None:
    open_ones = [p for p in host.callers if p.caller.trajectory and host.knows(p.caller)]
    if (progress := _one(host, open_ones)) is not None:
        host.close(progress)


# Requests


def _cancel(host: HostileHost) -> None:
    jobs = list(host.book.jobs.values())
    if (job := _one(host, jobs)) is not None:
        host.tell(ev.CancelRequested(job.action.id, "nobody wants it"))


def _cancel_group(host: HostileHost) -> None:
    group = _one(host, sorted({progress.caller.group for progress in host.callers}))
    names = [n for n, j in host.book.jobs.items() if j.action.group == group and j.end is None]
    host.tell(ev.CancelAllRequested((*names, "nobody"), "its group is done"))
    for progress in host.callers:
        if (
            progress.caller.group == group
            and host.random.random() < 0.5
            and host.knows(progress.caller)
        ):
            host.close(progress)


def _quota_closes(host: HostileHost) -> None:
    kind = host.random.choice([*_WITHDRAWN, QUOTA_PREFIX + "nobody"])
    until = host.now + host.random.uniform(0, AWAY_S)
    host.tell(ev.QuotaClosed(ResourceId(kind), until))


def _resize(host: HostileHost) -> None:
    """Of all that run, again and again: one change of each is under way at a time."""
    for job in list(host.book.jobs.values()):
        if job.running and job.end is None and job.lease is not None and job.lease.amounts:
            resource = host.random.choice(list(job.lease.amounts))
            amount = host.random.choice([*job.action.demand.of(resource.kind), 7])
            host.tell(ev.ResizeRequested(job.action.id, {resource: amount}))
            _answer_of_before(host, job)


def _answer_of_before(host: HostileHost, job: Job) -> None:
    """The answer to an earlier change of its amounts comes again while one is under way."""
    lease = job.lease
    if lease is not None and lease.change and host.random.random() < 0.5:
        least = dict.fromkeys(lease.amounts, 1)
        host.tell(ev.Resized(job.action.id, lease.token, least, lease.change - 1))


def _forget(host: HostileHost) -> None:
    """Of actions that have an end, and whose lease no node can bring back."""
    held = {lease.action.id for site in host.sites.values() for lease in site.leases.values()}
    for name, job in host.book.jobs.items():
        if job.end is not None and name not in held and host.scheduler.knows(name):
            host.scheduler.forget(name)


def _nonsense(host: HostileHost) -> None:
    """What can come from a confused node is dropped; what a host must never send is refused."""
    job = _one(host, list(host.book.jobs.values()))
    site = _a_site(host)
    if site is not None and site.told_epoch is not None:
        host.tell(ev.NodeDown(site.name, site.told_epoch - 1))
        host.tell(ev.NodeUp(site.name, site.told_epoch, ()))
    host.tell(ev.CancelRequested("nobody"))
    for home in list(host.book.homes.values())[:2]:
        host.tell(ev.TrajectoryReleased(home.trajectory.id, home.token + 1))
        host.tell(ev.SandboxReady(home.trajectory.id, home.token - 1))
    if job is None:
        return
    name, token = job.action.id, host.book.last_token + host.random.randint(1, 5)
    if host.random.random() < 0.5:
        token = (job.lease.token if job.lease else host.book.last_token) - 1
    host.tell(ev.Started(name, token))
    host.tell(ev.ActionEnded(name, token))
    host.tell(ev.LeaseReleased(name, token))
    host.tell(ev.LeaseLost(name, token, "as it seems"))
    if job.submitted and host.scheduler.knows(name):
        _refused(host, ev.Submitted(job.action), ValueError)
    stranger = replace(job.action, id="stranger", trajectory="nobody")
    _refused(host, ev.Submitted(stranger), KeyError)


def _refused(host: HostileHost, event: ev.Event, error: type[Exception]) -> None:
    try:
        host.scheduler.handle(event, host.now)
    except error:
        return
    raise Violation("refusal", f"{event} was not refused")


_FAULTS: dict[str, Callable[[HostileHost], None]] = {
    "crash": _crash,
    "partition": _partition,
    "flap": _flap,
    "capacity": _capacity,
    "restart": restart,
    "sandbox_dies": _sandbox_dies,
    "lease_lost": _lease_lost,
    "close_early": _close_early,
    "cancel": _cancel,
    "cancel_group": _cancel_group,
    "quota_closes": _quota_closes,
    "resize": _resize,
    "forget": _forget,
    "nonsense": _nonsense,
}
