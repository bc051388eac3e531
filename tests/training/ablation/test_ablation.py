"""The grid, its data, and one small run of it."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from assets.ablation import ablation_results
from assets.resources import SettingsResource
from assets.tools.ablation_report import every_cell
from pipeline.clip.model import WEIGHTS_FILE
from pipeline.core import query, schema
from pipeline.core.errors import ConfigError
from pipeline.demo.stage import resolve_datasets
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Stage
from tests.conftest import SMALL, SmallRun
from training.ablation import earlier, run_ablation, stage, summary
from training.ablation.data import write_ablation_data
from training.ablation.grid import LOSSES, Cell, cells_of, losses_of
from training.ablation.measure import export_at, seconds_at
from training.config import AblationConfig, LossesConfig, StudentConfig
from training.evaluation.stage import dataset_identity
from training.job.training_job import TrainingJob
from training.launch.launcher import TrainingResult
from training.losses.active import weights_of
from training.stage import model_content

PAIRS = {"instance_image_image", "instance_text_text", "instance_image_text", "instance_text_image"}


def test_every_choice_of_losses_has_the_terms_it_names() -> None:
    base = LossesConfig.model_validate({"cluster": {"label_weight": 0.5}})
    terms = {name: set(weights_of(losses_of(name, base))) - {"contrastive"} for name in LOSSES}
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


PAIRS_OF = {"all": 1000, "random": 330, "balanced": 330}


def test_at_equal_epochs_all_sets_are_seen_as_often() -> None:
    config = AblationConfig(losses=["both"], seeds=[0], steps=40, axis=["steps", "epochs"])
    found = cells_of(config, StudentConfig(batch_size=100), PAIRS_OF)
    # 10 steps of all pairs are an epoch and 3 of the others; what is the same on both axes is one cell.
    assert [(cell.name, cell.axes) for cell in found] == [
        ("all-both-0-40", ("steps", "epochs")),
        ("random-both-0-40", ("steps",)),
        ("random-both-0-12", ("epochs",)),
        ("balanced-both-0-40", ("steps",)),
        ("balanced-both-0-12", ("epochs",)),
    ]
    assert {cell.student.steps / cell.steps_per_epoch for cell in found if "epochs" in cell.axes} == {4.0}
    one = cells_of(
        config.model_copy(update={"axis": ["epochs"], "epochs": 0.5}), StudentConfig(batch_size=100), PAIRS_OF
    )
    assert [cell.student.steps for cell in one] == [5, 2, 2]


def test_epochs_without_their_axis_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"epochs 2 is for cells of equal epochs, and axis is \['steps'\]"):
        AblationConfig(epochs=2)


def test_what_is_measured_on_the_way_has_its_checkpoint_and_others_are_as_they_were() -> None:
    config = AblationConfig(data=["all"], losses=["both"], seeds=[0], steps=40)
    (plain,) = cells_of(config, StudentConfig())
    (late,) = cells_of(config.model_copy(update={"measure_every": 40}), StudentConfig())
    assert late == plain and plain.student.checkpoint_every == StudentConfig().checkpoint_every
    (often,) = cells_of(config.model_copy(update={"measure_every": 15}), StudentConfig())
    assert (often.student.checkpoint_every, often.student.keep_checkpoints, often.student.log_every) == (15, 40, 15)


def test_time_is_that_of_all_laps() -> None:
    rows = [{"step": 1, "samples_per_second": 10.0}, {"step": 5, "samples_per_second": 40.0}]
    assert seconds_at(rows, 20) == {1: 2.0, 5: 4.0}


def _run(run: SmallRun, grid: dict[str, Any], last: int = 99) -> tuple[StageResult, list[str]]:
    """A grid, and the cells that it trained; ended before the one after ``last``."""
    settings, asked = run.settings, []

    def on_cell(name: str, number: int, cells: int) -> None:
        if number > last:
            raise KeyboardInterrupt
        asked.append(name)

    return (
        run_ablation(
            run.root,
            AblationConfig.model_validate(grid),
            settings.student.model_copy(update={"ranks": 1}),
            settings.evaluation,
            shards=settings.shards,
            query=settings.query,
            datasets=resolve_datasets(settings.evaluation.datasets, run.root, settings.demo),
            on_cell=on_cell,
        ),
        asked,
    )


@pytest.mark.slow
def test_a_grid_that_was_ended_goes_on_where_it_was(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"data": ["random", "balanced"], "losses": ["relation"], "seeds": [3], "steps": 2, "measure_every": 1}
    measure = stage.measure_cell

    def checked(cell: Cell, job: TrainingJob, trained: TrainingResult, **options: Any) -> pa.Table:
        # What a checkpoint gives is what the run itself exports.
        again = export_at(job.checkpoints / "step-2", trained.export, job.output / "again")
        assert (again / WEIGHTS_FILE).read_bytes() == (trained.export / WEIGHTS_FILE).read_bytes()
        return measure(cell, job, trained, **options)

    monkeypatch.setattr(stage, "measure_cell", checked)
    with pytest.raises(KeyboardInterrupt):
        _run(copied, grid, last=1)
    result, asked = _run(copied, grid)
    assert asked == ["balanced-relation-3-2"] and result.computed == 1
    assert _run(copied, grid, last=0)[0].computed == 0
    rows: list[dict[str, Any]] = summary(result.parquet("ablation"))
    assert [(row["data"], row["losses"], row["seeds"]) for row in rows] == [
        ("balanced", "relation", 1),
        ("random", "relation", 1),
    ]
    table = pq.read_table(result.parquet("ablation")[0])
    assert set(table["step"].to_pylist()) == {1, 2} and table.schema.equals(schema.ABLATION)
    seconds = {row["step"]: row["elapsed_s"] for row in table.to_pylist() if row["data"] == "random"}
    assert 0 < seconds[1] < seconds[2]
    _check_data(copied.root, write_ablation_data(copied.root, copied.settings.shards, copied.settings.query))


@pytest.fixture
def untrained(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> SmallRun:
    """A run whose cells are known by their seed and steps, without training."""

    def train(job: TrainingJob) -> Any:
        return SimpleNamespace(training_s=1.0)

    def measure(cell: Cell, job: TrainingJob, trained: Any, *, config: AblationConfig, **options: Any) -> pa.Table:
        row = {"data": cell.data, "losses": cell.losses, "seed": cell.seed, "steps": cell.student.steps}
        row |= {"task": "zero_shot", "dataset": "demo", "metric": "top1", "value": cell.seed / 10, "samples": 720}
        steps = {config.measure_every or cell.student.steps, cell.student.steps}
        rows = [{**row, "step": step, "elapsed_s": float(step)} for step in sorted(steps)]
        return pa.Table.from_pylist(rows, schema=schema.ABLATION_CELLS)

    monkeypatch.setattr(stage, "run_training", train)
    monkeypatch.setattr(stage, "measure_cell", measure)
    return copied


def _grid(**changes: Any) -> dict[str, Any]:
    return {"data": ["all", "balanced"], "losses": ["both"], "seeds": [1, 2], "steps": 40, **changes}


def test_cells_of_another_grid_stay_and_are_taken_again(untrained: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = _run(untrained, _grid())
    assert len(first) == 4
    result, asked = _run(untrained, _grid(seeds=[2, 3], steps=20))
    assert len(asked) == 4 and {row["steps"] for row in summary(result.parquet("ablation"))} == {20}
    # Only new cells are trained, and the table has the rows of this grid alone.
    result, asked = _run(untrained, _grid(seeds=[1, 2, 3]))
    assert asked == ["all-both-3-40", "balanced-both-3-40"] and (result.computed, result.shards) == (2, 6)
    assert [(row["steps"], row["seeds"]) for row in summary(result.parquet("ablation"))] == [(40, 3), (40, 3)]
    with query.connect(untrained.settings.query, scratch=untrained.root / "scratch") as connection:
        connection.execute((untrained.root / "catalog.sql").read_text())
        counts = "SELECT (SELECT count(*) FROM ablation), (SELECT count(*) FROM ablation_cells)"
        assert connection.execute(counts).fetchone() == (6, 10)
    assert every_cell(untrained.root).count("| yes |") == 6 and every_cell(untrained.root).count("| no |") == 4
    assert _run(untrained, _grid(), last=0)[0].computed == 0
    # The oldest go where there are too many.
    monkeypatch.setattr(earlier, "KEPT", 1)
    _run(untrained, _grid(seeds=[1]), last=0)
    assert len(list((untrained.root / "ablation_cells").glob("*.parquet"))) == 2 + 1


def test_both_axes_are_one_table(untrained: SmallRun) -> None:
    result, asked = _run(untrained, _grid(seeds=[1], axis=["steps", "epochs"]))
    assert len(asked) == 3
    found = [(row["axis"], row["data"], row["steps"]) for row in summary(result.parquet("ablation"))]
    less = found[1][2]
    assert found == [
        ("epochs", "all", 40),
        ("epochs", "balanced", less),
        ("steps", "all", 40),
        ("steps", "balanced", 40),
    ]
    assert less < 40


def test_the_asset_shows_means_curves_and_differences(untrained: SmallRun) -> None:
    changes = {"ablation": _grid(seeds=[1], measure_every=20), "student": {**SMALL["student"], "ranks": 1}}
    settings = SettingsResource(root=str(untrained.root), **{**SMALL, **changes})
    done = dg.materialize([ablation_results], resources={"settings": settings})
    (shown,) = [event.metadata for event in done.asset_materializations_for_node("ablation_results")]
    assert [record.data["data"] for record in shown["zero-shot top-1"].records] == ["all", "balanced"]
    assert "| `both` | +0.0, 0 of 1 |" in shown["differences within a seed"].md_str
    assert {"ablation", "ablation_curves"} <= shown.keys()
    assert (untrained.root / "pictures" / "ablation_curves.png").exists()


def test_cells_that_an_earlier_version_left_are_known_again(untrained: SmallRun) -> None:
    root, settings = untrained.root, untrained.settings
    _run(untrained, _grid(seeds=[1]))
    tables = {path.stem.rsplit("-", 2)[0]: pq.read_table(path) for path in (root / "ablation_cells").iterdir()}
    for folder in ("ablation", "ablation_cells", ".marks/ablation", ".marks/ablation_cells"):
        shutil.rmtree(root / folder)
    # As that version had it: a file for each cell in the table `ablation`, whose mark says what it is made from.
    data = write_ablation_data(root, settings.shards, settings.query)
    changes = {"steps": 40, "log_every": 40, "seed": 1, "ranks": 1}
    student = settings.student.model_copy(update={**changes, "losses": losses_of("both", settings.student.losses)})
    made_from = [data.digest, student.content(), model_content(student)]
    datasets = resolve_datasets(settings.evaluation.datasets, root, settings.demo)
    identity = [["zero_shot"], [dataset_identity(path) for path in datasets]]
    then = Stage(root, "ablation", version=1, config=identity, inputs=dict.fromkeys(tables, made_from))
    with then.running():
        for name, table in tables.items():
            with then.output(name) as output:
                old = table.drop_columns(["step", "epochs", "elapsed_s"])
                pq.write_table(old, output.path(f"ablation/{name}.parquet"))
                output.rows, output.stats = table.num_rows, {"trained_s": 5.0}
        then.finish()
    # Of another grid they stay, of the same one they are not trained again.
    assert _run(untrained, _grid(seeds=[7]))[1] == ["all-both-7-40", "balanced-both-7-40"]
    assert [path.name for path in (root / "ablation").iterdir()] == ["ablation.parquet"]
    result, asked = _run(untrained, _grid())
    assert asked == ["all-both-2-40", "balanced-both-2-40"]
    assert pq.read_table(result.parquet("ablation")[0]).schema.equals(schema.ABLATION)
    assert len(list((root / "ablation_cells").iterdir())) == 6


def _check_data(root: Path, data: StageResult) -> None:
    kept = set(pq.read_table(read_result(root, "balance").parquet("balanced_pairs")[0])["image_id"].to_pylist())
    found = {
        name: {i for path in data.parquet(name) for i in pq.read_table(path)["image_id"].to_pylist()}
        for name in ("all", "random", "balanced")
    }
    assert found["balanced"] == kept and len(found["random"]) == len(kept)
    assert found["random"] < found["all"] and found["balanced"] < found["all"] and found["random"] != kept
