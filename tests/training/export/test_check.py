"""An export is compared with what was trained, from images and captions on."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.clip.preprocessing import Preprocessing
from tests.hugging_face import WORDS, write_text_model, write_tokenizer
from tests.training.conftest import MODEL
from training.data.dataset import TrainingSet
from training.export.check import PROBE_FILE, export_cosine, write_probe
from training.losses.active import Needs
from training.model.student import BuiltStudent, build_student, export_student

NOTHING = Needs(teacher_image=False, teacher_text=False, cluster_id=False, centroids=False)


class _Engine:
    rank, device = 0, torch.device("cpu")

    def __init__(self, built: BuiltStudent):
        self._built = built

    @contextlib.contextmanager
    def exported(self) -> Iterator[Any]:
        yield self._built.module.eval()


def _exported(folder: Path, model: dict, data: Path) -> Path:
    """An export with its probe, as the end of a run leaves them."""
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps(model))
    built = build_student(str(folder / "model.json"), teacher_dim=None, temperature=0.07, seed=0)
    with torch.no_grad():
        for parameter in built.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    samples = TrainingSet(
        data,
        data / "index",
        needs=NOTHING,
        preprocessing=Preprocessing.of(built.preprocess),
        tokenizer=built.tokenizer,
    )
    write_probe(folder / "export", _Engine(built), samples)  # type: ignore[arg-type]
    export_student(folder / "export", built, built.module.state_dict())
    return folder / "export"


@pytest.fixture
def data(tmp_path: Path, write_shards: Callable[..., Path]) -> Path:
    return write_shards(tmp_path / "data", shards=1, rows=8, distil=False)


def test_an_export_is_what_was_trained(tmp_path: Path, data: Path) -> None:
    export = _exported(tmp_path, MODEL, data)
    assert export_cosine(export) > 0.99999
    earlier = safetensors.torch.load_file(export / PROBE_FILE)
    safetensors.torch.save_file(earlier, export / PROBE_FILE)
    assert export_cosine(export) > 0.99999, "a probe of ids alone"


@pytest.mark.parametrize("tower", ["own", "hugging face"])
def test_a_text_tower_keeps_its_own_tokenizer(tmp_path: Path, data: Path, tower: str) -> None:
    pytest.importorskip("transformers")
    source = write_text_model(tmp_path / "bert") if tower == "hugging face" else write_tokenizer(tmp_path / "tokenizer")
    text = {**MODEL["text_cfg"], "context_length": 6, "vocab_size": len(WORDS), "hf_tokenizer_name": str(source)}
    if tower == "hugging face":
        text = {"context_length": 6, "hf_tokenizer_name": str(source), "hf_model_name": str(source)}
        text |= {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}
    export = _exported(tmp_path, {**MODEL, "text_cfg": text}, data)
    ids = safetensors.torch.load_file(export / PROBE_FILE)["text"]
    assert ids.shape == (8, 6) and ids[:2].tolist() == [[2, 4, 5, 6, 7, 3], [2, 4, 5, 6, 8, 3]]
    if tower == "own":
        # The export alone is enough.
        shutil.rmtree(source)
    assert export_cosine(export) > 0.99999
    other = json.loads((export / "tokenizer.json").read_text())
    words = list(other["model"]["vocab"])
    other["model"]["vocab"] = {word: number for number, word in enumerate([*words[:4], *reversed(words[4:])])}
    (export / "tokenizer.json").write_text(json.dumps(other))
    assert export_cosine(export) < 0.999, "another tokenizer is another model"
