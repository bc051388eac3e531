"""What a run needs to go on with another number of ranks: weights and AdamW's moments, whole, in one file.

DeepSpeed's own checkpoints are divided by rank and open only for as many. This file is written beside them by rank 0,
in float32, with a name for each tensor. ZeRO stages 1, 2, 3 and, in fp32, 0 give moments; otherwise weights alone are
kept, and AdamW starts its moments anew.
"""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

log = logging.getLogger(__name__)

PORTABLE_FILE = "portable.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WEIGHT, _COUNT = "weight", "steps"


def collect(engine: Any, parameters: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``<kind>/<parameter>`` on every rank; ``weights`` is the module's state. All ranks call it together."""
    tensors = {f"{_WEIGHT}/{name}": value for name, value in weights.items()}
    _link(engine)
    for name, parameter in parameters.items():
        for key in _MOMENTS:
            moment = _moment(engine, parameter, key)
            if moment is not None:
                tensors[f"{key}/{name}"] = moment
    count = _count(engine)
    if count is not None:
        tensors[_COUNT] = count.reshape(1)
    return tensors


def restore(engine: Any, parameters: dict[str, Tensor], tensors: dict[str, Tensor]) -> bool:
    """Bring a fresh engine to that state; false if AdamW's moments could not be restored."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    module = engine.module
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if f"{_WEIGHT}/{name}" in tensors:
                buffer.copy_(tensors[f"{_WEIGHT}/{name}"])
        for name, parameter in parameters.items():
            _set_weight(parameter, tensors[f"{_WEIGHT}/{name}"].to(parameter.device))
    if _COUNT not in tensors or not _partitions(engine):
        return False
    _start_moments(engine, tensors[_COUNT])
    for name, parameter in parameters.items():
        for key in _MOMENTS:
            value = tensors[f"{key}/{name}"].to(parameter.device)
            if isinstance(engine.optimizer, torch.optim.Optimizer):
                engine.optimizer.state[parameter][key].copy_(value)
            elif _is_divided(parameter):
                safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)
            else:
                safe_set_full_optimizer_state(parameter, value, key)
    return True


def _set_weight(parameter: Any, value: Tensor) -> None:
    """In the module and in the optimizer's own float32 copy."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    if _is_divided(parameter):
        part = _own_part(parameter, value)
        safe_set_local_fp32_param(parameter, part)
        parameter.ds_tensor.data.copy_(part)
    else:
        safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(value)


def _is_divided(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """What ZeRO 3 gives this rank of a whole parameter: equal parts, the last ones padded."""
    size = parameter.ds_tensor.numel()
    padded = torch.nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return padded[dist.get_rank() * size :][:size]


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    import safetensors.torch

    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(stored, str(folder / PORTABLE_FILE))


def read(folder: Path) -> dict[str, Tensor]:
    import safetensors.torch

    return dict(safetensors.torch.load_file(str(folder / PORTABLE_FILE)))


def _partitions(engine: Any) -> list[Tensor]:
    """What AdamW steps on: the parameters themselves, or ZeRO's parts of this rank; none for other engines."""
    if isinstance(engine.optimizer, torch.optim.Optimizer):
        return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    return []


def _state(engine: Any) -> Any:
    return (
        engine.optimizer.state
        if isinstance(engine.optimizer, torch.optim.Optimizer)
        else (engine.optimizer.optimizer.state)
    )


def _moment(engine: Any, parameter: Tensor, key: str) -> Tensor | None:
    from deepspeed.utils import safe_get_full_optimizer_state

    if not _partitions(engine):
        return None
    if isinstance(engine.optimizer, torch.optim.Optimizer):
        return engine.optimizer.state.get(parameter, {}).get(key)
    return safe_get_full_optimizer_state(parameter, key)


def _count(engine: Any) -> Tensor | None:
    """Steps that AdamW has done, for its bias correction."""
    partitions = _partitions(engine)
    return _state(engine)[partitions[0]]["step"].clone() if partitions else None


def _start_moments(engine: Any, count: Tensor) -> None:
    """AdamW makes its state at its first step; here it must be there to be filled."""
    state = _state(engine)
    for partition in _partitions(engine):
        state[partition] = {"step": count.reshape(()).clone(), **{key: torch.zeros_like(partition) for key in _MOMENTS}}
    _link(engine)


def _link(engine: Any) -> None:
    """Tell parameters where their moments are. DeepSpeed does so once, after the step of its first group alone."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
