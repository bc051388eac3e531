"""Pictures of the download, of training and of the evaluation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from assets.page.labels import end_label, label_bars
from assets.page.style import empty, model_colors, new_figure, percent, render, thousands, title
from assets.page.themes import BLUE, RED
from pipeline.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REASONS = 10
_REASON_LETTERS = 90
_DATASETS = 6
_WIDTH_IN = 10.8
# Between groups of bars, in groups.
_BETWEEN = 0.3
_HELD_OUT = "held_out"
_Measure = tuple[str, str | None, str]
_TASK_TITLES = {"zero_shot": "zero-shot", "linear_probe": "linear probe", "retrieval": "retrieval"}
_METRIC_LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class_recall": "class\nrecall",
    "image_to_text_recall": "image\nto text",
    "text_to_image_recall": "text\nto image",
}


def download_status(
    counts: Mapping[tuple[str, str | None], int], *, success: str = "success", full: Path | None = None
) -> bytes:
    """How many pairs were downloaded, and why the others were not.

    ``counts``: number of pairs by (status, error), ``success`` being the status of those that were.
    """
    total = sum(counts.values())
    succeeded = sum(count for (status, _), count in counts.items() if status == success)
    failed = _failures(counts, success)
    bars = max(len(failed), 1)
    figure, (whole, reasons) = new_figure(height_in=1.8 + 0.5 * bars, nrows=2, height_ratios=[1, 0.7 + bars])
    whole.barh([0, 0], [succeeded, total - succeeded], left=[0, succeeded], color=[BLUE, RED], height=0.6)
    whole.set(xlim=(0, max(total, 1)), yticks=[])
    whole.grid(visible=False)
    thousands(whole.xaxis)
    title(whole, f"{succeeded:,} of {total:,} pairs downloaded ({succeeded / max(total, 1):.1%})")
    if failed:
        _reasons(reasons, failed, total)
        title(reasons, f"{total - succeeded:,} failures by reason", panel=True)
    else:
        empty(reasons, "no failures")
    return render(figure, full)


def _reasons(axes: "Axes", failed: Sequence[tuple[str, int]], total: int) -> None:
    """A bar for each reason, with the reason above it: beside it long ones would leave no room for the bars."""
    numbers = [number for _, number in failed]
    bars = axes.barh(range(len(failed)), numbers, color=RED, height=0.4)
    axes.bar_label(bars, labels=[f"{number:,} ({number / total:.1%})" for number in numbers], padding=4)
    for place, (reason, _) in enumerate(failed):
        axes.text(0, place - 0.24, f" {reason}", va="bottom", fontsize=9, parse_math=False)
    axes.set(xlim=(0, max(numbers) * 1.2), ylim=(len(failed) - 0.6, -0.8), yticks=[], xlabel="pairs")
    axes.grid(visible=False, axis="y")
    thousands(axes.xaxis)


def _failures(counts: Mapping[tuple[str, str | None], int], success: str) -> list[tuple[str, int]]:
    """Reasons and their numbers, most frequent first; rare ones are summed up."""
    summed: dict[str, int] = {}
    for (status, error), count in counts.items():
        if status != success:
            reason = " ".join((error or status).split())
            if len(reason) > _REASON_LETTERS:
                reason = reason[: _REASON_LETTERS - 1] + "…"
            summed[reason] = summed.get(reason, 0) + count
    ranked = sorted(summed.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) > _REASONS:
        rest = ranked[_REASONS - 1 :]
        ranked = [*ranked[: _REASONS - 1], (f"{len(rest)} other reasons", sum(count for _, count in rest))]
    return ranked


def loss_curves(
    runs: Mapping[str, pa.Table],
    *,
    evaluations: Mapping[str, pa.Table] | None = None,
    full: Path | None = None,
) -> bytes:
    """The loss and each of its terms over the steps, then what was measured meanwhile: a panel each, a line a run.

    ``runs``: tables of training metrics (``step``, ``loss``, one column per term) by name, e.g. student and baseline.
    ``evaluations``: of those that were evaluated, ``schema.TRAINING_EVALUATIONS``, of which top-1 and recall at 1 are
    shown. Losses of held-out samples are dashed lines in the panels of the losses.
    """
    terms = list(dict.fromkeys(name for table in runs.values() for name in table.column_names if _is_term(name)))
    measured = {name: _series(table) for name, table in (evaluations or {}).items()}
    sets = list(dict.fromkeys(key for series in measured.values() for key in series if _is_shown(key)))
    count = 1 + len(terms) + len(sets)
    columns = min(3, count)
    rows = -(-count // columns)
    figure, grid = new_figure(3.6 * max(columns, 2), 2.9 * rows, nrows=rows, ncols=columns, squeeze=False, sharex=True)
    panels = grid.ravel().tolist()
    colors = model_colors(list(runs))
    for axes, term in zip(panels, ["loss", *terms]):
        curves = {
            name: table[term].to_pylist() for name, table in runs.items() if term in table.column_names and len(table)
        }
        for name, values in curves.items():
            steps = runs[name]["step"].to_pylist()
            axes.plot(steps, values, color=colors[name], label=name, linewidth=1.6)
            end_label(axes, steps[-1], values[-1], f"{values[-1]:.3g}", color=colors[name])
            held_out = measured.get(name, {}).get((_HELD_OUT, None, term))
            if held_out:
                axes.plot(*zip(*held_out), color=colors[name], linestyle="--", linewidth=1.2, label=f"{name}, held out")
        title(axes, "loss, weighted sum" if term == "loss" else term.replace("_", " "), panel=True)
        _over_steps(axes)
    for axes, key in zip(panels[1 + len(terms) :], sets):
        ends = {name: series[key][-1] for name, series in measured.items() if key in series}
        for name, (step, value) in ends.items():
            axes.plot(*zip(*measured[name][key]), color=colors[name], linewidth=1.6, marker=".")
            end_label(axes, step, value, f"{100 * value:.1f}", color=colors[name])
        task, dataset, metric = key
        title(axes, f"{dataset}: {_TASK_TITLES.get(task, task)} {_label(metric)}".replace("\n", " "), panel=True)
        _over_steps(axes)
        percent(axes.yaxis)
    for axes in panels[count:]:
        axes.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False)
    return render(figure, full)


def _series(table: pa.Table) -> dict[_Measure, list[tuple[int, float]]]:
    """Steps and values by task, data set and metric."""
    found: dict[_Measure, list[tuple[int, float]]] = {}
    for row in table.to_pylist():
        found.setdefault((row["task"], row["dataset"], row["metric"]), []).append((row["step"], row["value"]))
    return found


def _over_steps(axes: "Axes") -> None:
    axes.set_xlabel("step")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    # The numbers at the ends of the lines stand beside the axes.
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    axes.xaxis.set_tick_params(labelbottom=True)
    thousands(axes.xaxis)


def _is_shown(measure: _Measure) -> bool:
    """Of several ranks the first; all are in the table."""
    _, dataset, metric = measure
    return dataset is not None and (metric == "top1" or metric.endswith("@1"))


def _is_term(name: str) -> bool:
    return name not in schema.TRAINING_METRICS


def evaluation_bars(table: pa.Table, *, full: Path | None = None) -> bytes:
    """Every metric of every data set and task, models side by side; at most six data sets.

    ``table``: columns of ``schema.EVALUATION``; values are shares.
    """
    rows = table.to_pylist()
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    shown = datasets[:_DATASETS]
    models = list(dict.fromkeys(row["model"] for row in rows))
    tasks = [task for task in _TASK_TITLES if any(row["task"] == task for row in rows)]
    widths = [max(len(_metrics(rows, dataset, task)) for dataset in shown) for task in tasks] or [1]
    figure, grid = new_figure(
        _WIDTH_IN,
        0.9 + 2.8 * max(len(shown), 1),
        nrows=max(len(shown), 1),
        ncols=len(widths),
        squeeze=False,
        sharey="row",
        width_ratios=[max(width, 1) + _BETWEEN for width in widths],
    )
    # What the axes' numbers take is not there for bars.
    group_pt = 72 * (_WIDTH_IN - 0.6 - 0.2 * len(widths)) / sum(max(width, 1) + _BETWEEN for width in widths)
    if not rows:
        empty(grid[0][0], "nothing was measured")
    for panels, dataset in zip(grid, shown):
        measured = [row for row in rows if row["dataset"] == dataset]
        panels[0].set_ylim(0, max(0.02, *(row["value"] for row in measured)) * 1.12)
        for axes, task in zip(panels, tasks):
            _bars(axes, [row for row in measured if row["task"] == task], models, group_pt=group_pt)
            title(axes, f"{dataset}: {_TASK_TITLES[task]}", panel=True)
        # The numbers of the axis that all share, at the first that has one.
        next(axes for axes in panels if axes.axison).yaxis.set_tick_params(labelleft=True)
    if rows:
        colors = model_colors(models)
        from matplotlib.patches import Patch

        handles = [Patch(color=colors[model], label=model) for model in models]
        figure.legend(
            handles=handles, loc="outside upper left", ncols=len(models), title=_hidden(datasets, shown), frameon=False
        )
    return render(figure, full)


def _hidden(datasets: Sequence[str], shown: Sequence[str]) -> str | None:
    return f"{len(shown)} of {len(datasets)} data sets; all are in the table" if len(datasets) > len(shown) else None


def _metrics(rows: Sequence[Mapping[str, Any]], dataset: str, task: str) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in rows if (row["dataset"], row["task"]) == (dataset, task)))


def _bars(axes: "Axes", rows: Sequence[Mapping[str, Any]], models: Sequence[str], *, group_pt: float) -> None:
    """Grouped bars of one task on one data set, a group a metric, ``group_pt`` points wide; each bar is labeled with
    its value in per cent."""
    if not rows:
        empty(axes, "not measured:\nthe data set lacks\nwhat it needs")
        return
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    colors = model_colors(list(models))
    width = 0.9 / len(models)
    for number, model in enumerate(models):
        values = {row["metric"]: row["value"] for row in rows if row["model"] == model}
        places = [index + (number - (len(models) - 1) / 2) * width for index in range(len(metrics))]
        heights = [values.get(metric, float("nan")) for metric in metrics]
        bars = axes.bar(places, heights, width * 0.94, color=colors[model])
        labels = ["" if math.isnan(height) else f"{100 * height:.1f}" for height in heights]
        label_bars(axes, bars, labels, width_pt=width * group_pt)
    axes.set_xticks(range(len(metrics)), [_label(metric) for metric in metrics], fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.02)
    percent(axes.yaxis)


def _label(metric: str) -> str:
    name, at, rank = metric.partition("@")
    return _METRIC_LABELS.get(name, name) + (f"\n@{rank}" if at else "")
