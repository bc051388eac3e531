from pathlib import Path
from typing import Any

import pytest
import yaml

from assets.resources import SettingsResource
from assets.settings import Settings, parse_settings
from assets.tools.config_reference import config_reference, demo_profile
from pipeline.core.errors import ConfigError
from pipeline.core.files import fingerprint_of
from training.config import LossesConfig, RelationConfig

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def test_resource_without_config_is_the_plain_default() -> None:
    assert SettingsResource().resolve() == Settings()


def test_pages_are_those_that_the_code_generates() -> None:
    assert (ROOT / "profiles" / "demo.yaml").read_text() == demo_profile()
    assert (ROOT / "docs" / "config.md").read_text() == config_reference() + "\n"


@pytest.mark.parametrize("path", PROFILES, ids=[path.stem for path in PROFILES])
def test_profiles_are_valid_for_every_job(path: Path) -> None:
    import dagster as dg

    from assets.definitions import defs

    config = yaml.safe_load(path.read_text())
    parse_settings(config["resources"]["settings"]["config"])
    for job in ("clip_cid", "curate", "distill"):
        assert dg.validate_run_config(defs.resolve_job_def(job), config)


def test_demo_profile_equals_the_defaults() -> None:
    values = yaml.safe_load((ROOT / "profiles" / "demo.yaml").read_text())["resources"]["settings"]["config"]
    assert parse_settings(values) == Settings()


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("balance", {"threshold": 2.5}, "balance.threshold: Input should be less than 2, got 2.5"),
        ("balance", {"threshold": 0}, "balance.threshold: Input should be greater than 0, got 0"),
        ("balance", {"threshold": 2.0}, "balance.threshold: Input should be less than 2, got 2"),
        ("balance", {"threshold": -0.1}, "balance.threshold: Input should be greater than 0, got -0.1"),
        ("balance", {"threshold": "wide"}, "balance.threshold: Input should be a valid number.*got 'wide'"),
        ("balance", {"treshold": 0.1}, "balance.treshold: Extra inputs are not permitted"),
        ("balance", {"threshold": 0.2, "target_removal": 0.3}, "threshold 0.2 and target_removal 0.3 are both given"),
        ("balance", {"threshold": 0.9}, "beyond neighbors.max_distance 0.6"),
        ("student", {"losses": {"circle": {"weight": 1}}}, "student.losses.circle: Extra inputs are not permitted"),
        ("student", {"batch_size": 255, "ranks": 2}, "not a multiple of student.ranks"),
        ("clusters", {"clusters": 0}, "clusters.clusters"),
        ("balance", {"cells": None}, "balance.cells: Input should be a valid integer, got None"),
        ("query", {"memory_limit": None}, "query.memory_limit: .* a size such as 512MB or 4GB, got None"),
        ("student", {"steps": True}, "student.steps: Input should be a number, got True"),
        ("student", {"ranks": False}, "student.ranks: Input should be a number, got False"),
        ("clusters", {"train_samples": 0}, "clusters.train_samples: Input should be greater than or equal to 1, got 0"),
        ("source", {"lists": []}, "source.lists"),
        ("neighbors", {"memory_limit": "lots"}, "neighbors.memory_limit: .* a size such as 512MB or 4GB, got 'lots'"),
        ("query", {"memory_limit": "4 apples"}, "query.memory_limit: .* a size such as 512MB or 4GB, got '4 apples'"),
        ("query", {"memory_limit": "4,5GB"}, "query.memory_limit: .* a size .*, got '4,5GB'"),
        ("query", {"memory_limit": "0GB"}, "query.memory_limit: Input should be greater than 0, got '0GB'"),
        ("query", {"memory_limit": -1}, "query.memory_limit: .*, got -1"),
    ],
)
def test_impossible_settings_are_named(section: str, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings({section: values})


def test_a_preset_of_losses_gives_what_the_user_does_not() -> None:
    """By YAML, and by Dagster, which fills in what is left out."""
    for losses, weights in (
        ({}, (1.0, 0.0)),
        ({"preset": "best"}, (1.0, 1.0)),
        ({"preset": "best", "relation": {"weight": 0}, "cluster": {"weight": 2}}, (2.0, 0.0)),
        ({"preset": None, "relation": {"weight": 3}, "cluster": {"weight": None}}, (1.0, 3.0)),
    ):
        plain = parse_settings({"student": {"losses": losses}})
        resolved = SettingsResource(student={"losses": losses}).resolve()
        assert resolved == plain == parse_settings(plain.model_dump(mode="json"))
        assert (plain.student.losses.cluster.weight, plain.student.losses.relation.weight) == weights
    # Sections as values of a script are over the preset too, by what was set of them.
    assert LossesConfig(preset="best", relation=RelationConfig(teacher_temperature=0.01)).relation.weight == 1
    with pytest.raises(ConfigError, match=r"student\.losses\.clustr"):
        parse_settings({"student": {"losses": {"clustr": None}}})
    with pytest.raises(ConfigError, match=r"student\.losses\.preset: Input should be 'clip_cid' or 'best', got 'bets'"):
        parse_settings({"student": {"losses": {"preset": "bets"}}})


def test_losses_that_there_were_at_first_have_the_fingerprint_of_then() -> None:
    assert fingerprint_of(Settings().student.content()) == "55577fdb8a4a23bd707e8364c9dea4eb"
    best, same = (LossesConfig.model_validate(v) for v in ({"preset": "best"}, {"relation": {"weight": 1}}))
    assert best.content() == same.content() != LossesConfig().content()


def test_a_null_anywhere_comes_as_far_as_our_own_check() -> None:
    """Dagster would refuse it in many lines; of what is not null it still knows choices, texts and numbers."""
    import dagster as dg

    from assets.definitions import defs

    job = defs.resolve_job_def("clip_cid")

    def check(place: list[str], values: dict[str, Any]) -> None:
        for name, value in values.items():
            config: Any = None
            for part in (name, *place):
                config = {part: config}
            dg.validate_run_config(job, {"resources": {"settings": {"config": config}}})
            if isinstance(value, dict):
                check([name, *place], value)

    check([], Settings().model_dump(mode="json"))
    for wrong in ({"student": {"precision": "fp31"}}, {"student": {"steps": "many"}}, {"studnet": {}}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"resources": {"settings": {"config": wrong}}})


