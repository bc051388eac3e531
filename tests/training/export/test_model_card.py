"""The model card, as training leaves it and as it goes to others."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from training.config import StudentConfig
from training.export.model_card import final_card, model_card
from training.job.training_job import TrainingJob

STEPS = [{"step": 12, "loss": 1.25, "contrastive": 0.5, "cluster_label": 0.75, "learning_rate": 1e-3}]
ROWS: list[dict[str, Any]] = [
    {"model": model, "task": task, "dataset": "birds | [x](y)", "metric": metric, "value": value, "samples": 1000}
    for model, factor in (("teacher", 1.0), ("student", 0.5))
    for task, metric, value in (
        ("zero_shot", "top1", 0.5 * factor),
        ("zero_shot", "top5", 0.8 * factor),
        ("retrieval", "image_to_text_recall@1", 0.25 * factor),
    )
]


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    student = StudentConfig(model=str(tmp_path / "small.json"), batch_size=16, steps=12)
    return TrainingJob(name="student", student=student, shards=tmp_path, output=tmp_path / "run")


def trained(job: TrainingJob) -> str:
    student = job.student.model_copy(update={"hostfile": "/cluster/hosts", "master_address": "10.0.0.7"})
    job = job.model_copy(update={"inputs": "abc123", "student": student})
    return model_card(job, samples=96, rows=STEPS, resumed_from=4)


def final(text: str, **changes: Any) -> str:
    given: dict[str, Any] = {"title": "mine", "model": "student", "rows": ROWS, "license": "mit"}
    given |= {"base_model": "laion/CLIP", "datasets": ["me/pairs"]}
    return final_card(text, **{**given, **changes})


def test_a_card_says_what_and_how(job: TrainingJob) -> None:
    card = trained(job)
    assert "trained with `contrastive`, `cluster_label`." in card
    assert "| samples seen | 192 (2.0 epochs) |" in card and "`abc123`" in card
    assert "| loss | 1.25 |" in card and "| resumed from step | 4 |" in card
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("open_clip", "zero-shot-image-classification")
    assert data.license is None and data.eval_results is None and "none is claimed here" in card


def test_no_path_and_no_machine_is_on_it(job: TrainingJob) -> None:
    card = trained(job)
    path = job.student.model
    assert path not in card and f'"model": "{path.rpartition("/")[2]}"' in card
    assert "hosts" not in card and "10.0.0.7" not in card and '"learnable_temperature"' in card


def test_the_final_card_has_what_was_measured(job: TrainingJob) -> None:
    card = final(trained(job))
    read = ModelCard(card)
    assert isinstance(read.data, ModelCardData)
    assert (read.data.license, read.data.base_model, read.data.datasets) == ("mit", "laion/CLIP", ["me/pairs"])
    assert read.data.model_name == "mine" and read.data.tags == ["clip", "distillation", "clip-cid"]
    found = {(one.task_type, one.metric_type): one for one in read.data.eval_results}
    assert {key: one.metric_value for key, one in found.items()} == {
        ("zero-shot-image-classification", "accuracy"): 0.25,
        ("zero-shot-image-classification", "top_5_accuracy"): 0.4,
        ("image-text-retrieval", "image_to_text_recall-1"): 0.125,
    }
    one = found["zero-shot-image-classification", "accuracy"]
    assert isinstance(one, EvalResult)
    assert (one.dataset_name, one.dataset_type, one.metric_name) == ("birds | [x](y)", "birds-x-y", "Accuracy")
    assert str(read) == card, "what is read and written again is the same"
    name = "birds &#124; &#91;x&#93;&#40;y&#41;"
    assert f"| zero&#95;shot | {name} | top1 | 0.2500 | 0.5000 | 1,000 |" in card
    assert "none is claimed here" not in card
    sections = [line for line in card.splitlines() if line.startswith("## ")]
    assert sections == ["## Data", "## Evaluation", "## Measured at the last step", "## Settings"]


def test_without_results_the_card_claims_none(job: TrainingJob) -> None:
    card = final(trained(job), rows=[], license=None, base_model=None, datasets=[])
    assert "none is claimed here" in card and "model-index" not in card
    assert set(ModelCard(card).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert "model-index" not in final(trained(job), model="baseline")


def test_a_card_that_somebody_wrote_is_added_to() -> None:
    card = final("---\nlanguage: en\n---\n# Mine\n\nText.\n")
    assert card.index("Text.") < card.index("## Evaluation") and "language: en" in card
    assert len(ModelCard(card).data.eval_results) == 3
