"""Softmax over centroids that may be many, sampled, and divided between ranks; no logit is kept.

One pass over chunks of centroids gives all that both terms of the cluster loss and their gradients need, since the
gradient of a log-sum-exp is the softmax-weighted mean of the centroids, as in the output of attention:
d/dx log sum_k exp(x c_k) = sum_k softmax_k c_k. That mean is accumulated beside the sums, by the online softmax of
``online_softmax.py``. Divided centroids cost three reductions of per-row values (maximum, sums of exponentials, and the
rows of the labels, which give the target logits), and none in the backward pass.

Where a row has several labels the pass leaves them out: it gives the sum over the others, to which those of the labels
are added. To take them out of the sum over all would leave nothing but rounding where the labels are most of it.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from training.losses.centroids import Centroids
from training.losses.gather import all_rows, row_offset, sum_own_rows, world_size
from training.losses.online_softmax import CHUNK_ELEMENTS, RunningSoftmax
from training.losses.precision import add_weighted, factor_dtype, product

# In place of the logits of a row's labels where these are left out: finite, since no other may be there.
_LEFT_OUT = -1e30


class SoftmaxRows(NamedTuple):
    """Per row: ``student = logsumexp(x C)``; ``label``: the loss with its labels; ``teacher``: what, with ``student``
    added, is KL(softmax(y C) || softmax(x C)). Zero where not asked for."""

    student: Tensor
    label: Tensor
    teacher: Tensor


def softmax_over_centroids(
    student_BD: Tensor,
    teacher_BD: Tensor | None,
    labels: Tensor | None,
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
        labels: ``(B,)`` cluster ids, or ``(B, P)`` of which none stands twice in a row; none where only the teacher is
            asked for. With several the loss is log(1 + sum_n exp(s_n) sum_p exp(-s_p)) over logits s of labels p and
            all others n (MLCD, arXiv 2407.17331), which for one is the cross-entropy.
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
    labels_BP = torch.empty_like(rows[:, :0], dtype=torch.long) if labels is None else labels.reshape(len(rows), -1)
    labels_GP = all_rows(labels_BP) if divided and labels is not None else labels_BP
    dtype = factor_dtype(rows, learnable=centroids.learnable, float16=float16)
    chunk = max(elements // max(len(all_GD), 1), 1)
    call = _Call(all_GD, teacher_GD, labels_GP, centroids, chosen, divided, dtype, chunk)
    sum_B, target_BP, teacher_B = _CentroidSoftmax.apply(student_BD, centroids.weight, call)
    if not call.leaves_out:
        label_B = torch.zeros_like(sum_B) if labels is None else sum_B - target_BP[:, 0]
        return SoftmaxRows(sum_B, label_B, teacher_B)
    label_B = torch.logaddexp(torch.zeros_like(sum_B), sum_B + torch.logsumexp(-target_BP, dim=1))
    return SoftmaxRows(torch.logsumexp(torch.cat([sum_B[:, None], target_BP], dim=1), dim=1), label_B, teacher_B)


class _Call(NamedTuple):
    """Inputs that no gradient flows to, with the rows of every rank if centroids are divided; ``labels_GP``: ``P`` is 0
    where there are none. ``dtype``: of the factors of products."""

    student_GD: Tensor
    teacher_GD: Tensor | None
    labels_GP: Tensor
    centroids: Centroids
    chosen: Tensor | None
    divided: bool
    dtype: torch.dtype
    chunk: int

    @property
    def leaves_out(self) -> bool:
        """Whether the student's sum is that over all but a row's labels."""
        return self.labels_GP.shape[1] > 1

    def without_labels(self, logits_GC: Tensor, positions: Tensor | slice) -> Tensor:
        """The student's logits of a chunk, those of labels overwritten if they are left out."""
        if self.leaves_out:
            leave_out(logits_GC, self.labels_GP - self.centroids.start, positions, _LEFT_OUT)
        return logits_GC


def leave_out(logits_GC: Tensor, labels_GP: Tensor, positions: Tensor | slice, value: float) -> None:
    """Overwrite the logits at these ``labels``, which are positions in the centroids that are held, wherever they are
    among the columns' ``positions``; these ascend."""
    last = logits_GC.shape[1] - 1
    if isinstance(positions, slice):
        column_GP = labels_GP - positions.start
        nearest_GP = column_GP.clamp(0, last)
        there_GP = nearest_GP == column_GP
    else:
        nearest_GP = torch.searchsorted(positions, labels_GP.contiguous()).clamp_max(last)
        there_GP = positions[nearest_GP] == labels_GP
    # Not by a mask as index, for whose size the host would wait. What is not there changes nothing: the least stays.
    value_GP = torch.where(there_GP, value, torch.inf).to(logits_GC.dtype)
    logits_GC.scatter_reduce_(1, nearest_GP, value_GP, "amin")


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
    for positions, centroids_CD in call.centroids.chunks(call.chosen, call.chunk, call.dtype):
        logits_GC = product(student_GD, centroids_CD.T)
        if teacher_GD is not None:
            teacher_GC = product(teacher_GD, centroids_CD.T)
            # The difference of logits, not of two large sums: it is exactly 0 where student and teacher agree.
            sums[1].add(teacher_GC, centroids_CD, difference_GC=teacher_GC - logits_GC)
        sums[0].add(call.without_labels(logits_GC, positions), centroids_CD)
    return sums


