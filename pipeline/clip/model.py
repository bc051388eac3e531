"""An open_clip folder, loaded and written."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.clip.tokenizer import tokenizer_of
from pipeline.core.devices import resolve
from pipeline.core.errors import ConfigError, TeacherError, brief
from pipeline.core.files import write_text_atomically

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedClip:
    """An open_clip model in evaluation mode, with the preprocessing and tokenizer that belong to it.

    ``input_dtype``: the torch type that it wants images in; none means float32.
    """

    model: Any
    preprocess: Callable[[Any], Any]
    tokenizer: Callable[[list[str]], Any]
    device: str
    embed_dim: int
    input_dtype: Any = None


def load_clip(folder: Path, *, device: str = "auto", precision: str = "fp32") -> LoadedClip:
    """Load an open_clip folder for inference; ``device`` ``auto`` takes CUDA where there is one.

    Raises :class:`TeacherError` if the folder is incomplete or its weights fit neither its config nor the device, and
    :class:`ConfigError` for a device that is not there.
    """
    import open_clip
    import torch

    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise TeacherError(f"{folder}: not an open_clip folder, expected {CONFIG_FILE} and {WEIGHTS_FILE} in it")
    device = resolve(device)
    name = f"local-dir:{folder}"
    try:
        with _nothing_drawn():
            model, _, preprocess = open_clip.create_model_and_transforms(name, precision=precision, device=device)
        config = json.loads((folder / CONFIG_FILE).read_text())
        tokenizer = tokenizer_of(config["model_cfg"], folder=folder)
    except torch.OutOfMemoryError as error:
        raise TeacherError(f"{folder}: the memory of {device} is too small for its weights: {error}") from error
    except ConfigError as error:
        raise TeacherError(f"{folder}: {error}") from error
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, ImportError) as error:
        raise TeacherError(f"{folder}: weights and config do not fit: {brief(error)}") from error
    model.eval().requires_grad_(False)
    return LoadedClip(
        model=model,
        preprocess=preprocess,
        tokenizer=tokenizer,
        device=device,
        embed_dim=int(config["model_cfg"]["embed_dim"]),
        # Not that of any weight: some stay in float32, norms and embeddings among them.
        input_dtype=open_clip.get_input_dtype(precision),
    )


@contextlib.contextmanager
def _nothing_drawn() -> Iterator[None]:
    """While the block lasts torch's two random fills, on which its initial weights rest, leave tensors as they are.

    One CPU thread draws a large model for a minute, only to have it overwritten. Nothing that is drawn by chance can be
    part of a teacher: open_clip loads strictly and refuses a file that lacks a weight.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    init = torch.nn.init
    # Those of torch.nn.init are here because they ask the mode themselves and are then run without it.
    fills: set[Any] = {torch.Tensor.uniform_, torch.Tensor.normal_}
    fills |= {init.uniform_, init.normal_, init.kaiming_uniform_}

    class Skipping(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in fills:
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    with Skipping():
        yield


def compile_tower(tower: Any) -> None:
    """Compile a tower in place for the shapes that it is given: block by block where it is made of equal ones, which
    are then compiled once."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    for module in [tower] if blocks is None else blocks:
        module.compile(dynamic=False)


def write_clip_folder(
    folder: Path, *, model_config: dict[str, Any], preprocess_config: dict[str, Any], state: Any
) -> None:
    """Write a model as an open_clip folder; tensors are stored contiguous and unshared, as safetensors wants them."""
    import safetensors.torch

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(tensors, str(folder / WEIGHTS_FILE))
    content = {"model_cfg": model_config, "preprocess_cfg": preprocess_config}
    write_text_atomically(folder / CONFIG_FILE, json.dumps(content, indent=2))
