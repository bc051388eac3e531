"""Linear probe: multinomial logistic regression on frozen image features, its regularisation chosen on held-out rows.

The objective is scikit-learn's, ``C * sum(cross-entropy) + |W|^2 / 2`` with a free intercept, divided by ``C * N``.
Gradients are written out and summed over blocks of rows, so that memory does not grow with rows times classes.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.accuracy import classification_scores

log = logging.getLogger(__name__)

# Values of C to try: powers of ten around what CLIP features want.
SWEEP = (0.1, 1.0, 10.0, 100.0, 1_000.0)

_VALIDATION_SHARE = 0.2
_SWEEP_ITERATIONS, _FINAL_ITERATIONS = 30, 100
# Values in a row that are no better than the best so far, after which larger ones are not tried.
_PATIENCE = 2
# Largest element of the gradient of the mean objective; scikit-learn's default is 1e-4.
_SWEEP_TOLERANCE, _FINAL_TOLERANCE = 1e-5, 1e-6
_HISTORY = 10
# Features of which none differs from another are left as they are, and nothing can be learnable from them.
_MIN_SPREAD = 1e-6
_BLOCK_ROWS = 16_384


def fit_linear_probe(
    features: Tensor, labels: Tensor, *, classes: int, sweep: Sequence[float] = SWEEP, seed: int = 0
) -> tuple[Tensor, Tensor, float]:
    """Weights ``(K, D)``, intercepts ``(K,)`` and the ``C`` they were fitted with.

    ``features``: ``(N, D)``; ``labels``: ``(N,)`` int64 below ``classes``. ``C`` is the best of ``sweep`` by accuracy
    on about a fifth of each class's rows, the smallest of equals; the sweep ends early once larger values bring no
    more. Then all rows are fitted. If no class has two rows, nothing can be held out, and the middle of the sweep is
    taken with a warning. ``C`` applies to features scaled to a mean square distance of 1 from their mean, so that the
    sweep covers the same range for models whose features lie close together as for others.
    """
    spread = (features - features.mean(dim=0)).square().sum(dim=1).mean().sqrt().clamp(min=_MIN_SPREAD)
    weights, bias, c = _fit_scaled(features / spread, labels, classes=classes, sweep=sweep, seed=seed)
    return weights / spread, bias, c


def _fit_scaled(
    features: Tensor, labels: Tensor, *, classes: int, sweep: Sequence[float], seed: int
) -> tuple[Tensor, Tensor, float]:
    """The sweep and the fit of :func:`fit_linear_probe` on scaled features."""
    held_out = _held_out(labels, seed)
    if not held_out.any():
        c = sorted(sweep)[len(sweep) // 2]
        log.warning("linear probe: every class has one row, C=%g is taken unchecked", c)
        return *fit_logistic_regression(features, labels, classes=classes, c=c), c
    best, c, worse, start, chosen = -1.0, 0.0, 0, None, None
    for candidate in sorted(sweep):
        start = fit_logistic_regression(
            features[~held_out],
            labels[~held_out],
            classes=classes,
            c=candidate,
            iterations=_SWEEP_ITERATIONS,
            tolerance=_SWEEP_TOLERANCE,
            start=start,
        )
        score = classification_scores(features[held_out], labels[held_out], *start)["top1"]
        log.debug("linear probe: C=%g, held-out accuracy %.4f", candidate, score)
        if score > best:
            best, c, worse, chosen = score, candidate, 0, start
        else:
            worse += 1
        if worse == _PATIENCE:
            break
    weights, bias = fit_logistic_regression(features, labels, classes=classes, c=c, start=chosen)
    return weights, bias, c


def fit_logistic_regression(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    c: float,
    iterations: int = _FINAL_ITERATIONS,
    tolerance: float = _FINAL_TOLERANCE,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS, in the precision and on the device of the features.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` int64, below ``classes``.
        classes: K.
        c: scikit-learn's ``C``, the inverse of the regularization.
        iterations: L-BFGS iterations at most.
        tolerance: largest entry of the gradient at which it ends.
        start: weights and intercepts to begin from, such as those of a nearby C.

    Returns:
        Weights ``(K, D)`` and intercepts ``(K,)``.
    """
    # Centered features leave the weights as they are and only move the intercepts, and are far better conditioned.
    mean_D = features.mean(dim=0)
    rows_ND = features - mean_D
    weights, bias = start or (features.new_zeros(classes, features.shape[1]), features.new_zeros(classes))
    weights = weights.clone().requires_grad_()
    bias = (bias + weights.detach() @ mean_D).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights, bias],
        max_iter=iterations,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )
    decay = 1 / (c * len(features))

    def objective() -> Tensor:
        value, weights.grad, bias.grad = _objective(rows_ND, labels, weights.detach(), bias.detach(), decay)
        return value

    optimizer.step(objective)
    weights, bias = weights.detach(), bias.detach()
    return weights, bias - weights @ mean_D


def _objective(
    features: Tensor, labels: Tensor, weights: Tensor, bias: Tensor, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy plus ``decay * |W|^2 / 2``, and its gradients by ``weights`` and ``bias``."""
    value = decay / 2 * weights.square().sum()
    weights_grad, bias_grad = decay * weights, torch.zeros_like(bias)
    for rows, wanted in zip(features.split(_BLOCK_ROWS), labels.split(_BLOCK_ROWS)):
        log_probability_BK = F.log_softmax(torch.addmm(bias, rows, weights.T), dim=1)
        value -= log_probability_BK.gather(1, wanted[:, None]).sum() / len(features)
        # d/dlogits of the cross-entropy: probability minus one-hot label.
        residual_BK = log_probability_BK.exp_()
        residual_BK.scatter_add_(1, wanted[:, None], residual_BK.new_full((len(wanted), 1), -1.0))
        weights_grad.addmm_(residual_BK.T, rows, alpha=1 / len(features))
        bias_grad += residual_BK.sum(dim=0) / len(features)
    return value, weights_grad, bias_grad


def _held_out(labels: Tensor, seed: int) -> Tensor:
    """``(N,)`` bool: a random fifth of every class, at least one row of each class that has two."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    # A stable sort by class after the shuffle: each class's rows lie together, in random order.
    order = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    place = torch.arange(len(labels), device=labels.device) - (sizes.cumsum(0) - sizes)[labels[order]]
    quota = (sizes * _VALIDATION_SHARE).long().clamp(min=1) * (sizes > 1)
    mask = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    mask[order] = place < quota[labels[order]]
    return mask
