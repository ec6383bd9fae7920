"""The nodes of the hostile host: they carry decisions out, join, and break off.

Each function is one of the host's that it is handed; what a node really has is `site`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING

from ... import events as ev
from ...decisions import Decision, Grant, Kill, Place, Resize
from ...model import CLUSTER, EndReason, LeaseRecord, ResourceId
from .drawn import Work
from .site import Site, SiteLease

if TYPE_CHECKING:
    from .host import HostileHost


def follow(host: HostileHost, decision: Decision) -> None:
    """Carry out what was decided."""
    match decision:
        case Grant(action, node):
            _command(host, node, action, lambda site: _grant(host, site, decision))
        case Place(trajectory, node, token):
            _command(host, node, trajectory, lambda site: _place(host, site, trajectory, token))
        case Kill(action, node, token):
            _command(host, node, action, lambda site: _kill(host, site, action, token))
        case Resize(action, node):
            _command(host, node, action, lambda site: _resize(host, site, decision))
        case _:
            pass


def _command(host: HostileHost, node: str, lane: str, what: Callable[[Site], None]) -> None:
    """On its way to a node; lost if the node breaks off before."""
    site = host.sites[node]
    epoch = site.epoch

    def arrive() -> None:
        if site.up and site.epoch == epoch:
            what(site)

    host.messages.to_node(lane, arrive)


def _place(host: HostileHost, site: Site, name: str, token: int) -> None:
    site.sandboxes[name] = token
    if host.chance("sandbox_fails"):
        del site.sandboxes[name]
        reason = EndReason.SANDBOX_FAILED
        host.send(name, ev.SandboxLost(name, token, reason, "it could not be started"), site)
        host.send(name, ev.TrajectoryReleased(name, token), site)
    else:
        host.send(name, ev.SandboxReady(name, token), site)


def _grant(host: HostileHost, site: Site, grant: Grant) -> None:
    _, work = host.works[grant.action]
    lease = SiteLease(work.action, grant.token, grant.amounts, host.now)
    site.take(lease)
    if host.chance("action_fails"):
        _finish(host, site, lease, failed=True)
        return
    host.send(grant.action, ev.Started(grant.action, grant.token), site)
    host.after(_run_s(work, grant.amounts), lambda: _finish(host, site, lease))


def _run_s(work: Work, amounts: Mapping[ResourceId, int]) -> float:
    key = work.action.demand.key
    units = next((n for r, n in amounts.items() if r.kind == key), 1)
    run_s = work.run_s / units
    timeout_s = work.action.timeout_s
    return run_s if timeout_s is None else min(run_s, timeout_s)


def _finish(host: HostileHost, site: Site, lease: SiteLease, failed: bool = False) -> None:
    if lease.over or lease.token not in site.leases:
        return
    lease.over = True
    run_s = None if failed else host.now - lease.started_s
    name = lease.action.id
    host.send(name, ev.ActionEnded(name, lease.token, failed, run_s), site)
    host.after(host.kill_s(), lambda: _release(host, site, lease))


def _kill(host: HostileHost, site: Site, name: str, token: int) -> None:
    lease = site.leases.get(token)
    if lease is None:
        # Whoever asks to kill what is gone wants to know that it is gone.
        host.send(name, ev.LeaseReleased(name, token), site)
    elif not lease.killed:
        lease.over = lease.killed = True
        host.after(host.kill_s(), lambda: _release(host, site, lease))


def _release(host: HostileHost, site: Site, lease: SiteLease) -> None:
    if site.leases.pop(lease.token, None) is not None:
        host.send(lease.action.id, ev.LeaseReleased(lease.action.id, lease.token), site)


def _resize(host: HostileHost, site: Site, resize: Resize) -> None:
    lease = site.leases.get(resize.token)
    if lease is None:
        return
    if not lease.over and not host.chance("resize_refused"):
        site.resize(lease, resize.amounts)
    name = resize.action
    host.send(name, ev.Resized(name, resize.token, dict(lease.amounts), resize.change), site)


# Coming and going


def join(host: HostileHost, site: Site, lost: Container[int] = ()) -> None:
    """It is there (again) and tells what it holds, without the leases that are `lost`."""
    if not host.serving:
        host.after(1.0, lambda: join(host, site))
        return
    if site.up:
        return
    site.epoch += 1
    site.up, site.told_epoch = True, site.epoch
    records = [record for record in _records(host, site) if record.token not in lost]
    for token in [token for token in site.leases if token in lost]:
        del site.leases[token]
    host.tell(ev.NodeUp(site.name, site.epoch, site.capacities, tuple(records)))


def _records(host: HostileHost, site: Site) -> list[LeaseRecord]:
    """What a node holds. The cluster's own resources are also taken by leases of nodes."""
    records = list(site.records())
    for other in host.sites.values() if site.name == CLUSTER else ():
        if other is not site and other.up:
            held = (r for r in other.records() if any(not k.node for k in r.amounts))
            records.extend(held)
    return records


def tokens(host: HostileHost, site: Site) -> list[int]:
    """Of all leases that the node would tell of."""
    return [record.token for record in _records(host, site)]


def leave(host: HostileHost, site: Site) -> None:
    """The server notices that it broke off, unless it is back by then."""
    if not site.up and site.told_epoch is not None and host.serving:
        epoch, site.told_epoch = site.told_epoch, None
        host.tell(ev.NodeDown(site.name, epoch))
