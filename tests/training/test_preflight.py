"""What would end a training run is said without training, and all of it at once."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.tars import write_tar
from pipeline.storage.stage import Stage
from training.config import AblationConfig, StudentConfig
from training.preflight import check_student


def _refusal(values: dict[str, Any], *, here: bool = True, **options: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        check_student(StudentConfig.model_validate(values), here=here, **options)
    return str(refused.value)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_the_demos_student_is_fine() -> None:
    for here in (True, False):
        check_student(StudentConfig(), here=here, baseline=True, ablation=AblationConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "ViT-Q-32"}, "student model 'ViT-Q-32': expected `demo`, a JSON file or an open_clip model name"),
        ({"model": "missing.json"}, "missing.json is not a readable JSON model config"),
        ({"initial": "missing.pt"}, "student.initial 'missing.pt': no checkpoint file 'missing.pt'"),
        ({"initial": "runs/last"}, "no checkpoint file 'runs/last'"),
        ({"model": "ViT-B-32", "initial": "laion3b"}, "nor a pretrained tag of 'ViT-B-32', which has: openai"),
        ({"hostfile": "hosts"}, "student.hostfile hosts cannot be read"),
        ({"batch_size": 255}, "255 is not a multiple of ranks x micro_batches, 2 x 1"),
        ({"model": "ViT-B-32", "precision": "fp16"}, "fp16 needs a GPU"),
        ({"precision": "fp16"}, "'demo' has BatchNorm"),
        ({"weights": "cluster_error"}, "cluster_error needs student.weights_file"),
        ({"weights": "cluster_error", "weights_file": "a.parquet"}, "student.weights_file a.parquet: no such file"),
    ],
)
def test_what_could_not_be_trained_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in _refusal(values)


def test_another_machine_may_have_other_gpus() -> None:
    check_student(StudentConfig(batch_size=255), here=False)
    check_student(StudentConfig(model="ViT-B-32", precision="fp16"), here=False)
    assert "2 x 1" in _refusal({"batch_size": 255, "ranks": 2}, here=False)


def test_ranks_may_be_those_of_a_hostfile(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("alpha slots=3\nbeta slots=3\n")
    values = {"hostfile": str(tmp_path / "hosts"), "batch_size": 256}
    assert "6 x 1" in _refusal(values)
    check_student(StudentConfig.model_validate({**values, "batch_size": 252}), here=True)


def test_every_line_is_said_at_once(tmp_path: Path) -> None:
    text = {"width": 8, "vocab_size": 1000}
    (tmp_path / "small.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": {"layers": 1}, "text_cfg": text}))
    values = {"model": str(tmp_path / "small.json"), "initial": "missing.pt", "average_decay": 0.9, "zero_stage": 3}
    lines = _refusal(values).splitlines()
    assert len(lines) == 3
    assert "the tower knows 1000" in lines[0] and "missing.pt" in lines[1] and "average_decay" in lines[2]


def test_positives_and_the_teachers_temperature_are_known_before(tmp_path: Path) -> None:
    losses = {"cluster": {"positives": 16, "label_weight": 1}}
    check_student(StudentConfig.model_validate({"losses": losses}), here=True, clusters=17)
    assert "has to be less than the number of clusters, 16" in _refusal({"losses": losses}, clusters=16)
    labels = AblationConfig(losses=["label_8"])
    assert "positives 8 has to be less" in _refusal({}, ablation=labels, clusters=8)
    best = {"losses": {"preset": "best"}}
    check_student(StudentConfig.model_validate(best), here=True, root=tmp_path)
    # As embeddings that were made elsewhere.
    Stage(tmp_path, "teacher_embeddings", version=3, config={}, inputs={"0": None}).each(lambda output: None)
    check_student(StudentConfig(), here=True, root=tmp_path)
    line = "set student.losses.relation.teacher_temperature"
    assert line in _refusal(best, root=tmp_path)
    assert line in _refusal({}, root=tmp_path, ablation=AblationConfig(losses=["relation"]))
    best["losses"]["relation"] = {"teacher_temperature": 0.01}
    check_student(StudentConfig.model_validate(best), here=True, root=tmp_path)


def test_baseline_and_ablation_need_their_terms() -> None:
    values = {"losses": {"contrastive": {"weight": 0}}}
    check_student(StudentConfig.model_validate(values), here=True)
    assert "baseline.enabled trains with the contrastive term alone" in _refusal(values, baseline=True)
    assert "ablation contrastive: " in _refusal(values, ablation=AblationConfig())
    values = {"losses": {"cluster": {"weight": 0}}}
    assert "student.losses.cluster.weight above 0" in _refusal(values, ablation=AblationConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_best": "zero_shot/demo/top1"}, "student.keep_best 'zero_shot/demo/top1' needs evaluations"),
        (
            {"evaluate_every": 5, "keep_best": "zero_shot/demo/top3"},
            "'zero_shot/demo/top3' is not measured; what is: zero_shot/demo/top1, zero_shot/demo/top5",
        ),
        ({"evaluate_every": 5, "keep_best": "held_out/loss"}, "student.keep_best 'held_out/loss' is not measured"),
        ({"evaluate": {"held_out_samples": 300}}, "held_out_samples 300 is not a multiple of student.batch_size 256"),
        ({"evaluate_every": 5, "evaluate": {"datasets": []}}, "neither datasets nor held_out_samples"),
    ],
)
def test_measures_that_there_would_not_be(values: dict, message: str) -> None:
    (line,) = _refusal(values, datasets=["demo"]).split("\n")
    assert message in line


def test_sets_that_could_not_be_measured_on(tmp_path: Path) -> None:
    """A missing folder, and classes that no name is given for; each in a line."""
    values = {"evaluate_every": 5}
    assert f"student.evaluate.datasets: evaluation set {tmp_path / 'no'}: no such folder" in _refusal(
        values, datasets=[str(tmp_path / "no")]
    )
    folder = tmp_path / "letters"
    (folder / "test").mkdir(parents=True)
    write_tar(folder / "test" / "0.tar", [{"__key__": "0", "png": b"0", "cls": b"2"}])
    (folder / "zeroshot_classification_templates.txt").write_text("{c}\n")
    refusal = _refusal(values, datasets=[str(folder)])
    assert "nothing can be measured on it: zero_shot needs classnames.txt" in refusal
    (folder / "classnames.txt").write_text("a\nb\n")
    assert "key 0: class id 2, expected one below 2" in _refusal(values, datasets=[str(folder)])
    (folder / "classnames.txt").write_text("a\nb\nc\n")
    check_student(
        StudentConfig(evaluate_every=5, keep_best="zero_shot/letters/top1"), here=False, datasets=[str(folder)]
    )
    # A folder of sets stands for them, here as in the evaluation; ranks would refuse two of one name.
    best = StudentConfig(evaluate_every=5, keep_best="zero_shot/letters/top1")
    check_student(best, here=False, datasets=[str(tmp_path)])
    assert "two sets are called 'letters'" in _refusal(values, datasets=[str(folder), str(tmp_path)])


def test_weights_of_other_clusters_and_of_the_root_itself(tmp_path: Path) -> None:
    file = tmp_path / "cluster_accuracy" / "cluster_accuracy.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"cluster_id": [0, 1], "weight": [1.0, 2.0]}), file)
    values = {"weights": "cluster_error", "weights_file": str(file)}
    assert "would write it anew; copy it elsewhere" in _refusal(values, root=tmp_path, clusters=2)
    assert "1 of 3 clusters have no weight" in _refusal(values, clusters=3)


def test_the_baseline_measures_the_contrastive_term_alone() -> None:
    values = {"evaluate_every": 5, "evaluate": {"held_out_samples": 256}, "keep_best": "held_out/cluster_divergence"}
    check_student(StudentConfig.model_validate(values), here=False)
    (line,) = _refusal(values, baseline=True).split("\n")
    assert line.startswith("baseline.enabled: student.keep_best 'held_out/cluster_divergence' is not measured")
    assert line.endswith("what is: held_out/loss, held_out/contrastive")
