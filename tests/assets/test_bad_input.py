"""Bad input to a job: a typed error of the first step that could know, before anything slow is started."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.definitions import defs
from pipeline.balance import stage
from pipeline.balance.semantic_balance import TABLES
from pipeline.balance.threshold import OutOfReachError
from tests.conftest import SmallRun, small_settings


def failure(root: Path, *steps: str, **changes: dict[str, Any] | None) -> tuple[str, str, str]:
    """Step, type and text of the one error of a job of these steps."""
    (only,) = failures(root, *steps, **changes)
    return only


def failures(root: Path, *steps: str, **changes: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Those of every step that was run and failed; all steps of the job without any."""
    config = small_settings(root).model_dump(mode="json")
    for section, fields in changes.items():
        config[section] = None if fields is None else config[section] | fields
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("clip_cid").execute_in_process(
            run_config={"resources": {"settings": {"config": config}}},
            asset_selection=[dg.AssetKey(step) for step in steps] or None,
            instance=instance,
            raise_on_error=False,
        )
    found = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        assert error is not None and error.cause is not None
        found.append((str(event.step_key), str(error.cause.cls_name), error.cause.message))
    return found


def test_a_missing_list_stops_the_download(tmp_path: Path) -> None:
    root = tmp_path / "root"
    step, kind, text = failure(root, "source_pairs", "images", source={"lists": ["missing.parquet"]})
    assert (step, kind) == ("source_pairs", "SourceError")
    assert "list 'missing.parquet': no such file" in text
    assert not root.exists()


def test_a_wrong_column_names_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": ["http://example.com/a.jpg"], "TEXT": ["a"]}), tmp_path / "list.parquet")
    root = tmp_path / "root"
    step, kind, text = failure(root, "source_pairs", "images", source={"lists": [str(tmp_path / "list.parquet")]})
    assert (step, kind) == ("source_pairs", "SourceError")
    assert "no column ['URL']; it has ['link', 'TEXT']" in text
    assert not (root / "source_pairs").exists()


def test_a_threshold_out_of_range_is_refused_by_the_first_step(tmp_path: Path) -> None:
    step, kind, text = failure(
        tmp_path / "root", "source_pairs", "images", balance={"threshold": 2.5, "target_removal": None}
    )
    assert (step, kind) == ("source_pairs", "ConfigError")
    assert "balance.threshold: Input should be less than 2, got 2.5" in text
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "place", ["balance.cells", "student.steps", "source.lists", "balance", "student.losses", "student.precision"]
)
def test_a_null_where_there_must_be_a_value_is_named(tmp_path: Path, place: str) -> None:
    section, _, field = place.partition(".")
    values = {field: None} if field else None
    _, kind, text = failure(tmp_path / "root", "source_pairs", **{section: values})
    assert kind == "ConfigError" and text.startswith(f"pipeline.core.errors.ConfigError: {place}: ")
    assert "got None" in text and len(text.splitlines()) == 1


def test_an_unknown_teacher_does_not_wait_for_the_download(copied: SmallRun) -> None:
    marks = (copied.root / ".marks" / "images" / "complete.json").read_text()
    step, kind, text = failure(copied.root, "images", teacher={"model": "ViT-Z-99"}, images={"image_size": 32})
    assert (step, kind) == ("images", "TeacherError")
    assert "teacher 'ViT-Z-99': neither a file nor an open_clip model" in text
    assert (copied.root / ".marks" / "images" / "complete.json").read_text() == marks


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"model": "ViT-Q-32"}, "student model 'ViT-Q-32'"),
        ({"initial": "missing.safetensors"}, "student.initial 'missing.safetensors': no checkpoint file"),
        ({"precision": "bf16", "zero_stage": 0}, "student.precision bf16 needs ZeRO stage 1, 2 or 3"),
        ({"ranks": 2, "micro_batches": 5}, "not a multiple of ranks x micro_batches, 2 x 5"),
    ],
)
def test_a_student_that_cannot_be_trained_does_not_wait_for_the_download(
    tmp_path: Path, student: dict[str, Any], message: str
) -> None:
    base = small_settings(tmp_path).student.model_dump(mode="json")
    found = failures(tmp_path / "root", student={**base, **student})
    assert {step for step, _, _ in found} == {"source_pairs", "teacher"}, "where the job begins"
    assert all(kind == "ConfigError" and message in text for _, kind, text in found)
    assert not (tmp_path / "root").exists()


