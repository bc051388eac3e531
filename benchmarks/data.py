"""Synthetic embeddings for benchmarks: a spectrum, planted near-duplicates, written as Parquet in pieces."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.schema import EMBEDDING_ROW_GROUP, SAMPLE_ID

SPECTRA = {
    # Share of the variance along the i-th axis. Measured spectra of CLIP embeddings fall about so.
    "1/i": lambda width: np.arange(1, width + 1) ** -1.0,
    "1/i^2": lambda width: np.arange(1, width + 1) ** -2.0,
    "isotropic": np.ones,
}
_PIECE = 16_384


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def near_copies(rng: np.random.Generator, rows: np.ndarray, distance: float) -> np.ndarray:
    """Rows at about ``distance`` of the given ones, in random directions."""
    noise = rng.standard_normal(rows.shape, dtype=np.float32) * np.float32(distance / rows.shape[1] ** 0.5)
    return unit(rows + noise)


def pieces(rows: int, width: int, spectrum: str, *, duplicates: float, seed: int = 0) -> Iterator[np.ndarray]:
    """Float16 unit vectors, piece by piece; the share ``duplicates`` of each is near-copies, 0.1 to 0.4 away, of rows
    of this and of the first piece."""
    scale = np.sqrt(SPECTRA[spectrum](width)).astype(np.float32)
    first: np.ndarray | None = None
    for number, start in enumerate(range(0, rows, _PIECE)):
        rng = np.random.default_rng([seed, number])
        count = min(_PIECE, rows - start)
        piece = unit(rng.standard_normal((count, width), dtype=np.float32) * scale)
        first = piece if first is None else first
        copies = int(count * duplicates)
        pool = piece[: count - copies] if number % 2 == 0 else first
        source = pool[rng.integers(0, len(pool), copies)]
        piece[count - copies :] = near_copies(rng, source, float(rng.uniform(0.1, 0.4)))
        yield piece.astype(np.float16)


def write(path: Path, parts: Iterator[np.ndarray]) -> Path:
    """One Parquet file ``sample_id, image_embedding``, laid out as ``teacher_embeddings`` is; ids are shuffled."""
    writer, start = None, 0
    for part in parts:
        vector = pa.list_(pa.field("item", pa.float16(), nullable=False), part.shape[1])
        table_schema = pa.schema([SAMPLE_ID, pa.field("image_embedding", vector, nullable=False)])
        if writer is None:
            writer = pq.ParquetWriter(
                path, table_schema, compression="zstd", use_dictionary=False, write_statistics=["sample_id"]
            )
        # A bijection of 64-bit integers: ids that are unique and in no order.
        ids = (np.arange(start, start + len(part), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), type=vector)
        writer.write_table(
            pa.Table.from_arrays([ids, vectors], schema=table_schema), row_group_size=EMBEDDING_ROW_GROUP
        )
        start += len(part)
    assert writer is not None
    writer.close()
    return path
