"""Every picture that the report of a root has, for papers and slides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from assets.page import pictures
from assets.page.report.stages import Stages
from assets.page.style import for_print
from assets.settings import Settings
from pipeline.storage.roots import storage_of

_OF_STAGES: dict[str, Callable[[Any, Settings], Any]] = {
    "images": pictures.download_outcomes,
    "balance": pictures.balance_pictures,
    "clusters": pictures.cluster_pictures,
    "evaluation": pictures.evaluation_pictures,
    "cluster_accuracy": pictures.cluster_accuracy_pictures,
    "ablation": pictures.ablation_pictures,
}


def write_pictures(config: Settings, folder: Path) -> list[str]:
    """Draw the pictures of a root's complete stages to ``folder``, light and dark, as SVG and PNG; returns their names.

    Nothing of the root is changed. Raises :class:`pipeline.core.errors.PipelineError` for a table that is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = Stages.of(storage_of(config.path), None).done
    with for_print(folder):
        for name, draw in _OF_STAGES.items():
            if name in done:
                draw(done[name], config)
        runs = [run for run in ("student", "baseline") if run in done]
        if runs:
            # Both are in one picture.
            pictures.training_pictures(config, runs[0])
    return sorted(path.name for path in folder.iterdir())
