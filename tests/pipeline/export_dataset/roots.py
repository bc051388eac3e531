"""A root whose balance is complete, written by hand: images of several captions, adopted tars, hostile texts."""

import dataclasses
import datetime
import decimal
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.core import parquet, schema
from pipeline.core.tars import index_tar
from pipeline.storage.stage import Output, Stage
from pipeline.teacher.stage import TeacherInfo

HOSTILE = "---\n| <script>alert(1)</script> [x](javascript:1) `a` www.evil.example ![i](http://e.example/p.png)\u202e"
SHARDS, PER_SHARD, ADOPTED = ("00000", "00001"), 12, "00001"
_SWEEP = [
    {"threshold": step / 30, "removed": step // 10, "kept": 24 - step // 10, "removal_rate": step // 10 / 24}
    for step in range(61)
]


@dataclasses.dataclass
class Made:
    """What the data set must hold: rows by image, and bytes of images."""

    root: Path
    rows: dict[int, dict[str, Any]]
    images: dict[int, bytes]


def make_root(root: Path, *, attributes: bool = True, scores: bool = True, lost: int = 0) -> Made:
    """Two shards of 12 images, of which every third is removed; the second shard's tar lies beside the root.

    ``lost``: so many kept images have no row in ``images``."""
    drawn = np.random.default_rng(0)
    ids = [int(one) for one in drawn.integers(-(2**63), 2**63, len(SHARDS) * PER_SHARD)]
    shards = {shard: ids[n * PER_SHARD : (n + 1) * PER_SHARD] for n, shard in enumerate(SHARDS)}
    pictures = {one: _picture(n, "PNG" if one in shards[ADOPTED] else "JPEG") for n, one in enumerate(ids)}
    pairs = {one: [int(drawn.integers(-(2**63), 2**63)) for _ in range(1 + n % 3)] for n, one in enumerate(ids)}
    facts = {sample: _facts(n) for n, sample in enumerate(s for one in ids for s in sorted(pairs[one]))}
    _write_source(root, shards, pairs, facts if attributes else None)
    kept = [one for n, one in enumerate(ids) if n % 3]
    _write_images(root, shards, pictures, lost=kept[:lost])
    # The removed image's captions go to the one after it.
    moved = {ids[n + 1]: pairs[ids[n]] for n in range(0, len(ids), 3)}
    rows: dict[int, dict[str, Any]] = {}
    for shard, members in shards.items():
        for n, one in enumerate(members):
            if one not in kept:
                continue
            samples = [*sorted(pairs[one]), *sorted(moved.get(one, []))]
            rows[one] = {
                "image_id": one,
                "url": _url(one),
                "sample_ids": samples,
                "captions": [_caption(sample) for sample in samples],
                "image_text_similarities": [float(np.float32(sample % 97 / 97)) for sample in samples],
                "width": 20 + n,
                "height": 30,
                "sha256": f"{n:064x}",
                "group_size": 1 + int(one in moved),
                "place": (shard, f"{n:05d}"),
            }
            if attributes:
                rows[one] |= {f"source_{k}" if k == "WIDTH" else k: v for k, v in facts[samples[0]].items()}
            if scores:
                rows[one]["aesthetic"] = float(np.float32(one % 11))
    _write_balance(root, rows, removed=len(ids) - len(kept))
    if scores:
        table = pa.table({"image_id": ids, "aesthetic": pa.array([one % 11 for one in ids], pa.float32())})
        Stage(root, "scores", version=1, config={}, inputs={"a": 0}).each(
            lambda out: parquet.write_table(table, out.path("scores/a.parquet"))
        )
    info = TeacherInfo(name="/home/me/teacher|x", weights_hash="ab" * 16, preprocessing_hash="cd" * 16, embed_dim=8)
    Stage(root, "teacher", version=1, config={}, inputs={"teacher": 0}).each(
        lambda out: out.path("teacher/teacher.json").write_text(json.dumps(dataclasses.asdict(info))) and None
    )
    for row in rows.values():
        row.pop("place")
    return Made(root=root, rows=rows, images={one: pictures[one] for one in kept})


def _caption(sample: int) -> str:
    return f"caption {sample} {HOSTILE}"


def _url(image: int) -> str | None:
    return None if image % 5 == 0 else f"http://example.org/{image}?{HOSTILE}"


def _facts(number: int) -> dict[str, Any]:
    return {
        "WIDTH": number,
        "license": ["cc-by-4.0", None, HOSTILE, "a_b*c*", "=== www.x.org"][number % 5],
        "taken": datetime.date(2020, 1, 1 + number % 28),
        "price": decimal.Decimal(number) / 4,
        'odd "name" |': number % 2 == 0,
    }


_FACTS = pa.schema(
    [
        schema.SAMPLE_ID,
        schema.IMAGE_ID,
        pa.field("WIDTH", pa.int32()),
        pa.field("license", pa.string()),
        pa.field("taken", pa.date32()),
        pa.field("price", pa.decimal128(9, 2)),
        pa.field('odd "name" |', pa.bool_()),
    ]
)


def _picture(number: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20 + number % PER_SHARD, 30), (number * 9, 0, 200)).save(file, kind)
    return file.getvalue()


