"""Which stages are complete, how long they took, and what that makes for a million."""

import dataclasses

from assets.page.report.document import Html, Number, alarm, note, number, section, table
from assets.page.report.provenance import Provenance
from pipeline.core.errors import PipelineError
from pipeline.storage.completion import COMPLETE, REMEMBERED, mark_name
from pipeline.storage.protocol import Storage
from pipeline.storage.result import StageResult, read_result

_ORDER = (
    *("demo", "source_pairs", "images", "teacher", "teacher_embeddings", "scores", "near_duplicates"),
    *("evaluation_leaks", "balance", "clusters", "teacher_views", "training_shards", "student", "baseline"),
    *("evaluation", "cluster_accuracy", "ablation"),
)
_OF_ASSETS = {
    **dict.fromkeys(
        ("balanced_pairs", "balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs"), "balance"
    ),
    **dict.fromkeys(("centroids", "cluster_assignments"), "clusters"),
    "ablation_results": "ablation",
}
"""Stages of assets that have another name."""

# Whose time grows with their rows, and what a row is. That of the pair search grows with the square, that of the
# others with settings: with steps, or with the images of evaluation sets.
_LINEAR = {
    "source_pairs": "pairs",
    "images": "images",
    "teacher_embeddings": "images",
    "scores": "images",
    "balance": "images",
    "clusters": "images kept",
    "teacher_views": "views",
    "training_shards": "images kept",
}
_MILLION = 1_000_000
# Of less than this a rate would be that of starting up.
_LEAST_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of a root: results of those that are complete, and of the others why they are not."""

    done: dict[str, StageResult]
    open: dict[str, str]

    @classmethod
    def of(cls, storage: Storage, run: Provenance | None) -> "Stages":
        """A stage that was begun, or that the job was to make, has to be there; of others nothing is said."""
        marked = set(storage.folders(".marks"))
        wanted = marked & set(_ORDER) | (stages_of(run) if run else set())
        others = marked - set(_ORDER) - {REMEMBERED.rpartition("/")[2]}
        wanted |= {name for name in others if storage.sizes([mark_name(name, COMPLETE)])}
        done, left = {}, {}
        for name in sorted(wanted, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
            try:
                done[name] = read_result(storage.root, name)
            except PipelineError as error:
                left[name] = str(error)
        return cls(done=done, open=left)


def stages_of(run: Provenance) -> set[str]:
    """The stages that a job was to make."""
    found = {_OF_ASSETS.get(asset, asset) for asset in run.stages}
    if not run.settings.get("baseline", {}).get("enabled", True):
        found.discard("baseline")
    # Whatever else is among the assets, as this report, has marks if it is a stage.
    return found & set(_ORDER)


def state(stages: Stages, failure: str | None) -> list[Html]:
    """What a reader must not miss: that something failed, is not complete, or was measured of something else."""
    found = [alarm(failure)] if failure else []
    found += [alarm(f"Not complete: {name}. {why}") for name, why in stages.open.items()]
    if "evaluation" in stages.done:
        measured = stages.done["evaluation"].stats.get("models", {})
        found += [
            alarm(f"The evaluation below is of an earlier {name}: it has been made anew since.")
            for name, digest in measured.items()
            if name in stages.done and stages.done[name].digest != digest
        ]
    return found


def times_section(stages: Stages, run: Provenance | None) -> Html:
    results = [result for result in stages.done.values() if result.sizes]
    total = sum(result.seconds for result in results)
    heads = ("stage", "seconds", "done", "of what", "per second", "hours for a million")
    return section(
        "times",
        "Time and cost",
        table(heads, [_row(result) for result in results]),
        note(f"Together {total:,.1f} s, or {total / 3600:,.2f} h.", _for_a_million(stages)),
        note(
            "Seconds of the run that completed the stage: what earlier runs had done of it before they were ended is "
            "not in them. Hours for a million are an extrapolation by the rate that the machine had on this data"
            f"{f' ({run.machine})' if run else ''}, start-up included, which small runs make too large. Not known "
            "where the time does not grow with the rows: the pair search grows faster, teacher and evaluation with "
            "settings."
        ),
    )


def _for_a_million(stages: Stages) -> str:
    """What the stages that grow with the images take together, by image of the source."""
    images = stages.done["images"].rows if "images" in stages.done else 0
    linear = [stages.done[name].seconds for name in _LINEAR if name in stages.done]
    if not images:
        return ""
    hours = sum(linear) / images * _MILLION / 3600
    return (
        f" For a million images of the source: {hours:,.2f} h of the stages whose time grows with them; what the pair "
        "search and the training take is not in that."
    )


def _row(result: StageResult) -> tuple[object, ...]:
    amount, unit = _amount(result)
    seconds = number(result.seconds, ",.1f")
    if not amount or result.seconds < _LEAST_SECONDS:
        return result.name, seconds, amount, unit, None, _UNKNOWN
    rate = amount / result.seconds
    hours = _UNKNOWN if unit == _PAIRS else number(_MILLION / rate / 3600, ",.2f")
    return result.name, seconds, amount, unit, number(rate, ",.1f"), hours


_UNKNOWN = Number("not known")
_PAIRS = "pairs of images compared"


def _amount(result: StageResult) -> tuple[int | None, str]:
    """How much a stage has done, in what; none where its time grows with something else."""
    if "samples_seen" in result.stats:
        return int(result.stats["samples_seen"]), "samples seen"
    if result.name == "near_duplicates" and "pairs" in result.stats:
        return int(result.stats["pairs"]), _PAIRS
    unit = _LINEAR.get(result.name)
    return (result.rows, unit) if unit else (None, "")
