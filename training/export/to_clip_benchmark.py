"""The table ``evaluation`` as LAION's CLIP_benchmark writes its results: a JSON file per data set, model and task.

Keys and file names are those of its command ``clip_benchmark eval``; ``clip_benchmark build`` makes one CSV of them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

from pipeline.core import parquet
from pipeline.core.errors import MissingInputError
from pipeline.hub.card import short_name
from pipeline.storage.result import StageResult, read_result
from training.evaluation.datacomp import BY_FOLDER
from training.evaluation.datasets import CLEAN

_TASKS: Final = {
    "zero_shot": "zeroshot_classification",
    "linear_probe": "linear_probe",
    "retrieval": "zeroshot_retrieval",
}
_METRICS: Final = {"top1": "acc1", "top5": "acc5"}
# Its names say what is found, ours what is asked with.
_RETRIEVAL: Final = {"text_to_image_recall": "image_retrieval_recall", "image_to_text_recall": "text_retrieval_recall"}
# All training images, and features of unit length, as our probe has them. `weight_decay`, `epochs` and `seed` of its
# AdamW are left out: ours is a logistic regression.
_PROBE: Final = {"fewshot_k": -1, "normalized": True}
_DIGITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedEvaluation:
    """How many files were written, and which models of the table are not what the root holds now."""

    files: int
    models: list[str]
    outdated: list[str]


def export_evaluation(root: Path, folder: Path, *, language: str = "en") -> ExportedEvaluation:
    """Write ``<dataset>_<pretrained>_<model>_<language>_<task>.json`` into ``folder`` for each of the root's results.

    ``model`` and ``pretrained`` of the teacher are what open_clip calls it; of a trained model the former is its
    architecture, the latter its name in the root and the beginning of its digest, so that files of several roots can be
    read together. ``dataset`` is the name of the set, or what CLIP_benchmark calls it if it is one of DataComp's.
    ``language`` is that of class names and prompts, which the table does not know. Models that were made anew since
    they were measured are left out.

    Raises :class:`MissingInputError` if nothing was measured, or no model is as it was.
    """
    result = read_result(root, "evaluation")
    names, outdated = {}, []
    for model, digest in result.stats.get("models", {}).items():
        found = _result(root, model)
        if found is not None and found.digest == digest:
            names[model] = _names(found)
        else:
            outdated.append(model)
    measured: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in parquet.read_table(result.verified("evaluation")[0]).to_pylist():
        if row["model"] in names:
            metrics = measured.setdefault((row["dataset"], row["model"], row["task"]), {})
            metrics[_metric(row["task"], row["metric"])] = row["value"]
    if not measured:
        raise MissingInputError(f"the evaluation under {root} is of no model that is there now: run it again")
    for (dataset, model, task), metrics in measured.items():
        line = {
            "dataset": _dataset(dataset),
            **names[model],
            "task": _TASKS[task],
            "metrics": metrics | (_PROBE if task == "linear_probe" else {}),
            "language": language,
        }
        parts = [dataset, names[model]["pretrained"], names[model]["model"], language, _TASKS[task]]
        (folder / f"{'_'.join(parts).replace('/', '_')}.json").write_text(json.dumps(line))
    return ExportedEvaluation(files=len(measured), models=list(names), outdated=outdated)


def _result(root: Path, model: str) -> StageResult | None:
    try:
        return read_result(root, model)
    except MissingInputError:
        return None


def _names(result: StageResult) -> dict[str, str]:
    """``model`` and ``pretrained`` of a model of the root."""
    made_here = f"{result.name}-{result.digest[:_DIGITS]}"
    if result.name == "teacher":
        tag = result.stats.get("pretrained")
        return {"model": short_name(result.stats["name"]), "pretrained": short_name(tag) if tag else made_here}
    return {"model": short_name(result.stats.get("model", result.name)), "pretrained": made_here}


def _metric(task: str, metric: str) -> str:
    if task == "retrieval":
        name, at, rank = metric.partition("@")
        return _RETRIEVAL[name] + at + rank
    name = _METRICS.get(metric, metric)
    return f"lp_{name}" if task == "linear_probe" else name


def _dataset(name: str) -> str:
    """``wds_vtab-pets_test`` is ``wds/vtab/pets`` there."""
    whole = name.removesuffix(CLEAN)
    known = BY_FOLDER.get(whole)
    return f"wds/{known.name}{name.removeprefix(whole)}" if known else name
