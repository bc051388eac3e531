"""Markdown of what ``benchmarks.students`` measured of a corpus."""

import statistics
from collections.abc import Sequence
from typing import Any

from assets.tools.ablation_report import markdown_table, paired_cell
from training.ablation.paired import paired_difference

_HEADS = {"losses": "losses", "rules": "data", "cluster_term": "cluster term", "small_batches": "losses, batch of 32"}


def students_tables(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each part and axis: top-1 over seeds, and by how many points it is ahead of the part's first choice
    within each seed, with the 95 % interval by Student's t and the number of seeds in which it is."""
    places = dict.fromkeys((row["part"], row["axis"]) for row in rows)
    return "\n".join(
        _table(part, axis, [row for row in rows if (row["part"], row["axis"]) == (part, axis)]) for part, axis in places
    )


def _table(part: str, axis: str, rows: Sequence[dict[str, Any]]) -> str:
    choices = list(dict.fromkeys(row["choice"] for row in rows))
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    values = {
        (choice, dataset): _by_seed(row for row in rows if (row["choice"], row["dataset"]) == (choice, dataset))
        for choice in choices
        for dataset in datasets
    }
    head = [f"{_HEADS[part]}, equal {axis}"]
    for dataset in datasets:
        head += [dataset, f"− {choices[0]}"]
    lines = []
    for choice in choices:
        line = [choice]
        for dataset in datasets:
            found, first = values[choice, dataset], values[choices[0], dataset]
            line += [_mean(found), "" if choice == choices[0] else _difference(found, first)]
        lines.append(line)
    return markdown_table(head, lines)


def _by_seed(rows: Any) -> dict[int, float]:
    return {row["seed"]: row["top1"] for row in rows}


def _mean(values: dict[int, float]) -> str:
    shares = [100 * value for value in values.values()]
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.1f}{spread} %"


def _difference(values: dict[int, float], first: dict[int, float]) -> str:
    seeds = [seed for seed in values if seed in first]
    return paired_cell(paired_difference([values[seed] for seed in seeds], [first[seed] for seed in seeds]))


def models_table(rows: Sequence[dict[str, Any]]) -> str:
    """Top-1 and top-5 of each model, a line for each evaluation set, from rows that have them in per cent."""
    models = [model for model in ("teacher", "student", "baseline") if any(row["model"] == model for row in rows)]
    found = {(row["dataset"], row["model"]): row for row in rows}
    datasets = sorted({row["dataset"] for row in rows})
    lines = [
        [
            f"`{dataset}`",
            *(f"{found[dataset, model][f'top{k}_percent']:.1f}" for model in models for k in (1, 5)),
        ]
        for dataset in datasets
    ]
    return markdown_table(["per cent", *(f"{model}, top-{k}" for model in models for k in (1, 5))], lines)
