"""Pictures and small tables of each stage for the Dagster UI, made from the tables that the stage has written."""

import contextlib
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets.page.balance_plots import (
    cluster_size_histogram,
    concept_distribution,
    group_sheet,
    group_size_histogram,
    threshold_curve,
)
from assets.page.run_plots import download_status, evaluation_bars, loss_curves
from assets.page.style import markdown_image
from assets.settings import Settings
from pipeline.clusters.kmeans_clusters import cluster_sizes, nearest_centroids
from pipeline.core import query
from pipeline.core.errors import MissingInputError
from pipeline.core.tars import read_sample
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of

_SHEET_GROUPS, _SHEET_COLUMNS = 4, 9


def download_outcomes(result: StageResult, config: Settings) -> dict[str, Any]:
    """Success rate, and how often each status and reason occurred, as a table and as a histogram."""
    rows = _query(config, "download_outcomes", images=query.files(result.parquet("images"))).to_pylist()
    counts = {
        (row["status"], f"{row['status']}, {row['reason']}" if row["reason"] else None): row["pairs"] for row in rows
    }
    picture = download_status(counts, full=config.path / "pictures" / "download.png")
    return {
        "success_rate": round(result.stats["downloaded"] / max(result.rows, 1), 4),
        "outcomes": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in rows]),
        "download": _picture(picture, "download"),
    }


def balance_pictures(result: StageResult, config: Settings) -> dict[str, dict[str, Any]]:
    """Threshold curve, group sizes and a sheet of groups, by table."""
    folder = config.path / "pictures"
    stats = result.stats
    # Blocked images were left out before anything was counted.
    samples = stats["samples"] - stats["blocked"]
    sweep = pa.Table.from_pylist(stats["sweep"])
    curve = threshold_curve(
        sweep,
        threshold=stats["threshold"],
        removal_rate=stats["removed"] / samples,
        samples=samples,
        full=folder / "threshold_curve.png",
    )
    groups = _query(
        config, "group_sizes", package="pipeline.balance", groups=query.files(result.parquet("balance_groups"))
    )
    histogram = group_size_histogram(
        groups["size"].to_numpy(), groups["groups"].to_numpy(), full=folder / "group_sizes.png"
    )
    sheet = _picture(_group_sheet(result, config), "groups")
    steps = [{name: _plain(value) for name, value in row.items()} for row in sweep.to_pylist()[::5]]
    return {
        "balanced_pairs": {
            "threshold curve": _picture(curve, "threshold curve"),
            "thresholds": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in steps]),
        },
        "balance_groups": {
            "group sizes": _picture(histogram, "group sizes"),
            "groups by size": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in stats["group_sizes"]]),
        },
        "removed_pairs": {"groups: the kept image, then those it replaced": sheet},
    }


def cluster_pictures(result: StageResult, config: Settings) -> dict[str, dict[str, Any]]:
    """Cluster sizes, and images per concept before and after the balance, a concept being a cluster."""
    folder = config.path / "pictures"
    sizes = cluster_sizes(result.parquet("cluster_assignments")[0], result.stats["clusters"])
    histogram = cluster_size_histogram(sizes.tolist(), full=folder / "cluster_sizes.png")
    before, after = _concepts(result, config)
    effective = (_effective_number(before), _effective_number(after))
    curve = concept_distribution(before.tolist(), after.tolist(), full=folder / "concepts.png")
    return {
        "centroids": {
            "concepts before and after": _picture(curve, "concepts"),
            "effective_concepts_before": round(effective[0], 1),
            "effective_concepts_after": round(effective[1], 1),
        },
        "cluster_assignments": {"cluster sizes": _picture(histogram, "cluster sizes")},
    }


def training_pictures(config: Settings, metrics_table: str) -> dict[str, Any]:
    """Loss curves of the runs that are there, and the last row of this run's metrics as plottable numbers."""
    tables, last = {}, {}
    for name, table in (("student", "training_metrics"), ("baseline", "baseline_metrics")):
        with contextlib.suppress(MissingInputError):
            (path,) = read_result(config.path, name).parquet(table)
            tables[name] = pq.read_table(path)
            if table == metrics_table:
                last = tables[name].to_pylist()[-1]
    curves = loss_curves(tables, full=config.path / "pictures" / "loss_curves.png")
    numbers = {f"last {name}": float(f"{value:.4g}") for name, value in last.items() if isinstance(value, float)}
    return {"loss curves": _picture(curves, "loss curves"), **numbers}


