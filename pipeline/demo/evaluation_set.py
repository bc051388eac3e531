"""The built-in evaluation set, in the WebDataset layout of CLIP_benchmark.

``classnames.txt``, ``zeroshot_classification_templates.txt`` and, for the splits ``train`` and ``test``, one tar of
members ``<key>.jpg``, ``<key>.cls`` (class number) and ``<key>.txt`` (caption), shuffled, equally many per class, and
``nshards.txt``, the number of tars.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.core.tars import write_tar
from pipeline.demo.captions import PROMPT_TEMPLATES, random_caption
from pipeline.demo.concepts import CONCEPTS
from pipeline.demo.config import DemoConfig
from pipeline.demo.drawing import render

# First number of each split's random stream, apart from those of the corpus (2) and of the teacher (3).
_STREAMS = {"train": 4, "test": 5}


def write_evaluation_set(folder: Path, config: DemoConfig) -> None:
    """Write both splits, ``config.evaluation_train_images`` and ``_test_images`` per class, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "classnames.txt", (concept.name for concept in CONCEPTS))
    _write_lines(folder / "zeroshot_classification_templates.txt", PROMPT_TEMPLATES)
    sizes = {"train": config.evaluation_train_images, "test": config.evaluation_test_images}
    for split, per_class in sizes.items():
        (folder / split).mkdir(exist_ok=True)
        write_tar(folder / split / "0.tar", _samples(config.seed, split, per_class))
        _write_lines(folder / split / "nshards.txt", ("1",))


def _samples(seed: int, split: str, per_class: int) -> Iterator[dict[str, object]]:
    stream = _STREAMS[split]
    order = np.random.default_rng((seed, stream)).permutation(per_class * len(CONCEPTS))
    for key, number in enumerate(order.tolist()):
        concept = CONCEPTS[number % len(CONCEPTS)]
        yield {
            "__key__": f"{key:06d}",
            "jpg": render(concept, (seed, stream, number)),
            "cls": str(concept.class_id).encode(),
            "txt": random_caption(concept, np.random.default_rng((seed, stream, number, 1))).encode(),
        }


def _write_lines(path: Path, lines: Iterator[str] | tuple[str, ...]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
