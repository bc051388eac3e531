"""A folder of evaluation sets as DataComp's script downloads them, with invented pictures."""

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from assets.page.pictures import _skipped_sets
from pipeline.core import schema
from pipeline.core.errors import ConfigError
from pipeline.storage.stage import Stage
from training.config import EvaluationConfig
from training.evaluation import evaluate_models, evaluation_sets, run
from training.evaluation.datacomp import BY_FOLDER, SETS
from training.evaluation.run import evaluate

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def downloaded(make_set, samples, tmp_path):
    """Test splits alone, two of them with a metric of ours, and the cache of another library beside them."""
    names = ("wds_vtab-pets_test", "wds_cifar10_test", "wds_wilds-fmow_test", "wds_fairface_test", "wds_mine_test")
    folder = tmp_path / "eval_datasets"
    for name in names:
        made = make_set(name, test=[samples(2), samples(1)])
        (made / "test" / "nshards.txt").write_text("2")
        shutil.move(made, folder / name)
    (folder / "hf_cache" / "nlphuji___winogavil").mkdir(parents=True)
    (folder / "wds_country211_test").mkdir()
    (folder / ".cache").mkdir()
    return folder


def test_the_tables_count() -> None:
    scored = [each for each in SETS if each.main_metric]
    assert len(SETS) == len(BY_FOLDER) == 40 and len(scored) == 38
    assert sum(each.metric is not None for each in scored) == 33
    assert all((each.metric is None) == (each.reason is not None) for each in SETS)
    assert BY_FOLDER["wds_vtab-pets_test"].main_metric == "mean_per_class_recall"
    assert BY_FOLDER["wds_wilds-camelyon17_test"].metric == "top1"
    assert BY_FOLDER["wds_geode_test"].key == "fairness/geode"


def test_a_folder_of_sets_stands_for_those_with_a_metric_of_ours(downloaded: Path) -> None:
    sets, skipped = evaluation_sets([downloaded])
    assert [path.name for path in sets] == ["wds_cifar10_test", "wds_mine_test", "wds_vtab-pets_test"]
    assert skipped["wds_wilds-fmow_test"].startswith("its main metric is acc_worst_region, and which groups")
    assert skipped["wds_fairface_test"].startswith("it has no main metric, and its class names answer several")
    assert skipped["wds_country211_test"] == "no folder test/ in it" and "WinoGAViL" in skipped["hf_cache"]
    assert len(skipped) == 4
    # Images of all of them are test images.
    every, left = evaluation_sets([downloaded], measured=False)
    assert len(every) == 5 and set(left) == {"hf_cache", "wds_country211_test"}


def test_a_set_is_itself(downloaded: Path, make_set, samples, tmp_path) -> None:
    plain = make_set("colors", test=[samples(1)])
    asked = [plain, downloaded / "wds_wilds-fmow_test", tmp_path / "nowhere", downloaded / "hf_cache"]
    assert evaluation_sets(asked) == (asked, {})
    with pytest.raises(ConfigError, match=r"wds_fairface_test: its class names answer several questions"):
        evaluation_sets([downloaded / "wds_fairface_test"])


def test_all_sets_of_the_folder_are_measured_without_train_splits(
    monkeypatch, color_clip, clip_folder, downloaded, caplog
):
    monkeypatch.setattr(run, "load_clip", lambda folder, *, device: color_clip)
    caplog.set_level("INFO")
    rows = evaluate({"m": clip_folder}, [downloaded], ["zero_shot"]).to_pylist()
    assert {row["dataset"] for row in rows} == {"wds_cifar10_test", "wds_mine_test", "wds_vtab-pets_test"}
    assert {row["metric"] for row in rows} == {"top1", "top5", "mean_per_class_recall"}
    assert {(row["value"], row["samples"]) for row in rows} == {(1.0, 9)}
    assert "skipped: wds_wilds-fmow_test: its main metric is acc_worst_region" in caplog.text


def test_the_stage_counts_and_shows_what_it_passed_over(monkeypatch, downloaded, tmp_path) -> None:
    root = tmp_path / "root"
    for name in ("teacher", "student"):
        Stage(root, name, version=1, config={}, inputs={name: 0}).each(
            lambda output: output.path(f"{output.shard}/weights").write_text("w")
        )
    given: list[list[Path]] = []

    def measure(_: object, datasets: list[Path], *__: object, **___: object) -> pa.Table:
        given.append(datasets)
        return schema.EVALUATION.empty_table()

    monkeypatch.setattr(run, "evaluate", measure)
    config = EvaluationConfig(tasks=["zero_shot"])
    result = evaluate_models(root, config, datasets=[downloaded], baseline=False)
    assert [len(sets) for sets in given] == [3]
    assert (result.stats["data_sets"], result.stats["skipped_data_sets"]) == (3, 4)
    shown = _skipped_sets(result)["not measured"].records
    assert {row.data["dataset"]: row.data["reason"] for row in shown} == evaluation_sets([downloaded])[1]
    # As if each had been named.
    named = evaluate_models(root, config, datasets=given[0], baseline=False)
    assert named.computed == 0 and named.fingerprint == result.fingerprint


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    text = (PROJECT / "docs" / "guide" / "evaluation-sets.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| (`\S+`|none) \| (`.+`|no: .+) \|$", text, re.MULTILINE)
    assert rows == [
        (
            each.key,
            f"`{each.main_metric}`" if each.main_metric else "none",
            f"`{each.metric}`" if each.metric else f"no: {each.reason}",
        )
        for each in SETS
    ]
