"""Pictures: small enough to be stored with a run, decodable, and robust against what runs really hold."""

import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from assets.page import style as plots
from assets.page.balance_plots import (
    cluster_size_histogram,
    concept_distribution,
    group_sheet,
    group_size_histogram,
    pair_sheet,
    threshold_curve,
)
from assets.page.run_plots import _failures, download_status, evaluation_bars, loss_curves
from pipeline.core import schema


def _check(jpeg: bytes) -> Image.Image:
    """A JPEG within the limits that is not one flat color."""
    assert len(jpeg) <= plots.MAX_BYTES
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    assert image.format == "JPEG" and image.width <= plots.MAX_WIDTH_PX
    assert any(low < 200 < high for low, high in image.getextrema())
    return image


def _encoded(width: int, height: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _metrics(**terms: list[float]) -> pa.Table:
    length = len(next(iter(terms.values())))
    columns = {name: [float(step) for step in range(length)] for name in schema.TRAINING_METRICS}
    return pa.table(columns | terms)


def _evaluation(models: list[str], datasets: list[str], tasks: dict[str, list[str]]) -> pa.Table:
    rows = [
        {"model": model, "task": task, "dataset": dataset, "metric": metric, "value": 0.3, "samples": 10}
        for model in models
        for dataset in datasets
        for task, metrics in tasks.items()
        for metric in metrics
    ]
    return pa.Table.from_pylist(rows, schema=schema.EVALUATION)


def _sweep(points: int) -> pa.Table:
    return pa.table({"threshold": np.linspace(0, 0.6, points), "removal_rate": np.linspace(0, 0.9, points) ** 2})


def test_full_picture_is_written_larger_in_a_new_folder(tmp_path: Path):
    full = tmp_path / "new" / "curve.png"
    preview = _check(threshold_curve(_sweep(40), threshold=0.2, removal_rate=0.09, samples=100, full=full))
    with Image.open(full) as image:
        assert image.format == "PNG" and image.width == 2 * preview.width


def test_threshold_beyond_the_sweep():
    _check(threshold_curve(_sweep(2), threshold=0.9, removal_rate=0.5, samples=100))


@pytest.mark.parametrize("sizes", [[1], [1, 1, 2, 7, 100_000], []])
def test_group_sizes(sizes):
    assert len(group_size_histogram(sizes)) <= plots.MAX_BYTES


def test_group_sizes_and_counts_are_the_same_picture():
    assert group_size_histogram([1, 1, 1, 4, 4, 9]) == group_size_histogram([1, 4, 9], [3, 2, 1])


@pytest.mark.parametrize("sizes", [[3], [0, 0], [1, 2, 2, 3], [0, 5, 120, 40_000], []])
def test_cluster_sizes(sizes):
    assert len(cluster_size_histogram(np.array(sizes, dtype=np.int64))) <= plots.MAX_BYTES


def test_concepts():
    _check(concept_distribution([900, 50, 20, 1, 0], [20, 20, 10, 1, 0]))
    _check(concept_distribution([3], [1]))


def test_group_sheet_with_all_kinds_of_images(tmp_path: Path):
    wide, tall, small = _encoded(400, 90), _encoded(60, 500, "PNG"), _encoded(2, 2, "PNG")
    groups = [[(wide, "1 of 900")] + [(tall, "0.123"), (small, "0.2")] * 20] * 30
    _check(group_sheet(groups, full=tmp_path / "groups.png"))


def test_group_sheet_without_groups():
    assert len(group_sheet([])) <= plots.MAX_BYTES


@pytest.mark.parametrize("count", [1, 4, 24])
def test_pair_sheet(tmp_path: Path, count: int) -> None:
    pairs = [
        (_encoded(40, 60, "PNG"), _encoded(80, 50), f"a set with a long name $1, 0.{number}") for number in range(count)
    ]
    image = _check(pair_sheet(pairs, found=99, full=tmp_path / "pairs.png"))
    assert image.height < 1000 and (tmp_path / "pairs.png").is_file()


def test_pair_sheet_without_pairs() -> None:
    assert len(pair_sheet([], found=0)) <= plots.MAX_BYTES


def test_group_sheet_refuses_what_is_no_image():
    with pytest.raises(OSError, match="cannot identify"):
        group_sheet([[(b"no image", "1 of 2")]])


def test_download():
    errors = {("failed_to_download", f"<urlopen error ${number}$ {'x' * 300}>"): 30 - number for number in range(25)}
    _check(download_status({("success", None): 5000, ("failed_in_worker", None): 3, **errors}))
    _check(download_status({("success", None): 5}))
    _check(download_status({("failed_to_download", "HTTP Error 404: Not Found"): 5}))


def test_rare_failures_are_summed_and_none_is_lost():
    errors = {("failed_to_download", f"error {number}"): number + 1 for number in range(25)}
    found = _failures({**errors, ("failed_in_worker", None): 400, ("success", None): 7}, "success")
    assert found[0] == ("failed_in_worker", 400)
    assert found[-1] == ("17 other reasons", sum(range(1, 18)))
    assert sum(count for _, count in found) == 400 + sum(range(1, 26))


def test_loss_curves():
    student = _metrics(
        contrastive=[5.0, 2.0, 1.0], cluster_divergence=[1.0, 0.5, 0.2], instance_feature=[0.1, 0.0, 0.0]
    )
    _check(loss_curves({"student": student, "baseline": _metrics(contrastive=[5.0, 1.0])}))
    _check(loss_curves({"baseline": _metrics(contrastive=[5.0])}))


def test_evaluations_stand_beside_the_losses() -> None:
    """Two more panels, and dashed lines in those of the losses; a run that was not evaluated is left out of them."""
    runs = {name: _metrics(contrastive=[5.0, 2.0, 1.0]) for name in ("student", "baseline")}
    rows = [
        (step, task, dataset, metric, 0.4 * step)
        for step in (1, 2)
        for task, dataset, metric in (
            ("zero_shot", "demo", "top1"),
            ("retrieval", "demo", "image_to_text_recall@1"),
            ("held_out", None, "loss"),
            ("held_out", None, "contrastive"),
        )
    ]
    names = schema.TRAINING_EVALUATIONS.names
    table = pa.Table.from_pylist([dict(zip(names, row)) for row in rows], schema=schema.TRAINING_EVALUATIONS)
    plain = _check(loss_curves(runs))
    assert _check(loss_curves(runs, evaluations={"student": table})).height > plain.height
    _check(loss_curves(runs, evaluations={"student": table, "baseline": table}))


def test_evaluation():
    tasks = {
        "zero_shot": ["top1", "top5"],
        "retrieval": [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)],
    }
    _check(evaluation_bars(_evaluation(["teacher", "student", "baseline"], ["demo"], tasks)))
    _check(evaluation_bars(_evaluation(["a", "b", "c", "d", "e", "f", "g", "h"], ["one"], tasks)))
    many = _evaluation(["student"], [f"set {number}" for number in range(14)], tasks)
    _check(evaluation_bars(many))
    assert len(evaluation_bars(schema.EVALUATION.empty_table())) <= plots.MAX_BYTES


def test_evaluation_where_a_data_set_lacks_a_task():
    both = [
        _evaluation(["student"], ["labeled"], {"zero_shot": ["top1"]}),
        _evaluation(["student", "teacher"], ["captioned"], {"retrieval": ["image_to_text_recall@1"]}),
    ]
    _check(evaluation_bars(pa.concat_tables(both)))


def test_compress_noise_to_the_limits():
    jpeg = plots.compress(_encoded(3000, 1500, "PNG"))
    assert len(jpeg) <= plots.MAX_BYTES
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.width <= plots.MAX_WIDTH_PX and image.width == pytest.approx(2 * image.height, abs=4)


def test_models_have_their_own_colors():
    colors = plots.model_colors(["other", "student", "baseline", "teacher"])
    assert len(set(colors.values())) == 4
    assert colors["student"] == plots.model_colors(["student"])["student"]


def test_markdown_carries_the_bytes():
    text = plots.markdown_image(b"\xff\xd8data", "a curve")
    head, _, data = text.removesuffix(")").partition("base64,")
    assert head == "![a curve](data:image/jpeg;" and base64.b64decode(data) == b"\xff\xd8data"
