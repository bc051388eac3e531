"""How fast the explorer answers, and what it holds, on made-up roots: a server of its own, asked by HTTP."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.data import pieces
from benchmarks.synthetic_root import some_images, write_captions, write_embeddings, write_forest, write_images

_WIDTH, _REACH, _IMAGES, _ASKED = 512, 0.6, 2000, 40
_WORDS = (
    "red",
    "old",
    "small",
    "a dog",
    "two boats",
    "the city",
    "at night",
    "on a table",
    "in the snow",
    "by the sea",
)


def made_up_root(root: Path, images: int) -> np.ndarray:
    """Most images are near to one of the hundred before them, some to any earlier one from 0.3 on: at the forest's
    reach nearly all are one group. Returns the ids."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(2**62, images, replace=False)) - 2**61
    number = np.arange(1, images)
    local = rng.random(images - 1) < 0.7
    parent = np.where(local, np.maximum(number - rng.integers(1, 100, images - 1), 0), rng.integers(0, number))
    distance = np.where(local, 0.5 * rng.beta(2, 3, images - 1), rng.uniform(0.3, _REACH, images - 1))
    there = rng.random(images - 1) < 0.97
    ends = ids[parent[there]], ids[number[there]]
    a, b = np.minimum(*ends), np.maximum(*ends)
    write_forest(root, a, b, distance[there].astype(np.float32), images=images, reach=_REACH)
    write_captions(root, ids, [f"{_WORDS[n % 10]} {_WORDS[n // 10 % 10]}, picture {n}" for n in range(images)])
    write_images(root, ids, some_images(_IMAGES))
    vectors = np.concatenate(list(pieces(images, _WIDTH, "1/i", duplicates=0.4)))
    write_embeddings(root, ids, vectors, rng.uniform(0.1, 0.4, images))
    return ids


def measure() -> list[dict[str, Any]]:
    """100,000 and 1,000,000 images of width 512."""
    return [_measured(images) for images in (100_000, 1_000_000)]


def _measured(images: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        ids = made_up_root(root, images)
        started = time.perf_counter()
        command = [sys.executable, "-m", "clip_cid", "explore", str(root), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1].rstrip("/")
            opened = time.perf_counter() - started
            first = _seconds(f"{url}/")
            thresholds = np.random.default_rng(1).uniform(0, _REACH, _ASKED).tolist()
            before = psutil.Process(process.pid).cpu_times()
            slider = sorted(_seconds(f"{url}/at?t={threshold}") for threshold in thresholds)
            after = psutil.Process(process.pid).cpu_times()
            row = {
                "images": images,
                "open_s": round(opened, 2),
                "first_page_s": round(first, 3),
                "slider_median_ms": round(1000 * statistics.median(slider)),
                "slider_p95_ms": round(1000 * slider[int(0.95 * _ASKED)]),
                # What it costs whatever else the machine does.
                "slider_cpu_ms": round(1000 * (sum(after[:2]) - sum(before[:2])) / _ASKED),
                "group_ms": round(1000 * _seconds(f"{url}/group/{ids[images // 2]}?t=0.5")),
                "nearest_ms": round(1000 * _seconds(f"{url}/image/{ids[images // 2]}")),
                "search_ms": round(1000 * _seconds(f"{url}/search?q=boats+snow")),
                "thumbnail_ms": round(1000 * statistics.median(_seconds(f"{url}/thumb/{image}") for image in ids[:50])),
                "peak_rss_mb": _peak(process.pid),
                "load": round(os.getloadavg()[0], 1),
            }
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    return row


def _seconds(url: str) -> float:
    started = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        answer.read()
    return time.perf_counter() - started


def _peak(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return round(int(line.split()[1]) / 1024)
