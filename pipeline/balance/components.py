"""The near-duplicate forest as the balance sees it: checked, without blocked images, and cut at a threshold."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.core import query, schema
from pipeline.core.errors import EmbeddingError
from pipeline.graph.contraction import without_nodes
from pipeline.graph.forest import Edges, components


def open_forest(connection: duckdb.DuckDBPyConnection, forest: Path, *, blocked: int) -> None:
    """Make the relation ``forest`` over the images that are not blocked; needs ``embeddings`` and ``blocked``.

    Raises :class:`EmbeddingError` for ids that no embedding has.
    """
    query.view(connection, "forest", [forest])
    strangers = query.one(connection, query.sql("pipeline.balance", "forest_strangers"), {})
    assert strangers is not None
    if strangers["ids"]:
        raise EmbeddingError(
            f"{forest}: {strangers['ids']} ids are not among the embeddings, e.g. {strangers['example']}"
        )
    if blocked:
        _leave_out_blocked(connection)


def label_components(
    connection: duckdb.DuckDBPyConnection, threshold: float, *, forest: str = "forest", name: str = "components"
) -> None:
    """Make the relation ``name`` (``image_id, component``) of all images with an edge within ``threshold`` in the
    relation ``forest``.

    ``component`` is the smallest ``image_id`` in it. Holds a few integers for each of these images, no embedding.
    """
    text = f"SELECT id_a, id_b FROM {forest} WHERE distance <= $threshold::FLOAT"
    edges = connection.sql(text, params={"threshold": threshold}).to_arrow_table()
    ids, a, b = dense_ends(edges)
    labels = components(len(ids), Edges(a=a, b=b, distance=np.empty(len(a), np.float32)))
    # Dense indices ascend with the ids, so the smallest node of a component has its smallest id.
    connection.register(name, pa.table({"image_id": ids, "component": ids[labels]}))


def _leave_out_blocked(connection: duckdb.DuckDBPyConnection) -> None:
    edges = connection.sql("SELECT id_a, id_b, distance FROM forest").to_arrow_table()
    ids, a, b = dense_ends(edges)
    blocked = connection.sql("SELECT image_id FROM blocked").to_arrow_table()["image_id"].to_numpy()
    whole = Edges(a=a, b=b, distance=edges["distance"].to_numpy())
    left = without_nodes(len(ids), whole, np.isin(ids, blocked))
    table = pa.Table.from_arrays([ids[left.a], ids[left.b], left.distance], schema=schema.NEAR_DUPLICATES)
    connection.execute("DROP VIEW forest")
    connection.register("forest", table)


def dense_ends(edges: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids that stand in edges, ascending, and both ends of each edge as indices into them."""
    ends = np.concatenate([edges["id_a"].to_numpy(), edges["id_b"].to_numpy()])
    ids, index = np.unique(ends, return_inverse=True)
    return ids, index[: edges.num_rows], index[edges.num_rows :]
