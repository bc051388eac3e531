"""Groups without chains: a connected component is cut at its longest forest edges, again and again, until every member
of a group lies within the bound of the image that stands for it.

Kruskal's order makes the forest a dendrogram: each edge joins two groups. Cutting takes the topmost nodes, on the way
down from the component, whose radius is within the bound. Neither the radius of a node nor that of another depends on
the threshold t, so a node is a group that may stay whole from

    c = max(its longest edge, its radius)   if the bound is the threshold itself,
    c = its longest edge                    if the bound is fixed and holds its radius; else never,

and images at the ends of an edge are in one group as soon as some node that holds both may be one. So each edge has a
distance of its own from which on it joins, the least c of its node and all above it; with these the forest says of this
rule all that it says of connected components with its own: groups at any t, which only grow as t does, how many images
each t removes, and the smallest t that removes a share.
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
from pipeline.graph.dendrogram import along_ancestors, dendrogram
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
    ends = {name: np.searchsorted(distinct, image[getattr(apart, name)]) for name in ("a", "b")}
    tree = dendrogram(len(distinct), Edges(**ends, distance=apart.distance))
    ordered = distinct[tree.leaves]
    places = None if not problem.config.keep_by else _places(problem, ids, image)[ordered]
    fixed = problem.config.max_distance_to_center
    limit = float(np.float32(problem.reach if fixed is None else fixed))
    leaves_table = pa.table({"image_id": ids[ordered], "place": np.arange(len(ordered))})
    problem.connection.register("leaves", leaves_table)
    batches = query.stream(
        problem.connection, query.sql("pipeline.balance", "leaves"), {}, rows=rows_at_a_time(problem.embeddings.width)
    )
    path, weights = problem.scratch / "leaves.bin", np.bincount(image)[ordered]
    with Leaves(path, batches, numbers=tree.leaves, weights=weights, elected=places) as leaves:
        radius = radii(leaves, tree, limit=limit)
    path.unlink()
    whole = np.maximum(apart.distance, radius) if fixed is None else np.where(radius < np.inf, apart.distance, radius)
    joins[~copies] = along_ancestors(whole, tree.above, np.minimum)
    return joins


def _places(problem: Problem, ids: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(N,): the first place in the order ``keep_by`` that an image, or one that is equal to it, has; ``image`` (N,) is
    the smallest of equal ones."""
    problem.connection.register("linked", pa.table({"image_id": ids}))
    prioritize(problem.connection, problem.config.keep_by, images="linked")
    found = problem.connection.sql("SELECT place FROM priorities ORDER BY image_id").to_arrow_table()
    first = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first, image, found["place"].to_numpy())
    return first
