"""What a rule is: which images a threshold removes, and which image stands for each of them.

A rule sees, in DuckDB:

- ``embeddings``: the files as they are, all images included;
- ``embedded`` (``image_id``): the images it decides on, without blocked and filtered ones;
- ``forest`` (``id_a, id_b, distance``): the near-duplicate forest of those images;
- ``components`` (``image_id, component``), once there is a threshold: the connected components of two or more images.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa

from pipeline.balance.config import BalanceConfig
from pipeline.balance.embeddings import EmbeddingFiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """``images`` are decided on. ``reach``: the largest threshold that may be asked for. ``scratch``: a folder for
    temporary files."""

    connection: duckdb.DuckDBPyConnection
    embeddings: EmbeddingFiles
    images: int
    scratch: Path
    reach: float
    config: BalanceConfig


class Rule(Protocol):
    """One way to say which images go."""

    def removals(self, problem: Problem) -> None:
        """Make the relation ``removals``: for every image that some threshold up to the reach removes, a row with the
        smallest such ``distance``."""

    def groups(self, problem: Problem, threshold: float) -> Iterator[pa.RecordBatch]:
        """``CENTERS`` (``pipeline/balance/centers.py``) of every image in a group of two or more, centers included."""
