"""A made-up root that shows what an explorer must bear: copies, chains, hostile captions, an image that is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.synthetic_root import (
    some_images,
    write_captions,
    write_embeddings,
    write_forest,
    write_images,
    write_stage,
    write_table,
)
from pipeline.core import parquet, schema
from pipeline.graph.forest import Edges, minimum_spanning_forest

REACH = 0.6
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'
LONG = "word " * 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explored:
    """``ids`` (N,) ascend, some negative; ``vectors`` (N, D) float16; ``edges`` between ids."""

    root: Path
    ids: np.ndarray
    vectors: np.ndarray
    edges: Edges
    captions: list[str]

    def distance(self, a: int, b: int) -> float:
        left, right = (self.vectors[np.searchsorted(self.ids, image)].astype(np.float64) for image in (a, b))
        return float(np.sqrt(((left - right) ** 2).sum()))


def whole_root(root: Path, *, images: int = 60, width: int = 8) -> Explored:
    """All tables. Image 0 has the hostile caption, 1 a long one, 2 is no image."""
    rng = np.random.default_rng(1)
    ids = np.sort(rng.integers(-(2**62), 2**62, images))
    seeds = rng.standard_normal((images // 6, width))
    vectors = np.repeat(seeds / np.linalg.norm(seeds, axis=1, keepdims=True), 6, axis=0)[rng.permutation(images)]
    vectors = vectors + rng.standard_normal((images, width)) * 0.06
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    vectors[5] = vectors[4]
    captions = [f"a picture of thing {number % 7}, the {number}th" for number in range(images)]
    captions[:2] = [HOSTILE, LONG]
    pictures = some_images(images)
    pictures[2] = b"this is no image"
    similarity = rng.uniform(0.1, 0.4, images)
    similarity[0] = -0.2
    write_captions(root, ids, captions)
    write_images(root, ids, pictures)
    write_embeddings(root, ids, vectors, similarity)
    edges = _forest(vectors)
    write_forest(root, ids[edges.a], ids[edges.b], edges.distance, images=images, reach=REACH)
    clusters = np.arange(images, dtype=np.int32) % 5
    assigned = [ids, clusters, pa.array(rng.uniform(0, 1, images), pa.float32())]
    write_table(
        root, "clusters", "cluster_assignments", pa.Table.from_arrays(assigned, schema=schema.CLUSTER_ASSIGNMENTS)
    )
    accuracy = [np.arange(5, dtype=np.int32), np.full(5, 12), *(np.full(5, value) for value in (0.25, 0.75, 0.5))]
    write_table(
        root,
        "cluster_accuracy",
        "cluster_accuracy",
        pa.Table.from_arrays(accuracy, schema=schema.CLUSTER_ACCURACY),
        {"student_accuracy": 0.25, "teacher_accuracy": 0.75},
    )
    leak = [["<b>set</b>"], ["test"], ["test/0/7"], ids[3:4], pa.array([0.05], pa.float32())]
    write_table(
        root, "evaluation_leaks", "evaluation_leaks", pa.Table.from_arrays(leak, schema=schema.EVALUATION_LEAKS)
    )
    write_balance(root, ids, 0.25)
    return Explored(root=root, ids=ids, vectors=vectors, edges=edges, captions=captions)


def write_balance(root: Path, ids: np.ndarray, threshold: float) -> None:
    """The second image goes for the first, the last is filtered; what else there is stays."""
    count = len(ids) - 1
    group = ids[:count].copy()
    group[1] = ids[0]
    far = np.zeros(count, np.float32)
    far[1] = 0.125
    groups = pa.Table.from_arrays(
        [ids[:count], group, np.full(count, 1), far, pa.array(group == ids[:count])], schema=schema.BALANCE_GROUPS
    )
    filtered = pa.Table.from_arrays([ids[-1:], ids[-1:], ["too <small>"]], schema=schema.FILTERED_PAIRS)
    tables = {
        "balance_groups": groups,
        "filtered_pairs": filtered,
        "blocked_pairs": schema.BLOCKED_PAIRS.empty_table(),
    }

    def fill(output: object) -> None:
        for name, table in tables.items():
            parquet.write_table(table, output.path(f"{name}/{name}.parquet"))  # type: ignore[attr-defined]

    write_stage(root, "balance", {"balance": fill}, {"threshold": threshold})


def _forest(vectors: np.ndarray) -> Edges:
    exact = vectors.astype(np.float64)
    far = np.sqrt(((exact[:, None] - exact[None]) ** 2).sum(axis=2)).astype(np.float32)
    a, b = np.nonzero(np.triu(far <= REACH, 1))
    return minimum_spanning_forest(len(vectors), Edges(a=a, b=b, distance=far[a, b]))
