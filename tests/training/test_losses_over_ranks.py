"""Two gloo processes with half the batch each give the loss and the gradients of one process with all of it."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training.losses.cluster import ClusterDiscriminationLoss
from training.losses.contrastive import ContrastiveLoss
from training.losses.instance import InstanceDiscriminationLoss

RANKS, BATCH, DIM = 2, 6, 5


def _all_losses(weight: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    image = torch.nn.functional.normalize(inputs["image"] @ weight, dim=-1)
    text = torch.nn.functional.normalize(inputs["text"] @ weight, dim=-1)
    centroids = torch.linspace(-1, 1, 3 * DIM).reshape(3, DIM)
    terms = {
        **ContrastiveLoss()(image, text, torch.tensor(5.0)),
        **ClusterDiscriminationLoss(centroids)(image, inputs["teacher_image"], inputs["labels"]),
        **InstanceDiscriminationLoss(feature=True)(image, text, inputs["teacher_image"], inputs["teacher_text"]),
    }
    return torch.stack(list(terms.values()))


def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("image", "text", "teacher_image", "teacher_text")
    rows = {name: torch.randn(BATCH, DIM, generator=generator) for name in names}
    return {**rows, "labels": torch.tensor([0, 1, 2, 2, 1, 0])}


def _rank(rank: int, store: str, output: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    weight = torch.eye(DIM).requires_grad_()
    part = BATCH // RANKS
    terms = _all_losses(weight, {name: rows[rank * part : (rank + 1) * part] for name, rows in _inputs().items()})
    terms.sum().backward()
    gradient, values = weight.grad, terms.detach()
    assert gradient is not None
    for tensor in (gradient, values):  # as the engine does with gradients: the mean over ranks
        dist.all_reduce(tensor)
        tensor.div_(RANKS)
    if rank == 0:
        torch.save({"terms": values, "gradient": gradient}, output)
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "store"), str(tmp_path / "out.pt")), nprocs=RANKS)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    weight = torch.eye(DIM).requires_grad_()
    terms = _all_losses(weight, _inputs())
    terms.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(found["terms"], terms.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found["gradient"], weight.grad, atol=1e-6, rtol=1e-6)
