"""A trained model as it goes to others: the export as it lies in the root, and a card with what was measured since.

The stage's own card is written before the evaluation and stays as it is; the one made here takes its place in a copy.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.clip.checkpoint import looks_like_a_path
from pipeline.core import parquet
from pipeline.core.errors import MissingInputError
from pipeline.hub.card import check_hub_ids, check_license
from pipeline.storage.completion import complete_mark
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from training.config.student import SCRATCH, TEACHER
from training.export.model_card import CARD_FILE, final_card

_HUB = "hf-hub:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """``results`` of the evaluation in the card, and what the card could not say."""

    model: str
    results: int
    base_model: str | None
    hints: list[str]


def export_model(
    root: Path,
    model: str,
    folder: Path,
    *,
    title: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> ExportedModel:
    """Copy a model of a root into ``folder``, with its final card.

    Args:
        root: one whose stage ``model`` is complete.
        model: ``student`` or ``baseline``.
        folder: an empty folder.
        title: the name under which the card gives its results; that of the folder if none is given.
        license: an identifier of the Hub, such as ``apache-2.0``.
        datasets: names on the Hub of what it was trained on.

    Returns:
        What is in the card, and hints at what is not.

    Raises:
        MissingInputError: the model was not trained, or its files are damaged.
        ConfigError: a license or a name of a data set that is none.
    """
    check_license(license)
    check_hub_ids(datasets, what="dataset")
    trained = read_result(root, model)
    trained.check()
    shutil.copytree(trained.folder(model), folder, dirs_exist_ok=True)
    rows, unmeasured = _evaluation(root, trained)
    base, unknown = _base_model(root, trained)
    card = final_card(
        (folder / CARD_FILE).read_text(encoding="utf-8"),
        title=title or folder.name,
        model=model,
        rows=rows,
        license=license,
        base_model=base,
        datasets=datasets,
    )
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    unlicensed = None if license else "the card gives no license, which --license does"
    results = sum(row["model"] == model for row in rows)
    hints = [hint for hint in (unmeasured, unknown, unlicensed) if hint]
    return ExportedModel(model=model, results=results, base_model=base, hints=hints)


def _evaluation(root: Path, trained: StageResult) -> tuple[list[dict[str, Any]], str | None]:
    """Rows of the table ``evaluation``, if they are of these very weights, or why there are none."""
    if complete_mark(storage_of(root), "evaluation") is None:
        return [], "it was not evaluated yet"
    result = read_result(root, "evaluation")
    measured = result.stats.get("models", {})
    if measured.get(trained.name) != trained.digest:
        return [], f"the evaluation is not of this {trained.name}: run it again"
    table = parquet.read_table(result.verified("evaluation")[0])
    # Others of that run that were trained anew since are not what was measured.
    now = [name for name, digest in measured.items() if name == trained.name or _digest(root, name) == digest]
    return [row for row in table.to_pylist() if row["model"] in now], None


def _digest(root: Path, name: str) -> str | None:
    try:
        return read_result(root, name).digest
    except MissingInputError:
        return None


def _base_model(root: Path, trained: StageResult) -> tuple[str | None, str | None]:
    """The name on the Hub of what its first weights were taken from, or why there is none to give."""
    initial, model = trained.stats.get("initial", SCRATCH), trained.stats.get("model", "")
    if initial == SCRATCH:
        return None, None
    if initial == TEACHER:
        stats = read_result(root, "teacher").stats
        found = hub_id(stats["name"], stats.get("pretrained"))
    else:
        found = hub_id(model, initial)
    return found, None if found else "its first weights have no name on the Hub, so the card gives no base model"


def hub_id(model: str, pretrained: str | None) -> str | None:
    """The repository that open_clip takes these weights from, if there is one."""
    if model.startswith(_HUB):
        return model.removeprefix(_HUB).partition("@")[0]
    if pretrained is None or looks_like_a_path(pretrained):
        return None
    import open_clip

    found = open_clip.get_pretrained_cfg(model, pretrained) or {}
    return "/".join(str(found.get("hf_hub", "")).split("/")[:2]) or None
