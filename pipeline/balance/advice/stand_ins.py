"""How far removed images lie from those that stand for them, and what captions go: one pass over members a threshold.

Up to ``EXACT_ROWS`` images in groups all are looked at. Beyond that, ``_DRAWS`` of these images are drawn by a fixed
seed, each with equal chance, and the groups that they fall into are looked at, ``_MEMBERS`` of each at most, drawn too.
A group so has a chance by its size. The standard error of ``beyond_share`` is below 3 points: at most 2.3 for which
groups are drawn (0.5 / sqrt(1000 p), p >= 1/2 being the removed share of images in groups), at most 1.6 for which
members. Centers of larger groups are then the members that are nearest to the mean of those that were drawn.
"""

import dataclasses
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.balance.centers import group_centers
from pipeline.core import query

EXACT_ROWS = 50_000
"""Images in groups at a threshold up to which all of them are looked at."""

_DRAWS, _MEMBERS = 1_000, 1_000


@dataclasses.dataclass(frozen=True)
class Looked:
    """Images (R,) that are looked at, by (component, id), the group of each, and for how many images each stands."""

    ids: np.ndarray
    component: np.ndarray
    weight: np.ndarray
    sampled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removed:
    """What a threshold removes: see ``ThresholdRow``."""

    beyond_share: float | None = None
    similarity_kept: float | None = None
    similarity_removed: float | None = None


def choose(ids: np.ndarray, component: np.ndarray, *, exact_rows: int, seed: int) -> Looked:
    """All images of groups, or a sample of them; ``ids``, ``component`` (R,): images in groups of two or more."""
    order = np.lexsort((ids, component))
    ids, component = ids[order], component[order]
    if len(ids) <= exact_rows:
        return Looked(ids, component, np.ones(len(ids)), sampled=False)
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(np.r_[True, component[1:] != component[:-1]])
    sizes = np.diff(np.r_[starts, len(ids)])
    drawn = np.searchsorted(starts, rng.integers(len(ids), size=_DRAWS), side="right") - 1
    groups, hits = np.unique(drawn, return_counts=True)
    places, weights = [], []
    for group, hit in zip(groups.tolist(), hits.tolist()):
        size, count = int(sizes[group]), min(int(sizes[group]), _MEMBERS)
        chosen = np.arange(size) if count == size else np.sort(rng.choice(size, count, replace=False))
        places.append(starts[group] + chosen)
        weights.append(np.full(count, len(ids) * hit / (_DRAWS * count)))
    taken = np.concatenate(places)
    return Looked(ids[taken], component[taken], np.concatenate(weights), sampled=True)


def hold_members(connection: duckdb.DuckDBPyConnection, looked: list[Looked]) -> None:
    """Make the table ``members``: embeddings of all that any threshold looks at, read once, spilled if need be."""
    ids = np.unique(np.concatenate([part.ids for part in looked])) if looked else np.empty(0, np.int64)
    connection.register("asked", pa.table({"image_id": ids}))
    text = "CREATE OR REPLACE TEMP TABLE members AS SELECT image_id, image_embedding FROM embeddings SEMI JOIN asked "
    connection.execute(f"{text} USING (image_id)")
    connection.unregister("asked")


def removed_images(
    connection: duckdb.DuckDBPyConnection, looked: Looked, threshold: float, *, scratch: Path, similarities: "Total"
) -> Removed:
    """Needs the relations ``members`` and ``pairs``; ``similarities``: of all pairs."""
    if not len(looked.ids):
        return Removed(similarity_kept=similarities.mean)
    connection.register("looked_at", pa.table({"image_id": looked.ids, "component": looked.component}))
    text = query.sql("pipeline.balance.advice", "members_at_threshold")
    batches = list(group_centers(query.stream(connection, text, {}), scratch))
    # In the order of (component, id), as ``looked`` is.
    centers = pa.Table.from_batches(batches)
    gone = centers["image_id"].to_numpy() != centers["center_id"].to_numpy()
    weight = looked.weight[gone]
    far = centers["distance_to_center"].to_numpy()[gone] > np.float32(threshold)
    connection.register("removed", pa.table({"image_id": looked.ids[gone], "weight": weight}))
    lost = Total.of(connection, query.sql("pipeline.balance.advice", "removed_similarity"))
    for name in ("looked_at", "removed"):
        connection.unregister(name)
    return Removed(
        beyond_share=float(weight[far].sum() / weight.sum()),
        similarity_kept=Total(similarities.total - lost.total, similarities.count - lost.count).mean,
        similarity_removed=lost.mean,
    )


@dataclasses.dataclass(frozen=True)
class Total:
    """A sum of so many numbers."""

    total: float
    count: float

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, text: str) -> "Total":
        row = query.one(connection, text, {})
        assert row is not None
        return cls(float(row["total"]), float(row["count"]))

    @classmethod
    def of_all_pairs(cls, connection: duckdb.DuckDBPyConnection) -> "Total":
        """Similarities of the relation ``pairs``."""
        return cls.of(connection, "SELECT coalesce(sum(similarity), 0) AS total, count(similarity) AS count FROM pairs")

    @property
    def mean(self) -> float | None:
        # What is kept is a difference of estimates where groups are sampled.
        return self.total / self.count if self.count > 0.5 else None
