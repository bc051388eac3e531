"""A trained model of a root, copied with its final card."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import ModelCard

from pipeline.core import schema
from pipeline.core.errors import ConfigError, MissingInputError
from pipeline.storage.stage import Stage
from training.config import EvaluationConfig
from training.evaluation.stage import evaluate_models
from training.export.to_hub import export_model, hub_id

CARD = "---\nlibrary_name: open_clip\n---\n# student\n\n## Measured at the last step\n\n| loss | 1 |\n"


def train(root: Path, name: str, *, weights: str = "w", **stats: str) -> None:
    """The stage of a model as a training leaves it."""

    def write(output: Any) -> None:
        output.path(f"{name}/README.md").write_text(CARD)
        output.path(f"{name}/open_clip_model.safetensors").write_text(weights)
        output.path(f"{name}/tokenizer/vocab.json").write_text("{}")
        output.stats = stats

    Stage(root, name, version=1, config=[weights, stats], inputs={name: 0}).each(write)


def measure(root: Path, monkeypatch: pytest.MonkeyPatch, value: float = 0.5) -> None:
    """The stage ``evaluation``, whose models are not asked."""

    def evaluate(models: dict[str, Path], *_: object, **__: object) -> pa.Table:
        rows = [(name, "zero_shot", "birds", "top1", value, 10) for name in models]
        return pa.Table.from_pylist([dict(zip(schema.EVALUATION.names, row)) for row in rows], schema.EVALUATION)

    monkeypatch.setattr("training.evaluation.run.evaluate", evaluate)
    evaluate_models(root, EvaluationConfig(), datasets=[], baseline=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    teacher = {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    Stage(made, "teacher", version=1, config={}, inputs={"teacher": 0}).each(
        lambda out: out.path("teacher/teacher.json").write_text(json.dumps(teacher)) and out.stats.update(teacher)
    )
    train(made, "student", initial="teacher", model="demo")
    train(made, "baseline", initial="scratch", model="demo")
    return made


def test_the_model_and_its_results(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(root, monkeypatch)
    exported = export_model(root, "student", tmp_path / "out", license="mit", datasets=["me/pairs"])
    assert (exported.results, exported.hints) == (1, [])
    assert exported.base_model == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"README.md", "open_clip_model.safetensors", "tokenizer/vocab.json"}
    card = ModelCard((tmp_path / "out" / "README.md").read_text())
    assert (card.data.base_model, card.data.model_name) == (exported.base_model, "out")
    assert card.data.eval_results[0].metric_value == 0.5
    assert "| task | dataset | metric | student | teacher | baseline | samples |" in card.text
    assert (root / "student" / "README.md").read_text() == CARD, "the stage's files stay as they are"
    baseline = export_model(root, "baseline", tmp_path / "other")
    assert baseline.base_model is None and baseline.hints == ["the card gives no license, which --license does"]


def test_results_of_other_weights_are_left_out(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "it was not evaluated yet" in export_model(root, "student", tmp_path / "a").hints
    measure(root, monkeypatch)
    train(root, "baseline", weights="other")
    exported = export_model(root, "student", tmp_path / "b")
    assert exported.results == 1
    assert "| student | teacher | samples |" in (tmp_path / "b" / "README.md").read_text(), (
        "the baseline is another now"
    )
    train(root, "student", weights="other")
    exported = export_model(root, "student", tmp_path / "c")
    assert exported.results == 0 and "the evaluation is not of this student: run it again" in exported.hints
    assert "model-index" not in (tmp_path / "c" / "README.md").read_text()


def test_what_is_not_there_or_wrong(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="stage 'student' is not complete"):
        export_model(tmp_path / "empty", "student", tmp_path / "out")
    with pytest.raises(ConfigError, match="license"):
        export_model(root, "student", tmp_path / "out", license="MIT License")
    with pytest.raises(ConfigError, match="dataset 'pairs' is no name on the Hub"):
        export_model(root, "student", tmp_path / "out", datasets=["pairs"])


def test_names_of_weights_on_the_hub() -> None:
    assert hub_id("hf-hub:me/model", None) == "me/model" == hub_id("hf-hub:me/model@abc", "x")
    assert hub_id("ViT-B-32", "laion2b_s34b_b79k") == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert hub_id("ViT-B-32", "no such tag") is None
    assert hub_id("demo", None) is None and hub_id("ViT-B-32", "/some/file.pt") is None
