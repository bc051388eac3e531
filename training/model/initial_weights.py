"""Where a student's first weights come from: chance, a checkpoint, or its teacher.

A student that is a smaller edition of its teacher (fewer layers, narrower) inherits evenly spaced layers, and of each
dimension evenly spaced channels: channel i of n takes that of floor(i N / n) of N. The rule depends on sizes alone, so
what two tensors share they select alike. Attention selects heads first, then channels within them, so that heads stay
whole. Weight selection of this kind: Xu et al., arXiv 2311.18823; layers: DistilBERT, arXiv 1910.01108.
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.clip.checkpoint import looks_like_a_path, read_checkpoint
from pipeline.clip.model import WEIGHTS_FILE
from pipeline.core.errors import ConfigError, brief
from training.config.student import SCRATCH, TEACHER

_LAYER = re.compile(r"(.*(?:resblocks|layer\d+))\.(\d+)\.(.*)")
_NAMED_IN_ERRORS = 3
_HEAD_DIMENSIONS = {
    *((0, leaf) for leaf in ("in_proj_weight", "in_proj_bias", "q_proj", "k_proj", "v_proj")),
    *((1, leaf) for leaf in ("out_proj", "c_proj")),
}


def initialize(clip: nn.Module, initial: str, *, model: str, teacher: Path | None) -> None:
    """Give an open_clip model its first weights, in place.

    ``initial``: `scratch` leaves it as it is; `teacher` inherits from the open_clip folder ``teacher``; else a
    checkpoint file, an open_clip folder, or a pretrained tag of ``model``. The logit scale stays the config's. Raises
    :class:`ConfigError` where weights are missing or do not fit.
    """
    if initial == SCRATCH:
        return
    if initial == TEACHER:
        if teacher is None:
            raise ConfigError("student.initial is `teacher`, but this run has none")
        from pipeline.clip.model import load_clip

        source = load_clip(teacher, device="cpu").model
        state = inherited(clip, source)
    else:
        state = _checkpoint(initial, model)
    wanted = clip.state_dict()
    state |= {name: wanted[name] for name in ("logit_scale", "logit_bias") if name in wanted}
    missing = [name for name in wanted if name not in state]
    other = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or other:
        raise ConfigError(
            f"student.initial {initial!r} does not fit student.model {model!r}: {len(missing)} tensors are missing "
            f"({', '.join(missing[:_NAMED_IN_ERRORS])}), {len(other)} have another shape "
            f"({', '.join(other[:_NAMED_IN_ERRORS])})"
        )
    clip.load_state_dict({name: state[name] for name in wanted})


def inherited(student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """The student's state with every tensor selected from the teacher's; :class:`ConfigError` for what cannot be."""
    source, target = teacher.state_dict(), student.state_dict()
    heads = _heads(teacher), _heads(student)
    depths = _depths(source), _depths(target)
    result, lacking = {}, []
    for name, tensor in target.items():
        origin = _origin(name, source, depths)
        if origin is None or any(n > m for n, m in zip(tensor.shape, source[origin].shape)):
            lacking.append(name)
            continue
        value = source[origin]
        for dim, (of, take) in enumerate(zip(value.shape, tensor.shape)):
            split = _head_split(name, dim, heads, origin)
            value = value.index_select(dim, _selected(of, take, *split))
        result[name] = value.to(tensor.dtype)
    lacking = [name for name in lacking if name.partition(".")[0] not in ("logit_scale", "logit_bias")]
    if lacking:
        raise ConfigError(
            f"the student cannot inherit {len(lacking)} tensors: its teacher lacks them, or has smaller ones "
            f"({', '.join(lacking[:_NAMED_IN_ERRORS])})"
        )
    return result


def _selected(of: int, take: int, groups: int = 1, heads_of: int = 1, heads_take: int = 1) -> Tensor:
    """Indices of ``take`` out of ``of``: in each of ``groups`` parts (query, key, value) evenly spaced heads, and in
    each head evenly spaced channels."""
    head = _even(heads_of, heads_take)
    channel = _even(of // groups // heads_of, take // groups // heads_take)
    inner = (head[:, None] * (of // groups // heads_of) + channel).flatten()
    return (torch.arange(groups)[:, None] * (of // groups) + inner).flatten()


def _even(of: int, take: int) -> Tensor:
    return torch.arange(take) * of // max(take, 1)


def _origin(name: str, source: dict[str, Tensor], depths: tuple[dict[str, int], dict[str, int]]) -> str | None:
    """The teacher's tensor for a student's, by name; layers are spread evenly, the first and the last are kept."""
    for candidate in (name, f"text.{name}", name.removeprefix("text.")):
        match = _LAYER.fullmatch(candidate)
        if match:
            stack, layer, rest = match[1], int(match[2]), match[3]
            of, take = (depth.get(stack) or depth.get(stack.removeprefix("text."), 1) for depth in depths)
            found = f"{stack}.{round(layer * (of - 1) / max(take - 1, 1))}.{rest}"
        else:
            found = candidate
        if found in source:
            return found
    return None


def _depths(state: dict[str, Tensor]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for name in state:
        match = _LAYER.fullmatch(name)
        if match:
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths


def _heads(model: nn.Module) -> dict[str, int]:
    """Number of heads by module name."""
    return {name: int(part.num_heads) for name, part in model.named_modules() if hasattr(part, "num_heads")}


def _head_split(name: str, dim: int, heads: tuple[dict[str, int], dict[str, int]], origin: str) -> tuple[int, ...]:
    """How a dimension is divided into heads: groups, the teacher's heads, the student's. Empty if it is not."""
    (module, _, leaf), source = name.rpartition("."), origin.rpartition(".")[0]
    packed = leaf.startswith("in_proj")
    if not packed:
        # One level down: `attn.out_proj.weight` belongs to `attn`.
        module, _, leaf = module.rpartition(".")
        source = source.rpartition(".")[0]
    if (dim, leaf) not in _HEAD_DIMENSIONS or source not in heads[0] or module not in heads[1]:
        return ()
    return 3 if packed else 1, heads[0][source], heads[1][module]


def _checkpoint(initial: str, model: str) -> dict[str, Tensor]:
    import open_clip

    path = Path(initial)
    try:
        if path.exists() or looks_like_a_path(initial):
            return read_checkpoint(path / WEIGHTS_FILE if path.is_dir() else path)
        loaded = open_clip.create_model(model, pretrained=initial, require_pretrained=True, weights_only=True)
    except Exception as error:
        raise ConfigError(f"student.initial {initial!r} of student.model {model!r}: {brief(error)}") from error
    return dict(loaded.state_dict())
