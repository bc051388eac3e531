"""What it costs to notice damage: CPU seconds with and without checksums, in turns, as shares of the work around them.

Embeddings: a file as ``teacher_embeddings`` has it, written and read with and without page checksums; and its digest,
which is compared before shards of training are made. Tars: samples read with and without their CRC32, and decoded,
which is the least that a reader does with them. Training shards: the digest of all embeddings as a share of the least
that the stage does after it, which is to read each sample and to write it with its vectors, one caption each, without
the join.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import pieces
from benchmarks.gpu.photographs import write_photographs
from pipeline.clip.preprocessing import decode_image
from pipeline.core.files import file_digest
from pipeline.core.tars import Place, TarReader, index_tar, write_tar

_ROWS, _WIDTH, _SAMPLES, _ROUNDS, _PIXELS = 16_384, 768, 400, 7, 256


def measure(rows: int = _ROWS, samples: int = _SAMPLES, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "00000.tar"
        return [
            _embeddings(Path(folder), rows, rounds),
            _tar(tar, samples, rounds),
            _training_shards(Path(folder), tar, rounds),
        ]


def _embeddings(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    matrix = np.concatenate(list(pieces(rows, _WIDTH, "1/i", duplicates=0.0))).astype(np.float16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), _WIDTH)
    table = pa.table({"image_id": np.arange(rows), "image_embedding": lists})
    plain, summed = folder / "plain.parquet", folder / "summed.parquet"

    def write(path: Path, checksum: bool) -> Callable[[], object]:
        return lambda: pq.write_table(
            table, path, row_group_size=8192, compression="zstd", use_dictionary=False, write_page_checksum=checksum
        )

    ways = {
        "write": write(plain, False),
        "write_checked": write(summed, True),
        "read": lambda: pq.read_table(plain),
        "read_checked": lambda: pq.read_table(summed, page_checksum_verification=True),
        "digest": lambda: file_digest(summed),
    }
    found = _cpu(ways, rounds)
    return {
        "what": "embeddings",
        "rows": rows,
        "width": _WIDTH,
        **{f"{name}_ms": round(1e3 * value, 1) for name, value in found.items()},
        "write_checked_over_write": round(found["write_checked"] / found["write"], 3),
        "read_checked_over_read": round(found["read_checked"] / found["read"], 3),
    }


def _tar(path: Path, samples: int, rounds: int) -> dict[str, Any]:
    write_photographs(path, count=samples, pixels=_PIXELS)
    places = [Place.of(row) for row in index_tar(path).to_pylist()]
    reader = TarReader(path)
    stored = reader.samples(places)
    ways = {
        "read": lambda: reader.samples([Place(place.offset, place.size) for place in places]),
        "read_checked": lambda: reader.samples(places),
        "decode": lambda: [decode_image(members["jpg"]) for members in stored],
    }
    found = _cpu(ways, rounds)
    return {
        "what": "samples of a tar",
        "samples": samples,
        "source_pixels": _PIXELS,
        **{f"{name}_us_a_sample": round(1e6 * value / samples, 1) for name, value in found.items()},
        "checksum_over_read_and_decode": round(
            (found["read_checked"] - found["read"]) / (found["read"] + found["decode"]), 4
        ),
    }


def _training_shards(folder: Path, tar: Path, rounds: int, rows: int = 50_000, width: int = 512) -> dict[str, Any]:
    """Samples are those of ``tar``, fewer than there are vectors; their time is brought up to as many."""
    vectors = np.random.default_rng(0).normal(size=(2 * rows, width)).astype(np.float16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
    embeddings = folder / "embeddings.parquet"
    columns = {"image_embedding": lists[:rows], "text_embedding": lists[rows:]}
    pq.write_table(pa.table(columns), embeddings, compression="zstd", use_dictionary=False, write_page_checksum=True)
    places = [Place.of(row) for row in index_tar(tar).to_pylist()]
    reader = TarReader(tar)

    def npy(vector: np.ndarray) -> bytes:
        np.save(buffer := io.BytesIO(), vector)
        return buffer.getvalue()

    def write() -> None:
        samples = (
            {"__key__": f"{row:09d}", **reader.sample(*place), "image.npy": npy(image), "text.npy": npy(text[None])}
            for row, (place, image, text) in enumerate(zip(places, vectors, vectors[rows:]))
        )
        write_tar(folder / "shard-of-training.tar", samples)
        index_tar(folder / "shard-of-training.tar")

    found = _cpu({"digest": lambda: file_digest(embeddings), "write": write}, rounds)
    whole = found["write"] * rows / len(places)
    return {
        "what": "training shards",
        "rows": rows,
        "width": width,
        "embeddings_mb": round(embeddings.stat().st_size / 1e6, 1),
        "digest_s": round(found["digest"], 3),
        "read_and_write_s": round(whole, 2),
        "digest_over_stage": round(found["digest"] / (found["digest"] + whole), 4),
    }


def _cpu(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Medians of CPU seconds, of all threads, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if number:  # the first round warms up
                found[name].append(time.process_time() - started)
    return {name: statistics.median(taken) for name, taken in found.items()}
