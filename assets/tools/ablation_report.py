"""Tables and figures of an ablation: of the grid that a root was last asked for, or of all cells that it has.

``python -m assets.tools.ablation_report data/demo [--all] [--picture FILE] [--curves FILE] [--cells FILE]``
"""

import argparse
import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from assets.page.ablation_plot import ablation_bars, ablation_curves, in_order
from training.ablation.earlier import CELLS, TABLE
from training.ablation.paired import PairedDifference
from training.ablation.points import Comparison, Point, at_end, comparisons, means, points, within

COLUMNS = ("axis", "data", "losses", "seed", "steps", "step", "epochs", "elapsed_s", "value")
"""Of the CSV file of all points; what nobody noted is empty."""

_EQUAL = {"steps": "equal steps", "epochs": "equal epochs"}


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of means over seeds, one of a run: a line for each choice of losses, a column for each of data."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    cells = {(row["losses"], row["data"]): _cell(row) for row in rows}
    lines = [[f"`{name}`", *(cells.get((name, column), "–") for column in data)] for name in _losses(rows)]
    return markdown_table(["losses", *data], lines)


def differences(rows: Iterable[Point]) -> str:
    """Markdown of what is compared within each seed, in points: the mean, the 95 % interval by Student's t over seeds,
    and in how many of them the first is ahead. A table of data and one of losses for each axis."""
    found = comparisons(rows)
    parts = []
    for axis, kind in dict.fromkeys((comparison.axis, comparison.kind) for comparison in found):
        here = [comparison for comparison in found if (comparison.axis, comparison.kind) == (axis, kind)]
        # Down go the losses, or what is compared of them.
        cells = {_place(comparison): paired_cell(comparison.difference) for comparison in here}
        down, across = (list(dict.fromkeys(place[side] for place in cells)) for side in (0, 1))
        lines = [[name, *(cells.get((name, column), "–") for column in across)] for name in down]
        parts.append(markdown_table([_EQUAL[axis], *across], lines))
    return "\n".join(parts)


def _place(comparison: Comparison) -> tuple[str, str]:
    """Line and column."""
    if comparison.kind == "data":
        return f"`{comparison.where}`", f"{comparison.first} − {comparison.second}"
    return f"`{comparison.first}` − `{comparison.second}`", comparison.where


def paired_cell(found: PairedDifference) -> str:
    """Mean, interval and wins, in points."""
    interval = "" if math.isnan(found.low) else f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return f"{100 * found.mean:+.1f}{interval}, {found.wins} of {found.seeds}"


def whole_report(rows: Sequence[Point]) -> str:
    """Markdown of all that was asked: a table for each axis, at equal cost where times are known, and differences."""
    final = at_end(rows)
    parts = [
        f"At {_EQUAL[axis]}{_steps(final, axis)}:\n\n{report(means(_on(final, axis)))}"
        for axis in dict.fromkeys(row["axis"] for row in final)
    ]
    seconds = _shortest(final)
    if seconds is not None and len(rows) > len(final):
        cost = means(within(rows, seconds))
        parts.append(f"At equal cost, what was last measured within {seconds:.1f} s of training:\n\n{report(cost)}")
    parts.append(f"Differences within a seed:\n\n{differences(rows)}")
    return "\n".join(parts)


def _on(rows: Iterable[Point], axis: str) -> list[Point]:
    return [row for row in rows if row["axis"] == axis]


def _steps(rows: Iterable[Point], axis: str) -> str:
    """How many, where they are the same for all choices of data or for each of them."""
    steps = {(row["data"], row["steps"]) for row in _on(rows, axis)}
    if len({number for _, number in steps}) == 1:
        return f", {next(iter(steps))[1]}"
    return f" ({', '.join(f'{data} {number} steps' for data, number in sorted(steps))})"


def _shortest(rows: Iterable[Point]) -> float | None:
    """Seconds within which every run at equal steps was over once; None where a time is not known."""
    times = [row["elapsed_s"] for row in _on(rows, "steps")]
    return min(times) if times and None not in times else None


def _losses(rows: Iterable[dict[str, Any]]) -> list[str]:
    return in_order(row["losses"] for row in rows)


def _cell(row: dict[str, Any]) -> str:
    """Mean, spread where there is one, and the number of seeds."""
    spread = f" ± {100 * row['spread']:.1f}" if row["seeds"] > 1 else ""
    return f"{100 * row['mean']:.1f}{spread} % ({row['seeds']})"


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


def every_cell(root: Path) -> str:
    """Markdown of all cells on the disk, those of earlier grids too, and which are of the last one."""
    grid = {_identity(row) for row in points(sorted((root / TABLE).glob("*.parquet")))}
    lines = [
        [
            *(str(row[name]) for name in ("data", "losses", "seed", "steps", "step")),
            f"{100 * row['value']:.1f} %",
            "yes" if _identity(row) in grid else "no",
        ]
        for row in points(sorted((root / CELLS).glob("*.parquet")))
    ]
    return markdown_table(["data", "losses", "seed", "steps", "step", "zero-shot top-1", "in this grid"], lines)


def _identity(row: Point) -> tuple[Any, ...]:
    """What is the same in both tables."""
    return tuple(row[name] for name in COLUMNS if name != "axis")


def write_points(rows: Iterable[Point], path: Path) -> None:
    """All points as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: [str(row[name]) for name in COLUMNS[:6]]))


def read_points(path: Path, *, steps: int | None = None) -> list[Point]:
    """Points of such a file. Those of earlier versions say nothing of steps, which are given then: all were equal."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "axis": row.get("axis", "steps"),
            "data": row["data"],
            "losses": row["losses"],
            "seed": int(row["seed"]),
            "steps": int(row.get("steps") or steps or 0),
            "step": int(row.get("step") or steps or 0),
            "epochs": _number(row.get("epochs")),
            "elapsed_s": _number(row.get("elapsed_s")),
            "value": float(row["value"]),
        }
        for row in rows
    ]


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the root of the data set, for example data/demo")
    parser.add_argument("--all", action="store_true", help="list the cells of all grids, finished or not")
    parser.add_argument("--picture", type=Path, help="where the bars go, as JPEG")
    parser.add_argument("--curves", type=Path, help="where the curves over steps and time go, as JPEG")
    parser.add_argument("--cells", type=Path, help="where zero-shot top-1 of each cell goes, as CSV")
    arguments = parser.parse_args()
    if arguments.all:
        print(every_cell(arguments.root), end="")
        return
    rows = points(sorted((arguments.root / TABLE).glob("*.parquet")))
    if not rows:
        parser.error(f"{arguments.root} has no grid that was finished; --all lists the cells that there are")
    print(whole_report(rows), end="")
    if arguments.picture:
        arguments.picture.write_bytes(ablation_bars(means(at_end(rows))))
    if arguments.curves:
        arguments.curves.write_bytes(ablation_curves(means(rows)))
    if arguments.cells:
        write_points(rows, arguments.cells)


if __name__ == "__main__":
    main()