def test_who_trains_nothing_needs_no_student(tmp_path: Path) -> None:
    """Of the run's own assets alone: here a list that is missing comes first."""
    _, kind, text = failure(
        tmp_path / "root", "source_pairs", student={"model": "ViT-Q-32"}, source={"lists": ["missing.parquet"]}
    )
    assert kind == "SourceError" and "missing.parquet" in text


def test_a_missing_evaluation_set_does_not_wait_for_the_training(copied: SmallRun) -> None:
    for name in ("student", "baseline"):
        step, kind, text = failure(copied.root, name, evaluation={"datasets": ["demo", "imagenet1k"]})
        assert (step, kind) == (name, "ConfigError")
        assert "evaluation.datasets: no folder ['imagenet1k']" in text
    assert not (copied.root / "runs").exists()


def test_a_missing_set_to_decontaminate_by_does_not_wait_for_the_download(tmp_path: Path) -> None:
    wanted = {"datasets": ["demo", "imagenet1k"], "threshold": 0.2}
    found = failures(tmp_path / "root", balance={"decontaminate": wanted})
    assert {step for step, _, _ in found} == {"source_pairs", "teacher"}, "where the job begins"
    assert all(
        kind == "ConfigError" and "balance.decontaminate.datasets: no folder ['imagenet1k']" in text
        for _, kind, text in found
    )
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("threshold", "bound"), [(0, "greater than 0"), (2, "less than 2"), (2.5, "less than 2")])
def test_a_threshold_of_leaks_out_of_range_is_named(tmp_path: Path, threshold: float, bound: str) -> None:
    _, kind, text = failure(tmp_path / "root", "source_pairs", balance={"decontaminate": {"threshold": threshold}})
    assert kind == "ConfigError"
    assert f"balance.decontaminate.threshold: Input should be {bound}, got {threshold}" in text


def test_more_clusters_than_kept_images_are_refused(copied: SmallRun) -> None:
    before = (copied.root / "centroids" / "centroids.parquet").read_bytes()
    kept = pq.read_table(copied.root / "balanced_pairs").num_rows
    step, kind, text = failure(
        copied.root, "centroids", "cluster_assignments", clusters={"clusters": kept + 1, "iterations": 5}
    )
    assert (step, kind) == ("clusters", "ConfigError")
    assert re.search(rf"{kept + 1} clusters asked of {kept} images", text)
    assert (copied.root / "centroids" / "centroids.parquet").read_bytes() == before


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    step, kind, text = failure(tmp_path / "file" / "root", "source_pairs", "images")
    assert (step, kind) == ("source_pairs", "StorageError")
    assert f"root {tmp_path / 'file' / 'root'} cannot be written" in text


def test_a_share_that_no_threshold_removes_is_refused(copied: SmallRun) -> None:
    step, kind, text = failure(copied.root, "balanced_pairs", *TABLES, balance={"target_removal": 0.999})
    assert (step, kind) == ("balance", "ConfigError")
    assert "out of reach" in text and "neither" not in text


def test_the_share_of_whoever_gave_none_is_said_to_be_the_papers(
    copied: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_few(*_: object, target_removal: float, **options: object) -> None:
        raise OutOfReachError(f"target_removal {target_removal} is out of reach")

    monkeypatch.setattr(stage, "semantic_balance", too_few)
    _, kind, text = failure(copied.root, "balanced_pairs", *TABLES, balance={"target_removal": None})
    assert kind == "ConfigError"
    assert re.search(r"neither balance.threshold nor .* 0.437 is out of reach\. .*`clip-cid advise` proposes", text)
