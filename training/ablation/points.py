"""What an ablation found: its cells as plain rows, their means over seeds, curves, and differences within seeds."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.core import parquet
from training.ablation.grid import LOSSES
from training.ablation.paired import PairedDifference, paired_difference

Point = dict[str, Any]
"""``axis, data, losses, seed, steps, step, epochs, elapsed_s, value``: one metric of a cell after one step; ``epochs``
and ``elapsed_s`` are None where nobody noted them."""

# Which is compared with which: what is first should be better.
_DATA_PAIRS = (("balanced", "random"), ("balanced", "all"))
_LOSS_PAIRS = (("both", "instance"), ("feature", "instance"), ("configured", "both"))
_PLAIN = "contrastive"


def points(files: Iterable[Path], *, task: str = "zero_shot", metric: str = "top1") -> list[Point]:
    """One metric of all cells in the files of ``ablation`` or ``ablation_cells``, of any version, the mean over data
    sets. Where there is no axis, it is that of equal steps."""
    values: dict[tuple[Any, ...], list[float]] = {}
    for path in files:
        for row in parquet.read_table(path).to_pylist():
            if (row["task"], row["metric"]) == (task, metric):
                facts = {"axis": "steps", "step": row["steps"], "epochs": None, "elapsed_s": None, **row}
                values.setdefault(tuple(facts[name] for name in _KEY), []).append(row["value"])
    return [dict(zip(_KEY, key), value=statistics.fmean(found)) for key, found in values.items()]


_KEY = ("axis", "data", "losses", "seed", "steps", "step", "epochs", "elapsed_s")


def at_end(rows: Iterable[Point]) -> list[Point]:
    """Those that were measured after the last step."""
    return [row for row in rows if row["step"] == row["steps"]]


def within(rows: Iterable[Point], seconds: float) -> list[Point]:
    """Of each run at equal steps what it was last measured at before so many seconds of training had passed."""
    best: dict[tuple[Any, ...], Point] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        if row["axis"] == "steps" and row["elapsed_s"] is not None and row["elapsed_s"] <= seconds:
            best[row["data"], row["losses"], row["seed"]] = row
    return list(best.values())


def means(rows: Iterable[Point]) -> list[dict[str, Any]]:
    """``axis, data, losses, steps, step, mean, spread, seeds, epochs, elapsed_s`` over seeds, in the order of ``step``.

    ``spread`` is the standard deviation of one seed from another, ``elapsed_s`` the mean, or None.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for row in rows:
        groups.setdefault((row["axis"], row["data"], row["losses"], row["steps"], row["step"]), []).append(row)
    return [
        {
            **dict(zip(("axis", "data", "losses", "steps", "step"), key)),
            "mean": statistics.fmean(row["value"] for row in found),
            "spread": statistics.stdev(row["value"] for row in found) if len(found) > 1 else 0.0,
            "seeds": len(found),
            "epochs": found[0]["epochs"],
            "elapsed_s": _mean([row["elapsed_s"] for row in found]),
        }
        for key, found in sorted(groups.items())
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def summary(files: Iterable[Path], *, task: str = "zero_shot", metric: str = "top1") -> list[dict[str, Any]]:
    """:func:`means` of one metric of the trained students, a row for each axis, data and losses: ``spread`` is the
    standard deviation over seeds."""
    return means(at_end(points(files, task=task, metric=metric)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """``first`` compared with ``second``, at ``where``, which is the same for both."""

    axis: str
    kind: str
    first: str
    second: str
    where: str
    difference: PairedDifference


def comparisons(rows: Iterable[Point]) -> list[Comparison]:
    """Data with data at the same losses, losses with losses on the same data, over the seeds that both have.

    Balanced pairs with random and with all ones; every choice of losses with the contrastive term alone, and those
    next to each other: both with instance discrimination alone, features with it, all terms with both.
    """
    final = at_end(rows)
    found = []
    for axis in dict.fromkeys(row["axis"] for row in final):
        here = [row for row in final if row["axis"] == axis]
        losses = sorted({row["losses"] for row in here}, key=_place)
        pairs = [(name, _PLAIN) for name in losses if name != _PLAIN] + list(_LOSS_PAIRS)
        found += [_compare(here, axis, "data", pair, name) for name in losses for pair in _DATA_PAIRS]
        data = sorted({row["data"] for row in here})
        found += [_compare(here, axis, "losses", pair, name) for name in data for pair in pairs]
    return [comparison for comparison in found if comparison is not None]


def _place(losses: str) -> tuple[int, str]:
    """That of the grid; others, of a version that knew more, come last."""
    return LOSSES.index(losses) if losses in LOSSES else len(LOSSES), losses


def _compare(rows: Sequence[Point], axis: str, kind: str, pair: tuple[str, str], where: str) -> Comparison | None:
    other = {"data": "losses", "losses": "data"}[kind]
    first, second = (
        {row["seed"]: row["value"] for row in rows if (row[kind], row[other]) == (name, where)} for name in pair
    )
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    difference = paired_difference([first[seed] for seed in shared], [second[seed] for seed in shared])
    return Comparison(axis=axis, kind=kind, first=pair[0], second=pair[1], where=where, difference=difference)
