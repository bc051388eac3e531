"""Batches of a rank, loaded ahead; which view of a sample each epoch shows."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import PipelineError
from training.data.batch import Batch
from training.data.dataset import TrainingSet
from training.data.order import SampleOrder


def batches(
    samples: TrainingSet, order: SampleOrder, *, start: int, stop: int, rank: int, ranks: int, workers: int
) -> Iterator[Batch]:
    """This rank's part of every global batch of some steps.

    Args:
        samples: the training set.
        order: which sample comes when.
        start: first step, counted from 0.
        stop: the step after the last.
        rank: this rank.
        ranks: all of them.
        workers: processes that load; 0 means this one.

    Yields:
        A batch a step.
    """
    loader = torch.utils.data.DataLoader(
        _Steps(samples, order, rank=rank, ranks=ranks),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        # Not every tokenizer can be pickled, so workers are forked. They only read and decode: who was forked from a
        # process with a GPU must not touch it. What they send is pinned here.
        multiprocessing_context="fork" if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    # Started here, so that processes are at work before the first batch is asked for.
    return _raised(iter(loader))


def held_out_batches(samples: TrainingSet, *, batch_size: int, seed: int, rank: int, ranks: int) -> Iterator[Batch]:
    """This rank's part of the whole batches of a held-out set, always in one order, samples as in a first epoch."""
    places = np.array([(shard, row) for shard, rows in enumerate(samples.shard_rows) for row in range(rows)])
    places = np.random.default_rng(seed).permutation(places)
    size = batch_size // ranks
    for start in range(0, len(places) - batch_size + 1, batch_size):
        part = places[start + rank * size :][:size]
        yield collate(samples.samples([(int(shard), int(row), 0) for shard, row in part]))


def _raised(loaded: Iterable[Batch | PipelineError]) -> Iterator[Batch]:
    for batch in loaded:
        if isinstance(batch, PipelineError):
            raise batch
        yield batch


class _Steps(torch.utils.data.Dataset[Batch | PipelineError]):
    """A data set whose items are the batches of this rank, or the error in the place of one.

    An error that a process of the loader raised would come as another, of the same type but with a stack for a text.
    """

    def __init__(self, samples: TrainingSet, order: SampleOrder, *, rank: int, ranks: int):
        self._samples, self._order, self._rank, self._ranks = samples, order, rank, ranks

    def __getitem__(self, step: int) -> Batch | PipelineError:
        try:
            return self._batch(step)
        except PipelineError as error:
            return error

    def _batch(self, step: int) -> Batch:
        part = self._order.part(step, rank=self._rank, ranks=self._ranks)
        # By shard, so that reads are local; the order within a batch means nothing to any loss.
        places = [(int(shard), int(row)) for shard, row in part[np.lexsort(part.T[::-1])]]
        epoch, views = step // self._order.steps_per_epoch, self._samples.views
        viewed = [(*place, view_of(*place, epoch, views)) for place in places]
        return collate(self._samples.samples(viewed, epoch=epoch))


def view_of(shard: int, row: int, epoch: int, views: int) -> int:
    """The view of a sample in an epoch: each in turn, so that ``views`` epochs see all, and a batch sees all kinds."""
    return (shard + row + epoch) % views


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Stack decoded samples; embeddings become float32, pixels stay as they are."""
    stacked: dict[str, Tensor] = {
        str(name): torch.stack([sample[name] for sample in samples]).float()
        for name in ("teacher_image", "teacher_text")
        if name in samples[0]
    }
    if "cluster_id" in samples[0]:
        stacked["cluster_ids"] = torch.tensor([sample["cluster_id"] for sample in samples])
    return Batch(
        image_ids=[sample["image_id"] for sample in samples],
        image=torch.stack([sample["pixels"] for sample in samples]),
        text=torch.stack([sample["text"] for sample in samples]),
        **stacked,
    )