def _write_source(root: Path, shards: dict[str, list[int]], pairs: dict[int, list[int]], facts: Any) -> None:
    def write(output: Output) -> None:
        for shard, ids in shards.items():
            listed = [(sample, one) for one in sorted(ids) for sample in sorted(pairs[one])]
            keys = [{"sample_id": sample, "image_id": one} for sample, one in listed]
            rows = [{**key, "url": _url(key["image_id"]), "caption": _caption(key["sample_id"])} for key in keys]
            table = pa.Table.from_pylist(rows, schema=schema.SOURCE_PAIRS)
            parquet.write_table(table, output.path(f"source_pairs/{shard}.parquet"))
            output.rows += table.num_rows
            if facts is not None:
                table = pa.Table.from_pylist([{**key, **facts[key["sample_id"]]} for key in keys], schema=_FACTS)
                parquet.write_table(table, output.path(f"source_attributes/{shard}.parquet"))

    Stage(root, "source_pairs", version=3, config={}, inputs={"pairs": 0}).each(write)


def _write_images(root: Path, shards: dict[str, list[int]], pictures: dict[int, bytes], lost: list[int]) -> None:
    def write(output: Output) -> None:
        shard, ids = output.shard, shards[output.shard]
        adopted = root.parent / "adopted.tar" if shard == ADOPTED else None
        tar = adopted or output.path(f"images/{shard}.tar")
        with tarfile.open(tar, "w") as file:
            for n, one in enumerate(ids):
                members = {"png" if adopted else "jpg": pictures[one], "json": json.dumps({"image_id": one}).encode()}
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{n:05d}.{extension}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
        index = index_tar(tar)
        if adopted:
            index = index.set_column(5, "tar", pa.array([str(adopted)] * len(ids), pa.string()))
        parquet.write_table(index, output.path(f"images/index/{shard}.parquet"))
        rows = [
            {"image_id": one, "shard": shard, "key": f"{n:05d}", "url": _url(one), "status": "success"}
            | {"width": 20 + n, "height": 30, "sha256": f"{n:064x}"}
            for n, one in enumerate(ids)
            if one not in lost
        ]
        failed = {"image_id": int(shard), "shard": shard, "key": "99999", "url": "http://x", "status": "too_large"}
        table = pa.Table.from_pylist([*rows, failed], schema=schema.IMAGES)
        parquet.write_table(table, output.path(f"images/{shard}.parquet"))
        output.rows = table.num_rows

    Stage(root, "images", version=3, config={}, inputs=dict.fromkeys(shards, 0)).each(write)


def _write_balance(root: Path, rows: dict[int, dict[str, Any]], *, removed: int) -> None:
    def write(output: Output) -> None:
        balanced = [
            {"sample_id": sample, "caption": caption, "image_text_similarity": similarity}
            | {name: row[name] for name in ("image_id", "url", "width", "height", "group_size")}
            | {"shard": row["place"][0], "key": row["place"][1]}
            for row in sorted(rows.values(), key=lambda row: row["image_id"])
            for sample, caption, similarity in sorted(
                zip(row["sample_ids"], row["captions"], row["image_text_similarities"])
            )
        ]
        table = pa.Table.from_pylist(balanced, schema=schema.BALANCED_PAIRS)
        parquet.write_table(table, output.path("balanced_pairs/balanced_pairs.parquet"))
        output.stats = {"rule": "connected_components", "threshold": 0.2, "samples": len(rows) + removed + 3}
        output.stats |= {"kept": len(rows), "removed": removed, "blocked": 2, "filtered": 1, "filtered_pairs": 4}
        output.stats["sweep"] = _SWEEP

    Stage(root, "balance", version=4, config={}, inputs={"balance": 0}).each(write)
