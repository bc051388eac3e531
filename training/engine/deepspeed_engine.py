"""DeepSpeed behind a small interface: ranks, ZeRO, precision, clipping, checkpoints. Nothing here knows the task."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.core.errors import ConfigError
from training.config import StudentConfig
from training.engine import engine_state as state
from training.engine.batch_norm import average_statistics
from training.engine.grad_cache import MicroBatches
from training.engine.weight_average import WeightAverage
from training.model.student import has_batch_norm, memory_format

_PARAMETERS_WITHOUT_DECAY = ("logit_scale", "logit_bias", "positional_embedding", "class_embedding")
_AVERAGE, _AVERAGE_STEPS = "average", "average_steps"
# Elements of 16 bytes in half precision.
_ALIGNED = 8
# DeepSpeed prints a line of its own every so many steps; never.
_NEVER = 1 << 30


class Stateful(Protocol):
    """What has a state of its own on each rank."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class Engine:
    """A DeepSpeed engine around one module. All ranks construct it and call every method together.

    ``model`` runs a forward pass; its losses may come from outside the module, in any precision.
    """

    def __init__(self, module: nn.Module, config: StudentConfig):
        import deepspeed

        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.device = _device()
        # Then a step that is not taken is in order: fp16 finds its loss scale so.
        self.skips_overflows = config.precision == "fp16"
        if config.precision == "fp16" and self.device.type == "cpu":
            raise ConfigError("precision fp16 needs a GPU; on a CPU use bf16 or fp32")
        self._compiles = config.compile
        if config.compile:
            module.compile()
        optimizer = torch.optim.AdamW(
            parameter_groups(module, weight_decay=config.optimizer.weight_decay),
            lr=config.optimizer.learning_rate,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            eps=config.optimizer.eps,
            # One pass over weights and moments, on a CPU too, instead of one for each operation.
            fused=True,
        )
        self._deepspeed, self._optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=deepspeed_config(config, world=self.world, autocast=has_batch_norm(module)),
        )
        self._module = self._deepspeed.module
        if config.stage == 0:
            # Not before: DeepSpeed broadcasts contiguous weights alone. Other stages have flat copies of their own.
            self._module.to(memory_format=memory_format(self._module))
        self._parameters = dict(self._module.named_parameters())
        self._clip_norm, self._norm = None, torch.tensor(math.nan)
        if _clips_here(config, autocast=has_batch_norm(module)):
            self._clip_norm = config.optimizer.clip_gradient_norm or math.inf
        self._parts = None
        if config.micro_batches > 1:
            self._parts = MicroBatches(self._deepspeed, module=self._module, parts=config.micro_batches)
        self._kept: list[Stateful] = []
        self._average = None
        if config.average_decay:
            self._average = WeightAverage(state.stepped_on(self._deepspeed), decay=config.average_decay)

    @property
    def model(self) -> Any:
        """What a task calls for the features of a batch."""
        return self._parts or self._deepspeed

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The element-wise sum of a small tensor over all ranks."""
        torch.distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """A small picklable value of every rank, in rank order."""
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        torch.distributed.barrier()

    def backward(self, loss: Tensor) -> None:
        """Backward pass and mean of the gradients over ranks. A GPU is given its work, and nothing waits for it."""
        if self._parts:
            loss.backward()
            self._parts.replay(self._backward)
        else:
            self._backward(loss)
        if self._clip_norm is not None:
            # Gradients are those of all ranks by now, so each finds the same norm.
            self._norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)

    def _backward(self, loss: Tensor) -> None:
        # The parts of a batch have their share of the whole loss already, so DeepSpeed must not divide by their number.
        self._deepspeed.backward(loss, scale_wrt_gas=False)
        if not self._deepspeed.is_gradient_accumulation_boundary():
            # Counts the parts; the last one's call is that of :meth:`step`.
            self._deepspeed.step()

    def step(self, *, learning_rate: float) -> bool:
        """Clipping, and an AdamW step with ``learning_rate``, after :meth:`backward`.

        Returns whether the step was taken: it is not where a gradient is not finite, on all ranks alike.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._clip_norm is not None and not math.isfinite(self._norm):
            return False
        self._deepspeed.step()
        if getattr(self._deepspeed.optimizer, "overflow", False):
            return False
        with torch.no_grad():
            average_statistics(self._module)
            if self._average:
                self._average.update()
        return True

    def gradient_norm(self) -> float:
        """Of the last step, over all ranks, before clipping; not finite where the step was not taken. A GPU is waited
        for."""
        return float(self._deepspeed.get_global_grad_norm() if self._clip_norm is None else self._norm)

    def clamp_parameter(self, name: str, maximum: float) -> Tensor:
        """Bound a one-element parameter from above, in the optimizer's own copy too; returns its value as a tensor."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

        parameter = self._parameters[name]
        # ZeRO steps on fp32 copies: without this the next step would bring the old value back. Of stage 3, only the
        # local calls cope with ranks that hold nothing but padding.
        if hasattr(parameter, "ds_tensor"):
            safe_set_local_fp32_param(parameter, safe_get_local_fp32_param(parameter).clamp(max=maximum))
            for copy in (parameter, parameter.ds_tensor):
                copy.data.clamp_(max=maximum)
            return self._full(parameter).reshape(())
        if getattr(parameter, "_hp_mapping", None) is not None:
            parameter._hp_mapping.get_hp_fragment().data.clamp_(max=maximum)
        return parameter.data.clamp_(max=maximum).float().reshape(())

    def state(self) -> dict[str, Tensor]:
        """The module's whole state in float32 on every rank, whatever the ZeRO stage and precision.

        Where weights are averaged, their averages.
        """
        return self._state() | self._averages()

    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """For good: the module is as :meth:`state` was once, on rank 0, and no step follows. Averages are forgotten."""
        self._average = None
        state.set_weights(self._deepspeed, self._parameters, lambda name: self.gather(weights.get(name))[0])

    def keep(self, part: "Stateful") -> None:
        """Save and load something with every checkpoint, on each rank."""
        self._kept.append(part)

    @contextlib.contextmanager
    def exported(self) -> Iterator[Any]:
        """The module as :meth:`state` has it, in evaluation mode, for forward passes."""
        swapped = self._averages()
        # A compiled model would be compiled again for evaluation's own batch sizes.
        eager = torch.compiler.set_stance("force_eager") if self._compiles else contextlib.nullcontext()
        kept = {name: self._parameters[name].detach().clone() for name in swapped}
        self._fill(swapped)
        self._deepspeed.eval()
        with eager:
            yield self._deepspeed
        self._deepspeed.train()
        self._fill(kept)

    def _fill(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._parameters[name].copy_(value)

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and averages into ``folder``; rank 0 raises :class:`StorageError` if it cannot."""
        tensors = state.collect(self._deepspeed, self._parameters, self._state())
        if self._average:
            tensors |= {f"{_AVERAGE}/{name}": value for name, value in self._averages().items()}
            tensors[_AVERAGE_STEPS] = torch.tensor([self._average.steps])
        if self.rank == 0:
            state.write(folder, tensors)
        for part in self._kept:
            part.save(folder)

    def load(self, folder: Path) -> None:
        """Restore what :meth:`save` wrote, with whatever number of ranks, ZeRO stage and micro-batches."""
        tensors = state.read(folder)
        state.restore(self._deepspeed, self._parameters, tensors)
        if self._average:
            self._average.steps = int(tensors[_AVERAGE_STEPS])
            with self._average.in_place():
                for name, parameter in self._parameters.items():
                    value = tensors[f"{_AVERAGE}/{name}"].to(self.device)
                    state.set_stepped_on(self._deepspeed, parameter, value)
        for part in self._kept:
            part.load(folder)

    def _state(self) -> dict[str, Tensor]:
        whole = {}
        for name, value in self._module.state_dict().items():
            full = self._full(self._parameters[name]) if name in self._parameters else value
            whole[name] = full.float() if full.is_floating_point() else full
        return whole

    def _averages(self) -> dict[str, Tensor]:
        """Of every parameter, whole, in float32 on every rank; none where weights are not averaged."""
        if not self._average:
            return {}
        with self._average.in_place():
            # Copies: at stage 0 what is read is what is about to be put back.
            return {name: self._full(parameter).clone() for name, parameter in self._parameters.items()}

    def close(self) -> None:
        """Leave the process group."""
        torch.distributed.destroy_process_group()

    def _full(self, parameter: Tensor) -> Tensor:
        """One parameter in fp32, gathered where ZeRO has split it; the optimizer's copy where there is one."""
        from deepspeed.utils import safe_get_full_fp32_param

        full = safe_get_full_fp32_param(parameter)
        return parameter.detach() if full is None else full.detach()


