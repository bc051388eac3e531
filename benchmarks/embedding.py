"""The embedding stage against clip-retrieval and a plain loop: same model, weights, tars, batch size and machine.

clip-retrieval's ``clip_inference`` gets an environment of its own in ``.cache/clip-retrieval``, with the same torch,
made by uv on the first run. The plain loop is WebDataset and open_clip in a dozen lines. Each side is a process that
loads and warms its model, then runs whenever it is its turn: reads the tars, embeds images and captions, writes its
files. Turns alternate, so that a shared machine slows all sides alike; figures are medians, ratios those of a peer's
seconds to ours within a round, the peer with its better number of workers. clip-retrieval starts two processes for its
log in each run, which import torch anew: tens of seconds of CPU that weigh less the more samples there are. What was
embedded is compared with the plain loop's: clip-retrieval runs models in training mode, which changes batch norms.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

_PROJECT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = _PROJECT / ".cache" / "clip-retrieval"
_REQUIREMENTS = ("clip-retrieval==2.45.0", "numpy<2", "open_clip_torch<3")
_ROUNDS = 2
_WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "small",
    "red",
    "wooden",
    "boat",
    "house",
    "dog",
    "on",
    "green",
    "hill",
    "in",
    "summer",
)
CASES: dict[str, dict[str, Any]] = {
    "ViT-B-32": {"model": "ViT-B-32", "samples": 128, "pixels": 256, "batch_size": 32},
    "demo": {"model": "demo-teacher", "samples": 2048, "pixels": 64, "batch_size": 256},
}


def measure(names: tuple[str, ...] = tuple(CASES), rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    peer = _environment()
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"case": name, **_compare(Path(folder), CASES[name], peer, rounds)})
    return rows


def _environment() -> Path:
    """clip-retrieval's own Python; its dependencies want an older setuptools and numpy than ours."""
    import torch
    import torchvision

    python = _ENVIRONMENT / "bin" / "python"
    if not (_ENVIRONMENT / ".ready").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--clear", "--quiet", "--python", sys.executable, str(_ENVIRONMENT)], check=True)
        overrides = _ENVIRONMENT / "overrides.txt"
        # torch asks for a newer one, to compile with; CLIP imports a module that only older ones have.
        overrides.write_text("setuptools<70\n")
        same = [f"{module.__name__}=={module.__version__.partition('+')[0]}" for module in (torch, torchvision)]
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--overrides", str(overrides)]
        subprocess.run([*install, *_REQUIREMENTS, *same, "setuptools"], check=True)
        (_ENVIRONMENT / ".ready").touch()
    return python


def _compare(folder: Path, case: dict[str, Any], peer: Path, rounds: int) -> dict[str, Any]:
    root = folder / "root"
    config, checkpoint = make_root(root, **case)
    batch = str(case["batch_size"])
    sides = {
        f"{name}_{workers}_workers": _Side(
            [
                str(python),
                str(Path(__file__).with_name(f"{name}_peer.py")),
                str(config),
                str(checkpoint),
                str(root / "images"),
                str(folder / name),
                batch,
                workers,
            ]
        )
        for name, python in (("clip_retrieval", peer), ("plain_loop", sys.executable))
        for workers in ("0", "2")
    } | {
        f"here_{precision}": _Side([sys.executable, "-m", "benchmarks.embedding", str(root), batch, precision])
        for precision in ("fp32", "bf16")
    }
    try:
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                turns[name].append(side.turn())
    finally:
        for side in sides.values():
            side.end()
    row: dict[str, Any] = {"samples": case["samples"]}
    for number, kind in enumerate(("clock", "cpu")):
        seconds = {name: [turn[number] for turn in found] for name, found in turns.items()}
        row |= {f"{name}_{kind}_s": round(statistics.median(found), 2) for name, found in seconds.items()}
        for peer_name in ("clip_retrieval", "plain_loop"):
            # A peer counts with whichever number of workers was the better one in that round.
            best = [min(turned) for turned in zip(*(seconds[n] for n in seconds if n.startswith(peer_name)))]
            row |= {
                f"{peer_name}_over_{name}_{kind}": round(statistics.median(b / t for b, t in zip(best, found)), 2)
                for name, found in seconds.items()
                if name.startswith("here")
            }
    return row | {"min_cosine_bf16_here_to_fp32_plain_loop": _agreement(root, folder / "plain_loop")}


def _agreement(root: Path, peer: Path) -> float:
    """Least cosine of what was embedded here last, in the order of keys, and by the plain loop."""
    import pyarrow.parquet as pq

    found, order = [], np.argsort(np.load(peer / "keys.npy"))
    for kind, name, column in (
        ("img_emb", "teacher_embeddings", "image_embedding"),
        ("text_emb", "caption_embeddings", "text_embedding"),
    ):
        mine = np.stack(pq.read_table(root / name)[column].to_numpy()).astype(np.float32)
        theirs = np.load(peer / f"{kind}.npy")[order].astype(np.float32)
        found.append((mine * theirs).sum(axis=1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1))
    return round(float(np.min(found)), 6)


