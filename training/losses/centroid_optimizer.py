"""Learnable centroids: each rank steps on those it holds, by their sparse gradients; DeepSpeed knows nothing of them.

Only the centroids of a step's sample are touched, their moments too (Adam's lazy form, torch's SparseAdam), without
weight decay or clipping. A checkpoint has a file for each rank's share, named by its first cluster, and any other
division of the centroids finds its rows in them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.disk import storage_error
from training.losses.centroids import Centroids

_PREFIX = "centroids-"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class CentroidOptimizer:
    """SparseAdam on the centroids of this rank. ``factor``: their learning rate as a multiple of the student's."""

    def __init__(self, centroids: Centroids, *, factor: float, betas: tuple[float, float] = (0.9, 0.98)):
        self._centroids, self._factor = centroids, factor
        self._optimizer = torch.optim.SparseAdam([centroids.weight], betas=betas)

    def step(self, learning_rate: float) -> None:
        """Take the gradient that the backward pass left."""
        self._optimizer.param_groups[0]["lr"] = self._factor * learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        """Write this rank's share into a checkpoint; :class:`StorageError` if it does not go onto the disk."""
        import safetensors.torch

        state = self._optimizer.state[self._centroids.weight]
        tensors = {name: state[name] for name in _MOMENTS} | {"weight": self._centroids.weight.detach()}
        tensors["step"] = torch.tensor([int(state["step"])])
        path = folder / f"{_PREFIX}{self._centroids.start:012d}.safetensors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file({name: tensor.cpu().clone() for name, tensor in tensors.items()}, str(path))
        except (OSError, safetensors.SafetensorError) as error:
            raise storage_error(folder, error) from error

    def load(self, folder: Path) -> None:
        """Read the rows that this rank holds, whoever wrote them."""
        weight = self._centroids.weight
        state = self._optimizer.state[weight]
        state |= {name: torch.zeros_like(weight) for name in _MOMENTS}
        targets = {"weight": weight.detach(), **{name: state[name] for name in _MOMENTS}}
        for path in sorted(folder.glob(f"{_PREFIX}*.safetensors")):
            with _opened(path) as (start, stop, tensors, step):
                state["step"] = step
                first, last = max(start, self._centroids.start), min(stop, self._centroids.start + len(weight))
                for name, target in targets.items() if first < last else ():
                    here = slice(first - self._centroids.start, last - self._centroids.start)
                    target[here] = tensors[name][first - start : last - start].to(target.device)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int, dict[str, Tensor], int]]:
    """First and last cluster of a share, its tensors (mapped, not read), and the steps done."""
    import safetensors

    with safetensors.safe_open(str(path), framework="pt") as file:
        slices = {name: file.get_slice(name) for name in ("weight", *_MOMENTS)}
        start = int(path.stem.removeprefix(_PREFIX))
        yield start, start + slices["weight"].get_shape()[0], slices, int(file.get_tensor("step"))
