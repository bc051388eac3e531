"""The symmetric cross-entropy against numbers worked out by hand."""

import math

import torch
import torch.nn.functional as F

from training.losses.contrastive import ContrastiveLoss
from training.losses.online_softmax import log_sum_exp_of_products


def test_two_orthogonal_pairs() -> None:
    """Logits are scale on the diagonal and 0 beside it, so each row costs log(1 + exp(-scale))."""
    features = torch.eye(2)
    terms = ContrastiveLoss()(features, features, torch.tensor(3.0))
    assert list(terms) == ["contrastive"]
    assert math.isclose(terms["contrastive"].item(), math.log(1 + math.exp(-3)), rel_tol=1e-6)


def test_both_directions_count() -> None:
    """Both captions equal the first image: rows i->t cost log 2 each, columns t->i log(1+e^-1) and log(1+e)."""
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    expected = (math.log(2) + (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2) / 2
    loss = ContrastiveLoss()(image, text, torch.tensor(1.0))["contrastive"]
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)


def test_half_precision_features_are_compared_in_float32() -> None:
    features = torch.eye(4, dtype=torch.bfloat16)
    assert ContrastiveLoss()(features, features, torch.tensor(100.0))["contrastive"].dtype == torch.float32


def test_gradients_are_those_of_finite_differences() -> None:
    """Chunk by chunk (4 logits at a time) and all at once."""
    torch.manual_seed(0)
    image, text = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for elements in (4, 100):
        loss = ContrastiveLoss(elements=elements)
        assert torch.autograd.gradcheck(lambda *inputs, loss=loss: loss(*inputs)["contrastive"], (image, text, scale))


def test_a_log_sum_exp_in_chunks_is_that_of_all_logits() -> None:
    torch.manual_seed(0)
    rows, keys = torch.randn(5, 3) * 30, torch.randn(11, 3)
    for elements in (1, 10, 23, 1000):
        torch.testing.assert_close(log_sum_exp_of_products(rows, keys, elements=elements), (rows @ keys.T).logsumexp(1))


def test_no_matrix_of_all_logits_is_held() -> None:
    """The tensors saved for the backward pass and the largest one made hold rows, not their square."""
    rows = F.normalize(torch.randn(512, 4), dim=-1).requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        ContrastiveLoss(elements=1 << 12)(rows, rows.detach(), torch.tensor(10.0))["contrastive"].backward()
    assert max(sizes) <= 512 * 4
