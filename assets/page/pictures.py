"""Pictures and small tables of each stage for the Dagster UI, made from the tables that the stage has written."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets.page.ablation_plot import ablation_bars
from assets.page.balance_plots import (
    cluster_size_histogram,
    concept_distribution,
    group_sheet,
    group_size_histogram,
    pair_sheet,
    threshold_curve,
)
from assets.page.cluster_accuracy_plot import cluster_accuracy_dots
from assets.page.remembered import remembered
from assets.page.run_plots import download_status, evaluation_bars, loss_curves
from assets.page.style import markdown_image, print_folder
from assets.settings import Settings
from pipeline.clusters.kmeans_clusters import cluster_sizes, nearest_centroids
from pipeline.core import query
from pipeline.core.errors import MissingInputError
from pipeline.core.remote_tar import image_of
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.samples import stored_sample

_SHEET_GROUPS, _SHEET_COLUMNS, _SHEET_PAIRS = 4, 9, 24
_GAPS = 10


def download_outcomes(result: StageResult, config: Settings) -> dict[str, Any]:
    """Success rate, and how often each status and reason occurred, as a table and as a histogram."""
    rows = _query(config, "download_outcomes", images=query.files(result.parquet("images"))).to_pylist()
    counts = {
        (row["status"], f"{row['status']}, {row['reason']}" if row["reason"] else None): row["pairs"] for row in rows
    }

    def draw(full: Path) -> bytes:
        return download_status(counts, full=full)

    return {
        "success_rate": round(1 - result.stats["failed"] / max(result.rows, 1), 4),
        "outcomes": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in rows]),
        "download": _drawn(config, "download", result.digest, draw),
    }


def balance_pictures(result: StageResult, config: Settings) -> dict[str, dict[str, Any]]:
    """Threshold curve, group sizes and a sheet of groups, by table."""
    stats = result.stats
    # Blocked and filtered images were left out before anything was counted.
    samples = stats["samples"] - stats["blocked"] - stats["filtered"]
    sweep = pa.Table.from_pylist(stats["sweep"])

    def draw_curve(full: Path) -> bytes:
        rate = stats["removed"] / samples
        return threshold_curve(sweep, threshold=stats["threshold"], removal_rate=rate, samples=samples, full=full)

    def draw_sizes(full: Path) -> bytes:
        files = query.files(result.parquet("balance_groups"))
        groups = _query(config, "group_sizes", package="pipeline.balance", groups=files)
        return group_size_histogram(groups["size"].to_numpy(), groups["groups"].to_numpy(), full=full)

    def draw_groups(full: Path) -> bytes:
        return _group_sheet(result, config, full)

    made_from = [result.digest, stats["sweep"], stats["threshold"]]
    curve = _drawn(config, "threshold_curve", made_from, draw_curve)
    histogram = _drawn(config, "group_sizes", result.digest, draw_sizes)
    sheet = _drawn(config, "groups", [result.digest, read_result(config.path, "images").digest], draw_groups)
    steps = [{name: _plain(value) for name, value in row.items()} for row in sweep.to_pylist()[::5]]
    return {
        "balanced_pairs": {
            "threshold curve": curve,
            "thresholds": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in steps]),
        },
        "balance_groups": {
            "group sizes": histogram,
            "groups by size": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in stats["group_sizes"]]),
        },
        "removed_pairs": {"groups: the kept image, then those it replaced": sheet},
    }


def leak_pictures(
    result: StageResult, config: Settings, images: Callable[[Iterable[tuple[str, str]]], dict[tuple[str, str], bytes]]
) -> dict[str, Any]:
    """The nearest pairs of a test image, which ``images`` reads by data set and key, and a training image."""
    if not result.rows:
        return {}
    stored = read_result(config.path, "images")

    def draw(full: Path) -> bytes:
        parameters: dict[str, Any] = {
            "leaks": query.files(result.parquet("evaluation_leaks")),
            "images": query.files(stored.parquet("images")),
            "index": query.files(stored.parquet("index")),
            "count": _SHEET_PAIRS,
        }
        rows = _query(config, "nearest_leaks", **parameters).to_pylist()
        test = images([(row["dataset"], row["key"]) for row in rows])
        pairs = [
            (test[row["dataset"], row["key"]], _image(config, row), f"{row['dataset']}, {row['distance']:.3f}")
            for row in rows
        ]
        return pair_sheet(pairs, found=result.rows, full=full)

    sheet = _drawn(config, "evaluation_leaks", [result.digest, stored.digest], draw)
    return {"test images, and training images near to them": sheet}


def cluster_pictures(result: StageResult, config: Settings) -> dict[str, dict[str, Any]]:
    """Cluster sizes, and images per concept before and after the balance, a concept being a cluster."""

    def draw_sizes(full: Path) -> bytes:
        sizes = cluster_sizes(result.parquet("cluster_assignments")[0], result.stats["clusters"])
        return cluster_size_histogram(sizes.tolist(), full=full)

    def draw_concepts(full: Path) -> tuple[bytes, dict[str, Any]]:
        before, after = _concepts(result, config)
        effective = {
            "effective_concepts_before": round(_effective_number(before), 1),
            "effective_concepts_after": round(_effective_number(after), 1),
        }
        return concept_distribution(before.tolist(), after.tolist(), full=full), effective

    made_from = [result.digest, *(read_result(config.path, name).digest for name in ("teacher_embeddings", "balance"))]
    concepts, effective = _drawn_with_facts(config, "concepts", made_from, draw_concepts)
    return {
        "centroids": {"concepts before and after": concepts, **effective},
        "cluster_assignments": {"cluster sizes": _drawn(config, "cluster_sizes", result.digest, draw_sizes)},
    }


def training_pictures(config: Settings, run: str) -> dict[str, Any]:
    """Curves of the runs that are there; of this one, ``student`` or ``baseline``, the last row of metrics and what the
    exported step was measured by as plottable numbers."""
    tables, evaluated, digests = {}, {}, []
    numbers: dict[str, Any] = {}
    for name, kind in (("student", "training"), ("baseline", "baseline")):
        with contextlib.suppress(MissingInputError):
            trained = read_result(config.path, name)
            (path,) = trained.parquet(f"{kind}_metrics")
            tables[name] = pq.read_table(path)
            for path in trained.parquet(f"{kind}_evaluations"):
                evaluated[name] = pq.read_table(path)
            digests.append([name, trained.digest])
            if name == run:
                numbers = {f"last {key}": value for key, value in tables[name].to_pylist()[-1].items()}
                numbers |= _exported_step(trained, evaluated.get(name))

    def draw(full: Path) -> bytes:
        return loss_curves(tables, evaluations=evaluated, full=full)

    plotted = {name: float(f"{value:.4g}") for name, value in numbers.items() if isinstance(value, float)}
    return {"loss curves": _drawn(config, "loss_curves", digests, draw), **plotted}


def _exported_step(trained: StageResult, evaluations: pa.Table | None) -> dict[str, float]:
    """What the weights that were exported were measured by, of a run that was evaluated."""
    rows = evaluations.to_pylist() if evaluations else []
    step = trained.stats.get("exported_step", trained.stats["steps"])
    return {
        "/".join(part for part in (row["task"], row["dataset"], row["metric"]) if part): row["value"]
        for row in rows
        if row["step"] == step
    }


def evaluation_pictures(result: StageResult, config: Settings) -> dict[str, Any]:
    """The figures, a column a model, the same as bars, and zero-shot accuracies as numbers that plot over time."""
    table = pq.read_table(result.parquet("evaluation")[0])

    def draw(full: Path) -> bytes:
        return evaluation_bars(table, full=full)

    records = [dg.TableRecord(row) for row in _side_by_side(table.to_pylist())]
    numbers = {
        f"zero_shot_{row['model']}": round(row["value"], 4)
        for row in table.to_pylist()
        if row["task"] == "zero_shot" and row["metric"] == "top1" and not row["dataset"].endswith("(clean)")
    }
    return {
        "figures": dg.MetadataValue.table(records=records),
        "bars": _drawn(config, "evaluation", result.digest, draw),
        **_skipped_sets(result),
        **numbers,
    }


def _skipped_sets(result: StageResult) -> dict[str, Any]:
    """Those of a folder of evaluation sets that were not measured, with the reason."""
    rows = [{"dataset": name, "reason": reason} for name, reason in result.stats.get("skipped", {}).items()]
    return {"not measured": dg.MetadataValue.table(records=[dg.TableRecord(row) for row in rows])} if rows else {}


def cluster_accuracy_pictures(result: StageResult, config: Settings) -> dict[str, Any]:
    """Student against teacher, cluster by cluster, and the clusters in which most is to be learned."""
    (path,) = result.parquet("cluster_accuracy")

    def draw(full: Path) -> bytes:
        return cluster_accuracy_dots(pq.read_table(path), full=full)

    rows = _query(config, "largest_gaps", clusters=query.files([path]), count=_GAPS).to_pylist()
    worst = [dg.TableRecord({name: _plain(value) for name, value in row.items()}) for row in rows]
    return {
        "student and teacher by cluster": _drawn(config, "cluster_accuracy", result.digest, draw),
        "clusters in which the student falls behind": dg.MetadataValue.table(records=worst),
        **{f"clusters_{name}": _plain(result.stats[name]) for name in ("student_accuracy", "teacher_accuracy")},
    }


def ablation_pictures(result: StageResult, config: Settings) -> tuple[dg.MarkdownMetadataValue, list[dict[str, Any]]]:
    """Zero-shot top-1 of every choice of losses and data as bars, and the rows behind them."""
    rows = _query(config, "ablation_means", ablation=query.files(result.parquet("ablation"))).to_pylist()
    return _drawn(config, "ablation", result.digest, lambda full: ablation_bars(rows, full=full)), rows


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


def _drawn(config: Settings, name: str, made_from: Any, draw: Callable[[Path], bytes]) -> dg.MarkdownMetadataValue:
    """A picture for the page; ``draw`` writes it in full to the path that it is given, and returns it small."""
    return _drawn_with_facts(config, name, made_from, lambda full: (draw(full), {}))[0]


def _drawn_with_facts(
    config: Settings, name: str, made_from: Any, draw: Callable[[Path], tuple[bytes, dict[str, Any]]]
) -> tuple[dg.MarkdownMetadataValue, dict[str, Any]]:
    """The same of one that comes with numbers, which take as long to find."""
    full = f"pictures/{name}.png"
    folder = print_folder()
    if folder is not None:
        jpeg, facts = draw(folder / f"{name}.png")
        return dg.MetadataValue.md(markdown_image(jpeg, name)), facts

    def make() -> dict[str, Any]:
        jpeg, facts = draw(config.path / full)
        storage_of(config.path).upload([full])
        return {"picture": markdown_image(jpeg, name.replace("_", " ")), "facts": facts}

    content = remembered(config.path, name, made_from, make, files=[full])
    return dg.MetadataValue.md(content["picture"]), content["facts"]


def _plain(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _group_sheet(result: StageResult, config: Settings, full: Path) -> bytes:
    images = read_result(config.path, "images")
    parameters: dict[str, Any] = {
        "groups": query.files(result.parquet("balance_groups")),
        "images": query.files(images.parquet("images")),
        "index": query.files(images.parquet("index")),
        "count": _SHEET_GROUPS,
        "columns": _SHEET_COLUMNS,
    }
    rows = _query(config, "largest_groups", **parameters).to_pylist()
    sheet: dict[int, list[tuple[bytes, str]]] = {}
    for row in rows:
        group = sheet.setdefault(row["group_id"], [])
        text = f"{row['distance_to_center']:.3f}" if group else f"kept, group of {row['group_size']}"
        group.append((_image(config, row), text))
    return group_sheet(list(sheet.values()), full=full)


def _image(config: Settings, row: dict[str, Any]) -> bytes:
    """The stored image of a row with its shard and all that the tar's index says."""
    return image_of(stored_sample(config.path, row["shard"], row))


def _concepts(result: StageResult, config: Settings) -> tuple[np.ndarray, np.ndarray]:
    embeddings = read_result(config.path, "teacher_embeddings").parquet("teacher_embeddings")
    concepts: pa.Table = nearest_centroids(embeddings, result.parquet("centroids")[0], id_column="image_id")
    with query.connect(config.query, scratch=config.path / ".tmp") as connection:
        connection.register("concepts", concepts)
        groups = query.files(read_result(config.path, "balance").parquet("balance_groups"))
        table = connection.sql(query.sql("assets", "concepts"), params={"groups": groups}).to_arrow_table()
    return table["before"].to_numpy(), table["after"].to_numpy()


def _effective_number(counts: np.ndarray) -> float:
    """Exponential of the entropy: how many equally common concepts would be as diverse."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
