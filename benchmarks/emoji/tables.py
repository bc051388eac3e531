"""What is reported of the roots, read from their tables. No times: a second run gives equal rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from pipeline.storage.result import read_result

Rows = list[dict[str, Any]]

_COUNTS = ("samples", "pairs", "kept", "removed", "threshold", "groups", "largest_group", "removed_beyond_threshold")

_ACCURACIES = """
SELECT dataset, model,
  round(100 * first(value) FILTER (metric = 'top1'), 2) AS top1_percent,
  round(100 * first(value) FILTER (metric = 'top5'), 2) AS top5_percent
FROM evaluation WHERE task = 'zero_shot' AND list_contains($models, model)
GROUP BY ALL ORDER BY ALL
"""

_ABLATION = """
SELECT dataset, data, losses, round(100 * avg(value), 2) AS top1_percent,
  round(100 * coalesce(stddev_samp(value), 0), 2) AS deviation, count(*) AS seeds
FROM ablation WHERE task = 'zero_shot' AND metric = 'top1'
GROUP BY ALL ORDER BY ALL
"""


def data(root: Path) -> Rows:
    """One row: what the balance reports of itself."""
    stats = read_result(root, "balance").stats
    return [{name: round(stats[name], 4) for name in _COUNTS}]


def accuracies(root: Path, models: Sequence[str]) -> Rows:
    """Zero-shot accuracy, a row for each evaluation set and model."""
    return _rows(root, _ACCURACIES, {"models": list(models)})


def ablation(root: Path) -> Rows:
    """Mean and sample standard deviation over seeds, a row for each evaluation set, choice of data and of losses."""
    return _rows(root, _ABLATION)


def _rows(root: Path, query: str, parameters: Mapping[str, Any] | None = None) -> Rows:
    with duckdb.connect() as connection:
        connection.execute((root / "catalog.sql").read_text())
        found = connection.execute(query, parameters)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row)) for row in found.fetchall()]
