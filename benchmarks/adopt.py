"""Adopting tars of img2dataset's layout, against ``tar -tf`` on the same files, which only reads their headers.

CPU seconds, of all processes, and wall time in turns: ``pairs`` is the stage `source_pairs`, ``indexed`` the stage
`images`, both with what they write; ``again`` is a call of both when nothing has changed.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core.query import QueryConfig
from pipeline.own_images import OwnImages, adopt_images, import_own_pairs

_TARS, _SAMPLES, _BYTES, _ROUNDS = 10, 10_000, 10_000, 3


def measure(
    tars: int = _TARS, samples: int = _SAMPLES, image_bytes: int = _BYTES, rounds: int = _ROUNDS
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        source, root = Path(folder) / "tars", Path(folder) / "root"
        source.mkdir()
        for number in range(tars):
            _write(source / f"{number:05d}.tar", number, samples, image_bytes)
        size = sum(path.stat().st_size for path in source.iterdir())
        config, query = OwnImages(images=[str(source)]), QueryConfig()
        ways: dict[str, Callable[[], Any]] = {
            "tar": lambda: _list_by_tar(source),
            "pairs": lambda: import_own_pairs(root, config, query),
            "indexed": lambda: adopt_images(root, config),
            "again": lambda: (import_own_pairs(root, config, query), adopt_images(root, config)),
        }
        taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(rounds + 1):
            shutil.rmtree(root, ignore_errors=True)
            for name, way in ways.items():
                before, started = _cpu(), time.perf_counter()
                way()
                taken[name].append((_cpu() - before, time.perf_counter() - started))
    # The first round warms up.
    cpu, wall = (
        {name: statistics.median(run[place] for run in runs[1:]) for name, runs in taken.items()} for place in (0, 1)
    )
    return [
        {
            "samples": tars * samples,
            "megabytes": round(size / 1e6),
            **{f"{name}_cpu_s": round(seconds, 2) for name, seconds in cpu.items()},
            **{f"{name}_s": round(seconds, 2) for name, seconds in wall.items()},
            "cpu_over_tar": round((cpu["pairs"] + cpu["indexed"]) / cpu["tar"], 1),
            "wall_over_tar": round((wall["pairs"] + wall["indexed"]) / wall["tar"], 1),
        }
    ]


def _list_by_tar(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        subprocess.run(["tar", "-tf", str(path)], check=True, stdout=subprocess.DEVNULL)


def _cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _write(path: Path, shard: int, samples: int, image_bytes: int) -> None:
    """A tar with the members and the JSON that img2dataset writes; nothing looks into the images."""
    with path.open("wb") as file:
        for number in range(samples):
            key, image = f"{shard:05d}{number:04d}", os.urandom(image_bytes)
            caption = f"a photograph, number {number} of shard {shard}, with what is said of it beside it"
            told = {
                "url": f"https://images.example.com/{shard}/{number}/picture.jpg?size=large&id={key}",
                "caption": caption,
                "key": key,
                "status": "success",
                "error_message": None,
                "width": 256,
                "height": 192,
                "original_width": 1024,
                "original_height": 768,
                "exif": "{}",
                "sha256": hashlib.sha256(image).hexdigest(),
            }
            for ending, content in (
                ("jpg", image),
                ("json", json.dumps(told, indent=4).encode()),
                ("txt", caption.encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size, info.mode = len(content), 0o444
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
