"""Relations within the batch, against open_clip's own distillation loss and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss

from training.losses.contrastive import ContrastiveLoss
from training.losses.gradient import GradientDistillationLoss, contrastive_gradients
from training.losses.relation import RelationDivergenceLoss

SCALE = torch.tensor(3.0, dtype=torch.float64)


def _rows(*widths: int, seed: int = 0) -> list[torch.Tensor]:
    """Five unit rows of each width."""
    generator = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(5, n, dtype=torch.float64, generator=generator), dim=-1) for n in widths]


def test_the_divergence_of_two_pairs() -> None:
    """Cosines 1 and 0 at scale 1 for the student; the teacher, at scale 2, thinks that the captions are swapped."""
    eye = torch.eye(2)
    terms = RelationDivergenceLoss(teacher_scale=2.0)(eye, eye, eye, eye.flip(0), torch.tensor(1.0))
    p, q = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))
    assert list(terms) == ["relation_divergence"]
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert math.isclose(terms["relation_divergence"].item(), expected, rel_tol=1e-6)


@pytest.mark.parametrize("elements", [5, 10, 1000])
def test_the_divergence_is_open_clips_but_for_the_teachers_entropy(elements: int) -> None:
    image, text, *teacher = _rows(4, 4, 7, 7)
    inputs = [rows.requires_grad_() for rows in (image, text)]
    found = RelationDivergenceLoss(teacher_scale=8.0, elements=elements)(*inputs, *teacher, SCALE)[
        "relation_divergence"
    ]
    _, expected = DistillClipLoss()(*inputs, SCALE, *teacher, 8.0)
    entropies = [
        torch.distributions.Categorical(logits=logits).entropy().mean()
        for logits in (8 * teacher[0] @ teacher[1].T, 8 * teacher[1] @ teacher[0].T)
    ]
    torch.testing.assert_close(found, expected - sum(entropies) / 2)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


def test_both_vanish_where_student_and_teacher_agree() -> None:
    """The teacher's embeddings need not be normalized: they were stored in float16."""
    image, text = (rows.float() for rows in _rows(4, 4))
    inputs = image, text, 3 * image, 3 * text, torch.tensor(20.0)
    divergence = RelationDivergenceLoss(teacher_scale=20.0)(*inputs)["relation_divergence"]
    gradient = GradientDistillationLoss(teacher_scale=20.0)(*inputs)["relation_gradient"]
    assert abs(divergence.item()) < 1e-6 and gradient.item() < 1e-8


@pytest.mark.parametrize("elements", [5, 10, 1000])
def test_the_gradients_are_those_of_the_contrastive_loss(elements: int) -> None:
    inputs = [rows.requires_grad_() for rows in _rows(4, 4)]
    found = contrastive_gradients(*inputs, scale=SCALE, elements=elements)
    summed = len(inputs[0]) * ContrastiveLoss()(*inputs, SCALE)["contrastive"]
    torch.testing.assert_close(found, torch.autograd.grad(summed, inputs))


def test_the_gradient_term_is_the_mean_squared_error_of_both_modalities() -> None:
    """One pair has no gradient. Of two orthogonal pairs at scale 2 the student's own have (1 - p) (t_other - t_own)."""
    eye = torch.eye(2)
    terms = GradientDistillationLoss(teacher_scale=1e-6)(eye, eye, eye, eye, torch.tensor(2.0))
    p = 1 / (1 + math.exp(-2))
    # s / 2 for each of two directions, in each of two modalities.
    assert math.isclose(terms["relation_gradient"].item(), 2 * (2 * (1 - p)) ** 2, rel_tol=1e-4)
    one = eye[:1]
    assert GradientDistillationLoss(teacher_scale=5.0)(one, one, one, one, torch.tensor(2.0))["relation_gradient"] == 0


@pytest.mark.parametrize("loss", [RelationDivergenceLoss, GradientDistillationLoss])
def test_gradients_are_those_of_finite_differences(loss: type[torch.nn.Module]) -> None:
    image, text, *teacher = (rows[:3] for rows in _rows(4, 4, 4, 4))
    inputs = [value.clone().requires_grad_() for value in (image, text, SCALE)]
    for elements in (3, 100):
        term = loss(teacher_scale=5.0, elements=elements)
        assert torch.autograd.gradcheck(lambda v, t, s, term=term: tuple(term(v, t, *teacher, s).values()), inputs)


@pytest.mark.parametrize("loss", [RelationDivergenceLoss, GradientDistillationLoss])
def test_no_matrix_of_all_similarities_is_held(loss: type[torch.nn.Module]) -> None:
    rows = F.normalize(torch.randn(512, 4), dim=-1).requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        terms = loss(teacher_scale=5.0, elements=1 << 12)(rows, rows, rows.detach(), rows.detach(), torch.tensor(10.0))
        sum(terms.values()).backward()
    assert max(sizes) <= max(512 * 4, 1 << 12)
