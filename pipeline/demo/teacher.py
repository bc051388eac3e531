"""The demo's teacher: a small CLIP, trained from scratch on images of its own.

It stands for a model that was pretrained on far more than the pairs at hand: its images are drawn by the same renderer
with other random streams, equally many for each concept, so it has seen none of the corpus and none of the test set.
"""

import dataclasses
import io
import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.clip.model import write_clip_folder
from pipeline.core.progress import Progress
from pipeline.demo.captions import random_caption
from pipeline.demo.concepts import CONCEPTS
from pipeline.demo.config import DemoConfig
from pipeline.demo.drawing import render

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# First number of the teacher's random stream, apart from those of the corpus (2) and the evaluation set (4, 5).
_STREAM = 3
_RENDER_CHUNK = 256
_WARMUP = 0.15
_MAX_LOGIT_SCALE = math.log(100)


def model_config(name: str = "demo-teacher") -> dict[str, Any]:
    """The open_clip model config ``pipeline/demo/models/<name>.json``."""
    return dict(json.loads((Path(__file__).parent / "models" / f"{name}.json").read_text()))


def train_demo_teacher(output: Path, config: DemoConfig) -> dict[str, float]:
    """Train the teacher and write it as an open_clip folder; returns the last loss. Deterministic on one machine."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg

    if config.teacher.threads:
        torch.set_num_threads(config.teacher.threads)
    content = model_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = open_clip.CLIP(**content).to(memory_format=torch.channels_last)
        size = content["vision_cfg"]["image_size"]
        preprocess = PreprocessCfg(size=(size, size))
        tokenizer = open_clip.SimpleTokenizer(context_length=content["text_cfg"]["context_length"])
        loss = _fit(model, tokenizer, _draw(config, size), preprocess, config)
    write_clip_folder(
        output,
        model_config=content,
        preprocess_config=dataclasses.asdict(preprocess),
        state=model.eval().state_dict(),
    )
    return {"loss": loss}


def _draw(config: DemoConfig, size: int) -> np.ndarray:
    """Images (720, M, size, size, 3) uint8, M for each concept."""
    from PIL import Image

    count = config.teacher.images_per_concept
    images = np.empty((len(CONCEPTS), count, size, size, 3), np.uint8)

    def draw(number: int) -> None:
        concept, copy = divmod(number, count)
        with Image.open(io.BytesIO(render(CONCEPTS[concept], (config.seed, _STREAM, number)))) as image:
            images[concept, copy] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))

    total = len(CONCEPTS) * count
    with Progress(log, "draw for the teacher", total=total, unit="images") as progress, ThreadPoolExecutor() as pool:
        for start in range(0, total, _RENDER_CHUNK):
            numbers = range(start, min(start + _RENDER_CHUNK, total))
            list(pool.map(draw, numbers))
            progress.add(len(numbers))
    return images


def _fit(model: Any, tokenizer: Any, images: np.ndarray, preprocess: Any, config: DemoConfig) -> float:
    """Contrastive training; no concept stands twice in a batch, so no caption fits two of its images."""
    import torch
    from torch.nn import functional

    settings = config.teacher
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=_WARMUP
    )
    rng = np.random.default_rng((config.seed, _STREAM))
    loss = torch.tensor(float("nan"))
    with Progress(log, "train the teacher", total=settings.steps, unit="steps") as progress:
        for _ in range(settings.steps):
            chosen = rng.permutation(len(CONCEPTS))[: settings.concepts_per_batch]
            copies = rng.integers(images.shape[1], size=len(chosen))
            pixels = _augmented(torch.from_numpy(images[chosen, copies]), preprocess, rng)
            tokens = tokenizer([random_caption(CONCEPTS[concept], rng) for concept in chosen])
            image, text, scale = model(pixels, tokens)
            logits = scale * image @ text.T
            labels = torch.arange(len(chosen))
            loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
            progress.add(1, f"loss {loss.item():.3f}")
    return float(loss.item())


def _augmented(images: "torch.Tensor", preprocess: Any, rng: np.random.Generator) -> "torch.Tensor":
    """Pixels (B, 3, H, W) of uint8 images (B, H, W, 3), normalized, with the changes that copies on the web have:
    a slight crop, other brightness, contrast and tint. It brings near-duplicates close together."""
    import torch
    from torch.nn import functional

    count = len(images)
    pixels = images.permute(0, 3, 1, 2).float() / 255

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))

    zoom, shift_x, shift_y = uniform(0.88, 1.0), uniform(-0.06, 0.06), uniform(-0.06, 0.06)
    zero = torch.zeros(count)
    rows = torch.stack([zoom, zero, shift_x, zero, zoom, shift_y], dim=1).reshape(count, 2, 3)
    grid = functional.affine_grid(rows, list(pixels.shape), align_corners=False)
    pixels = functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    contrast = uniform(0.88, 1.12)[:, None, None, None]
    gains = torch.stack([uniform(0.97, 1.03) for _ in range(3)], dim=1)[:, :, None, None]
    pixels = pixels * gains * uniform(0.88, 1.12)[:, None, None, None]
    center = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = ((pixels - center) * contrast + center).clamp(0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
