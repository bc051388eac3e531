"""The card of a data set: figures of the root that it came from. Of captions and URLs there is nothing in it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from pipeline.core import query
from pipeline.core.query import QueryConfig
from pipeline.export_dataset.rows import Carried
from pipeline.hub.card import escaped, rendered, short_name, table
from pipeline.storage.result import StageResult
from pipeline.teacher.stage import TeacherInfo, read_info

KEPT_HASH = "SELECT hex(bit_xor(md5_number(image_id::VARCHAR))) FROM 'data/*.parquet';"
"""What tells two sets of images apart, whatever the order of rows and the number of files, in DuckDB."""

_LICENSE = "license"
_LICENSES_SHOWN, _SWEEP_SHOWN = 20, 10

_COLUMNS = {
    "image_id": "64 bits of MD5 of the URL, or of the bytes where there is no URL",
    "url": "where the image was; null for one that was there already",
    "sample_ids": "an id for each caption",
    "captions": "its captions; those of near-duplicates that it stands for come last",
    "image_text_similarities": "cosine of the teacher's embeddings of the image and of each caption",
    "width": "of the stored image, in pixels",
    "height": "of the stored image, in pixels",
    "sha256": "of the bytes as they were served, before anything was done to them",
    "group_size": "images in its group of near-duplicates, itself included",
    "image": "the image as it was stored",
}
_CARRIED = {
    "attributes": "as the list has it, for the first caption",
    "scores": "score of a head on the image's embedding",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What the card says of the data: ``columns`` and what they mean; ``licenses``, the most frequent values of the
    column of that name."""

    images: int
    captions: int
    kept_hash: str
    columns: dict[str, str]
    sizes: dict[str, int]
    balance: dict[str, Any]
    teacher: TeacherInfo
    licenses: list[tuple[str | None, int]] | None


def collect_facts(
    root: Path, data: Path, stages: dict[str, StageResult], carried: Sequence[Carried], config: QueryConfig
) -> Facts:
    """Count what was written to ``data``, and in the tables that it was made of."""
    meanings = {one.field.name: _CARRIED[one.table] for one in carried}
    tables = {"source": stages["source_pairs"].parquet("source_pairs"), "images": stages["images"].parquet("images")}
    with query.connect(config, scratch=root / ".tmp") as connection:
        query.view(connection, "data", sorted(data.glob("*.parquet")))
        counts = _one(connection, "SELECT count(*) AS images, sum(len(captions))::BIGINT AS captions FROM data")
        columns = connection.table("data").columns
        kept_hash = connection.sql(KEPT_HASH.replace("'data/*.parquet'", "data").rstrip(";")).fetchall()[0][0]
        parameters = {name: query.files(paths) for name, paths in tables.items()}
        sizes = _one(connection, query.sql("pipeline.export_dataset", "sizes"), parameters)
        licensed = [name for name in columns if name.lower() == _LICENSE]
        licenses = _most_frequent(connection, licensed[0]) if licensed else None
    return Facts(
        **counts,
        kept_hash=kept_hash,
        columns={
            f"`{name}`" if name in _COLUMNS else escaped(name): meanings.get(name) or _COLUMNS[name] for name in columns
        },
        sizes=sizes,
        balance=stages["balance"].stats,
        teacher=read_info(root),
        licenses=licenses,
    )


def dataset_card(facts: Facts, *, name: str, license: str | None, images: bool) -> str:
    """The whole card, as text."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        license=license,
        size_categories=[size_category(facts.images)],
        task_categories=["zero-shot-image-classification", "image-to-text", "text-to-image"],
        tags=["clip", "image-text-pairs", "deduplicated", "clip-cid"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    )
    balance = facts.balance
    parts = [
        f"# {escaped(name)}\n",
        f"{facts.images:,} images with {facts.captions:,} captions, a row for each image, near-duplicates removed.",
        "Images are stored in it." if images else "It holds no images, but where each of them was found.",
        '\n```python\nimport datasets\n\ndata = datasets.load_dataset("path/to/this/folder", split="train")\n```\n',
        "## Columns\n",
        table(("column", "meaning"), facts.columns.items()),
        "\n## How many\n",
        table(("", "images"), _sizes(facts)),
        f"\n{facts.sizes['listed_pairs']:,} pairs of an image and a caption were listed.",
        _filtered(balance),
        "\n## Near-duplicates\n",
        f"Images are near-duplicates up to a Euclidean distance of {balance['threshold']:.6g} between unit vectors "
        f"(rule {escaped(balance['rule'])}). What other thresholds would remove:\n",
        table(("threshold", "removed", "kept", "share removed"), _sweep(balance)),
        "\n## Teacher\n",
        f"Embeddings are those of {escaped(short_name(facts.teacher.name))}, hash of its weights "
        f"`{facts.teacher.weights_hash}`, of its preprocessing `{facts.teacher.preprocessing_hash}`.",
        *_licenses(facts),
        "\n## Which images\n",
        f"The set of images has the hash `{facts.kept_hash}`, whatever the order of rows and the number of files:\n",
        f"```sql\n{KEPT_HASH}\n```\n",
        "It tells sets apart that differ by accident; it is no proof against somebody who looks for two that do not.",
    ]
    return rendered(data, "\n".join(part for part in parts if part) + "\n")


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    for power, (lower, upper) in enumerate(zip(("n", *bounds), bounds), start=3):
        if rows < 10**power:
            return f"n<{upper}" if lower == "n" else f"{lower}<n<{upper}"
    return f"n>{bounds[-1]}"


def _sizes(facts: Facts) -> list[tuple[str, str]]:
    balance = facts.balance
    counts = {
        "listed": facts.sizes["listed_images"],
        "downloaded": facts.sizes["downloaded"],
        "compared": balance["samples"],
        "filtered": balance["filtered"],
        "blocked": balance["blocked"],
        "removed as near-duplicates": balance["removed"],
        "kept": balance["kept"],
    }
    return [(name, f"{count:,}") for name, count in counts.items()]


def _filtered(balance: dict[str, Any]) -> str:
    return f"{balance['filtered_pairs']:,} pairs did not pass the filter." if balance["filtered_pairs"] else ""


def _sweep(balance: dict[str, Any]) -> list[tuple[str, ...]]:
    """About every tenth of the thresholds that were tried, and the last."""
    sweep = balance["sweep"]
    every = max(1, (len(sweep) - 1) // _SWEEP_SHOWN)
    return [
        (f"{row['threshold']:.4g}", f"{int(row['removed']):,}", f"{int(row['kept']):,}", f"{row['removal_rate']:.2%}")
        for row in sweep[::every]
    ]


def _licenses(facts: Facts) -> list[str]:
    if facts.licenses is None:
        return []
    rows = [("none" if value is None else escaped(value), f"{count:,}") for value, count in facts.licenses]
    rest = facts.images - sum(count for _, count in facts.licenses)
    rows += [("others", f"{rest:,}")] if rest else []
    return ["\n## Licenses of the images, as listed\n", table(("license", "images"), rows)]


def _most_frequent(connection: duckdb.DuckDBPyConnection, column: str) -> list[tuple[str | None, int]]:
    text = query.sql("pipeline.export_dataset", "column_values").format(column=query.identifier(column))
    return connection.execute(text, {"most": _LICENSES_SHOWN}).fetchall()


def _one(connection: duckdb.DuckDBPyConnection, text: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    row = query.one(connection, text, parameters or {})
    assert row is not None
    return row
