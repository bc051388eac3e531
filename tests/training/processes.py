"""Ranks of a test, in processes that do not each load torch and DeepSpeed anew."""

import gc
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch.multiprocessing as mp


def run_ranks(rank: Callable[..., None], runs: Sequence[Sequence[Any]], *, loaded: Sequence[str] = ()) -> None:
    """Like ``torch.multiprocessing.spawn`` for one run after another, each with ``(ranks, *arguments)`` for all ranks.

    They are forked from one process that has loaded what ``rank`` needs, with modules ``loaded`` that are imported
    later otherwise, and has done nothing with it yet.
    """
    mp.spawn(_fork, args=(rank, runs, loaded), nprocs=1)


def _fork(_: int, rank: Callable[..., None], runs: Sequence[Sequence[Any]], loaded: Sequence[str]) -> None:
    for name in loaded:
        importlib.import_module(name)
    # What is loaded stays, so nobody looks whether it may go.
    gc.freeze()
    for ranks, *arguments in runs:
        mp.start_processes(rank, args=(ranks, *arguments), nprocs=ranks, start_method="fork")
