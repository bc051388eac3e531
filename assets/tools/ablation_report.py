"""Table and figure of an ablation, finished or not, and the value of each of its cells.

``python -m assets.tools.ablation_report data/demo [--picture FILE] [--cells FILE]``
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from assets.page.ablation_plot import ORDER, ablation_bars
from training.ablation.stage import TABLE, summary


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of :func:`summary`'s rows: a line for each choice of losses, a column for each choice of data."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    cells = {(row["losses"], row["data"]): _cell(row) for row in rows}
    losses = [name for name in ORDER if any(row["losses"] == name for row in rows)]
    lines = [["losses", *data], ["---"] * (len(data) + 1)]
    lines += [[f"`{name}`", *(cells.get((name, column), "–") for column in data)] for name in losses]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: dict[str, Any]) -> str:
    """Mean, spread where there is one, and the number of seeds."""
    spread = f" ± {100 * row['spread']:.1f}" if row["seeds"] > 1 else ""
    return f"{100 * row['mean']:.1f}{spread} % ({row['seeds']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the root of the data set, for example data/demo")
    parser.add_argument("--picture", type=Path, help="where the figure goes, as JPEG")
    parser.add_argument("--cells", type=Path, help="where zero-shot top-1 of each cell goes, as CSV")
    arguments = parser.parse_args()
    files = sorted((arguments.root / TABLE).glob("*.parquet"))
    rows = summary(files)
    print(report(rows), end="")
    if arguments.picture:
        arguments.picture.write_bytes(ablation_bars(rows))
    if arguments.cells:
        top1 = duckdb.read_parquet([str(path) for path in files], hive_partitioning=False).filter(
            "task = 'zero_shot' AND metric = 'top1'"
        )
        top1.project("data, losses, seed, value").order("ALL").write_csv(str(arguments.cells))


if __name__ == "__main__":
    main()
