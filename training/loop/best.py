"""The weights of the best evaluated step: held until the end, and kept with every checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pipeline.core.disk import storage_error
from training.evaluation.small import is_lowest_best

BEST_FILE = "best.safetensors"
_FACTS = "best"


class StatefulEngine(Protocol):
    """What this needs of an engine."""

    rank: int

    def state(self) -> dict[str, Tensor]: ...


class Best:
    """By the measure ``name``; of equal steps the first. Rank 0 holds the weights, as :meth:`Engine.state` gives them.

    A checkpoint has what was best up to its step, so a run that goes on from it chooses as one that was never ended.
    """

    def __init__(self, engine: StatefulEngine, name: str):
        self.name, self._engine = name, engine
        self.step, self.value = 0, float("nan")
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, measures: Mapping[str, float]) -> None:
        """Take the weights after ``step`` if they are better; all ranks call it together, with equal measures."""
        value = measures[self.name]
        if self.step and not (value < self.value if is_lowest_best(self.name) else value > self.value):
            return
        self.step, self.value = step, value
        state = self._engine.state()
        if self._engine.rank == 0:
            # Copies: at ZeRO stage 0 these are the weights that are trained on.
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def save(self, folder: Path) -> None:
        """Write them into a checkpoint; :class:`StorageError` on rank 0 if they do not go onto the disk."""
        import safetensors.torch

        if not self.weights:
            return
        facts = json.dumps({"step": self.step, "value": self.value})
        tensors = {name: tensor.contiguous() for name, tensor in self.weights.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(tensors, str(folder / BEST_FILE), metadata={_FACTS: facts})
        except (OSError, safetensors.SafetensorError) as error:
            raise storage_error(folder, error) from error

    def load(self, folder: Path) -> None:
        """Read what a checkpoint has; it has none before the first evaluation."""
        import safetensors

        path = folder / BEST_FILE
        if not path.exists():
            return
        with safetensors.safe_open(str(path), framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()[_FACTS])
            self.step, self.value = int(facts["step"]), float(facts["value"])
            if self._engine.rank == 0:
                self.weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
