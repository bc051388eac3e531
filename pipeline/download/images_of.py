"""What there is to fetch of a shard: its images, each once, however many captions it has."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import parquet

LISTED = ["image_id", "caption", "url"]
"""Columns of a list of images: what img2dataset is told of each, and repeats in the member ``json``."""


def images_of(pairs: Path) -> pa.Table:
    """The images of a file of ``source_pairs``, in its order, each with the caption that stands first."""
    table = parquet.read_table(pairs, columns=LISTED)
    ids = table["image_id"].to_numpy()
    # Pairs of one image stand one after the other.
    return table.filter(pa.array(np.r_[True, ids[1:] != ids[:-1]][: len(ids)]))
