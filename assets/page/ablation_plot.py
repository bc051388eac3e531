"""The ablation as bars: a group for each choice of losses, a bar for each choice of data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.page.style import empty, markdown_image, model_colors, new_figure, percent, render, title

__all__ = ["ablation_bars", "markdown_image"]

ORDER = (
    *("contrastive", "cluster", "instance", "both", "feature", "label", "label_8", "relation", "gradient"),
    *("relation_cluster", "best", "configured"),
)
_WIDTH = 0.8


def ablation_bars(rows: Sequence[dict[str, Any]], *, full: Path | None = None) -> bytes:
    """``rows``: ``data, losses, mean, spread, seeds``; spreads are drawn where there are several seeds."""
    figure, axes = new_figure(9, 4)
    data = list(dict.fromkeys(row["data"] for row in rows))
    losses = [name for name in ORDER if any(row["losses"] == name for row in rows)]
    colors = model_colors(data)
    for place, name in enumerate(data):
        found = {row["losses"]: row for row in rows if row["data"] == name}
        at = [losses.index(loss) + _WIDTH * ((place + 0.5) / len(data) - 0.5) for loss in found]
        means, spreads = ([row[key] for row in found.values()] for key in ("mean", "spread"))
        bars = axes.bar(at, means, _WIDTH / len(data), yerr=spreads, color=colors[name], label=name, capsize=2)
        axes.bar_label(bars, labels=[f"{mean:.1%}" for mean in means], padding=2, fontsize=7)
    if not rows:
        empty(axes, "no cell was measured")
    else:
        axes.set_xticks(range(len(losses)), losses)
        axes.legend(frameon=False)
        percent(axes.yaxis)
        seeds = min(row["seeds"] for row in rows)
        several = f"mean and spread of {seeds} seeds or more" if seeds > 1 else "one seed at least"
        title(axes, f"zero-shot top-1 by losses and data, {several}")
    return render(figure, full)
