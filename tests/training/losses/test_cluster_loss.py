"""Cluster discrimination against numbers worked out by hand."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from training.config import ClusterConfig, LossesConfig
from training.data.batch import Batch
from training.loop.task import DistillationTask
from training.losses.active import Needs
from training.losses.centroids import Centroids
from training.losses.cluster import ClusterDiscriminationLoss
from training.losses.precision import add_weighted
from training.losses.sampling import sample_centroids
from training.model.student import Features


def _softmax(*logits: float) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def test_label_term() -> None:
    """Cosines (1, 0) at temperature 0.5 are logits (2, 0); the label is the second cluster."""
    loss = ClusterDiscriminationLoss(torch.eye(2), temperature=0.5, divergence=False)
    terms = loss(torch.tensor([[1.0, 0.0]]), cluster_ids=torch.tensor([1]))
    assert list(terms) == ["cluster_label"]
    assert math.isclose(terms["cluster_label"].item(), -math.log(_softmax(2, 0)[1]), rel_tol=1e-6)


def test_divergence_is_from_teacher_to_student() -> None:
    loss = ClusterDiscriminationLoss(torch.eye(2), temperature=0.5, teacher_temperature=1.0, label=False)
    terms = loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    p, q = _softmax(0, 1), _softmax(2, 0)
    expected = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert list(terms) == ["cluster_divergence"]
    assert math.isclose(terms["cluster_divergence"].item(), expected, rel_tol=1e-6)


def test_divergence_vanishes_where_student_and_teacher_agree() -> None:
    features = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    terms = ClusterDiscriminationLoss(torch.randn(7, 3), label=False)(features, features)
    assert abs(terms["cluster_divergence"].item()) < 1e-6


def test_centroids_are_normalized_and_fixed() -> None:
    loss = ClusterDiscriminationLoss(torch.tensor([[3.0, 4.0]]))
    assert torch.allclose(loss.centroids.weight, torch.tensor([[0.6, 0.8]]))
    assert not list(loss.parameters()) and not loss.state_dict()


def test_the_loss_is_the_mean_of_its_rows() -> None:
    features = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = ClusterDiscriminationLoss(torch.randn(3, 3))
    whole = loss(features, features.flip(0), labels)
    parts = [loss(f, t, y) for f, t, y in zip(features.split(2), features.flip(0).split(2), labels.split(2))]
    for name, value in whole.items():
        assert torch.allclose(value, torch.stack([part[name] for part in parts]).mean(), atol=1e-6)


def test_terms_of_weight_zero_are_left_out() -> None:
    loss = ClusterDiscriminationLoss.from_config(ClusterConfig(label_weight=0.0), torch.eye(2))
    assert list(loss(torch.eye(2), torch.eye(2))) == ["cluster_divergence"]


def test_centroids_must_be_a_finite_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(K, D\)"):
        ClusterDiscriminationLoss(torch.zeros(3))


def _plain(features: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, centroids: torch.Tensor) -> list:
    """Both terms in plain torch, all logits at once, temperatures 0.3 and 0.07; the teacher's side is a target."""
    unit = F.normalize(centroids, dim=-1)
    logits = features @ unit.T / 0.3
    target = F.log_softmax(F.normalize(teacher, dim=-1) @ unit.detach().T / 0.07, dim=-1)
    divergence = F.kl_div(F.log_softmax(logits, dim=-1), target, reduction="batchmean", log_target=True)
    return [F.cross_entropy(logits, labels), divergence]


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("elements", [1, 20, 1000])
def test_value_and_gradients_are_those_of_the_full_softmax(learnable: bool, elements: int) -> None:
    torch.manual_seed(0)
    start, weight, teacher = (torch.randn(n, 5, dtype=torch.float64) for n in (6, 9, 6))
    labels = torch.randint(9, (6,))
    head = Centroids(weight.clone(), learnable=learnable)
    loss = ClusterDiscriminationLoss(head, temperature=0.3, elements=elements)
    found_rows, expected_rows = start.clone().requires_grad_(), start.clone().requires_grad_()
    expected_weight = weight.clone().requires_grad_()
    found = list(loss(F.normalize(found_rows, dim=-1), teacher, labels).values())
    expected = _plain(F.normalize(expected_rows, dim=-1), teacher, labels, expected_weight)
    torch.testing.assert_close(found, expected)
    (found[0] + 2 * found[1]).backward()
    (expected[0] + 2 * expected[1]).backward()
    torch.testing.assert_close(found_rows.grad, expected_rows.grad)
    if learnable:
        assert head.weight.grad is not None
        torch.testing.assert_close(head.weight.grad.to_dense(), expected_weight.grad)


