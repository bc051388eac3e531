"""Both towers of an export as ONNX files, checked.

Needs the extra ``onnx``.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.clip.model import load_clip
from pipeline.core.errors import ConfigError, TrainingError
from training.export.examples import CAPTIONS, pictures

IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"
# Largest difference between normalized embeddings of torch and onnxruntime, both in float32.
TOLERANCE = 1e-4
_BATCHES = (2, 5)


class _Tower(nn.Module):
    """One modality of a CLIP, to normalized embeddings."""

    def __init__(self, encode: Any, model: nn.Module):
        super().__init__()
        self._encode, self.model = encode, model

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self._encode(inputs, normalize=True))


def export_onnx(folder: Path, output: Path) -> dict[str, float]:
    """Write ``image.onnx`` and ``text.onnx``, for any batch size, from an open_clip folder.

    Inputs are preprocessed images ``(N, 3, H, W)`` float32 and tokens ``(N, L)`` int64, outputs normalized embeddings
    ``(N, E)``. Both files are run with onnxruntime on pictures and captions, in batches of other sizes than they were
    traced with; returns the largest difference by file. Raises :class:`ConfigError` without the extra,
    :class:`TrainingError` where embeddings differ by more than 1e-4.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"ONNX export needs packages that are not there ({error}): pip install 'clip-cid[onnx]'"
        ) from error

    clip = load_clip(folder, device="cpu")
    pixels = torch.stack([clip.preprocess(image) for image in pictures()])
    tokens = torch.as_tensor(clip.tokenizer(CAPTIONS))
    towers = {
        IMAGE_FILE: (_Tower(clip.model.encode_image, clip.model), pixels),
        TEXT_FILE: (_Tower(clip.model.encode_text, clip.model), tokens),
    }
    output.mkdir(parents=True, exist_ok=True)
    differences = {}
    for name, (tower, examples) in towers.items():
        torch.onnx.export(
            tower.eval(),
            (_batch(examples, _BATCHES[0]),),
            str(output / name),
            input_names=["input"],
            output_names=["embeddings"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(output / name), providers=["CPUExecutionProvider"])
        differences[name] = max(_difference(session, tower, _batch(examples, batch)) for batch in _BATCHES)
        if not differences[name] <= TOLERANCE:
            raise TrainingError(f"{output / name}: embeddings differ from torch's by {differences[name]:.1e}")
    return differences


def _batch(examples: Tensor, size: int) -> Tensor:
    return examples[torch.arange(size) % len(examples)]


def _difference(session: Any, tower: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        expected = tower(inputs)
    (found,) = session.run(None, {"input": inputs.numpy()})
    return float((torch.from_numpy(found) - expected).abs().max())
