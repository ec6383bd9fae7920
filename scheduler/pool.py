"""The nodes that joined, the views that count their resources, and the counter of tokens.

Answers what is free, what could ever be met, and where a trajectory fits best. It knows nothing of
queues or of who holds what: an action's or trajectory's own record says that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from .model import CLUSTER, MEMORY, QUOTA_PREFIX, Amounts, Capacity, Demand, EndReason, ResourceId
from .resource import ResourceView
from .sentences import amount_of, name_of

ViewFactory: TypeAlias = Callable[[Capacity], ResourceView]
Refusal: TypeAlias = tuple[EndReason, str]


@runtime_checkable
class Closable(Protocol):
    """A view that can be closed for a while, as a provider's Retry-After asks for."""

    def close(self, until: float) -> None: ...


@dataclass(slots=True)
class _Node:
    epoch: int
    up: bool = True


class Pool:
    """All resources of all nodes that are up. Nodes keep their place in the order of first joining."""

    def __init__(self, factories: Mapping[str, ViewFactory], last_token: int = 0) -> None:
        self.views: dict[ResourceId, ResourceView] = {}
        self._factories = factories
        self._nodes: dict[str, _Node] = {}
        self._totals: dict[str, int] = {}
        self._last_token = last_token

    # Tokens

    def next_token(self) -> int:
        self._last_token += 1
        return self._last_token

    def skip_token(self, token: int) -> None:
        """A token in use elsewhere: all that come later are larger."""
        self._last_token = max(self._last_token, token)

    # Nodes

    def epoch(self, node: str) -> int | None:
        """The last known epoch, also of a node that is down; None if it never joined."""
        known = self._nodes.get(node)
        return known.epoch if known else None

    def is_up(self, node: str) -> bool:
        return node in self._nodes and self._nodes[node].up

    def live(self) -> list[str]:
        """Names of the nodes that are up, without CLUSTER, in the order of joining."""
        return [name for name, node in self._nodes.items() if node.up and name != CLUSTER]

    def check_offer(self, node: str, capacities: Iterable[Capacity], now: float) -> None:
        """Raises ValueError for a capacity of another node, of an unknown view, or that its view
        refuses: nothing has changed then, since it is tried on a copy. Nodes join rarely."""
        for capacity in capacities:
            if capacity.resource.node != node:
                raise ValueError(f"node {node!r} cannot offer {capacity.resource}")
            if capacity.view not in self._factories:
                known = ", ".join(sorted(self._factories))
                raise ValueError(
                    f"{capacity.resource} asks for view {capacity.view!r}; known are {known}"
                )
            if (view := self.views.get(capacity.resource)) is not None:
                deepcopy(view).adjust(capacity, now)
            else:
                self._factories[capacity.view](capacity)

    def join(self, node: str, epoch: int, capacities: Iterable[Capacity], now: float) -> None:
        """The node is up with these capacities, which `check_offer` found right."""
        offered = {capacity.resource: capacity for capacity in capacities}
        for resource in [r for r in self.views if r.node == node and r not in offered]:
            self._withdraw(resource, now)
        for resource, capacity in offered.items():
            if resource in self.views:
                self.views[resource].adjust(capacity, now)
            else:
                self.views[resource] = self._factories[capacity.view](capacity)
        if node in self._nodes:
            self._nodes[node].epoch, self._nodes[node].up = epoch, True
        else:
            self._nodes[node] = _Node(epoch)
        self._totals.clear()

    def leave(self, node: str) -> None:
        """The node and all its resources are gone."""
        self._nodes[node].up = False
        for resource in [r for r in self.views if r.node == node]:
            del self.views[resource]
        self._totals.clear()

    def _withdraw(self, resource: ResourceId, now: float) -> None:
        """No longer offered. Leases that live on keep their units, so the view has to stay."""
        if self.views[resource].taken:
            self.views[resource].adjust(Capacity(resource, 0), now)
        else:
            del self.views[resource]

    # Units

    def take(
        self, token: int, amounts: Mapping[ResourceId, int], now: float, tag: str = ""
    ) -> None:
        """`tag` says what the grant is for, to views whose units differ by that."""
        for resource, amount in amounts.items():
            self.views[resource].take(token, amount, now, tag)

    def free(self, resource: ResourceId, now: float) -> int:
        """0 for a resource that is not there."""
        view = self.views.get(resource)
        return view.free(now) if view else 0

    def total(self, kind: str) -> int:
        """Units of this kind that all nodes have together; 1 if there is none."""
        if kind not in self._totals:
            self._totals[kind] = sum(v.total for r, v in self.views.items() if r.kind == kind)
        return max(1, self._totals[kind])

    def could_resize(self, token: int, amounts: Mapping[ResourceId, int], now: float) -> bool:
        return all(self.views[r].could_resize(token, amount, now) for r, amount in amounts.items())

    def resize(self, token: int, amounts: Mapping[ResourceId, int], now: float) -> None:
        for resource, amount in amounts.items():
            self.views[resource].resize(token, amount, now)

    def give(self, token: int, resources: Iterable[ResourceId], now: float) -> None:
        """Resources of a node that is gone are passed over."""
        for resource in resources:
            if resource in self.views:
                self.views[resource].give(token, now)

    # What could ever be met

    def largest(self, kind: str) -> int:
        """The most of this kind that one grant could ever get on any node that is up."""
        return max((v.largest() for r, v in self.views.items() if r.kind == kind), default=0)

    def could_hold(self, reserve: Mapping[str, int], node: str = "") -> bool:
        """Whether one node, or this one if it is named, could ever hold this reservation, were it
        empty."""
        return any(
            all(self._largest_on(kind, place) >= amount for kind, amount in reserve.items())
            for place in self.live()
            if node in ("", place)
        )

    def refusal(self, demand: Demand, node: str | None) -> Refusal | None:
        """Why this demand can never be met, as far as is known now; None if it can. `node` is
        where it has to run, None while that is open."""
        return self._cluster_refusal(demand.cluster) or self._node_refusal(demand.per_node, node)

    def _cluster_refusal(self, amounts: Mapping[str, Amounts]) -> Refusal | None:
        if not self._nodes or (CLUSTER in self._nodes and not self.is_up(CLUSTER)):
            return None
        for kind, wanted in amounts.items():
            view = self.views.get(ResourceId(kind))
            if view is None:
                known = [r.kind.removeprefix(QUOTA_PREFIX) for r in self.views if not r.node]
                listed = ", ".join(sorted(known)) if known else "none is configured"
                return EndReason.UNKNOWN_RESOURCE, f"unknown {name_of(kind)}; known: {listed}"
            if wanted.minimum > view.largest():
                asked, most = (amount_of(kind, n) for n in (wanted.minimum, view.largest()))
                return EndReason.INFEASIBLE, f"needs {asked}, but the most it could get is {most}"
        return None

    def _node_refusal(self, amounts: Mapping[str, Amounts], node: str | None) -> Refusal | None:
        nodes = self.live() if node is None else [node]
        if not nodes or any(
            all(self._largest_on(kind, name) >= a.minimum for kind, a in amounts.items())
            for name in nodes
        ):
            return None
        for kind, wanted in amounts.items():
            most = max(self._largest_on(kind, name) for name in nodes)
            if wanted.minimum > most:
                asked, best = amount_of(kind, wanted.minimum), amount_of(kind, most)
                where = f"node {node} of its trajectory" if node else "any node"
                message = f"needs {asked}, but the most that {where} could ever give is {best}"
                return EndReason.INFEASIBLE, message
        asked = " and ".join(amount_of(kind, a.minimum) for kind, a in amounts.items())
        return EndReason.INFEASIBLE, f"needs {asked} on one node, and no node has all of them"

    def _largest_on(self, kind: str, node: str) -> int:
        view = self.views.get(ResourceId(kind, node))
        return view.largest() if view else 0

    # Placement

    def roomiest(
        self, reserve: Mapping[str, int], now: float, nodes: Collection[str]
    ) -> str | None:
        """Of these nodes the one with most free memory that can hold the reservation now; of equals
        the one that joined first."""
        fitting = [
            node
            for node in self.live()
            if node in nodes
            and all(self.free(ResourceId(kind, node), now) >= n for kind, n in reserve.items())
        ]
        return max(fitting, key=lambda node: self.free(ResourceId(MEMORY, node), now), default=None)
