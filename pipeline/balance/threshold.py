"""Which threshold: what each would remove, and the one that removes a given share.

All of it is read off a relation ``removals`` with a column ``distance`` (FLOAT): a row stands for one image, which
every threshold from that distance on removes. For connected components that is the forest itself, since an edge within
the threshold joins two groups. Thresholds are compared as float32, the type in which distances are stored.
"""

import math
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import query, schema
from pipeline.core.errors import ConfigError, EmbeddingError

STEPS = 60
"""Steps of a sweep: 61 thresholds from 0 to the forest's ``max_distance``."""


def reach_of(forest: Path) -> float:
    """The largest threshold that may be asked of a forest, from its metadata; 2, the largest there is, if it has none.

    Raises :class:`EmbeddingError` for a file that is not a forest.
    """
    try:
        found = pq.read_schema(forest)
    except (pa.ArrowInvalid, OSError) as error:
        raise EmbeddingError(f"{forest}: not a readable Parquet file: {error}") from error
    missing = set(schema.NEAR_DUPLICATES.names) - set(found.names)
    if missing:
        raise EmbeddingError(f"{forest}: no column {sorted(missing)}; it has {found.names}")
    return float((found.metadata or {}).get(b"max_distance", b"2"))


class OutOfReachError(ConfigError):
    """Fewer images have a neighbor within the forest's reach than are to be removed."""


def check_choice(threshold: float | None, target_removal: float | None, *, reach: float) -> None:
    """Raise :class:`ConfigError` unless exactly one is given and lies where it can have a meaning."""
    if (threshold is None) == (target_removal is None):
        raise ConfigError(
            f"give either threshold or target_removal, got threshold={threshold}, target_removal={target_removal}"
        )
    if threshold is not None and not 0 < threshold < 2:
        raise ConfigError(f"threshold must lie in (0, 2), the distances of unit vectors; got {threshold}")
    if threshold is not None and threshold > reach:
        raise ConfigError(f"threshold {threshold} lies beyond the forest's max_distance {reach}; make a larger forest")
    if target_removal is not None and not 0 < target_removal < 1:
        raise ConfigError(f"target_removal must lie in (0, 1); got {target_removal}")


def threshold_for_removal(
    connection: duckdb.DuckDBPyConnection, target_removal: float, *, samples: int, reach: float, also: str = ""
) -> float:
    """The smallest distance that removes ``target_removal`` of ``samples`` images, or :class:`ConfigError`, which names
    ``also`` what else than a larger forest would help."""
    parameters = {"removed": math.ceil(target_removal * samples)}
    found = query.one(connection, query.sql("pipeline.balance", "threshold_for_removal"), parameters)
    if found is None:
        counted = query.one(connection, "SELECT count(*) AS most FROM removals", {})
        assert counted is not None
        raise OutOfReachError(
            f"target_removal {target_removal} of {samples} images is out of reach: at the forest's max_distance "
            f"{reach} {counted['most']} are removed ({counted['most'] / samples:.3f}); make a forest with a larger "
            f"max_distance{also}"
        )
    return float(found["threshold"])


def sweep(
    connection: duckdb.DuckDBPyConnection, *, samples: int, max_distance: float, steps: int = STEPS
) -> duckdb.DuckDBPyRelation:
    """``threshold, removed, kept, removal_rate`` at ``steps`` + 1 thresholds from 0 to ``max_distance``.

    One pass over ``removals``: rows are counted per step and the counts added up, exactly as if each threshold had been
    compared with each row.
    """
    parameters: dict[str, Any] = {"samples": samples, "max_distance": max_distance, "steps": steps}
    return connection.sql(query.sql("pipeline.balance", "threshold_sweep"), params=parameters)
