"""What came out: the balance, clusters, training, evaluation and ablation, with their pictures."""

from typing import Any

import pyarrow.parquet as pq

from assets.page.pictures import (
    ablation_pictures,
    balance_pictures,
    cluster_accuracy_pictures,
    cluster_pictures,
    evaluation_pictures,
    training_pictures,
)
from assets.page.report.document import Html, details, note, number, picture, section, table, tag
from assets.page.report.provenance import Provenance, threshold_source
from assets.page.report.refused import asked
from assets.page.report.stages import Stages, stages_of
from assets.settings import Settings
from pipeline.core import query
from pipeline.storage.result import StageResult

_GROUPS, _MEMBERS, _LETTERS = 6, 5, 160
_THRESHOLDS = 5


def numbers(stages: Stages, run: Provenance | None) -> Html:
    """The figures that a reader asks for first."""
    found: list[tuple[str, Any]] = []
    source, images, balance = (stages.done.get(name) for name in ("source_pairs", "images", "balance"))
    if source:
        found.append(("pairs", source.rows))
    if images:
        found.append(("images", images.tables.get("index", images.rows)))
    if balance:
        stats = balance.stats
        used = stats["samples"] - stats["blocked"] - stats["filtered"]
        found += [("images kept", stats["kept"]), ("images removed", stats["removed"])]
        found.append(("removed share", number(stats["removed"] / max(used, 1), ".1%")))
        found.append(("threshold", number(stats["threshold"], ".4g")))
    parts = [tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in found))] if found else []
    if balance:
        parts.append(note(f"Threshold: {threshold_source(run, balance.stats)}. Rule: {balance.stats['rule']}."))
    return Html("".join(parts))


def balance_section(result: StageResult, stages: Stages, config: Settings, run: Provenance | None) -> Html:
    drawn, stats = balance_pictures(result, config), result.stats
    sweep = [
        (number(row["threshold"], ".3g"), row["removed"], row["kept"], number(row["removal_rate"], ".1%"))
        for row in stats["sweep"][::_THRESHOLDS]
    ]
    sizes = [(_range(row), row["groups"], row["images"]) for row in stats["group_sizes"]]
    facts = [
        ("groups of two or more", stats["groups"]),
        ("largest group", stats["largest_group"]),
        ("largest distance of a removed image to the one that stands for it", stats["max_distance_to_center"]),
        ("removed images beyond the threshold from the one that stands for them", stats["removed_beyond_threshold"]),
        ("effective number of concepts before", number(stats["effective_concepts_before"], ",.0f")),
        ("effective number of concepts after", number(stats["effective_concepts_after"], ",.0f")),
        ("image-text similarity of what is kept", stats["similarity_kept"]),
        ("image-text similarity of what is removed", stats["similarity_removed"]),
    ]
    return section(
        "balance",
        "Balance",
        *_of_an_earlier_run("balance", run),
        picture(drawn["balanced_pairs"]["threshold curve"].md_str, "Share of the images that a threshold removes"),
        details("thresholds", table(("threshold", "removed", "kept", "removed share"), sweep)),
        picture(drawn["removed_pairs"][_SHEET].md_str, "The groups with the most images and with the widest spread"),
        *_captions(result, stages, config),
        picture(drawn["balance_groups"]["group sizes"].md_str, "Groups by size"),
        details("group sizes", table(("images in the group", "groups", "images"), sizes)),
        table(("", ""), facts),
    )


_SHEET = "groups: the kept image, then those it replaced"


def _captions(result: StageResult, stages: Stages, config: Settings) -> list[Html]:
    source = stages.done.get("source_pairs")
    if source is None:
        return []
    rows = asked(
        config,
        query.sql("assets", "report_groups"),
        groups=query.files(result.parquet("balance_groups")),
        pairs=query.files(source.parquet("source_pairs")),
        count=_GROUPS,
        members=_MEMBERS,
    )
    cells = [
        (
            row["group_size"] if row["kept"] else None,
            "kept" if row["kept"] else "replaced",
            number(row["distance_to_center"], ".3f"),
            _short(row["caption"]),
        )
        for row in rows
    ]
    heads = ("images in the group", "", "distance", "caption")
    return [details("captions of the largest groups", table(heads, cells))] if cells else []


