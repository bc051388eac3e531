"""Work through shards: in this process, in local worker processes, or on a Ray cluster. One config field picks it."""

import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnContext
from typing import Any, TypeVar

from pipeline.compute.config import ComputeConfig
from pipeline.core.devices import VISIBLE, visible_gpus
from pipeline.core.openmp import limit_spinning
from pipeline.core.processes import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@contextlib.contextmanager
def map_shards(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    config: ComputeConfig,
    *,
    keeps_state: bool = False,
    device: str = "auto",
) -> Iterator[Iterator[Result]]:
    """Apply a picklable ``function`` to every item; results come in the order in which they are finished.

    An error in one item is raised as it is; items not started by then are dropped, and workers end with the block.
    ``keeps_state``: the function keeps something costly in its process, a model for example, so processes must last.
    ``device``: torch's name of what the function computes on. For ``auto`` and ``cuda`` each worker process sees one
    GPU of its own, and there are no more workers than GPUs, if there are any; another device is the caller's to share.
    On Ray, items of a node or worker that was lost are run again on another.
    """
    if config.engine == "inline" or not items:
        yield map(function, items)
    elif config.engine == "processes":
        pool = _pool(config.workers, visible_gpus() if device in ("auto", "cuda") else [])
        try:
            futures = [pool.submit(function, item) for item in items]
            yield (future.result() for future in concurrent.futures.as_completed(futures))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    else:
        from pipeline.compute.ray_cluster import connected, run_actors, run_tasks

        with connected(config) as ray:
            yield (run_actors if keeps_state else run_tasks)(ray, function, items, config)


def _pool(workers: int, gpus: Sequence[str]) -> concurrent.futures.ProcessPoolExecutor:
    """Worker processes, one a GPU where there are any."""
    # Spawned, not forked: torch and DuckDB hold threads, which a fork would leave in a broken state.
    context = multiprocessing.get_context("spawn")
    # Here, for them to inherit: a worker may import torch with the caller's script, before anything of ours runs in it.
    limit_spinning()
    if 0 < len(gpus) < workers:
        there_are = "there is 1 GPU" if len(gpus) == 1 else f"there are {len(gpus)} GPUs"
        log.warning(
            f"compute.workers is {workers}, but {there_are}: one worker is started for each, since workers that share "
            "a GPU would each want most of its memory"
        )
        workers = len(gpus)
    return concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(_waiting(context, gpus[:workers]),)
    )


def _waiting(context: SpawnContext, gpus: Sequence[str]) -> Any:
    """A queue from which each worker takes its GPU; none if there is nothing to take."""
    if not gpus:
        return None
    queue = context.SimpleQueue()
    for gpu in gpus:
        queue.put(gpu)
    return queue


def _begin(gpus: Any) -> None:
    """What a worker does first. CUDA looks at the variable once, when it is first used."""
    die_with_parent()
    if gpus is not None:
        os.environ[VISIBLE] = gpus.get()
