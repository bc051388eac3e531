"""Memory and time of the contrastive and instance losses at a global batch of 32,768, one rank, forward and backward.

In a process of its own: the peak resident set during the step, less what was resident before it. In plain torch one
matrix of logits alone takes 4.3 GB, and both losses make ten.
"""

import multiprocessing
import time
from typing import Any

_BATCH, _WIDTH = 32_768, 64


def measure() -> list[dict[str, Any]]:
    """Peak memory in GB and seconds of each loss."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in ("contrastive", "instance"):
        with context.Pool(1) as pool:
            rows.append(pool.apply(_measure, (name,)))
    return rows


def _measure(name: str) -> dict[str, Any]:
    import torch

    from benchmarks.cluster_head import peak_gb, reset_peak
    from training.losses.contrastive import ContrastiveLoss
    from training.losses.instance import InstanceDiscriminationLoss

    torch.manual_seed(0)
    image, text, *teacher = (torch.nn.functional.normalize(torch.randn(_BATCH, _WIDTH), dim=-1) for _ in range(4))
    image.requires_grad_()
    text.requires_grad_()
    reset_peak()
    before, started = peak_gb(), time.perf_counter()
    if name == "contrastive":
        terms = ContrastiveLoss()(image, text, torch.tensor(14.0))
    else:
        terms = InstanceDiscriminationLoss()(image, text, *teacher)
    torch.stack(list(terms.values())).sum().backward()
    return {
        "loss": name,
        "global_batch": _BATCH,
        "width": _WIDTH,
        "step_gb": round(peak_gb() - before, 2),
        "logits_in_float32_gb": round(4e-9 * _BATCH**2 * 2 * len(terms), 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
