"""Proof that an export is the model that was trained: a few inputs, and the embeddings the trained module gave them."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.data.dataset import TrainingSet
    from training.engine.deepspeed_engine import Engine

PROBE_FILE = "probe.safetensors"
_CAPTIONS = "captions"
_SAMPLES = 16


def write_probe(folder: Path, engine: "Engine", samples: "TrainingSet") -> None:
    """Embed the first samples with the trained module; all ranks call it, rank 0 writes the file into ``folder``."""
    import safetensors.torch
    import torch

    from training.data.loader import collate

    everywhere = ((shard, row, 0) for shard, rows in enumerate(samples.shard_rows) for row in range(rows))
    places = list(itertools.islice(everywhere, _SAMPLES))
    batch = collate(samples.samples(places)).to(engine.device)
    image = samples.preprocessing.normalize(batch.image)
    with torch.no_grad(), engine.exported() as model:
        features = model(image, batch.text)
    if engine.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"image": image, "text": batch.text}
        tensors |= {"image_embedding": features.image, "text_embedding": features.text}
        stored = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
        captions = json.dumps([samples.caption(shard, row) for shard, row, _ in places])
        safetensors.torch.save_file(stored, str(folder / PROBE_FILE), metadata={_CAPTIONS: captions})


def export_cosine(folder: Path) -> float:
    """Load an export with plain open_clip, embed the probe's inputs, and return the least cosine to its embeddings.

    Captions go in as text, through the tokenizer that the export names: with another one the weights would be right
    and the model wrong. Exports of earlier versions have their ids alone.
    """
    import open_clip
    import safetensors.torch
    import torch
    from safetensors import safe_open

    probe = safetensors.torch.load_file(str(folder / PROBE_FILE))
    with safe_open(str(folder / PROBE_FILE), framework="pt") as file:
        captions = (file.metadata() or {}).get(_CAPTIONS)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    text = probe["text"]
    if captions is not None:
        text = open_clip.get_tokenizer(f"local-dir:{folder}")(json.loads(captions))
    with torch.no_grad():
        found = {
            "image": model.encode_image(probe["image"].float(), normalize=True),
            "text": model.encode_text(text, normalize=True),
        }
    return min(
        float(torch.nn.functional.cosine_similarity(found[name], probe[f"{name}_embedding"].float()).min())
        for name in ("image", "text")
    )
