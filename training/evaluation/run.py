"""Measure CLIP models on evaluation sets: features once per model and data set, shared by all tasks."""

import functools
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.clip.model import CONFIG_FILE, WEIGHTS_FILE, LoadedClip, load_clip
from pipeline.core import schema
from pipeline.core.devices import gpu_memory_returned
from pipeline.core.errors import ConfigError
from training.evaluation.accuracy import classification_scores
from training.evaluation.collection import evaluation_sets
from training.evaluation.datasets import (
    CLASSNAMES_FILE,
    CLEAN,
    TEMPLATES_FILE,
    TEST,
    TRAIN,
    EvaluationSet,
    Split,
    read_evaluation_set,
)
from training.evaluation.features import image_features, text_features
from training.evaluation.linear_probe import fit_linear_probe
from training.evaluation.retrieval import retrieval_recall, unique_texts
from training.evaluation.zero_shot import prompt_ensemble

log = logging.getLogger(__name__)

ZERO_SHOT, LINEAR_PROBE, RETRIEVAL = "zero_shot", "linear_probe", "retrieval"
TASKS = (ZERO_SHOT, LINEAR_PROBE, RETRIEVAL)


@gpu_memory_returned()
def evaluate(
    models: dict[str, Path],
    datasets: list[Path],
    tasks: Sequence[str],
    *,
    batch_size: int = 256,
    device: str = "auto",
    leaked: Mapping[str, Collection[str]] | None = None,
) -> pa.Table:
    """Measure every model (name to open_clip folder) on every data set: ``schema.EVALUATION``, one row a metric.

    Values are shares in [0, 1]; ``samples`` is the number of queries behind one. A task runs on the data sets that have
    what it needs; a folder of data sets stands for those in it (:func:`evaluation_sets`). ``leaked`` names, by data
    set, test samples (:attr:`ImageMember.name`) that training images are near to: all metrics are then also taken as if
    the test split had the others alone, in rows of ``<name> (clean)``.

    Everything that can be is checked before the first model is loaded: raises :class:`ConfigError` for models, data
    sets or tasks that are missing, or do not fit one another, :class:`ShardError` for a damaged data set.
    """
    _check_models(models)
    _check_tasks(tasks)
    sets = [read_evaluation_set(folder) for folder in evaluation_sets(datasets)[0]]
    plan = _plan(sets, tasks)
    rows = []
    for model, folder in models.items():
        clip = load_clip(folder, device=device)
        for dataset in sets:
            measure = _Measurement(clip, dataset, batch_size)
            parts = _parts(dataset, (leaked or {}).get(dataset.name, ()))
            for task, (name, part) in itertools.product(plan[dataset.name], parts.items()):
                for metric, (value, samples) in measure.task(task, part).items():
                    rows.append((model, task, name, metric, value, samples))
                    log.info("%s, %s on %s: %s %.4f of %d", model, task, name, metric, value, samples)
    columns = zip(*rows)
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema.EVALUATION)], schema=schema.EVALUATION
    )


def _parts(dataset: EvaluationSet, leaked: Collection[str]) -> dict[str, list[int]]:
    """Which test samples to measure on, by the name that the data set then has: all, and those that have not leaked, if
    there are both."""
    parts = {dataset.name: list(range(len(dataset.test)))}
    clean = [number for number, image in enumerate(dataset.test.images) if image.name not in leaked]
    if not clean:
        log.warning("%s: all %d test samples are near to training images", dataset.name, len(dataset.test))
    elif len(clean) < len(dataset.test):
        parts[dataset.name + CLEAN] = clean
    return parts


def _check_models(models: dict[str, Path]) -> None:
    if not models:
        raise ConfigError("evaluation: no model to measure")
    for name, folder in models.items():
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / file).is_file():
                raise ConfigError(f"evaluation: model {name!r} has no {file} in {folder}")


def _check_tasks(tasks: Sequence[str]) -> None:
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        raise ConfigError(f"evaluation: tasks must be some of {', '.join(TASKS)}, got {list(tasks)}")


