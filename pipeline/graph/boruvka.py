"""Minimum spanning forests where the edges already are: Borůvka's algorithm in torch, on whatever device.

In each round every component takes its smallest edge, so their number at least halves; edges within a component are
dropped as the rounds go on. Edges are ranked by (distance, a, b) first, so the forest is the one of
:mod:`pipeline.graph.forest`.
"""

import dataclasses
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceEdges:
    """Edges between node numbers on a device: ``a`` < ``b`` (E,) int64, ``distance`` (E,) float32."""

    a: "Tensor"
    b: "Tensor"
    distance: "Tensor"

    def __len__(self) -> int:
        return len(self.a)

    def take(self, which: "Tensor") -> "DeviceEdges":
        return DeviceEdges(a=self.a[which], b=self.b[which], distance=self.distance[which])


def join(parts: list[DeviceEdges]) -> DeviceEdges:
    """All edges of ``parts``, of which there is one at least."""
    return DeviceEdges(**{name: torch.cat([getattr(part, name) for part in parts]) for name in ("a", "b", "distance")})


def spanning_forest(nodes: int, edges: DeviceEdges) -> DeviceEdges:
    """The forest of ``edges`` over ``nodes`` nodes, ordered by (distance, a, b). O(E log E) time, O(E + N) memory."""
    if not len(edges):
        return edges
    edges = edges.take(torch.argsort(edges.a * nodes + edges.b))
    edges = edges.take(torch.argsort(edges.distance, stable=True))
    a, b = edges.a, edges.b
    if 2 * len(edges) < nodes:
        ends, numbered = torch.unique(torch.cat([a, b]), return_inverse=True)
        (a, b), nodes = numbered.split(len(edges)), len(ends)
    return edges.take(_chosen(nodes, a, b).nonzero()[:, 0])


def _chosen(nodes: int, a: "Tensor", b: "Tensor") -> "Tensor":
    """(E,) bool: which edges, smallest first, are in the forest."""
    count = len(a)
    chosen = torch.zeros(count, dtype=torch.bool, device=a.device)
    component = torch.arange(nodes, device=a.device)
    places = torch.arange(count, device=a.device)
    while True:
        ends_a, ends_b = component[a[places]], component[b[places]]
        between = ends_a != ends_b
        places, ends_a, ends_b = places[between], ends_a[between], ends_b[between]
        if not len(places):
            return chosen
        smallest = torch.full((nodes,), count, device=a.device)
        for ends in (ends_a, ends_b):
            smallest.scatter_reduce_(0, ends, places, "amin")
        joined = (smallest < count).nonzero()[:, 0]
        taken = smallest[joined]
        chosen[taken] = True
        component = _merge(component, joined, component[a[taken]] + component[b[taken]] - joined)


def _merge(component: "Tensor", joined: "Tensor", partner: "Tensor") -> "Tensor":
    """New component numbers, after each of ``joined`` has become part of its ``partner``."""
    parent = torch.arange(len(component), device=component.device)
    parent[joined] = partner
    # Ranks are distinct, so the only circles are of two, which chose the same edge; the smaller number stands for both.
    both = (parent[partner] == joined) & (joined < partner)
    parent[joined[both]] = joined[both]
    while True:
        further = parent[parent]
        if torch.equal(further, parent):
            return parent[component]
        parent = further
