"""What a user of open_clip writes by hand: WebDataset, open_clip's own transform and tokenizer, encode,
``numpy.save``.

``python plain_loop_peer.py CONFIG CHECKPOINT TARS OUTPUT BATCH_SIZE WORKERS``, told over stdin to run again and again,
as :mod:`benchmarks.clip_retrieval_peer` is. It knows nothing of this project.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    config, checkpoint, tars, output, batch_size, workers = sys.argv[1:]
    import numpy as np
    import open_clip
    import torch
    import webdataset as wds

    open_clip.add_model_config(Path(config))
    name = Path(config).stem
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=checkpoint)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    Path(output).mkdir(parents=True, exist_ok=True)
    shards = sorted(str(path) for path in Path(tars).glob("*.tar"))

    def embed(images: Any, texts: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            return (
                model.encode_image(images, normalize=True).half().numpy(),
                model.encode_text(texts, normalize=True).half().numpy(),
            )

    def prepare(sample: tuple[str, Any, str]) -> tuple[str, Any, Any]:
        return sample[0], preprocess(sample[1]), tokenizer(sample[2])[0]

    def run() -> None:
        samples = (
            wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "txt").map(prepare)
        )
        loader = torch.utils.data.DataLoader(samples, batch_size=int(batch_size), num_workers=int(workers))
        found = [(keys, *embed(images, texts)) for keys, images, texts in loader]
        for kind, parts in zip(("keys", "img_emb", "text_emb"), zip(*found)):
            np.save(Path(output) / kind, np.concatenate(parts))

    embed(torch.zeros(int(batch_size), 3, *preprocess.transforms[1].size), tokenizer(["warm"] * int(batch_size)))
    print("ready", flush=True)
    for _ in sys.stdin:
        started, used = time.perf_counter(), sum(os.times()[:4])
        run()
        print(f"seconds {time.perf_counter() - started} {sum(os.times()[:4]) - used}", flush=True)


if __name__ == "__main__":
    main()
