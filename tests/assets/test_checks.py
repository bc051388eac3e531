"""A failed check says what was found, what was asked for, which setting to change, and where the picture is."""

import operator
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import checks
from assets.page.pictures import balance_pictures, cluster_pictures
from assets.resources import SettingsResource
from assets.settings import Settings
from pipeline.storage.result import read_result
from tests.conftest import SmallRun, run_balance, small_settings


def evaluate(check: Any, root: Path, **changes: dict[str, Any]) -> dg.AssetCheckResult:
    settings = SettingsResource(**small_settings(root, **changes).model_dump())
    return check(dg.build_asset_check_context(resources={"settings": settings}))


def found_by(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    """Let the check's query find this."""
    monkeypatch.setattr(checks, "one_row", lambda *_, **__: found)


def named_settings(text: str) -> set[str]:
    """Words like `balance.threshold`."""
    sections = "|".join(Settings.model_fields)
    return set(re.findall(rf"(?<![\w/.])(?:{sections})(?:\.[a-z_]+)+", text))


def failed(result: dg.AssetCheckResult) -> str:
    """Its description, in which every setting is one that there is and every picture lies with the others."""
    assert not result.passed and result.description is not None
    for name in named_settings(result.description):
        operator.attrgetter(name)(Settings())
    return result.description


def test_a_check_that_passed_has_nothing_to_say(finished: SmallRun) -> None:
    result = evaluate(checks.sample_ids_unique, finished.root)
    assert result.passed and result.description is None


def test_too_few_downloads(finished: SmallRun) -> None:
    text = failed(evaluate(checks.enough_downloaded, finished.root, checks={"min_success_rate": 1.0}))
    downloaded = read_result(finished.root, "images").stats["downloaded"]
    assert re.match(rf"\d\d\.\d% of the pairs have an image, {downloaded} in all; ", text)
    assert "asks for 100.0%" in text
    assert {"checks.min_success_rate", "images.retry_statuses"} <= named_settings(text)
    assert f"{finished.root}/pictures/download.png" in text


def test_a_group_that_is_too_large(copied: SmallRun) -> None:
    text = failed(evaluate(checks.no_group_swallows_all, copied.root, checks={"max_group_share": 0.001}))
    assert "allows 0.1%. A smaller balance.target_removal than 0.3 splits it" in text
    balance_pictures(read_result(copied.root, "balance"), copied.settings)
    pictures = re.findall(r"\S+\.png", text)
    assert len(pictures) == 2 and all(Path(picture).is_file() for picture in pictures)


def test_a_removed_image_that_is_far_from_the_kept_one(copied: SmallRun) -> None:
    """Connected components promise nothing; rule `bounded` keeps what it promises; a bound set later is not kept."""
    check = checks.removed_near_kept
    assert evaluate(check, copied.root).metadata["at_most"].value == "no bound"
    bounded = {"rule": "bounded", "target_removal": 0.3}
    run_balance(small_settings(copied.root, balance=bounded))
    result = evaluate(check, copied.root, balance=bounded)
    found = {name: value.value for name, value in result.metadata.items()}
    threshold = read_result(copied.root, "balance").stats["threshold"]
    assert result.passed and found["at_most"] == threshold >= found["max_distance"] > 0
    assert found["removed"] == read_result(copied.root, "balance").stats["removed"]
    half = found["max_distance"] / 2
    text = failed(evaluate(check, copied.root, balance={**bounded, "max_distance_to_center": half}))
    assert f"removed images are farther than {half:.4g} from the image that is kept for them" in text


def test_empty_clusters(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found_by(monkeypatch, clusters=16, empty=4, empty_share=0.25, largest=9, without_label=0)
    text = failed(evaluate(checks.clusters_filled, copied.root))
    assert "25.0% of the clusters are empty, 4 of 16; checks.max_empty_clusters allows 1.0%" in text
    assert "clusters.clusters" in named_settings(text)
    cluster_pictures(read_result(copied.root, "clusters"), copied.settings)
    (picture,) = re.findall(r"\S+\.png", text)
    assert Path(picture).is_file()


def test_a_loss_that_rose(finished: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found_by(monkeypatch, first_loss=5.0, last_loss=5.25)
    text = failed(evaluate(checks.training_loss_fell, finished.root))
    assert "last tenth of the steps is 5.25, that of the first 5;" in text
    assert {"student.optimizer.learning_rate", "student.steps"} <= named_settings(text)
    assert "/pictures/loss_curves.png" in text


@pytest.mark.parametrize(
    ("check", "found", "part"),
    [
        (checks.sample_ids_unique, {"pairs": 9, "repeated": 2}, "2 of 9 pairs"),
        (checks.sample_ids_unique, {"pairs": 0, "repeated": 0}, "source.lists"),
        (
            checks.enough_downloaded,
            {"without_status": 3, "success_rate": 1.0, "downloaded": 9},
            "3 pairs have no status",
        ),
        (
            checks.embeddings_sound,
            {
                "embeddings": 9,
                "not_unit_length": 1,
                "without_image": 2,
                "without_embedding": 3,
                "captions_without_embedding": 4,
            },
            "1 are not finite or not of unit length and 2 have no image; 3 images and 4 captions have none",
        ),
        (
            checks.one_survivor_per_group,
            {
                "images": 9,
                "groups_without_one_survivor": 0,
                "kept_not_in_balanced": 1,
                "removed_without_survivor": 0,
                "missing": 2,
                "blocked_but_used": 0,
                "filtered_but_used": 0,
            },
            "Of 9 images: kept_not_in_balanced 1, missing 2; each should be 0",
        ),
        (
            checks.clusters_filled,
            {"clusters": 9, "empty": 0, "empty_share": 0.0, "without_label": 4},
            "4 kept images have no cluster",
        ),
    ],
)
def test_what_no_bound_explains(
    finished: SmallRun, monkeypatch: pytest.MonkeyPatch, check: Any, found: dict[str, Any], part: str
) -> None:
    found_by(monkeypatch, **found)
    assert part in failed(evaluate(check, finished.root))


def test_embeddings_that_no_longer_match(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.embeddings import verify

    cosines = {"samples": 3, "min_cosine_image": 0.91, "min_cosine_text": 1.0}
    monkeypatch.setattr(verify, "live_cosines", lambda *_, **__: cosines)
    text = failed(evaluate(checks.embeddings_match_live, copied.root))
    assert "is 0.91000; checks.min_embedding_cosine asks for 0.999" in text
    assert "embeddings.precision" in named_settings(text)


def test_an_export_that_differs(finished: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "compared", lambda *_, **__: {"min_cosine": 0.5})
    text = failed(evaluate(checks.export_reloads, finished.root))
    assert "is 0.500000; checks.min_export_cosine asks for 0.9999" in text


def test_a_comparison_is_made_again_when_a_file_was_replaced(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.embeddings import verify

    compared: list[int] = []

    def live_cosines(*_: Any, samples: int, **__: Any) -> dict[str, float]:
        compared.append(samples)
        return {"samples": samples, "min_cosine_image": 1.0, "min_cosine_text": 1.0}

    monkeypatch.setattr(verify, "live_cosines", live_cosines)
    for _ in range(2):
        assert evaluate(checks.embeddings_match_live, copied.root, checks={"live_samples": 3}).passed
    assert compared == [3]
    path = read_result(copied.root, "teacher_embeddings").parquet("teacher_embeddings")[0]
    path.write_bytes(path.read_bytes())
    evaluate(checks.embeddings_match_live, copied.root, checks={"live_samples": 3})
    evaluate(checks.embeddings_match_live, copied.root, checks={"live_samples": 4})
    assert compared == [3, 3, 4]
