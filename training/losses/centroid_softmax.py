"""Softmax over centroids that may be many, sampled, and divided between ranks; no logit is kept.

One pass over chunks of centroids gives all that both terms of the cluster loss and their gradients need, since the
gradient of a log-sum-exp is the softmax-weighted mean of the centroids, as in the output of attention:
d/dx log sum_k exp(x c_k) = sum_k softmax_k c_k. That mean is accumulated beside the sums, by the online softmax of
``chunked.py``. Divided centroids cost three reductions of per-row values (maximum, sums of exponentials, and the row
of the label, which gives the target logit), and none in the backward pass.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from training.losses.centroids import Centroids
from training.losses.gather import all_rows, row_offset, sum_own_rows, world_size
from training.losses.online_softmax import CHUNK_ELEMENTS, RunningSoftmax
from training.losses.precision import add_weighted, product


class SoftmaxRows(NamedTuple):
    """Per row: ``student = logsumexp(x C)``; ``target``: the logit of its label; ``teacher``: what, with ``student``
    added, is KL(softmax(y C) || softmax(x C)). Zero where not asked for."""

    student: Tensor
    target: Tensor
    teacher: Tensor


def softmax_over_centroids(
    student_BD: Tensor,
    teacher_BD: Tensor | None,
    labels_B: Tensor | None,
    centroids: Centroids,
    *,
    chosen: Tensor | None = None,
    divided: bool = False,
    float16: bool | None = None,
    elements: int = CHUNK_ELEMENTS,
) -> SoftmaxRows:
    """Softmax statistics of this rank's rows, differentiable in ``student_BD`` and in learnable centroids.

    Args:
        student_BD: ``(B, D)`` rows over their temperature.
        teacher_BD: the same of the teacher, a target without gradient; none where only labels are asked for.
        labels_B: ``(B,)`` cluster ids; none where only the teacher is asked for.
        centroids: all of them, or this rank's part.
        chosen: positions in ``centroids`` that take part; none means all.
        divided: every rank holds other centroids, so rows go to all of them.
        float16: whether products with fixed centroids have float16 factors (``precision.py`` has the bounds); none
            means on a GPU.
        elements: logits that are held at a time.

    Returns:
        ``(B,)`` each, from which the losses are made.
    """
    divided = divided and world_size() > 1
    rows = student_BD.detach()
    all_GD = all_rows(rows) if divided else rows
    teacher_GD = None if teacher_BD is None else all_rows(teacher_BD.detach()) if divided else teacher_BD.detach()
    labels_G = None if labels_B is None else all_rows(labels_B) if divided else labels_B
    narrow = rows.is_cuda if float16 is None else float16
    dtype = torch.float16 if narrow and rows.dtype == torch.float32 and not centroids.learnable else rows.dtype
    chunk = max(elements // max(len(all_GD), 1), 1)
    call = _Call(all_GD, teacher_GD, labels_G, centroids, chosen, divided, dtype, chunk)
    return SoftmaxRows(*_CentroidSoftmax.apply(student_BD, centroids.weight, call))


class _Call(NamedTuple):
    """Inputs that no gradient flows to, with the rows of every rank if centroids are divided. ``dtype``: of the factors
    of products."""

    student_GD: Tensor
    teacher_GD: Tensor | None
    labels_G: Tensor | None
    centroids: Centroids
    chosen: Tensor | None
    divided: bool
    dtype: torch.dtype
    chunk: int


class _Sums:
    """What one pass over this rank's centroids leaves of one distribution."""

    def __init__(self, rows_GD: Tensor):
        self.running = RunningSoftmax(rows_GD)
        self.mean_GD = torch.zeros_like(rows_GD)
        self.difference_G = rows_GD.new_zeros(len(rows_GD))

    def add(self, logits_GC: Tensor, centroids_CD: Tensor, difference_GC: Tensor | None = None) -> None:
        weight_GC, shrink_G1 = self.running.add(logits_GC)
        add_weighted(self.mean_GD.mul_(shrink_G1), weight_GC, centroids_CD)
        if difference_GC is not None:
            self.difference_G.mul_(shrink_G1[:, 0]).add_(difference_GC.mul_(weight_GC).sum(dim=1))

    def rescale(self, maximum_G: Tensor) -> None:
        """Refer everything to the maximum over all ranks."""
        factor_G = (self.running.maximum - maximum_G).exp_()
        self.running.maximum = maximum_G
        self.running.total.mul_(factor_G)
        self.difference_G.mul_(factor_G)
        self.mean_GD.mul_(factor_G[:, None])


