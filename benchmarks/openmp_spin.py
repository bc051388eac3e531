"""A training step of the demo's teacher by how long OpenMP's threads spin: with the machine to itself, and beside work.

Each way is a process of its own, since a runtime reads its variables once; ways take turns over the rounds. torch's
wheels for Linux bring GNU's runtime. LLVM's, which those for macOS bring, can stand in for it: ``python -m
benchmarks.openmp_spin /path/to/libomp.so`` measures both. Run it on a machine that has nothing else to do; the load
that it had before is in the rows.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parents[1]
_VARIABLES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
_GNU: tuple[dict[str, str], ...] = ({}, *({"GOMP_SPINCOUNT": count} for count in ("0", "3000", "30000", "100000")))
_LLVM: tuple[dict[str, str], ...] = ({}, *({"KMP_BLOCKTIME": milliseconds} for milliseconds in ("0", "1", "10")))
_ROUNDS, _WARM_UP, _STEPS, _BUSY = 3, 2, 8, 2


def measure(llvm: Path | None = None) -> list[dict[str, Any]]:
    """Median seconds of a step, a row for each value of a runtime's variable."""
    ways = [("GNU", way, {}) for way in _GNU]
    if llvm is not None:
        ways += [("LLVM", way, {"LD_PRELOAD": str(llvm)}) for way in _LLVM]
    load = os.getloadavg()[0]
    seconds: dict[tuple[int, int], list[float]] = {}
    for busy in (0, _BUSY):
        with _busy_processes(busy):
            for _ in range(_ROUNDS):
                for number, (_, way, preloaded) in enumerate(ways):
                    seconds.setdefault((number, busy), []).extend(_in_process({**way, **preloaded}))
    return [
        {
            "runtime": runtime,
            "setting": " ".join(f"{name}={value}" for name, value in way.items()) or "default",
            "alone_s": round(statistics.median(seconds[number, 0]), 3),
            f"beside_{_BUSY}_busy_s": round(statistics.median(seconds[number, _BUSY]), 3),
            "load_before": round(load, 1),
        }
        for number, (runtime, way, _) in enumerate(ways)
    ]


def _in_process(environment: dict[str, str]) -> list[float]:
    """Seconds of steps. The script is run by its path: as part of ``benchmarks`` it would be told how long to spin."""
    inherited = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    done = subprocess.run(
        [sys.executable, __file__, "--steps"],
        env={**inherited, "PYTHONPATH": str(_PROJECT), **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """While the block lasts, so many processes compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def steps() -> list[float]:
    """Seconds of a few training steps in this process."""
    import open_clip
    import torch
    from torch.nn import functional

    from pipeline.demo.config import DemoConfig
    from pipeline.demo.teacher import model_config

    torch.manual_seed(0)
    content, batch = model_config(), DemoConfig().teacher.concepts_per_batch
    model = open_clip.CLIP(**content).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    size, text = content["vision_cfg"]["image_size"], content["text_cfg"]
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    tokens = torch.randint(1, text["vocab_size"], (batch, text["context_length"]))
    labels, seconds = torch.arange(batch), []
    for _ in range(_WARM_UP + _STEPS):
        started = time.perf_counter()
        image, caption, scale = model(images, tokens)
        logits = scale * image @ caption.T
        loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds[_WARM_UP:]


if __name__ == "__main__":
    if sys.argv[1:] == ["--steps"]:
        print(json.dumps(steps()))
    else:
        for row in measure(*map(Path, sys.argv[1:])):
            print(row)
