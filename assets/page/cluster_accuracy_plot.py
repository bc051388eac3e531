"""Where the student fails: a dot for each cluster of its training images, by its accuracy and the teacher's."""

from pathlib import Path

import pyarrow as pa

from assets.page.style import empty, new_figure, percent, render, title
from assets.page.themes import BLUE, GRAY

# Area in points² of the dot of the largest cluster, and of the smallest that can still be seen.
_LARGEST, _SMALLEST = 160.0, 4.0


def cluster_accuracy_dots(table: pa.Table, *, full: Path | None = None) -> bytes:
    """``table``: columns of ``schema.CLUSTER_ACCURACY``. Dots below the line are clusters of which the student knows
    less than the teacher; their area grows with the number of images."""
    figure, axes = new_figure(6.4, 5.6)
    images = table["images"].to_numpy()
    if not len(images):
        empty(axes, "no cluster was measured")
        return render(figure, full)
    accuracies = {name: table[f"{name}_accuracy"].to_numpy() for name in ("teacher", "student")}
    means = {name: float(values @ images / images.sum()) for name, values in accuracies.items()}
    sizes = (_LARGEST * images / images.max()).clip(min=_SMALLEST)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1, zorder=1)
    axes.scatter(accuracies["teacher"], accuracies["student"], s=sizes, color=BLUE, alpha=0.45, linewidths=0, zorder=2)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="teacher", ylabel="student")
    percent(axes.xaxis)
    percent(axes.yaxis)
    said = f"{images.sum():,} images of {len(images):,} clusters find their caption"
    title(axes, f"{said}: teacher {means['teacher']:.1%}, student {means['student']:.1%}")
    return render(figure, full)
