"""The ablation as bars, a group for each choice of losses and a bar for each choice of data, and as curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.page.labels import label_bars
from assets.page.style import empty, markdown_image, model_colors, new_figure, percent, render, title

__all__ = ["ablation_bars", "ablation_curves", "markdown_image"]

ORDER = (
    *("contrastive", "cluster", "instance", "both", "feature", "label", "label_8", "relation", "gradient"),
    *("relation_cluster", "best", "configured"),
)
_WIDTH = 0.8
# Of the figure, what the numbers of its axis leave.
_WIDTH_IN, _PLOT_IN = 11, 9.8
_EQUAL = {"steps": "equal steps", "epochs": "equal epochs"}
_COSTS = {"step": "optimizer step", "elapsed_s": "seconds of training"}


def ablation_bars(rows: Sequence[dict[str, Any]], *, full: Path | None = None) -> bytes:
    """``rows``: ``data, losses, mean, spread, seeds`` and, if there are several, ``axis``, which has a panel each;
    spreads are drawn where there are several seeds."""
    panels = list(dict.fromkeys(row.get("axis", "steps") for row in rows)) or ["steps"]
    figure, axes = new_figure(_WIDTH_IN, 4 * len(panels), nrows=len(panels), squeeze=False)
    for place, axis in enumerate(panels):
        _bars(axes[place, 0], [row for row in rows if row.get("axis", "steps") == axis], _EQUAL[axis])
    _legend(figure, axes[0, 0])
    return render(figure, full)


def _bars(axes: Any, rows: Sequence[dict[str, Any]], equal: str) -> None:
    if not rows:
        empty(axes, "no cell was measured")
        return
    data = list(dict.fromkeys(row["data"] for row in rows))
    losses = in_order(row["losses"] for row in rows)
    colors = model_colors(data)
    for place, name in enumerate(data):
        found = {row["losses"]: row for row in rows if row["data"] == name}
        at = [losses.index(loss) + _WIDTH * ((place + 0.5) / len(data) - 0.5) for loss in found]
        means, spreads = ([row[key] for row in found.values()] for key in ("mean", "spread"))
        bars = axes.bar(at, means, _WIDTH / len(data), yerr=spreads, color=colors[name], label=name, capsize=2)
        several = [row["seeds"] > 1 for row in found.values()]
        labels = [
            f"{100 * mean:.1f}" + (f"\n±{100 * spread:.1f}" if more else "")
            for mean, spread, more in zip(means, spreads, several)
        ]
        label_bars(axes, bars, labels, width_pt=72 * _PLOT_IN / len(losses) * _WIDTH / len(data))
    axes.set_xticks(range(len(losses)), losses)
    axes.grid(visible=False, axis="x")
    # Room for the labels of the highest.
    axes.margins(x=0.01, y=0.14)
    axes.set_ylim(bottom=0)
    percent(axes.yaxis)
    seeds = min(row["seeds"] for row in rows)
    what = f"mean and spread of {seeds} seeds or more" if seeds > 1 else "one seed at least"
    title(axes, f"zero-shot top-1 by losses and data, {equal}, {what}")


def ablation_curves(rows: Sequence[dict[str, Any]], *, full: Path | None = None) -> bytes:
    """A panel for each choice of losses, a line for each of data: accuracy over steps, and below it over the time that
    they took, which is where two choices are compared at equal cost.

    ``rows``: ``data, losses, steps, step, mean, elapsed_s``, several of a run; those without a time have no place in
    the lower row. Runs of equal epochs are lines of their own where they have other steps, dashed.
    """
    losses = in_order(row["losses"] for row in rows)
    figure, axes = new_figure(11, 5.5, nrows=2, ncols=max(1, len(losses)), squeeze=False, sharey=True)
    if not rows:
        for panel in axes.flat:
            empty(panel, "no cell was measured")
    colors = model_colors(list(dict.fromkeys(row["data"] for row in rows)))
    lines: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        line = lines.setdefault((row["losses"], row["data"], row["steps"]), [])
        # What is the same on two axes is one line.
        if row["step"] not in [other["step"] for other in line]:
            line.append(row)
    longest = max((row["steps"] for row in rows if row.get("axis", "steps") == "steps"), default=0)
    for (loss, data, steps), line in lines.items():
        for place, cost in enumerate(_COSTS):
            known = sorted((row[cost], row["mean"]) for row in line if row[cost] is not None)
            style = "--" if longest and steps != longest else "-"
            label = data if style == "-" else None
            axes[place, losses.index(loss)].plot(*zip(*known), style, marker="o", ms=3, color=colors[data], label=label)
    for column, loss in enumerate(losses):
        title(axes[0, column], loss, panel=True)
        for place, cost in enumerate(_COSTS.values()):
            axes[place, column].set_xlabel(cost, fontsize=8)
            axes[place, column].locator_params(axis="x", nbins=4)
            percent(axes[place, column].yaxis)
    _legend(figure, axes[0, 0])
    return render(figure, full)


def _legend(figure: Any, axes: Any) -> None:
    """What the colors are, above all panels: within one it would lie on what is drawn."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False)


def in_order(losses: Any) -> list[str]:
    """The choices of losses that there are, in the order in which they are shown; others come last."""
    found = list(dict.fromkeys(losses))
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), found.index(name)))
