"""The state of a DeepSpeed engine, whole, in one file, whatever the number of ranks and the ZeRO stage.

DeepSpeed's own checkpoints are divided by rank and open only for as many. Here float32 weights and AdamW's moments are
gathered under their parameters' names, rank 0 writes them, and any number of ranks takes them up again, bit for bit.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.core.disk import storage_error

STATE_FILE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WEIGHT, _COUNT, _SCALER = "weight", "steps", "loss_scaler"
_SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def collect(engine: Any, parameters: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``<kind>/<parameter>`` on every rank; ``weights`` is the module's state. All ranks call
    it together."""
    tensors = {f"{_WEIGHT}/{name}": value for name, value in weights.items()}
    if not _state(engine).get(stepped_on(engine)[0]):
        # Every step so far was skipped, since fp16 overflowed.
        _start_moments(engine, torch.zeros(1))
    _link(engine)
    for name, parameter in parameters.items():
        for key in _MOMENTS:
            # Whole moments of all parameters may be more than a device has free.
            tensors[f"{key}/{name}"] = _moment(engine, parameter, key).cpu()
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    numbers = [float(getattr(scaler, field, 0)) for field in _SCALER_FIELDS]
    return {**tensors, _COUNT: _count(engine).reshape(1), _SCALER: torch.tensor(numbers, dtype=torch.float64)}


def set_weights(engine: Any, parameters: dict[str, Tensor], value_of: Callable[[str], Tensor]) -> None:
    """Give the module another state; ``value_of`` is asked for the same names in the same order on all ranks."""
    with torch.no_grad():
        for name, buffer in engine.module.state_dict().items():
            if name in parameters:
                _set_weight(engine, parameters[name], value_of(name).to(parameters[name].device))
            else:
                buffer.copy_(value_of(name))


def restore(engine: Any, parameters: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Bring a fresh engine to the state that :func:`collect` found; all ranks call it together."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    set_weights(engine, parameters, lambda name: tensors[f"{_WEIGHT}/{name}"])
    _start_moments(engine, tensors[_COUNT])
    for name, parameter in parameters.items():
        for key in _MOMENTS:
            value = tensors[f"{key}/{name}"].to(parameter.device)
            if _is_bare(engine):
                engine.optimizer.state[parameter][key].copy_(value)
            elif _is_divided(parameter):
                safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)
            else:
                safe_set_full_optimizer_state(parameter, value, key)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for field, number in zip(_SCALER_FIELDS, tensors[_SCALER].tolist()):
        if hasattr(scaler, field):
            setattr(scaler, field, number if field == "cur_scale" else int(number))


def set_stepped_on(engine: Any, parameter: Any, value: Tensor) -> None:
    """Of a whole parameter, in what the optimizer steps on: the parameter itself, or a float32 copy of it."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    if _is_bare(engine):
        parameter.data.copy_(value)
    elif _is_divided(parameter):
        safe_set_local_fp32_param(parameter, _own_part(parameter, value))
    else:
        safe_set_full_fp32_param(parameter, value)


def _set_weight(engine: Any, parameter: Any, value: Tensor) -> None:
    """In the module and in the optimizer's own float32 copy."""
    set_stepped_on(engine, parameter, value)
    if _is_divided(parameter):
        parameter.ds_tensor.data.copy_(_own_part(parameter, value))
    # ZeRO 3 leaves small ones whole on every rank once it has gathered them.
    if parameter.shape == value.shape:
        parameter.data.copy_(value)


def _is_bare(engine: Any) -> bool:
    """Whether torch's own optimizer steps on the parameters themselves."""
    return isinstance(engine.optimizer, torch.optim.Optimizer)


def _is_divided(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """What ZeRO 3 gives this rank of a whole parameter: equal parts, the last ones padded."""
    size = parameter.ds_tensor.numel()
    padded = torch.nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return padded[dist.get_rank() * size :][:size]


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the state file; :class:`StorageError` if it does not go onto the disk."""
    import safetensors.torch

    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(stored, str(folder / STATE_FILE))
    except (OSError, safetensors.SafetensorError) as error:
        raise storage_error(folder, error) from error


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors of a state file."""
    import safetensors.torch

    return dict(safetensors.torch.load_file(str(folder / STATE_FILE)))


def stepped_on(engine: Any) -> list[Tensor]:
    """What AdamW steps on, in float32: the parameters themselves, or ZeRO's parts of this rank."""
    if _is_bare(engine):
        return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    names = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat")
    (partitions,) = [getattr(engine.optimizer, name) for name in names if hasattr(engine.optimizer, name)]
    return list(partitions)


def _state(engine: Any) -> Any:
    return engine.optimizer.state if _is_bare(engine) else engine.optimizer.optimizer.state


def _moment(engine: Any, parameter: Tensor, key: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state

    if _is_bare(engine):
        return torch.as_tensor(engine.optimizer.state[parameter][key])
    return torch.as_tensor(safe_get_full_optimizer_state(parameter, key))


def _count(engine: Any) -> Tensor:
    """Steps that AdamW has done, for its bias correction."""
    return torch.as_tensor(_state(engine)[stepped_on(engine)[0]]["step"])


def _start_moments(engine: Any, count: Tensor) -> None:
    """AdamW makes its state at its first step; here it must be there to be filled."""
    state = _state(engine)
    for partition in stepped_on(engine):
        # A fused AdamW counts on the device of its moments.
        step = count.reshape(()).to(partition.device, torch.float32, copy=True)
        state[partition] = {"step": step, **{key: torch.zeros_like(partition) for key in _MOMENTS}}
    _link(engine)


def _link(engine: Any) -> None:
    """Tell parameters where their moments are. DeepSpeed does so once, after the step of its first group alone."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
