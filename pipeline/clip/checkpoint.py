"""Files of weights as people have them: wrapped by what trained them, or not weights at all."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clip.file_kind import SAFETENSORS, WEIGHTS, kind_of
from pipeline.core.errors import ConfigError, brief

if TYPE_CHECKING:
    from torch import Tensor

_ENDINGS = (".bin", ".ckpt", ".json", ".npy", ".npz", ".pt", ".pth", ".safetensors")
# Weights of the big_vision project, which open_clip reads by itself.
_BIG_VISION = (".npz", ".npy")
# Under which training programs keep a state: plain PyTorch loops and Lightning, DeepSpeed, and others.
_WRAPS = ("state_dict", "module", "model_state_dict", "model")
# What they put before each name: DistributedDataParallel and DeepSpeed, Lightning and students of this project.
_PREFIX = re.compile(r"((module|model)\.)+")
_COMPILED = "_orig_mod."
_SCALE = "logit_scale"


def looks_like_a_path(name: str) -> bool:
    """Whether what is not there would have been a file rather than a tag."""
    return "/" in name or Path(name).suffix.lower() in _ENDINGS


def check_weights(path: Path) -> None:
    """Raise :class:`ConfigError` for a file that is missing, cut off or no file of weights, by its header."""
    try:
        kind = kind_of(path)
        if path.suffix.lower() in _BIG_VISION:
            return
        if kind not in WEIGHTS:
            raise ConfigError(f"{path} is {kind}, not a file of weights")
        if kind == SAFETENSORS:
            from safetensors import safe_open

            with safe_open(str(path), framework="numpy"):
                pass
    except FileNotFoundError as error:
        raise ConfigError(f"no checkpoint file {str(path)!r}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} is damaged: {brief(error)}") from error


def read_checkpoint(path: Path) -> "dict[str, Tensor]":
    """The tensors of a checkpoint by the model's own names, out of whatever wraps them; nothing is unpickled but
    tensors. Raises :class:`ConfigError` for a file that holds no such thing."""
    import safetensors.torch
    import torch

    check_weights(path)
    try:
        if kind_of(path) == SAFETENSORS:
            content: Any = safetensors.torch.load_file(str(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as weights: {brief(error)}") from error
    return _unwrapped(content, path)


def _unwrapped(content: Any, path: Path) -> "dict[str, Tensor]":
    from torch import Tensor

    while isinstance(content, dict) and (name := next((n for n in _WRAPS if isinstance(content.get(n), dict)), None)):
        content = content[name]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"{path} holds no weights by name, but {held or 'nothing'}")
    # torch.compile's is before the names of whatever part it was given.
    state = {str(name).replace(_COMPILED, ""): value for name, value in content.items() if isinstance(value, Tensor)}
    prefix = _prefix(state)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _prefix(names: Iterable[str]) -> str:
    """What stands before the logit scale, which every CLIP has once, stands before all else of the model; what has no
    such prefix belongs to its trainer. Empty where there is none, or not one alone."""
    found = [name.removesuffix(_SCALE) for name in names if name.rpartition(".")[2] == _SCALE]
    usual = [prefix for prefix in found if _PREFIX.fullmatch(prefix)]
    if "" in found:
        return ""
    return next((group[0] for group in (usual, found) if len(group) == 1), "")