def deepspeed_config(config: StudentConfig, *, world: int, autocast: bool = False) -> dict[str, Any]:
    """DeepSpeed's config dictionary of a student. ``autocast``: the module sees to bf16 itself."""
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // world // config.micro_batches,
        "gradient_accumulation_steps": config.micro_batches,
        "gradient_clipping": 0.0 if _clips_here(config, autocast=autocast) else config.optimizer.clip_gradient_norm,
        "bf16": {"enabled": config.precision == "bf16" and not autocast},
        "fp16": {"enabled": config.precision == "fp16"},
        "zero_optimization": {"stage": config.stage},
        # torch's AdamW needs no compiler, which DeepSpeed's own would.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": _NEVER,
    }


def _clips_here(config: StudentConfig, *, autocast: bool) -> bool:
    """Whether torch clips rather than DeepSpeed, which at stage 0 in fp32 keeps the norm to itself, and is slower."""
    return config.stage == 0 and (config.precision == "fp32" or autocast)


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weight matrices, which decay, and the rest (biases, norms, embeddings of position, logit scale).

    ZeRO lays the parameters of a group one after another in one buffer, so one of odd size, such as the logit scale,
    would put all that follow where no 16 bytes begin, and a GPU takes other kernels for those: on an H100 the products
    with a bias took 121 ms of a step, all products of the backward pass, twice the work, 49. So those come last.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in sorted(module.named_parameters(), key=lambda named: named[1].numel() % _ALIGNED != 0):
        exempt = parameter.ndim < 2 or name.rpartition(".")[2] in _PARAMETERS_WITHOUT_DECAY
        (rest if exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def init_distributed() -> None:
    """Join the process group named by the launcher's environment variables: NCCL with CUDA, gloo without."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        deepspeed.init_distributed(dist_backend="nccl")
    else:
        # Says that no compiled op is available. DeepSpeed would build a shared-memory op for one node on first use,
        # which takes a C++ compiler and about 50 s; gloo does the same work for the few ranks of a CPU run.
        deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(dist_backend="gloo")


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
