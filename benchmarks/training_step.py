"""What a step of the demo's student costs: with a cached and an online teacher, plain, under DDP and under DeepSpeed.

All ways take turns in one process on the same batch, so that a shared CPU slows them alike; figures are medians of
ratios of steps of the same round. The prediction counts floating-point operations of matrix products and
convolutions. The loader reads and decodes every sample anew, or has it from an earlier epoch, as small sets do.
"""

import dataclasses
import functools
import io
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.turns import ratio, take_turns

_BATCH, _CLUSTERS, _WIDTH = 256, 256, 64
# Enough for the start of the loader's processes, once a run, not to count.
_SAMPLES = 24_576


def measure() -> list[dict[str, Any]]:
    """Ratios of step times, in processes of their own."""
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    parts: list[tuple[Any, tuple[str, ...]]] = [
        (_teachers, ("demo",)),
        (_engines, ("demo",)),
        (_teachers, ("ViT",)),
        (_engines, ("ViT",)),
    ]
    parts += [(_layouts, ()), (_loader, ())]
    for part, arguments in parts:
        # Not a Pool: its processes may not start the loader's.
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            rows += pool.submit(part, *arguments).result()
    return rows


def _teachers(pair: str) -> list[dict[str, Any]]:
    """Cached against online teacher, and against plain CLIP training."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    (student_config, teacher_config), batch = _pair(pair), _batch(pair)
    student, teacher = _student(student_config), _clip(teacher_config).eval().requires_grad_(False)
    cached, plain = _task(), _task(cluster={"weight": 0}, instance={"weight": 0})
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=True)

    def step(task: Any, batch: Any) -> None:
        optimizer.zero_grad()
        task.total(task.losses(student, batch)).backward()
        optimizer.step()

    def online() -> None:
        with torch.no_grad():
            features = teacher.encode_image(batch.image), teacher.encode_text(batch.text)
        step(cached, dataclasses.replace(batch, teacher_image=features[0], teacher_text=features[1]))

    ways = {"cached": lambda: step(cached, batch), "online": online, "plain": lambda: step(plain, batch)}
    flops = {}
    for name, way in ways.items():
        with FlopCounterMode(display=False) as counter:
            way()
        flops[name] = counter.get_total_flops()
    times = take_turns(ways)
    return [
        {
            "what": f"{pair}: online teacher over cached",
            "ratio": ratio(times, "online", "cached"),
            "predicted_by_flops": round(flops["online"] / flops["cached"], 2),
        },
        {"what": f"{pair}: distillation step over plain CLIP step", "ratio": ratio(times, "cached", "plain")},
    ]


def _engines(pair: str) -> list[dict[str, Any]]:
    """DeepSpeed's step against that of bare DDP, one rank each: what the engine itself costs."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from training.config import StudentConfig
    from training.engine.deepspeed_engine import Engine, init_distributed
    from training.launch.ports import reserved_port

    with reserved_port() as port:
        where = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in where.items()}
        init_distributed()
    batch, task, config = _batch(pair), _task(), _pair(pair)[0]
    bare = DistributedDataParallel(_student(config))
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-3, fused=True)

    def ddp() -> None:
        optimizer.zero_grad()
        task.total(task.losses(bare, batch)).backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optimizer.step()

    ways: dict[str, Callable[[], Any]] = {"ddp": ddp}
    for stage in (0, 1):
        # It sees to the layout itself.
        fresh = _student(config).to(memory_format=torch.contiguous_format)
        engine = Engine(fresh, StudentConfig(batch_size=len(batch.image), ranks=1, zero_stage=stage))
        ways[f"ZeRO {stage}"] = functools.partial(_engine_step, engine, task, batch)
    times = take_turns(ways)
    return [
        {
            "what": f"{pair}: DeepSpeed {name} over bare DDP",
            "ratio": ratio(times, name, "ddp"),
            "more_ms": round(1e3 * statistics.median(a - b for a, b in zip(times[name], times["ddp"]))),
        }
        for name in ways
        if name != "ddp"
    ]


def _engine_step(engine: Any, task: Any, batch: Any) -> None:
    engine.backward(task.total(task.losses(engine.model, batch)))
    engine.step(learning_rate=1e-3)


def _layouts() -> list[dict[str, Any]]:
    """The demo student's step with its convolutions channels last, against channels first."""
    import torch

    ways = {}
    for name, layout in (("last", torch.channels_last), ("first", torch.contiguous_format)):
        student = _student().to(memory_format=layout)
        student._layout = layout
        ways[name] = _plain_step(student, "demo")
    return [{"what": "demo: channels last over channels first", "ratio": ratio(take_turns(ways), "last", "first")}]


