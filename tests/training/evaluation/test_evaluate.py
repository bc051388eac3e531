"""The whole evaluation, through open_clip folders on disk, and the requests it refuses."""

import logging

import pytest

from pipeline.core import schema
from pipeline.core.errors import ConfigError, ShardError
from training.evaluation import run
from training.evaluation.run import TASKS, evaluate


@pytest.fixture
def known_clip(monkeypatch, color_clip, clip_folder):
    """The folder of a real model, answered for by one whose answers are known."""
    monkeypatch.setattr(run, "load_clip", lambda folder, *, device: color_clip)
    return clip_folder


def _values(table, model="m"):
    rows = [row for row in table.to_pylist() if row["model"] == model]
    return {(row["dataset"], row["task"], row["metric"]): row["value"] for row in rows}


def test_real_models_fill_the_table(clip_folder, make_set, samples):
    folder = make_set("colors", test=[samples(3)], train=[samples(4)])
    table = evaluate({"a": clip_folder, "b": clip_folder}, [folder], TASKS, batch_size=4, device="cpu")
    assert table.schema == schema.EVALUATION
    assert table.num_rows == 2 * (3 + 3 + 6)
    assert set(table["samples"].to_pylist()) == {9}
    assert all(0 <= value <= 1 for value in table["value"].to_pylist())
    assert _values(table, "a") == _values(table, "b")
    # Three plain colors are three points in any feature space.
    assert _values(table, "a")["colors", "linear_probe", "top1"] == 1


