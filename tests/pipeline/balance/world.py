"""Images with several captions each, and all that is known of them, as the tables that a balance reads."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.balance.facts import PairTables
from pipeline.balance.semantic_balance import TABLES, BalanceReport, semantic_balance
from pipeline.core import schema
from pipeline.neighbors.search import near_duplicate_forest
from tests.oracles import unit, write_embeddings
from tests.pipeline.balance.test_balance import planted

MAX_DISTANCE = 0.6


@dataclasses.dataclass(frozen=True)
class World:
    """``pairs`` hold all facts of each pair, and the vector ``text`` of its caption."""

    folder: Path
    ids: np.ndarray
    matrix: np.ndarray
    pairs: list[dict[str, Any]]

    @property
    def vectors(self) -> dict[int, np.ndarray]:
        return {int(id_): vector.astype(np.float64) for id_, vector in zip(self.ids, self.matrix)}

    def of(self, image_id: int) -> list[dict[str, Any]]:
        return [pair for pair in self.pairs if pair["image_id"] == image_id]

    def balance(
        self, leaks: Sequence[Path] = (), **options: Any
    ) -> tuple[BalanceReport, dict[str, list[dict[str, Any]]]]:
        """The report and each table's rows; every caption must stand in one of the tables of pairs."""
        named = {name: self.folder / f"{name}.parquet" for name in ("images", "pairs", "captions", "attributes")}
        report = semantic_balance(
            self.folder / "embeddings.parquet",
            self.folder / "forest.parquet",
            self.folder / "out",
            id_column="image_id",
            tables=PairTables(**{name: [path] for name, path in named.items()}, leaks=leaks),
            **options,
        )
        names = (*TABLES, "balanced_pairs")
        found = {name: pq.read_table(self.folder / "out" / f"{name}.parquet").to_pylist() for name in names}
        listed = [row["sample_id"] for name in names[1:] for row in found[name]]
        moved = {row["sample_id"] for row in found["balanced_pairs"]} & {
            row["sample_id"] for row in found["removed_pairs"]
        }
        assert sorted(listed) == sorted([*(pair["sample_id"] for pair in self.pairs), *moved])
        assert not moved or options.get("captions") == "group"
        assert report.pairs == len(self.pairs)
        assert report.kept + report.removed + report.blocked + report.filtered == report.samples == len(self.ids)
        return report, found


def make_world(folder: Path, ids: np.ndarray, matrix: np.ndarray, *, seed: int = 0) -> World:
    """One to four captions an image, from so few texts that images share some; every other fact is by chance."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    pairs: list[dict[str, Any]] = []
    for image_id, vector in zip(ids.tolist(), matrix):
        image = {"image_id": image_id, "url": f"http://x/{image_id}.jpg", "width": int(rng.integers(1, 5)) * 100}
        image |= {"height": int(rng.integers(1, 5)) * 100}
        for text in rng.choice(6, size=rng.integers(1, 5), replace=False).tolist():
            embedding = unit(rng.normal(size=(1, matrix.shape[1]))).astype(np.float16)[0]
            cosine = np.float32(vector.astype(np.float32) @ embedding.astype(np.float32))
            known = {
                "score": float(rng.random()) if rng.random() < 0.8 else None,
                "lang": str(rng.choice(["en", "de"])),
            }
            pair = {"sample_id": int(rng.integers(-(2**62), 2**62)), "caption": f"text {text}", "text": embedding}
            pairs.append({**image, **pair, **known, "image_text_similarity": float(cosine)})
    write_embeddings(folder / "embeddings.parquet", ids, matrix, id_column="image_id")
    near_duplicate_forest(
        folder / "embeddings.parquet", folder / "forest.parquet", max_distance=MAX_DISTANCE, id_column="image_id"
    )
    images = {pair["image_id"]: pair for pair in pairs}
    unknown = dict.fromkeys(schema.IMAGES.names)
    described = [
        {**unknown, **image, "shard": "00000", "key": str(number), "status": "success", "sha256": None}
        for number, image in enumerate(images.values())
    ]
    _write(folder / "images.parquet", described, schema.IMAGES)
    _write(folder / "pairs.parquet", pairs, schema.SOURCE_PAIRS)
    embedded = [{**pair, "text_embedding": pair["text"].tolist()} for pair in pairs]
    _write(folder / "captions.parquet", embedded, schema.caption_embeddings(matrix.shape[1]))
    carried = [schema.SAMPLE_ID, schema.IMAGE_ID, ("score", pa.float64()), ("lang", pa.string())]
    _write(folder / "attributes.parquet", pairs, pa.schema(carried))
    return World(folder, ids, matrix, pairs)


def planted_world(folder: Path, seed: int = 1, groups: int = 40) -> World:
    return make_world(folder, *planted(seed, groups=groups), seed=seed)


def _write(path: Path, rows: list[dict[str, Any]], table_schema: pa.Schema) -> None:
    named = [{name: row[name] for name in table_schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(named, schema=table_schema), path)
