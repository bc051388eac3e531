"""All stages one after another, as a job runs them, without Dagster: for tests that start and kill many runs.

``python -m tests.integration.stages SETTINGS.json [LAST STAGE]``
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from assets.settings import Settings
from tests import conftest


def train_student(settings: Settings) -> None:
    from training.stage import train_student as train

    train(settings.path, settings.student)


def train_baseline(settings: Settings) -> None:
    from training.stage import train_baseline as train

    train(settings.path, settings.student)


def evaluate(settings: Settings) -> None:
    from pipeline.demo.stage import resolve_datasets
    from training.evaluation.stage import evaluate_models

    datasets = resolve_datasets(settings.evaluation.datasets, settings.path, settings.demo)
    evaluate_models(settings.path, settings.evaluation, datasets=datasets, baseline=True)


STAGES: tuple[Callable[[Settings], object], ...] = (*conftest.STAGES, train_student, train_baseline, evaluate)


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    for stage in STAGES:
        stage(settings)
        if stage.__name__ in sys.argv[2:]:
            break


if __name__ == "__main__":
    main()
