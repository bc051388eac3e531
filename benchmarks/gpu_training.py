"""A training step on a GPU: cached against online teacher, distillation against plain CLIP training, the term's memory.

ViT-B-32 distilled from ViT-bigG-14, both with random weights, bf16, a million centroids of which a tenth take part, on
one rank through DeepSpeed. Ways take turns in one process on one batch; times are medians. On a machine without a GPU
the models are tiny and the figures mean nothing: that shows that the script works. It has not been run on a GPU yet.
"""

import dataclasses
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_TINY_VISION = {"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 16}
_TINY_TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
_TINY = {"embed_dim": 32, "vision_cfg": _TINY_VISION, "text_cfg": _TINY_TEXT}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured; ``student`` and ``teacher`` are open_clip model configs."""

    student: dict[str, Any]
    teacher: dict[str, Any]
    batch: int
    clusters: int
    rounds: int
    precision: str
    device: str


def setting() -> Setting:
    """That of the machine at hand."""
    import open_clip
    import torch

    if not torch.cuda.is_available():
        return Setting(student=_TINY, teacher=_TINY, batch=8, clusters=100, rounds=1, precision="fp32", device="cpu")
    student, teacher = (open_clip.get_model_config(name) for name in ("ViT-B-32", "ViT-bigG-14"))
    return Setting(
        student=student, teacher=teacher, batch=2048, clusters=1_000_000, rounds=10, precision="bf16", device="cuda"
    )


def measure() -> list[dict[str, Any]]:
    """Ratios of step times, milliseconds of each way, and peak memory of the cluster term."""
    # DeepSpeed's process group stays out of this process.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure).result()


def _measure() -> list[dict[str, Any]]:
    import torch

    from training.engine import init_distributed
    from training.ports import reserved_port

    with reserved_port() as port:
        where = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in where.items()}
        init_distributed()
    torch.manual_seed(0)
    chosen = setting()
    batch = _batch(chosen)
    cached = _way(chosen, cluster={"sample_rate": 0.1, "label_weight": 1.0, "storage": "fp16"})
    plain = _way(chosen, cluster={"weight": 0}, instance={"weight": 0})
    teacher = _clip(chosen.teacher).to(chosen.device, _dtype(chosen)).eval().requires_grad_(False)

    def online() -> None:
        with torch.no_grad():
            image = teacher.encode_image(batch.image.to(_dtype(chosen))).float()
            text = teacher.encode_text(batch.text).float()
        cached(dataclasses.replace(batch, teacher_image=image, teacher_text=text))

    times = _take_turns({"cached": lambda: cached(batch), "online": online, "plain": lambda: plain(batch)}, chosen)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [
        {
            "device": torch.cuda.get_device_name() if chosen.device == "cuda" else "cpu, tiny models",
            "batch": chosen.batch,
            "clusters": chosen.clusters,
            **{f"{name}_ms": round(1e3 * seconds, 1) for name, seconds in medians.items()},
            "online_over_cached": round(medians["online"] / medians["cached"], 2),
            "distillation_over_plain": round(medians["cached"] / medians["plain"], 3),
            "cluster_term_gb": _cluster_memory(chosen, batch),
        }
    ]


def _way(chosen: Setting, **losses: dict[str, Any]) -> Callable[[Any], None]:
    """One step of a student of its own through the engine."""
    import torch

    from training.config import LossesConfig, StudentConfig
    from training.engine import Engine
    from training.student import Student
    from training.task import DistillationTask

    config = StudentConfig(
        batch_size=chosen.batch,
        ranks=1,
        precision=chosen.precision,  # type: ignore[arg-type]
        losses=LossesConfig.model_validate(losses),
    )
    width = chosen.teacher["embed_dim"]
    clip = _clip(chosen.student, nonscalar_logit_scale=True)
    engine = Engine(Student(clip, embed_dim=chosen.student["embed_dim"], teacher_dim=width), config)
    centroids = _centroids(chosen) if config.losses.cluster.weight else None
    device = torch.device(chosen.device)
    # The batch is normalised already.
    task = DistillationTask(config.losses, centroids=centroids, normalise=lambda image: image, device=device)

    def step(batch: Any) -> None:
        engine.step(task.total(task.losses(engine.model, batch)), learning_rate=1e-3)

    return step


def _centroids(chosen: Setting) -> Any:
    import torch

    from training.losses.centroids import Centroids

    return Centroids(torch.randn(chosen.clusters, chosen.teacher["embed_dim"]).half())


def _clip(config: dict[str, Any], **options: Any) -> Any:
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, **options)


def _batch(chosen: Setting) -> Any:
    import torch

    from training.task import Batch

    size, width = chosen.student["vision_cfg"]["image_size"], chosen.teacher["embed_dim"]
    return Batch(
        sample_ids=list(range(chosen.batch)),
        image=torch.randn(chosen.batch, 3, size, size),
        text=torch.randint(1, 49407, (chosen.batch, chosen.student["text_cfg"].get("context_length", 77))),
        teacher_image=torch.randn(chosen.batch, width),
        teacher_text=torch.randn(chosen.batch, width),
        cluster_ids=torch.randint(chosen.clusters, (chosen.batch,)),
    ).to(torch.device(chosen.device))


def _dtype(chosen: Setting) -> Any:
    import torch

    return torch.bfloat16 if chosen.precision == "bf16" else torch.float32


def _take_turns(ways: dict[str, Callable[[], None]], chosen: Setting) -> dict[str, list[float]]:
    import torch

    wait = torch.cuda.synchronize if chosen.device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(chosen.rounds + 1):
        for name, way in ways.items():
            wait()
            started = time.perf_counter()
            way()
            wait()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    return times


def _cluster_memory(chosen: Setting, batch: Any) -> float | None:
    """Peak GB of the term's forward and backward pass above what was there, the centroids apart; on a GPU alone."""
    import torch
    import torch.nn.functional as F

    from training.losses.cluster import ClusterDiscriminationLoss

    loss = ClusterDiscriminationLoss(_centroids(chosen), sample_rate=0.1).to(chosen.device)
    student = F.normalize(torch.randn_like(batch.teacher_image), dim=-1).requires_grad_()
    before = 0
    if chosen.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    torch.stack(list(loss(student, batch.teacher_image, batch.cluster_ids).values())).sum().backward()
    return round((torch.cuda.max_memory_allocated() - before) / 1e9, 2) if chosen.device == "cuda" else None