def _loader() -> list[dict[str, Any]]:
    """Samples a second of the loader against those that the students take, each alone on all cores."""
    from pipeline.clip.preprocessing import Preprocessing
    from training.data.dataset import TrainingSet
    from training.data.loader import batches
    from training.data.order import SampleOrder
    from training.losses.active import Needs

    needs = Needs(teacher_image=True, teacher_text=True, cluster_id=True, centroids=True)
    built = _built()
    with tempfile.TemporaryDirectory() as folder:
        _write_shards(Path(folder))

        arguments = {"needs": needs, "preprocessing": Preprocessing.of(built.preprocess), "tokenizer": built.tokenizer}

        def read(samples: Any, workers: int) -> None:
            order = SampleOrder(samples.shard_rows, batch_size=_BATCH, seed=0)
            for _ in batches(samples, order, start=0, stop=order.steps_per_epoch, rank=0, ranks=1, workers=workers):
                pass

        def load() -> None:
            read(TrainingSet(Path(folder), Path(folder) / "index", **arguments), workers=2)

        kept = TrainingSet(Path(folder), Path(folder) / "index", **arguments)

        readers = {"decoding": load, "decoded before": lambda: read(kept, workers=0)}
        students = {pair: _plain_step(_student(_pair(pair)[0]), pair) for pair in ("demo", "ViT")}
        times = take_turns({**readers, **students}, rounds=5)
    return [
        {
            "what": f"{pair}: loader on all cores, {name}, over the student's consumption on all cores",
            "ratio": round(_SAMPLES / _size(pair) / ratio(times, name, pair), 2),
        }
        for pair in students
        for name in readers
    ]


def _plain_step(student: Any, pair: str) -> Callable[[], None]:
    """A step of training, all terms, without an engine."""
    import torch

    batch, task = _batch(pair), _task()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        task.total(task.losses(student, batch)).backward()
        optimizer.step()

    return step


def _built() -> Any:
    from training.model.student import build_student

    return build_student("demo", teacher_dim=_WIDTH, temperature=0.07, seed=0)


def _pair(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model configs of student and teacher: the demo's ResNets, or two ViTs, where matrix products take the time."""
    if name == "demo":
        models = Path(__file__).parents[1] / "pipeline/demo/models"
        student, teacher = (json.loads((models / f"demo-{role}.json").read_text()) for role in ("student", "teacher"))
        return student, teacher
    student, teacher = (
        {
            "embed_dim": _WIDTH,
            "vision_cfg": {"layers": layers, "width": width, "head_width": 64, "image_size": 48, "patch_size": 8},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": 2},
        }
        for width, layers in ((192, 4), (448, 6))
    )
    return student, teacher


def _student(config: dict[str, Any] | None = None) -> Any:
    """As the engine has it at ZeRO 0."""
    from training.model.student import Student, memory_format

    clip = _clip(config or _pair("demo")[0], nonscalar_logit_scale=True)
    student = Student(clip, embed_dim=_WIDTH, teacher_dim=_WIDTH)
    return student.to(memory_format=memory_format(student))


def _clip(config: dict[str, Any], **options: Any) -> Any:
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, **options)


def _size(pair: str) -> int:
    return _BATCH if pair == "demo" else _BATCH // 4


def _batch(pair: str) -> Any:
    import torch

    from training.data.batch import Batch

    size = _size(pair)
    return Batch(
        image_ids=list(range(size)),
        image=torch.randn(size, 3, 48, 48),
        text=torch.randint(1, 49407, (size, 16)),
        teacher_image=torch.randn(size, _WIDTH),
        teacher_text=torch.randn(size, _WIDTH),
        cluster_ids=torch.randint(_CLUSTERS, (size,)),
    )


def _task(**losses: dict[str, Any]) -> Any:
    import torch

    from training.config import LossesConfig
    from training.loop.task import DistillationTask
    from training.losses.centroids import Centroids

    centroids = Centroids(torch.randn(_CLUSTERS, _WIDTH, generator=torch.Generator().manual_seed(0)))
    config, device = LossesConfig.model_validate(losses), torch.device("cpu")
    # The batch is normalized already.
    return DistillationTask(config, centroids=centroids, normalize=lambda image: image, device=device)


def _write_shards(folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    from pipeline.core.tars import index_tar, write_tar

    rng = np.random.default_rng(0)
    vector, image = io.BytesIO(), io.BytesIO()
    np.save(vector, rng.normal(size=_WIDTH).astype(np.float16))
    smooth = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
    smooth.save(image, "JPEG", quality=95)
    members = {"jpg": image.getvalue(), "txt": "a red circle on a blue ground", "image.npy": vector.getvalue()}
    rows = (
        {
            "__key__": f"{number:09d}",
            **members,
            "text.npy": vector.getvalue(),
            "json": json.dumps({"image_id": number, "cluster_id": 0}).encode(),
        }
        for number in range(_SAMPLES)
    )
    write_tar(folder / "00000.tar", rows)
    (folder / "index").mkdir()
    pq.write_table(index_tar(folder / "00000.tar"), folder / "index/00000.parquet")