def _several(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """MLCD's loss, each pair of a negative and a positive by itself."""
    rows = []
    for row, own in zip(logits, labels.tolist()):
        rest = [n for n in range(len(row)) if n not in own]
        rows.append((1 + sum((row[n] - row[p]).exp() for n in rest for p in own)).log())
    return torch.stack(rows).mean()


def test_two_positives() -> None:
    """Cosines 1, 0.6 and 0 at temperature 0.5; the image is nearest to its own cluster, then to that of 0.6."""
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    loss = ClusterDiscriminationLoss(centroids, temperature=0.5, divergence=False, positives=2)
    image = torch.tensor([[1.0, 0.0]])
    found = loss(image, image, torch.tensor([0]))["cluster_label"].item()
    assert math.isclose(found, math.log(1 + math.exp(0 - 2) + math.exp(0 - 1.2)), rel_tol=1e-6)


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("elements", [1, 20, 1000])
def test_several_positives_and_the_divergence_beside_them(learnable: bool, elements: int) -> None:
    torch.manual_seed(0)
    start, weight, teacher = (torch.randn(n, 5, dtype=torch.float64) for n in (6, 9, 6))
    unit = F.normalize(weight, dim=-1)
    labels = (F.normalize(teacher, dim=-1) @ unit.T).topk(3).indices
    head = Centroids(weight.clone(), learnable=learnable)
    loss = ClusterDiscriminationLoss(head, temperature=0.3, positives=3, elements=elements)
    found_rows, expected_rows = start.clone().requires_grad_(), start.clone().requires_grad_()
    expected_weight = weight.clone().requires_grad_()
    found = list(loss(F.normalize(found_rows, dim=-1), teacher, labels[:, 0]).values())
    expected = _plain(F.normalize(expected_rows, dim=-1), teacher, labels[:, 0], expected_weight)
    expected[0] = _several(F.normalize(expected_rows, dim=-1) @ F.normalize(expected_weight, dim=-1).T / 0.3, labels)
    torch.testing.assert_close(found, expected)
    (found[0] + 2 * found[1]).backward()
    (expected[0] + 2 * expected[1]).backward()
    torch.testing.assert_close(found_rows.grad, expected_rows.grad)
    if learnable:
        assert head.weight.grad is not None
        torch.testing.assert_close(head.weight.grad.to_dense(), expected_weight.grad)


def test_captions_have_their_own_similarities_and_the_labels_of_their_images() -> None:
    torch.manual_seed(0)
    caption, teacher, image, weight = (F.normalize(torch.randn(n, 5), dim=-1) for n in (6, 6, 6, 9))
    labels = (image @ weight.T).topk(3).indices
    loss = ClusterDiscriminationLoss(weight, temperature=0.3, positives=3)
    found = loss(caption, teacher, labels[:, 0], teacher_images=image)
    expected = [_several(caption @ weight.T / 0.3, labels), _plain(caption, teacher, labels[:, 0], weight)[1]]
    torch.testing.assert_close(list(found.values()), expected)


@pytest.mark.parametrize(("towers", "image", "text"), [("image", 1.0, 0.0), ("text", 0.0, 1.0), ("both", 0.5, 0.5)])
def test_the_term_is_of_the_towers_that_are_named(towers: str, image: float, text: float) -> None:
    losses = LossesConfig.model_validate({"cluster": {"towers": towers, "label_weight": 1}, "instance": {"weight": 0}})
    needs = Needs.of(losses)
    assert (needs.teacher_image, needs.teacher_text) == (image > 0, text > 0)
    torch.manual_seed(0)
    weight, *rows = (F.normalize(torch.randn(n, 4), dim=-1) for n in (7, 3, 3, 3, 3))
    labels = torch.tensor([4, 0, 4])
    task = DistillationTask(losses, centroids=Centroids(weight), normalize=lambda x: x, device=torch.device("cpu"))
    teacher = {"teacher_image": rows[2] if image else None, "teacher_text": rows[3] if text else None}
    batch = Batch(image_ids=[0, 1, 2], image=rows[0], text=rows[1], cluster_ids=labels, **teacher)
    features = Features(rows[0], rows[1], rows[0], rows[1], torch.tensor(1.0))
    terms = task.losses(lambda *_: features, batch)
    alone = ClusterDiscriminationLoss(weight)
    of_images, of_captions = alone(rows[0], rows[2], labels), alone(rows[1], rows[3], labels)
    for name in ("cluster_label", "cluster_divergence"):
        torch.testing.assert_close(terms[name], image * of_images[name] + text * of_captions[name])


def test_a_row_whose_positives_are_all_that_was_drawn_costs_nothing() -> None:
    features = F.normalize(torch.randn(2, 4), dim=-1).requires_grad_()
    loss = ClusterDiscriminationLoss(torch.randn(9, 4), divergence=False, positives=3, sample_rate=1e-9)
    value = loss(features, features[:1].detach().expand(2, 4), torch.tensor([3, 3]))["cluster_label"]
    value.backward()
    assert value.item() == 0 and not features.grad.any()


def test_labels_of_learnable_centroids_stay_those_of_k_means() -> None:
    head = Centroids(torch.eye(4), learnable=True)
    loss = ClusterDiscriminationLoss(head, positives=2)
    image = F.normalize(torch.tensor([[1.0, 0.5, 0.1, 0.0]]), dim=-1)
    before = loss._labels(torch.tensor([0]), image)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4).flip(0))
    assert before.tolist() == loss._labels(torch.tensor([0]), image).tolist() == [[0, 1]]


