"""What was refused and why: lines of lists, downloads, blocked and filtered pairs, evaluation leaks."""

import contextlib
from typing import Any, NoReturn

from assets.page.pictures import download_outcomes, leak_pictures
from assets.page.report.document import Html, details, note, picture, section, table, tag
from assets.page.report.stages import Stages
from assets.settings import Settings
from pipeline.core import query
from pipeline.core.errors import MissingInputError
from pipeline.storage.result import StageResult

_REASONS = 40
# What a list's counts say of pairs that are used.
_USED = {"listed", "found", "captions", "images", "pairs"}
# Tables of pairs that are not used, the stage that makes each, and the column that says why.
_TABLES = {
    "blocked_source_pairs": ("source_pairs", "matched", "Not asked for: on source.blocklist"),
    "blocked_pairs": ("balance", "matched", "Blocked: on balance.blocklist"),
    "filtered_pairs": ("balance", "reason", "Filtered: balance.where, keep lists and evaluation leaks"),
    "unreadable_images": ("teacher_embeddings", "error", "Unreadable when they were to be embedded"),
}


def refused_section(stages: Stages, config: Settings) -> Html:
    parts = [*_lists(stages), *_downloads(stages, config), *_reasons(stages, config), *_leaks(stages, config)]
    return section("refused", "What was refused, and why", *(parts or [note("No stage is complete that could.")]))


def _lists(stages: Stages) -> list[Html]:
    source = stages.done.get("source_pairs")
    if source is None:
        return []
    counts = {name: value for name, value in source.stats.items() if isinstance(value, int) and name not in _USED}
    rows = [(name.replace("_", " "), value) for name, value in counts.items()]
    listed = source.stats.get("listed", source.stats.get("found"))
    parts = [tag("h3", "Lists")]
    if listed is not None:
        parts.append(note(f"Of {listed:,} that were listed, {source.rows:,} pairs are used."))
    return [*parts, table(("reason", "pairs"), rows)] if rows else parts


def _downloads(stages: Stages, config: Settings) -> list[Html]:
    images = stages.done.get("images")
    if images is None:
        return []
    found = download_outcomes(images, config)
    rows = [(row["status"], row["reason"], row["pairs"], row["example"]) for row in _records(found["outcomes"])]
    return [
        tag("h3", "Downloads"),
        picture(found["download"].md_str, "Images by outcome, and failures by reason"),
        details("statuses", table(("status", "reason", "images", "example"), rows)),
    ]


def _reasons(stages: Stages, config: Settings) -> list[Html]:
    parts: list[Html] = []
    for name, (stage, column, title) in _TABLES.items():
        result = stages.done.get(stage)
        if result is None or not result.tables.get(name):
            continue
        text = query.sql("assets", "report_reasons").format(column=column)
        rows = asked(config, text, pairs=query.files(result.parquet(name)), count=_REASONS)
        cells = [(row["reason"], row["pairs"], row["images"]) for row in rows]
        parts += [tag("h3", title), table(("reason", "pairs", "images"), cells)]
    if not parts and "balance" in stages.done:
        parts = [note("No pair was blocked or filtered.")]
    return parts


def _leaks(stages: Stages, config: Settings) -> list[Html]:
    leaks: StageResult | None = stages.done.get("evaluation_leaks")
    if leaks is None or not leaks.stats.get("datasets"):
        return [note("Evaluation leaks were not looked for: balance.decontaminate names no data set.")] if leaks else []
    rows = asked(config, query.sql("assets", "report_leaks"), leaks=query.files(leaks.parquet("evaluation_leaks")))
    looked = f"Within {leaks.stats['threshold']:g} of test images of {', '.join(leaks.stats['datasets'])}: "
    heads = ("data set", "test images", "training images", "nearest")
    return [
        tag("h3", "Evaluation leaks"),
        note(looked + f"{leaks.stats['leaked_images']:,} training images."),
        table(heads, [tuple(row.values()) for row in rows]),
        *_nearest(leaks, config),
    ]


def _nearest(leaks: StageResult, config: Settings) -> list[Html]:
    """The sheet of the nearest pairs, where it was drawn: test images do not lie under the root."""

    def unknown(_: Any) -> NoReturn:
        raise MissingInputError("test images are not read for a report")

    with contextlib.suppress(MissingInputError):
        drawn = leak_pictures(leaks, config, unknown)
        return [picture(sheet.md_str, name) for name, sheet in drawn.items()]
    return []


def asked(config: Settings, text: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of a query."""
    with query.connect(config.query, scratch=config.path / ".tmp") as connection:
        return connection.sql(text, params=parameters).to_arrow_table().to_pylist()


def _records(value: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in value.records]