def _short(caption: str | None) -> str:
    text = " ".join((caption or "").split())
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _range(row: dict[str, int]) -> str:
    return f"{row['from']:,}" if row["from"] == row["to"] else f"{row['from']:,} to {row['to']:,}"


def clusters_section(result: StageResult, config: Settings, run: Provenance | None) -> Html:
    drawn = cluster_pictures(result, config)
    return section(
        "clusters",
        "Clusters",
        *_of_an_earlier_run("clusters", run),
        picture(drawn["centroids"]["concepts before and after"].md_str, "Images by concept before and after"),
        picture(drawn["cluster_assignments"]["cluster sizes"].md_str, "Clusters by size"),
    )


def training_section(stages: Stages, config: Settings, run: Provenance | None) -> Html:
    """Both runs that there are."""
    parts: list[Any] = []
    rows = []
    for name, kind in (("student", "training"), ("baseline", "baseline")):
        result = stages.done.get(name)
        if result is None:
            continue
        parts = parts or [picture(training_pictures(config, name)["loss curves"].md_str, "Losses by step")]
        parts += _of_an_earlier_run(name, run)
        (path,) = result.parquet(f"{kind}_metrics")
        last = pq.read_table(path).to_pylist()[-1]
        rows.append((name, last["step"], last["samples_seen"], last["loss"], last["samples_per_second"]))
    heads = ("run", "steps", "samples seen", "last loss", "samples per second, at the end")
    return section("training", "Training", *parts, table(heads, rows))


def evaluation_section(stages: Stages, config: Settings, run: Provenance | None) -> Html:
    """The figures of every model on every data set, and the clusters in which the student falls behind."""
    result = stages.done["evaluation"]
    drawn = evaluation_pictures(result, config)
    values: dict[tuple[Any, ...], dict[str, float]] = {}
    models: dict[str, None] = {}
    for row in pq.read_table(result.parquet("evaluation")[0]).to_pylist():
        line = (row["dataset"], row["task"].replace("_", " "), row["metric"].replace("_", " "), row["samples"])
        values.setdefault(line, {})[row["model"]] = row["value"]
        models[row["model"]] = None
    heads = ("data set", "task", "metric", "queries", *models)
    rows = [(*line, *(number(found.get(model), ".1%") for model in models)) for line, found in values.items()]
    skipped = [(name, reason) for name, reason in result.stats.get("skipped", {}).items()]
    parts = [
        *_of_an_earlier_run("evaluation", run),
        picture(drawn["bars"].md_str, "Models side by side"),
        table(heads, rows),
        note("Of one training run of each model: how far another seed would be from it is not in these figures."),
    ]
    if skipped:
        parts += [tag("h3", "Not measured"), table(("data set", "reason"), skipped)]
    clusters = stages.done.get("cluster_accuracy")
    if clusters:
        shown = cluster_accuracy_pictures(clusters, config)["student and teacher by cluster"]
        parts.append(picture(shown.md_str, "Training images that find their caption, by cluster"))
    return section("evaluation", "Evaluation", *parts)


def ablation_section(result: StageResult, config: Settings, run: Provenance | None) -> Html:
    """Means and spreads over seeds, after the last step."""
    drawn, rows = ablation_pictures(result, config)
    cells = [
        (
            *(row[name] for name in ("axis", "data", "losses", "steps")),
            number(row["mean"], ".1%"),
            number(row["spread"] if row["seeds"] > 1 else None, ".1%"),
            row["seeds"],
        )
        for row in rows
    ]
    heads = ("equal", "data", "losses", "steps", "zero-shot top-1", "spread over seeds", "seeds")
    return section(
        "ablation",
        "Ablation",
        *_of_an_earlier_run("ablation", run),
        picture(drawn.md_str, "Zero-shot top-1 by losses and data"),
        table(heads, cells),
    )


def _of_an_earlier_run(stage: str, run: Provenance | None) -> list[Html]:
    if run is None or stage in stages_of(run):
        return []
    return [note(f"{stage}: of an earlier run; the job {run.job} does not make it.")]