def _plan(sets: list[EvaluationSet], tasks: Sequence[str]) -> dict[str, list[str]]:
    """The tasks to run on each data set, by its name. A request that would measure nothing is refused."""
    names = [dataset.name for dataset in sets]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"evaluation: expected data sets of different names, got {names}")
    plan: dict[str, list[str]] = {name: [] for name in names}
    reasons: list[str] = []
    for dataset in sets:
        for task in dict.fromkeys(tasks):
            lacking = missing_for(dataset, task)
            if lacking:
                reasons.append(f"{task} needs {lacking}, which {dataset.name} lacks")
            else:
                plan[dataset.name].append(task)
    idle = [name for name in names if not plan[name]] + [
        task for task in tasks if not any(task in t for t in plan.values())
    ]
    if idle:
        raise ConfigError(f"evaluation: nothing could be measured for {', '.join(idle)}: {'; '.join(reasons)}")
    for reason in reasons:
        log.info("skipped: %s", reason)
    return plan


def missing_for(dataset: EvaluationSet, task: str) -> str | None:
    """What a data set lacks for a task, or None."""
    labeled = f"a cls member in the samples of {TEST}/"
    if task == RETRIEVAL:
        return None if dataset.test.captions else f"a txt member in the samples of {TEST}/"
    if task == LINEAR_PROBE:
        trainable = dataset.train is not None and len(dataset.train.labels) > 0
        return (None if dataset.test.labels else labeled) if trainable else f"a folder {TRAIN}/ of samples with cls"
    if not dataset.classnames:
        return CLASSNAMES_FILE
    return (None if dataset.test.labels else labeled) if dataset.templates else TEMPLATES_FILE


class _Measurement:
    """One model on one data set; features, and what is fitted to them, are computed when a task first asks for them."""

    def __init__(self, clip: LoadedClip, dataset: EvaluationSet, batch_size: int):
        self._clip, self._dataset, self._batch_size = clip, dataset, batch_size

    def task(self, task: str, part: list[int]) -> dict[str, tuple[float, int]]:
        """Metrics by name, value and number of queries, of the test samples with these numbers."""
        if task == RETRIEVAL:
            return self._retrieval(part)
        rows = self._test[part]
        labels = _labels(self._dataset.test)[part]
        if task == ZERO_SHOT:
            scores = classification_scores(rows, labels, self._prompts)
        else:
            device = self._clip.device
            scores = classification_scores(rows.to(device), labels.to(device), *self._probe)
        return {name: (score, len(rows)) for name, score in scores.items()}

    def _retrieval(self, part: list[int]) -> dict[str, tuple[float, int]]:
        captions = self._dataset.test.captions
        texts, images, ids = unique_texts([captions[number] for number in part])
        numbers, features = self._captions
        rows, features = self._test[part], features[[numbers[text] for text in texts]]
        device = self._clip.device
        scores = retrieval_recall(rows.to(device), features.to(device), images.to(device), ids.to(device))
        queries = {"image_to_text": len(rows), "text_to_image": len(ids)}
        return {name: (score, queries[name.partition("_recall")[0]]) for name, score in scores.items()}

    @functools.cached_property
    def _prompts(self) -> Tensor:
        classnames, templates = self._dataset.classnames, self._dataset.templates
        return prompt_ensemble(self._clip, classnames, templates, batch_size=self._batch_size)

    @functools.cached_property
    def _probe(self) -> tuple[Tensor, Tensor]:
        """Weights and intercepts. Fitted to the train split, so the same whatever of the test split it is tried on."""
        train, test = self._dataset.train, self._dataset.test
        assert train is not None
        features, device = self._features(train), self._clip.device
        classes = len(self._dataset.classnames) or max(*train.labels, *test.labels) + 1
        weights, bias, c = fit_linear_probe(features.to(device), _labels(train).to(device), classes=classes)
        log.info("linear probe on %s: C=%g", train.name, c)
        return weights, bias

    @functools.cached_property
    def _captions(self) -> tuple[dict[str, int], Tensor]:
        """The number of each distinct caption, and features in their order."""
        texts, _, _ = unique_texts(self._dataset.test.captions)
        features = text_features(self._clip, texts, batch_size=self._batch_size)
        return {text: number for number, text in enumerate(texts)}, features

    @functools.cached_property
    def _test(self) -> Tensor:
        return self._features(self._dataset.test)

    def _features(self, split: Split) -> Tensor:
        features = image_features(self._clip, split, batch_size=self._batch_size)
        assert len(features) == len(split), f"{split.name}: {len(features)} features of {len(split)} samples"
        return features


def _labels(split: Split) -> Tensor:
    return torch.tensor(split.labels, dtype=torch.int64)
