"""The grid, its data, and one small run of it."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from assets.page.ablation_plot import ORDER
from pipeline.core.errors import ConfigError
from pipeline.demo.stage import resolve_datasets
from pipeline.storage.result import StageResult, read_result
from tests.conftest import SmallRun
from training.ablation.data import write_ablation_data
from training.ablation.grid import cells_of, losses_of
from training.ablation.stage import run_ablation, summary
from training.config import AblationConfig, LossesConfig, StudentConfig
from training.losses.active import weights_of

PAIRS = {"instance_image_image", "instance_text_text", "instance_image_text", "instance_text_image"}


def test_every_choice_of_losses_has_the_terms_it_names() -> None:
    base = LossesConfig.model_validate({"cluster": {"label_weight": 0.5}})
    terms = {name: set(weights_of(losses_of(name, base))) - {"contrastive"} for name in ORDER}
    cluster = {"cluster_label", "cluster_divergence"}
    assert terms == {
        "contrastive": set(),
        "cluster": cluster,
        "instance": PAIRS,
        "both": cluster | PAIRS,
        "feature": {"instance_feature"},
        "label": {"cluster_label"},
        "label_8": {"cluster_label"},
        "relation": {"relation_divergence"},
        "gradient": {"relation_gradient"},
        "relation_cluster": cluster | {"relation_divergence"},
        "best": cluster | PAIRS | {"instance_feature", "relation_divergence"},
        "configured": cluster | PAIRS | {"instance_feature"},
    }


def test_only_the_terms_that_an_entry_names_are_on_whatever_the_student_has() -> None:
    best = LossesConfig(preset="best")
    for name in ("contrastive", "cluster", "instance", "both", "feature"):
        assert weights_of(losses_of(name, best)) == weights_of(losses_of(name, LossesConfig()))
    assert losses_of("label_8", best).cluster.positives == 8
    none = LossesConfig.model_validate({"cluster": {"weight": 0}, "instance": {"weight": 0}})
    assert weights_of(losses_of("label", none)) == {"contrastive": 1, "cluster_label": 1}
    assert weights_of(losses_of("relation", none)) == {"contrastive": 1, "relation_divergence": 1}


def test_a_term_that_the_student_has_not_cannot_be_turned_on() -> None:
    with pytest.raises(ConfigError, match=r"student\.losses\.cluster\.weight"):
        losses_of("both", LossesConfig.model_validate({"cluster": {"weight": 0}}))
    with pytest.raises(ConfigError, match="feature_weight"):
        losses_of("feature", LossesConfig.model_validate({"instance": {"feature_weight": 0}}))


def test_all_cells_have_equal_steps_and_whole_rows_come_first() -> None:
    cells = cells_of(AblationConfig(seeds=[5, 6], steps=7), StudentConfig())
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 3 * 6
    assert {cell.student.steps for cell in cells} == {7}
    assert [cell.seed for cell in cells] == [5] * 18 + [6] * 18 == [cell.student.seed for cell in cells]


@pytest.mark.slow
def test_a_grid_that_was_ended_goes_on_where_it_was(copied: SmallRun) -> None:
    settings, root = copied.settings, copied.root
    grid = AblationConfig.model_validate(
        {"data": ["random", "balanced"], "losses": ["relation"], "seeds": [3], "steps": 2}
    )
    asked: list[str] = []

    def run(last: int) -> StageResult:
        def on_cell(name: str, number: int, cells: int) -> None:
            if number > last:
                raise KeyboardInterrupt
            asked.append(name)

        return run_ablation(
            root,
            grid,
            settings.student.model_copy(update={"ranks": 1}),
            settings.evaluation,
            shards=settings.shards,
            query=settings.query,
            datasets=resolve_datasets(settings.evaluation.datasets, root, settings.demo),
            on_cell=on_cell,
        )

    with pytest.raises(KeyboardInterrupt):
        run(1)
    result = run(1)
    assert asked == ["random-relation-3", "balanced-relation-3"] and result.computed == 1
    assert run(0).computed == 0
    rows: list[dict[str, Any]] = summary(result.parquet("ablation"))
    assert [(row["data"], row["losses"], row["seeds"]) for row in rows] == [
        ("balanced", "relation", 1),
        ("random", "relation", 1),
    ]
    _check_data(root, write_ablation_data(root, settings.shards, settings.query))


def _check_data(root: Path, data: StageResult) -> None:
    kept = set(pq.read_table(read_result(root, "balance").parquet("balanced_pairs")[0])["image_id"].to_pylist())
    found = {
        name: {i for path in data.parquet(name) for i in pq.read_table(path)["image_id"].to_pylist()}
        for name in ("all", "random", "balanced")
    }
    assert found["balanced"] == kept and len(found["random"]) == len(kept)
    assert found["random"] < found["all"] and found["balanced"] < found["all"] and found["random"] != kept