class _Side:
    """A process that does its part when it is told to, and says how long it took."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(
            command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._wait_for("ready")

    def turn(self) -> tuple[float, float]:
        """Seconds by the clock, and of CPU, child processes included."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        _, clock, cpu = self._wait_for("seconds").split()
        return float(clock), float(cpu)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_for(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError(f"{self._process.args} ended with status {self._process.wait()}")


def make_root(
    root: Path,
    *,
    model: str,
    samples: int,
    pixels: int,
    batch_size: int = 0,
    shards: int = 2,
    layers: int | None = None,
) -> tuple[Path, Path]:
    """A root with random weights as its teacher and photograph-like noise as images; returns model config and weights.

    Captions have from 3 to 30 words. ``layers`` makes the towers of the model that shallow.
    """
    import open_clip
    import torch

    from pipeline.teacher.config import TeacherConfig
    from pipeline.teacher.stage import resolve_teacher

    del batch_size
    root.mkdir(parents=True)
    own = _PROJECT / "pipeline/demo/models" / f"{model}.json"
    content = json.loads(own.read_text()) if own.exists() else open_clip.get_model_config(model)
    if layers:
        content["vision_cfg"]["layers"] = content["text_cfg"]["layers"] = layers
    config, checkpoint = root.parent / "random-weights.json", root.parent / "random-weights.pt"
    config.write_text(json.dumps(content))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(config.stem).state_dict(), checkpoint)
    resolve_teacher(root, TeacherConfig(model=str(config), pretrained=str(checkpoint)), demo=lambda folder: None)
    _write_images(root, samples, pixels, shards)
    return config, checkpoint


def _write_images(root: Path, samples: int, pixels: int, shards: int) -> None:
    """What the stages ``source_pairs`` and ``images`` would have left: one caption an image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.core import schema
    from pipeline.core.tars import index_tar, write_tar
    from pipeline.storage.stage import Stage

    random = np.random.default_rng(0)
    names = [f"{number:05d}" for number in range(shards)]
    pairs, images = (
        Stage(root, name, version=0, config={}, inputs=dict.fromkeys(names, samples))
        for name in ("source_pairs", "images")
    )
    numbers = np.array_split(np.arange(samples), shards)
    with pairs.running(), images.running():
        for name, part in zip(names, numbers):
            made = [_pair(random, int(number)) for number in part]
            with pairs.output(name) as output:
                table = pa.Table.from_pylist(made, schema=schema.SOURCE_PAIRS)
                pq.write_table(table, output.path(f"source_pairs/{name}.parquet"))
                output.rows = len(made)
            with images.output(name) as output:
                tar = output.path(f"images/{name}.tar")
                samples_of = (_sample(random, int(number), pair, pixels) for number, pair in zip(part, made))
                output.rows = write_tar(tar, samples_of)
                output.stats = {"downloaded": len(part)}
                pq.write_table(index_tar(tar), output.path(f"images/index/{name}.parquet"))
        pairs.finish()
        images.finish()


def _pair(random: np.random.Generator, number: int) -> dict[str, Any]:
    url, caption = f"http://x/{number}.jpg", " ".join(random.choice(_WORDS, random.integers(3, 31)))
    return {
        "sample_id": _id_of(f"{url}\x1f{caption}"),
        "image_id": _id_of(url),
        "url": url,
        "caption": caption,
    }


def captioned_rows(root: Path, shard: str) -> list[dict[str, Any]]:
    """Rows of the index of a shard of such a root, with the captions that the embedding stage adds to them."""
    import pyarrow.parquet as pq

    pairs = pq.ParquetFile(root / "source_pairs" / f"{shard}.parquet").read().to_pylist()
    captions = {pair["image_id"]: [(pair["sample_id"], pair["caption"])] for pair in pairs}
    rows = pq.ParquetFile(root / "images/index" / f"{shard}.parquet").read().to_pylist()
    return [{**row, "captions": captions[row["image_id"]]} for row in rows]


def _sample(random: np.random.Generator, number: int, pair: dict[str, Any], pixels: int) -> dict[str, Any]:
    from PIL import Image

    # Coarse noise made smooth has about the bytes of a photograph of its size.
    coarse = random.integers(0, 256, (pixels // 8, pixels // 8, 3), dtype=np.uint8)
    image, data = Image.fromarray(coarse).resize((pixels, pixels), Image.Resampling.BICUBIC), io.BytesIO()
    image.save(data, "JPEG", quality=95)
    facts = {name: pair[name] for name in ("image_id", "url", "caption")}
    return {"__key__": f"{number:09d}", "jpg": data.getvalue(), "txt": pair["caption"], "json": facts}


def _id_of(text: str) -> int:
    """As the stage ``source_pairs`` mints ids."""
    import hashlib

    return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little") - 2**63


def main() -> None:
    """The side of this project: answers each line of stdin with the seconds that the stage took."""
    from pipeline.compute.config import ComputeConfig
    from pipeline.embeddings.config import EmbeddingsConfig
    from pipeline.embeddings.embedder import teacher_kept
    from pipeline.embeddings.stage import embed_images

    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("batch_size", type=int)
    parser.add_argument("precision")
    options = parser.parse_args()
    config = EmbeddingsConfig(batch_size=options.batch_size, precision=options.precision)

    def run() -> None:
        shutil.rmtree(options.root / ".marks" / "teacher_embeddings", ignore_errors=True)
        embed_images(options.root, config, ComputeConfig())

    # As the others' models do; and a lower precision is compared with fp32 once in each process.
    with teacher_kept():
        run()
        print("ready", flush=True)
        for _ in sys.stdin:
            started, used = time.perf_counter(), sum(os.times()[:4])
            run()
            print(f"seconds {time.perf_counter() - started} {sum(os.times()[:4]) - used}", flush=True)


if __name__ == "__main__":
    main()
