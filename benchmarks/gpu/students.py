"""What the parts that train share: models with random weights drawn on the device, batches, steps, and a clock."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Setting
from benchmarks.gpu.timing import forget_peak, take_turns

_TINY_VISION = {"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 16}
_TINY_TEXT = {"context_length": 8, "vocab_size": 256, "width": 32, "heads": 2, "layers": 1}
TINY: dict[str, Any] = {"embed_dim": 32, "vision_cfg": _TINY_VISION, "text_cfg": _TINY_TEXT}


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """This process as the only rank: NCCL on a GPU, gloo without."""
    import torch

    from training.engine.deepspeed_engine import init_distributed
    from training.launch.ports import reserved_port

    with reserved_port() as port:
        where = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in where.items()}
        init_distributed()
    if not torch.cuda.is_available():
        # Work this small would spend its time on hand-over between threads.
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def model_config(name: str, setting: Setting) -> dict[str, Any]:
    """open_clip's config of a model; a tiny one for tiny runs."""
    import open_clip

    return TINY if setting.tiny else dict(open_clip.get_model_config(name))


def clip_of(config: dict[str, Any], device: str, **options: Any) -> Any:
    """An open_clip model whose weights are drawn where they stay: billions of them would keep a core busy."""
    import open_clip
    import torch

    with tempfile.TemporaryDirectory() as folder, torch.device(device):
        (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return open_clip.create_model(
            f"local-dir:{folder}", load_weights=False, pretrained_text=False, device=device, **options
        )


def engine_of(
    config: dict[str, Any], device: str, *, teacher_dim: int | None = None, **student: Any
) -> tuple[Any, Any]:
    """A student of this model config in an engine of its own, and the open_clip model inside."""
    import torch

    from training.config import StudentConfig
    from training.engine.deepspeed_engine import Engine
    from training.model.student import Student

    clip = clip_of(config, device, nonscalar_logit_scale=True)
    with torch.device(device):
        module = Student(clip, embed_dim=config["embed_dim"], teacher_dim=teacher_dim)
    return Engine(module, StudentConfig(ranks=1, **student)), clip


def random_batch(config: dict[str, Any], rows: int, device: str, *, width: int = 8, clusters: int = 1) -> Any:
    """``rows`` samples on the device: noise as pixels, teacher embeddings ``width`` wide, labels below ``clusters``."""
    import torch

    from training.data.batch import Batch

    size, length = config["vision_cfg"]["image_size"], config["text_cfg"].get("context_length", 77)
    # The end of a text is its largest token.
    end = config["text_cfg"].get("vocab_size", 49408) - 1
    text = torch.randint(1, end, (rows, length), device=device)
    text[:, -1] = end
    return Batch(
        image_ids=list(range(rows)),
        image=torch.randint(256, (rows, size, size, 3), dtype=torch.uint8, device=device),
        text=text,
        teacher_image=torch.randn(rows, width, device=device),
        teacher_text=torch.randn(rows, width, device=device),
        cluster_ids=torch.randint(clusters, (rows,), device=device),
    )


def normalize(pixels: Any) -> Any:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32, as a student's preprocessing does."""
    import torch

    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def step_of(engine: Any, batch: Any, losses: dict[str, Any], centroids: Any = None) -> Callable[[], Any]:
    """A step of the engine on one batch with these terms, as the training loop takes it; it tells whether the step was
    taken."""
    import torch

    from training.config import LossesConfig
    from training.loop.task import DistillationTask

    task = DistillationTask(
        LossesConfig.model_validate(losses), centroids=centroids, normalize=normalize, device=engine.device
    )

    def step(batch: Any = batch, factor: float = 1.0) -> bool:
        terms = task.losses(engine.model, batch)
        loss = task.total(terms)
        values = torch.stack([loss.detach(), *(term.detach() for term in terms.values())])
        engine.backward(loss if factor == 1 else loss * factor)
        # The loop looks at them before the optimizer's step.
        values.tolist()
        taken = bool(engine.step(learning_rate=1e-4))
        if not taken and not engine.skips_overflows:
            raise FloatingPointError("a gradient is not finite: what was timed is no step")
        task.after_step(engine, learning_rate=1e-4)
        return taken

    return step


def random_centroids(clusters: int, width: int, device: str) -> Any:
    """Stored in float16, drawn on the device."""
    import torch

    from training.losses.centroids import Centroids

    return Centroids(torch.randn(clusters, width, device=device, dtype=torch.float16))


def milliseconds(
    ways: dict[str, Callable[[], Any]], setting: Setting, *, rounds: int, warm_up: int = 1
) -> dict[str, float]:
    """Of each way, in turns."""
    taken = take_turns(ways, setting.device, rounds=rounds, warm_up=warm_up)
    return {name: 1e3 * found for name, found in taken.items()}


def guarded(row: dict[str, Any], device: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """``row`` with what ``work`` found, or with the error where memory did not suffice."""
    import torch

    try:
        return row | work()
    except torch.cuda.OutOfMemoryError as error:
        found = {"error": f"out of memory: {str(error)[:200]}"}
    # Only here: the traceback of the exception held what it had allocated.
    forget_peak(device)
    return row | found


def forward_flops(config: dict[str, Any]) -> float:
    """Of one image and one caption in an open_clip ViT pair: 2 for each weight and token, 4 L^2 w for each attention.

    Attention counts whole, masked or not; norms, activations, embeddings by look-up and losses do not count. A backward
    pass is twice as much.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    patch, width = vision["patch_size"], vision["width"]
    patches = (vision["image_size"] // patch) ** 2
    image = 2 * patches * 3 * patch**2 * width + _tower_flops(vision, patches + 1) + 2 * width * config["embed_dim"]
    return image + _tower_flops(text, text.get("context_length", 77)) + 2 * text["width"] * config["embed_dim"]


def _tower_flops(tower: dict[str, Any], tokens: int) -> float:
    width = tower["width"]
    weights = 4 * width**2 + 2 * width * int(width * tower.get("mlp_ratio", 4.0))
    return float(tower["layers"] * (2 * tokens * weights + 4 * tokens**2 * width))
