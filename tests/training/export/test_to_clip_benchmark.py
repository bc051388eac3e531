"""The evaluation in CLIP_benchmark's words, read as its ``build`` reads it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clip_cid.app import app
from pipeline.core import parquet, schema
from pipeline.core.errors import MissingInputError
from pipeline.storage.stage import Output, Stage
from training.export import export_evaluation

RECALL = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
ACCURACY = ["top1", "top5", "mean_per_class_recall"]
METRICS = {"zero_shot": ACCURACY, "linear_probe": ACCURACY, "retrieval": RECALL}
SETS = ("birds", "birds (clean)", "wds_vtab-pets_test")


def _model(root: Path, name: str, weights: str, /, **stats: str) -> str:
    def write(output: Output) -> None:
        output.path(f"{name}/open_clip_model.safetensors").write_text(weights)
        output.stats = stats

    return Stage(root, name, version=1, config=[weights, stats], inputs={name: 0}).each(write).digest


def _value(place: int, row: tuple[str, ...]) -> float:
    return 1 / (2 + place + len("".join(row)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    digests = {
        "teacher": _model(made, "teacher", "t", name="ViT-bigG-14", pretrained="laion2b_s39b_b160k"),
        "student": _model(made, "student", "s", model="models/small.json", initial="scratch"),
        "baseline": _model(made, "baseline", "b", initial="scratch"),
    }
    keys = [
        (model, task, name, metric)
        for model in digests
        for name in SETS
        for task in METRICS
        for metric in METRICS[task]
    ]
    rows = [(*key, _value(place, key), 10) for place, key in enumerate(keys)]

    def write(output: Output) -> None:
        table = schema.EVALUATION.empty_table().from_pylist(
            [dict(zip(schema.EVALUATION.names, row)) for row in rows], schema.EVALUATION
        )
        parquet.write_table(table, output.path("evaluation/evaluation.parquet"))
        output.rows, output.stats = len(rows), {"models": digests}

    Stage(made, "evaluation", version=2, config={}, inputs={"evaluation": 0}).each(write)
    return made


def _built(folder: Path) -> list[dict[str, Any]]:
    """What CLIP_benchmark's ``build`` makes of a folder: a line of its CSV for each file."""
    rows = []
    for path in sorted(folder.iterdir()):
        data = json.loads(path.read_text())
        row = {**data["metrics"], **data}
        del row["metrics"]
        rows.append({**row, "model_fullname": row["model"] + " " + row["pretrained"]})
    return rows


def test_each_result_is_a_file_with_the_keys_and_names_of_clip_benchmark(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    exported = export_evaluation(root, folder)
    assert (exported.files, exported.outdated) == (27, []) and len(list(folder.iterdir())) == 27
    line = json.loads((folder / "birds_laion2b_s39b_b160k_ViT-bigG-14_en_zeroshot_classification.json").read_text())
    assert list(line) == ["dataset", "model", "pretrained", "task", "metrics", "language"]
    assert list(line["metrics"]) == ["acc1", "acc5", "mean_per_class_recall"]
    rows = _built(folder)
    assert {row["task"] for row in rows} == {"zeroshot_classification", "linear_probe", "zeroshot_retrieval"}
    assert {row["dataset"] for row in rows} == {"birds", "birds (clean)", "wds/vtab/pets"}
    assert {row["language"] for row in rows} == {"en"}
    named = {row["model_fullname"] for row in rows}
    assert {re.sub("[0-9a-f]{8}$", "<digest>", name) for name in named} == {
        "ViT-bigG-14 laion2b_s39b_b160k",
        "small.json student-<digest>",
        "baseline baseline-<digest>",
    }


def test_no_figure_changes_its_place(root: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    export_evaluation(root, tmp_path / "results")
    stored = parquet.read_table(root / "evaluation" / "evaluation.parquet").to_pylist()
    wanted = {(r["model"], r["task"], r["dataset"], r["metric"]): r["value"] for r in stored}
    found = {
        (row["pretrained"].partition("-")[0], row["task"], row["dataset"], name): value
        for row in _built(tmp_path / "results")
        for name, value in row.items()
        if isinstance(value, float)
    }
    assert len(found) == len(wanted) == 3 * 3 * 12
    for model, own in (("student", "student"), ("laion2b_s39b_b160k", "teacher")):
        assert found[model, "zeroshot_classification", "birds", "acc5"] == wanted[own, "zero_shot", "birds", "top5"]
        assert (
            found[model, "linear_probe", "wds/vtab/pets", "lp_mean_per_class_recall"]
            == (wanted[own, "linear_probe", "wds_vtab-pets_test", "mean_per_class_recall"])
        )
        # A text retrieves images there, from text to image here.
        assert (
            found[model, "zeroshot_retrieval", "birds (clean)", "image_retrieval_recall@5"]
            == (wanted[own, "retrieval", "birds (clean)", "text_to_image_recall@5"])
        )
        assert (
            found[model, "zeroshot_retrieval", "birds", "text_retrieval_recall@10"]
            == (wanted[own, "retrieval", "birds", "image_to_text_recall@10"])
        )


def test_the_command_names_what_was_made_anew_since(root: Path, tmp_path: Path) -> None:
    def call(*options: str) -> str:
        result = CliRunner().invoke(app, ["export", "evaluation", str(root), str(tmp_path / "out"), *options])
        assert result.exit_code == (0 if "results of" in result.output else 1), result.output
        return result.output

    assert "27 results of teacher, student, baseline\n" in call("--language", "de")
    assert all("_de_" in path.name for path in (tmp_path / "out").iterdir())
    _model(root, "student", "other", model="small", initial="scratch")
    assert "18 results of teacher, baseline; student: made anew since" in call("--overwrite")
    for name in ("teacher", "baseline"):
        _model(root, name, "other", name="x", model="x")
    assert "is of no model that is there now: run it again" in call("--overwrite")
    with pytest.raises(MissingInputError, match="'evaluation' is not complete"):
        export_evaluation(tmp_path / "nothing", tmp_path)
