"""Ways to run a teacher's image tower on a CPU, and to decode for it: what the embedding stage's choices rest on.

All ways of a kind take turns in one process. Ratios are those of a way's seconds to the first way's of the same round,
so less than 1 is faster; the cosine is the least of the batch to the first way's embeddings. Weights are random.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.embedding import CASES, captioned_rows, make_root
from benchmarks.turns import ratio, take_turns

_DECODED, _THREADS = 512, 2


def measure() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "root"
            make_root(root, **{**case, "samples": _DECODED})
            rows += [{"case": name, **row} for row in _passes(root, case) + _decoding(root)]
    return rows


def _passes(root: Path, case: dict[str, Any]) -> list[dict[str, Any]]:
    """One pass of the image tower over a batch."""
    import torch

    from pipeline.clip.model import load_clip
    from pipeline.embeddings.encoder import Encoder

    folder, last = root / "teacher", torch.channels_last
    height, width = (getattr(Encoder(load_clip(folder)).preprocessing, side) for side in ("height", "width"))
    coarse = torch.rand(case["batch_size"], 3, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").sub_(0.5).div_(0.25)

    def way(precision: str = "fp32", *, layout: Any = torch.contiguous_format, change: Any = None) -> Callable[[], Any]:
        clip = load_clip(folder, precision=precision)
        clip.model.visual.to(memory_format=layout)
        given = images.to(clip.input_dtype or torch.float32).contiguous(memory_format=layout)
        tower = change(clip.model.visual) if change else clip.model.visual

        def run() -> Any:
            with torch.inference_mode():
                return torch.nn.functional.normalize(tower(given).float(), dim=-1)

        return run

    def int8(tower: Any) -> Any:
        return torch.ao.quantization.quantize_dynamic(tower, {torch.nn.Linear}, dtype=torch.qint8)

    ways = {
        "fp32, channels first": way(),
        "fp32, channels last": way(layout=last),
        "fp32, channels last, compiled": way(layout=last, change=torch.compile),
        "bf16, channels last": way("bf16", layout=last),
    }
    if hasattr(load_clip(folder).model.visual, "transformer"):
        # A ResNet has linear layers in its last pooling alone, whose weights open_clip reads by themselves.
        ways["int8 linear layers"] = way(change=int8)
    found = {name: run() for name, run in ways.items()}
    times, (first, *_) = take_turns(ways, rounds=3), ways
    return [
        {
            "what": name,
            "ratio": ratio(times, name, first),
            "min_cosine": round(float((found[name] * found[first]).sum(dim=-1).min()), 6),
        }
        for name in ways
    ]


def _decoding(root: Path) -> list[dict[str, Any]]:
    """From tar to 8-bit pixels in threads, as the stage does it, and to floats in processes of a DataLoader."""
    import torch
    import webdataset as wds

    from pipeline.clip.model import load_clip
    from pipeline.clip.preprocessing import Preprocessing
    from pipeline.clip.views import AugmentationConfig
    from pipeline.core.tars import TarReader
    from pipeline.embeddings.loader import Loader

    clip = load_clip(root / "teacher")
    shards = sorted((root / "images").glob("*.tar"))
    loader = Loader(
        preprocessing=Preprocessing.of(clip.preprocess),
        tokenizer=clip.tokenizer,
        batch_size=32,
        threads=_THREADS,
        augmentation=AugmentationConfig(),
    )

    def threads() -> None:
        for shard in shards:
            for _ in loader.batches(TarReader(shard), captioned_rows(root, shard.stem)):
                pass

    def prepare(sample: tuple[Any, str]) -> tuple[Any, Any]:
        return clip.preprocess(sample[0]), clip.tokenizer(sample[1])[0]

    def processes() -> None:
        urls = [str(shard) for shard in shards]
        samples = wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "txt").map(prepare)
        for _ in torch.utils.data.DataLoader(samples, batch_size=32, num_workers=_THREADS):
            pass

    ways = {"decoding in 2 threads": threads, "decoding in 2 processes": processes}
    times, (first, *_) = take_turns(ways, rounds=3), ways
    return [{"what": name, "ratio": ratio(times, name, first)} for name in ways]
