"""The model card of an export: what it was trained on, how, and what was measured while it was, and since."""

import json
import re
from collections.abc import Sequence
from typing import Any

from pipeline.hub.card import escaped, parse_card, rendered, short_name, table
from training.config import LossesConfig
from training.job.training_job import TrainingJob

CARD_FILE = "README.md"

_BODY = """# {name}

A small CLIP, trained with {terms}. It loads with plain open_clip:

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:path/to/this/folder")
tokenizer = open_clip.get_tokenizer("local-dir:path/to/this/folder")
```

`probe.safetensors` holds a few inputs and the embeddings that the trained module gave them.
"""
_NOT_MEASURED = "Accuracies are in the table `evaluation` beside the data it was trained on; none is claimed here."
_METRICS_HEADING = "\n## Measured at the last step\n"

_TASKS = {
    "zero_shot": "zero-shot-image-classification",
    "linear_probe": "image-classification",
    "retrieval": "image-text-retrieval",
}
_METRICS = {"top1": ("accuracy", "Accuracy"), "top5": ("top_5_accuracy", "Top 5 accuracy")}


def model_card(
    job: TrainingJob,
    *,
    samples: int,
    rows: list[dict[str, Any]],
    resumed_from: int,
    evaluated: dict[str, Any] | None = None,
) -> str:
    """The card as training leaves it. ``samples``: of the training set. ``rows``: of metrics; the last is quoted.

    ``evaluated``: what the exported step was measured by meanwhile, if it was.
    """
    from huggingface_hub import ModelCardData

    student, last = job.student, rows[-1]
    terms = [name for name in last if name.split("_")[0] in LossesConfig.model_fields]
    seen = student.steps * student.batch_size
    data = {
        "training samples": f"{samples:,}",
        "samples seen": f"{seen:,} ({seen / samples:.1f} epochs)",
        "digest of the training shards": f"`{job.inputs or 'not given'}`",
        "width of the teacher's embeddings": job.teacher_dim or "no teacher",
        "fingerprint of the run": f"`{job.fingerprint()}`",
        "resumed from step": resumed_from or "not resumed",
    }
    body = "\n".join(
        [
            _BODY.format(name=job.name, terms=", ".join(f"`{term}`" for term in terms)),
            "## Data\n",
            table(("", ""), data.items()),
            _METRICS_HEADING,
            table(("metric", "value"), [(name, f"{value:.6g}") for name, value in last.items()]),
            *_evaluated(job, evaluated),
            f"\n{_NOT_MEASURED}",
            "\n## Settings\n",
            f"```json\n{json.dumps(_settings(job), indent=1)}\n```\n",
        ]
    )
    return rendered(
        ModelCardData(
            library_name="open_clip",
            pipeline_tag="zero-shot-image-classification",
            tags=["clip", "distillation", "clip-cid"],
        ),
        body,
    )


def _evaluated(job: TrainingJob, row: dict[str, Any] | None) -> list[str]:
    """What was measured on small sets while it was trained."""
    if row is None:
        return []
    best = f", the best by `{job.student.keep_best}`" if job.student.keep_best else ""
    values = [(f"`{name}`", f"{value:.6g}") for name, value in row.items() if name != "step"]
    few = f"At most {job.student.evaluate.samples:,} samples of a set."
    return [f"\n## Weights of step {row['step']}{best}\n", table(("measure", "value"), values), f"\n{few}"]


def _settings(job: TrainingJob) -> dict[str, Any]:
    """Without the names of machines, and of paths, which are of one machine, their ends."""
    settings = job.student.model_dump(mode="json", exclude={"hostfile", "master_address", "weights_file"})
    datasets = settings["evaluate"]["datasets"]
    settings["evaluate"]["datasets"] = datasets and [short_name(name) for name in datasets]
    return settings | {name: short_name(settings[name]) for name in ("model", "initial")}


def final_card(
    text: str,
    *,
    title: str,
    model: str,
    rows: Sequence[dict[str, Any]],
    license: str | None,
    base_model: str | None,
    datasets: Sequence[str],
) -> str:
    """The card that training left, with what is known since.

    Args:
        text: that card.
        title: the name under which its results stand.
        model: which of the evaluated models it is of.
        rows: of the table ``evaluation``, also of other models, to compare with; none if it was not measured.
        license: an identifier of the Hub.
        base_model: the name on the Hub of what its first weights are from.
        datasets: names on the Hub of what it was trained on.

    Returns:
        A card whose YAML has a model index of the results.
    """
    data, body = parse_card(text, "model", where=CARD_FILE)
    data.license, data.base_model, data.datasets = license, base_model, list(datasets) or None
    own = [row for row in rows if row["model"] == model]
    if own:
        data.model_name, data.eval_results = title, [_result(row) for row in own]
        measured = f"## Evaluation\n\n{_comparison(own, rows)}\n"
        body = body.replace(f"\n{_NOT_MEASURED}\n", "")
        before, heading, after = body.partition(_METRICS_HEADING)
        body = f"{before}\n{measured}{heading}{after}" if heading else f"{body}\n{measured}"
    return rendered(data, body)


def _result(row: dict[str, Any]) -> Any:
    """A row of the evaluation as a model index has it."""
    from huggingface_hub import EvalResult

    kind, name = _METRICS.get(row["metric"], (_slug(row["metric"]), row["metric"].replace("_", " ")))
    return EvalResult(
        task_type=_TASKS.get(row["task"], _slug(row["task"])),
        dataset_type=_slug(row["dataset"]),
        dataset_name=row["dataset"],
        dataset_split="test",
        metric_type=kind,
        metric_name=name,
        metric_value=row["value"],
    )


def _slug(text: str) -> str:
    """A text as the Hub takes identifiers."""
    return re.sub(r"[^\w.-]+", "-", text.lower(), flags=re.ASCII).strip("-.") or "unnamed"


def _comparison(own: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """A table of its results, and of those of the other models beside them."""
    models = list(dict.fromkeys([own[0]["model"], *(row["model"] for row in rows)]))
    values = {(row["model"], row["task"], row["dataset"], row["metric"]): row["value"] for row in rows}
    lines = []
    for row in own:
        measured = [values.get((model, row["task"], row["dataset"], row["metric"])) for model in models]
        names = [escaped(row[name]) for name in ("task", "dataset", "metric")]
        lines.append([*names, *("" if one is None else f"{one:.4f}" for one in measured), f"{row['samples']:,}"])
    return table(["task", "dataset", "metric", *map(escaped, models), "samples"], lines)
