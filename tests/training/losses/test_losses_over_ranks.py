"""Two and three gloo processes with their parts of a batch give loss and gradients of one process with all of it."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tests.training.processes import run_ranks
from training.launch.leave import leave
from training.losses.centroids import Centroids, share_of
from training.losses.cluster import ClusterDiscriminationLoss
from training.losses.contrastive import ContrastiveLoss
from training.losses.gradient import GradientDistillationLoss
from training.losses.instance import InstanceDiscriminationLoss
from training.losses.relation import RelationDivergenceLoss

BATCH, DIM, CLUSTERS = 12, 5, 20
# Smaller than any batch's logits, so that every loss goes chunk by chunk.
ELEMENTS = 16

Result = dict[str, torch.Tensor]


def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("image", "text", "teacher_image", "teacher_text")
    rows = {name: torch.randn(BATCH, DIM, generator=generator) for name in names}
    return {**rows, "labels": torch.randint(CLUSTERS, (BATCH,), generator=generator)}


def _centroids(rank: int, ranks: int, *, divided: bool, learnable: bool = False) -> Centroids:
    weight = torch.randn(CLUSTERS, DIM, generator=torch.Generator().manual_seed(1))
    own = share_of(CLUSTERS, rank=rank, ranks=ranks) if divided else range(CLUSTERS)
    return Centroids(weight[own.start : own.stop].clone(), start=own.start, total=CLUSTERS, learnable=learnable)


def _cluster(head: Centroids, image: torch.Tensor, inputs: Result, rate: float, positives: int = 1) -> Result:
    loss = ClusterDiscriminationLoss(head, sample_rate=rate, temperature=0.2, positives=positives, elements=ELEMENTS)
    return loss(image, inputs["teacher_image"], inputs["labels"])


def _terms(weight: torch.Tensor, inputs: Result, rank: int, ranks: int, learnable: Centroids) -> Result:
    image = F.normalize(inputs["image"] @ weight, dim=-1)
    text = F.normalize(inputs["text"] @ weight, dim=-1)
    torch.manual_seed(rank)
    terms = {
        **ContrastiveLoss(elements=ELEMENTS)(image, text, torch.tensor(5.0)),
        **InstanceDiscriminationLoss(feature=True, elements=ELEMENTS)(
            image, text, inputs["teacher_image"], inputs["teacher_text"]
        ),
    }
    for loss in (RelationDivergenceLoss, GradientDistillationLoss):
        teacher = inputs["teacher_image"], inputs["teacher_text"]
        terms |= loss(teacher_scale=8.0, elements=ELEMENTS)(image, text, *teacher, torch.tensor(5.0))
    for divided in (False, True):
        for rate in (1.0, 0.3):
            found = _cluster(_centroids(rank, ranks, divided=divided), image, inputs, rate)
            terms |= {f"{name} {rate}{' divided' if divided else ''}": value for name, value in found.items()}
            found = _cluster(_centroids(rank, ranks, divided=divided), image, inputs, rate, 3)
            terms |= {f"{name} 3 {rate}{' divided' if divided else ''}": value for name, value in found.items()}
    # Too few to go round: of three ranks one holds all centroids that take part.
    few = {**inputs, "labels": inputs["labels"] % 3}
    found = _cluster(_centroids(rank, ranks, divided=True), image, few, 1e-9)
    terms |= {f"{name} few": value for name, value in found.items()}
    return terms | {f"{name} learnable": value for name, value in _cluster(learnable, image, inputs, 0.3, 2).items()}


def _run(rank: int, ranks: int, store: str, output: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    weight = torch.eye(DIM).requires_grad_()
    learnable = _centroids(rank, ranks, divided=True, learnable=True)
    part = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    terms = _terms(weight, {name: rows[part] for name, rows in _inputs().items()}, rank, ranks, learnable)
    result = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        for suffix, tensor in ((" gradient", gradient), ("", term.detach().clone())):
            dist.all_reduce(tensor)  # as the engine does with gradients: the mean over ranks
            result[name + suffix] = tensor / ranks
    (terms["cluster_label learnable"] + terms["cluster_divergence learnable"]).backward()
    assert learnable.weight.grad is not None and learnable.weight.grad.is_sparse
    shares = [torch.zeros(0)] * ranks
    dist.all_gather_object(shares, learnable.weight.grad.to_dense())
    if rank == 0:
        torch.save({**result, "centroids gradient": torch.cat(shares)}, output)
    dist.destroy_process_group()
    leave(0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Result]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(_run, [(ranks, str(folder / f"store-{ranks}"), str(folder / f"{ranks}.pt")) for ranks in (1, 2, 3)])
    return {ranks: torch.load(folder / f"{ranks}.pt", weights_only=True) for ranks in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
def test_loss_and_gradients_do_not_depend_on_the_number_of_ranks(results: dict[int, Result], ranks: int) -> None:
    assert results[ranks].keys() == results[1].keys()
    for name, expected in results[1].items():
        torch.testing.assert_close(results[ranks][name], expected, atol=1e-6, rtol=1e-5, msg=f"{name}, {ranks} ranks")


def test_chunks_do_not_change_anything(results: dict[int, Result]) -> None:
    """Plain torch, all logits at once."""
    inputs, weight = _inputs(), torch.eye(DIM).requires_grad_()
    image, text = (F.normalize(inputs[name] @ weight, dim=-1) for name in ("image", "text"))
    logits = 5 * image @ text.T
    target = torch.arange(BATCH)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    cosines = image @ F.normalize(_centroids(0, 1, divided=False).weight, dim=-1).T
    label = F.cross_entropy(cosines / 0.2, inputs["labels"])
    three = torch.zeros(BATCH, CLUSTERS).scatter_(1, _three_nearest(inputs), 1).bool()
    logits = cosines / 0.2
    rest, positives = logits.masked_fill(three, -torch.inf), logits.masked_fill(~three, torch.inf)
    several = F.softplus(rest.logsumexp(1) + (-positives).logsumexp(1)).mean()
    wanted = {"contrastive": loss, "cluster_label 1.0 divided": label, "cluster_label 3 1.0 divided": several}
    for name, value in wanted.items():
        (gradient,) = torch.autograd.grad(value, weight, retain_graph=True)
        torch.testing.assert_close(results[1][name], value.detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(results[1][f"{name} gradient"], gradient, atol=1e-6, rtol=1e-5)


def _three_nearest(inputs: Result) -> torch.Tensor:
    """Of each row its own cluster and the two others of largest cosine, by sorting all."""
    cosines = inputs["teacher_image"] @ F.normalize(_centroids(0, 1, divided=False).weight, dim=-1).T
    others = cosines.scatter(1, inputs["labels"][:, None], -torch.inf).argsort(dim=1, descending=True)
    return torch.cat([inputs["labels"][:, None], others[:, :2]], dim=1)
