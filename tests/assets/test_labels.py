"""Labels keep apart and inside the figure, and a figure comes whole to dark paper."""

import io
import itertools
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from assets.page import run_plots
from assets.page.ablation_plot import ablation_bars
from assets.page.cluster_accuracy_plot import cluster_accuracy_dots
from assets.page.labels import settle, spread
from assets.page.run_plots import evaluation_bars, loss_curves
from assets.page.style import for_print, new_figure, render
from assets.page.themes import DARK, recolor
from pipeline.core import schema


def test_places_are_the_nearest_that_do_not_touch() -> None:
    assert spread([10, 50], 5, low=0, high=100) == [10, 50]
    assert spread([50, 50], 10, low=0, high=100) == [45, 55]
    assert spread([52, 50, 51], 10, low=0, high=100) == [61, 41, 51]
    assert spread([0, 0], 10, low=0, high=100) == [0, 10]
    assert spread([100, 99, 20], 10, low=0, high=100) == [100, 90, 20]
    assert spread([], 10, low=0, high=100) == []


def test_places_against_all_that_could_be() -> None:
    """The sum of squares is that of the best of many places that keep apart, in the order that was wanted."""
    generator = random.Random(0)
    for _ in range(40):
        wanted = [generator.uniform(0, 30) for _ in range(4)]
        found = spread(wanted, 5, low=0, high=30)
        order = sorted(range(4), key=lambda place: wanted[place])
        ordered = [found[place] for place in order]
        assert all(after - before >= 5 - 1e-6 for before, after in itertools.pairwise(ordered))
        assert min(found) >= -1e-6 and max(found) <= 30 + 1e-6
        mine = sum((place - want) ** 2 for place, want in zip(found, wanted))
        for _ in range(200):
            free = sorted(generator.uniform(0, 15) for _ in range(4))
            other = [place + 5 * number for number, place in enumerate(free)]
            assert mine <= sum((place - wanted[at]) ** 2 for place, at in zip(other, order)) + 1e-6


def figures(draw: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch, module: Any) -> Any:
    """The figure that a picture is drawn from, settled and not drawn."""
    kept: list[Any] = []

    def keep(figure: Any, full: Path | None) -> bytes:
        kept.append(figure)
        settle(figure)
        return b""

    monkeypatch.setattr(module, "render", keep)
    draw()
    return kept[0]


def texts(figure: Any) -> list[Any]:
    """All but the numbers of ticks, of which some lie beyond the ends of an axis and are not drawn."""
    from matplotlib.text import Text

    ticks = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.majorTicks, *axis.minorTicks)
        for label in (tick.label1, tick.label2)
    }
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and id(text) not in ticks]


def inside(figure: Any) -> None:
    for text in texts(figure):
        extent = text.get_window_extent()
        assert extent.x0 >= -0.5 and extent.x1 <= figure.bbox.x1 + 0.5, text.get_text()
        assert extent.y0 >= -0.5 and extent.y1 <= figure.bbox.y1 + 0.5, text.get_text()


def apart(labels: list[Any]) -> None:
    extents = [label.get_window_extent() for label in labels]
    for place, one in enumerate(extents):
        for other in extents[place + 1 :]:
            overlap = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(overlap) <= 0.5, [label.get_text() for label in labels]


def run(last: float, names: tuple[str, ...] = ("contrastive", "instance_feature")) -> pa.Table:
    rows = [
        dict.fromkeys(schema.TRAINING_METRICS, last * 4 / step)
        | dict.fromkeys(names, last * 4 / step)
        | {"step": 12_000 * step}
        for step in (1, 2, 4)
    ]
    return pa.Table.from_pylist(rows)


def test_values_at_the_ends_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = {
        name: pa.Table.from_pylist(
            [
                {"step": step, "task": "zero_shot", "dataset": "demo", "metric": "top1", "value": value * step / 48_000}
                for step in (12_000, 48_000)
            ],
            schema=schema.TRAINING_EVALUATIONS,
        )
        for name, value in (("student", 0.4321), ("baseline", 0.4319))
    }
    runs = {"student": run(0.00123456), "baseline": run(0.00123321)}
    figure = figures(lambda: loss_curves(runs, evaluations=evaluations), monkeypatch, run_plots)
    labels = [text for axes in figure.axes for text in axes.texts]
    assert sorted(label.get_text() for label in labels) == ["0.00123"] * 6 + ["43.2"] * 2
    inside(figure)
    apart(labels)
    # They stay where they are, whatever the figure is saved as.
    before = [label.get_window_extent().bounds for label in labels]
    figure.draw_without_rendering()
    assert [label.get_window_extent().bounds for label in labels] == before