def _label_rows(call: _Call) -> list[Tensor]:
    """``(G, D)`` for each label: its centroid, zero where another rank holds it."""
    if not len(call.centroids):
        return [torch.zeros_like(call.student_GD) for _ in range(call.labels_GP.shape[1])]
    positions_GP = call.labels_GP - call.centroids.start
    nearest_GP = positions_GP.clamp(0, len(call.centroids) - 1)
    # Not by a mask as index, for whose size the host would wait.
    return [
        call.centroids.unit(nearest_G, call.student_GD.dtype).mul_(here_G[:, None])
        for nearest_G, here_G in zip(nearest_GP.T, (nearest_GP == positions_GP).T)
    ]


def _reduce(call: _Call, sums: list[_Sums], labels: list[Tensor]) -> Tensor:
    """Combine the sums of all ranks in place; returns the means and the label rows of this rank's own rows."""
    if not call.divided:
        return torch.stack([*(part.mean_GD for part in sums), *labels])
    maxima = torch.stack([part.running.maximum for part in sums])
    dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    for part, maximum_G in zip(sums, maxima):
        part.rescale(maximum_G)
    totals = torch.stack([value for part in sums for value in (part.running.total, part.difference_G)])
    dist.all_reduce(totals)
    for part, total_G, difference_G in zip(sums, totals[::2], totals[1::2]):
        part.running.total, part.difference_G = total_G, difference_G
    return torch.stack([sum_own_rows(rows_GD) for rows_GD in (*(part.mean_GD for part in sums), *labels)])


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
        sum_B = ctx.log_totals[0][own].clone()
        target_BP = torch.einsum("bd,pbd->bp", student_BD, rows_PBD[len(sums) :])
        if call.teacher_GD is None:
            return sum_B, target_BP, torch.zeros_like(sum_B)
        expected_B = sums[1].difference_G[own] / sums[1].running.total[own]
        return sum_B, target_BP, expected_B - ctx.log_totals[1][own]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (rows_PBD,) = ctx.saved_tensors
        sum_B, target_BP, teacher_B = gradients
        rows_gradient = sum_B[:, None] * rows_PBD[0]
        rows_gradient += torch.einsum("bp,pbd->bd", target_BP, rows_PBD[len(ctx.log_totals) :])
        if ctx.call.teacher_GD is not None:
            rows_gradient -= teacher_B[:, None] * rows_PBD[1]
        if not ctx.needs_input_grad[1]:
            return rows_gradient, None, None
        upstream = torch.cat([sum_B[:, None], teacher_B[:, None], target_BP], dim=1)
        return rows_gradient, _centroid_gradient(ctx.call, ctx.log_totals, upstream), None


def _centroid_gradient(call: _Call, log_totals: list[Tensor], upstream: Tensor) -> Tensor:
    """Sparse gradient of the learnable centroids that took part, through their normalization; logits come once more."""
    upstream = all_rows(upstream) / world_size() if call.divided else upstream
    sum_G, teacher_G, target_GP = upstream[:, 0], upstream[:, 1], upstream[:, 2:]
    rows_GD, centroids = call.student_GD, call.centroids
    pieces = [rows_GD.new_zeros((0, rows_GD.shape[1]))]
    for part, unit_CD in centroids.chunks(call.chosen, call.chunk, rows_GD.dtype):
        logits_GC = call.without_labels(rows_GD @ unit_CD.T, part)
        weight_GC = logits_GC.sub_(log_totals[0][:, None]).exp_().mul_(sum_G[:, None])
        if call.teacher_GD is not None:
            # The teacher's softmax is a target: its own dependence on the centroids is left out.
            weight_GC -= (call.teacher_GD @ unit_CD.T).sub_(log_totals[1][:, None]).exp_().mul_(teacher_G[:, None])
        pieces.append(weight_GC.T @ rows_GD)
    gradient_SD = torch.cat(pieces)
    positions = torch.arange(len(centroids), device=rows_GD.device) if call.chosen is None else call.chosen
    for labels_G, target_G in zip(call.labels_GP.T, target_GP.T):
        here_G, own = centroids.own(labels_G)
        # Every label takes part, and positions are in ascending order.
        gradient_SD.index_add_(0, torch.searchsorted(positions, own), (target_G[:, None] * rows_GD)[here_G])
    return centroids.sparse_gradient(positions, gradient_SD)
