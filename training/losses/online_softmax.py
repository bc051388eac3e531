"""Softmax over many keys without the matrix of all logits: memory grows with the rows, not with their square."""

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits held at one time: 64 MB in float32. Fewer, and matrix products become too small to be fast."""


def log_sum_exp_of_products(rows_ND: Tensor, keys_MD: Tensor, *, elements: int = CHUNK_ELEMENTS) -> Tensor:
    """``logsumexp(rows @ keys.T, dim=1)``, ``(N,)``, differentiable in both, ``elements`` logits at a time.

    The running maximum and sum are those of the online softmax (Milakov and Gimelshein, arXiv 1805.02867); the backward
    pass computes the logits again, one matrix product more than where they were kept.
    """
    chunk = max(elements // max(len(rows_ND), 1), 1)
    return torch.as_tensor(_LogSumExp.apply(rows_ND, keys_MD, chunk))


def divergence_of_products(
    rows_ND: Tensor,
    keys_MD: Tensor,
    target_rows_NE: Tensor,
    target_keys_ME: Tensor,
    *,
    elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """KL(softmax(target_rows @ target_keys.T) || softmax(rows @ keys.T)) of each row, ``(N,)``.

    Differentiable in ``rows`` and ``keys``; the others, which may have another width, are a target. ``elements`` logits
    of each are held at a time, and computed again in the backward pass.
    """
    chunk = max(elements // max(len(rows_ND), 1), 1)
    target = target_rows_NE.detach(), target_keys_ME.detach()
    return torch.as_tensor(_Divergence.apply(rows_ND, keys_MD, target, chunk))


class RunningSoftmax:
    """Maximum and sum of exponentials of rows whose logits arrive chunk by chunk.

    ``maximum``, ``total``: ``(N,)``.
    """

    def __init__(self, rows_ND: Tensor):
        self.maximum = rows_ND.new_full((len(rows_ND),), -torch.inf)
        self.total = rows_ND.new_zeros(len(rows_ND))

    def add(self, logits_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a chunk; it is overwritten. Returns ``exp(logits - maximum)`` and the factor by which sums with the
        former maximum shrink."""
        maximum = torch.maximum(self.maximum, logits_NC.amax(dim=1))
        shrink_N1 = (self.maximum - maximum).exp_()[:, None]
        self.maximum = maximum
        exponential_NC = logits_NC.sub_(maximum[:, None]).exp_()
        self.total.mul_(shrink_N1[:, 0]).add_(exponential_NC.sum(dim=1))
        return exponential_NC, shrink_N1

    def log_total(self) -> Tensor:
        """``(N,)``: the log-sum-exp of all logits so far."""
        return self.total.log() + self.maximum


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, keys_MD: Tensor, chunk: int) -> Tensor:
        running = RunningSoftmax(rows_ND)
        for keys_CD in keys_MD.split(chunk):
            running.add(rows_ND @ keys_CD.T)
        result_N = running.log_total()
        ctx.save_for_backward(rows_ND, keys_MD, result_N)
        ctx.chunk = chunk
        return result_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows_ND, keys_MD, result_N = ctx.saved_tensors
        wants_rows, wants_keys = ctx.needs_input_grad[:2]
        rows_gradient = torch.zeros_like(rows_ND) if wants_rows else None
        keys_gradient = torch.empty_like(keys_MD) if wants_keys else None
        for start in range(0, len(keys_MD), ctx.chunk):
            keys_CD = keys_MD[start : start + ctx.chunk]
            weight_NC = (rows_ND @ keys_CD.T).sub_(result_N[:, None]).exp_().mul_(gradients[0][:, None])
            if rows_gradient is not None:
                rows_gradient.addmm_(weight_NC, keys_CD)
            if keys_gradient is not None:
                torch.mm(weight_NC.T, rows_ND, out=keys_gradient[start : start + ctx.chunk])
        return rows_gradient, keys_gradient, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, keys_MD: Tensor, targets: tuple[Tensor, Tensor], chunk: int) -> Tensor:
        target_rows_NE, target_keys_ME = targets
        running, target, expected_N = RunningSoftmax(rows_ND), RunningSoftmax(rows_ND), torch.zeros_like(rows_ND[:, 0])
        for keys_CD, target_keys_CE in zip(keys_MD.split(chunk), target_keys_ME.split(chunk), strict=True):
            logits_NC, target_NC = rows_ND @ keys_CD.T, target_rows_NE @ target_keys_CE.T
            # The difference of logits, not of two large sums: it is exactly 0 where both agree.
            difference_NC = target_NC - logits_NC
            weight_NC, shrink_N1 = target.add(target_NC)
            expected_N.mul_(shrink_N1[:, 0]).add_(difference_NC.mul_(weight_NC).sum(dim=1))
            running.add(logits_NC)
        log_total_N, target_log_total_N = running.log_total(), target.log_total()
        ctx.save_for_backward(rows_ND, keys_MD, target_rows_NE, target_keys_ME, log_total_N, target_log_total_N)
        ctx.chunk = chunk
        return expected_N / target.total + (log_total_N - target_log_total_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_ND, keys_MD, target_rows_NE, target_keys_ME, log_total_N, target_log_total_N = ctx.saved_tensors
        rows_gradient, keys_gradient = torch.zeros_like(rows_ND), torch.empty_like(keys_MD)
        for start in range(0, len(keys_MD), ctx.chunk):
            here = slice(start, start + ctx.chunk)
            weight_NC = (rows_ND @ keys_MD[here].T).sub_(log_total_N[:, None]).exp_()
            weight_NC -= (target_rows_NE @ target_keys_ME[here].T).sub_(target_log_total_N[:, None]).exp_()
            weight_NC.mul_(gradients[0][:, None])
            rows_gradient.addmm_(weight_NC, keys_MD[here])
            torch.mm(weight_NC.T, rows_ND, out=keys_gradient[here])
        return rows_gradient, keys_gradient, None, None
