"""The student: an open_clip model, a projection to the teacher's space, and its export without that projection."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.clip.model import compile_tower
from pipeline.clip.tokenizer import save_tokenizer
from pipeline.core.errors import ConfigError, brief
from training.config.student import SCRATCH
from training.model.config import read_student_config, student_tokenizer
from training.model.initial_weights import initialize

_SCALARS = ("logit_scale", "logit_bias")


class Features(NamedTuple):
    """Normalized float32 features of a batch: in the student's own space (E), and projected to the teacher's (D).

    Scales are inverse temperatures; those of the teacher's terms are there where they are learnable.
    """

    image: Tensor
    text: Tensor
    image_to_teacher: Tensor
    text_to_teacher: Tensor
    logit_scale: Tensor
    cluster_scale: Tensor | None = None
    instance_scale: Tensor | None = None


class Student(nn.Module):
    """An open_clip model with a learnable linear map to the teacher's width, so that the engine sees one module.

    The contrastive term works in the student's own space, which is what is exported; the teacher's terms see it
    through ``projection``. One map serves images and captions, so that both keep the angle between them. ``autocast``:
    precision of the model's matrix products and convolutions, for models whose weights must stay in float32.
    ``temperatures``: initial values of those that are learnable beside the contrastive one, by `cluster` or `instance`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        embed_dim: int,
        teacher_dim: int | None,
        autocast: torch.dtype | None = None,
        temperatures: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.model, self._autocast = model, autocast
        self._layout = memory_format(model)
        same = teacher_dim is None or teacher_dim == embed_dim
        # Vectors of one: see the logit scale of `build_student`.
        self.log_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor([-math.log(value)])) for name, value in (temperatures or {}).items()}
        )
        self.projection = nn.Identity() if same else nn.Linear(embed_dim, teacher_dim or embed_dim, bias=False)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the towers in place, block by block, for one batch size."""
        model: Any = self.model
        for tower in (model.visual, getattr(model, "text", model)):
            compile_tower(tower)

    def forward(self, image: Tensor, text: Tensor) -> Features:
        """``image``: ``(B, 3, H, W)`` preprocessed; ``text``: ``(B, L)`` token ids."""
        model: Any = self.model
        dtype = next(model.visual.parameters()).dtype
        with torch.autocast(image.device.type, self._autocast, enabled=self.training and self._autocast is not None):
            image_BE = model.encode_image(image.to(dtype=dtype, memory_format=self._layout))
            text_BE = model.encode_text(text)
            image_BD, text_BD = self.projection(image_BE), self.projection(text_BE)
        return Features(
            image=F.normalize(image_BE.float(), dim=-1),
            text=F.normalize(text_BE.float(), dim=-1),
            image_to_teacher=F.normalize(image_BD.float(), dim=-1),
            text_to_teacher=F.normalize(text_BD.float(), dim=-1),
            logit_scale=model.logit_scale.float().exp().reshape(()),
            **{f"{name}_scale": value.float().exp().reshape(()) for name, value in self.log_scales.items()},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltStudent:
    """A fresh student with what belongs to it."""

    module: Student
    model_config: dict[str, Any]
    preprocess_config: dict[str, Any]
    preprocess: Callable[[Any], Tensor]
    tokenizer: Callable[[list[str]], Tensor]


def build_student(
    model: str,
    *,
    teacher_dim: int | None,
    temperature: float,
    seed: int,
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
    initial: str = SCRATCH,
    teacher: Path | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> BuiltStudent:
    """Build the student with weights drawn from ``seed``.

    Its images are preprocessed as open_clip does for evaluation, without augmentation: the teacher's cached embeddings
    are of the image as it is.

    Args:
        model: `demo`, an open_clip model name, or a JSON model config file.
        teacher_dim: width of the teacher's embeddings, for which a projection is built; none means no projection.
        temperature: initial temperature of the contrastive term.
        seed: seed of all weights.
        precision: that of training; models with BatchNorm keep their weights and statistics in float32 and go through
            autocast, in bf16 alone.
        gradient_checkpointing: compute activations again in the backward pass.
        initial: see :func:`training.model.initial_weights.initialize`, and so is ``teacher``.
        teacher: its open_clip folder.
        temperatures: initial values of other learnable temperatures, by term.

    Returns:
        The model, its preprocessing and tokenizer.

    Raises:
        ConfigError: if there is no such model, or it cannot do what is asked.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from pipeline.clip.model import CONFIG_FILE

    config = read_student_config(model)
    model_config = config["model_cfg"]
    tokenizer = student_tokenizer(model, model_config)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        # open_clip builds any config from a folder; a registered name could shadow one of its own models.
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(config))
        name = f"local-dir:{folder}"
        try:
            # DeepSpeed cannot broadcast tensors without dimensions: the logit scale is a vector of one while training.
            clip = open_clip.create_model(name, load_weights=False, pretrained_text=False, nonscalar_logit_scale=True)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError) as error:
            raise ConfigError(f"student model {model!r}: open_clip cannot build it: {brief(error)}") from error
    initialize(clip, initial, model=model, teacher=teacher)
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(1 / temperature))
    if gradient_checkpointing:
        clip.set_grad_checkpointing()
    module = Student(
        clip,
        embed_dim=int(model_config["embed_dim"]),
        teacher_dim=teacher_dim,
        autocast=_autocast(clip, model, precision),
        temperatures=temperatures,
    )
    preprocess = PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip))
    return BuiltStudent(
        module=module,
        model_config=model_config,
        preprocess_config=dataclasses.asdict(preprocess),
        preprocess=image_transform_v2(preprocess, is_train=False),
        tokenizer=tokenizer,
    )


def has_batch_norm(module: nn.Module) -> bool:
    """Whether it has running statistics, which need float32."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def memory_format(module: nn.Module) -> torch.memory_format:
    """Channels last for towers of convolutions, which take less time with it, on CPUs too; a ViT takes longer."""
    return torch.channels_last if has_batch_norm(module) else torch.contiguous_format


def _autocast(clip: nn.Module, model: str, precision: str) -> torch.dtype | None:
    if precision == "fp32" or not has_batch_norm(clip):
        return None
    if precision == "fp16":
        raise ConfigError(
            f"student model {model!r} has BatchNorm: its statistics need float32, and autocast would need a loss scale "
            "that knows it; use bf16 or fp32, or a student with a ViT image tower"
        )
    return torch.bfloat16


def export_student(folder: Path, built: BuiltStudent, state: Mapping[str, Tensor]) -> None:
    """Write an open_clip folder that plain open_clip loads as ``local-dir:<folder>``.

    ``state``: float32 state of :class:`Student`; the projection to the teacher is dropped.
    """
    from pipeline.clip.model import write_clip_folder

    prefix = "model."
    model_state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not built.model_config.get("nonscalar_logit_scale"):
        model_state |= {name: model_state[name].reshape(()) for name in _SCALARS if name in model_state}
    write_clip_folder(
        folder, model_config=built.model_config, preprocess_config=built.preprocess_config, state=model_state
    )
    save_tokenizer(built.tokenizer, folder)
