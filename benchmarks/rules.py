"""The rules of the balance side by side, at equal shares of removed images: what each groups, and how far it reaches.

On a finished root, which is only read: ``make demo``, or another by ``python -m benchmarks.rules ROOT``. The demo knows
what each image shows; for other roots a Parquet file of ``image_id`` or ``url`` and of labels may be given by
``--truth FILE --labels COLUMN...``.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.run import RESULTS, machine
from pipeline.balance import semantic_balance
from pipeline.core import query
from pipeline.core.errors import ConfigError
from pipeline.storage.result import read_result

_ROOT = Path("data/demo")
_RULES = ("connected_components", "bounded", "semdedup", "random")
_REMOVALS = (0.2, 0.437, 0.6)

_DISTANCES = """
SELECT
  count(*) FILTER (NOT kept) / count(*) AS removed_share,
  max(group_size) AS largest_group,
  max(distance_to_center) FILTER (NOT kept) AS max_distance,
  avg(distance_to_center) FILTER (NOT kept) AS mean_distance,
  avg((distance_to_center > $threshold::FLOAT)::INT) FILTER (NOT kept) AS beyond_threshold
FROM verdicts
"""

# What an image shows; a near-duplicate of the demo shows what its origin does.
_DEMO = """
CREATE TEMP TABLE truth AS
SELECT named.image_id, class_id AS concept, coalesce(origin_url, truth.url) AS scene,
       CASE WHEN kind = 'near_duplicate' THEN origin.image_id END AS origin_id
FROM read_parquet($truth) AS truth
JOIN (SELECT image_id, url FROM images) AS named USING (url)
LEFT JOIN (SELECT image_id, url FROM images) AS origin ON origin.url = origin_url
"""

_RECALL = """
SELECT avg((verdicts.group_id = origin.group_id)::INT) AS near_duplicate_recall
FROM truth JOIN verdicts USING (image_id) JOIN verdicts AS origin ON origin.image_id = origin_id
"""

# Purity as in benchmarks/demo.py: the share of the images in groups of two or more that belong with the commonest label
# of theirs. `removed_with_another` is the share of removed images whose label is not that of the image kept for them.
_PURITY = """
WITH counts AS (
  SELECT group_id, count(*) AS images
  FROM verdicts JOIN truth USING (image_id) WHERE group_size > 1 GROUP BY group_id, {label}
), commonest AS (SELECT max(images) AS most, sum(images) AS images FROM counts GROUP BY group_id)
SELECT
  (SELECT sum(most) / sum(images) FROM commonest) AS purity,
  (
    SELECT avg((gone.{label} IS DISTINCT FROM stays.{label})::INT)
    FROM verdicts JOIN truth AS gone USING (image_id) JOIN truth AS stays ON stays.image_id = group_id
    WHERE NOT kept
  ) AS removed_with_another
"""


def measure(root: Path = _ROOT, *, truth: Path | None = None, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each share and rule. Shares are in [0, 1]; distances are Euclidean, from a removed image to the kept
    one."""
    with tempfile.TemporaryDirectory(prefix="rules-") as folder, duckdb.connect() as connection:
        names = _open_truth(connection, root, truth, labels)
        rows: list[dict[str, Any]] = []
        for target, rule in itertools.product(_REMOVALS, _RULES):
            row = {"target": target, "rule": rule, **_balanced(root, Path(folder), rule, target)}
            if "threshold" in row:
                row |= _figures(connection, Path(folder) / "balance_groups.parquet", row["threshold"], names)
                row["threshold"] = round(row["threshold"], 4)
            rows.append(row)
        return rows


def _open_truth(
    connection: duckdb.DuckDBPyConnection, root: Path, truth: Path | None, labels: Sequence[str]
) -> Sequence[str]:
    """The names of labels in the table ``truth``, which is made if there are any."""
    query.view(connection, "images", read_result(root, "images").parquet("images"))
    demo = root / "demo" / "truth.parquet"
    if truth is None:
        if not demo.is_file():
            return ()
        connection.execute(_DEMO, {"truth": str(demo)})
        return ("concept", "scene", "origin_id")
    query.view(connection, "given", [truth])
    missing = {*labels} - {*connection.table("given").columns}
    if missing or not labels:
        raise SystemExit(f"{truth}: no column {sorted(missing)}; --labels may be {connection.table('given').columns}")
    key = "image_id" if "image_id" in connection.table("given").columns else "url"
    chosen = ", ".join(f"given.{query.identifier(label)}" for label in labels)
    connection.execute(
        f"CREATE TEMP TABLE truth AS SELECT image_id, {chosen} FROM given "
        f"JOIN (SELECT image_id, url FROM images) AS named USING ({key})"
    )
    return labels


def _balanced(root: Path, output: Path, rule: Any, target: float) -> dict[str, Any]:
    """The threshold and the seconds that it took; the tables are in ``output``."""
    (forest,) = read_result(root, "near_duplicates").parquet("near_duplicates")
    embeddings = read_result(root, "teacher_embeddings").parquet("teacher_embeddings")
    started = time.perf_counter()
    try:
        report = semantic_balance(embeddings, forest, output, id_column="image_id", rule=rule, target_removal=target)
    except ConfigError as error:
        return {"failed": str(error)}
    return {"threshold": report.threshold, "seconds": round(time.perf_counter() - started, 1)}


def _figures(
    connection: duckdb.DuckDBPyConnection, groups: Path, threshold: float, labels: Sequence[str]
) -> dict[str, Any]:
    connection.execute("CREATE OR REPLACE TEMP TABLE verdicts AS FROM read_parquet($groups)", {"groups": str(groups)})
    found = query.one(connection, _DISTANCES, {"threshold": threshold}) or {}
    if "origin_id" in labels:
        found |= query.one(connection, _RECALL, {}) or {}
    for label in labels:
        if label != "origin_id":
            pure = query.one(connection, _PURITY.format(label=query.identifier(label)), {}) or {}
            found |= {f"{label}_{name}": value for name, value in pure.items()}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=_ROOT)
    parser.add_argument("--truth", type=Path, help="Parquet of image_id or url, and labels")
    parser.add_argument("--labels", nargs="+", default=(), metavar="COLUMN", help="columns of labels in it")
    parser.add_argument("--output", type=Path, default=RESULTS / "rules.json", help="(default: %(default)s)")
    given = parser.parse_args()
    rows = measure(given.root, truth=given.truth, labels=given.labels)
    for row in rows:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    content = {"machine": machine(), "command": "python -m benchmarks.rules ROOT", "rows": rows}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
