"""Groups without chains: a connected component is cut at its longest forest edges, again and again, until every member
of a group lies within the bound of the image that stands for it.

Kruskal's order makes the forest a dendrogram: each edge joins two groups. Cutting takes the topmost nodes, on the way
down from the component, whose radius is within the bound. A radius does not depend on the threshold t, so a node is a
group that may stay whole from

    c = max(its longest edge, its radius)   if the bound is the threshold itself,
    c = its longest edge                    if the bound is fixed and holds its radius; else never,

on, and the ends of an edge are in one group as soon as a node that holds the edge may stay whole. So each edge joins
from a distance of its own on, the least c of its node and all above it. With these the forest says of this rule all
that it says of connected components with its own distances: the groups at any t, which only grow as t does, how many
images each t removes, and the smallest t that removes a share.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.balance.components import dense_ends, label_components
from pipeline.balance.election import prioritize
from pipeline.balance.leaves import Leaves
from pipeline.balance.radii import radii
from pipeline.balance.rules.base import Problem
from pipeline.balance.rules.connected_components import centers_of, rows_at_a_time
from pipeline.core import query, schema
from pipeline.graph.dendrogram import Dendrogram, along_ancestors, dendrogram
from pipeline.graph.forest import Edges, components


class Bounded:
    """Single linkage, cut where a member is too far from the image that stands for it."""

    def removals(self, problem: Problem) -> None:
        connection = problem.connection
        text = "SELECT id_a, id_b, distance FROM forest ORDER BY distance, id_a, id_b"
        table = connection.sql(text).to_arrow_table()
        ids, a, b = dense_ends(table)
        joins = _joining_distances(problem, ids, Edges(a=a, b=b, distance=table["distance"].to_numpy()))
        ever = np.isfinite(joins)
        table = pa.Table.from_arrays([ids[a[ever]], ids[b[ever]], joins[ever]], schema=schema.NEAR_DUPLICATES)
        connection.register("bounded_forest", table)
        connection.execute("CREATE OR REPLACE TEMP VIEW removals AS FROM bounded_forest")

    def groups(self, problem: Problem, threshold: float) -> Iterator[pa.RecordBatch]:
        label_components(problem.connection, threshold, forest="bounded_forest", name="bounded_components")
        yield from centers_of(problem, "bounded_components")


def _joining_distances(problem: Problem, ids: np.ndarray, edges: Edges) -> np.ndarray:
    """(E,) float32: from which threshold on each edge joins its ends, infinite if none up to the reach."""
    copies = edges.distance == 0
    joins = np.zeros(len(edges), np.float32)
    if copies.all():
        return joins
    # Exact repeats are one leaf, for which the smallest of their ids stands.
    image = components(len(ids), edges.take(copies))
    apart = edges.take(~copies)
    distinct = np.unique(image[np.concatenate([apart.a, apart.b])])
    a, b = (np.searchsorted(distinct, image[ends]) for ends in (apart.a, apart.b))
    tree = dendrogram(len(distinct), Edges(a=a, b=b, distance=apart.distance))
    first = distinct[tree.leaves]
    elected = _places(problem, ids, image)[first] if problem.config.keep_by else None
    radius = _radii(problem, tree, ids[first], weights=np.bincount(image)[first], elected=elected)
    whole = np.where(radius < np.inf, apart.distance, radius)
    if problem.config.max_distance_to_center is None:
        whole = np.maximum(whole, radius)
    joins[~copies] = along_ancestors(whole, tree.above, np.minimum)
    return joins


def _radii(
    problem: Problem, tree: Dendrogram, ids: np.ndarray, *, weights: np.ndarray, elected: np.ndarray | None
) -> np.ndarray:
    """(E,) float32: the radius of each node where it is within the bound, or within all that may be asked for;
    ``ids`` (N,) are those of the leaves in their order."""
    fixed = problem.config.max_distance_to_center
    # Distances are float32, and what they are compared with is rounded to it.
    limit = float(np.float32(problem.reach if fixed is None else fixed))
    problem.connection.register("leaves", pa.table({"image_id": ids, "place": np.arange(len(ids))}))
    text, rows = query.sql("pipeline.balance", "leaves"), rows_at_a_time(problem.embeddings.width)
    path = problem.scratch / "leaves.bin"
    batches = query.stream(problem.connection, text, {}, rows=rows)
    with Leaves(path, batches, numbers=tree.leaves, weights=weights, elected=elected) as leaves:
        radius = radii(leaves, tree, limit=limit)
    path.unlink()
    problem.connection.unregister("leaves")
    return radius


def _places(problem: Problem, ids: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(N,): the first place in the order ``keep_by`` that an image, or one that is equal to it, has; ``image`` (N,) is
    the smallest of equal ones."""
    problem.connection.register("linked", pa.table({"image_id": ids}))
    prioritize(problem.connection, problem.config.keep_by, images="linked")
    found = problem.connection.sql("SELECT place FROM priorities ORDER BY image_id").to_arrow_table()
    first = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first, image, found["place"].to_numpy())
    return first
