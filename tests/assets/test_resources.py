"""Sections that the user names, from YAML through Dagster to the plain settings, and on their page."""

from typing import Any

import dagster as dg
import pytest
from pydantic import Field, ValidationError

from assets.resources import _as_dagster
from assets.settings import problems
from assets.tools.config_reference import _names, _section, unexplained
from pipeline.core.settings import Section
from pipeline.heads import HeadConfig, Heads


class Owner(Section):
    """Has heads."""

    heads: Heads = Field({}, description="Heads by name.")


class Whole(Section):
    """All."""

    owner: Owner = Owner()


Resource: Any = _as_dagster(Whole, dg.ConfigurableResource)


def test_any_number_of_sections_come_through_dagster_by_their_names() -> None:
    assert Whole.model_validate(Resource().model_dump(mode="json")) == Whole()
    heads = {"aesthetic": {"weights": "a"}, "nsfw": {"weights": "n", "output": "softmax:1", "normalize": False}}
    settings = Whole.model_validate(Resource(owner={"heads": heads}).model_dump(mode="json"))
    assert settings.owner.heads["aesthetic"] == HeadConfig(weights="a")
    assert settings.owner.heads["nsfw"] == HeadConfig(weights="n", output="softmax:1", normalize=False)
    assert settings.content()["owner"]["heads"]["nsfw"]["output"] == "softmax:1"


def test_dagster_takes_them_in_a_run_config_and_knows_their_fields() -> None:
    @dg.asset
    def reads(settings: Resource) -> None:
        assert Whole.model_validate(settings.model_dump(mode="json")).owner.heads["a"].weights == "x"

    definitions = dg.Definitions(
        [reads], resources={"settings": Resource.configure_at_launch()}, jobs=[dg.define_asset_job("job")]
    )
    job = definitions.resolve_job_def("job")

    def config(**head: object) -> dict[str, Any]:
        return {"resources": {"settings": {"config": {"owner": {"heads": {"a": head}}}}}}

    assert dg.validate_run_config(job, config(weights="x", activation="gelu"))
    for wrong in ({"weights": "x", "activations": "gelu"}, {"weights": "x", "activation": "swish"}, {}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, config(**wrong))


def test_a_misspelled_field_of_theirs_is_named_with_what_may_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.settings.Settings", Whole)
    with pytest.raises(ValidationError) as error:
        Whole.model_validate({"owner": {"heads": {"a": {"weights": "x", "activations": "relu"}}}})
    ((place, text),) = problems(error.value)
    assert place == ("owner", "heads", "a", "activations")
    assert text.startswith("owner.heads.a.activations: ") and "did you mean activation?" in text


def test_their_fields_are_on_the_page_of_settings() -> None:
    page = "\n".join(_section("", Whole, Whole()))
    assert "## owner.heads.<name>" in page
    assert "| `weights` | `(required)` |" in page and "| `activation` | `none` |" in page and "`gelu`" in page
    assert unexplained(Whole) == [] and {"weights", "activation", "normalize", "output"} <= _names(Whole)
