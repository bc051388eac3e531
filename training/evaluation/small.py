"""Evaluation sets made small enough to be measured on again and again while a student is trained, and what measures of
them are called: ``<task>/<set>/<metric>``, and ``held_out/<term>`` for losses of samples that are not trained on."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import ConfigError
from training.config.student import HELD_OUT
from training.evaluation.datasets import EvaluationSet, Split, read_evaluation_set

LOSS = "loss"
_SEED = 0
_METRICS = {
    "zero_shot": ("top1", "top5", "mean_per_class_recall"),
    "retrieval": tuple(f"{way}_recall@{rank}" for way in ("image_to_text", "text_to_image") for rank in (1, 5, 10)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallSet:
    """A data set with some of its test samples, and the tasks that it has all they need for."""

    data: EvaluationSet
    tasks: tuple[str, ...]


def open_small_set(folder: Path, tasks: Sequence[str], *, samples: int) -> SmallSet:
    """``samples`` test samples of a set, the same ones each time; all where it has no more.

    Raises :class:`ConfigError` for a set that none of the tasks can be measured on, and what
    :func:`training.evaluation.datasets.read_evaluation_set` raises.
    """
    from training.evaluation.run import missing_for

    data = read_evaluation_set(folder)
    lacking = {task: missing_for(data, task) for task in tasks}
    if all(lacking.values()):
        reasons = "; ".join(f"{task} needs {what}" for task, what in lacking.items()) or "no task is asked for"
        raise ConfigError(f"evaluation set {folder}: nothing can be measured on it: {reasons}")
    data = dataclasses.replace(data, test=_drawn(data.test, samples))
    return SmallSet(data=data, tasks=tuple(task for task, what in lacking.items() if not what))


def open_small_sets(folders: Sequence[Path], tasks: Sequence[str], *, samples: int) -> list[SmallSet]:
    """Each of some sets; :class:`ConfigError` too if two have one name."""
    sets = [open_small_set(folder, tasks, samples=samples) for folder in folders]
    names = [one.data.name for one in sets]
    if len(set(names)) < len(names):
        raise ConfigError(f"evaluation sets: expected different names, got {names}")
    return sets


def measures(tasks: Mapping[str, Sequence[str]], terms: Iterable[str]) -> list[str]:
    """Names of all that is measured: ``tasks`` by set, and ``terms`` of the loss, none if no sample is held out."""
    of_sets = [f"{task}/{name}/{metric}" for name, some in tasks.items() for task in some for metric in _METRICS[task]]
    return of_sets + [f"{HELD_OUT}/{name}" for name in (LOSS, *terms) if terms]


def is_lowest_best(measure: str) -> bool:
    """Whether a measure is a loss."""
    return measure.startswith(f"{HELD_OUT}/")


def parts_of(measure: str) -> tuple[str, str | None, str]:
    """Task, set and metric; losses of held-out samples have no set."""
    task, *name, metric = measure.split("/")
    return task, name[0] if name else None, metric


def _drawn(split: Split, samples: int) -> Split:
    """Not the first ones: many sets are stored class by class."""
    if samples >= len(split):
        return split
    chosen = np.sort(np.random.default_rng(_SEED).choice(len(split), samples, replace=False)).tolist()
    fields = {name: getattr(split, name) for name in ("images", "labels", "captions")}
    drawn: dict[str, Any] = {
        name: tuple(values[number] for number in chosen) for name, values in fields.items() if values
    }
    return dataclasses.replace(split, **drawn)