def test_values_above_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    recalls = [f"{way}_recall@{rank}" for way in ("image_to_text", "text_to_image") for rank in (1, 5, 10)]
    metrics = {"zero_shot": ["top1", "top5"], "retrieval": recalls}
    rows = [
        {"model": model, "task": task, "dataset": "demo", "metric": metric, "value": value, "samples": 9}
        for task, names in metrics.items()
        for metric in names
        for model, value in (("teacher", 0.9876), ("student", 0.9871), ("baseline", 0.9811))
    ]
    table = pa.Table.from_pylist(rows, schema=schema.EVALUATION)
    figure = figures(lambda: evaluation_bars(table), monkeypatch, run_plots)
    inside(figure)
    apart([text for axes in figure.axes for text in axes.texts])


@pytest.mark.parametrize("choices", [2, 12])
def test_means_and_spreads_above_bars(monkeypatch: pytest.MonkeyPatch, choices: int) -> None:
    from assets.page import ablation_plot

    rows = [
        {"axis": "steps", "data": data, "losses": f"l{choice}", "mean": 0.5, "spread": 0.012, "seeds": 3}
        for data in ("all", "balanced", "random")
        for choice in range(choices)
    ]
    figure = figures(lambda: ablation_bars(rows), monkeypatch, ablation_plot)
    labels = [text for axes in figure.axes for text in axes.texts]
    assert {label.get_text() for label in labels} <= {"50.0\n±1.2", "50.0 ±1.2"} and len(labels) == 3 * choices
    inside(figure)
    apart(labels)


def test_a_title_that_is_too_wide_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.page import cluster_accuracy_plot

    table = pa.table({"images": [123_456, 9], "student_accuracy": [0.5, 0.25], "teacher_accuracy": [0.5, 0.75]})
    figure = figures(lambda: cluster_accuracy_dots(table), monkeypatch, cluster_accuracy_plot)
    assert "\n" in figure.axes[0].get_title(loc="left")
    inside(figure)


def test_on_dark_paper_everything_can_be_seen() -> None:
    figure, axes = new_figure(4, 3)
    axes.plot([0, 1], [0, 1], label="a line")
    axes.bar([0.5], [0.5], yerr=[0.1])
    axes.scatter([0.2], [0.8])
    axes.text(0.5, 0.9, "a text")
    axes.legend()
    axes.set_xlabel("x")
    settle(figure)
    recolor(figure, DARK)
    for text in texts(figure):
        assert text.get_color() not in ("black", "#000000", "k"), text.get_text()
    buffer = io.BytesIO()
    figure.savefig(buffer, facecolor=DARK.paper)
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    assert (pixels[0, 0] == (0x0D, 0x11, 0x17)).all()
    # Nothing is as dark as ink was, or as bright as paper; edges are smoothed.
    assert pixels.max(axis=2).min() >= 0x15 and (pixels == 255).all(axis=2).sum() == 0


def test_for_print(tmp_path: Path) -> None:
    def draw(folder: Path) -> dict[str, bytes]:
        figure, axes = new_figure(3, 2)
        axes.plot([0, 1], [0, 1])
        with for_print(folder):
            assert render(figure, folder / "curve.png").startswith(b"\xff\xd8")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    made = draw(tmp_path / "a")
    assert sorted(made) == ["curve-dark.png", "curve-dark.svg", "curve-light.png", "curve-light.svg"]
    assert draw(tmp_path / "b") == made
    for name in ("curve-dark.svg", "curve-light.svg"):
        assert ET.fromstring(made[name]).tag.endswith("svg") and b"http://www.w3.org" in made[name]
    # Outside the block the picture is the one that it always was.
    figure, _ = new_figure(3, 2)
    render(figure, tmp_path / "c" / "curve.png")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["curve.png"]