@pytest.mark.parametrize("section", ["neighbors", "query"])
def test_a_wrong_size_is_refused_by_the_resource_before_anything_runs(section: str) -> None:
    with pytest.raises(ConfigError, match=f"{section}.memory_limit: .*, got 'lots'"):
        SettingsResource(**{section: {"memory_limit": "lots"}}).resolve()
    resource = SettingsResource(**{section: {"memory_limit": "1.5TB"}})
    assert getattr(resource.resolve(), section).memory_limit == 15 * 10**11


def test_without_threshold_or_share_what_the_paper_removed_is_solved_for() -> None:
    default, given, share = (
        parse_settings({"balance": values}).balance for values in ({}, {"threshold": 0.2}, {"target_removal": 0.3})
    )
    assert (default.removal, given.removal, share.removal) == (0.437, None, 0.3)
    # As first versions had it, whose default was a threshold of 0.2, so that what they made is not made again.
    contents = [config.content() for config in (default, given, share)]
    aims = [(content["threshold"], content["target_removal"]) for content in contents]
    assert aims == [(0.2, 0.437), (0.2, None), (0.2, 0.3)]


def test_runtime_fields_do_not_enter_fingerprints() -> None:
    settings = Settings()
    assert "processes" not in settings.images.content()
    assert "image_size" in settings.images.content()
    assert "threads" not in settings.demo.content()["teacher"]
