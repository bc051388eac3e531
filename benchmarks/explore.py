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
            asked = _Asked(process.pid, url)
            row = {"images": images, "load": round(os.getloadavg()[0], 1)}
            row |= {"open_s": round(time.perf_counter() - started, 2), "open_cpu_s": round(asked.cpu(), 2)}
            thresholds = np.random.default_rng(1).uniform(0, _REACH, _ASKED).tolist()
            row |= asked.measured("first_page", ["/"])
            row |= asked.measured("slider", [f"/at?t={threshold}" for threshold in thresholds])
            row |= asked.measured("group", [f"/group/{image}?t=0.5" for image in ids[:: images // 5]])
            row |= asked.measured("image_and_nearest", [f"/image/{image}" for image in ids[:: images // 5]])
            row |= asked.measured("search", ["/search?q=boats+snow"] * 3)
            row |= asked.measured("thumbnail", [f"/thumb/{image}" for image in ids[:50]])
            row |= {"peak_rss_mb": _peak(process.pid)}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    return row


class _Asked:
    """Requests to a server, with their time, and the CPU time of its process, which other work does not move."""

    def __init__(self, process: int, url: str):
        self._process, self._url = psutil.Process(process), url

    def cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def measured(self, name: str, paths: list[str]) -> dict[str, int]:
        """Milliseconds: median and, of many, the 95th percentile; CPU on average."""
        before = self.cpu()
        seconds = sorted(self._seconds(path) for path in paths)
        row = {f"{name}_ms": round(1000 * statistics.median(seconds))}
        if len(paths) >= _ASKED:
            row[f"{name}_p95_ms"] = round(1000 * seconds[int(0.95 * len(seconds))])
        return row | {f"{name}_cpu_ms": round(1000 * (self.cpu() - before) / len(paths))}

    def _seconds(self, path: str) -> float:
        started = time.perf_counter()
        with urllib.request.urlopen(self._url + path) as answer:
            answer.read()
        return time.perf_counter() - started


def _peak(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return round(int(line.split()[1]) / 1024)
