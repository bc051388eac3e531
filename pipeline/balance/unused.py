"""What must not be trained on whatever the threshold is, and the rest of the download as something to train on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import parquet
from pipeline.core.files import fingerprint_of
from pipeline.core.tars import read_index
from pipeline.storage.result import StageResult


def unused_pairs(balance: StageResult) -> np.ndarray:
    """The ids of the pairs that a finished balance has blocked or filtered, ascending."""
    tables = [
        parquet.read_table(path, columns=["sample_id"])
        for name in ("blocked_pairs", "filtered_pairs")
        for path in balance.parquet(name)
    ]
    return np.unique(pa.concat_tables(tables)["sample_id"].to_numpy())


def unused_digest(balance: StageResult, unused: np.ndarray) -> str:
    """A digest of these ids, or of what they were when the balance was made, before images were purged."""
    return str(balance.stats.get("unused_digest") or fingerprint_of(unused.tolist()))


def write_captioned_index(index: Sequence[Path], pairs: Sequence[Path], unused: np.ndarray, folder: Path) -> int:
    """Copies of tar indexes under ``folder`` with a column ``captions`` from the files of ``source_pairs``, of the same
    names, less the ``unused`` pairs; returns the number of images left, those that have a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {path.stem: path for path in pairs}
    left = 0
    for path in index:
        listed = parquet.read_table(named[path.stem], columns=["sample_id", "image_id", "caption"])
        listed = listed.filter(pa.array(~np.isin(listed["sample_id"].to_numpy(), unused)))
        captions: dict[int, list[str]] = {}
        for image_id, caption in zip(listed["image_id"].to_pylist(), listed["caption"].to_pylist()):
            captions.setdefault(image_id, []).append(caption)
        table = read_index(path)
        found = [captions.get(image_id) for image_id in table["image_id"].to_pylist()]
        table = table.append_column("captions", pa.array(found, pa.list_(pa.string())))
        table = table.filter(table["captions"].is_valid())
        parquet.write_table(table, folder / path.name)
        left += table.num_rows
    return left
