"""Folders that hold evaluation sets, such as the one that DataComp's script downloads."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import ConfigError
from training.evaluation.datacomp import BY_FOLDER, CACHE_FOLDER
from training.evaluation.datasets import CLASSNAMES_FILE, TEST, TRAIN

log = logging.getLogger(__name__)


def evaluation_sets(folders: Sequence[Path], *, measured: bool = True) -> tuple[list[Path], dict[str, str]]:
    """The evaluation sets that folders stand for, and what was passed over in them: name and reason.

    A folder with ``test/`` is a set. One that has neither that nor another file of a set, but folders with ``test/``,
    stands for these, in the order of their names. With ``measured`` those of DataComp's are passed over whose main
    metric is none of ours: another figure under their name would be taken for it. Named by itself such a set is
    measured like any other; :class:`ConfigError` for one whose class names do not belong to one question.
    """
    sets: list[Path] = []
    skipped: dict[str, str] = {}
    for folder in folders:
        inside = _inside(folder)
        if not inside:
            known = BY_FOLDER.get(folder.name)
            if measured and known and known.mixed:
                raise ConfigError(f"evaluation set {folder}: {known.reason}, so no accuracy has a meaning")
            sets.append(folder)
            continue
        reasons = {path.name: _reason(path, measured) for path in inside}
        sets += [path for path in inside if reasons[path.name] is None]
        skipped |= {name: reason for name, reason in reasons.items() if reason is not None}
    for name, reason in skipped.items():
        log.info("skipped: %s: %s", name, reason)
    return sets, skipped


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder of sets; none for a set, and for what is neither."""
    if not folder.is_dir() or any((folder / name).exists() for name in (TEST, TRAIN, CLASSNAMES_FILE)):
        return []
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return inside if any((path / TEST).is_dir() for path in inside) else []


def _reason(path: Path, measured: bool) -> str | None:
    if not (path / TEST).is_dir():
        if path.name == CACHE_FOLDER:
            return "a cache of Hugging Face's datasets (DataComp's Flickr, MSCOCO and WinoGAViL), not WebDataset"
        return f"no folder {TEST}/ in it"
    known = BY_FOLDER.get(path.name)
    if not measured or known is None or known.reason is None:
        return None
    metric = f"its main metric is {known.main_metric}" if known.main_metric else "it has no main metric"
    return f"{metric}, and {known.reason}"
