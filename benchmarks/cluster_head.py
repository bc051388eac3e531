"""Memory and time of the cluster term with a million centroids, for one rank, forward and backward.

Each case runs in a process of its own. Memory is the peak resident set during the step, less what was resident before
it (the centroids and the batch), and with the centroids. The term alone: no student.
"""

import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

_CENTROIDS, _WIDTH = 1_000_000, 512
_CASES: tuple[dict[str, Any], ...] = (
    {"batch": 4096, "rate": 0.1, "storage": "fp16"},
    {"batch": 4096, "rate": 0.1, "storage": "fp32"},
    {"batch": 512, "rate": 0.1, "storage": "fp32"},
    {"batch": 512, "rate": 1.0, "storage": "fp32"},
    {"batch": 512, "rate": 0.1, "storage": "fp32", "terms": "label"},
)


def measure() -> list[dict[str, Any]]:
    """Peak memory in GB and seconds of a step by batch, sample rate, storage of the centroids and terms."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for case in _CASES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(_measure, kwds=case))
    return rows


def _measure(batch: int, rate: float, storage: str, terms: str = "label and divergence") -> dict[str, Any]:
    import torch

    from training.losses.centroids import Centroids
    from training.losses.cluster import ClusterDiscriminationLoss

    torch.manual_seed(0)
    weight = torch.empty(_CENTROIDS, _WIDTH, dtype=torch.float16 if storage == "fp16" else torch.float32)
    for rows in weight.split(65_536):
        rows.copy_(torch.randn(rows.shape))
    divergence = terms != "label"
    loss = ClusterDiscriminationLoss(Centroids(weight), divergence=divergence, sample_rate=rate)
    student = torch.nn.functional.normalize(torch.randn(batch, _WIDTH), dim=-1).requires_grad_()
    teacher, labels = torch.randn(batch, _WIDTH), torch.randint(_CENTROIDS, (batch,))
    reset_peak()
    before, started = peak_gb(), time.perf_counter()
    sum(loss(student, teacher, labels).values()).backward()  # type: ignore[union-attr]
    seconds, peak = time.perf_counter() - started, peak_gb()
    elements = batch * (_CENTROIDS if rate == 1 else round(_CENTROIDS * rate))
    return {
        "batch": batch,
        "rate": rate,
        "terms": terms,
        "storage": storage,
        "step_gb": round(peak - before, 2),
        "with_centroids_gb": round(peak - before + weight.nbytes / 1e9, 2),
        "logits_in_float32_gb": round(4e-9 * elements, 1),
        "seconds": round(seconds, 1),
        "gflops": round((4 if divergence else 2) * 2e-9 * elements * _WIDTH / seconds),
    }


def reset_peak() -> None:
    """Start the kernel's high-water mark anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Peak resident set of this process in GB, since its start or the last :func:`reset_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1.024e-6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024e-6
