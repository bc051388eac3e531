"""The tables of ``docs/results.md`` that are made from committed results, and the ablation's figure.

``python -m assets.tools.results_page`` writes them between their markers; with ``--check``: say whether they are what
the results say.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.page.ablation_plot import ablation_bars
from assets.tools.ablation_report import differences, markdown_table, paired_cell, read_points, report
from assets.tools.students_report import models_table, students_tables
from training.ablation.paired import PairedDifference, paired_difference
from training.ablation.points import Point, at_end, means

PAGE = Path("docs/results.md")
PICTURE = Path("docs/images/ablation.jpg")
_RESULTS = Path("benchmarks/results")
# Of the grid that was committed before points had their steps with them.
_STEPS = 200
_AHEAD = 0.1
_MODELS = ("teacher", "student", "baseline")


def page(text: str, results: Path = _RESULTS) -> str:
    """The page with its tables made anew; :class:`ValueError` for one that lacks a marker."""
    demo = json.loads((results / "demo.json").read_text())["rows"]
    tables = {"demo": demo_table(demo), "ablation": ablation_tables(_points(results))}
    for file in sorted(results.glob("students_*.json")):
        tables[file.stem.replace("_", " ")] = students_tables(json.loads(file.read_text())["rows"])
    if (emoji := results / "emoji" / "student.json").exists():
        tables["emoji"] = models_table([row for row in json.loads(emoji.read_text())["rows"] if "model" in row])
    for name, table in tables.items():
        text = _between(text, f"<!-- generated: {name} -->", f"<!-- end: {name} -->", table)
    return text


def _between(text: str, begin: str, end: str, table: str) -> str:
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{PAGE}: expected {begin!r} and {end!r}, each once")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{table}\n{end}{rest.partition(end)[2]}"


def _points(results: Path) -> list[Point]:
    return read_points(results / "ablation.csv", steps=_STEPS)


def ablation_tables(rows: Sequence[Point]) -> str:
    """Means over seeds, and differences within them."""
    axes = dict.fromkeys(row["axis"] for row in rows)
    parts = [report(means(row for row in at_end(rows) if row["axis"] == axis)) for axis in axes]
    return "\n".join([*parts, differences(rows)])


def demo_table(rows: Sequence[dict[str, Any]]) -> str:
    """Each seed of the benchmark ``demo``, their mean and spread, and the difference within seeds in words."""
    seeds = [row for row in rows if isinstance(row["seed"], int)]
    lines = [
        [
            str(row.get("teacher_seed", row["seed"])),
            str(row["seed"]),
            f"{row['threshold']:.3f}" if "threshold" in row else "–",
            f"{100 * row['kept_share']:.1f} %",
            *(f"{100 * _top1(row, model):.1f} %" for model in _MODELS),
            f"{100 * (_top1(row, 'student') - _top1(row, 'baseline')):+.1f}",
        ]
        for row in seeds
    ]
    gains = [_top1(row, "student") - _top1(row, "baseline") for row in seeds]
    mean = [_mean([100 * _top1(row, model) for row in seeds], " %") for model in _MODELS]
    kept = _mean([100 * row["kept_share"] for row in seeds], " %")
    lines.append(["mean", "", "", kept, *mean, _mean([100 * gain for gain in gains], "")])
    head = ["teacher's seed", "student's seed", "threshold", "images kept", *_MODELS, "student − baseline, points"]
    found = [row for row in rows if row["seed"] == "paired" and row.get("teacher_seed") == "all"]
    paired = PairedDifference(**{name: found[0][name] for name in _PAIRED}) if found else _by_t(seeds)
    how = "bootstrap over seeds and test images, within each teacher" if found else "Student's t over seeds"
    far = sum(gain >= _AHEAD for gain in gains)
    return (
        markdown_table(head, lines)
        + f"\nStudent − baseline within a seed, in points, with the 95 % interval ({how}) and the seeds in which the "
        + f"student is ahead: {paired_cell(paired)}; by {100 * _AHEAD:.0f} points or more in {far}.\n"
    )


_PAIRED = ("mean", "low", "high", "wins", "seeds")


def _by_t(rows: Sequence[dict[str, Any]]) -> PairedDifference:
    return paired_difference(*([_top1(row, model) for row in rows] for model in ("student", "baseline")))


def _top1(row: dict[str, Any], model: str) -> float:
    return float(row[f"zero_shot_top1_{model}"])


def _mean(values: Sequence[float], unit: str) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{'' if unit else '+'}.1f}{spread}{unit}"


def main() -> None:
    text = page(PAGE.read_text())
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() != text:
            sys.exit(f"{PAGE} is not what {_RESULTS} says: python -m assets.tools.results_page")
        return
    PAGE.write_text(text)
    PICTURE.write_bytes(ablation_bars(means(at_end(_points(_RESULTS)))))


if __name__ == "__main__":
    main()