def test_known_answers(known_clip, make_set, one_sample):
    shard = [
        one_sample("a", "red", label="0", caption="a red one\nsomething red"),
        one_sample("b", "green", label="1", caption="green"),
        one_sample("c", "blue", label="2", caption="blue"),
        one_sample("d", "blue", label="0", caption="wrongly red"),
    ]
    values = _values(evaluate({"m": known_clip}, [make_set("colors", test=[shard])], ["zero_shot", "retrieval"]))
    assert values["colors", "zero_shot", "top1"] == 0.75
    assert values["colors", "zero_shot", "top5"] == 1
    assert values["colors", "zero_shot", "mean_per_class_recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    # b and c are hits. a's captions tie with d's, which the model cannot tell from them; d's own is far from its image.
    assert values["colors", "retrieval", "image_to_text_recall@1"] == 0.5
    assert values["colors", "retrieval", "image_to_text_recall@5"] == 1


def test_clean_rows_are_those_of_a_set_without_what_leaked(known_clip, make_set, samples, one_sample):
    wrong = [
        one_sample("wrong", "red", label="2", caption="a blue square"),
        one_sample("alike", "green", label="1", caption="a red square\nsomething blue"),
    ]
    train = [samples(4)]
    whole = make_set("colors", test=[[*samples(2), *wrong], samples(1)], train=train)
    leaked = {"colors": {"test/0.tar/wrong", "test/0.tar/alike", "test/1.tar/00"}, "other": {"test/0.tar/10"}}
    table = evaluate({"m": known_clip}, [whole], TASKS, leaked=leaked)
    found = {
        name: [row for row in table.to_pylist() if row["dataset"] == name] for name in ("colors", "colors (clean)")
    }
    assert sum(map(len, found.values())) == table.num_rows == 24 and table.schema == schema.EVALUATION
    assert found["colors"] == evaluate({"m": known_clip}, [whole], TASKS).to_pylist()
    rest = make_set("rest", test=[samples(2), samples(1)[1:]], train=train)
    without = evaluate({"m": known_clip}, [rest], TASKS).to_pylist()
    assert found["colors (clean)"] == [{**row, "dataset": "colors (clean)"} for row in without]
    assert {row["value"] for row in found["colors (clean)"]} == {1.0} and found["colors"][0]["value"] < 1
    assert {row["samples"] for row in found["colors (clean)"]} == {8}


@pytest.mark.parametrize("leaked", [None, {}, {"colors": set()}, {"other": {"test/0.tar/00"}}])
def test_without_a_leak_there_are_no_clean_rows(known_clip, make_set, samples, leaked):
    table = evaluate({"m": known_clip}, [make_set("colors", test=[samples(1)])], ["zero_shot"], leaked=leaked)
    assert set(table["dataset"].to_pylist()) == {"colors"}


def test_a_set_that_leaked_as_a_whole_has_no_clean_rows(known_clip, make_set, samples, caplog):
    leaked = {"colors": {f"test/0.tar/{label}0" for label in range(3)}}
    table = evaluate({"m": known_clip}, [make_set("colors", test=[samples(1)])], ["retrieval"], leaked=leaked)
    assert set(table["dataset"].to_pylist()) == {"colors"} and "colors: all 3 test samples are near" in caplog.text


def test_each_split_is_embedded_once_a_model(monkeypatch, known_clip, make_set, samples):
    calls = []
    real = run.image_features
    monkeypatch.setattr(
        run, "image_features", lambda clip, split, **kw: calls.append(split.name) or real(clip, split, **kw)
    )
    leaked = {"colors": {"test/0.tar/00"}}
    evaluate({"m": known_clip}, [make_set("colors", test=[samples(2)], train=[samples(3)])], TASKS, leaked=leaked)
    assert sorted(calls) == ["colors/test", "colors/train"]


def test_tasks_run_where_the_data_set_has_what_they_need(known_clip, make_set, samples, one_sample, caplog):
    caplog.set_level(logging.INFO)
    captioned = make_set("captioned", test=[[one_sample("a", "red", caption="red")]], classnames=[], templates=[])
    labeled = make_set("labeled", test=[samples(1)], train=[samples(2)])
    table = evaluate({"m": known_clip}, [captioned, labeled], TASKS)
    found = {(row["dataset"], row["task"]) for row in table.to_pylist()}
    assert found == {("captioned", "retrieval"), *(("labeled", task) for task in TASKS)}
    assert "zero_shot needs classnames.txt, which captioned lacks" in caplog.text


def test_classes_without_names_can_be_probed(known_clip, make_set, samples):
    folder = make_set("colors", test=[samples(1)], train=[samples(3)], classnames=[], templates=[])
    assert _values(evaluate({"m": known_clip}, [folder], ["linear_probe"]))["colors", "linear_probe", "top1"] == 1


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"classnames": []}, "zero_shot needs classnames.txt"),
        ({"templates": []}, "zero_shot needs zeroshot_classification_templates.txt"),
        ({"train": []}, "linear_probe needs a folder train/"),
        ({"caption": None}, "retrieval needs a txt member"),
        ({"label": None}, "zero_shot needs a cls member"),
    ],
)
def test_a_task_that_no_data_set_serves_is_refused(known_clip, make_set, one_sample, changes, said):
    members = {"label": "0", "caption": "red"} | changes
    shard = [one_sample("a", "red", label=members.pop("label"), caption=members.pop("caption"))]
    folder = make_set("colors", **{"test": [shard], "train": [shard], **members})
    with pytest.raises(ConfigError, match=said):
        evaluate({"m": known_clip}, [folder], [said.split()[0]])


def test_requests_that_make_no_sense(known_clip, make_set, samples, tmp_path):
    folder = make_set("colors", test=[samples(1)])
    with pytest.raises(ConfigError, match="no model"):
        evaluate({}, [folder], TASKS)
    with pytest.raises(ConfigError, match=r"'student' has no open_clip_config\.json"):
        evaluate({"student": tmp_path}, [folder], TASKS)
    with pytest.raises(ConfigError, match="zero-shot"):
        evaluate({"m": known_clip}, [folder], ["zero-shot"])
    with pytest.raises(ConfigError, match="different names"):
        evaluate({"m": known_clip}, [folder, folder], ["zero_shot"])
    with pytest.raises(ConfigError, match="no such folder"):
        evaluate({"m": known_clip}, [tmp_path / "nowhere"], ["zero_shot"])


def test_a_damaged_set_is_found_before_a_model_is_loaded(monkeypatch, clip_folder, make_set, samples):
    folder = make_set("colors", test=[samples(1), samples(1)])
    (folder / "test" / "0.tar").unlink()
    monkeypatch.setattr(run, "load_clip", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ShardError, match=r"0\.tar is missing"):
        evaluate({"m": clip_folder}, [folder], ["zero_shot"])