def _pass_over_centroids(call: _Call) -> list[_Sums]:
    """The student's sums and, where there is a teacher, the teacher's."""
    sums = [_Sums(rows_GD) for rows_GD in (call.student_GD, call.teacher_GD) if rows_GD is not None]
    student_GD = call.student_GD.to(call.dtype)
    teacher_GD = None if call.teacher_GD is None else call.teacher_GD.to(call.dtype)
    for _, centroids_CD in call.centroids.chunks(call.chosen, call.chunk, call.dtype):
        logits_GC = product(student_GD, centroids_CD.T)
        if teacher_GD is not None:
            teacher_GC = product(teacher_GD, centroids_CD.T)
            # The difference of logits, not of two large sums: it is exactly 0 where student and teacher agree.
            sums[1].add(teacher_GC, centroids_CD, difference_GC=teacher_GC - logits_GC)
        sums[0].add(logits_GC, centroids_CD)
    return sums


def _label_rows(call: _Call) -> Tensor:
    """``(G, D)``: each row's own centroid, zero where another rank holds it."""
    if call.labels_G is None or not len(call.centroids):
        return torch.zeros_like(call.student_GD)
    positions = call.labels_G - call.centroids.start
    nearest = positions.clamp(0, len(call.centroids) - 1)
    # Not by a mask as index, for whose size the host would wait.
    return call.centroids.unit(nearest, call.student_GD.dtype).mul_((nearest == positions)[:, None])


def _reduce(call: _Call, sums: list[_Sums], label_GD: Tensor) -> Tensor:
    """Combine the sums of all ranks in place; returns the means and the label rows of this rank's own rows."""
    if not call.divided:
        return torch.stack([*(part.mean_GD for part in sums), label_GD])
    maxima = torch.stack([part.running.maximum for part in sums])
    dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    for part, maximum_G in zip(sums, maxima):
        part.rescale(maximum_G)
    totals = torch.stack([value for part in sums for value in (part.running.total, part.difference_G)])
    dist.all_reduce(totals)
    for part, total_G, difference_G in zip(sums, totals[::2], totals[1::2]):
        part.running.total, part.difference_G = total_G, difference_G
    return torch.stack([sum_own_rows(rows_GD) for rows_GD in (*(part.mean_GD for part in sums), label_GD)])


class _CentroidSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_BD: Tensor, weight: Tensor, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
        sums = _pass_over_centroids(call)
        rows_PBD = _reduce(call, sums, _label_rows(call))
        first = row_offset(len(student_BD)) if call.divided else 0
        own = slice(first, first + len(student_BD))
        for mean_BD, part in zip(rows_PBD, sums):
            mean_BD.div_(part.running.total[own, None])
        ctx.save_for_backward(rows_PBD)
        ctx.call, ctx.log_totals = call, [part.running.log_total() for part in sums]
        student_B = ctx.log_totals[0][own].clone()
        target_B = (student_BD * rows_PBD[-1]).sum(dim=1)
        if call.teacher_GD is None:
            return student_B, target_B, torch.zeros_like(student_B)
        expected_B = sums[1].difference_G[own] / sums[1].running.total[own]
        return student_B, target_B, expected_B - ctx.log_totals[1][own]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (rows_PBD,) = ctx.saved_tensors
        student_B, target_B, teacher_B = gradients
        rows_gradient = student_B[:, None] * rows_PBD[0] + target_B[:, None] * rows_PBD[-1]
        if ctx.call.teacher_GD is not None:
            rows_gradient -= teacher_B[:, None] * rows_PBD[1]
        if not ctx.needs_input_grad[1]:
            return rows_gradient, None, None
        return rows_gradient, _centroid_gradient(ctx.call, ctx.log_totals, torch.stack(gradients, dim=1)), None


def _centroid_gradient(call: _Call, log_totals: list[Tensor], upstream_B3: Tensor) -> Tensor:
    """Sparse gradient of the learnable centroids that took part, through their normalization; logits come once more."""
    upstream_G3 = all_rows(upstream_B3) / world_size() if call.divided else upstream_B3
    student_G, target_G, teacher_G = upstream_G3.unbind(dim=1)
    rows_GD, centroids = call.student_GD, call.centroids
    pieces = [rows_GD.new_zeros((0, rows_GD.shape[1]))]
    for _, unit_CD in centroids.chunks(call.chosen, call.chunk, rows_GD.dtype):
        weight_GC = (rows_GD @ unit_CD.T).sub_(log_totals[0][:, None]).exp_().mul_(student_G[:, None])
        if call.teacher_GD is not None:
            # The teacher's softmax is a target: its own dependence on the centroids is left out.
            weight_GC -= (call.teacher_GD @ unit_CD.T).sub_(log_totals[1][:, None]).exp_().mul_(teacher_G[:, None])
        pieces.append(weight_GC.T @ rows_GD)
    gradient_SD = torch.cat(pieces)
    positions = torch.arange(len(centroids), device=rows_GD.device) if call.chosen is None else call.chosen
    if call.labels_G is not None:
        here_G, labels = centroids.own(call.labels_G)
        # Every label takes part, and positions are in ascending order.
        gradient_SD.index_add_(0, torch.searchsorted(positions, labels), (target_G[:, None] * rows_GD)[here_G])
    return centroids.sparse_gradient(positions, gradient_SD)
