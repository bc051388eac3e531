"""Seconds of the stage ``images`` against img2dataset alone, on 20,000 small images of a local server, in one run.

Three take turns: img2dataset as it comes; img2dataset without torch and wandb, which the stage leaves out too; and the
stage. What is between the last two is the guard, the checks and the publishing on one side, the lighter resizer on the
other.
"""

import asyncio
import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_IMAGES, _PER_SHARD, _ROUNDS = 20_000, 1000, 2
_PROCESSES, _THREADS, _SIZE = 2, 16, 64
_BODIES = 200
_LEAN = "CLIP_CID_BENCHMARK_LEAN"

if os.environ.get(_LEAN):
    # Here and not in a function: img2dataset's workers import this module before all else.
    from pipeline.download.stub_imports import leave_out_unused

    leave_out_unused()
    # img2dataset's own resizer needs it.
    del sys.modules["albumentations"]


def measure() -> list[dict[str, Any]]:
    """Seconds of each, images per second, and the overhead over img2dataset."""
    seconds: dict[str, list[float]] = {name: [] for name in ("img2dataset", "img2dataset, fewer imports", "stage")}
    with tempfile.TemporaryDirectory() as folder, _server() as address:
        urls = [f"http://{address}/{number}.jpg" for number in range(_IMAGES)]
        for turn in range(_ROUNDS):
            root = make_source(Path(folder) / f"root-{turn}", urls)
            seconds["img2dataset"].append(_bare(root, Path(folder) / f"bare-{turn}", lean=False))
            seconds["img2dataset, fewer imports"].append(_bare(root, Path(folder) / f"lean-{turn}", lean=True))
            seconds["stage"].append(_stage(root))
        bare = min(seconds["img2dataset"])
        return [
            {
                "what": name,
                "images": _IMAGES,
                "seconds": [round(second, 1) for second in found],
                "images_per_second": round(_IMAGES / min(found)),
                "overhead": round(min(found) / bare - 1, 3),
            }
            for name, found in seconds.items()
        ]


def make_source(root: Path, urls: list[str]) -> Path:
    from pipeline.core.query import QueryConfig
    from pipeline.source.config import SourceConfig
    from pipeline.source.stage import import_pairs

    root.mkdir()
    captions = [f"picture {number}" for number in range(len(urls))]
    pq.write_table(pa.table({"URL": urls, "TEXT": captions}), root / "list.parquet")
    config = SourceConfig(lists=[str(root / "list.parquet")], samples_per_shard=_PER_SHARD)
    import_pairs(root, config, QueryConfig(), lists=config.lists)
    return root


def _stage(root: Path) -> float:
    from pipeline.download.config import ImagesConfig
    from pipeline.download.stage import download_images

    config = ImagesConfig(
        image_size=_SIZE, processes=_PROCESSES, threads=_THREADS, allow_private_addresses=True, robots_txt=False
    )
    started = time.perf_counter()
    result = download_images(root, config)
    seconds = time.perf_counter() - started
    assert result.stats["downloaded"] == _IMAGES, result.stats
    return seconds


def _bare(root: Path, output: Path, *, lean: bool) -> float:
    """img2dataset over the same shards, with the same options."""
    options = {
        "url_list": str(root / "source_pairs"),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "save_additional_columns": ["sample_id"],
        "output_folder": str(output),
        "output_format": "webdataset",
        "number_sample_per_shard": _PER_SHARD,
        "image_size": _SIZE,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "processes_count": _PROCESSES,
        "thread_count": _THREADS,
        "extract_exif": False,
        "user_agent_token": "clip-cid",
        "enable_wandb": False,
    }
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", **({_LEAN: "1"} if lean else {})}
    command = [sys.executable, "-m", "benchmarks.download", json.dumps(options)]
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    seconds = time.perf_counter() - started
    stats = [json.loads(path.read_text()) for path in output.glob("*_stats.json")]
    assert sum(shard["successes"] for shard in stats) == _IMAGES
    return seconds


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """A server that costs as little as one in Python can; yields its address."""
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(child,), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{parent.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Any) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    answers = []
    for _ in range(_BODIES):
        buffer = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        small.resize((128, 96)).save(buffer, "JPEG", quality=90)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {buffer.tell()}\r\n\r\n"
        answers.append(head.encode() + buffer.getvalue())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            request = await reader.readuntil(b"\r\n\r\n")
            writer.write(answers[int(request.partition(b".jpg")[0].rpartition(b"/")[2]) % _BODIES])
            await writer.drain()
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def main() -> None:
    """One run of bare img2dataset, for :func:`_bare`; without arguments, this benchmark alone."""
    if len(sys.argv) > 1:
        import img2dataset

        img2dataset.download(**json.loads(sys.argv[1]))
        return
    from benchmarks.run import RESULTS, machine

    rows = measure()
    for row in rows:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    content = {"machine": machine(), "command": "python -m benchmarks.download", "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "download.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
