"""The cluster term at a million centroids: correct, small and cheap beside a training step of the student.

Centroids are stored in float16, a tenth of them takes part in a step. ``float16`` rows take float16 factors in products
(what a GPU does by default), ``float32`` rows exact ones. The reference is written out in float64 for the same sample.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.students import (
    engine_of,
    guarded,
    milliseconds,
    model_config,
    process_group,
    random_batch,
    random_centroids,
    step_of,
)
from benchmarks.gpu.timing import forget_peak, peak_gb_of

_RATE, _TEMPERATURE = 0.1, 0.07
_ROWS_AT_A_TIME = 256
_TARGET_GB, _TARGET_RATIO = 1.6, 1.05
# Of the loss, and of a gradient as a share of its largest element: four times what float16 factors are bounded by.
_TOLERANCE = {"float32": 1e-4, "float16": 4 * 2**-11 / _TEMPERATURE}
# Batches for a step of a ViT-B-32, largest first, and what a pair takes in training: activations in bf16.
_STEP_BATCHES, _BYTES_PER_PAIR = (4096, 2048, 1024), 38e6
_BESIDE_BYTES = 16e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    clusters: int
    widths: tuple[int, ...]
    batch: int
    rounds: int


_FULL = _Sizes(clusters=1_000_000, widths=(1280, 512), batch=4096, rounds=7)
_TINY = _Sizes(clusters=200, widths=(32,), batch=8, rounds=1)


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    sizes = _TINY if setting.tiny else _FULL
    rows = sizes.batch if setting.tiny else _step_batch()
    with process_group():
        plain: dict[str, Any] = {}
        for width in sizes.widths:
            yield from _term(setting, sizes, width)
            row = {"what": "step", "width": width, "centroids": sizes.clusters, "batch": rows}
            compare = functools.partial(_compare_steps, setting, sizes, width, rows, plain)
            yield guarded(row, setting.device, compare)
            forget_peak(setting.device)


def _term(setting: Setting, sizes: _Sizes, width: int) -> Iterator[dict[str, Any]]:
    """The term alone, with float16 factors and with exact ones."""
    centroids = random_centroids(sizes.clusters, width, setting.device)
    inputs = _inputs(centroids, sizes, setting)
    for narrow in (True, False):
        row = {"what": "term", "width": width, "centroids": sizes.clusters, "batch": sizes.batch}
        row["factors"] = "float16" if narrow else "float32"
        yield guarded(
            row, setting.device, functools.partial(_measure_term, setting, sizes, centroids, inputs, float16=narrow)
        )
    forget_peak(setting.device)


def _inputs(centroids: Any, sizes: _Sizes, setting: Setting) -> tuple[Any, Any, Any]:
    """Student, teacher and labels. The teacher lies near its centroid, the student near the teacher, as in training:
    between random vectors all softmaxes would be flat."""
    import torch
    import torch.nn.functional as F

    labels = torch.randint(sizes.clusters, (sizes.batch,), device=setting.device)
    own = centroids.weight[labels].float()
    teacher = F.normalize(own + _noise(own, 0.8), dim=-1)
    return F.normalize(teacher + _noise(own, 0.5), dim=-1), teacher, labels


def _noise(rows: Any, length: float) -> Any:
    import torch

    return torch.randn_like(rows) * length / rows.shape[1] ** 0.5


def _measure_term(
    setting: Setting, sizes: _Sizes, centroids: Any, inputs: tuple[Any, Any, Any], *, float16: bool
) -> dict[str, Any]:
    import torch

    from training.losses.cluster import ClusterDiscriminationLoss

    student, teacher, labels = inputs
    loss = ClusterDiscriminationLoss(
        centroids, temperature=_TEMPERATURE, teacher_temperature=_TEMPERATURE, sample_rate=_RATE, float16=float16
    )
    student = student.clone().requires_grad_()

    def work() -> Any:
        student.grad = None
        torch.manual_seed(1)  # the sample of the reference
        terms = loss(student, teacher, labels)
        total = terms["cluster_label"] + terms["cluster_divergence"]
        total.backward()
        return torch.stack([total.detach(), *(term.detach() for term in terms.values())])

    work()
    before = torch.cuda.memory_allocated() / 1e9 if setting.cuda else 0.0
    extra = max(peak_gb_of(work, setting.device) - before, 0.0)
    row = _errors(centroids, inputs, work(), student.grad)
    times = milliseconds({"term": work}, setting, rounds=sizes.rounds)
    found = {"ms": round(times["term"], 2), "extra_gb": round(extra, 2), "target_gb": _TARGET_GB, **row}
    tolerance = _TOLERANCE["float16" if float16 else "float32"]
    close = row["loss_error"] < tolerance and row["gradient_error"] < tolerance
    return found | {"tolerance": round(tolerance, 5), "ok": close and extra <= _TARGET_GB}


def _errors(centroids: Any, inputs: tuple[Any, Any, Any], found: Any, gradient: Any) -> dict[str, float]:
    """Of the loss, absolute; of the gradient, the largest error over its largest element, and the share of its length;
    each against float64."""
    loss, expected = _reference(centroids, inputs)
    error = gradient.double() - expected
    return {
        "loss": round(float(found[0]), 4),
        "loss_error": float(f"{abs(float(found[0]) - loss):.2e}"),
        "gradient_error": float(f"{float(error.abs().max() / expected.abs().max()):.2e}"),
        "gradient_error_rms": float(f"{float(error.norm() / expected.norm()):.2e}"),
    }


def _reference(centroids: Any, inputs: tuple[Any, Any, Any]) -> tuple[float, Any]:
    """Cross-entropy with the label plus KL(teacher || student) over the sampled centroids, and its gradient, written
    out in float64, some rows at a time."""
    import torch

    from training.losses.sampling import sample_centroids, share_labels

    student, teacher, labels = inputs
    torch.manual_seed(1)
    labels, seed = share_labels(labels)
    chosen = sample_centroids(centroids.total, rate=_RATE, labels=labels, seed=seed)
    keys = centroids.weight[chosen].double()
    place = torch.cumsum(chosen, 0)[labels] - 1
    total, gradients = 0.0, []
    for start in range(0, len(student), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        log_s = torch.log_softmax(student[rows].double() @ keys.T / _TEMPERATURE, dim=1)
        log_t = torch.log_softmax(teacher[rows].double() @ keys.T / _TEMPERATURE, dim=1)
        at = torch.arange(len(log_s), device=log_s.device), place[rows]
        total += float(((log_t - log_s) * log_t.exp()).sum() - log_s[at].sum())
        weight = 2 * log_s.exp_() - log_t.exp_()
        weight[at] -= 1
        gradients.append(weight @ keys / _TEMPERATURE)
    return total / len(student), torch.cat(gradients) / len(student)


def _step_batch() -> int:
    """The largest batch whose activations fit beside models, optimizers and centroids."""
    import torch

    free = torch.cuda.mem_get_info()[0] - _BESIDE_BYTES
    return next((rows for rows in _STEP_BATCHES if rows * _BYTES_PER_PAIR < free), _STEP_BATCHES[-1])


def _compare_steps(setting: Setting, sizes: _Sizes, width: int, rows: int, plain: dict[str, Any]) -> dict[str, Any]:
    """A training step with terms against plain CLIP training of the same student, whose engine ``plain`` keeps."""
    config = model_config("ViT-B-32", setting)
    batch = random_batch(config, rows, setting.device, width=width, clusters=sizes.clusters)
    centroids = random_centroids(sizes.clusters, width, setting.device)
    cluster = {"cluster": {"sample_rate": _RATE, "storage": "fp16", "label_weight": 1.0}}
    off = {"cluster": {"weight": 0}, "instance": {"weight": 0}}
    if not plain:
        plain["engine"] = engine_of(config, setting.device, precision="bf16", batch_size=rows)[0]
    engine = engine_of(config, setting.device, teacher_dim=width, precision="bf16", batch_size=rows)[0]
    ways = {
        "plain": step_of(plain["engine"], batch, off),
        "cluster": step_of(engine, batch, cluster | {"instance": {"weight": 0}}, centroids),
        "both": step_of(engine, batch, cluster, centroids),
    }
    times = milliseconds(ways, setting, rounds=1 if setting.tiny else 4)
    found: dict[str, Any] = {f"{name}_ms": round(time_ms, 1) for name, time_ms in times.items()}
    found |= {f"{name}_over_plain": round(times[name] / times["plain"], 3) for name in ("cluster", "both")}
    return found | {"target": _TARGET_RATIO, "reached": times["cluster"] <= _TARGET_RATIO * times["plain"]}