def evaluation_pictures(result: StageResult, config: Settings) -> dict[str, Any]:
    """The figures, a column a model, the same as bars, and zero-shot accuracies as numbers that plot over time."""
    table = pq.read_table(result.parquet("evaluation")[0])
    bars = evaluation_bars(table, full=config.path / "pictures" / "evaluation.png")
    records = [dg.TableRecord(row) for row in _side_by_side(table.to_pylist())]
    numbers = {
        f"zero_shot_{row['model']}": round(row["value"], 4)
        for row in table.to_pylist()
        if row["task"] == "zero_shot" and row["metric"] == "top1"
    }
    return {"figures": dg.MetadataValue.table(records=records), "bars": _picture(bars, "evaluation"), **numbers}


def _query(config: Settings, name: str, *, package: str = "assets", **parameters: Any) -> pa.Table:
    with query.connect(config.query, scratch=config.path / ".tmp") as connection:
        return connection.sql(query.sql(package, name), params=parameters).to_arrow_table()


def _side_by_side(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a metric, one column a model: the page is too narrow for the table as it is stored."""
    several = len({row["dataset"] for row in rows}) > 1
    sheet: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        metric = row["metric"] if row["task"] == "retrieval" else f"{row['task']} {row['metric']}"
        first = {"dataset": row["dataset"], "metric": metric} if several else {"metric": metric}
        line = sheet.setdefault((row["dataset"], row["task"], row["metric"]), first)
        line[row["model"]] = _plain(row["value"])
    return list(sheet.values())


def _picture(jpeg: bytes, alt: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_image(jpeg, alt))


def _plain(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _group_sheet(result: StageResult, config: Settings) -> bytes:
    images = read_result(config.path, "images")
    parameters: dict[str, Any] = {
        "groups": query.files(result.parquet("balance_groups")),
        "images": query.files(images.parquet("images")),
        "index": query.files(images.parquet("index")),
        "count": _SHEET_GROUPS,
        "columns": _SHEET_COLUMNS,
    }
    rows = _query(config, "largest_groups", **parameters).to_pylist()
    storage = storage_of(config.path)
    sheet: dict[int, list[tuple[bytes, str]]] = {}
    for row in rows:
        name = f"images/{row['shard']}.tar"
        jpeg = read_sample(storage.part(name, row["offset"], row["size"]), where=name)["jpg"]
        group = sheet.setdefault(row["group_id"], [])
        group.append((jpeg, f"{row['distance_to_center']:.3f}" if group else f"kept, group of {row['group_size']}"))
    return group_sheet(list(sheet.values()), full=config.path / "pictures" / "groups.png")


def _concepts(result: StageResult, config: Settings) -> tuple[np.ndarray, np.ndarray]:
    embeddings = read_result(config.path, "teacher_embeddings").parquet("teacher_embeddings")
    concepts: pa.Table = nearest_centroids(embeddings, result.parquet("centroids")[0])
    with query.connect(config.query, scratch=config.path / ".tmp") as connection:
        connection.register("concepts", concepts)
        groups = query.files(read_result(config.path, "balance").parquet("balance_groups"))
        table = connection.sql(query.sql("assets", "concepts"), params={"groups": groups}).to_arrow_table()
    return table["before"].to_numpy(), table["after"].to_numpy()


def _effective_number(counts: np.ndarray) -> float:
    """Exponential of the entropy: how many equally common concepts would be as diverse."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def write_all(config: Settings) -> Path:
    """Every picture of a finished run into ``<root>/pictures``; returns that folder."""
    balance_pictures(read_result(config.path, "balance"), config)
    cluster_pictures(read_result(config.path, "clusters"), config)
    training_pictures(config, "training_metrics")
    evaluation_pictures(read_result(config.path, "evaluation"), config)
    return config.path / "pictures"