def test_positives_leave_a_negative() -> None:
    with pytest.raises(ValueError, match="3 positives leave no negative among 3 centroids"):
        ClusterDiscriminationLoss(torch.eye(3), positives=3)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    rows, teacher, weight = (torch.randn(n, 3, dtype=torch.float64) for n in (4, 4, 7))
    labels = torch.tensor([0, 3, 3, 6])
    scale = torch.tensor(2.0, dtype=torch.float64)
    inputs = (rows.requires_grad_(), scale.requires_grad_())
    for positives in (1, 3):
        loss = ClusterDiscriminationLoss(weight, temperature=0.5, positives=positives, elements=8)
        terms = functools.partial(loss, teacher_features=teacher, cluster_ids=labels)
        assert torch.autograd.gradcheck(lambda r, s, t=terms: tuple(t(r, scale=s).values()), inputs)


def test_a_sample_holds_every_label_and_its_share_of_the_rest() -> None:
    labels = torch.tensor([3, 99_999, 3])
    chosen = sample_centroids(100_000, rate=0.1, labels=labels, seed=5)
    assert chosen[labels].all() and 9_500 < int(chosen.sum()) < 10_500
    assert chosen.equal(sample_centroids(100_000, rate=0.1, labels=labels, seed=5))
    assert not chosen.equal(sample_centroids(100_000, rate=0.1, labels=labels, seed=6))
    assert sample_centroids(9, rate=1e-9, labels=labels[:1], seed=0).nonzero().tolist() == [[3]]


def test_a_sampled_softmax_is_the_full_one_over_the_sample() -> None:
    torch.manual_seed(0)
    features, teacher = (F.normalize(torch.randn(4, 3), dim=-1) for _ in range(2))
    weight, labels = torch.randn(50, 3), torch.tensor([7, 41, 7, 0])
    torch.manual_seed(1)
    terms = ClusterDiscriminationLoss(weight, temperature=0.3, sample_rate=0.2)(features, teacher, labels)
    torch.manual_seed(1)
    seed = int(torch.randint(1 << 62, (1,)))
    positions = sample_centroids(50, rate=0.2, labels=labels, seed=seed).nonzero().squeeze(1)
    assert len(positions) < 25
    expected = _plain(features, teacher, torch.searchsorted(positions, labels), weight[positions])
    torch.testing.assert_close(list(terms.values()), expected, atol=1e-6, rtol=1e-6)


def test_half_precision_centroids_are_used_in_float32() -> None:
    torch.manual_seed(0)
    features, weight = F.normalize(torch.randn(4, 8), dim=-1), torch.randn(50, 8)
    labels = torch.tensor([1, 2, 3, 4])
    half = ClusterDiscriminationLoss(Centroids(weight.half()), divergence=False)(features, cluster_ids=labels)
    full = ClusterDiscriminationLoss(weight, divergence=False)(features, cluster_ids=labels)
    assert half["cluster_label"].dtype == torch.float32
    torch.testing.assert_close(half, full, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("storage", "roundings"), [(torch.float32, 2), (torch.float16, 1)])
@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
def test_float16_factors_stay_within_their_bounds(storage: torch.dtype, roundings: int, temperature: float) -> None:
    """Those of ``precision.py``, against float64 on the same centroids: many chunks, labels, near and far rows."""
    torch.manual_seed(0)
    clusters, width, unit = 500, 48, 2**-11
    weight = torch.randn(clusters, width).to(storage)
    labels = torch.randint(clusters, (16,))
    teacher = F.normalize(F.normalize(weight[labels].float(), dim=-1) + 0.1 * torch.randn(16, width), dim=-1)
    student = F.normalize(teacher + 0.1 * torch.randn(16, width), dim=-1)
    found, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        centroids = Centroids(weight.clone())
        if dtype == torch.float64:
            centroids.weight = centroids.weight.double()
        loss = ClusterDiscriminationLoss(
            centroids, temperature=temperature, teacher_temperature=temperature, float16=True, elements=16 * 7
        )
        rows = student.detach().to(dtype).clone().requires_grad_()
        terms = loss(rows, teacher.to(dtype), labels)
        torch.stack(list(terms.values())).sum().backward()
        found.append(torch.stack(list(terms.values())).detach().double())
        gradients.append(rows.grad.double() * len(rows) * temperature)
    # The label's own logit is exact, the divergence has the errors of two softmaxes.
    logit = roundings * unit / temperature
    assert ((found[0] - found[1]).abs() < torch.tensor([1.0, 4.0]) * logit + 1e-5).all()
    assert not torch.equal(found[0], found[1])
    # In units of a centroid: two means of the student's, one of the teacher's, each with the logits' errors in weights.
    assert (gradients[0] - gradients[1]).norm(dim=1).max() < 3 * (2 * unit + 2 * logit)


def test_small_weights_survive_float16() -> None:
    """500 centroids whose softmax weight is 1e-7 of the largest, below what float16 holds, still pull the mean."""
    rows, keys = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]).half().repeat(500, 1)
    add_weighted(rows, torch.full((1, 500), 1e-7), keys)
    torch.testing.assert_close(rows, torch.tensor([[0.0, 5e-5]]), rtol=2**-11, atol=0)
